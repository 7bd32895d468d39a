"""Local cubes of real pixels, staged, searched, opened and mapped: placed right, and refused where they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from engine.archive.items import ItemTable
from engine.archive.search import search
from engine.archive.staging import Hints, stage
from engine.cube.cube import open_cube
from engine.inference.bundle import Bundle
from engine.inference.foreign import dynamic_world
from engine.inference.predict import predict
from engine.values.area import Area
from engine.values.errors import LandweaveError
from engine.values.lattice import Lattice

EUROPE = Area.from_bbox((0.0, 40.0, 20.0, 60.0))
CROPS = 5


@pytest.fixture(scope="module")
def bundle(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    weights = real_data / "weights"
    network, constants = weights / "dynamicworld_forward.onnx", weights / "dynamicworld_normalisation.json"
    return dynamic_world(tmp_path_factory.mktemp("dw"), network, constants, Lattice(64, 32))


@pytest.fixture(scope="module")
def belgium(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = real_data / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    return stage(source, tmp_path_factory.mktemp("belgium"))


def _label(scenes: ItemTable, bundle: Bundle) -> np.ndarray:
    return np.asarray(predict(open_cube(scenes, bundle.spec), bundle).label.compute(scheduler="sync"))


def test_crops_in_august_lie_where_another_system_put_cropland(
    real_data: Path, belgium: Path, bundle: Bundle
) -> None:
    """WorldCereal's map is model output of other months, too; an image laid one row off or upside down loses it."""
    path = real_data / "worldcereal" / "worldcereal_cropland_classification.nc"
    with xr.open_dataset(path, engine="netcdf4", mask_and_scale=False) as other:
        layers = other["__xarray_dataarray_variable__"]
        cropland = layers.sel(bands="probability_cropland").values > 50
    crops = _label(search(EUROPE, "2021-08", str(belgium)), bundle) == CROPS
    assert crops.shape == cropland.shape
    agreement = (crops == cropland).mean()
    assert agreement > 0.8
    assert agreement > (crops[::-1] == cropland).mean() + 0.2
    assert agreement > (crops[:, ::-1] == cropland).mean() + 0.2


def test_the_two_empty_months_are_no_data(belgium: Path, bundle: Bundle) -> None:
    for month in ("2020-12", "2021-01"):
        assert not _label(search(EUROPE, month, str(belgium)), bundle).any()


def test_an_image_of_four_bands_is_refused_by_a_network_of_nine(
    real_data: Path, tmp_path: Path, bundle: Bundle
) -> None:
    bands, dates = ("red", "green", "blue", "nir") * 2, ("2021-04-10", "2021-08-20")
    catalog = stage(
        real_data / "s2_ftw_austria" / "inference-img.tif", tmp_path, hints=Hints(bands=bands, dates=dates)
    )
    scenes = search(EUROPE, "2021", str(catalog))
    assert len(scenes) == 2
    with pytest.raises(LandweaveError, match="rededge1"):
        open_cube(scenes, bundle.spec).reflectance.compute(scheduler="sync")
