"""Who drives a submitted run: the processes and jobs that did, do, or wait to, by what lies in its folder.

Each has a number, and no object but the last is ever written by two::

    drivers/000003.json     made exclusively: who submitted it, after which one; then what it became: job 4711
    drivers/begun-000003    it runs: its process and machine
    drivers/ended-000003    it ended: exit code, tiles made, and the number of the next one if it goes on
    drivers/cancel-000003   asked for: it begins nothing more and has no next one
    drivers/000003.out      its own output

So two that submit at once cannot both win, and whoever sees the folder can judge, with the batch system's word
where it can be asked and without it where it cannot.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from cluster.submit import Job, Look, look
from engine.runs.pulse import State as Pulse
from engine.store.lease import Holder
from engine.store.objects import Folder
from engine.values.errors import ConflictError
from engine.values.redact import without_secrets

DRIVERS = "drivers"

State = Literal["submitting", "pending", "running", "ended", "cancelled", "killed", "lost"]
"""``cancelled`` before it began; ``lost``: it cannot be asked from here, and the folder shows no sign of it."""

LIVE: tuple[State, ...] = ("submitting", "pending", "running")


@dataclass(frozen=True)
class Driver:
    """One process or job that drives a run.

    Attributes:
        number: Counted in the folder from 1.
        submitter: The process that submitted it.
        job: What was started; None before that.
        after: The driver that it goes on from, 0 for none.
        idle: How many before it, in a row, made no tile.
    """

    number: int
    submitter: Holder
    job: Job | None = None
    after: int = 0
    idle: int = 0

    def as_json(self) -> bytes:
        """Write it down."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def read(cls, data: bytes) -> Driver:
        """Return what `as_json` wrote."""
        told = json.loads(data)
        submitter, job = Holder(**told.pop("submitter")), Job.read(told.pop("job"))
        return cls(submitter=submitter, job=job, **told)


@dataclass(frozen=True)
class Judged:
    """How a driver is.

    Attributes:
        driver: Which one.
        state: See `State`.
        said: Reason, node, error: for people.
        exit_code: Of one that ended.
    """

    driver: Driver
    state: State
    said: str = ""
    exit_code: int | None = None

    @property
    def live(self) -> bool:
        """Whether it drives the run, or will."""
        return self.state in LIVE

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        driver, job = self.driver, self.driver.job
        return {
            "number": driver.number,
            "state": self.state,
            "said": self.said,
            "exit_code": self.exit_code,
            "place": job.place if job else None,
            "job": job.id if job else None,
            "called": job.called if job else "never handed over",
            "output": job.output if job else None,
            "submitted_from": driver.submitter.host,
            "submitted_utc": driver.submitter.since_utc,
            "after": driver.after or None,
        }


class Drivers:
    """The drivers of one run folder.

    Args:
        run: Run folder, local or any fsspec URL.
    """

    def __init__(self, run: str) -> None:
        self.run, self.folder = run, Folder(run).child(DRIVERS)

    def last(self) -> Driver | None:
        """Return the newest one, None where nothing was submitted."""
        numbers = [int(n[:6]) for n in self.folder.names() if n.endswith(".json") and n[:6].isdigit()]
        return self.numbered(max(numbers)) if numbers else None

    def numbered(self, number: int) -> Driver | None:
        """Return one by its number, None where there is none."""
        data = self.folder.read(f"{number:06d}.json")
        return None if data is None else Driver.read(data)

    def claim(self, after: int = 0, idle: int = 0) -> Driver:
        """Take the next number; of several who try at once one wins.

        Raises:
            ConflictError: For the others.
        """
        last = self.last()
        driver = Driver((last.number if last else 0) + 1, Holder.me(), after=after, idle=idle)
        if not self.folder.create(f"{driver.number:06d}.json", driver.as_json()):
            raise ConflictError(
                "somebody else is submitting this run at this moment",
                where=self.run,
                mend=f"landweave status {self.run}",
            )
        return driver

    def record(self, driver: Driver) -> None:
        """Write down what was started; only who claimed the number does."""
        self.folder.replace(f"{driver.number:06d}.json", driver.as_json())

    def begin(self, number: int) -> None:
        """Say that this process is the driver; one that Slurm starts again begins anew."""
        self.folder.remove(_ended(number))
        self.folder.replace(_begun(number), json.dumps(asdict(Holder.me()), indent=1).encode())

    def end(self, number: int, exit_code: int, message: str = "", **told: Any) -> None:
        """Say that a driver has ended, and how."""
        told = {"exit_code": exit_code, "message": without_secrets(message), "ended_utc": _now(), **told}
        self.folder.replace(_ended(number), json.dumps(told, indent=1).encode())

    def ended(self, number: int) -> dict[str, Any] | None:
        """Return what a driver said at its end, None before."""
        return _mapping(self.folder.read(_ended(number)))

    def cancel(self, number: int) -> None:
        """Ask a driver to begin nothing more, and to have no next one."""
        self.folder.create(_cancel(number), b"")

    def cancelled(self, number: int) -> bool:
        """Tell whether a driver was asked to end."""
        return self.folder.read(_cancel(number)) is not None

    def output_name(self, number: int) -> str:
        """Name the object with a driver's own output."""
        return f"{number:06d}.out"

    def judge(self, driver: Driver, pulse: Pulse, place: Look | None = None) -> Judged:
        """Say how a driver is.

        Args:
            driver: Which one.
            pulse: Whether somebody holds the run folder.
            place: What its place says, if it was asked just now; None asks it.
        """
        if (told := self.ended(driver.number)) is not None and not self._comes_again(driver, told):
            return _as_told(driver, told)
        if driver.job is None:
            if driver.submitter.is_dead():
                return Judged(driver, "killed", "whoever submitted it died before it was handed over")
            who = f"by process {driver.submitter.pid} on {driver.submitter.host}"
            return Judged(driver, "submitting", who)
        begun = _mapping(self.folder.read(_begun(driver.number)))
        told_by = place or look(driver.job)
        match told_by.state:
            case "pending" | "running" as state:
                return Judged(driver, state, told_by.said)
            case "gone":
                if (told := self.ended(driver.number)) is not None:  # between the two looks
                    return _as_told(driver, told)
                if begun is None and self.cancelled(driver.number):
                    return Judged(driver, "cancelled", told_by.said)
                return Judged(driver, "killed", told_by.said + ("" if begun else _NEVER_BEGAN))
        holder = None if begun is None else Holder(**begun)
        return self._by_folder(driver, holder, pulse, told_by.said)

    def _comes_again(self, driver: Driver, told: dict[str, Any]) -> bool:
        """Tell whether a driver that was interrupted waits to begin again: its job was requeued, its pod replaced."""
        if driver.job is None or told["exit_code"] != _INTERRUPTED or told.get("next"):
            return False
        return not self.cancelled(driver.number) and look(driver.job).state == "pending"

    def _by_folder(self, driver: Driver, holder: Holder | None, pulse: Pulse, why: str) -> Judged:
        """Judge by the folder alone."""
        if self.cancelled(driver.number) and pulse not in ("alive", "watching"):
            return Judged(driver, "cancelled", f"as far as the folder knows ({why})")
        if holder is None:
            return Judged(driver, "pending", f"as far as the folder knows ({why})")
        if pulse in ("alive", "watching"):
            return Judged(driver, "running", f"on {holder.host} ({why})")
        if holder.is_dead():
            return Judged(driver, "killed", f"its process on {holder.host} is gone")
        return Judged(
            driver, "lost", f"it began on {holder.host}, and the folder shows no sign of life ({why})"
        )


_INTERRUPTED = 5
_NEVER_BEGAN = " before it began: look at its output, and whether its machine sees this folder"


def _as_told(driver: Driver, told: dict[str, Any]) -> Judged:
    return Judged(driver, "ended", told["message"], told["exit_code"])


def _begun(number: int) -> str:
    return f"begun-{number:06d}"


def _ended(number: int) -> str:
    return f"ended-{number:06d}"


def _cancel(number: int) -> str:
    return f"cancel-{number:06d}"


def _mapping(data: bytes | None) -> dict[str, Any] | None:
    return None if data is None else json.loads(data)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
