"""Field-wise majority against shapely's answer for each pixel centre, for any tiling."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import rasterio.features
import shapely
from affine import Affine

from engine.refine.parcel_file import ParcelFile
from engine.refine.parcels import Fields, Parcels, ParcelsConfig, Rule, decided
from engine.values.errors import InputError
from engine.values.grid import Box
from tests.refine.tilings import AROUND, GRID, assert_untiled, layers_of, patchy, source_of

LABEL = patchy(11, (60, 64), gaps=0.15)
_, BOX = source_of({"label": LABEL})
LEFT, BOTTOM, RIGHT, TOP = GRID.bounds_of_box(BOX)
FEWER = ((64, 64), (25, 25), (60, 13), (20, 64), (32, 20), (17, 33))
X, Y = np.meshgrid(*GRID.centres(BOX)[::-1])


def fields(seed=0, n=40):
    """Return odd polygons of all sizes, some over the edge, with holes and in parts; they overlap."""
    rng = np.random.default_rng(seed)
    middles = rng.uniform((LEFT - 30, BOTTOM - 30), (RIGHT + 30, TOP + 30), (n, 2))
    shapes = []
    for k, middle in enumerate(middles):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
        radii = rng.uniform(8, 160 if k % 8 == 0 else 45, 9)
        ring = middle + np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None]
        shape = shapely.Polygon(ring).buffer(0)
        if k % 5 == 0:
            shape = shape.difference(shapely.Point(middle).buffer(13))
        if k % 7 == 0:
            shape = shape.union(shapely.Point(middle + 90).buffer(17))
        shapes.append(shape)
    return [s for s in shapes if not s.is_empty]


def write(path, shapes, crs=GRID.crs):
    gpd.GeoDataFrame({"n": range(len(shapes))}, geometry=list(shapes), crs=GRID.crs).to_crs(crs).to_file(path)
    return path


def expected(label, shapes, share=0.0, least_px=1, overlap="smallest", fill=False, keep=()):
    """Decide parcel by parcel with one mask of centres each."""
    masks = [shapely.contains_xy(s, X, Y) for s in shapes]
    rank = sorted(
        range(len(shapes)), key=lambda i: (shapes[i].area if overlap != "largest" else -shapes[i].area, i)
    )
    out, claims = label.copy(), np.sum(masks, 0)
    taken = np.zeros(label.shape, bool)
    for i in rank:
        counts = np.bincount(label[masks[i]], minlength=6)
        counts[0] = 0
        sure = counts.sum() >= least_px and counts.max() >= share * counts.sum()
        here = masks[i] & ~taken & ~np.isin(label, keep)
        here &= (label != 0) | fill
        here &= (claims == 1) | (overlap != "leave")
        if sure:
            out[here] = counts.argmax()
        taken |= masks[i]
    return out


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"overlap": "largest", "share": 0.4},
        {"overlap": "leave", "least_px": 30, "keep": ("water",)},
        {"fill": True, "share": 0.4},
    ],
    ids=["plain", "largest", "leave", "fill"],
)
def test_each_parcel_takes_what_most_of_its_pixels_have(rule, tmp_path) -> None:
    shapes = fields()
    file = write(tmp_path / "fields.gpkg", shapes)
    layers = layers_of(LABEL)
    tilings = FEWER[:3] if rule else FEWER  # each tile reads the file
    out = assert_untiled(ParcelsConfig(file=file, **rule).made(AROUND), layers, tilings)
    wanted = expected(LABEL, shapes, **{**rule, "keep": (1,) if "keep" in rule else ()})
    np.testing.assert_array_equal(out["label"], wanted)
    assert (wanted != LABEL).sum() > 100
    filled = (LABEL == 0) & (wanted != 0)
    assert filled.any() == ("fill" in rule)
    np.testing.assert_array_equal(out["confidence"], np.where(filled, 0, layers["confidence"]))


def test_neighbours_share_the_centres_on_their_line() -> None:
    """Parcels whose corners and edges lie on pixel centres cover each centre once."""
    cols, rows = np.meshgrid(np.arange(0, 25, 6) + 0.5, np.arange(0, 25, 6) + 0.5)
    rng = np.random.default_rng(3)
    inner = (slice(1, -1), slice(1, -1))
    cols[inner] += rng.integers(-2, 3, cols[inner].shape)
    rows[inner] += rng.integers(-2, 3, rows[inner].shape)
    xy = np.stack([BOX.x0 * 10 + cols * 10, -(BOX.y0 * 10 + rows * 10)], -1)
    corners = np.stack([xy[:-1, :-1], xy[1:, :-1], xy[1:, 1:], xy[:-1, 1:]], 2).reshape(-1, 4, 2)
    whole = Box(BOX.y0, BOX.x0, BOX.y0 + 30, BOX.x0 + 30)
    counts = np.zeros(whole.shape_yx, int)
    for k, ring in enumerate(corners):
        counts += covered(shapely.Polygon(ring[::-1] if k % 2 else np.roll(ring, k, 0)), whole)
    np.testing.assert_array_equal(counts[:24, :24], 1)
    assert counts.sum() == 24 * 24


def covered(shape, box):
    """Return the pixels of a parcel: those without data that it fills from the others, twice in turn."""
    one, found = Fields.make(np.array([shape]), GRID), np.zeros(box.shape_yx, bool)
    odd = np.add.outer(*(np.arange(n) for n in one.reach(box).shape_yx)) % 2
    for label in (odd, 1 - odd):
        filled = decided(label.astype(np.uint8), one, box, Rule(fill=True))
        found |= (filled == 1) & (label[box.slices_in(one.reach(box))] == 0)
    return found


def test_centres_are_burnt_as_rasterio_burns_them(tmp_path) -> None:
    numbers, shapes = ParcelFile(write(tmp_path / "fields.gpkg", fields(5))).near(GRID, BOX)
    assert (np.diff(numbers) > 0).all()
    transform = Affine(*GRID.transform_of(BOX))
    for shape in shapes:
        if shape.intersects(shapely.box(LEFT, BOTTOM, RIGHT, TOP)):
            theirs = rasterio.features.rasterize([shape], BOX.shape_yx, transform=transform)
            np.testing.assert_array_equal(covered(shape, BOX), theirs == 1)


def test_files_of_other_kinds_and_crs_say_the_same(tmp_path) -> None:
    shapes = fields(6)
    plain = write(tmp_path / "a.gpkg", shapes)
    degrees = write(tmp_path / "b.gpkg", shapes, "EPSG:4326")
    text = write(tmp_path / "c.geojson", shapes, "EPSG:4326")
    table = tmp_path / "d.parquet"
    gpd.read_file(plain).to_parquet(table)
    answers = {}
    for path in (plain, degrees, text, table):
        step = ParcelsConfig(file=path).made(AROUND)
        source, box = source_of({"label": LABEL})
        answers[path.name] = step.apply(source, box)["label"]
    for name in ("c.geojson", "d.parquet"):
        other = "b.gpkg" if name == "c.geojson" else "a.gpkg"
        np.testing.assert_array_equal(answers[name], answers[other])
    # There and back again moves vertices by less than a millimetre: hardly a centre changes sides.
    assert (answers["a.gpkg"] != answers["b.gpkg"]).mean() < 0.01


def test_too_large_parcels_are_refused_or_left(tmp_path) -> None:
    small = shapely.box(LEFT + 41, TOP - 149, LEFT + 149, TOP - 41)
    large = shapely.box(LEFT + 1, BOTTOM + 1, RIGHT - 1, BOTTOM + 99)
    for crs in ("EPSG:4326", GRID.crs):
        file = write(tmp_path / "fields.gpkg", [small, large], crs)
        with pytest.raises(InputError, match=r"feature 2.*at most 200 m, 20 px.*raise largest_m"):
            ParcelsConfig(file=file, largest_m=200).made(AROUND)
    step = ParcelsConfig(file=file, largest_m=200, larger="leave").made(AROUND)
    assert step.reach_px == 21
    out = assert_untiled(step, {"label": LABEL}, FEWER[:3])["label"]
    np.testing.assert_array_equal(out, expected(LABEL, [small]))


@pytest.mark.parametrize("crs", [GRID.crs, "EPSG:4326"])
def test_only_parcels_near_a_tile_are_read(crs, tmp_path, monkeypatch) -> None:
    import pyogrio

    centres = np.stack(np.meshgrid(np.arange(30), np.arange(30)), -1).reshape(-1, 2) * [200, -200] + [
        LEFT,
        TOP,
    ]
    file = write(tmp_path / "fields.gpkg", shapely.buffer(shapely.points(centres), 60), crs)
    read, seen = pyogrio.raw.read, []

    def counted(*args, **kwargs):
        answer = read(*args, **kwargs)
        seen.append(len(answer[1]))
        return answer

    monkeypatch.setattr(pyogrio.raw, "read", counted)
    tile = Box(BOX.y0 + 200, BOX.x0 + 200, BOX.y0 + 250, BOX.x0 + 250)
    numbers, shapes = ParcelFile(file).near(GRID, tile)
    outline = shapely.box(*GRID.bounds_of_box(tile))
    wanted = [k for k, c in enumerate(centres, 1) if shapely.Point(c).buffer(60).intersects(outline)]
    assert set(wanted) <= set(numbers.tolist())
    assert len(shapes) <= len(wanted) + 4  # and those that nearly touch it
    assert 0 < sum(seen) <= 4 * len(wanted) < len(centres) / 10


def test_a_file_that_is_none_is_told_before_the_first_tile(tmp_path) -> None:
    points = tmp_path / "points.gpkg"
    gpd.GeoDataFrame(geometry=[shapely.Point(0, 0)], crs=4326).to_file(points)
    text = tmp_path / "text.gpkg"
    text.write_text("no geopackage")
    for path, message in (
        (tmp_path / "none.gpkg", "no such file"),
        (points, "no polygons"),
        (text, "cannot read the parcels"),
    ):
        for larger in ("refuse", "leave"):
            with pytest.raises(InputError, match=message):
                ParcelsConfig(file=path, larger=larger).made(AROUND)


def test_only_features_that_are_asked_for_count(tmp_path) -> None:
    shapes = fields(7)
    file = write(tmp_path / "fields.gpkg", shapes)
    step = ParcelsConfig(file=file, where="n < 5").made(AROUND)
    source, box = source_of({"label": LABEL})
    np.testing.assert_array_equal(step.apply(source, box)["label"], expected(LABEL, shapes[:5]))
    assert isinstance(step, Parcels)


def test_the_fingerprint_is_that_of_what_the_file_holds(tmp_path) -> None:
    file = write(tmp_path / "fields.gpkg", fields(8))
    copy = tmp_path / "copy.gpkg"
    copy.write_bytes(file.read_bytes())
    first = ParcelsConfig(file=file).fingerprint()
    assert ParcelsConfig(file=copy).fingerprint() == first
    assert ParcelsConfig(file=file, share=0.5).fingerprint() != first
    write(file, fields(9))
    assert ParcelsConfig(file=file).fingerprint() != first
