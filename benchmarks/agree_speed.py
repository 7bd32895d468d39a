"""Agreement of two maps, streamed, against reading both whole and counting pairs with numpy; on one grid and on two.

    python benchmarks/agree_speed.py [MASK]

Each way runs in a process of its own, so that its peak memory is its own (ru_maxrss less that of the imports).
MASK is a raster of classes; default the 10980 x 10980 cloud mask of the test data.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DATA = Path(os.environ.get("LANDWEAVE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
MASK = DATA / "full_tile" / "cloudmask_T19GBQ_20170725.tif"
NAMES = ("clear", "thick cloud", "thin cloud", "shadow")


def prepare(mask: Path, folder: Path) -> None:
    """Write a second map: the mask turned upside down; and it again, in degrees."""
    import rasterio
    from rasterio.vrt import WarpedVRT

    rows = [
        f"  - {{value: {v + 1}, name: {n}, colour: '#00000{v}', codes: [{v}]}}\n" for v, n in enumerate(NAMES)
    ]
    (folder / "classes.yaml").write_text("classes:\n" + "".join(rows))
    with rasterio.open(mask) as file:
        flipped, profile = file.read(1)[::-1], file.profile
    tiled = profile | {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    for name, values in (("a.tif", flipped[::-1]), ("b.tif", flipped)):
        with rasterio.open(folder / name, "w", **tiled) as out:
            out.write(values, 1)
    with (
        rasterio.open(folder / "b.tif") as file,
        WarpedVRT(file, crs="EPSG:4326", nodata=255, src_nodata=255) as moved,
    ):
        degrees = tiled | {"crs": "EPSG:4326", "transform": moved.transform, "nodata": 255}
        degrees |= {"height": moved.height, "width": moved.width}
        with rasterio.open(folder / "c.tif", "w", **degrees) as out:
            out.write(moved.read(1), 1)


def ours(folder: Path, second: str) -> dict[str, float]:
    from engine.assessment.agreement import Comparison
    from engine.assessment.legends import Legend
    from pipelines.class_maps import open_class_map

    yaml = folder / "classes.yaml"
    first, other = open_class_map(str(folder / "a.tif"), yaml), open_class_map(str(folder / second), yaml)
    legend = Legend.of(first.scheme, other.scheme)
    small = Comparison.of(first, other, legend)
    box = next(small.box.blocks(256))
    Comparison(first, other, legend, box).count()  # kernels are compiled, libraries loaded
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tally = small.count()
    return _told(begun, before, int(np.trace(tally.matrix)), int(tally.matrix.sum()))


def whole(folder: Path, second: str) -> dict[str, float]:
    """Read both whole, the second onto the first's grid by GDAL, and count pairs with numpy."""
    import rasterio
    from rasterio.vrt import WarpedVRT

    with rasterio.open(folder / "a.tif") as file:
        file.read(1, window=((0, 256), (0, 256)))
        begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        a = file.read(1)
        with rasterio.open(folder / second) as other:
            if other.crs == file.crs:
                b = other.read(1)
            else:
                same = {
                    "crs": file.crs,
                    "transform": file.transform,
                    "height": file.height,
                    "width": file.width,
                }
                with WarpedVRT(other, **same) as moved:
                    b = moved.read(1)
    known = b != 255
    pairs = np.bincount(a[known].astype(np.int64) * 4 + b[known], minlength=16).reshape(4, 4)
    return _told(begun, before, int(np.trace(pairs)), int(pairs.sum()))


def _told(begun: float, before: int, agree: int, pixels: int) -> dict[str, float]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seconds = time.perf_counter() - begun
    return {"s": seconds, "MiB": peak / 1024, "agree": agree, "pixels": pixels}


def main(mask: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        prepare(mask, folder)
        for title, second in (("one grid", "b.tif"), ("second map in degrees", "c.tif")):
            found = {}
            for way in ("whole", "ours", "whole", "ours"):
                call = [sys.executable, __file__, "--one", way, home, second]
                told = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
                if way not in found or told["s"] < found[way]["s"]:
                    found[way] = told
            a, b = found["ours"], found["whole"]
            print(f"{title}: {a['pixels'] / 1e6:.1f} Mpx")
            for way, told in found.items():
                print(f"  {way:<6} {told['s']:6.2f} s  +{told['MiB']:6.0f} MiB  {told['agree']} agree")
            print(f"  ratio of time {a['s'] / b['s']:.2f}, of memory {a['MiB'] / max(b['MiB'], 1):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        way, home, second = sys.argv[2:]
        print(json.dumps((ours if way == "ours" else whole)(Path(home), second)))
    else:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else MASK)
