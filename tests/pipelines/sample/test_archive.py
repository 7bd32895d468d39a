from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rio_cogeo.cogeo import cog_validate

from engine.values.classes import ClassScheme
from engine.values.errors import ConflictError, InputError
from engine.values.grid import Box, Grid
from pipelines.sample.archive import SampleArchive, make_sample_archive, write_cog
from pipelines.sample.truth import SCHEME, WATER
from tests.pipelines.conftest import DATES, SEED, SIZE_M


def _rasters(archive: SampleArchive) -> dict[str, Path]:
    return {str(p.relative_to(archive.root)): p for p in sorted(archive.root.rglob("*.tif"))}


def _hash(archive: SampleArchive) -> dict[str, str]:
    found = {}
    for name, path in _rasters(archive).items():
        with rasterio.open(path) as source:
            found[name] = hashlib.sha256(source.read(1).tobytes()).hexdigest()
    return found


def _scenes(archive: SampleArchive) -> list[Path]:
    return sorted({p.parent for p in archive.root.rglob("B02.tif")}, key=lambda p: p.name.split("_")[2])


def test_the_same_seed_gives_the_same_pixels_with_any_number_of_threads(
    two_zones: SampleArchive, empty: Path
) -> None:
    again = make_sample_archive(empty, seed=SEED, size_m=SIZE_M, n_dates=DATES, workers=3)
    assert _hash(again) == _hash(two_zones)
    assert again.catalog.read_text() == two_zones.catalog.read_text()


def test_another_seed_gives_other_pixels(sample: SampleArchive, empty: Path) -> None:
    other = _hash(make_sample_archive(empty, seed=SEED + 1, size_m=1800, n_dates=2, workers=1))
    assert not set(other.values()) & set(_hash(sample).values())


def test_all_rasters_are_valid_cogs(two_zones: SampleArchive) -> None:
    for name, path in _rasters(two_zones).items():
        valid, errors, _ = cog_validate(str(path), quiet=True)
        assert valid, (name, errors)


def test_a_large_raster_gets_an_overview(empty: Path) -> None:
    values = np.arange(2500 * 600, dtype=np.uint16).reshape(600, 2500) % 1000 + 1
    empty.mkdir()
    write_cog(empty / "large.tif", values, Grid.make(32633, 10), Box(0, 0, 600, 2500))
    with rasterio.open(empty / "large.tif") as source:
        assert source.overviews(1) == [2]
        assert np.array_equal(source.read(1), values)


def test_the_three_resolutions_share_corners_and_no_data(two_zones: SampleArchive) -> None:
    for folder in _scenes(two_zones):
        bounds = set()
        for path in folder.glob("*.tif"):
            with rasterio.open(path) as source:
                bounds.add(tuple(source.bounds))
                assert source.crs.to_string() == f"EPSG:326{folder.name[5:7]}"
                assert source.nodata == 0
                assert source.dtypes == ("uint8" if path.stem == "SCL" else "uint16",)
                assert source.res[0] in (10, 20, 60)
        assert len(bounds) == 1
        left, bottom, right, top = bounds.pop()
        assert left % 60 == bottom % 60 == right % 60 == top % 60 == 0
        if "_T33" in folder.name:
            assert left >= two_zones.bounds[0]
            assert right <= two_zones.bounds[2]


def test_tiles_of_a_datatake_are_identical_where_they_overlap(two_zones: SampleArchive) -> None:
    from rasterio.windows import from_bounds

    compared = {"32": 0, "33": 0}
    for north in [p for p in _scenes(two_zones) if "XAA" in p.name]:
        south = north.with_name(north.name.replace("XAA", "XAB"))
        for path in north.glob("*.tif") if south.exists() else ():
            with rasterio.open(path) as a, rasterio.open(south / path.name) as b:
                common = (a.bounds.left, a.bounds.bottom, a.bounds.right, b.bounds.top)
                first, second = (s.read(1, window=from_bounds(*common, s.transform)) for s in (a, b))
            assert first.shape[0] >= 2
            assert np.array_equal(first, second)
            compared[north.name[5:7]] += int((first > 0).sum())
    assert min(compared.values()) > 5_000


def test_reflectance_of_water_is_the_same_before_and_after_the_offset(sample: SampleArchive) -> None:
    with rasterio.open(sample.truth) as source:
        truth, bounds = source.read(1), source.bounds
    darkest: dict[int, list[float]] = {0: [], 1000: []}
    for folder in _scenes(sample):
        offset = 0 if folder in _scenes_before_offset(sample) else 1000
        with rasterio.open(folder / "B11.tif") as swir, rasterio.open(folder / "SCL.tif") as scl:
            col, row = (round(v / 10) for v in (swir.bounds.left - bounds.left, bounds.top - swir.bounds.top))
            here = truth[row : row + 2 * swir.height : 2, col : col + 2 * swir.width : 2] == WATER
            dn = swir.read(1)[here & (scl.read(1) == 6)]
        if dn.size > 20:
            darkest[offset].append(float(np.median(dn)))
    assert max(darkest[0]) < 500
    assert min(darkest[1000]) > 1000, "ignoring the offset is visible"
    assert np.mean(darkest[1000]) - 1000 == pytest.approx(np.mean(darkest[0]), abs=150)


def _scenes_before_offset(archive: SampleArchive) -> list[Path]:
    import pystac

    items = pystac.Catalog.from_file(str(archive.catalog)).get_items(recursive=True)
    old = {i.id for i in items if i.properties.get("s2:processing_baseline", "99") < "04.00"}
    assert old
    return [p for p in _scenes(archive) if p.name in old]


def test_truth_and_scheme_fit(sample: SampleArchive) -> None:
    with rasterio.open(sample.truth) as source:
        truth = source.read(1)
        assert tuple(source.bounds) == sample.bounds
        assert source.res == (10, 10)
    scheme = ClassScheme.from_file(sample.classes)
    assert scheme == SCHEME
    assert set(np.unique(truth)) == set(scheme.values)


def test_it_says_that_it_is_simulated(sample: SampleArchive) -> None:
    told = [sample.root / "README.txt", sample.catalog, sample.territory, *sample.root.rglob("S[12]*.json")]
    for path in told:
        assert "simulated" in path.read_text().lower(), path


def test_progress_is_told(empty: Path) -> None:
    told: list[tuple[int, int, str]] = []
    make_sample_archive(
        empty, size_m=1200, n_dates=2, progress=lambda done, total, what: told.append((done, total, what))
    )
    assert [t[0] for t in told] == list(range(9)), "land, 2 scenes, 4 passes, the rest"
    assert {t[1] for t in told} == {8}
    assert all("simulated" in t[2] for t in told[:-1])


def test_a_folder_with_files_is_left_alone(empty: Path) -> None:
    empty.mkdir()
    (empty / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError, match="not empty"):
        make_sample_archive(empty, size_m=1200, n_dates=2)
    assert [p.name for p in empty.iterdir()] == ["mine.txt"]


def test_a_refused_size_writes_nothing(empty: Path) -> None:
    with pytest.raises(InputError, match="too small"):
        make_sample_archive(empty, size_m=100)
    assert not empty.exists()
