from __future__ import annotations

import pytest

from engine.store.objects import Folder


@pytest.fixture
def folder(folder_url: str) -> Folder:
    return Folder(folder_url)


def test_create_refuses_a_taken_name_and_leaves_it_alone(folder: Folder) -> None:
    assert folder.create("a/b", b"first")
    assert not folder.create("a/b", b"second")
    assert folder.read("a/b") == b"first"


def test_replace_overwrites(folder: Folder) -> None:
    folder.replace("a", b"first")
    folder.replace("a", b"second")
    assert folder.read("a") == b"second"
    assert list(folder.names()) == ["a"]


def test_what_is_not_there_is_none(folder: Folder) -> None:
    assert folder.read("nothing") is None
    assert list(folder.child("nothing").names()) == []
    folder.remove("nothing")


def test_names_and_contents_are_listed(folder: Folder) -> None:
    for name in ("b", "a", "c/d"):
        folder.create(name, name.encode())
    assert list(folder.names()) == ["a", "b", "c"]
    assert folder.read_all(["a", "b", "nothing"]) == {"a": b"a", "b": b"b"}
    assert folder.read_all([]) == {}
    folder.remove("a")
    assert list(folder.names()) == ["b", "c"]


def test_an_error_that_is_no_lost_race_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)
    with pytest.raises(PermissionError):
        Folder("memory://somewhere-else").create("a", b"")
