"""Presto over a real cube: the map holds what the network says of each pixel's own months."""

from __future__ import annotations

from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import torch
import xarray as xr

from engine.inference.foreign import presto, presto_classes
from engine.inference.predict import predict
from engine.models.registry import build
from engine.values.classes import ClassScheme
from engine.values.days import running_days
from engine.values.errors import InputError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.head import VALUE_NO_DATA, Values
from engine.values.spec import CubeSpec

BANDS = ("B02", "B03", "B04", "B08", "B11", "B12")
SPEC = CubeSpec(bands=BANDS, period="1MS")


@pytest.fixture(scope="module")
def months(real_data: Path) -> xr.Dataset:
    """November, December (missing) and February of 30 x 40 pixels in Belgium."""
    path = real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    with xr.open_dataset(path, mask_and_scale=False) as source:
        planes = [source[f"S2-L2A-{b}"].values[[0, 1, 3], 20:50, 30:70].view(np.uint16) for b in BANDS]
        times = source["t"].values[[0, 1, 3]]
    stack = np.stack(planes, axis=1)
    stack = np.where(stack == 65535, 0, stack).astype(np.uint16)
    stack[:, :, :4, :6] = 0  # a corner that was never seen
    coords = georef_coords(Grid.make("EPSG:32631", 10), Box(0, 0, 30, 40))
    reflectance = (("time", "band", "y", "x"), da.from_array(stack, chunks=(3, 6, 30, 40)))
    return xr.Dataset({"reflectance": reflectance}, coords={**coords, "time": times, "band": list(BANDS)})


def _direct(cube: xr.Dataset, net: torch.nn.Module) -> np.ndarray:
    values = cube.reflectance.values.astype(np.float32)
    valid = (values != 0).all(axis=1)
    x_BTCHW = torch.tensor(np.where(valid[:, None], values, 0) / 10000)[None]
    days = torch.tensor(running_days(cube.time.values), dtype=torch.float32)
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


@pytest.mark.parametrize("names", [("crop", "other"), ("crop", "grass", "other")])
def test_a_linear_classifier_on_the_features_becomes_part_of_the_network(
    months: xr.Dataset, real_data: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    from sklearn.linear_model import LogisticRegression

    few = months.isel(y=slice(0, 12), x=slice(0, 20))
    few = few.assign_coords(georef_coords(Grid.make("EPSG:32631", 10), Box(0, 0, 12, 20)))
    features = presto(tmp_path / "a", real_data / "weights" / "presto_default_model.pt", SPEC, n_dates=3)
    planes = predict(few, features).embedding.compute(scheduler="synchronous")
    seen = planes.values[0] != VALUE_NO_DATA
    x = planes.values[:, seen].T * planes.attrs["scale"] + planes.attrs["offset"]
    ndvi = x[:, :4].sum(axis=1)
    y = np.digitize(ndvi, np.quantile(ndvi, np.linspace(0, 1, len(names) + 1)[1:-1]))
    model = LogisticRegression(C=0.1, max_iter=300).fit(x, y)
    classes = ClassScheme.from_names(names)
    bundle = presto_classes(tmp_path / "b", features, model, classes)
    out = predict(few, bundle, layers=("probability",)).compute(scheduler="synchronous")
    expected = model.predict_proba(x)
    assert (
        np.abs(out.probability.values[:, seen].T / 250 - expected).max() < 0.01
    )  # features rounded, then 1/250
    first, second = np.sort(expected, axis=1)[:, [-1, -2]].T
    clear = first - second > 0.02
    np.testing.assert_array_equal(out.label.values[seen][clear], expected.argmax(1)[clear] + 1)
    assert not out.label.values[~seen].any()
    with pytest.raises(InputError, match="does not fit"):
        presto_classes(tmp_path / "c", features, model, ClassScheme.from_names("abcd"))
    with pytest.raises(InputError, match="not Presto's features"):
        presto_classes(tmp_path / "c", bundle, model, classes)
