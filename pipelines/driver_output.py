"""What the drivers of a submitted run printed: from their files, or from the run folder's copies.

A run folder on a disk holds the files themselves. Beside one in a bucket they lie on the disk of the machine
that submitted it, and the driver copies them into the folder every few seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cluster.submit import Job, printed
from pipelines.drivers import Driver, Drivers


@dataclass
class OutputReader:
    """Reads the drivers' output, again and again where it is followed.

    Attributes:
        run: Run folder, local or any fsspec URL.
    """

    run: str
    _shown: dict[int, int] = field(default_factory=dict)  # bytes of each driver's output

    def lines(self) -> Iterator[str]:
        """Yield what was not yielded before, each driver under a heading of its own."""
        drivers = Drivers(self.run)
        last = drivers.last()
        for number in range(1, last.number + 1 if last else 1):
            driver = drivers.numbered(number)
            if driver is not None:
                yield from self._of(drivers, driver)

    def _of(self, drivers: Drivers, driver: Driver) -> Iterator[str]:
        first, shown = driver.number not in self._shown, self._shown.get(driver.number, 0)
        if first:
            called = driver.job.called if driver.job else "never handed over"
            yield f"=== driver {driver.number}: {called}"
        data = _output(drivers, driver)
        if data is None and first and driver.job is not None:
            yield f"(its output is {driver.job.output} on {driver.job.host}, or not there yet)"
        whole = (data or b"")[: (data or b"").rfind(b"\n") + 1]
        self._shown[driver.number] = max(shown, len(whole))
        yield from whole[shown:].decode(errors="replace").splitlines()


def _output(drivers: Drivers, driver: Driver) -> bytes | None:
    """Return a driver's output, the file before the copy; None where neither is seen from here."""
    job = driver.job
    if job is None:
        return None
    if job.place == "kubernetes":
        return printed(job)
    return _file(job) or drivers.folder.read(drivers.output_name(driver.number))


def _file(job: Job) -> bytes | None:
    try:
        return Path(job.output).read_bytes()
    except OSError:
        return None
