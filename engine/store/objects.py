"""Small objects in a folder, local or in a bucket: exclusive create, atomic replace, listing.

The ledger, the lease and the gap list need three things of a file system, and nothing else: that of
two writers of one name exactly one wins, that nobody ever sees half an object, and that what was
written is still there after a crash. Locally that is a temporary file, ``fsync`` and ``os.link`` (which
refuses an existing name, on NFS too); elsewhere it is fsspec's ``mode="create"``, which S3 file systems
turn into a conditional put (``If-None-Match``). A file system without one falls back to looking first.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def local_path(url: str) -> Path | None:
    """Return the path of a local URL, None for any other.

    >>> local_path("s3://bucket/run") is None
    True
    >>> str(local_path("file:///data/run"))
    '/data/run'
    """
    if url.startswith(("file://", "local://")):
        return Path(url.split("://", 1)[1])
    return None if "://" in url else Path(url)


def join(url: str, *parts: str) -> str:
    """Append names to a folder's URL or path.

    >>> join("s3://bucket/run/", "ledger", "map")
    's3://bucket/run/ledger/map'
    """
    return "/".join([url.rstrip("/"), *(p.strip("/") for p in parts if p)])


@dataclass(frozen=True)
class Folder:
    """A folder of small objects.

    Attributes:
        url: Local path or any fsspec URL.
    """

    url: str

    def child(self, *parts: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(join(self.url, *parts))

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; of several writers of one name exactly one gets True.

        Args:
            name: Object name, with slashes for subfolders.
            data: Its whole content.

        Returns:
            False when the name was taken; its content is then untouched.
        """
        path = local_path(join(self.url, name))
        return _create_remote(join(self.url, name), data) if path is None else _create_local(path, data)

    def replace(self, name: str, data: bytes) -> None:
        """Write an object whether or not it exists; readers see the old or the new, never a half."""
        path = local_path(join(self.url, name))
        if path is None:
            fs, key = _filesystem(join(self.url, name))
            fs.pipe_file(key, data)
            return
        temporary = _write_temporary(path, data)
        temporary.replace(path)
        _sync_folder(path.parent)

    def read(self, name: str) -> bytes | None:
        """Return an object's content, None when there is none."""
        path = local_path(join(self.url, name))
        try:
            if path is not None:
                return path.read_bytes()
            fs, key = _filesystem(join(self.url, name))
            return bytes(fs.cat_file(key))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the content of many objects, in one concurrent call where the file system has one."""
        names = list(names)
        if local_path(self.url) is not None:
            return {n: data for n in names if (data := self.read(n)) is not None}
        fs, base = _filesystem(self.url)
        keys = {join(base, n): n for n in names}
        got = fs.cat(list(keys), on_error="omit") if keys else {}
        return {keys[k]: bytes(v) for k, v in got.items() if k in keys}

    def names(self) -> Iterator[str]:
        """Yield the names directly inside, sorted; temporary files are left out."""
        path = local_path(self.url)
        found = _list_remote(self.url) if path is None else _list_local(path)
        yield from sorted(n for n in found if not n.startswith(_TEMPORARY))

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is fine."""
        path = local_path(join(self.url, name))
        if path is not None:
            path.unlink(missing_ok=True)
            return
        fs, key = _filesystem(join(self.url, name))
        with contextlib.suppress(FileNotFoundError):
            fs.rm_file(key)


_TEMPORARY = ".tmp-"


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    fs, path = fsspec.core.url_to_fs(url)
    return fs, path


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    with temporary.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _create_local(path: Path, data: bytes) -> bool:
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _create_remote(url: str, data: bytes) -> bool:
    """Create through a conditional put; file systems report a lost race as various OSErrors."""
    fs, key = _filesystem(url)
    try:
        fs.pipe_file(key, data, mode="create")
    except OSError:
        fs.invalidate_cache()
        if fs.exists(key):
            return False
        raise
    return True


def _list_local(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:  # names alone: a path for each costs many times as much
        return [entry.name for entry in entries]


def _list_remote(url: str) -> list[str]:
    fs, base = _filesystem(url)
    fs.invalidate_cache(base)
    try:
        return [str(p).rstrip("/").rsplit("/", 1)[-1] for p in fs.ls(base, detail=False)]
    except FileNotFoundError:
        return []


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder survive a power cut (not every file system can, which is no error)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
