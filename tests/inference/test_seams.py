from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from engine.inference.seam_sums import Measure, Pieces, line_sums
from engine.inference.seams import Limits, SeamReport, SeamSums, map_seams, seam_lines
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from tests.products.mapstore import patches, write_map

LATTICE = Lattice(256, 96)
THRESHOLDS = [0.3, 0.45, 0.6]


def judged(
    layers: dict[str, np.ndarray],
    lattices: Lattice | tuple[Lattice, ...],
    tile_px: int,
    origin_yx: tuple[int, int] = (0, 0),
    limits: Limits | None = None,
) -> SeamReport:
    height, width = next(iter(layers.values())).shape[-2:]
    box = Box(origin_yx[0], origin_yx[1], origin_yx[0] + height, origin_yx[1] + width)
    sums = SeamSums(box, tile_px)
    sums.add(box, layers)
    return sums.report(lattices, limits)


def at_phases(layers: dict[str, np.ndarray], n: int, lattice: Lattice, tile_px: int) -> list[SeamReport]:
    """Judge one map as if it stood at n random places of the grid."""
    places = np.random.default_rng(5).integers(0, 4096, (n, 2))
    return [judged(layers, lattice, tile_px, (int(y), int(x))) for y, x in places]


def ndvi(real_data: Path, date: str = "2018-12-19") -> np.ndarray:
    (path,) = (real_data / "cbers4_bahia").glob(f"*{date}_*_NDVI.tif")
    with rasterio.open(path) as source:
        return source.read(1) / 1e4


def classify(values: np.ndarray) -> dict[str, np.ndarray]:
    """Make labels by thresholds, and a confidence that grows with the distance to the nearest one."""
    distance = np.abs(values[..., None] - THRESHOLDS).min(-1)
    return {
        "label": (np.digitize(values, THRESHOLDS) + 1).astype(np.uint8),
        "confidence": np.clip(100 + distance * 1000, 0, 250).astype(np.uint8),
    }


def found(report: SeamReport) -> set[str]:
    """Families of lines that show a seam, by either of the two questions."""
    families = {f.family for f in report.families if f.seam}
    return families | {s.where.replace("tiles", "tile") for s in report.suspects if s.kind == "all"}


# --- lines and sums -----------------------------------------------------------------------------------


@given(
    lo=st.integers(-500, 500),
    length=st.integers(1, 400),
    window=st.integers(2, 90),
    overlap=st.integers(0, 80),
    kernel=st.sampled_from(["hann", "trim"]),
)
def test_lines_are_the_borders_inside(lo: int, length: int, window: int, overlap: int, kernel: str) -> None:
    overlap = min(overlap, window - 1) // 2 * 2
    lattice = (
        Lattice(window, overlap, kernel) if (window - overlap) * 5 > window else Lattice(window, 0, kernel)
    )
    stride = lattice.stride_px
    inside = range(lo + 1, lo + length)
    lines = seam_lines(lattice, 37, lo, lo + length)
    starts = [r for r in inside if r % 37 and r % stride == 0]
    expected = {
        "tile": [r for r in inside if r % 37 == 0],
        "window starts": starts,
        "window ends": [r for r in inside if r % 37 and (r - window) % stride == 0 and r not in starts],
    }
    if kernel == "trim":
        cuts = [r for r in inside if r % 37 and r % stride == 0]
        expected = {"tile": expected["tile"], "window cuts": cuts}
    assert {name: at.tolist() for name, at in lines.items()} == expected


@settings(deadline=None, max_examples=60)
@given(
    values=arrays(
        np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.sampled_from([0, 1, 2, 9])
    ),
    classes=st.booleans(),
    no_data=st.sampled_from([0, 255]),
    piece=st.integers(1, 7),
)
def test_line_sums_against_numpy(values: np.ndarray, classes: bool, no_data: int, piece: int) -> None:
    measure = Measure(classes, no_data, 1.0)
    rows, cols = line_sums(values, measure, Pieces(piece_yx=(piece, piece)))
    for got, plane in ((rows, values), (cols, values.T)):
        plane = plane.astype(int)
        valid = (plane[1:] != no_data) & (plane[:-1] != no_data)
        step = np.abs(np.diff(plane, axis=0))
        step = (step > 0) if classes else step
        edges = np.arange(0, plane.shape[1], piece)
        assert not got[:, 0].any()
        np.testing.assert_array_equal(got[0, 1:], np.add.reduceat(valid.astype(int), edges, axis=1))
        np.testing.assert_array_equal(got[1, 1:], np.add.reduceat(step * valid, edges, axis=1))


@pytest.mark.parametrize("block_px", [17, 64, 100, 256, 999])
def test_blocks_of_any_size_and_order_give_the_same_report(block_px: int) -> None:
    rng = np.random.default_rng(2)
    shape = (300, 410)
    layers = {
        "label": patches(2, shape, 5, sites=300) * (rng.random(shape) > 0.05).astype(np.uint8),
        "confidence": rng.integers(0, 256, shape, dtype=np.uint8),
        "probability": rng.integers(0, 256, (3, *shape), dtype=np.uint8),
    }
    whole = judged(layers, Lattice(64, 16), 128, (-77, 1003))
    parts = SeamSums(whole.box, 128)
    blocks = list(parts.box.blocks(block_px))
    rng.shuffle(blocks)  # type: ignore[arg-type]
    for block in blocks:
        rows, cols = parts.with_overlap(block).slices_in(parts.box)
        parts.add(block, {n: v[..., rows, cols] for n, v in layers.items()})
    assert parts.report(Lattice(64, 16)) == whole
    assert {f.measure for f in whole.families} == set(layers)


def test_the_rates_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    label = rng.integers(0, 4, (400, 300), dtype=np.uint8)
    confidence = rng.integers(0, 251, (400, 300), dtype=np.uint8)
    report = judged({"label": label, "confidence": confidence}, Lattice(1000, 0), 100)
    tiles = {f.measure: f for f in report.families if (f.family, f.axis) == ("tile", "y")}
    lines = [100, 200, 300]
    assert tiles["label"].lines == 3
    valid = np.stack([(label[r] > 0) & (label[r - 1] > 0) for r in lines])
    differ = np.stack([label[r] != label[r - 1] for r in lines]) & valid
    assert tiles["label"].pairs == valid.sum()
    assert tiles["label"].rate == pytest.approx(differ.sum() / valid.sum())
    step = np.stack([np.abs(confidence[r].astype(int) - confidence[r - 1]) for r in lines])
    assert tiles["confidence"].rate == pytest.approx(step.mean() / 250)
    assert tiles["confidence"].control_rate == pytest.approx(tiles["confidence"].rate, rel=0.05)


# --- maps without seams do not cry ---------------------------------------------------------------------


@pytest.mark.parametrize("date", ["2018-08-29", "2018-12-19", "2019-03-06"])
def test_real_images_have_no_seam_at_any_phase(real_data: Path, date: str) -> None:
    layers = classify(ndvi(real_data, date))
    for lattice, tile_px in ((LATTICE, 256), (Lattice(64, 24), 512), (Lattice(128, 32, "trim"), 128)):
        for report in at_phases(layers, 8, lattice, tile_px):
            assert not report.seam, report.told()


def test_a_real_class_map_of_a_whole_tile_has_no_seam(real_data: Path) -> None:
    with rasterio.open(real_data / "full_tile/cloudmask_T19GBQ_20170725.tif") as source:
        label = source.read(1, window=((0, 5490), (0, 5490))) + np.uint8(1)
    for report in at_phases({"label": label}, 4, LATTICE, 1024):
        assert not report.seam, report.told()


def test_other_real_maps_have_no_seam(real_data: Path) -> None:
    with rasterio.open(real_data / "s2_ndvi_portugal/IM_20170714_NDVI_20m_clip2.tif") as source:
        portugal = np.nan_to_num(source.read(1))
    land_cover = np.load(real_data / "s2_slovenia_eopatch/eopatch_ndvi_clouds_lulc.npz")["LULC"][..., 0]
    with xr.open_dataset(real_data / "worldcereal/worldcereal_cropland_classification.nc") as source:
        cube = next(iter(source.data_vars.values())).values
    crops = next(p for p in cube if 2 <= np.unique(p).size <= 20).astype(np.uint8) + np.uint8(1)
    maps = (
        (classify(portugal), LATTICE, 256),
        ({"label": land_cover.astype(np.uint8)}, Lattice(32, 8), 64),
        ({"label": crops}, Lattice(32, 8), 32),
    )
    for layers, lattice, tile_px in maps:
        for report in at_phases(layers, 20, lattice, tile_px):
            assert not report.seam, report.told()


@pytest.mark.parametrize("seed", range(4))
def test_fields_and_gradients_have_no_seam(seed: int) -> None:
    fields = patches(seed, (900, 800), 6, sites=1500)
    ramp = np.add.outer(np.arange(900), np.arange(800))
    layers = {"label": fields, "confidence": (ramp // 8 % 251).astype(np.uint8)}
    for report in at_phases(layers, 8, LATTICE, 128):
        assert not report.seam, report.told()


# --- planted seams are found ---------------------------------------------------------------------------


def per_tile(shape: tuple[int, int], size: int, first: int, spread: float, seed: int) -> np.ndarray:
    """One random offset per cell of a tiling whose borders stand at first + k * size."""
    rng = np.random.default_rng(seed)
    cells = rng.normal(0, spread, (shape[0] // size + 2, shape[1] // size + 2))
    rows, cols = ((np.arange(n) - first) // size + 1 for n in shape)
    return cells[np.ix_(rows, cols)]


def test_tiles_with_different_radiometry_are_found(real_data: Path) -> None:
    image = ndvi(real_data)
    layers = classify(image + per_tile(image.shape, 128, 0, 0.05, 1))
    report = judged(layers, LATTICE, 128)
    assert found(report) == {"tile"}
    seen = found(judged(layers, LATTICE, 128, (64, 64)))  # the same map, the tiles thought elsewhere
    assert "tile" not in seen


def test_an_offset_at_a_single_tile_line_is_found(real_data: Path) -> None:
    image = ndvi(real_data)
    image[:, 512:] += 0.06
    (only,) = judged(classify(image), LATTICE, 512).suspects
    assert (only.kind, only.where) == ("line", "x = 512")


def test_tiles_shifted_by_two_pixels_are_found(real_data: Path) -> None:
    image = ndvi(real_data)
    rows, cols = np.indices(image.shape)
    odd = ((rows // 128 + cols // 128) % 2) * 2
    shifted = image[np.clip(rows - odd, 0, None), np.clip(cols - odd, 0, None)]
    report = judged(classify(shifted), LATTICE, 128)
    assert found(report) == {"tile"}


@pytest.mark.parametrize("lattice", [Lattice(64, 24, "trim"), Lattice(128, 32, "trim")])
def test_trimmed_windows_of_a_noisy_model_are_found(real_data: Path, lattice: Lattice) -> None:
    image = ndvi(real_data)
    noise = per_tile(image.shape, lattice.stride_px, 0, 0.03, 2)
    seen = found(judged(classify(image + noise), lattice, 4096))
    assert seen == {"window cuts"}


@pytest.mark.parametrize("lattice", [Lattice(64, 24), Lattice(128, 64)])
def test_the_same_noise_blended_is_no_seam(real_data: Path, lattice: Lattice) -> None:
    image = ndvi(real_data)
    box = Box(0, 0, *image.shape)
    rng, total = np.random.default_rng(4), np.zeros(lattice.pad(box).shape_yx)
    outer = lattice.pad(box)
    for y in lattice.touching(0, box.y1):
        for x in lattice.touching(0, box.x1):
            top, left = y * lattice.stride_px, x * lattice.stride_px
            window = Box(top, left, top + lattice.window_px, left + lattice.window_px)
            total[window.slices_in(outer)] += lattice.weights() * rng.normal(0, 0.03)
    noise = total[box.slices_in(outer)] / lattice.weight_sums(box)
    report = judged(classify(image + noise), lattice, 256)
    assert not report.seam, report.told()


def test_a_border_in_a_map_without_any_other_change() -> None:
    label = np.ones((500, 500), np.uint8)
    assert not judged({"label": label}, LATTICE, 250).seam
    label[250:] = 2
    report = judged({"label": label}, LATTICE, 250)
    (only,) = report.suspects
    assert (only.kind, only.where, only.measure) == ("line", "y = 250", "label")
    assert report.told().startswith("SEEN: line y = 250 (label changes ")
    assert all(np.isfinite([f.ratio, f.z]).all() for f in report.families)


def test_limits_decide() -> None:
    label = np.ones((500, 500), np.uint8)
    label[250:] = 2
    for limits in (Limits(z=1e9), Limits(ratio=1e9)):
        assert not judged({"label": label}, LATTICE, 250, limits=limits).seam


def test_where_no_controls_remain_nothing_is_said() -> None:
    label = np.random.default_rng(0).integers(1, 3, (200, 200), dtype=np.uint8)
    report = judged({"label": label}, Lattice(8, 3), 5000)
    assert {f.lines for f in report.families} == {0}
    assert not report.seam
    empty = judged({"label": np.zeros((200, 200), np.uint8)}, LATTICE, 64)
    assert {f.pairs for f in empty.families} == {0}


def test_a_layer_that_does_not_cover_the_block_is_refused() -> None:
    sums = SeamSums(Box(0, 0, 100, 100), 50)
    with pytest.raises(InputError, match="does not cover"):
        sums.add(Box(50, 50, 100, 100), {"label": np.ones((50, 50), np.uint8)})


# --- a store -------------------------------------------------------------------------------------------


def test_a_map_store_is_judged_by_global_pixels(tmp_path: Path, real_data: Path) -> None:
    image = ndvi(real_data)[:600, :700]
    box = Box(-310, 1000, 290, 1700)
    rows, cols = np.arange(box.y0, box.y1) // 128, np.arange(box.x0, box.x1) // 128
    offsets = np.random.default_rng(0).normal(0, 0.04, (20, 20))
    layers = classify(image + offsets[np.ix_(rows - rows[0], cols - cols[0])])
    layers["probability"] = np.stack([layers["confidence"], 250 - layers["confidence"]])
    names = ClassScheme.from_names(["a", "b", "c", "d"])
    write_map(tmp_path / "map.zarr", layers, names, origin_yx=(box.y0, box.x0))
    reports = [map_seams(str(tmp_path / "map.zarr"), LATTICE, 128, block_px=b) for b in (100, 128, 512, 2048)]
    assert all(r == reports[0] for r in reports)
    assert reports[0] == judged(layers, LATTICE, 128, (box.y0, box.x0))
    assert "tile" in found(reports[0])
    part = Box(-200, 1100, 200, 1600)
    rows_in, cols_in = part.slices_in(box)
    cut = {n: v[..., rows_in, cols_in] for n, v in layers.items()}
    expected = judged(cut, LATTICE, 128, (part.y0, part.x0))
    assert map_seams(str(tmp_path / "map.zarr"), LATTICE, 128, part) == expected
    text = json.dumps(reports[0].to_dict(), allow_nan=False)
    assert json.loads(text)["seam"] is True
    assert pickle.loads(pickle.dumps(reports[0])) == reports[0]
