from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rioxarray  # noqa: F401 - registers the accessor
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.transform import Affine

from engine.store.conventions import MULTISCALES, PROJ, SPATIAL
from engine.store.layout import Dim, StoreSpec, Variable, create, open_spec, update_attrs
from engine.store.regions import write_region
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid

GRID = Grid.make("EPSG:32633", 10)
CLASSES = Dim("class", ("wheat", "maize"))
MONTHS = Dim(
    "time",
    ("2023-03-01", "2023-04-01"),
    1,
    (("2023-03-01", "2023-04-01"), ("2023-04-01", "2023-05-01")),
)
BANDS = Dim("band", ("red", "nir"))
ALL = (
    Variable("label", "uint8", 0, attrs={"flag_values": (1, 2)}),
    Variable("probability", "uint8", 255, (CLASSES,)),
    Variable("reflectance", "uint16", 0, (MONTHS, BANDS)),
    Variable("elevation", "float32", float("nan")),
    Variable("height", "int16", -9999),
)


def _spec(**changes: object) -> StoreSpec:
    spec = StoreSpec(GRID, Box(-100, 30, -10, 200), 128, ALL, chunk_px=64, title="a map")
    return replace(spec, **changes)


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Every promise holds on disk and on an fsspec file system."""
    return str(tmp_path / "map.zarr") if request.param == "local" else f"memory://{tmp_path}/map.zarr"


def test_the_box_grows_outward_to_whole_shards() -> None:
    assert _spec().box == Box(-128, 0, 0, 256)


def test_xarray_and_rioxarray_see_everything_with_no_help(url: str) -> None:
    create(url, _spec())
    ds = xr.open_zarr(url)
    assert {n: (v.dtype.name, v.dims) for n, v in ds.data_vars.items() if n != "time_bnds"} == {
        "label": ("uint8", ("y", "x")),
        "probability": ("uint8", ("class", "y", "x")),
        "reflectance": ("uint16", ("time", "band", "y", "x")),
        "elevation": ("float32", ("y", "x")),
        "height": ("int16", ("y", "x")),
    }
    assert ds.rio.crs == CRS.from_epsg(32633)
    assert ds.label.rio.crs == CRS.from_epsg(32633)
    assert ds.label.rio.transform() == Affine(10, 0, 0, 0, -10, 1280)
    assert ds.label.rio.transform(recalc=True) == Affine(10, 0, 0, 0, -10, 1280)
    nodata = {n: ds[n].rio.nodata for n in ("label", "probability", "reflectance", "height")}
    assert nodata == {"label": 0, "probability": 255, "reflectance": 0, "height": -9999}
    assert np.isnan(ds.elevation.rio.nodata)
    assert "_FillValue" not in ds.label.attrs
    assert "_FillValue" not in ds.label.encoding


def test_coordinates_are_labels_times_and_pixel_centres(url: str) -> None:
    create(url, _spec())
    ds = xr.open_zarr(url)
    y, x = GRID.centres(Box(-128, 0, 0, 256))
    assert (ds.y.values == y).all()
    assert (ds.x.values == x).all()
    assert ds["class"].values.tolist() == ["wheat", "maize"]
    assert ds.time.values.astype("datetime64[D]").astype(str).tolist() == ["2023-03-01", "2023-04-01"]
    bounds = ds.time_bnds.values.astype("datetime64[D]").astype(str)
    assert bounds.tolist() == [["2023-03-01", "2023-04-01"], ["2023-04-01", "2023-05-01"]]


def test_unwritten_pixels_are_no_data(url: str) -> None:
    create(url, _spec())
    ds = xr.open_zarr(url)
    assert (ds.label.values == 0).all()
    assert (ds.probability.values == 255).all()
    assert (ds.height.values == -9999).all()
    assert np.isnan(ds.elevation.values).all()


def test_chunks_and_shards_are_what_was_asked_for(url: str) -> None:
    create(url, _spec())
    root = zarr.open_group(url, mode="r")
    assert (root["label"].chunks, root["label"].shards) == ((64, 64), (128, 128))
    assert (root["probability"].chunks, root["probability"].shards) == ((2, 64, 64), (2, 128, 128))
    assert (root["reflectance"].chunks, root["reflectance"].shards) == ((1, 2, 64, 64), (1, 2, 128, 128))


def test_conventions_stand_at_group_and_array_level(url: str) -> None:
    create(url, _spec())
    root = zarr.open_group(url, mode="r")
    for node in (root, root["label"]):
        attrs = dict(node.attrs)
        assert [c["uuid"] for c in attrs["zarr_conventions"]] == [PROJ["uuid"], SPATIAL["uuid"]]
        assert attrs["proj:code"] == "EPSG:32633"
        assert attrs["spatial:dimensions"] == ["y", "x"]
        assert attrs["spatial:transform"] == [10, 0, 0, 0, -10, 1280]
        assert attrs["spatial:shape"] == [128, 256]
        assert attrs["spatial:bbox"] == [0, 0, 2560, 1280]
        assert attrs["spatial:registration"] == "pixel"
    assert root["label"].attrs["grid_mapping"] == "spatial_ref"


def test_a_crs_without_a_code_is_written_as_wkt(tmp_path: Path, real_data: Path) -> None:
    import rasterio

    with rasterio.open(next((real_data / "cbers4_bahia").glob("*.tif"))) as source:
        crs, transform, shape = source.crs, source.transform, source.shape
    grid, box = Grid.of_transform(crs.to_wkt(), transform, shape)
    spec = StoreSpec(grid, box, 256, (Variable("label", "uint8", 0),), chunk_px=128)
    create(str(tmp_path), spec)
    ds = xr.open_zarr(tmp_path)
    assert ds.attrs["proj:wkt2"] == grid.crs
    assert "proj:code" not in ds.attrs
    inside = ds.label.isel(y=slice(box.y0 - spec.box.y0, None), x=slice(box.x0 - spec.box.x0, None))
    assert inside.rio.transform(recalc=True).almost_equals(transform, precision=1e-6)
    # PROJ sees the same operation: a point lands on the same spot
    from pyproj import Transformer

    ours = Transformer.from_crs(ds.rio.crs.to_wkt(), "EPSG:4326", always_xy=True)
    theirs = Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)
    assert ours.transform(transform.c, transform.f) == pytest.approx(
        theirs.transform(transform.c, transform.f), abs=1e-9
    )


def test_metadata_is_consolidated(tmp_path: Path) -> None:
    create(str(tmp_path), _spec())
    meta = json.loads((tmp_path / "zarr.json").read_text())
    assert set(meta["consolidated_metadata"]["metadata"]) >= {"label", "y", "x", "spatial_ref", "time"}
    assert xr.open_zarr(tmp_path, consolidated=True).label.dtype == np.uint8
    assert xr.open_zarr(tmp_path, consolidated=False).label.dtype == np.uint8


def test_making_it_again_changes_nothing(tmp_path: Path) -> None:
    create(str(tmp_path), _spec())
    write_region(str(tmp_path), Box(-128, 0, 0, 128), {"label": np.ones((128, 128), np.uint8)})
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    create(str(tmp_path), _spec())
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shard_px", 64),
        ("grid", Grid.make("EPSG:32632", 10)),
        ("box", Box(0, 0, 128, 128)),
        ("variables", ALL[:1]),
        ("title", "another"),
    ],
)
def test_another_spec_is_refused_by_name(url: str, field: str, value: object) -> None:
    create(url, _spec())
    with pytest.raises(ConflictError) as refused:
        create(url, _spec(**{field: value}))
    assert field in refused.value.where
    assert open_spec(url).to_dict() == _spec().to_dict()


def test_an_interrupted_making_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import engine.store.layout as layout

    whole = tmp_path / "whole"
    create(str(whole), _spec())
    half = tmp_path / "half"
    with monkeypatch.context() as patch:
        patch.setattr(layout, "_create_array", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            create(str(half), _spec())
    with pytest.raises(InputError, match="not completely made"):
        open_spec(str(half))
    create(str(half), _spec())
    assert (half / "zarr.json").read_bytes() == (whole / "zarr.json").read_bytes()


def test_a_foreign_group_is_not_overwritten(tmp_path: Path) -> None:
    zarr.create_group(tmp_path).attrs["mine"] = 1
    with pytest.raises(ConflictError):
        create(str(tmp_path), _spec())
    assert zarr.open_group(tmp_path, mode="r").attrs["mine"] == 1


def test_no_store_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no store"):
        open_spec(str(tmp_path / "nothing"))


def test_a_country_is_made_as_fast_as_a_village(tmp_path: Path) -> None:
    country = _spec(box=Box(0, 0, 100_000, 100_000), shard_px=2048, chunk_px=256)
    assert country.shards() == 49 * 49
    begun = time.monotonic()
    create(str(tmp_path), country)
    assert time.monotonic() - begun < 5
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 2_000_000
    assert not (tmp_path / "label" / "c").exists()


def test_attributes_and_conventions_can_be_added(url: str) -> None:
    create(url, _spec())
    update_attrs(url, {"multiscales": {"layout": []}}, MULTISCALES)
    update_attrs(url, {"multiscales": {"layout": [{"asset": "."}]}}, MULTISCALES)
    attrs = xr.open_zarr(url).attrs
    assert attrs["multiscales"] == {"layout": [{"asset": "."}]}
    assert [c["name"] for c in attrs["zarr_conventions"]] == ["proj:", "spatial:", "multiscales"]
    create(url, _spec())  # still the same store
    with pytest.raises(InputError):
        update_attrs(url, {"landweave": {}})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: _spec(shard_px=100),
        lambda: _spec(box=Box(0, 0, 0, 9)),
        lambda: _spec(variables=()),
        lambda: _spec(variables=(ALL[0], ALL[0])),
        lambda: _spec(variables=(Variable("x", "uint8", 0),)),
        lambda: _spec(
            variables=(
                Variable("a", "uint8", 0, (CLASSES,)),
                Variable("b", "uint8", 0, (replace(CLASSES, labels=("rye",)),)),
            )
        ),
        lambda: Variable("a", "uint8", 256),
        lambda: Variable("a", "uint8", float("nan")),
        lambda: Variable("a", "str", 0),
        lambda: Variable("a", "uint8", 0, attrs={"_FillValue": 0}),
        lambda: Dim("y", (1,)),
        lambda: Dim("time", ("2023-01-01",), bounds=()),
    ],
)
def test_what_cannot_be_is_refused(wrong: object) -> None:
    with pytest.raises(InputError):
        wrong()  # type: ignore[operator]


@given(
    y=st.integers(-10_000, 10_000),
    x=st.integers(-10_000, 10_000),
    size=st.integers(1, 5000),
    shard=st.sampled_from([64, 128, 512]),
)
def test_a_spec_survives_json(y: int, x: int, size: int, shard: int) -> None:
    spec = _spec(box=Box(y, x, y + size, x + size), shard_px=shard)
    again = StoreSpec.from_dict(json.loads(json.dumps(spec.to_dict(), allow_nan=False)))
    assert again.to_dict() == spec.to_dict()
    assert again.box == spec.box
    assert spec.box.holds(Box(y, x, y + size, x + size))
    assert spec.box == spec.box.snap_out(shard)
