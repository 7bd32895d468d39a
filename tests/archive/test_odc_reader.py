"""OdcReader does what every reader must; and looks at overviews when it is told to, and only then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.archive.reader import OdcReader
from engine.values.grid import Box, Grid
from tests.archive.conformance import (
    LAEA,
    UTM,
    FileReaderConformance,
    block_over,
    ground,
    made_item,
    make_cog,
)


class TestOdcReader(FileReaderConformance):
    """The whole suite."""

    @pytest.fixture
    def reader(self) -> OdcReader:
        return OdcReader()


class TestLooking:
    """Overviews, on request only; those of the made file are all 7."""

    @pytest.mark.parametrize(
        ("pixel_m", "looked"), [(10, False), (19.9, False), (20, True), (40, True), (333, True)]
    )
    def test_a_coarser_grid_is_read_from_overviews(
        self, tmp_path: Path, pixel_m: float, looked: bool
    ) -> None:
        path = make_cog(tmp_path / "a.tif", np.maximum(ground((512, 512)), 8))
        for crs in (UTM, LAEA):
            grid = Grid.make(crs, pixel_m)
            box = block_over(path, grid)
            got = OdcReader(overviews=True).read(made_item(red=path), ["red"], grid, box)
            assert (got == 7).any() == looked
            if looked:
                assert set(np.unique(got)) == {0, 7}
            assert not (OdcReader().read(made_item(red=path), ["red"], grid, box) == 7).any()

    def test_the_pixel_of_an_overview_lies_right(self, tmp_path: Path) -> None:
        import rasterio
        from affine import Affine

        values = ground((256, 300))
        path = tmp_path / "a.tif"
        with rasterio.open(
            path, "w", driver="GTiff", height=256, width=300, count=1, dtype="uint16", nodata=0, crs=UTM,
            transform=Affine(10, 0, 300000, 0, -10, 5900040), tiled=True, blockxsize=128, blockysize=128,
        ) as file:  # fmt: skip
            file.write(values, 1)
            file.build_overviews([2, 4], rasterio.enums.Resampling.average)
        with rasterio.open(path, overview_level=1) as file:
            truth = file.read(1)
        grid = Grid(UTM, (40.0, 40.0), (300000.0, 5900040.0))
        got = OdcReader(overviews=True).read(made_item(red=str(path)), ["red"], grid, Box(-1, -1, 65, 76))[0]
        assert np.array_equal(got[1:-1, 1:-1], truth)
        assert not got[0].any()
