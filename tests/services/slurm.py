"""A real Slurm for tests: controller, one node and munge on the loopback, in a folder of its own.

It runs as whoever runs the tests, with ports, a munge key and a socket of its own, so that several sessions
can run side by side, and beside a Slurm that the machine has already. The node says that it has more CPUs
than the machine, so that a driver and its workers fit on two cores.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.services.require import require_service

START_S, END_S = 60.0, 20.0
CPUS, MEMORY_MB = 8, 16000
_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo", "scontrol", "srun")
_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"

_CONF = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MailProg=/bin/true
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory}
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running Slurm.

    Attributes:
        folder: Of its settings, state and logs.
        environment: What a process needs to talk to it; set in this process already.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str) -> str:
        """Run one of Slurm's commands and return what it prints; fail with its own words."""
        done = subprocess.run(
            command,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{' '.join(command)} ends with {done.returncode}: {done.stderr}\n{self.logs()}")
        return done.stdout

    def jobs(self, name: str | None = None) -> dict[str, str]:
        """Return the state (``PENDING``, ``RUNNING`` ...) of each job in the queue by its number."""
        chosen = [] if name is None else [f"--name={name}"]
        lines = self.run("squeue", "--noheader", "--format=%i %T", *chosen).splitlines()
        return dict(line.split() for line in lines)

    def logs(self) -> str:
        """Return the ends of the daemons' logs."""
        found = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{p.name}:\n{p.read_text(errors='replace')[-1500:]}" for p in found)


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Run a Slurm in a folder, with the environment set to it; end its jobs and daemons."""
    path = os.environ.get("PATH", "") + os.pathsep + _SBIN
    programs = {name: shutil.which(name, path=path) for name in _PROGRAMS}
    missing = [name for name, where in programs.items() if where is None]
    if missing:
        require_service(f"Slurm ({', '.join(missing)})", "apt-get install slurm-wlm munge")
    slurm = Slurm(folder)
    _settle(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name in [n for n in os.environ if n.startswith(("SLURM_", "SBATCH_"))]:
            patch.delenv(name)
        for name, value in slurm.environment.items():
            patch.setenv(name, value)
        stack.callback(_end_steps, slurm)
        munge = (f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket")
        munge += (f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed")
        daemons = [
            _daemon(stack, slurm, str(programs["munged"]), "--foreground", "--force", *munge),
            _daemon(stack, slurm, str(programs["slurmctld"]), "-D"),
            _daemon(stack, slurm, str(programs["slurmd"]), "-D"),
        ]
        stack.callback(_cancel_all)
        _wait(slurm, daemons)
        yield slurm


def _settle(folder: Path) -> None:
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    control_port, node_port = _free_ports(2)
    text = _CONF.format(
        host=socket.gethostname().partition(".")[0],
        user=pwd.getpwuid(os.getuid()).pw_name,
        folder=folder,
        control_port=control_port,
        node_port=node_port,
        cpus=CPUS,
        memory=MEMORY_MB,
    )
    (folder / "slurm.conf").write_text(text)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _daemon(stack: contextlib.ExitStack, slurm: Slurm, *command: str) -> subprocess.Popen[bytes]:
    log = stack.enter_context((slurm.folder / f"{Path(command[0]).name}.out.log").open("wb"))
    # a session of its own: Ctrl-C in a terminal ends the tests, which then end their jobs in good order
    process = subprocess.Popen(
        command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=slurm.folder, start_new_session=True
    )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(slurm: Slurm, daemons: list[subprocess.Popen[bytes]]) -> None:
    """Wait until the node takes jobs; fail with the daemons' own words."""
    begun, told = time.monotonic(), ""
    while time.monotonic() - begun < START_S and all(d.poll() is None for d in daemons):
        asked = subprocess.run(
            ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, timeout=30, check=False
        )
        told = (asked.stdout + asked.stderr).strip()
        if told == "idle":
            return
        time.sleep(0.1)
    pytest.fail(f"Slurm does not start: {told}\n{slurm.logs()}")


def _cancel_all() -> None:
    """Cancel what a test has left behind; Slurm then ends all processes of each job."""
    begun = time.monotonic()
    while time.monotonic() - begun < END_S:
        told = subprocess.run(
            ["squeue", "--noheader", "--format=%i"], capture_output=True, text=True, check=False
        )
        left = told.stdout.split()
        if not left:
            return
        subprocess.run(["scancel", "--signal=KILL", "--full", *left], capture_output=True, check=False)
        subprocess.run(["scancel", *left], capture_output=True, check=False)
        time.sleep(0.2)


def _end_steps(slurm: Slurm) -> None:
    """Kill job steps that are still there after the daemons have gone, with all that they have started."""
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            ours = process.environ().get("SLURM_CONF") == slurm.environment["SLURM_CONF"]
            if process.info["name"] == "slurmstepd" and ours:
                for one in [*process.children(recursive=True), process]:
                    one.kill()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Run one Slurm for the session."""
    with running_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running
