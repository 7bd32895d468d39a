"""How far a run is, whether it lives, and what to do about it: read from its folder alone."""

from __future__ import annotations

import json
import time
from typing import Any

from cluster.submit import Look, look, stop
from engine.runs.cancel import ask_cancel
from engine.runs.journal import status_name
from engine.runs.pulse import Pulse, State
from engine.store.ledger import Ledger
from engine.store.objects import Folder
from engine.values.errors import InputError
from pipelines.drivers import Drivers, Judged
from pipelines.run_folder import PROJECTED_KEY, all_plans, plans_in
from pipelines.submission import Submission

ALIVE = ("alive",)
_ASK_PLACE_S = 20.0  # between two questions to a batch system that serves many
_ENDED = {0: "done", 3: "partial", 4: "failed", 5: "stopped"}


class Watch:
    """Somebody who looks at a run again and again: at its folder each time, at the batch system now and then.

    Args:
        run: Run folder, local or any fsspec URL.
        pulse: Whether the folder is held; default one of its own.
    """

    def __init__(self, run: str, pulse: Pulse | None = None) -> None:
        self.run, self.pulse, self.drivers = run, pulse or Pulse(run), Drivers(run)
        self._asked: tuple[int, float, Look] | None = None

    def judge(self, alive: State) -> Judged | None:
        """Say how the newest driver of a submitted run is; None where nothing was submitted."""
        driver = self.drivers.last()
        if driver is None:
            return None
        if driver.job is None:
            return self.drivers.judge(driver, alive)
        number, then, place = self._asked or (0, 0.0, None)
        cheap = driver.job.place == "process"
        if place is None or number != driver.number or cheap or time.monotonic() - then > _ASK_PLACE_S:
            place = look(driver.job)
            self._asked = driver.number, time.monotonic(), place
        return self.drivers.judge(driver, alive, place)


def status_of(run: str, watch: Watch | None = None) -> dict[str, Any]:
    """Say how far each stage of a run is, and whether the run lives.

    Without a `watch` it is judged before the answer, which takes two seconds for a live run, and up to
    nine for one that is silent on another machine.

    Args:
        run: Run folder, local or any fsspec URL.
        watch: Somebody's who watches; looks once.

    Returns:
        JSON values: ``run``, ``area``, ``alive`` (see `engine.runs.pulse.Pulse.look`), ``holder``,
        ``epoch``, ``counter`` of its beat, ``advice``, ``driver`` of a submitted run (see
        `pipelines.drivers.Judged`, and ``live``), and ``stages``: for each one ``stage``, ``state``,
        ``counts`` and, of a run that kept a journal, all figures of `engine.runs.progress.Progress`.

    Raises:
        InputError: If it is no run folder.
    """
    submitted = Submission.find(run)
    plans = all_plans(run) if submitted is None else list(plans_in(run))
    watched = watch or Watch(run)
    pulse = watched.pulse
    alive = pulse.wait() if watch is None else pulse.look()
    stages = [_stage(run, plan, alive, pulse.seen.epoch) for plan in plans]
    driver = watched.judge(alive)
    return {
        "run": run,
        "area": plans[-1].get("area") if plans else submitted and submitted.area,
        "alive": alive,
        "holder": pulse.seen.who if pulse.seen.epoch else None,
        "epoch": pulse.seen.epoch,
        "counter": pulse.seen.counter,
        "advice": _driver_advice(run, driver, alive, stages) or _advice(alive, stages, pulse),
        "driver": None if driver is None else {**driver.as_dict(), "live": driver.live},
        "stages": stages,
    }


def cancel(run: str) -> str:
    """Ask a run to end: one that lives drains, one that waits in a queue does not begin, none goes on by itself.

    Returns:
        What was asked of whom.

    Raises:
        InputError: If no run is alive there, nor waits.
    """
    pulse, drivers = Pulse(run), Drivers(run)
    told, judged = _cancel_drivers(drivers)
    state = pulse.wait()
    if state in ALIVE:
        ask_cancel(run, pulse.seen.epoch)
        return (
            f"asked {pulse.seen.who} to stop: within seconds it begins no more tiles, finishes those in flight "
            f"and ends with exit code 5; {_goes_on(run, judged)} later"
        )
    if not told:
        raise InputError(
            "no run is alive in this folder, so there is nothing to cancel",
            where=run,
            found=_NOT_ALIVE[state],
            mend="landweave status tells how it ended",
        )
    return f"{'; '.join(told)}; {_goes_on(run, judged)} later"


def _cancel_drivers(drivers: Drivers) -> tuple[list[str], Judged | None]:
    """Cancel the newest driver, and the one that it hands over to at this very moment."""
    told: list[str] = []
    judged, last = None, drivers.last()
    while last is not None:
        judged = drivers.judge(last, "watching")
        if not judged.live:
            break
        drivers.cancel(last.number)
        told.append(_taken_out(judged))
        before, last = last, drivers.last()
        if last is None or last.number == before.number:
            break
    return told, judged


def _taken_out(judged: Judged) -> str:
    """Take a driver out of its queue; say what becomes of it."""
    job, called = judged.driver.job, judged.as_dict()["called"]
    if judged.state != "pending" or job is None:
        return f"asked {called} to stop; it ends within seconds"
    if wrong := stop(job):
        return f"{called} ends as soon as it begins ({wrong})"
    return f"took {called} out of the queue"


def _goes_on(run: str, judged: Judged | None) -> str:
    return "the same command goes on" if judged is None else f"landweave resume {run} goes on"


_NOT_ALIVE: dict[State, str] = {
    "never": "a folder that no run has held",
    "ended": "a run that has ended",
    "killed": "a run that was killed",
    "silent": "a run that shows no sign of life: killed, paused, or cut off from its folder",
}


def _stage(run: str, plan: dict[str, Any], alive: State, epoch: int) -> dict[str, Any]:
    """Return a stage's status, or, without one, what the names in the ledger tell."""
    stage = plan["stage"]
    try:
        told: dict[str, Any] = json.loads(Folder(run).read(status_name(stage)) or b"")
    except ValueError:
        return _counted(run, plan)
    if told["state"] == "ended":
        told["state"] = _ENDED.get(told["ended"]["exit_code"], "ended")
    elif told["state"] in ("running", "draining"):
        if told["epoch"] < epoch or alive in ("killed", "silent"):
            told["state"] = "silent" if alive == "silent" and told["epoch"] == epoch else "killed"
        elif alive == "ended":
            told["state"] = "broke off"
    return told


def _counted(run: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Count the records of a stage by their names; reads none of them."""
    records = Ledger(run, plan["stage"]).folder
    done = sum(len({n.split(".")[0] for n in records.child(block).names()}) for block in records.names())
    listed = plan["tiles"]
    total = len(listed) if isinstance(listed, list) else listed
    state = "done" if done >= total else "counted" if done else "not begun"
    memory = {"most_bytes": 0, "projected_bytes": plan.get(PROJECTED_KEY, 0), "limit_bytes": None}
    return {
        "stage": plan["stage"],
        "state": state,
        "counts": {"total": total, "done": done, "left": max(0, total - done)},
        "memory": memory,
    }


def _advice(alive: State, stages: list[dict[str, Any]], pulse: Pulse) -> str:
    """Say in words whether the run lives and what to do."""
    unfinished = [s for s in stages if s["state"] not in ("done", "not begun")]
    last = max((s["written_utc"] for s in stages if "written_utc" in s), default=None)
    since = f"; last written {last} by its own clock" if last else ""
    commands = {_command_of(s["stage"]): None for s in unfinished}
    again = " and ".join(f"`landweave {name}`" for name in commands) or "`landweave map`"
    if alive == "killed":
        return f"killed: {pulse.seen.who} is gone{since}. The same {again} command goes on; finished tiles are kept"
    if alive == "silent":
        return (
            f"silent: {pulse.seen.who} has shown no sign of life for {pulse.watch_s:.0f} s of watching{since}; "
            f"killed, paused, or cut off from this folder. The same {again} command goes on: it waits a minute "
            "for the silent one, then takes over"
        )
    if alive == "ended" and unfinished:
        return f"ended, with something left or missing. The same {again} command goes on{_gaps(unfinished)}"
    if alive in ("alive", "watching"):
        return "running" if alive == "alive" else "held; watching for a sign of life"
    if alive == "ended":
        idle = ", ".join(s["stage"] for s in stages if s["state"] == "not begun")
        return f"ended; not begun: {idle}" if idle else "ended"
    return "no run has held this folder"


def _command_of(stage: str) -> str:
    """Name the command that makes a stage.

    >>> [_command_of(stage) for stage in ("cube-2024-03", "map-b", "refined")]
    ['cube', 'map', 'refine']
    """
    return {"cube": "cube", "refined": "refine"}.get(stage.partition("-")[0], "map")


def _driver_advice(run: str, judged: Judged | None, alive: State, stages: list[dict[str, Any]]) -> str | None:
    """Say in words how the driver of a submitted run is and what to do; None where the folder says it better."""
    if judged is None or alive in ("alive", "watching"):
        return None
    job, said = judged.driver.job, f": {judged.said}" if judged.said else ""
    called = job.called if job is not None else f"driver {judged.driver.number}"
    again = f"`landweave resume {run}` goes on; finished tiles are kept"
    match judged.state:
        case "submitting":
            return f"being submitted {judged.said}"
        case "pending":
            return f"{called} waits for its turn{said}"
        case "running":
            return f"{called} runs {judged.said}".rstrip() + " and prepares, or closes"
        case "ended" if judged.exit_code == 0:
            return None
        case "ended":
            return f"{called} ended with exit code {judged.exit_code}{said}. {again}{_gaps(stages)}"
        case _:
            return f"{called} was {judged.state}{said}. {again}"


def _gaps(stages: list[dict[str, Any]]) -> str:
    return "; gaps.json names what is missing" if any(s.get("gaps") for s in stages) else ""
