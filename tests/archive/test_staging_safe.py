"""SAFE folders and zip files, made small: layout and XML follow the Sentinel-2 product specification."""

from __future__ import annotations

import datetime as dt
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from engine.archive.radiometry import radiometry
from engine.archive.search import search
from engine.archive.staging import stage
from engine.cube.cube import open_cube
from engine.values.area import Area
from engine.values.errors import InputError
from engine.values.grid import Grid
from engine.values.masking import SclMask
from engine.values.spec import CubeSpec

WORLD = Area.from_bbox((-180, -85, 180, 85))
NORTH, WEST = 5822040, 330000
BOX = Grid.make("EPSG:32633", 10).box_of_bounds((WEST, NORTH - 600, WEST + 600, NORTH))


@dataclass(frozen=True)
class Kind:
    """One product to write."""

    level: str = "L2A"
    baseline: str = "05.09"
    offset: int | None = -1000
    made: str = "20230510T130000"

    @property
    def name(self) -> str:
        digits = self.baseline.replace(".", "")
        return f"S2B_MSI{self.level}_20230510T101559_N{digits}_R065_T33UUU_{self.made}"


def jp2(path: Path, values: NDArray[np.generic], resolution: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", crs="EPSG:32633", count=1, dtype=values.dtype,
        transform=Affine(resolution, 0, WEST, 0, -resolution, NORTH), QUALITY=100, REVERSIBLE="YES",
        height=values.shape[0], width=values.shape[1],
    ) as file:  # fmt: skip
        file.write(values, 1)
    path.with_name(path.name + ".aux.xml").unlink(missing_ok=True)


def product_xml(kind: Kind) -> str:
    tag = "BOA_ADD_OFFSET" if kind.level == "L2A" else "RADIO_ADD_OFFSET"
    quantity = "BOA_QUANTIFICATION_VALUE" if kind.level == "L2A" else "QUANTIFICATION_VALUE"
    offsets = "".join(f'<{tag} band_id="{i}">{kind.offset}</{tag}>' for i in range(13))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<n1:Product xmlns:n1="https://psd-15.sentinel2.eo.esa.int/PSD/User_Product.xsd">
 <n1:General_Info><Product_Info>
  <PRODUCT_START_TIME>2023-05-10T10:15:59.024Z</PRODUCT_START_TIME>
  <PRODUCT_URI>{kind.name}.SAFE</PRODUCT_URI>
  <PRODUCT_TYPE>S2MSI{kind.level[1:]}</PRODUCT_TYPE>
  <PROCESSING_BASELINE>{kind.baseline}</PROCESSING_BASELINE>
  <GENERATION_TIME>2023-05-10T13:00:00.000000Z</GENERATION_TIME>
  <Datatake datatakeIdentifier="GS2B_20230510T101559_032251_N{kind.baseline}">
   <SPACECRAFT_NAME>Sentinel-2B</SPACECRAFT_NAME>
   <SENSING_ORBIT_NUMBER>65</SENSING_ORBIT_NUMBER></Datatake>
 </Product_Info><Product_Image_Characteristics>
  <{quantity} unit="none">10000</{quantity}>{offsets if kind.offset is not None else ""}
 </Product_Image_Characteristics></n1:General_Info>
 <n1:Quality_Indicators_Info><Cloud_Coverage_Assessment>12.5</Cloud_Coverage_Assessment>
 </n1:Quality_Indicators_Info></n1:Product>"""


TILE_XML = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Tile_ID xmlns:n1="https://psd-15.sentinel2.eo.esa.int/PSD/S2_PDI_Tile_Metadata.xsd"><n1:General_Info>
<DATASTRIP_ID>S2B_OPER_MSI_L2A_DS_2BPS_20230510T130000_S20230510T101601_N05.09</DATASTRIP_ID>
<SENSING_TIME>2023-05-10T10:20:31.5Z</SENSING_TIME></n1:General_Info></n1:Tile_ID>"""


def pixels(seed: int, side: int) -> NDArray[np.uint16]:
    values = np.random.default_rng(seed).integers(1001, 9000, (side, side)).astype(np.uint16)
    values[:, : side // 10] = 0
    return values


def write_safe(folder: Path, kind: Kind) -> Path:
    safe = folder / f"{kind.name}.SAFE"
    granule = safe / "GRANULE" / f"{kind.level}_T33UUU_A032251_20230510T101601"
    data, stem = granule / "IMG_DATA", "T33UUU_20230510T101559"
    if kind.level == "L2A":
        jp2(data / "R10m" / f"{stem}_B04_10m.jp2", pixels(4, 60), 10)
        jp2(data / "R20m" / f"{stem}_B04_20m.jp2", pixels(9, 30), 20)
        jp2(data / "R20m" / f"{stem}_B8A_20m.jp2", pixels(8, 30), 20)
        jp2(data / "R20m" / f"{stem}_SCL_20m.jp2", classes(), 20)
        jp2(granule / "QI_DATA" / "MSK_CLDPRB_20m.jp2", chance(), 20)
        jp2(data / "R10m" / f"{stem}_TCI_10m.jp2", pixels(9, 60), 10)
        jp2(granule / "QI_DATA" / "MSK_DETFOO_B04.jp2", pixels(9, 60), 10)
    else:
        jp2(data / f"{stem}_B04.jp2", pixels(4, 60), 10)
        jp2(data / f"{stem}_B8A.jp2", pixels(8, 30), 20)
    (safe / f"MTD_MSI{kind.level}.xml").write_text(product_xml(kind))
    (granule / "MTD_TL.xml").write_text(TILE_XML)
    return safe


def classes() -> NDArray[np.uint8]:
    scl = np.full((30, 30), 4, np.uint8)
    scl[:, :3] = 0
    scl[10:15, 10:20] = 9
    return scl


def chance() -> NDArray[np.uint8]:
    percent = np.zeros((30, 30), np.uint8)
    percent[:6, 3:] = 40
    return percent


def packed(safe: Path) -> Path:
    path = safe.with_name(f"{safe.stem}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in safe.rglob("*") if p.is_file()):
            archive.write(file, file.relative_to(safe.parent))
            file.unlink()
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kind", [Kind(), Kind("L1C"), Kind(baseline="02.14", offset=None)], ids=str)
def test_a_product_is_found_and_its_pixels_are_reflectance(tmp_path: Path, kind: Kind, zipped: bool) -> None:
    safe = write_safe(tmp_path / "in", kind)
    source = packed(safe) if zipped else safe
    items = search(WORLD, "2023", stage(source, tmp_path / "out"))
    (item,) = items
    assert (item.id, item.tile, item.platform, item.relative_orbit) == (kind.name, "33UUU", "sentinel-2b", 65)
    assert (item.baseline, item.cloud_cover) == (kind.baseline, 12.5)
    assert item.datatake == "GS2B_20230510T101559_032251"
    assert (item.datastrip, item.generated) == ("20230510T101601", "20230510130000")
    assert item.datetime == dt.datetime(2023, 5, 10, 10, 20, 31, 500000, tzinfo=dt.UTC)
    assert item.collection == f"staged-{kind.level.lower()}"
    assert item.bands == (("cloud", "nir08", "red", "scl") if kind.level == "L2A" else ("nir08", "red"))
    assert item.asset("red").href.startswith("/vsizip/") is zipped
    spec = CubeSpec(bands=["red", "nir08"], period=None, mask="none")
    cube = open_cube(items, spec, grid=Grid.make("EPSG:32633", 10), box=BOX)
    got = cube["reflectance"].compute(scheduler="synchronous").values[0]
    dn = np.stack([pixels(4, 60), pixels(8, 30).repeat(2, 0).repeat(2, 1)]).astype(np.int64)
    expected = np.where(dn == 0, 0, np.maximum(dn + (kind.offset or 0), 1)) * dn.all(axis=0)
    assert np.array_equal(got, expected)


def test_the_scene_classes_hide_and_count(tmp_path: Path) -> None:
    import json

    write_safe(tmp_path, Kind())
    items = search(WORLD, "2023", stage(tmp_path))
    spec = CubeSpec(bands=["red"], period=None, mask=[SclMask(dilate_m=0)])
    cube = open_cube(items, spec, grid=Grid.make("EPSG:32633", 10), box=BOX)
    seen = cube["observations"].compute(scheduler="synchronous").values[0]
    hidden = np.isin(classes(), (0, 9)).repeat(2, 0).repeat(2, 1)
    assert np.array_equal(seen, (~hidden & (pixels(4, 60) > 0)).astype(np.uint8))
    facts = json.loads(next(tmp_path.rglob(f"{Kind().name}.json")).read_text())["properties"]
    assert facts["landweave:coverage"] == 90
    assert facts["processing:level"] == "L2A"
    assert facts["eo:cloud_cover"] == 12.5  # what the product states, not our count


def test_the_cloud_probability_masks_and_counts(tmp_path: Path) -> None:
    safe = write_safe(tmp_path, Kind())
    next(safe.rglob("*_SCL_20m.jp2")).unlink()
    metadata = safe / "MTD_MSIL2A.xml"
    metadata.write_text(
        metadata.read_text().replace("<Cloud_Coverage_Assessment>12.5", "<Cloud_Coverage_Assessment>")
    )
    items = search(WORLD, "2023", stage(tmp_path))
    assert items.items[0].cloud_cover == pytest.approx(20)  # 6 of 30 rows, where there are data
    (asset,) = (a for a in items.items[0].assets if a.band == "cloud")
    with rasterio.open(asset.href) as file:
        assert np.array_equal(file.read(1), chance())


def test_two_processings_of_one_scene_give_the_newer(tmp_path: Path) -> None:
    write_safe(tmp_path, Kind())
    write_safe(tmp_path, Kind(baseline="03.01", offset=None, made="20230510T120000"))
    table = search(WORLD, "2023", stage(tmp_path))
    assert [i.baseline for i in table] == ["05.09"]
    assert len(table.superseded) == 1


@pytest.mark.parametrize(("offset", "expected"), [(None, 0.0), (0, 0.0), (-1000, -1000.0)])
def test_a_product_of_a_local_sen2cor_says_its_own_offset(
    tmp_path: Path, offset: int | None, expected: float
) -> None:
    write_safe(tmp_path, Kind(baseline="99.99", offset=offset))
    (item,) = search(WORLD, "2023", stage(tmp_path)).items
    assert radiometry(item).offset_dn == expected


def test_contradictions_and_damage_are_told(tmp_path: Path) -> None:
    write_safe(tmp_path / "a", Kind(baseline="02.14", offset=-1000))
    with pytest.raises(InputError, match=r"state an offset, but baseline 02.14 has none"):
        stage(tmp_path / "a")
    safe = write_safe(tmp_path / "b", Kind())
    (safe / "MTD_MSIL2A.xml").write_text("<broken")
    with pytest.raises(InputError, match=r"MTD_MSIL2A.xml cannot be read"):
        stage(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "MTD_MSIL1C.xml").write_text(product_xml(Kind("L1C")))
    with pytest.raises(InputError, match="holds no image"):
        stage(tmp_path / "c")
    (tmp_path / "d.zip").write_bytes(b"no zip")
    with pytest.raises(InputError, match="no SAFE product"):
        stage(tmp_path / "d.zip")
