"""When the place that is written to refuses: it is full, read-only, or nobody gave the right to write.

No tile is to blame for that, and no second attempt helps: the run stops at once, says what to mend, and the
same command goes on afterwards.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator

from engine.store.objects import local_path
from engine.values.errors import RefusedError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@contextlib.contextmanager
def refusals(url: str) -> Iterator[None]:
    """Turn an error that says that `url` cannot be written to into a RefusedError.

    Args:
        url: The run's folder or its store, local or any fsspec URL.

    Raises:
        RefusedError: Naming the path, the free bytes and the mend; any other error passes.
    """
    try:
        yield
    except OSError as error:
        if (refused := refusal_of(error, url)) is None:
            raise
        raise refused from error


def refusal_of(error: OSError, url: str) -> RefusedError | None:
    """Tell whether an error means that nothing can be written at `url`, and say so in full.

    Object stores tell of missing rights by a PermissionError without a number.

    >>> refusal_of(FileNotFoundError(2, "gone"), "/data/run") is None
    True
    """
    where = str(error.filename) if error.filename is not None else url
    if error.errno in _FULL:
        return RefusedError(
            "the disk is full",
            where=where,
            found=f"{_free(url)} ({error.strerror})",
            mend="make room there, or ask for a larger quota, then run the same command again",
        )
    if error.errno in _FORBIDDEN or isinstance(error, PermissionError):
        return RefusedError(
            "the store refuses to be written to",
            where=where,
            found=error.strerror or str(error),
            mend=f"give the workers the right to write to {url}, then run the same command again",
        )
    return None


def _free(url: str) -> str:
    """Say how much room is left where `url` lies, as far as that can be known."""
    path = local_path(url)
    if path is None:
        return "an unknown number of bytes free"
    for folder in (path.absolute(), *path.absolute().parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free} bytes free"
    return "an unknown number of bytes free"
