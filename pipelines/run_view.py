"""How a run's status, log and verification look on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pipelines.verify_run import Verified

ERRORS = (
    "error",
    "failed",
    "quarantined",
    "worker-died",
    "worker-refused",
    "worker-differs",
    "refused",
    "broke off",
    "lines lost",
)
"""Events of a log that tell of something wrong."""

_GIB = 2**30
_STYLES = {
    "running": "green",
    "done": "green",
    "draining": "yellow",
    "stopped": "yellow",
    "partial": "yellow",
}


def duration(seconds: float) -> str:
    """Write a time for people.

    >>> duration(0.26), duration(42), duration(61), duration(7_300), duration(200_000)
    ('0.3 s', '42 s', '1:01 min', '2:01 h', '2 d 7 h')
    """
    if seconds < 59.5:
        return f"{seconds:.{0 if seconds >= 9.95 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def interval(seconds: list[float] | tuple[float, float] | None) -> str:
    """Write the time left.

    >>> interval(None), interval([60, 7300]), interval([30.1, 30.4])
    ('not known yet', '1:00 min to 2:01 h', '30 s')
    """
    if seconds is None:
        return "not known yet"
    low, high = (duration(s) for s in seconds)
    return low if low == high else f"{low} to {high}"


def status_view(told: dict[str, Any]) -> RenderableType:
    """Return a run's status as tables, one for each stage."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(padding=(0, 2))
    for key, value in _head(told):
        head.add_row(Text(key, style="bold"), Text(value))
    parts: list[RenderableType] = [head]
    for stage in told["stages"]:
        table = Table.grid(padding=(0, 2))
        for key, value in _stage_lines(stage):
            table.add_row(Text(f"  {key}"), Text(value))
        title = Text(f"\n{stage['stage']}  ", style="bold")
        parts += [title.append(stage["state"], style=_STYLES.get(stage["state"], "red")), table]
    return Group(*parts)


def _head(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "run", f"{told['run']}  ({told['area']})"
    yield "now", told["advice"]
    if (driver := told.get("driver")) is not None:
        said = f": {driver['said']}" if driver["said"] else ""
        code = "" if driver["exit_code"] is None else f", exit code {driver['exit_code']}"
        place = f"{driver['number']}, {driver['called']}"
        yield "driver", f"{place}: {driver['state']}{code}{said}"
        yield (
            "",
            f"submitted {driver['submitted_utc']} from {driver['submitted_from']}; output {driver['output']}",
        )
    if told["alive"] == "alive":
        yield "holder", f"{told['holder']}, epoch {told['epoch']}, beat {told['counter']}"
        links = {s["facts"].get("dashboard") for s in told["stages"] if s["state"] in ("running", "draining")}
        for link in sorted(filter(None, links)):
            yield "dashboard", link
        if known := [s["facts"]["cluster"] for s in told["stages"] if s.get("facts", {}).get("cluster")]:
            yield from _cluster(known[-1])


def _cluster(cluster: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Say what a run had to run on when it began."""
    hosts = cluster.get("memory", [])
    yield "cluster", f"{cluster['workers']} workers on {max(1, len(hosts))} machines when the run began"
    for i, host in enumerate(hosts[:8]):
        free = f"{host['host']}: {host['workers']} workers, {_of(host)} of memory free"
        gpus = "".join(f"; {gpu['name']}, {_of(gpu)} free" for gpu in host["gpus"])
        yield "" if i else "memory", free + gpus


def _of(sizes: dict[str, int]) -> str:
    return f"{sizes['free_bytes'] / _GIB:.1f} of {sizes['total_bytes'] / _GIB:.1f} GiB"


def _stage_lines(stage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is told of a stage, key and text."""
    counts = stage["counts"]
    names = ("done", "reused", "failed", "quarantined", "running", "left")
    yield (
        "tiles",
        ", ".join(f"{counts[n]:,} {n}" for n in names if counts.get(n)) + f" of {counts['total']:,}",
    )
    memory = stage["memory"]
    if "rate" not in stage:
        yield "memory", f"{memory['projected_bytes'] / _GIB:.2f} GiB projected"
        yield "note", "no journal: counted by the names in the ledger"
        return
    rate = stage["rate"]
    yield "rate", _pair(rate, "tiles_h", "tiles/h")
    if rate["km2_h_mean"]:
        yield "", _pair(rate, "km2_h", "km2/h")
    if stage["state"] in ("running", "draining"):
        yield "time left", interval(stage["time_left_s"])
    limit = f", limit {memory['limit_bytes'] / _GIB:.2f}" if memory["limit_bytes"] else ""
    yield (
        "memory",
        f"{memory['most_bytes'] / _GIB:.2f} GiB at most, projected {memory['projected_bytes'] / _GIB:.2f}{limit}",
    )
    if stage["state"] in ("running", "draining") and stage["running"]:
        yield "in flight", ", ".join(f"{r['tile']} {duration(r['seconds'])}" for r in stage["running"][:5])
    if stage["slowest"]:
        yield "slowest", ", ".join(f"{s['tile']} {duration(s['seconds'])}" for s in stage["slowest"])
    yield from _trouble(stage)
    yield from _workers(stage["workers"])
    yield from _left(stage)
    ended = stage["ended"]
    if ended.get("message"):
        yield "broke off", f"{ended['error']}: {ended['message']}"
    elif ended:
        yield "ended", f"after {duration(ended['seconds'])}, exit code {ended['exit_code']}"
    yield "written", f"{stage['written_utc']}  (log: {stage['log']})"


def _pair(rate: dict[str, float], name: str, unit: str) -> str:
    return f"{rate[f'{name}_now']:,.0f} {unit} now, {rate[f'{name}_mean']:,.0f} on the whole"


def _trouble(stage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if stage["made_again"]:
        yield "made again", ", ".join(f"{n:,} for {why}" for why, n in stage["made_again"].items())
    if stage["second_attempts"]:
        yield "second tries", f"{stage['second_attempts']:,} tiles"
    if stage["gaps"]:
        yield "gaps", f"{stage['gaps']:,} (gaps.json)"
    for kind, error in stage["errors"].items():
        example = error["example"]
        yield "errors", f"{error['count']:,} x {kind}, such as {example['tile']}: {example['message'][:300]}"


def _workers(workers: dict[str, Any]) -> Iterator[tuple[str, str]]:
    busy = sorted(workers.items(), key=lambda pair: -pair[1]["tiles"])
    for i, (name, did) in enumerate(busy[:8]):
        errors = f", {did['errors']} errors" if did["errors"] else ""
        text = f"{did['tiles']:,} tiles in {duration(did['seconds'])}, {did['peak_bytes'] / _GIB:.2f} GiB{errors}"
        yield "" if i else "workers", f"{name}  {text}"
    if len(busy) > 8:
        yield "", f"and {len(busy) - 8} more"


def _left(stage: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if n := stage.get("left_workers"):
        yield "left", f"{n:,} in good order, at the end of their time"


def log_line(line: dict[str, Any]) -> str:
    """Write a line of the log for people.

    >>> log_line({"time": "2026-01-02T03:04:05.678+00:00", "event": "done", "stage": "map", "tile": "r1_c2",
    ...           "seconds": 61.2, "peak_bytes": 2**30, "worker": "tcp://a:1", "attempt": 1, "counts": {}})
    '2026-01-02 03:04:05  map  done  r1_c2  1:01 min, 1.00 GiB, tcp://a:1'
    """
    at = f"{line.get('time', '')[:19].replace('T', ' ')}  {line.get('stage', '')}  {line.get('event', '')}"
    return "  ".join(filter(None, (at, line.get("tile", ""), _said(line))))


def _said(line: dict[str, Any]) -> str:
    match line.get("event"):
        case "done":
            counts = [f"{n:g} {name}" for name, n in line["counts"].items()]
            again = [f"try {line['attempt']}"] if line["attempt"] > 1 else []
            why = [f"again for {line['why']}"] if line.get("why") else []
            gaps = [f"{line['gaps']} gaps"] if line.get("gaps") else []
            first = [duration(line["seconds"]), f"{line['peak_bytes'] / _GIB:.2f} GiB", line["worker"]]
            return ", ".join([*first, *counts, *again, *why, *gaps])
        case "begun":
            link = f", dashboard {line['dashboard']}" if line.get("dashboard") else ""
            return f"{line.get('total')} tiles, process {line.get('pid')} on {line.get('host')}{link}"
        case "ended":
            parts = (f"{line[n]} {n}" for n in ("done", "reused", "failed", "quarantined", "left") if line[n])
            return f"{', '.join(parts)}; {duration(line['seconds'])}, exit code {line['exit_code']}"
        case "draining":
            return f"{line.get('running')} in flight end, {line.get('left')} are left"
        case _:
            told = (line.get("error", ""), line.get("message", ""))
            at = f" ({line['worker']})" if line.get("worker") else ""
            trace = f"\n{line['trace']}" if line.get("trace") else ""
            return ": ".join(filter(None, told)) + at + trace.rstrip()


def wanted(
    lines: Iterable[dict[str, Any]], *, errors: bool = False, tile: str | None = None
) -> Iterator[dict[str, Any]]:
    """Leave out the lines that nobody asked for."""
    for line in lines:
        if (not errors or line.get("event") in ERRORS) and (tile is None or line.get("tile") == tile):
            yield line


def verified_lines(found: Verified, run: str) -> Iterator[str]:
    """Yield what a verification found, in words."""
    yield f"{found.read:,} tiles read of {found.planned:,} planned; {found.differing:,} differ"
    for store in found.stores:
        yield f"store      {store}"
    for d in found.differ:
        yield f"differs    {d.stage} {d.tile} {d.variable}: {d.why}"
    for stage, report in found.seams.items():
        yield f"seams      {stage}: {report.told()}"
    for stage, why in found.no_seams.items():
        yield f"seams      {stage}: not looked for, {why}"
    for kind, heading, counts in (
        ("missing", "no record ", found.missing),
        ("unplanned", "not planned", found.unplanned),
    ):
        if counts.total():
            names = found.listed[kind]
            more = ", ..." if counts.total() > 10 else ""
            yield f"{heading} {counts.total():,} tiles: {', '.join(names[:10])}{more}"
    if found.redone:
        yield f"removed    the records of {found.redone:,} tiles; the same `landweave map` (or `cube`) makes them again"
    elif found.differing:
        yield (
            f"to mend    `landweave verify {run} --redo` removes the records of these tiles, then the same "
            "`landweave map` (or `cube`) makes them again, and no others"
        )
    elif any(report.seam for report in found.seams.values()):
        yield (
            "to mend    the bytes are those recorded: look at the places named, then make them again with "
            "`landweave map --only AREA --no-resume`, or use a larger overlap"
        )
    elif found.missing.total():
        yield "to mend    the same `landweave map` (or `cube`) command makes the tiles without a record"
