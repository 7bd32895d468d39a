"""A run of a FakeJob as `map` would run it, also in a process of its own: ``python -m ... '{...}'``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely

from cluster.local import LocalSpec
from engine.runs.events import RunOptions
from engine.store.layout import create
from engine.store.lease import Lease
from engine.values.area import Area
from engine.values.grid import TileKey
from engine.values.tiling import Tiling
from pipelines.console import map_progress
from pipelines.plan_tiles import tiles_of, walk_of
from pipelines.run_folder import write_plan
from pipelines.tile_inputs import put_area, tiling_in
from pipelines.tile_stage import Around, StageResult, run_jobs
from tests.runs.fake_job import TILE_PX, FakeJob


@dataclass(frozen=True)
class StageJob(FakeJob):
    """A FakeJob whose store lies in its run folder, under the stage's name."""

    name: str = "map"

    @property
    def store_url(self) -> str:
        return f"{self.run_dir}/{self.name}.zarr"

    def prepare(self) -> Area:
        """Make store, outline and plan."""
        Path(self.run_dir).mkdir(parents=True, exist_ok=True)
        create(self.store_url, self.spec())
        area = Area("Weavonia", self._outline())
        outline = put_area(self.run_dir, area)
        plan = walk_of(tiling_in(self.run_dir, outline, self.spec().grid, TILE_PX), outline)
        assert plan["tiles"] == self.side**2
        more = {"stage": self.name, "store": f"{self.name}.zarr", "area": area.name}
        write_plan(self.run_dir, {**plan, **more, "projected_bytes": 1 << 28, "versions": {"numpy": "2"}})
        return area

    def tiles(self) -> Tiling:
        plan = json.loads(
            Path(self.run_dir, "plan.json" if self.name == "map" else f"plan-{self.name}.json").read_text()
        )
        return tiles_of(self.run_dir, plan)

    def _outline(self) -> Any:
        from pyproj import Transformer

        grid, box = self.spec().grid, self.spec().box
        inner = shapely.box(*grid.bounds_of_box(box)).buffer(-30)
        back = Transformer.from_crs(grid.crs, "OGC:CRS84", always_xy=True)
        return shapely.transform(inner, back.transform, interleaved=False)


def run(job: StageJob, cluster: Any = None, **around: Any) -> StageResult:
    """Run a job as one stage."""
    area = job.prepare()
    options = RunOptions(**{"patience_s": 5.0, "beat_s": 0.5, **around})
    with (
        Lease(job.run_dir, patience_s=options.patience_s, beat_s=options.beat_s) as lease,
        map_progress() as listener,
    ):
        km2, summaries = run_jobs([job], area, Around(lease, options, cluster, listener))
    return StageResult(job.run_dir, km2, summaries)


def main(settings: dict[str, Any]) -> int:
    """Run the job and print the summary."""
    bad = {k: tuple(TileKey.parse(t) for t in settings.pop(k, [])) for k in ("bad", "flaky", "poison")}
    result = run(StageJob(**settings, **bad), LocalSpec(n_workers=1, memory_limit="1GiB"))
    print(json.dumps(result.as_dict()), flush=True)
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
