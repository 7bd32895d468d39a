"""Small objects in a folder, local or in a bucket: exclusive create, atomic replace, listing.

The ledger, the lease and the gap list need three things of a file system, and nothing else: that of
two writers of one name exactly one wins, that nobody ever sees half an object, and that what was
written is still there after a crash. Locally that is a temporary file, ``fsync`` and ``os.link`` (which
refuses an existing name, on NFS too); elsewhere it is a conditional put (`engine.store.remote`), and a file
system that has none is refused.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from engine.store.remote import ABSENT, Objects, objects_at, require_conditions


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


def absolute(url: str) -> str:
    """Return a folder's URL without a slash at its end, or its absolute path.

    >>> absolute("s3://bucket/run/")
    's3://bucket/run'
    """
    path = local_path(url)
    return url.rstrip("/") if path is None else str(path.absolute())


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

    def require_exclusive(self) -> None:
        """Make sure that `create` is exclusive here; asked once a process.

        Raises:
            InputError: If two writers of one name could both win.
        """
        if local_path(self.url) is None:
            require_conditions(self.url)

    def create(self, name: str, data: bytes) -> bool:
        """Write a new object; of several writers with different contents exactly one gets True.

        Args:
            name: Object name, with slashes for subfolders.
            data: Its whole content.

        Returns:
            Whether the object holds this content now: False when the name was taken by another one, which
            is then untouched. Over a network an answer may be lost and the request sent again, so whoever
            must know that it was first puts something of its own into the content.
        """
        path = local_path(join(self.url, name))
        if path is not None:
            return _create_local(path, data)
        objects, key = self._at(name)
        return objects.put(key, data, ABSENT)

    def replace(self, name: str, data: bytes) -> None:
        """Write an object whether or not it exists; readers see the old or the new, never a half."""
        path = local_path(join(self.url, name))
        if path is None:
            objects, key = self._at(name)
            objects.put(key, data)
            return
        temporary = _write_temporary(path, data)
        temporary.replace(path)
        _sync_folder(path.parent)

    def read(self, name: str) -> bytes | None:
        """Return an object's content, None when there is none."""
        path = local_path(join(self.url, name))
        if path is None:
            return self.read_all([name]).get(name)
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those objects that exist, many at once over a network."""
        names = list(names)
        if local_path(self.url) is not None:
            return {n: data for n in names if (data := self.read(n)) is not None}
        objects, base = objects_at(self.url)
        keys = {join(base, n): n for n in names}
        return {keys[k]: data for k, data in objects.get_all(keys).items()}

    def names(self) -> Iterator[str]:
        """Yield the names directly inside, sorted; temporary files are left out."""
        path = local_path(self.url)
        if path is None:
            objects, base = objects_at(self.url)
            found = objects.names(base)
        else:
            found = _list_local(path)
        yield from sorted(n for n in found if not n.startswith(_TEMPORARY))

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is fine."""
        path = local_path(join(self.url, name))
        if path is not None:
            path.unlink(missing_ok=True)
            return
        objects, key = self._at(name)
        objects.delete([key])

    def upload(self, name: str, file: Path) -> None:
        """Put a file of any size here; readers see the old or the new, never a half."""
        path = local_path(join(self.url, name))
        if path is None:
            objects, key = self._at(name)
            objects.upload(key, file)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        shutil.copyfile(file, aside)
        aside.replace(path)

    def _at(self, name: str) -> tuple[Objects, str]:
        return objects_at(join(self.url, name))


_TEMPORARY = ".tmp-"


def _write_temporary(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a full disk is not filled up with halves
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _create_local(path: Path, data: bytes) -> bool:
    temporary = _write_temporary(path, data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return path.read_bytes() == data
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _list_local(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:  # names alone: a path for each costs many times as much
        return [entry.name for entry in entries]


def _sync_folder(path: Path) -> None:
    """Make a new name in a folder survive a power cut (not every file system can, which is no error)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        return
    finally:
        os.close(handle)
