"""What a kind of cluster costs a tile, against local workers in the same run; and two workers against one.

Run::

    python benchmarks/cluster_cost.py                                            local, and address on this machine
    python benchmarks/cluster_cost.py --cluster slurm.yaml ssh.yaml --tiles 400  these too, with as many workers
    python -m benchmarks.cluster_cost --services         a real Slurm, sshd and gateway of this machine, started for it
    python benchmarks/cluster_cost.py --scaling --tile-s 1.0                     one worker, then two

Overhead: tiles that compute nothing but are written, read back and recorded as any other, on two workers of each
kind, in turn, several rounds; the time of a round by the tile, and its ratio to the local round beside it. The
first round of each kind also loads the libraries of its processes and is left out. Start is told apart: from the
call to the first worker.

Scaling: tiles that keep a core busy for a while, on one local worker and on two, in turn; the ratio is two for a
perfect machine. Workers on fewer cores than that share them; the load of the machine is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client

from cluster.address import AddressSpec
from cluster.base import ClusterSpec
from cluster.launch import open_client
from cluster.local import LocalSpec
from cluster.spec import load_spec, parse_spec
from cluster.worker import PRE_SPAWN
from engine.runs.driver import RunOptions, TileOutput, run_tiles
from engine.runs.machine import Unit
from engine.store.layout import StoreSpec, Variable, create
from engine.values.grid import Box, Grid, TileKey, tiles_over

TILE_PX = 64


@dataclass(frozen=True)
class Burn:
    """Tiles of a constant, each after so many seconds of one core's time."""

    folder: str
    side: int
    burn_s: float = 0.0
    name: str = "burn"

    @property
    def store_url(self) -> str:
        return f"{self.folder}/burn.zarr"

    def spec(self) -> StoreSpec:
        side = self.side * TILE_PX
        label = Variable("label", "uint8", 0)
        return StoreSpec(Grid.make("EPSG:32633", 10), Box(0, 0, side, side), TILE_PX, (label,), chunk_px=32)

    def tiles(self) -> list[TileKey]:
        return tiles_over(self.spec().box, TILE_PX)

    def inputs(self, tile: TileKey) -> dict[str, Any]:
        return {"tile": str(tile)}

    def needs(self, tile: TileKey) -> Iterable[Unit]:
        return ()

    def box(self, tile: TileKey) -> Box:
        return tile.box(TILE_PX)

    def compute(self, tile: TileKey, threads: int) -> TileOutput:
        end = time.thread_time() + self.burn_s
        while time.thread_time() < end:
            pass
        return TileOutput({"label": np.full((TILE_PX, TILE_PX), 1, np.uint8)}, {"pixels": TILE_PX**2})


def once(client: Client, job: Burn) -> float:
    """Make all tiles in a folder of their own; seconds by the tile."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = replace(job, folder=folder)
        create(fresh.store_url, fresh.spec())
        begun = time.perf_counter()
        summary = run_tiles(fresh, client, f"{folder}/run", RunOptions())
        if summary.exit_code:
            raise SystemExit(f"the run ended with {summary.exit_code}")
        return (time.perf_counter() - begun) / summary.done


@contextmanager
def by_hand(workers: int) -> Iterator[AddressSpec]:
    """Start a scheduler and workers as processes of their own, as a user of ``kind: address`` does."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        env = os.environ | PRE_SPAWN | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        env["PYTHONPATH"] = str(Path(__file__).parents[1])
        each = ["--scheduler-file", str(file), "--host", "127.0.0.1"]
        commands = [["dask_scheduler", *each, "--port", "0", "--dashboard-address", "127.0.0.1:0"]]
        commands += [["dask_worker", *each, "--nthreads", "1", "--no-dashboard"]] * workers
        for module, *arguments in commands:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
            process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        while not file.exists():
            time.sleep(0.05)
        yield AddressSpec(scheduler_file=str(file))


@contextmanager
def services(workers: int) -> Iterator[dict[str, ClusterSpec]]:
    """Start the services that the tests start, and tell how to reach them; needs all of them, and to be root."""
    from cluster.gateway import PASSWORD
    from tests.services.gateway import gateway_server
    from tests.services.slurm import running_slurm
    from tests.services.sshd import sshd

    root = str(Path(__file__).parents[1])
    os.environ["PYTHONPATH"] = root
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        work = Path(folder)
        (work / "slurm").mkdir()
        stack.enter_context(running_slurm(work / "slurm"))
        server = stack.enter_context(sshd(work / "sshd"))
        gateway = stack.enter_context(gateway_server(work / "gateway"))
        os.environ[PASSWORD] = gateway.password
        settings: list[dict[str, Any]] = [
            {
                "kind": "slurm",
                "memory_limit": "1GiB",
                "interface": "lo",
                "log_directory": str(work / "slurm"),
            },
            {
                "kind": "ssh",
                "hosts": [server.host],
                "key_file": str(server.key),
                "known_hosts": str(server.known_hosts),
                "memory_limit": "1GiB",
                "python": sys.executable,
                "prologue": [f"export PYTHONPATH={root}"],
            },
            {"kind": "gateway", "address": gateway.address, "auth": "basic", "user": "me"},
        ]
        yield {s["kind"]: parse_spec(s | {"n_workers": workers}) for s in settings}


def overhead(specs: dict[str, ClusterSpec], side: int, rounds: int) -> None:
    """Print what a tile costs on each kind, round by round beside the local one."""
    job, workers = Burn("", side), 2
    with ExitStack() as stack:
        specs = {
            "local": LocalSpec(n_workers=workers),
            "address": stack.enter_context(by_hand(workers)),
            **specs,
        }
        clients, took = {}, {name: list[float]() for name in specs}
        for name, spec in specs.items():
            begun = time.perf_counter()
            clients[name] = stack.enter_context(open_client(spec))
            clients[name].wait_for_workers(workers)
            print(f"{name:12} {workers} workers after {time.perf_counter() - begun:6.2f} s", flush=True)
        for number in range(rounds + 1):
            for name, client in clients.items():
                seconds = once(client, job)
                if number:
                    took[name].append(seconds)
        for name, seconds in took.items():
            ratios = [a / b for a, b in zip(seconds, took["local"], strict=True)]
            print(
                f"{name:12} {statistics.median(seconds) * 1e3:6.2f} ms a tile (median of {rounds} x {side**2}), "
                f"{min(seconds) * 1e3:.2f} to {max(seconds) * 1e3:.2f};  {statistics.median(ratios):.2f} of local"
            )


def scaling(side: int, burn_s: float, rounds: int) -> None:
    """Print how much faster two workers are than one."""
    job = Burn("", side, burn_s)
    with open_client(LocalSpec(n_workers=1)) as one, open_client(LocalSpec(n_workers=2)) as two:
        two.wait_for_workers(2)
        pairs = [(once(one, job), once(two, job)) for _ in range(rounds + 1)][1:]
    for a, b in pairs:
        print(f"one worker {a:.3f} s a tile of {burn_s:g} s, two {b:.3f}: {a / b:.2f} times as fast")
    print(f"median {statistics.median(a / b for a, b in pairs):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cluster", nargs="*", default=[], help="YAML files of more kinds, two workers each")
    parser.add_argument(
        "--services", action="store_true", help="start Slurm, sshd and a gateway, and measure these"
    )
    parser.add_argument("--tiles", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--tile-s", type=float, default=1.0)
    args = parser.parse_args()
    side = max(1, round(args.tiles**0.5))
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if args.scaling:
        scaling(side, args.tile_s, args.rounds)
    else:
        specs = {load_spec(path).kind: load_spec(path) for path in args.cluster}
        with services(2) if args.services else nullcontext({}) as started:
            overhead({**specs, **started}, side, args.rounds)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
