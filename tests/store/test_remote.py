from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.store import remote
from engine.store.lease import Lease
from engine.store.objects import Folder
from engine.store.remote import ABSENT, Put, objects_at, require_conditions
from engine.values.errors import ConflictError, InputError, RefusedError, RetryableError
from tests.services.s3 import SECRET, S3Server


@pytest.fixture(params=["memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty folder that is not local."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_folder"))
    return f"memory://{tmp_path}"


def test_a_put_holds_to_its_condition(place: str) -> None:
    objects, key = objects_at(f"{place}/one")
    assert objects.put(key, b"a", ABSENT)
    assert not objects.put(key, b"b", ABSENT)
    tag = objects.seen([key])[key].tag
    assert objects.put(key, b"b", tag)
    assert not objects.put(key, b"c", tag)
    assert objects.get_all([key]) == {key: b"b"}
    assert not objects.put(f"{key}-gone", b"c", tag)
    assert objects.get_all([f"{key}-gone"]) == {}


def test_a_refused_put_of_what_stands_there_is_a_success(place: str) -> None:
    """The first answer was lost, and the request was sent again."""
    objects, key = objects_at(f"{place}/one")
    assert objects.put(key, b"a", ABSENT)
    tag = objects.seen([key])[key].tag
    assert objects.put(key, b"a", ABSENT)
    objects.put(key, b"b")
    assert objects.put(key, b"b", tag)
    assert not objects.put(key, b"a", tag)


@pytest.mark.parametrize("over", ["nothing", "something"])
def test_of_many_writers_at_once_exactly_one_wins(place: str, over: str) -> None:
    objects, key = objects_at(f"{place}/raced")
    seen = ABSENT
    if over == "something":
        objects.put(key, b"before")
        seen = objects.seen([key])[key].tag
    barrier, won = threading.Barrier(4), []

    def write(number: int) -> None:
        barrier.wait()
        if objects.put(key, str(number).encode() * 5000, seen):
            won.append(number)

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(won) == 1
    assert objects.get_all([key])[key] == str(won[0]).encode() * 5000


def test_what_others_do_is_seen_at_once(bucket: str, s3_server: S3Server) -> None:
    client, folder = s3_server.client(), Folder(f"s3://{bucket}/run")
    assert list(folder.names()) == []
    for number in range(3):
        client.put_object(Bucket=bucket, Key=f"run/n{number}", Body=b"1")
        assert list(folder.names()) == [f"n{i}" for i in range(number + 1)]
        assert folder.read("n0") == (b"1" if number == 0 else b"2")
        client.put_object(Bucket=bucket, Key="run/n0", Body=b"2")
    client.delete_object(Bucket=bucket, Key="run/n1")
    assert list(folder.names()) == ["n0", "n2"]
    assert folder.read("n1") is None


def test_a_long_listing_is_whole(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, key = objects_at(f"s3://{bucket}/run")
    objects.put_all({f"{key}/{n:03d}/x": Put(b"") for n in range(30)})
    original = objects.fs._call_s3  # type: ignore[attr-defined]

    async def small_pages(method: str, **how: Any) -> Any:
        return await original(method, **how, **({"MaxKeys": 7} if "list" in method else {}))

    monkeypatch.setattr(objects.fs, "_call_s3", small_pages)  # type: ignore[attr-defined]
    assert objects.names(key) == [f"{n:03d}" for n in range(30)]
    assert objects.keys(key) == [f"{n:03d}/x" for n in range(30)]


def test_objects_are_copied_and_deleted(place: str) -> None:
    objects, key = objects_at(f"{place}/a")
    objects.put(key, b"1")
    objects.copy_all({key: f"{key}-copy"})
    objects.delete([key, f"{key}-never"])
    assert objects.get_all([key, f"{key}-copy"]) == {f"{key}-copy": b"1"}
    with pytest.raises(FileNotFoundError):
        objects.copy_all({key: f"{key}-again"})


def _failing(
    monkeypatch: pytest.MonkeyPatch,
    fs: Any,
    times: int,
    error: Callable[[], Exception],
    *,
    after: bool = False,
) -> list[str]:
    """Let the first requests fail, before they reach the server or after it did what they ask."""
    original, asked = fs._call_s3, []

    async def call(method: str, **how: Any) -> Any:
        asked.append(method)
        if len(asked) <= times:
            if after:
                await original(method, **how)
            raise error()
        return await original(method, **how)

    monkeypatch.setattr(fs, "_call_s3", call)
    return asked


def _answered(status: int, code: str) -> Callable[[], Exception]:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    def make() -> Exception:
        answer = {
            "Error": {"Code": code, "Message": f"signed with {SECRET}"},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        return translate_boto_error(ClientError(answer, "PutObject"))  # type: ignore[arg-type, no-any-return]

    return make


def _unreachable() -> Exception:
    from botocore.exceptions import EndpointConnectionError

    return EndpointConnectionError(endpoint_url=f"http://user:{SECRET}@nowhere")


PASSING = [
    _answered(503, "SlowDown"),
    _answered(500, "InternalError"),
    _answered(409, "ConditionalRequestConflict"),
    _answered(429, "TooManyRequests"),
    _unreachable,
    lambda: TimeoutError("slow"),
    lambda: ConnectionResetError("reset"),
]


@pytest.mark.parametrize("error", PASSING)
@pytest.mark.parametrize("after", [False, True])
def test_a_passing_failure_is_no_failure(
    bucket: str, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception], after: bool
) -> None:
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.001)
    objects, key = objects_at(f"s3://{bucket}/run/one")
    asked = _failing(monkeypatch, objects.fs, 2, error, after=after)  # type: ignore[attr-defined]
    assert objects.put(key, b"mine", ABSENT), "the lost answer to a put that was done is no lost race"
    assert asked[:2] == ["put_object"] * 2
    assert objects.get_all([key]) == {key: b"mine"}


@pytest.mark.parametrize("error", PASSING)
def test_a_lasting_failure_says_where_and_no_secret(
    bucket: str, monkeypatch: pytest.MonkeyPatch, error: Callable[[], Exception]
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.05)
    monkeypatch.setattr(remote, "_FIRST_WAIT_S", 0.01)
    folder = Folder(f"s3://{bucket}/run")
    _failing(monkeypatch, objects_at(folder.url)[0].fs, 10**6, error)  # type: ignore[attr-defined]
    for ask in (lambda: folder.read("one"), lambda: folder.create("one", b""), lambda: list(folder.names())):
        with pytest.raises(RetryableError) as failed:
            ask()
        assert f"s3://{bucket}/run" in str(failed.value)
        assert SECRET not in str(failed.value)
        assert failed.value.__cause__ is None
        assert failed.value.__suppress_context__


@pytest.mark.parametrize(
    ("code", "status", "kind", "word"),
    [
        ("AccessDenied", 403, RefusedError, "AWS_ACCESS_KEY_ID"),
        ("QuotaExceeded", 507, RefusedError, "AWS_ACCESS_KEY_ID"),
        ("InvalidAccessKeyId", 403, RefusedError, "AWS_ACCESS_KEY_ID"),
        ("NoSuchBucket", 404, InputError, "no such bucket"),
        ("NotImplemented", 501, InputError, "cannot do this"),
        ("ExpiredToken", 400, RefusedError, "renew"),
    ],
)
def test_what_waiting_does_not_mend_is_said_as_what_it_is(
    bucket: str, monkeypatch: pytest.MonkeyPatch, code: str, status: int, kind: type[Exception], word: str
) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.02)
    folder = Folder(f"s3://{bucket}/run")
    _failing(monkeypatch, objects_at(folder.url)[0].fs, 10**6, _answered(status, code))  # type: ignore[attr-defined]
    with pytest.raises(kind, match=word):
        folder.create("one", b"")


def test_a_real_missing_bucket_is_said_to_be_missing(s3_server: S3Server) -> None:
    with pytest.raises(InputError, match="no such bucket"):
        Folder("s3://never-made-by-anybody/run").read("plan.json")


def test_a_bug_is_not_taken_for_the_network(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, key = objects_at(f"s3://{bucket}/run/one")
    asked = _failing(monkeypatch, objects.fs, 10, lambda: TypeError("a bug"))  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        objects.put(key, b"")
    assert len(asked) == 1


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"])
def test_the_endpoint_comes_from_the_environment(s3_server: S3Server, s3_folder: str, variable: str) -> None:
    script = (
        "import sys, zarr; from engine.store.objects import Folder; from engine.store.layout import open_group\n"
        "Folder(sys.argv[1]).replace('one', b'1'); print(Folder(sys.argv[1]).read('one'))\n"
        "zarr.create_group(sys.argv[1] + '/a.zarr'); print(open_group(sys.argv[1] + '/a.zarr').name)\n"
    )
    env = {k: v for k, v in os.environ.items() if "ENDPOINT" not in k} | {variable: s3_server.endpoint}
    command = [sys.executable, "-c", script, s3_folder]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["b'1'", "/"]


def test_a_server_that_ignores_conditions_is_refused(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    remote._require_conditions.cache_clear()
    url = f"s3://{bucket}/run"
    fs = objects_at(url)[0].fs  # type: ignore[attr-defined]
    original = fs._call_s3

    async def blind(method: str, **how: Any) -> Any:
        return await original(method, **{k: v for k, v in how.items() if k not in ("IfMatch", "IfNoneMatch")})

    with monkeypatch.context() as patch:
        patch.setattr(fs, "_call_s3", blind)
        with pytest.raises(InputError, match="ignores the conditions"):
            Lease(url).acquire()
    assert objects_at(url)[0].keys(bucket) == [], "nothing is left behind"
    require_conditions(url)


@pytest.mark.parametrize("write", ["create", "replace", "remove", "lease"])
def test_file_systems_without_conditions_are_read_and_never_written(tmp_path: Path, write: str) -> None:
    (tmp_path / "one").write_bytes(b"1")
    folder = Folder(f"simplecache::file://{tmp_path}")
    assert folder.read("one") == b"1"
    assert list(folder.names()) == ["one"]
    with pytest.raises(InputError, match="not written to this kind of file system"):
        {
            "create": lambda: folder.create("two", b""),
            "replace": lambda: folder.replace("two", b""),
            "remove": lambda: folder.remove("one"),
            "lease": lambda: Lease(folder.url).acquire(),
        }[write]()
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_a_lease_outlives_a_network_that_was_lost(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.05)
    run = f"s3://{bucket}/run"
    with Lease(run, patience_s=60, beat_s=0.05) as lease:
        fs = objects_at(run)[0].fs  # type: ignore[attr-defined]
        with monkeypatch.context() as patch:
            asked = _failing(patch, fs, 10**6, _unreachable)
            while len(asked) < 6:
                time.sleep(0.02)
        before = Folder(run).read("lease/beat-000001")
        for _ in range(200):
            if Folder(run).read("lease/beat-000001") != before:
                break
            time.sleep(0.02)
        assert Folder(run).read("lease/beat-000001") != before, "it beats again"
        lease.check()
        with pytest.raises(ConflictError):
            Lease(run, patience_s=0.5, beat_s=0.1).acquire()


def test_many_requests_go_at_once_but_not_all(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objects, key = objects_at(f"s3://{bucket}/run")
    now, most = 0, 0

    async def call(method: str, **how: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.005)
        now -= 1
        return {"ETag": "x"}

    monkeypatch.setattr(objects.fs, "_call_s3", call)  # type: ignore[attr-defined]
    objects.put_all({f"{key}/{n}": Put(b"") for n in range(60)})
    assert most == remote._AT_ONCE
