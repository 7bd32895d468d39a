"""Training on all that a cube offers: radar, indices and layers beside reflectance, as one array of planes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from engine.inference.bundle import load_bundle, save_bundle
from engine.inference.planes import plane_array, planes_in, with_planes
from engine.inference.predict import predict
from engine.models.normalise import prepare
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.planes import Plane, encode, groups_of, planes_of
from engine.values.spec import CubeSpec
from tests.training.synthetic import Season, season
from training.augment import AugmentOptions, augment
from training.labels import LabelRaster
from training.lessons import CubeLessons
from training.loader import LoaderOptions, loader
from training.loop import TrainOptions, train
from training.pixels import Streamed, pixels_of
from training.samples import Patches
from training.splits import Split
from training.statistics import fit_standard

SIDE = 96
SPEC = CubeSpec(
    bands=("red", "nir"),
    features={"indices": "NDVI", "layers": [{"name": "height", "file": "dem.tif"}]},
    sentinel1={"polarisations": ("vv",)},
)
PLANES = planes_of(SPEC)
OPTIONS = TrainOptions(
    architecture="fusion_transformer",
    config={"width": 8, "heads": 2},
    split=Split(block_px=16, buffer_px=0, val=0.25, test=0.0),
    steps=60,
    checks=1,
    batch=4,
    crop_px=8,
    threads=1,
    learning_rate=1e-2,
)


@pytest.fixture(scope="module")
def made() -> tuple[xr.Dataset, LabelRaster]:
    """Clouds lie over each date, and only the radar, without clouds, tells the classes apart."""
    rng = np.random.default_rng(0)
    cube, labels = season(
        Season(side_px=SIDE, n_dates=3, n_bands=2, n_classes=3, fields=60, gaps=0.5, seed=4)
    )
    clouds = (cube.reflectance.values == 0).any(axis=1)
    curves = np.array([[-18.0, -6, -12], [-6, -18, -12], [-12, -12, -5]])  # class, date
    vv = np.moveaxis(curves[np.maximum(labels.values, 1) - 1], 2, 0) + rng.normal(0, 0.5, (3, SIDE, SIDE))
    plain = rng.integers(500, 3000, (3, 2, SIDE, SIDE)).astype(np.uint16)
    plain[np.repeat(clouds[:, None], 2, axis=1)] = 0
    ndvi = np.where(clouds, np.nan, rng.uniform(0, 1, clouds.shape))
    named = {
        "reflectance": (("time", "band", "y", "x"), plain),
        "indices": (("time", "index", "y", "x"), ndvi[:, None].astype(np.float32)),
        "backscatter": (("time", "polarisation", "y", "x"), vv[:, None].astype(np.float32)),
        "layers": (("layer", "y", "x"), rng.uniform(0, 900, (1, SIDE, SIDE)).astype(np.float32)),
    }
    coords = {
        "time": np.array(["2024-04-01", "2024-06-01", "2024-08-01"], "datetime64[ns]"),
        "band": ["red", "nir"],
        "index": ["NDVI"],
        "polarisation": ["vv"],
        "layer": ["height"],
        **georef_coords(Grid.make("EPSG:32633", 10.0), Box(0, 0, SIDE, SIDE)),
    }
    return xr.Dataset(named, coords=coords, attrs={"landweave_spec": SPEC.model_dump_json()}), labels


def test_a_cube_offers_what_its_spec_names(made: tuple[xr.Dataset, LabelRaster]) -> None:
    assert planes_in(made[0]) == PLANES
    assert [plane.name for plane in PLANES] == ["red", "nir", "NDVI", "vv", "height"]


def test_loaded_streamed_and_loader_read_the_same_planes(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    expected = plane_array(cube, PLANES).compute()
    np.testing.assert_array_equal(expected[:, 3], encode(cube.backscatter.values[:, 0], PLANES[3]))
    loaded = pixels_of(cube, labels.box, None)
    streamed = pixels_of(cube.chunk({"y": 16, "x": 16}), labels.box, 2 * 9 * 16 * 16 * 3 * 5 * 2)
    assert isinstance(streamed, Streamed)
    assert loaded.planes == streamed.planes == PLANES
    some = Box(5, 30, 44, 61)
    for pixels in (loaded, streamed):
        np.testing.assert_array_equal(pixels.cut(some), expected[:, :, 5:44, 30:61])
    options = LoaderOptions(draw=Patches(patch_px=16), planes=PLANES, buffer_bytes="100MiB", threads=1)
    batch = next(iter(loader(cube, labels, options)))
    assert batch.radar is None
    for x, (y0, x0) in zip(batch.x.numpy(), batch.place.tolist(), strict=True):
        np.testing.assert_array_equal(x, expected[:, :, y0 : y0 + 16, x0 : x0 + 16])


def test_constants_are_measured_where_each_group_is_there() -> None:
    rng = np.random.default_rng(0)
    x_TCN = rng.integers(1, 9000, (4, 3, 50)).astype(np.uint16)
    x_TCN[:2, :1], x_TCN[2:, 1], x_TCN[:, 2, 25:] = 0, 0, 0
    found = fit_standard(x_TCN, ("optical", "radar", "static"))
    values = x_TCN[2:, 0], x_TCN[:2, 1], x_TCN[:, 2, :25]
    np.testing.assert_allclose(found.mean, [v.mean() for v in values], atol=1e-3)
    np.testing.assert_allclose(found.std, [v.std() for v in values], atol=1e-3)
    assert found.groups == ("optical", "radar", "static")


def test_it_learns_from_radar_under_clouds_and_the_map_is_the_networks_answer(
    made: tuple[xr.Dataset, LabelRaster], tmp_path: Path
) -> None:
    cube, labels = made
    trained = train(cube, labels, OPTIONS)
    assert trained.planes == PLANES
    assert trained.val is not None
    assert trained.val.accuracy > 0.8  # a third by chance
    fields = trained.bundle_fields("fused model", SPEC, Lattice(1, 0), "other")
    save_bundle(tmp_path, trained.module, OPTIONS.architecture, fields)
    bundle = load_bundle(tmp_path)
    assert bundle.planes == PLANES
    assert getattr(bundle.config, "groups", None) == groups_of(PLANES)
    mapped = predict(cube.chunk({"y": 40, "x": 40}), bundle).compute()
    stored = plane_array(cube, PLANES).compute()
    days = torch.tensor(CubeLessons.of(cube, labels, OPTIONS).days, dtype=torch.float32)
    with torch.inference_mode():
        values, valid = prepare(torch.from_numpy(stored)[None], trained.normalisation)
        label = trained.module(values, valid, days)[0].argmax(0).numpy() + 1
    assert (mapped.label.values == label).mean() > 0.999  # ties of rounding apart


@pytest.mark.parametrize(
    ("options", "touched"),
    [
        (AugmentOptions(turns=False, brightness=0.1, noise=0.01), {0, 1}),
        (AugmentOptions(turns=False, clouds=0.9, missed_clouds=1.0), {0, 1, 2}),
        (AugmentOptions(turns=False, date_drop=0.9), {0, 1, 2}),
    ],
    ids=["tones", "clouds", "dates"],
)
def test_augmentation_touches_what_it_is_about(
    made: tuple[xr.Dataset, LabelRaster], options: AugmentOptions, touched: set[int]
) -> None:
    batch = next(CubeLessons.of(*made, OPTIONS).batches())
    keys = np.arange(len(batch))[:, None]
    after = augment(batch, options, keys, planes=PLANES)
    differs = (after.x.int() != batch.x.int()).flatten(3).any(3).any(1).any(0)
    assert set(np.flatnonzero(differs.numpy())) == touched
    if options.clouds:  # no cloud makes an index brighter: what changes is hidden
        hidden = after.x.int()[:, :, :3] == 0
        assert bool((hidden | (after.x.int() == batch.x.int())[:, :, :3]).all())


def test_a_small_turn_keeps_radar_that_clouds_do_not_hide(made: tuple[xr.Dataset, LabelRaster]) -> None:
    batch = next(CubeLessons.of(*made, OPTIONS).batches())
    turned = augment(
        batch, AugmentOptions(turns=False, rotate_deg=10), np.arange(len(batch))[:, None], planes=PLANES
    )
    inside = turned.x.int()[:, :, :, 2:-2, 2:-2]
    assert bool((inside[:, :, 3:] > 0).all())
    assert bool((inside[:, :, 0] == 0).any())


def test_planes_alone_are_enough_whatever_they_are(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    for planes in (PLANES[:2], PLANES[2:3]):
        own = with_planes(cube.drop_vars(list(cube.data_vars)), plane_array(cube, planes).compute(), planes)
        lessons = CubeLessons.of(own, labels, OPTIONS)
        assert lessons.cube.planes == planes
        assert lessons.normalisation.groups is None
        assert next(lessons.batches()).x.shape[2] == len(planes)


def _cut(change: Callable[[xr.Dataset], xr.Dataset], cube: xr.Dataset) -> tuple[Plane, ...]:
    return planes_in(change(cube))


def test_what_a_cube_no_longer_holds_is_not_seen(made: tuple[xr.Dataset, LabelRaster]) -> None:
    without = _cut(lambda cube: cube.drop_vars("backscatter"), made[0])
    assert [plane.name for plane in without] == ["red", "nir", "NDVI", "height"]
