"""A plan as figures for programs, and as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.size import ClusterSize
from engine.runs.estimate import LEVEL, Interval, TileSize, Way
from engine.values.budget import GIB
from pipelines.probe_tiles import Probe
from pipelines.propose_window import WindowChoice
from pipelines.survey import CUBE_COMPRESSED, Survey, Ways

HOUR_S = 3600.0


@dataclass(frozen=True)
class MapPlan:
    """What a map needs.

    Attributes:
        scenes: Counts of the scenes, see `pipelines.plan_area.summarise_scenes`.
        looked_at: What the scenes' pixels said, or why nobody looked.
        tile_px: Side of a tile.
        window_px: Side of a window; of an ensemble the largest.
        survey: Tiles, windows, bytes.
        record: Tiles on record before, counted by what would become of them: ``kept``, or why they are made again.
        memory: Projected bytes of a worker by part.
        map_bytes: Pixels of the tiles to make, before compression.
        ways: Cost of reading in halos, and of staging.
        through: The way that is taken.
        proposal: The cheaper way, with its reason.
        sizes: Other tile sizes.
        size: The size that is proposed, with its reason.
        cluster: Where it runs, None where only its scheduler knows.
        probe: What was measured, None without a probe.
        no_probe: Why there was none.
        run_s: Seconds of the whole run, startup included.
        left_s: Seconds of what the probe has left to do.
        price: Of a worker for an hour.
        windows: The windows that were tried, where the plan was to choose one.
        refine: How the map is refined, see `pipelines.refine_plan.foreseen`; None where it is not.
    """

    scenes: Mapping[str, Any]
    looked_at: str
    tile_px: int
    window_px: int
    survey: Survey
    record: Mapping[str, int]
    memory: Mapping[str, int]
    map_bytes: int
    ways: Ways
    through: Way
    proposal: tuple[Way, str]
    sizes: Sequence[TileSize]
    size: tuple[TileSize, str]
    cluster: ClusterSize | None
    probe: Probe | None
    no_probe: str
    run_s: Interval | None
    left_s: Interval | None
    price: float | None
    windows: WindowChoice | None = None
    refine: Mapping[str, Any] | None = None

    @property
    def money(self) -> Interval | None:
        """Workers x hours x price; None where one of them is not known."""
        if self.price is None or self.run_s is None or self.cluster is None:
            return None
        return self.run_s.times(self.price * self.cluster.workers / HOUR_S)

    def as_dict(self) -> dict[str, Any]:
        """Return figures for programs: bytes, seconds, counts."""
        seen, probe = self.survey, self.probe
        return {
            "scenes": {**self.scenes, "pixels": self.looked_at},
            "tiles": {
                "make": seen.tiles,
                "empty": seen.empty,
                "outside": seen.outside,
                "tile_px": self.tile_px,
                "on_record": dict(self.record),
            },
            "windows": seen.windows,
            "window": self.windows.as_dict() if self.windows else {"window_px": self.window_px},
            "read_bytes": round(seen.archive_bytes),
            "halo_factor": round(seen.halo_factor, 3),
            "file_sizes": seen.sizes,
            "memory_bytes": {**self.memory, "total": sum(self.memory.values())},
            **({"refine": dict(self.refine)} if self.refine else {}),
            "storage_bytes": {
                "map": self.map_bytes,
                "map_compressed": self._compressed,
                "cube_compressed": round(self.ways.cube_bytes),
            },
            "workers": asdict(self.cluster) if self.cluster else None,
            "seconds": asdict(self.run_s) if self.run_s else None,
            "seconds_left": asdict(self.left_s) if self.left_s else None,
            "money": asdict(self.money) if self.money else None,
            "interval_level": LEVEL,
            "probe": self._probe_dict() if probe else {"tiles": [], "reason": self.no_probe},
            "ways": asdict(self.ways) | {"proposed": self.proposal[0], "reason": self.proposal[1]},
            "through": self.through,
            "tile_sizes": [asdict(s) for s in self.sizes],
            "tile_px_proposed": {"tile_px": self.size[0].tile_px, "reason": self.size[1]},
        }

    @property
    def _compressed(self) -> int | None:
        pixels = self.survey.tiles * self.tile_px**2
        return round(self.probe.pixel_bytes * pixels) if self.probe else None

    def _probe_dict(self) -> dict[str, Any]:
        if self.probe is None:
            return {}
        return {
            "tiles": [str(r.tile) for r in self.probe.records],
            "seconds": [r.seconds for r in self.probe.records],
            "startup_seconds": round(self.probe.startup_s, 2),
            "peak_bytes": self.probe.peak_bytes,
            "coefficients": self.probe.times.coefficients,
            "scatter": self.probe.times.scatter,
        }

    def lines(self) -> dict[str, str]:
        """Return lines for people."""
        seen = self.survey
        scene = {k: str(v) for k, v in self.scenes.items()}
        return {
            **scene,
            "pixels": self.looked_at,
            "tiles": f"{seen.tiles} to make of {self.tile_px} x {self.tile_px} pixels; at no cost: "
            f"{seen.empty} without a scene, {seen.outside} outside the outline",
            **({"on record": _record_line(self.record)} if self.record else {}),
            "windows": f"{seen.windows} of {self.window_px} x {self.window_px} pixels",
            "read from the archive": f"{size(seen.archive_bytes)}, {seen.halo_factor:.2f} times what lies in "
            f"the tiles; clouds not deducted; files sized {seen.sizes}",
            "memory a worker": f"{size(sum(self.memory.values()))}: "
            + ", ".join(f"{k} {size(v)}" for k, v in self.memory.items()),
            **({"refine": _refine_line(self.refine)} if self.refine else {}),
            "map.zarr": f"{size(self.map_bytes)} before compression"
            + (f", {size(self._compressed)} after it" if self._compressed is not None else ""),
            "cube.zarr, if staged": f"{size(self.ways.cube_bytes)}, compressed to {CUBE_COMPRESSED:.0%} of its pixels",
            "workers": self._workers_line(),
            "probe": self._probe_line(),
            **self._time_lines(),
            **(self.windows.lines() if self.windows else {}),
            "fused": _way_line(self.ways.fused.archive_bytes, 0.0, self.ways.fused.seconds),
            "staged": _way_line(
                self.ways.staged.archive_bytes, self.ways.staged.store_bytes, self.ways.staged.seconds
            ),
            "through": f"{self.through}; cheaper: {self.proposal[0]}, {self.proposal[1]}",
            "tile size": f"{self.tile_px}; proposed: {self.size[0].tile_px}, {self.size[1]} ("
            + "; ".join(_size_line(s) for s in self.sizes)
            + ")",
        }

    def _workers_line(self) -> str:
        if self.cluster is None:
            return "as many as the scheduler has; a probe would tell"
        limit = f", {size(self.cluster.memory_limit)} each" if self.cluster.memory_limit else ""
        return f"{self.cluster.workers}, {self.cluster.slots} tiles at once{limit}"

    def _probe_line(self) -> str:
        if self.probe is None:
            return f"none, so no time is told: {self.no_probe}"
        seconds = sorted(r.seconds for r in self.probe.records)
        return (
            f"{len(seconds)} tiles, {seconds[0]:.1f} .. {seconds[-1]:.1f} s each, "
            f"at most {size(self.probe.peak_bytes)} a worker; startup {self.probe.startup_s:.1f} s; the tiles are kept"
        )

    def _time_lines(self) -> dict[str, str]:
        if self.run_s is None or self.left_s is None:
            return {}
        share = f"in {LEVEL:.0%} of runs; tiles alone, products not counted"
        told = {"time": f"{span(self.run_s)} {share}", "time left after the probe": span(self.left_s)}
        if self.money is not None:
            m = self.money
            told["money"] = (
                f"{m.middle:,.2f} ({m.low:,.2f} .. {m.high:,.2f}) at {self.price:g} a worker and hour"
            )
        return told


def _record_line(record: Mapping[str, int]) -> str:
    """Say what becomes of the tiles on record.

    >>> _record_line({"kept": 12, "scenes": 3})
    '12 kept, 3 made again (scenes)'
    """
    told = [f"{record['kept']} kept"] if record.get("kept") else []
    return ", ".join(told + [f"{n} made again ({why})" for why, n in sorted(record.items()) if why != "kept"])


def _refine_line(refine: Mapping[str, Any]) -> str:
    memory = size(sum(refine["memory_bytes"].values()))
    waits = refine["waits_for"]
    told = "after the whole map" if waits == "all" else f"each tile after at most {waits} of the map's"
    return f"{', '.join(refine['steps'])}; reach {refine['reach_px']} px, {told}; {memory} a worker"


def _way_line(archive: float, store: float, seconds: float | None) -> str:
    moved = f"{size(archive)} from the archive" + (f", {size(store)} through cube.zarr" if store else "")
    return moved + (f", {duration(seconds)}" if seconds is not None else "")


def _size_line(one: TileSize) -> str:
    seconds = f", {duration(one.seconds)}" if one.seconds is not None else ""
    return f"{one.tile_px}: {one.tiles} tiles, {size(one.archive_bytes)}, {size(one.memory_bytes)} a worker{seconds}"


def span(seconds: Interval) -> str:
    """Write an interval of seconds.

    >>> span(Interval(3000.0, 3600.0, 5400.0))
    '1.0 h (50 min .. 1.5 h)'
    """
    return f"{duration(seconds.middle)} ({duration(seconds.low)} .. {duration(seconds.high)})"


def duration(seconds: float) -> str:
    """Write a time with the unit that fits.

    >>> duration(42.0), duration(600.0), duration(7200.0), duration(1e6)
    ('42 s', '10 min', '2.0 h', '278 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / 60:.0f} min"
    hours = seconds / HOUR_S
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def size(count: float | None) -> str:
    """Write bytes with the unit that fits.

    >>> size(3 * 2**20), size(1.5 * 2**30), size(2**41)
    ('3.0 MiB', '1.50 GiB', '2.00 TiB')
    """
    count = count or 0.0
    if count < GIB:
        return f"{count / 2**20:.1f} MiB"
    return f"{count / GIB:.2f} GiB" if count < 1024 * GIB else f"{count / GIB / 1024:.2f} TiB"
