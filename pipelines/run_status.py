"""How far a run is, whether it lives, and what to do about it: read from its folder alone."""

from __future__ import annotations

import json
from typing import Any

from engine.runs.cancel import ask_cancel
from engine.runs.journal import status_name
from engine.runs.pulse import Pulse, State
from engine.store.ledger import Ledger
from engine.store.objects import Folder
from engine.values.errors import InputError
from pipelines.run_folder import PROJECTED_KEY, all_plans

ALIVE = ("alive",)
_ENDED = {0: "done", 3: "partial", 4: "failed", 5: "stopped"}


def status_of(run: str, pulse: Pulse | None = None) -> dict[str, Any]:
    """Say how far each stage of a run is, and whether the run lives.

    Without a `pulse` it is judged before the answer, which takes two seconds for a live run, and up to
    nine for one that is silent on another machine.

    Args:
        run: Run folder, local or any fsspec URL.
        pulse: Somebody's who watches; is looked at once.

    Returns:
        JSON values: ``run``, ``area``, ``alive`` (see `engine.runs.pulse.Pulse.look`), ``holder``,
        ``epoch``, ``counter`` of its beat, ``advice``, and ``stages``: for each one ``stage``, ``state``,
        ``counts`` and, of a run that kept a journal, all figures of `engine.runs.progress.Progress`.

    Raises:
        InputError: If it is no run folder.
    """
    plans = all_plans(run)
    watched = pulse or Pulse(run)
    alive = watched.wait() if pulse is None else watched.look()
    stages = [_stage(run, plan, alive, watched.seen.epoch) for plan in plans]
    return {
        "run": run,
        "area": plans[-1].get("area"),
        "alive": alive,
        "holder": watched.seen.who if watched.seen.epoch else None,
        "epoch": watched.seen.epoch,
        "counter": watched.seen.counter,
        "advice": _advice(alive, stages, watched),
        "stages": stages,
    }


def cancel(run: str) -> str:
    """Ask the run that holds a folder to drain; returns what was asked of whom.

    Raises:
        InputError: If no run is alive there.
    """
    pulse = Pulse(run)
    state = pulse.wait()
    if state not in ALIVE:
        raise InputError(
            "no run is alive in this folder, so there is nothing to cancel",
            where=run,
            found=_NOT_ALIVE[state],
            mend="landweave status tells how it ended",
        )
    ask_cancel(run, pulse.seen.epoch)
    return (
        f"asked {pulse.seen.who} to stop: within seconds it begins no more tiles, finishes those in flight "
        "and ends with exit code 5; the same command goes on later"
    )


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
    commands = {("cube" if s["stage"].startswith("cube") else "map"): None for s in unfinished}
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


def _gaps(stages: list[dict[str, Any]]) -> str:
    return "; gaps.json names what is missing" if any(s.get("gaps") for s in stages) else ""
