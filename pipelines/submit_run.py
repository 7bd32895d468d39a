"""Submit a run: freeze it, and let its driver live on its own, until the run is done.

::

    submit ──► checks ──► claims the next number ──► freezes ──► starts driver 1
                                                                    │ its walltime ends: it drains
    resume ──► claims the next number ───────────────────────────►  starts driver 2, by itself
                                                                    │ done

`pipelines.drive_run` is what a driver does; `pipelines.drivers` what is known of each.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.base import ClusterSpec
from cluster.submit import Order, Place, place_of, start, written
from engine.runs.pulse import Pulse
from engine.store.objects import Folder, absolute, local_path
from engine.store.refusals import refusals
from engine.values.errors import ConflictError, InputError
from pipelines.config import RunConfig, TiledConfig
from pipelines.drivers import DRIVERS, Driver, Drivers, Judged
from pipelines.plan_area import describe
from pipelines.submission import Asked, Submission, freeze, read_asked
from pipelines.tile_stage import made_folder


@dataclass(frozen=True)
class Submitted:
    """What `submit` and `resume` did.

    Attributes:
        run: Run folder.
        judged: The driver, as it is now.
        place: Where it lives.
    """

    run: str
    judged: Judged
    place: Place

    def as_dict(self) -> dict[str, Any]:
        """Return figures for people and programs."""
        told = self.judged.as_dict()
        on = (
            "goes on by itself in a next job when its walltime ends"
            if self.place == "slurm"
            else "goes on without you"
        )
        return {
            "submitted": f"{told['called']}, {told['state']}{': ' if told['said'] else ''}{told['said']}; {on}",
            "run": self.run,
            "driver": told["number"],
            "job": told["job"],
            "output": told["output"],
            "follow": [f"landweave status {self.run} --watch", f"landweave logs {self.run} --follow"],
            "stop": f"landweave cancel {self.run}",
            "go on": f"landweave resume {self.run}",
        }


def submit(asked: Asked, *, here: bool = False) -> Submitted:
    """Check a run, freeze it in its folder, and start its driver.

    Args:
        asked: What to run.
        here: Drive it from a process of this machine although the cluster has jobs.

    Raises:
        InputError: If a setting is wrong, or the batch system refuses the job.
        ConflictError: If the run is driven already, or is about to be.
    """
    config = read_asked(asked)
    _check(config)
    run = made_folder(config.out)
    with refusals(run):
        Folder(run).require_exclusive()
    require_idle(run)
    place = _place(config, here)
    told, text = freeze(asked, config, place, _name(run))
    drivers = Drivers(run)
    with refusals(run):
        driver = drivers.claim()
        Folder(run).replace(told.config, text.encode())
        told.write(run)
    return _started(run, driver, told, config.cluster, trust_model=asked.trust_model)


def resume(run: str, *, trust_model: bool = False) -> Submitted:
    """Submit again what was submitted into a run folder; finished tiles are kept.

    Raises:
        InputError: If nothing was submitted there.
        ConflictError: If the run is driven already, or is about to be.
    """
    run = absolute(run)
    told = require_submission(run)
    require_idle(run)
    config = told.settings(run, trust_model=trust_model)
    with refusals(run):
        driver = Drivers(run).claim()
    return _started(run, driver, told, config.cluster, trust_model=trust_model)


def go_on(run: str, driver: Driver, idle: int, *, trust_model: bool = False) -> Driver:
    """Submit the next driver, from within the one that ends; it begins when this one's job has ended."""
    told = require_submission(run)
    config = told.settings(run, trust_model=trust_model)
    following = Drivers(run).claim(after=driver.number, idle=idle)
    after = os.environ.get("SLURM_JOB_ID", "")  # its own record may not be written yet
    return _handed_over(run, following, told, config.cluster, after=after, trust_model=trust_model)


def draft(asked: Asked, *, here: bool = False) -> str:
    """Return the script, manifest or command that `submit` would hand over; starts nothing, writes nothing."""
    config = read_asked(asked)
    _check(config)
    run, place = absolute(config.out), _place(config, here)
    freeze(asked, config, place, _name(run))
    last = Drivers(run).last()
    number = last.number + 1 if last else 1
    order = _order(run, number, _name(run), place, trust_model=asked.trust_model)
    return written(place, config.cluster, order)


def require_submission(run: str) -> Submission:
    """Return what was submitted into a run folder.

    Raises:
        InputError: If nothing was.
    """
    if (told := Submission.find(run)) is None:
        raise InputError(
            "nothing was submitted into this folder",
            where=run,
            found="no submission.json",
            mend="landweave submit RUN.yaml, or the same landweave map command",
        )
    return told


def require_idle(run: str) -> None:
    """Refuse a folder that is driven already, or is about to be.

    Raises:
        ConflictError: Naming by whom.
    """
    pulse, drivers = Pulse(run), Drivers(run)
    alive = pulse.wait()
    last = drivers.last()
    judged = None if last is None else drivers.judge(last, alive)
    if judged is not None and judged.live:
        told = judged.as_dict()
        raise ConflictError(
            "this run was submitted already, and has not ended",
            where=run,
            found=f"{told['called']}, {told['state']}{': ' if told['said'] else ''}{told['said']}",
            mend=f"landweave status {run} follows it; landweave cancel {run} ends it",
        )
    if alive == "alive":
        raise ConflictError(
            "another run is writing into this folder",
            where=run,
            found=pulse.seen.who,
            limit="one run at a time",
            mend=f"landweave cancel {run}, or wait until it ends",
        )


def _check(config: TiledConfig) -> None:
    """Find out what is wrong while somebody is there to read it."""
    if isinstance(config, RunConfig):
        describe(config)


def _place(config: TiledConfig, here: bool) -> Place:
    """Choose where the driver lives, and refuse a run folder that cannot be seen from there."""
    place: Place = "process" if here else place_of(config.cluster)
    path = local_path(absolute(config.out))
    if place == "kubernetes" and path is not None:
        seen = [v.path for v in getattr(config.cluster, "volumes", ())]
        if not any(path.is_relative_to(folder) for folder in seen):
            raise InputError(
                "pods do not see this run folder",
                where="out",
                found=str(path),
                limit=f"a folder below {', '.join(seen)}"
                if seen
                else "a bucket, or a folder of cluster.volumes",
                mend="out: s3://bucket/run, or name a volume",
            )
    return place


def _started(
    run: str, driver: Driver, told: Submission, spec: ClusterSpec, *, trust_model: bool
) -> Submitted:
    driver = _handed_over(run, driver, told, spec, after="", trust_model=trust_model)
    return Submitted(run, Drivers(run).judge(driver, "watching"), told.place)


def _handed_over(
    run: str, driver: Driver, told: Submission, spec: ClusterSpec, *, after: str, trust_model: bool
) -> Driver:
    """Start a driver whose number is claimed, and write down what it became."""
    drivers = Drivers(run)
    order = _order(run, driver.number, told.name, told.place, after=after, trust_model=trust_model)
    try:
        job = start(told.place, spec, order)
    except BaseException as error:
        drivers.end(driver.number, getattr(error, "exit_code", 2), f"not handed over: {error}")
        raise
    driver = replace(driver, job=job)
    drivers.record(driver)
    return driver


def _order(
    run: str, number: int, name: str, place: Place, *, after: str = "", trust_model: bool = False
) -> Order:
    program = ("landweave",) if place == "kubernetes" else (sys.executable, "-u", "-P", "-m", "pipelines")
    trust = ("--trust-model",) if trust_model else ()
    argv = (*program, "drive", run, str(number), *trust)
    return Order(f"{name}-{number}", argv, str(_output(run, number)), after)


def _output(run: str, number: int) -> Path:
    """Name the file of a driver's output: in the run folder, or for one in a bucket, in the user's state folder."""
    name = Drivers(run).output_name(number)
    if (path := local_path(run)) is not None:
        return path / DRIVERS / name
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "landweave" / _name(run) / name


def _name(run: str) -> str:
    """Name a run so that no other folder's has the same name, in letters that every batch system takes.

    >>> _name("/data/runs/Lux 2023")
    'landweave-lux-2023-07629a'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", run.rstrip("/").rpartition("/")[2].lower()).strip("-")[:20].strip("-")
    return f"landweave-{slug}-{hashlib.sha256(run.encode()).hexdigest()[:6]}"
