"""Objects in a bucket: whole puts under a condition, reads and listings that are never stale.

Two writers of one key are told apart by the object's tag (S3 calls it ETag)::

    put(key, data, ABSENT)   If-None-Match: *    only where nothing is
    put(key, data, tag)      If-Match: tag       only over what was seen
    put(key, data)                               over anything

A put that is refused (412) may still be ours: the first answer was lost and the client asked again. So a
refusal is a success when what stands there is what we sent. Requests go to the server itself, past the
listings that file systems remember. Throttling, server errors and a lost network are tried again for
more than a minute; what then still fails says bucket and key, and nothing of the credentials.

Of the file systems that fsspec knows, S3 alone is trusted to write (and fsspec's ``memory``, inside one
process); all others may be read. One that only looks before it writes would lose a race now and then, and
nobody would notice, so it is refused; and an S3 server is asked once whether it keeps the conditions.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.values.errors import InputError, RefusedError, RetryableError

ABSENT = "*"
"""Condition of a put: nothing may be there."""

PATIENCE_S = 90.0
"""How long a request is tried again."""

_FIRST_WAIT_S, _LONGEST_WAIT_S, _AT_ONCE = 0.1, 5.0, 16
_EXPIRED = ("ExpiredToken", "RequestExpired", "TokenRefreshRequired", "ExpiredTokenException")
_UNKNOWN = ("NoCredentialsError", "PartialCredentialsError")
_REFUSED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "QuotaExceeded")


class Seen(NamedTuple):
    """An object as it was read: its tag at that moment, and its content."""

    tag: str
    data: bytes


class Put(NamedTuple):
    """What to write, and over what: a tag, `ABSENT`, or None for anything."""

    data: bytes
    over: str | None = None


class Objects(Protocol):
    """What landweave asks of an object store; keys are ``bucket/key``."""

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those keys that exist."""

    def seen(self, keys: Iterable[str]) -> dict[str, Seen]:
        """Return tags and contents of those keys that exist."""

    def put_all(self, puts: Mapping[str, Put]) -> dict[str, str]:
        """Write many objects; return the tags of those that hold their content now."""

    def put(self, key: str, data: bytes, over: str | None = None) -> bool:
        """Write an object; False when the condition did not hold and other content stands there."""

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size over whatever is there."""

    def copy_all(self, copies: Mapping[str, str]) -> None:
        """Copy objects inside the store, key by new key, over whatever is there."""

    def names(self, prefix: str) -> list[str]:
        """Return the names directly under a prefix."""

    def keys(self, prefix: str) -> list[str]:
        """Return all keys under a prefix, at any depth, without the prefix."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are fine."""


def objects_at(url: str) -> tuple[Objects, str]:
    """Return the object store of a URL, and the key."""
    import fsspec

    kind = url.split("://", 1)[0]
    if kind in ("s3", "s3a"):
        fs, key = fsspec.core.url_to_fs(url, **storage_options(url))
        return S3Objects(fs), str(key)
    fs, key = fsspec.core.url_to_fs(url)
    return (MemoryObjects(fs) if kind == "memory" else ReadOnly(fs)), str(key)


def storage_options(url: str) -> dict[str, Any]:
    """Return what zarr and fsspec need to open a URL; the endpoint and credentials are the environment's.

    >>> storage_options("s3://bucket/map.zarr")
    {'use_listings_cache': False}
    """
    return {"use_listings_cache": False} if url.startswith(("s3://", "s3a://")) else {}


def require_conditions(url: str) -> None:
    """Make sure that the store at a URL keeps the conditions of a put; asked once a process and folder.

    Raises:
        InputError: If it overwrites where it should refuse.
    """
    objects, key = objects_at(url)
    _require_conditions(url.split("://", 1)[0], key.strip("/").split("/")[0], key, type(objects))


@lru_cache(maxsize=64)
def _require_conditions(kind: str, bucket: str, folder: str, store: type) -> None:
    objects, key = objects_at(f"{kind}://{folder.rstrip('/')}/.conditions-{uuid.uuid4().hex}")
    try:
        kept = (
            objects.put(key, b"1", ABSENT)
            and not objects.put(key, b"2", ABSENT)
            and not objects.put(key, b"2", '"00000000000000000000000000000000"')
            and objects.put(key, b"2", objects.seen([key])[key].tag)
        )
    finally:
        objects.delete([key])
    if not kept:
        raise InputError(
            "the object store ignores the conditions of a put, so two writers could destroy each other's work",
            where=f"{kind}://{bucket}",
            limit="If-None-Match and If-Match, as S3 keeps them",
            mend="use S3, a server that keeps them, or a local folder",
        )


class S3Objects:
    """S3, or a server that speaks it, through s3fs.

    Args:
        fs: An `s3fs.S3FileSystem`; only its client and event loop are used.
    """

    def __init__(self, fs: Any):
        self.fs = fs

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those keys that exist."""
        return {key: seen.data for key, seen in self.seen(keys).items()}

    def seen(self, keys: Iterable[str]) -> dict[str, Seen]:
        """Return tags and contents of those keys that exist."""
        return self._each(self._get, keys)

    def put_all(self, puts: Mapping[str, Put]) -> dict[str, str]:
        """Write many objects; return the tags of those that hold their content now."""
        return self._each(lambda key: self._put(key, *puts[key]), puts)

    def put(self, key: str, data: bytes, over: str | None = None) -> bool:
        """Write an object; False when the condition did not hold and other content stands there."""
        return key in self.put_all({key: Put(data, over)})

    def upload(self, key: str, path: Path) -> None:
        """Write a file of any size over whatever is there."""
        self._sync(_again(key, partial(self.fs._put_file, str(path), key)))

    def copy_all(self, copies: Mapping[str, str]) -> None:
        """Copy objects inside the store, key by new key, over whatever is there."""
        lost = copies.keys() - self._each(self._copy(copies), copies).keys()
        if lost:
            raise FileNotFoundError(f"s3://{min(lost)}")

    def names(self, prefix: str) -> list[str]:
        """Return the names directly under a prefix."""
        return self._sync(self._list(prefix, Delimiter="/"))

    def keys(self, prefix: str) -> list[str]:
        """Return all keys under a prefix, at any depth, without the prefix."""
        return self._sync(self._list(prefix))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are fine."""
        self._each(partial(self._call, "delete_object"), keys)

    def _copy(self, copies: Mapping[str, str]) -> Callable[[str], Coroutine[Any, Any, Any]]:
        return lambda key: self._call("copy_object", copies[key], CopySource=key)

    async def _get(self, key: str) -> Seen:
        async def read() -> Seen:
            bucket, name = _split(key)
            answer = await self.fs._call_s3("get_object", Bucket=bucket, Key=name)
            async with answer["Body"] as body:
                return Seen(str(answer["ETag"]), bytes(await body.read()))

        found: Seen = await _again(key, read)
        return found

    async def _put(self, key: str, data: bytes, over: str | None) -> str | None:
        condition = {} if over is None else {"IfNoneMatch": "*"} if over == ABSENT else {"IfMatch": over}
        try:
            return str((await self._call("put_object", key, Body=data, **condition))["ETag"])
        except (_UnmetError, FileNotFoundError):  # some servers answer 404 to If-Match where nothing is
            standing = await self._get(key)
            return standing.tag if standing.data == data else None

    async def _list(self, prefix: str, **how: str) -> list[str]:
        base, found = prefix.rstrip("/") + "/", []
        page: dict[str, str] = {}
        skip = len(_split(base)[1])
        while True:
            answer = await self._call("list_objects_v2", base, key_as="Prefix", **how, **page)
            found += [o["Key"][skip:] for o in answer.get("Contents", [])]
            found += [p["Prefix"][skip:].rstrip("/") for p in answer.get("CommonPrefixes", [])]
            if not answer.get("IsTruncated"):
                return sorted(n for n in found if n)
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    async def _call(self, method: str, key: str, *, key_as: str = "Key", **how: Any) -> Any:
        bucket, name = _split(key)
        return await _again(key, lambda: self.fs._call_s3(method, Bucket=bucket, **{key_as: name}, **how))

    def _sync(self, work: Coroutine[Any, Any, Any]) -> Any:
        from fsspec.asyn import sync

        return sync(self.fs.loop, lambda: work)

    def _each(self, ask: Callable[[str], Coroutine[Any, Any, Any]], keys: Iterable[str]) -> dict[str, Any]:
        """Ask for many keys, some at once; those that are not there are left out."""

        async def run() -> dict[str, Any]:
            room = asyncio.Semaphore(_AT_ONCE)

            async def one(key: str) -> tuple[str, Any]:
                async with room:
                    try:
                        return key, await ask(key)
                    except FileNotFoundError:
                        return key, None

            found = await asyncio.gather(*(one(key) for key in keys))
            return {key: value for key, value in found if value is not None}

        found: dict[str, Any] = self._sync(run())
        return found


class ReadOnly:
    """Any other file system: read, but never written, because nobody can say what it does in a race.

    Args:
        fs: Any fsspec file system.
    """

    def __init__(self, fs: Any):
        self.fs = fs

    def get_all(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the contents of those keys that exist."""
        found = {}
        for key in keys:
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                found[key] = bytes(self.fs.cat_file(key))
        return found

    def seen(self, keys: Iterable[str]) -> dict[str, Seen]:
        """Return tags and contents of those keys that exist."""
        return {key: Seen(_tag(data), data) for key, data in self.get_all(keys).items()}

    def names(self, prefix: str) -> list[str]:
        """Return the names directly under a prefix."""
        self.fs.invalidate_cache(prefix)
        try:
            return sorted(str(p).rstrip("/").rsplit("/", 1)[-1] for p in self.fs.ls(prefix, detail=False))
        except FileNotFoundError:
            return []

    def keys(self, prefix: str) -> list[str]:
        """Return all keys under a prefix, at any depth, without the prefix."""
        self.fs.invalidate_cache(prefix)
        base = prefix.rstrip("/") + "/"
        return sorted(str(k)[len(base) :] for k in self.fs.find(base))

    def put_all(self, puts: Mapping[str, Put]) -> dict[str, str]:
        """Write many objects; return the tags of those that hold their content now."""
        return {key: _tag(put.data) for key, put in puts.items() if self.put(key, *put)}

    def put(self, key: str, data: bytes, over: str | None = None) -> bool:
        """Refuse."""
        raise self._refusal(key)

    def upload(self, key: str, path: Path) -> None:
        """Refuse."""
        raise self._refusal(key)

    def copy_all(self, copies: Mapping[str, str]) -> None:
        """Refuse."""
        raise self._refusal(next(iter(copies.values()), ""))

    def delete(self, keys: Iterable[str]) -> None:
        """Refuse."""
        raise self._refusal(next(iter(keys), ""))

    def _refusal(self, key: str) -> InputError:
        kind = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        return InputError(
            "a run is not written to this kind of file system: of two writers of one name both could win",
            where=f"{kind}://{key}",
            found=kind,
            limit="a local path or s3://",
            mend="write the run to a local path or to S3, and copy it afterwards",
        )


class MemoryObjects(ReadOnly):
    """fsspec's ``memory`` file system: of this process alone, which is enough for trying things out."""

    _lock = threading.Lock()

    def put(self, key: str, data: bytes, over: str | None = None) -> bool:
        """Write an object; False when the condition did not hold and other content stands there."""
        with self._lock:
            standing = self.seen([key]).get(key)
            if over not in (None, standing.tag if standing else ABSENT):
                return standing is not None and standing.data == data
            self.fs.pipe_file(key, data)
            return True

    def upload(self, key: str, path: Path) -> None:
        """Write a file over whatever is there."""
        self.put(key, path.read_bytes())

    def copy_all(self, copies: Mapping[str, str]) -> None:
        """Copy objects inside the store, key by new key, over whatever is there."""
        for key, to in copies.items():
            self.put(to, bytes(self.fs.cat_file(key)))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there are fine."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(key)


class _UnmetError(Exception):
    """The condition of a put did not hold."""


async def _again(key: str, ask: Callable[[], Any]) -> Any:
    """Ask until there is an answer, with growing random waits, for at most `PATIENCE_S`."""
    begun, wait_s = time.monotonic(), _FIRST_WAIT_S
    while True:
        try:
            return await ask()
        except Exception as error:
            told = _judged(key, error)
            if not isinstance(told, RetryableError) or time.monotonic() - begun + wait_s > PATIENCE_S:
                raise told from None  # the chain could print what was signed
        await asyncio.sleep(wait_s * random.uniform(0.5, 1))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


@contextlib.contextmanager
def network(url: str) -> Iterator[None]:
    """Turn what a file system raises when the network fails into `RetryableError`; all else passes."""
    try:
        yield
    except Exception as error:
        if _is_transport(error):
            raise _judged(url.split("://", 1)[-1], error) from None
        raise


def _is_transport(error: BaseException) -> bool:
    """Tell whether an error came from the network or from the server, and not from the data."""
    if _answer(error) is not None:
        return _status(error) not in (404, 412)
    module = type(error).__module__.split(".")[0]
    return module in ("botocore", "aiobotocore", "aiohttp", "urllib3")


def _answer(error: BaseException) -> Any:
    return getattr(error, "response", None) or getattr(error.__cause__, "response", None)


def _status(error: BaseException) -> int:
    answer = _answer(error)
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0) if answer else 0


def _judged(key: str, error: Exception) -> Exception:
    """Say what an error of a request means: not there, refused, wrong, or worth trying again."""
    answer, where = _answer(error), f"s3://{key}"
    if answer is None:
        name = type(error).__name__
        if name in _UNKNOWN:
            return InputError("there are no credentials for the object store", where=where, mend=_LET_IN)
        if isinstance(error, FileNotFoundError) or not (_is_transport(error) or isinstance(error, OSError)):
            return error
        return RetryableError("the object store cannot be reached", where=where, found=name, mend=_AGAIN)
    status, code = _status(error), str(answer.get("Error", {}).get("Code", ""))
    found = f"{status} {code}".strip()
    if code == "NoSuchBucket":
        return InputError("there is no such bucket", where=where, mend="make the bucket, or correct its name")
    if status == 404:
        return FileNotFoundError(where)
    if status == 412:
        return _UnmetError(where)
    if code in _EXPIRED:
        return RefusedError(
            "the credentials have expired", where=where, found=found, mend=f"renew them, then {_AGAIN}"
        )
    if status in (408, 409, 429) or (status >= 500 and status not in (501, 507)):
        return RetryableError("the object store does not answer", where=where, found=found, mend=_AGAIN)
    if code in _REFUSED or status in (403, 507):
        return RefusedError("the object store refuses", where=where, found=found, mend=_LET_IN)
    mend = "see what the server's documentation says of it"
    return InputError("the object store cannot do this", where=where, found=found, mend=mend)


_AGAIN = "run the same command again; finished tiles are kept"
_LET_IN = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, and what they may do there"


def _tag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _split(key: str) -> tuple[str, str]:
    bucket, _, name = key.partition("/")
    return bucket, name
