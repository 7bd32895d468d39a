"""Presto over a real cube: the map holds what the network says of each pixel's own months."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

from engine.inference.bundle import BundleFields, save_bundle
from engine.inference.foreign import presto
from engine.inference.predict import predict
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.head import VALUE_NO_DATA, Values
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
SPEC = CubeSpec(bands=BANDS, period="1MS")


@pytest.fixture(scope="module")
def months(real_data: Path) -> xr.Dataset:
    """4 months from November 2020 of 30 x 40 pixels in Belgium; December and January are missing."""
    path = real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    with xr.open_dataset(path, mask_and_scale=False) as source:
        planes = [source[f"S2-L2A-{b}"].values[:4, 20:50, 30:70].view(np.uint16) for b in BANDS]
        times = source["t"].values[:4]
    stack = np.stack(planes, axis=1)
    stack = np.where(stack == 65535, 0, stack).astype(np.uint16)
    stack[:, :, :4, :6] = 0  # a corner that was never seen
    coords = georef_coords(Grid.make("EPSG:32631", 10), Box(0, 0, 30, 40))
    reflectance = (("time", "band", "y", "x"), da.from_array(stack, chunks=(4, 6, 30, 40)))
    return xr.Dataset({"reflectance": reflectance}, coords={**coords, "time": times, "band": list(BANDS)})


def _direct(cube: xr.Dataset, net: torch.nn.Module) -> np.ndarray:
    values = cube.reflectance.values.astype(np.float32)
    valid = (values != 0).all(axis=1)
    x_BTCHW = torch.tensor(np.where(valid[:, None], values, 0) / 10000)[None]
    days = torch.tensor(cube.time.dt.dayofyear.values, dtype=torch.float32)
    with torch.inference_mode():
        return net(x_BTCHW, torch.tensor(valid)[None].float(), days)[0].numpy()


def test_features_of_a_real_cube_however_it_is_cut(
    months: xr.Dataset, real_data: Path, tmp_path: Path
) -> None:
    bundle = presto(tmp_path / "b", real_data / "weights" / "presto_default_model.pt", SPEC)
    out = predict(months, bundle).compute(scheduler="synchronous")
    stored, head = out.embedding.values, bundle.head
    assert stored.dtype == np.int16
    assert isinstance(head, Values)
    net = build("presto", bundle.config.model_dump()).eval()
    from engine.inference.state import read_state_dict

    net.load_state_dict(read_state_dict(bundle.weights_path))
    expected = _direct(months, net)
    seen = (months.reflectance.values != 0).all(axis=1).any(axis=0)
    assert np.all(stored[:, ~seen] == VALUE_NO_DATA)
    found = (stored[:, seen].astype(np.float64) + 32767) * head.step + head.low
    assert np.abs(found - expected[:, seen]).max() <= head.step * 0.51 + 1e-5
    cut = months.assign(reflectance=months.reflectance.chunk(y=(17, 13)))
    np.testing.assert_array_equal(
        predict(cut, bundle).compute(scheduler="synchronous").embedding.values, stored
    )


def test_a_head_on_top_maps_classes(months: xr.Dataset, real_data: Path, tmp_path: Path) -> None:
    features = presto(tmp_path / "a", real_data / "weights" / "presto_default_model.pt", SPEC, n_dates=4)
    from engine.inference.state import read_state_dict

    torch.manual_seed(0)
    sizes = {**features.config.model_dump(), "head": "linear", "n_classes": 3}
    net = build("presto", sizes).eval()
    state = net.state_dict() | read_state_dict(features.weights_path)
    net.load_state_dict(state)
    fields = BundleFields(
        name="presto with a head",
        spec=SPEC,
        n_dates=4,
        classes=ClassScheme.from_names(["crop", "grass", "other"]),
        lattice=Lattice(1, 0),
        normalisation=features.normalisation,
    )
    few = months.isel(y=slice(0, 12), x=slice(0, 20))
    few = few.assign_coords(georef_coords(Grid.make("EPSG:32631", 10), Box(0, 0, 12, 20)))
    bundle = save_bundle(tmp_path / "b", net, "presto", replace(fields, licence="MIT"))
    label = predict(few, bundle).label.compute(scheduler="synchronous").values
    expected = _direct(few, net).argmax(0) + 1
    seen = (few.reflectance.values != 0).all(axis=1).any(axis=0)
    np.testing.assert_array_equal(label[seen], expected[seen])
    assert not label[~seen].any()
    assert len(np.unique(label)) > 1
