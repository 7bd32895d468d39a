from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from pyproj import Transformer
from shapely import transform
from shapely.geometry import Polygon

from engine.products.quicklook import read_picture, write_quicklook
from engine.products.reducers import mean_blocks, mode_blocks
from engine.store.view import open_view
from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from engine.values.grid import Box
from tests.products.mapstore import GRID, patches, write_map

COLOURS = {"forest": "#3f6b3a", "grass": "#a3b86c", "crops": "#e5b94e"}
SCHEME = ClassScheme(
    classes=tuple(LandClass(value=i + 1, name=n, colour=c) for i, (n, c) in enumerate(COLOURS.items()))
)


def in_colour(image: np.ndarray, colour: str) -> np.ndarray:
    """Mark the pixels of one exact colour."""
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.rint(image[..., :3] * 255).astype(int) == rgb).all(-1)


@pytest.mark.parametrize("block_px", [64, 130, 2048])
def test_the_picture_is_the_reduced_map_and_the_counts_are_exact(tmp_path: Path, block_px: int) -> None:
    label = patches(4, (500, 700), 3, sites=300)
    label[100:130] = 0
    confidence = np.random.default_rng(0).integers(0, 251, label.shape, dtype=np.uint8)
    confidence[label == 0] = 255
    whole = write_map(tmp_path / "map.zarr", {"label": label, "confidence": confidence}, SCHEME)
    box = Box(whole.y0 + 3, whole.x0 + 11, whole.y1 - 1, whole.x1 - 5)
    picture = read_picture(open_view(str(tmp_path / "map.zarr")), box, 6, block_px)
    part = label[3:-1, 11:-5]
    np.testing.assert_array_equal(picture.label, mode_blocks(part, 6))
    assert picture.confidence is not None
    np.testing.assert_array_equal(picture.confidence, mean_blocks(confidence[3:-1, 11:-5], 6, 255))
    values, counts = np.unique(part, return_counts=True)
    assert picture.counts == dict(zip(values.tolist(), counts.tolist(), strict=True))
    valid = confidence[3:-1, 11:-5][part > 0]
    assert picture.mean_confidence == pytest.approx(valid.mean() / 250)


def test_a_small_map_is_magnified_without_smearing(tmp_path: Path) -> None:
    """Every pixel of the map panel has the colour of a class; areas on paper are areas on the ground."""
    label = np.repeat(np.array([[1, 2], [3, 1]], np.uint8), 50, 0).repeat(60, 1)
    write_map(tmp_path / "map.zarr", {"label": label}, SCHEME)
    path = write_quicklook(str(tmp_path / "map.zarr"), tmp_path / "q/map.png", SCHEME, title="Test\n2023")
    image = imread(path)
    assert max(image.shape[:2]) <= 1600
    panel = image[136:500, 48:1000]  # inside its thin frame
    known = sum(in_colour(panel, c) for c in COLOURS.values())
    assert known.all()
    counts = [int(in_colour(image[:, :1110], c).sum()) for c in COLOURS.values()]
    assert counts[0] == pytest.approx(2 * counts[1], rel=0.01)
    assert counts[1] == pytest.approx(counts[2], rel=0.01)
    assert [p.name for p in path.parent.iterdir()] == ["map.png"]


def test_outline_separates_holes_from_outside(tmp_path: Path) -> None:
    label = np.zeros((400, 400), np.uint8)
    label[100:300, 100:300] = 1
    label[180:220, 180:220] = 0  # a hole in the area
    box = write_map(tmp_path / "map.zarr", {"label": label, "confidence": label * 200}, SCHEME)
    left, bottom, right, top = GRID.bounds_of_box(Box(box.y0 + 100, box.x0 + 100, box.y1 - 100, box.x1 - 100))
    square = Polygon([(left, bottom), (right, bottom), (right, top), (left, top)])
    to_degrees = Transformer.from_crs(GRID.crs, "EPSG:4326", always_xy=True)
    outline = transform(square.segmentize(100), lambda p: np.stack(to_degrees.transform(*p.T), 1))
    path = write_quicklook(
        str(tmp_path / "map.zarr"), tmp_path / "map.png", SCHEME, title="Test", outline=outline
    )
    image = imread(path)
    side = round(400 * (1600 - 2 * 44 - 44 - 400) / 400)
    panel = image[132 : 132 + side, 44 : 44 + side]
    hole, land = in_colour(panel, "#e4e7e9"), in_colour(panel, COLOURS["forest"])
    white = in_colour(panel, "#ffffff")
    assert hole.mean() == pytest.approx((40 / 400) ** 2, rel=0.03)
    assert land.mean() == pytest.approx((200**2 - 40**2) / 400**2, rel=0.03)
    assert white.mean() == pytest.approx(0.75, rel=0.03)


def test_it_stays_within_its_size_for_any_shape(tmp_path: Path) -> None:
    for name, shape in (("tall", (900, 90)), ("wide", (60, 900)), ("large", (2500, 1800)), ("dot", (1, 1))):
        write_map(tmp_path / f"{name}.zarr", {"label": np.full(shape, 2, np.uint8)}, SCHEME, shard_px=512)
        path = write_quicklook(str(tmp_path / f"{name}.zarr"), tmp_path / f"{name}.png", SCHEME, title=name)
        assert max(imread(path).shape[:2]) <= 1600


def test_the_same_map_gives_the_same_bytes(tmp_path: Path) -> None:
    write_map(tmp_path / "map.zarr", {"label": patches(1, (200, 300), 3)}, SCHEME)
    first, second = (
        write_quicklook(str(tmp_path / "map.zarr"), tmp_path / f"{n}.png", SCHEME, title="A").read_bytes()
        for n in "ab"
    )
    assert first == second


def test_many_classes_and_no_data_at_all(tmp_path: Path) -> None:
    many = ClassScheme.from_names([f"class number {i} with a long name" for i in range(40)])
    label = np.arange(1, 41, dtype=np.uint8).repeat(40).reshape(40, 40)
    write_map(tmp_path / "many.zarr", {"label": label}, many)
    assert write_quicklook(str(tmp_path / "many.zarr"), tmp_path / "m.png", many, title="Many").exists()
    empty = {"label": np.zeros((40, 40), np.uint8), "confidence": np.full((40, 40), 255, np.uint8)}
    write_map(tmp_path / "empty.zarr", empty, SCHEME)
    assert write_quicklook(str(tmp_path / "empty.zarr"), tmp_path / "e.png", SCHEME, title="Empty").exists()


def test_too_small_a_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="too small"):
        write_quicklook("nowhere.zarr", tmp_path / "a.png", SCHEME, title="A", max_px=300)
