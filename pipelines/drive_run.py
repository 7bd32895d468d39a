"""What a submitted run's driver does: make the map, say how it ended, and go on in a next job if it must.

It goes on by itself only after a drain that the batch system asked for by SIGUSR1, because its walltime ends:
never after `landweave cancel`, never after ``scancel`` (SIGTERM), and not for ever where nothing gets done.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.submit import stop
from engine.runs.signals import Interrupts, Stops
from engine.store.lease import standing
from engine.store.objects import absolute, local_path
from engine.values.errors import InputError, LandweaveError, RetryableError
from pipelines.config import CubeConfig, RunConfig
from pipelines.drivers import Driver, Drivers
from pipelines.submission import Submission
from pipelines.submit_run import go_on, require_submission
from pipelines.tile_stage import StageResult

INTERRUPTED = 5
IDLE_LIMIT = 3
"""How many drivers in a row may make no tile before nobody goes on by himself."""

_LOOK_S = 2.0
_TERM_AT_END_S = 15.0  # a SIGTERM this close to the end of the job is the end of its walltime


@dataclass(frozen=True)
class _End:
    """How the work of a driver ended.

    Attributes:
        exit_code: As of `landweave map`.
        made: Tiles.
        message: The error, if there was one.
        searched: Whether the scenes are frozen in the run's plan.
    """

    exit_code: int
    made: int = 0
    message: str = ""
    searched: bool = False


def drive(run: str, number: int, *, trust_model: bool = False) -> int:
    """Drive a submitted run as driver `number`.

    Returns:
        Exit code, as of `landweave map`.

    Raises:
        InputError: If this machine does not see the run folder.
    """
    run = absolute(run)
    drivers = Drivers(run)
    driver = drivers.numbered(number)
    if driver is None:
        raise InputError(
            "the run folder is not seen from here, or nothing was submitted there",
            where=run,
            found=f"no driver {number}",
            mend="the run folder must be on a disk that all machines share, or in a bucket",
        )
    told = require_submission(run)
    if (why := _not_wanted(drivers, number)) is not None:
        print(why, file=sys.stderr)  # noqa: T201
        drivers.end(number, INTERRUPTED, why)
        return INTERRUPTED
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    drivers.begin(number)
    with Stops() as stops:
        with _kept(run, driver):
            end = _worked(run, told, trust_model)
            stops.waits = True
        following, why = _next(run, driver, end, stops, trust_model)
        message = "; ".join(filter(None, (end.message, why)))
        drivers.end(number, end.exit_code, message, made=end.made, next=following)
    return end.exit_code


def _not_wanted(drivers: Drivers, number: int) -> str | None:
    """Say why a driver that just begins must not."""
    if drivers.cancelled(number):
        return "cancelled before it began"
    last = drivers.last()
    if last is not None and last.number > number:
        return f"driver {last.number} has taken over"
    return None


def _worked(run: str, told: Submission, trust_model: bool) -> _End:
    """Make the map or the cube; nothing that goes wrong leaves the folder without a word."""
    try:
        result = _made(run, told, trust_model)
    except KeyboardInterrupt:
        return _End(INTERRUPTED, message="stopped outside the tiles")
    except LandweaveError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return _End(error.exit_code, message=str(error))
    except Exception as error:
        traceback.print_exc()
        return _End(1, message=f"{type(error).__name__}: {error}")
    if told.refresh:
        _searched(run, told)
    return _End(result.exit_code, sum(s.done for s in result.summaries))


def _made(run: str, told: Submission, trust_model: bool) -> StageResult:
    from pipelines.console import map_progress
    from pipelines.make_cube import make_cube
    from pipelines.map_area import map_area

    config = told.settings(run, trust_model=trust_model)
    told.require_same(config)
    with map_progress() as listener:
        if isinstance(config, RunConfig):
            result: StageResult = map_area(config, refresh=told.refresh, only=told.part(), listener=listener)
        elif isinstance(config, CubeConfig):
            result = make_cube(config, refresh=told.refresh, listener=listener)
    for key, value in result.as_dict().items():
        print(f"{key:<10}  {value}")  # noqa: T201
    return result


def _searched(run: str, told: Submission) -> None:
    """Let later drivers keep the scenes that this one has found."""
    replace(told, refresh=False).write(run)


def _next(run: str, driver: Driver, end: _End, stops: Stops, trust_model: bool) -> tuple[int | None, str]:
    """Submit the next driver if the run must go on; returns its number, or why there is none."""
    drivers = Drivers(run)
    if end.exit_code != INTERRUPTED:
        return None, ""
    if drivers.cancelled(driver.number):
        return None, "cancelled"
    if not ended_by_walltime(stops.seen):
        return None, "stopped by a signal"
    idle = 0 if end.made else driver.idle + 1
    if idle >= IDLE_LIMIT:
        return None, (
            f"{idle} drivers in a row made no tile, so none goes on by itself: give the driver more time "
            "(cluster.driver.walltime), then landweave resume"
        )
    try:
        following = go_on(run, driver, idle, trust_model=trust_model)
    except LandweaveError as error:
        return None, f"could not submit the next driver: {error}; landweave resume {run} goes on"
    if drivers.cancelled(driver.number):  # meanwhile
        drivers.cancel(following.number)
        if following.job is not None:
            stop(following.job)
        return None, "cancelled"
    return following.number, f"its walltime ended; driver {following.number} goes on"


def ended_by_walltime(seen: set[int]) -> bool:
    """Tell whether a drain was asked for because the job's time ends, and not because somebody ends the job."""
    if signal.SIGTERM in seen:
        try:
            return float(os.environ["SLURM_JOB_END_TIME"]) - time.time() < _TERM_AT_END_S
        except (KeyError, ValueError):
            return False
    return signal.SIGUSR1 in seen


@contextlib.contextmanager
def _kept(run: str, driver: Driver) -> Iterator[None]:
    """Look now and then whether the driver was cancelled, and show its output where its folder is a bucket."""
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(run, driver, over), name="landweave-driver", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _keep(run: str, driver: Driver, over: threading.Event) -> None:
    drivers, shown, stopped, held = Drivers(run), -1, False, False
    while not over.wait(_LOOK_S):
        with contextlib.suppress(OSError, RetryableError):
            shown = _show(drivers, driver, shown)
            held = held or _holds(run)
            if not stopped and drivers.cancelled(driver.number) and (_drains() or not held):
                os.kill(os.getpid(), signal.SIGINT)
                stopped = True
    with contextlib.suppress(OSError, RetryableError):
        _show(drivers, driver, shown)


def _holds(run: str) -> bool:
    """Tell whether this process holds the run folder."""
    holder = standing(run).holder
    return holder is not None and holder.pid == os.getpid() and holder.is_here()


def _drains() -> bool:
    """Tell whether a signal drains now; before a run it stops it, and while it closes nothing is to be stopped."""
    catches = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return isinstance(catches, Interrupts) and not isinstance(catches, Stops)


def _show(drivers: Drivers, driver: Driver, shown: int) -> int:
    """Copy the driver's output into a run folder that is not a disk; returns how long it was."""
    job = (drivers.numbered(driver.number) or driver).job  # written down when the driver had begun already
    if local_path(drivers.run) is not None or job is None or job.place == "kubernetes":
        return shown
    output = Path(job.output)
    size = output.stat().st_size
    if size != shown:
        drivers.folder.replace(drivers.output_name(driver.number), output.read_bytes())
    return size
