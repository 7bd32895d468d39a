"""What is made of the tiles when they are done: overviews, COG, STAC, picture, seam statistic."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.archive.items import ItemTable
from engine.inference.seams import SeamReport, map_seams
from engine.products.overviews import build_overviews
from engine.values.area import Area
from pipelines.map_job import MapJob

SEAMS_FILE = "seams.json"


@dataclass(frozen=True)
class Products:
    """Where the products lie, and the verdict on seams."""

    seams: SeamReport

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        worst = max(self.seams.families, key=lambda f: f.z, default=None)
        told = f" (largest z {worst.z:.1f}, ratio {worst.ratio:.3f})" if worst else ""
        return {"seams": ("SEEN" if self.seams.seam else "none found") + told}


def make_products(job: MapJob, area: Area, table: ItemTable) -> Products:
    """Make all products of a finished map; each replaces what an earlier run made."""
    run = Path(job.run_dir)
    build_overviews(job.store_url)
    seams = map_seams(job.store_url, job.bundle.lattice, job.tile_px, grid=job.grid)
    (run / SEAMS_FILE).write_text(json.dumps(asdict(seams), indent=1))
    return Products(seams)
