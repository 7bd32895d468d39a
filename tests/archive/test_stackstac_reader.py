"""StackstacReader does what every reader must, and gives OdcReader's very bytes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from engine.archive.reader import OdcReader
from engine.archive.stackstac_reader import StackstacReader
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, Grid
from tests.archive.conformance import HOWS, LAEA, UTM, FileReaderConformance, ground, made_item, scenes_of


class TestStackstacReader(FileReaderConformance):
    """The whole suite."""

    @pytest.fixture
    def reader(self) -> StackstacReader:
        return StackstacReader()


@pytest.mark.parametrize("crs", [UTM, LAEA])
@pytest.mark.parametrize("how", HOWS)
def test_both_readers_give_the_same_bytes(real_data: Path, crs: str, how: str) -> None:
    item = scenes_of(real_data / "s2_l1c_33UUU")
    grid = Grid.make(crs, 10)
    box = grid.box_of_bounds(transform_bounds(UTM, crs, 334000, 5814000, 339000, 5819000))
    bands = ["B02", "B05", "B09"]
    one, other = (r.read(item, bands, grid, box, how) for r in (OdcReader(), StackstacReader()))  # type: ignore[arg-type]
    assert one.all(axis=0).mean() > 0.5
    assert np.array_equal(one, other)


def test_files_that_stackstac_does_not_know(tmp_path: Path) -> None:
    values = ground((60, 60))
    for name, count, turn in (("two.tif", 2, 0), ("turned.tif", 1, 30)):
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=60, width=60, count=count, dtype="uint16", crs=UTM,
            transform=Affine(10, 0, 300000, 0, -10, 5900040) @ Affine.rotation(turn),
        ) as file:  # fmt: skip
            for n in range(count):
                file.write(values, n + 1)
        box = Box(-590004, 30000, -589990, 30020)
        with pytest.raises(DataError, match=f"item made, band red, .*{name}.*OdcReader"):
            StackstacReader().read(made_item(red=str(tmp_path / name)), ["red"], Grid.make(UTM, 10), box)


def test_missing_and_broken_files_are_data_errors(tmp_path: Path) -> None:
    text = tmp_path / "t.tif"
    text.write_text("no image")
    for path in (text, tmp_path / "absent.tif"):
        with pytest.raises(DataError, match=f"item made, band red, {path}"):
            StackstacReader().read(made_item(red=str(path)), ["red"], Grid.make(UTM, 10), Box(0, 0, 5, 5))


def test_without_stackstac_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == "stackstac"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "stackstac", None)
    with pytest.raises(InputError, match=r"pip install 'landweave\[stackstac\]'"):
        StackstacReader()
