"""The lease: who may write into a run's folder, and since which epoch.

Nothing here is ever overwritten by anybody but its owner, so no writer that was asleep can undo what
happened meanwhile::

    lease/epoch-000001.json   created exclusively: holder, host, pid. Whoever creates it holds epoch 1
    lease/beat-000001         a counter that only the holder of epoch 1 raises
    lease/end-000001          the holder of epoch 1 went home in good order
    lease/epoch-000002.json   ... and the next one took over

The highest epoch holds the folder. To take over is to create the next epoch, which only one newcomer
can; and it is allowed only when the holder ended, when it ran on this very machine and its process is
dead, or when its counter stood still for `patience_s` on the newcomer's own monotonic clock. Wall clocks
of two machines are never compared. A writer that was paused meanwhile finds a higher epoch at its next
`check` and stops.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from engine.store.objects import Folder
from engine.values.errors import ConflictError, LandweaveError, RefusedError, RetryableError


@dataclass(frozen=True)
class Holder:
    """Who holds an epoch.

    Attributes:
        holder: Random id of this holding.
        host: Host name, for people.
        machine: Host, boot and process namespace: equal only where process numbers mean the same.
        pid: Process number there.
        pid_started: Start of that process on a clock nobody can set; a guard against reused numbers.
        since_utc: ISO 8601, for people; never compared.
    """

    holder: str
    host: str
    machine: str
    pid: int
    pid_started: float
    since_utc: str

    @classmethod
    def me(cls) -> Holder:
        """Describe the running process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Holder:
        """Describe a process of this machine."""
        return cls(
            holder=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=pid,
            pid_started=_started(pid) or 0.0,
            since_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def is_dead(self) -> bool:
        """Tell whether the process is certainly gone; False when this machine cannot know."""
        return self.is_here() and _started(self.pid) != self.pid_started

    def is_here(self) -> bool:
        """Tell whether process numbers of this machine are the holder's, so that `is_dead` knows."""
        return self.machine == _machine()


def check(run_dir: str, epoch: int) -> None:
    """Refuse to go on when a later epoch exists. Called by each worker before each write.

    Raises:
        ConflictError: If the lease was taken over.
    """
    if (newest := _newest(_folder(run_dir))) != epoch:
        holder = _holder(_folder(run_dir), newest)
        raise ConflictError(
            "another run took this folder over; this writer must stop",
            where=run_dir,
            found=f"epoch {newest}, held by {_who(holder)}",
            limit=f"epoch {epoch}",
            mend="let the other run finish; it goes on from the records of this one",
        )


class Lease:
    """The right to write into a run's folder, kept alive by a thread.

    Args:
        run_dir: The run's folder, local or any fsspec URL.
        patience_s: How long a holder's counter must stand still before it is taken for dead.
        beat_s: How often the own counter is raised; well below `patience_s`.

    Attributes:
        epoch: The number of this holding; grows with each take-over.
    """

    def __init__(self, run_dir: str, *, patience_s: float = 60.0, beat_s: float = 2.0):
        self.run_dir, self.patience_s, self.beat_s = run_dir, patience_s, beat_s
        self.epoch = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> Lease:
        """Take the lease; wait up to `patience_s` for a silent holder.

        Raises:
            ConflictError: If somebody else holds it, naming host, process and since when.
            InputError: If the file system cannot tell two writers apart.
        """
        folder = _folder(self.run_dir)
        folder.require_exclusive()
        newest = _newest(folder)
        if newest and not self._is_free(folder, newest):
            raise _held(self.run_dir, _holder(folder, newest))
        if not folder.create(_epoch_name(newest + 1), json.dumps(asdict(Holder.me()), indent=1).encode()):
            raise _held(self.run_dir, _holder(folder, newest + 1))
        self.epoch = newest + 1
        folder.remove(_beat_name(newest))
        folder.replace(_beat_name(self.epoch), b"0")
        self._thread = threading.Thread(target=self._beat, name="landweave-lease", daemon=True)
        self._thread.start()
        return self

    def check(self) -> None:
        """Raise ConflictError when the lease was taken over."""
        check(self.run_dir, self.epoch)

    def release(self) -> None:
        """Give the lease back, so that the next run need not wait."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            # A full disk, a lost network: the next run finds this process gone, or waits.
            with contextlib.suppress(OSError, RetryableError, RefusedError):
                _folder(self.run_dir).create(_end_name(self.epoch), b"")

    def __enter__(self) -> Lease:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _is_free(self, folder: Folder, epoch: int) -> bool:
        """Tell whether the holder of an epoch ended, died, or stood still for `patience_s`."""
        if folder.read(_end_name(epoch)) is not None:
            return True
        holder = _holder(folder, epoch)
        if holder is not None and holder.is_dead():
            return True
        first, begun = folder.read(_beat_name(epoch)), time.monotonic()
        while time.monotonic() - begun < self.patience_s:
            time.sleep(min(self.beat_s, self.patience_s) / 2)
            if folder.read(_end_name(epoch)) is not None:
                return True
            if folder.read(_beat_name(epoch)) != first:
                return False
        return True

    def _beat(self) -> None:
        """Raise the counter until released or fenced; a failed beat is tried again, `check` decides."""
        folder, counter = _folder(self.run_dir), 0
        while not self._stop.wait(self.beat_s):
            counter += 1
            try:
                self.check()
                folder.replace(_beat_name(self.epoch), str(counter).encode())
            except (OSError, RetryableError, RefusedError):
                continue
            except LandweaveError:
                return


@dataclass(frozen=True)
class Standing:
    """What the lease says to somebody who only looks.

    Attributes:
        epoch: The highest epoch, 0 for a folder that was never held.
        holder: Who holds it, None where that cannot be read.
        counter: The holder's counter, None where there is none.
        ended: Whether the holder went home in good order.
    """

    epoch: int
    holder: Holder | None = None
    counter: str | None = None
    ended: bool = False

    @property
    def who(self) -> str:
        """Name the holder for people."""
        return _who(self.holder)


def standing(run_dir: str) -> Standing:
    """Look who holds a folder; changes nothing and waits for nobody."""
    folder = _folder(run_dir)
    epoch = _newest(folder)
    if not epoch:
        return Standing(0)
    ended = folder.read(_end_name(epoch)) is not None
    return Standing(epoch, _holder(folder, epoch), beat(run_dir, epoch), ended)


def beat(run_dir: str, epoch: int) -> str | None:
    """Return the counter of an epoch's holder, None where there is none."""
    counter = _folder(run_dir).read(_beat_name(epoch))
    return None if counter is None else counter.decode()


def _folder(run_dir: str) -> Folder:
    return Folder(run_dir).child("lease")


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:06d}.json"


def _beat_name(epoch: int) -> str:
    return f"beat-{epoch:06d}"


def _end_name(epoch: int) -> str:
    return f"end-{epoch:06d}"


def _newest(folder: Folder) -> int:
    """Return the highest epoch, 0 for a folder that was never held."""
    return max((int(n[6:12]) for n in folder.names() if n.startswith("epoch-")), default=0)


def _holder(folder: Folder, epoch: int) -> Holder | None:
    try:
        return Holder(**json.loads(folder.read(_epoch_name(epoch)) or b""))
    except (ValueError, TypeError):
        return None


def _held(run_dir: str, holder: Holder | None) -> ConflictError:
    return ConflictError(
        "another run is writing into this folder",
        where=run_dir,
        found=_who(holder),
        limit="one run at a time",
        mend="wait until it ends or stop it, or use another --out folder",
    )


def _who(holder: Holder | None) -> str:
    if holder is None:
        return "an unknown holder"
    return f"process {holder.pid} on {holder.host} since {holder.since_utc}"


def _machine() -> str:
    """Name the place where process numbers mean the same: host, boot, process namespace."""
    parts = [socket.gethostname()]
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    if boot.exists():
        parts.append(boot.read_text().strip())
    if space.is_symlink():
        parts.append(str(space.readlink()))
    return "|".join(parts)


def _started(pid: int) -> float | None:
    """Return when a process started, None when there is none (a zombie is none).

    Linux counts it in ticks since boot (proc_pid_stat(5), fields 3 and 22), which a corrected wall clock
    does not move; elsewhere psutil's time has to do.
    """
    import psutil

    stat = Path(f"/proc/{pid}/stat")
    try:
        if stat.parent.parent.joinpath("self").exists():
            fields = stat.read_text().rpartition(")")[2].split()
            return None if fields[0] in "ZX" else float(fields[19])
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None
