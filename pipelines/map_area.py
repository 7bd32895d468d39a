"""Map an area: find the scenes, freeze the plan, run the tiles, make the products.

Running it again goes on: the scenes of the first run are kept while the question (area, time, catalogue)
is the same, tiles whose key is on record are not made again.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cluster.launch import open_client
from engine.archive.items import ItemTable
from engine.archive.radiometry import radiometry
from engine.inference.bundle import Bundle, load_bundle
from engine.inference.lane import instruction_set
from engine.runs.driver import RunEvent, RunOptions, RunSummary, run_tiles
from engine.store.layout import create
from engine.store.lease import Lease
from engine.values.area import Area
from engine.values.budget import require_fit, tile_bytes
from engine.values.errors import InputError
from engine.values.grid import Box, Grid
from pipelines.config import RunConfig
from pipelines.cube_area import area_of, grid_and_box
from pipelines.map_job import ITEMS_FILE, SHARD_MAX_PX, MapJob, write_inputs
from pipelines.plan_area import check_fit, search_padded, spec_of, tile_shape
from pipelines.products import Products, make_products
from pipelines.run_folder import PLAN_FILE, read_plan

Listener = Callable[[RunEvent, float], None]


@dataclass(frozen=True)
class MapResult:
    """What a run did.

    Attributes:
        run: The run folder.
        km2: Surface of the outline in square kilometres.
        summary: How the tiles ended.
        products: What was made of them; None after an interruption or when not wanted.
    """

    run: str
    km2: float
    summary: RunSummary
    products: Products | None

    @property
    def exit_code(self) -> int:
        """0 done, 3 partial, 4 nothing but errors, 5 interrupted."""
        return self.summary.exit_code

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        s = self.summary
        made = self.km2 * s.done / max(1, s.total)
        speed = f"{made * 3600 / s.seconds:,.0f} km2/h" if s.done else "nothing new"
        return {
            "run": self.run,
            "tiles": f"{s.done} made, {s.reused} kept, {s.failed + s.quarantined} failed, {s.left} left of {s.total}",
            "speed": f"{speed} ({s.seconds:.1f} s)",
            "memory": f"{s.peak_bytes / 2**30:.2f} GiB a worker at most",
            "gaps": s.gaps,
            **(self.products.as_dict() if self.products else {}),
        }


def map_area(
    config: RunConfig, *, resume: bool = True, client: Any = None, listener: Listener | None = None
) -> MapResult:
    """Make the map that a configuration asks for.

    Args:
        config: The run.
        resume: False searches again and makes every tile again.
        client: A `distributed.Client` to run on; default what ``config.cluster`` says.
        listener: Called for each event of the run, with the mean square kilometres of one tile.

    Raises:
        InputError: If area, scenes, bundle or sizes do not fit together.
        ConflictError: If another run holds the folder.
    """
    run_dir = _run_folder(config)
    options = RunOptions(resume=resume)
    with Lease(str(run_dir), patience_s=options.patience_s, beat_s=options.beat_s) as lease:
        job, area, table = prepare(config, resume=resume)
        km2 = _surface_km2(area) / max(1, len(job.tiles()))
        heard = None if listener is None else (lambda event: listener(event, km2))
        with open_client(client or config.cluster) as running:
            _require_memory(str(run_dir), running)
            summary = run_tiles(job, running, str(run_dir), options, heard, lease=lease)
        products = None
        if config.products and not summary.interrupted and summary.done + summary.reused:
            products = make_products(job, area, table)
    return MapResult(config.out, km2 * summary.total, summary, products)


def _require_memory(run_dir: str, client: Any) -> None:
    """Refuse a plan whose tile does not fit into the smallest worker, before the first tile."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [w["memory_limit"] for w in workers if w.get("memory_limit")]
    if limits:
        require_fit({"total": read_plan(run_dir)["projected_bytes"]}, min(limits), "tile_px")


def _surface_km2(area: Area) -> float:
    """Surface of the outline on the ellipsoid (Karney 2013, by pyproj)."""
    from pyproj import Geod

    square_metres, _ = Geod(ellps="WGS84").geometry_area_perimeter(area.geometry)
    return abs(float(square_metres)) / 1e6


def _run_folder(config: RunConfig) -> Path:
    if "://" in config.out:
        raise InputError("run folders are local for now", where="out", found=config.out, mend="a local path")
    run_dir = Path(config.out).absolute()
    run_dir.mkdir(parents=True, exist_ok=True)
    return run_dir


def prepare(config: RunConfig, *, resume: bool = True) -> tuple[MapJob, Area, ItemTable]:
    """Do all that comes before the first tile: read, search, check, freeze, and make the empty store.

    The caller holds the folder's lease, so that two runs cannot freeze two plans.
    """
    _check_sizes(config)
    run_dir = _run_folder(config)
    bundle, area = load_bundle(config.bundle), area_of(config.area)
    spec = spec_of(config, bundle)
    grid, _ = grid_and_box(area, config.crs, spec.resolution_m)
    question = _question(config, area, bundle)
    table = _known_scenes(run_dir, question) if resume else None
    fresh = table is None
    if table is None:
        table = search_padded(config, area, bundle)
    steps = check_fit(bundle, table, spec, grid)
    job = MapJob(
        run_dir=str(run_dir),
        grid=grid,
        tile_px=config.tile_px,
        chunk_px=config.chunk_px,
        spec=spec,
        bundle=bundle,
        probability=config.probability,
    )
    create(
        job.store_url, job.store_spec(area, f"{area.name}, {config.time}")
    )  # refuses before anything is changed
    write_inputs(run_dir, area, table if fresh else None)
    tile = Box(0, 0, config.tile_px, config.tile_px)
    memory = tile_bytes(tile_shape(bundle, spec, steps, tile, config.chunk_px))
    plan = {**_plan(config, job, grid, table), "question": question, "projected_bytes": memory["total"]}
    (run_dir / PLAN_FILE).write_text(json.dumps({**plan, "area": area.name}, indent=1, default=str))
    return job, area, table


def _check_sizes(config: RunConfig) -> None:
    if config.tile_px > SHARD_MAX_PX and config.tile_px % SHARD_MAX_PX:
        raise InputError(
            "a large tile must be whole shards",
            where="tile_px",
            found=f"{config.tile_px} px",
            limit=f"a multiple of {SHARD_MAX_PX} px",
            mend=f"use {config.tile_px // SHARD_MAX_PX * SHARD_MAX_PX}",
        )


def _question(config: RunConfig, area: Area, bundle: Bundle) -> str:
    """Hash what the search is asked; the same question keeps the scenes that were found."""
    asked: list[Any] = [area.digest(), config.time, config.catalog, config.collection, config.max_cloud]
    asked += [config.orbits, config.probe]
    asked.append(bundle.lattice.window_px * bundle.spec.resolution_m)
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


def _known_scenes(run_dir: Path, question: str) -> ItemTable | None:
    try:
        known = json.loads((run_dir / PLAN_FILE).read_text())["question"]
    except (OSError, ValueError, KeyError):
        return None
    scenes = run_dir / ITEMS_FILE
    return ItemTable.from_parquet(scenes) if known == question and scenes.exists() else None


def _plan(config: RunConfig, job: MapJob, grid: Grid, table: ItemTable) -> dict[str, Any]:
    """Freeze what was decided, with the versions and the instruction set that make the bytes."""
    return {
        "config": config.model_dump(mode="json"),
        "grid": asdict(grid),
        "tile_px": config.tile_px,
        "tiles": [str(t) for t in job.tiles()],
        "bundle": job.bundle.digest(),
        "scenes": table.digest(),
        "superseded": list(table.superseded),
        "radiometry": {i.id: {**asdict(radiometry(i)), "probe": i.probe} for i in table},
        "versions": {n: version(n) for n in ("numpy", "torch", "onnxruntime", "rasterio", "zarr", "dask")},
        "instruction_set": instruction_set(),
        "planned_utc": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
