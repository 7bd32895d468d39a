"""What says that nothing can be written is told from what may pass by itself."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pytest

from engine.store import objects
from engine.store.objects import Folder
from engine.store.refusals import refusals
from engine.values.errors import RefusedError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_names_the_path_the_free_bytes_and_the_mend(tmp_path: Path, number: int) -> None:
    shard = tmp_path / "map.zarr" / "label" / "c" / "0"  # not there: its nearest folder tells what is free
    with pytest.raises(RefusedError, match="the disk is full") as caught, refusals(str(shard.parent)):
        raise OSError(number, os.strerror(number), str(shard))
    free = int(caught.value.found.split()[0])
    stat = os.statvfs(tmp_path)
    assert free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.2)
    assert caught.value.where == str(shard)
    assert "make room" in caught.value.mend
    assert caught.value.exit_code == 3
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EROFS, "Read-only file system"),
        PermissionError("Access Denied."),  # as s3fs tells of AccessDenied
    ],
)
def test_missing_rights_name_the_store_and_the_mend(error: OSError) -> None:
    with pytest.raises(RefusedError, match="refuses to be written to") as caught, refusals("s3://b/run"):
        raise error
    assert "right to write to s3://b/run" in caught.value.mend
    assert str(error.strerror or error) in str(caught.value)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "I/O error"), TimeoutError(), FileNotFoundError(2, "gone"), ValueError("x")]
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, refusals("/data/run"):
        raise error
    assert caught.value is error


def test_a_full_bucket_cannot_tell_how_full(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="unknown number of bytes free"), refusals("s3://b/run"):
        raise OSError(errno.ENOSPC, "full")


def test_an_object_that_could_not_be_written_leaves_no_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(objects.os, "fsync", full)
    for write in (Folder(str(tmp_path)).create, Folder(str(tmp_path)).replace):
        with pytest.raises(OSError, match="No space"):
            write("record.json", b"{}")
    assert list(tmp_path.iterdir()) == []
