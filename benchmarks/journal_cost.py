"""What the journal and the bars cost the client for each tile, and what they hold in memory.

    python -m benchmarks.journal_cost [tiles]

The events of a run come as fast as they can be taken, so the share of the status that is replaced tenth
of a second weighs more than that of a real run, every two seconds.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
import tracemalloc

from engine.runs.events import RunEvent
from engine.runs.journal import Journal
from engine.runs.progress import StageFacts
from engine.store.ledger import TileRecord
from engine.values.grid import TileKey
from pipelines.console import MapListener, map_progress

WORKERS = 256


def record(n: int) -> TileRecord:
    tile = TileKey(n // 1000, n % 1000)
    counts = {"windows": 256.0, "scenes": 40.0, "pixels": 4e6}
    worker = f"tcp://10.0.{n % WORKERS}.1:4000"
    return TileRecord(tile, "0" * 64, 1, {"label": "ab" * 16}, 60.0 + n % 7, 1 << 31, counts, "", worker, "1")


def feed(total: int, hear: list[MapListener]) -> float:
    """Return the seconds of CPU, of all threads, for each tile."""
    records = [record(n) for n in range(1000)]
    begun = time.process_time()
    for n in range(total):
        r = records[n % 1000]
        for event in (
            RunEvent("submitted", "map", r.tile, n, total),
            RunEvent("done", "map", r.tile, n + 1, total, r),
        ):
            for listener in hear:
                listener(event, 4.2)
    return (time.process_time() - begun) / total


def main(total: int) -> None:
    print(f"{total:,} tiles on {WORKERS} workers: milliseconds of client CPU for each")
    nothing = feed(total, [lambda event, km2: None])
    print(f"  making the events          {nothing * 1e3:.4f} ms")
    with tempfile.TemporaryDirectory() as folder:
        with Journal(folder, 1, [StageFacts("map", total, 4.2, 1 << 31)], every_s=0.1) as journal:
            spent = feed(total, [lambda event, km2: journal.hear(event)])
        print(f"  journal, local folder      {(spent - nothing) * 1e3:.4f} ms")
    with Journal(
        f"memory://journal-{time.time()}", 1, [StageFacts("map", total, 4.2, 1 << 31)], every_s=0.1
    ) as journal:
        spent = feed(total, [lambda event, km2: journal.hear(event)])
    print(f"  journal, objects           {(spent - nothing) * 1e3:.4f} ms")
    for name, colour in (("bars on a terminal", "1"), ("plain lines", "")):
        os.environ["FORCE_COLOR"] = colour
        with contextlib.redirect_stderr(io.StringIO()), map_progress() as hear:
            spent = feed(total, [hear])
        print(f"  {name:<25}  {(spent - nothing) * 1e3:.4f} ms")
    for some in (total // 10, total):
        with tempfile.TemporaryDirectory() as folder:
            tracemalloc.start()
            with Journal(folder, 1, [StageFacts("map", some)], every_s=0.05) as journal:
                feed(some, [lambda event, km2: journal.hear(event)])
                kept = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            print(f"  memory at {some:>9,} tiles   {kept / 2**20:.1f} MiB at most")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
