"""What a run says of itself at its beginning: cluster, dashboard, plans, versions, command."""

from __future__ import annotations

import hashlib
import shlex
import sys
from pathlib import Path
from typing import Any

from cluster.memory import free_memory
from cluster.versions import worker_facts
from engine.runs.tile import engine_version
from engine.store.objects import Folder
from engine.values.redact import without_secrets
from pipelines.run_folder import plan_file, plans_in


def run_facts(run_dir: str, client: Any) -> dict[str, Any]:
    """Return the facts of a run that its journal begins with, as JSON values.

    Args:
        run_dir: The run's folder, plans frozen.
        client: The `distributed.Client` that it runs on.
    """
    plans = list(plans_in(run_dir))
    names = [plan["stage"] for plan in plans]
    return {
        "dashboard": dashboard_of(client) or None,
        "cluster": _cluster(client),
        "plans": {name: _digest(run_dir, plan_file(name)) for name in names},
        "versions": {k: v for plan in plans for k, v in plan.get("versions", {}).items()},
        "engine": engine_version(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def dashboard_of(client: Any) -> str:
    """Return the link of Dask's dashboard, empty where it is off; without tokens."""
    try:
        return without_secrets(client.dashboard_link or "")
    except (KeyError, AttributeError, ValueError):  # the scheduler serves none
        return ""


def memory_limit(client: Any) -> int | None:
    """Return the memory of the smallest worker in bytes, None where none has a limit."""
    limits = [w["memory_limit"] for w in _workers(client) if w.get("memory_limit")]
    return min(limits, default=None)


def _workers(client: Any) -> list[dict[str, Any]]:
    return list(client.scheduler_info(n_workers=-1)["workers"].values())


def _cluster(client: Any) -> dict[str, Any]:
    workers = _workers(client)
    return {
        "scheduler": client.scheduler.address,
        "workers": len(workers),
        "threads": sum(w["nthreads"] for w in workers),
        "hosts": len({w["host"] for w in workers}),
        "memory": free_memory(client),
        "software": _software(client),
    }


def _software(client: Any) -> list[dict[str, Any]]:
    """Return what the workers are made of: one entry for each combination, with its machines."""
    found: dict[str, dict[str, Any]] = {}
    for facts in worker_facts(client).values():
        same = {"landweave": facts.landweave, **facts.decides}
        entry = found.setdefault(repr(sorted(same.items())), {**same, "hosts": set(), "cpus": set()})
        entry["hosts"].add(facts.host)
        entry["cpus"].add(facts.cpu)
    return [{**e, "hosts": sorted(e["hosts"]), "cpus": sorted(e["cpus"])} for e in found.values()]


def _digest(run_dir: str, name: str) -> str:
    return hashlib.sha256(Folder(run_dir).read(name) or b"").hexdigest()[:16]
