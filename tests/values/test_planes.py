"""Planes: the rules of their 16 bits, their groups, and what a spec names."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.cube.phenology import METRICS
from engine.values.planes import Plane, PlaneKind, decode, encode, groups_of, planes_of
from engine.values.recipe import Features
from engine.values.spec import CubeSpec


@given(st.floats(-2.5, 3.5), st.sampled_from(["index", "layer"]))
def test_what_is_encoded_is_decoded_to_half_a_step(value: float, kind: PlaneKind) -> None:
    plane = Plane(name="p", kind=kind, **({"scale": 10_000.0, "low": -3.0} if kind == "layer" else {}))
    stored = encode(np.array([value, np.nan], np.float32), plane)
    assert stored[1] == 0 < stored[0]
    assert abs(float(decode(stored, plane)[0]) - value) <= 0.5 / 10_000 + 1e-6


def test_the_planes_of_a_spec_are_all_that_it_names() -> None:
    features = {
        "indices": ("NDVI", "EVI"),
        "statistics": ("NDVI_mean", "red_count", "NDVI_slope"),
        "phenology": "NDVI",
        "position": True,
        "layers": [
            {"name": "height", "file": "dem.tif"},
            {"name": "steep", "file": "dem.tif", "derive": "slope"},
        ],
    }
    spec = CubeSpec(bands=("red", "nir"), features=features, sentinel1={"polarisations": ("vh",)})
    planes = planes_of(spec)
    names = [plane.name for plane in planes]
    phenology = [f"phenology_{metric}" for metric in METRICS]
    assert names[:5] == ["red", "nir", "NDVI", "EVI", "vh"]
    assert names[5:8] == ["NDVI_mean", "red_count", "NDVI_slope"]
    assert names[8:] == [*phenology, "position_x", "position_y", "position_z", "height", "steep"]
    assert groups_of(planes) == ("optical",) * 4 + ("radar",) + ("static",) * (len(planes) - 5)
    by_name = {plane.name: plane for plane in planes}
    for name, value in {"height": 2743.0, "steep": 41.5, "red_count": 0.0, "NDVI_slope": -2.5, "phenology_peak": 411.0,
                        "phenology_greening": 0.031, "position_z": -0.7}.items():  # fmt: skip
        plane = by_name[name]
        back = float(decode(encode(np.float32([value]), plane), plane)[0])
        assert back == pytest.approx(value, abs=0.5 / plane.rule[0] + 1e-6)
    assert planes_of(CubeSpec(bands=("red",))) == (Plane(name="red"),)


def test_a_cube_may_give_more_than_was_asked_and_layers_from_another_file() -> None:
    def spec(**features: object) -> CubeSpec:
        return CubeSpec(bands=("red",), features=Features.model_validate(features))

    mine = spec(indices="NDVI", layers=[{"name": "height", "file": "alps.tif"}])
    more = spec(indices=("EVI", "NDVI"), position=True, layers=[{"name": "height", "file": "andes.tif"}])
    mine.require(more, n_dates=1, other_n_dates=1)
    CubeSpec(bands=("red",)).require(more, n_dates=1, other_n_dates=1)
    for other in (
        spec(indices="NDVI"),
        spec(indices="NDVI", layers=[{"name": "height", "file": "x", "derive": "slope"}]),
    ):
        with pytest.raises(Exception, match="features"):
            mine.require(other, n_dates=1, other_n_dates=1)
    with pytest.raises(Exception, match="sentinel1"):
        CubeSpec(bands=("red",), sentinel1=True).require(CubeSpec(bands=("red",)), n_dates=1, other_n_dates=1)
