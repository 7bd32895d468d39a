"""What a network sees of a cube: planes from every variable, valid group by group, the same map however it is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import torch
import xarray as xr

from engine.inference.bundle import Bundle, save_bundle
from engine.inference.check import check_bundle
from engine.inference.ensemble import create_ensemble
from engine.inference.planes import cube_of_planes, plane_array, planes_in
from engine.inference.predict import predict
from engine.models.normalise import LEAST, Standard, prepare
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.errors import InputError, SpecError
from engine.values.grid import Box, Grid
from engine.values.lattice import Lattice
from engine.values.planes import Plane, encode, groups_of
from engine.values.spec import CubeSpec
from tests.inference.bundles import FIELDS

GRID, BOX = Grid.make("EPSG:32633", 10.0), Box(-9, 30, 41, 88)
TIMES = np.array(["2024-05-01", "2024-06-01"], "datetime64[D]")
PLANES = (
    Plane(name="red"),
    Plane(name="NDVI", kind="index"),
    Plane(name="vv", kind="backscatter"),
    Plane(name="height", kind="layer", scale=5.0, low=-1000.0),
)


def _variables(seed: int = 0) -> xr.Dataset:
    """A cube as `open_cube` gives it: variables of their own, clouds and a missing pass in it."""
    rng = np.random.default_rng(seed)
    shape = (len(TIMES), 1, *BOX.shape_yx)
    red = rng.integers(100, 4000, shape).astype(np.uint16)
    ndvi, vv = rng.uniform(-0.2, 0.9, shape), rng.uniform(-20, -5, shape)
    height = rng.uniform(0, 900, (1, *BOX.shape_yx))
    red[0, :, :20], ndvi[0, :, :20] = 0, np.nan  # clouds on the first date
    vv[:, :, :, 40:] = np.nan  # beyond the swath
    red[1, :, :8], ndvi[1, :, :8] = 0, np.nan
    vv[:, :, :8, :9] = np.nan  # nothing at all
    height[:, :, 50:] = np.nan
    cube = cube_of_planes(red, PLANES[:1], TIMES, GRID, BOX).rename(planes="reflectance", plane="band")
    return cube.assign(
        indices=(("time", "index", "y", "x"), ndvi.astype(np.float32)),
        backscatter=(("time", "polarisation", "y", "x"), vv.astype(np.float32)),
        layers=(("layer", "y", "x"), height.astype(np.float32)),
    ).assign_coords(index=["NDVI"], polarisation=["vv"], layer=["height"])


def _normalisation(planes: tuple[Plane, ...] = PLANES) -> Standard:
    mean = {"reflectance": 2000.0, "index": 33_000.0, "backscatter": 8_800.0, "layer": 7_000.0}
    std = {"reflectance": 900.0, "index": 3_000.0, "backscatter": 400.0, "layer": 1_500.0}
    kinds = [plane.kind for plane in planes]
    return Standard(mean=[mean[k] for k in kinds], std=[std[k] for k in kinds], groups=groups_of(planes))


def _bundle(
    folder: Path, planes: tuple[Plane, ...] = PLANES, name: str = "unet", **changes: object
) -> Bundle:
    torch.manual_seed(len(planes))
    sizes = {"n_dates": 2, "n_bands": len(planes), "n_classes": 3, "width": 8}
    net = build(name, sizes | ({"stem": 8, "depth": 2} if name == "unet" else {})).eval()
    spec = CubeSpec(
        bands=[p.name for p in planes if p.kind == "reflectance"],
        features={
            "indices": [p.name for p in planes if p.kind == "index"],
            "layers": [{"name": p.name, "file": "dem.tif"} for p in planes if p.kind == "layer"],
        },
        sentinel1={"polarisations": ("vv",)} if any(p.kind == "backscatter" for p in planes) else None,
    )
    fields = replace(
        FIELDS,
        spec=spec,
        planes=planes,
        classes=ClassScheme.from_names(["wheat", "water", "forest"]),
        normalisation=_normalisation(planes),
        lattice=Lattice(32, 8) if name == "unet" else Lattice(1, 0),
        **changes,
    )
    return save_bundle(folder, net, name, fields)


def test_planes_come_from_every_variable_encoded_by_their_rule() -> None:
    cube = _variables()
    found = plane_array(cube.chunk({"time": 1, "y": 17, "x": 23}), PLANES).compute()
    np.testing.assert_array_equal(found[:, 0], cube.reflectance.values[:, 0])
    np.testing.assert_array_equal(found[:, 1], encode(cube.indices.values[:, 0], PLANES[1]))
    np.testing.assert_array_equal(found[:, 2], encode(cube.backscatter.values[:, 0], PLANES[2]))
    for date in found:
        np.testing.assert_array_equal(date[3], encode(cube.layers.values[0], PLANES[3]))
    swapped = plane_array(cube, PLANES[::-1]).compute()
    np.testing.assert_array_equal(swapped, found[:, ::-1])


def test_what_a_cube_lacks_is_named() -> None:
    cube = _variables()
    with pytest.raises(SpecError, match="lacks planes") as caught:
        plane_array(cube.drop_vars("backscatter"), PLANES)
    assert caught.value.where == "vv"
    with pytest.raises(InputError, match="'reflectance', and no 'planes'"):
        plane_array(cube[["indices"]], PLANES)
    with pytest.raises(InputError, match="no planes"):
        cube_of_planes(np.zeros((1, 1, 2, 2), np.int16), PLANES[:1], TIMES, GRID, BOX)


def test_a_missing_pass_hides_no_reflectance_and_clouds_hide_no_radar() -> None:
    x = torch.tensor(
        [[2900, 36_000, 9200, 8500], [0, 36_000, 9200, 8500], [2900, 36_000, 0, 0], [0, 0, 0, 8500]]
    )
    values, valid = prepare(x.to(torch.uint16)[None, :, :, None, None], _normalisation())
    assert valid.flatten().tolist() == [1, 1, 1, 0]
    expected = [[1, 1, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert values.flatten().view(4, 4).tolist() == expected


def test_a_value_at_the_mean_is_told_from_no_data() -> None:
    at_mean = torch.tensor([2000, 33_000, 0, 7_000]).to(torch.uint16).view(1, 1, 4, 1, 1)
    values, _ = prepare(at_mean, _normalisation())
    assert values.flatten().tolist() == [LEAST, LEAST, 0, LEAST]


@pytest.mark.parametrize("name", ["tempcnn", "unet"])
def test_a_map_of_planes_is_the_networks_own_answer_and_the_same_however_it_is_cut(
    name: str, tmp_path: Path
) -> None:
    cube, bundle = _variables(), _bundle(tmp_path, name=name)
    with dask.config.set(scheduler="threads", num_workers=1):
        whole = predict(cube, bundle, layers=["probability"]).compute()
        cut = predict(cube.chunk({"y": 33, "x": 29}), bundle, layers=["probability"]).compute()
    xr.testing.assert_identical(whole, cut)
    stored = plane_array(cube, PLANES).compute()
    nothing = ~((stored[:, :2] != 0).all(1) | (stored[:, 2] != 0)).any(0)
    assert nothing.sum() == 8 * 9 + 8 * 18
    np.testing.assert_array_equal(whole.label.values == 0, nothing)
    if name == "tempcnn":
        values, valid = prepare(torch.from_numpy(stored)[None], bundle.normalisation)
        net = build(name, bundle.config.model_dump()).eval()
        from safetensors.torch import load

        net.load_state_dict(load(bundle.read_weights()))
        with torch.inference_mode():
            p = net(values, valid).div(bundle.temperature).softmax(1)[0].numpy()
        difference = np.abs(whole.probability.values / 250 - p)[:, ~nothing]
        assert difference.max() <= 0.5 / 250 + 1e-4


def test_indices_alone_make_a_map_without_any_reflectance(tmp_path: Path) -> None:
    planes = (PLANES[1], Plane(name="EVI", kind="index"))
    values = np.random.default_rng(1).uniform(0, 1, (2, 2, *BOX.shape_yx)).astype(np.float32)
    values[:, 1, :5] = np.nan
    cube = cube_of_planes(values, planes, TIMES, GRID, BOX)
    assert planes_in(cube) == planes
    bundle = _bundle(tmp_path, planes, "tempcnn")
    assert bundle.spec.bands == ()
    assert bundle.planes == planes
    mapped = predict(cube, bundle).compute()
    np.testing.assert_array_equal(mapped.label.values == 0, np.isnan(values).any((0, 1)))


def test_the_manifest_carries_the_planes(tmp_path: Path) -> None:
    from engine.inference.bundle import load_bundle

    bundle = _bundle(tmp_path / "a", name="tempcnn")
    again = load_bundle(tmp_path / "a")
    assert again.planes == PLANES
    assert again.normalisation.groups == groups_of(PLANES)
    assert [finding for finding in check_bundle(again) if finding.passed is False] == []
    other = (*PLANES[:3], PLANES[3].model_copy(update={"low": -500.0}))
    assert _bundle(tmp_path / "b", other, "tempcnn").digest() != bundle.digest()
    with pytest.raises(InputError, match="groups"):
        _bundle_with(tmp_path / "c", _normalisation().model_copy(update={"groups": ("optical",) * 4}))


def _bundle_with(folder: Path, normalisation: Standard) -> Bundle:
    net = build("tempcnn", {"n_bands": 4, "n_classes": 4})
    spec = CubeSpec(bands=("red",))
    fields = replace(
        FIELDS, spec=spec, planes=PLANES, normalisation=normalisation, n_dates=None, lattice=Lattice(1, 0)
    )
    return save_bundle(folder, net, "tempcnn", fields)


def test_an_ensemble_joins_what_its_members_see(tmp_path: Path) -> None:
    optical, radar = PLANES[:1], PLANES[2:]
    a = _bundle(tmp_path / "a", optical, "tempcnn")
    b = _bundle(tmp_path / "b", radar, "unet", border="missing")
    both = create_ensemble(tmp_path / "both", [(a.path, 1), (b.path, 1)], "two sensors")
    assert both.planes == (*optical, *radar)
    assert both.spec.bands == ("red",)
    assert both.spec.sentinel1 is not None
    cube = _variables()
    together, *alone = (predict(cube, model, layers=["probability"]).compute() for model in (both, a, b))
    nothing = (alone[0].label.values == 0) | (alone[1].label.values == 0)
    np.testing.assert_array_equal(together.label.values == 0, nothing)
    mean = (alone[0].probability.values.astype(float) + alone[1].probability.values) / 2
    assert np.abs(together.probability.values - mean)[:, ~nothing].max() <= 1.0
    other = _bundle(tmp_path / "c", (PLANES[3].model_copy(update={"low": -500.0}),), "tempcnn")
    with pytest.raises(InputError, match="plane height"):
        create_ensemble(tmp_path / "no", [(b.path, 1), (other.path, 1)], "cannot")
