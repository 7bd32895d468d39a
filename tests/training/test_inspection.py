"""What is told of training data, against plain numpy over the whole cube."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import label

import training.inspection as inspection
from engine.values.errors import InputError
from pipelines.inspect_training import draw_map, draw_samples, warnings_of
from tests.training.synthetic import Season, season
from training.inspection import PARTS, InspectOptions, inspect_training
from training.labels import LabelRaster
from training.loop import TrainOptions, train
from training.splits import TRAIN, Split

BANDS = ["blue", "green", "red", "nir", "swir16", "swir22"]
SPLIT = Split(block_px=64, buffer_px=4, val=0.25, seed=3)


@pytest.fixture(scope="module")
def made() -> tuple[xr.Dataset, LabelRaster]:
    cube, labels = season(Season(side_px=256, fields=120), origin_yx=(512, -256))
    coords = {"band": BANDS, "y": 1e6 - 10.0 * np.arange(256), "x": 10.0 * np.arange(256)}
    times = np.array([f"2023-0{m}-01" for m in range(3, 9)], "M8[ns]")
    return cube.assign_coords(coords | {"time": times}), labels


def test_counts_areas_and_series_equal_numpy(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    seen = inspect_training(cube, labels, SPLIT)
    parts, values = SPLIT.parts(labels.box), cube["reflectance"].values
    assert [c.name for c in seen.classes] == list(labels.classes.names)
    for c in seen.classes:
        mine = labels.values == labels.classes.values[labels.classes.names.index(c.name)]
        assert c.pixels == {name: int((mine & (parts == part)).sum()) for name, part in PARTS.items()}
        assert c.hectares == pytest.approx(mine.sum() * 100 / 1e4)
        assert c.areas == label(mine)[1]
        chosen = mine & (parts == TRAIN)
        for t in range(6):
            x = values[t][:, chosen].astype(np.float64)
            x = x[:, (x != 0).all(axis=0)]
            ndvi = (x[3] - x[2]) / (x[3] + x[2])
            if chosen.sum() <= 2000:
                np.testing.assert_allclose(c.series[t], np.percentile(ndvi, (10, 50, 90)), atol=1e-6)
            else:  # drawn: the median of 2,000 lies near that of all
                assert abs(np.searchsorted(np.sort(ndvi), c.series[t, 1]) / len(ndvi) - 0.5) < 0.05


def test_it_tells_the_normalisation_that_training_uses(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    options = TrainOptions(
        split=SPLIT, steps=1, batch=1, crop_px=32, checks=1, config={"width": 4, "depth": 1}
    )
    seen = inspect_training(cube, labels, SPLIT, InspectOptions(seed=options.seed))
    assert seen.normalisation == train(cube, labels, options).normalisation


def test_blocks_change_nothing(made: tuple[xr.Dataset, LabelRaster], monkeypatch: pytest.MonkeyPatch) -> None:
    cube, labels = made
    whole = inspect_training(cube, labels, SPLIT)
    monkeypatch.setattr(inspection, "_BLOCK_PX", 100)
    monkeypatch.setattr(inspection, "_PICTURE_PX", 60)
    calls: list[tuple[int, int]] = []
    cut = inspect_training(
        cube.chunk({"y": 77, "x": 90}), labels, SPLIT, progress=lambda a, b: calls.append((a, b))
    )
    assert whole.as_dict() == cut.as_dict()
    assert cut.factor == 5
    known = (cube["reflectance"].values[:, 2, ::5, ::5] != 0).any(axis=0)
    np.testing.assert_array_equal(np.isfinite(cut.rgb[..., 0]), known)
    np.testing.assert_array_equal(cut.label, labels.values[::5, ::5])
    assert calls[-1][0] == calls[-1][1] == len(calls)


def test_samples_show_what_lies_there(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    seen = inspect_training(cube, labels, SPLIT, InspectOptions(patches=2, patch_px=40))
    assert {s.name for s in seen.samples} == set(labels.classes.names)
    for s in seen.samples:
        where = s.box.slices_in(labels.box)
        np.testing.assert_array_equal(s.label, labels.values[where])
        assert s.box.shape_yx == (40, 40)
        t = list(seen.dates).index(s.date)
        red = cube["reflectance"].values[t, 2][where]
        np.testing.assert_allclose(np.nan_to_num(s.rgb[..., 0]), red / 1e4, atol=1e-6)


def test_pictures_and_notes(made: tuple[xr.Dataset, LabelRaster], tmp_path: Path) -> None:
    from PIL import Image

    cube, labels = made
    seen = inspect_training(cube, labels, SPLIT, InspectOptions(patches=2))
    draw_map(seen, labels.classes, tmp_path / "map.png")
    draw_samples(seen, labels.classes, tmp_path / "samples.png")
    pixels = np.asarray(Image.open(tmp_path / "map.png").convert("RGB")).reshape(-1, 3)
    there = {tuple(int(v) for v in p) for p in np.unique(pixels, axis=0)}
    for c in labels.classes.classes:
        assert c.rgb in there, "each class is painted in its colour"
    assert np.asarray(Image.open(tmp_path / "samples.png")).std() > 10
    rare = LabelRaster(
        np.where(SPLIT.parts(labels.box) == TRAIN, 0, labels.values), labels.box, labels.classes
    )
    rare.values[np.nonzero((SPLIT.parts(labels.box) == TRAIN) & (labels.values == 1))] = 1
    notes = warnings_of(inspect_training(cube, rare, SPLIT))
    assert sum("cannot learn" in n for n in notes) == len(labels.classes.names) - 1


def test_a_cube_on_other_pixels_is_refused(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    with pytest.raises(InputError, match="same pixels"):
        inspect_training(cube.isel(y=slice(1, None)), labels, SPLIT)
