from __future__ import annotations

import gc
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.store.ledger import Gap, Ledger, Lookup, TileRecord, as_dict, block_of
from engine.store.objects import Folder
from engine.values.errors import DataError, InputError
from engine.values.grid import Box, TileKey, tiles_over

KEY = "ab" * 32
RECORD = TileRecord(
    tile=TileKey(3, -20),
    key=KEY,
    attempt=1,
    checksums={"label": "00ff"},
    seconds=1.5,
    peak_bytes=10**9,
    counts={"windows": 12},
    finished_utc="2026-01-01T00:00:00+00:00",
    worker="tcp://x",
    engine="1",
    gaps=(Gap("r3_c-20", "S2A_1", "red", "RetryableError", "throttled"),),
)


@pytest.fixture
def ledger(folder_url: str) -> Ledger:
    return Ledger(folder_url, "map")


def test_a_committed_tile_is_done_with_its_key_only(ledger: Ledger) -> None:
    assert ledger.done(RECORD.tile, KEY) is None
    assert ledger.commit(RECORD) == RECORD
    assert ledger.done(RECORD.tile, KEY) == RECORD
    assert ledger.done(RECORD.tile, "cd" * 32) is None
    assert ledger.done(TileKey(3, 20), KEY) is None
    assert ledger.done(RECORD.tile, KEY[:16] + "f" * 48) is None, "the first 16 digits are not enough"


def test_the_first_record_stands_when_a_second_attempt_agrees(ledger: Ledger) -> None:
    ledger.commit(RECORD)
    assert ledger.commit(replace(RECORD, attempt=2, seconds=9.0)) == RECORD
    assert list(ledger.records()) == [RECORD]


def test_attempts_that_disagree_are_a_data_error(ledger: Ledger) -> None:
    ledger.commit(RECORD)
    with pytest.raises(DataError, match="different bytes"):
        ledger.commit(replace(RECORD, checksums={"label": "ff00"}))


def test_of_several_records_of_a_tile_the_highest_epoch_counts(ledger: Ledger) -> None:
    newer = replace(RECORD, key="cd" * 32, checksums={"label": "1"}, epoch=2)
    ledger.commit(newer)
    ledger.commit(RECORD)  # a paused writer wakes up too late
    assert ledger.done(RECORD.tile, KEY) is None
    assert ledger.done(RECORD.tile, newer.key) == newer
    assert list(ledger.records()) == [newer]
    assert Lookup(ledger).of(RECORD.tile) == newer


def test_clearing_removes_a_tiles_earlier_records_only(ledger: Ledger) -> None:
    neighbour = replace(RECORD, tile=TileKey(3, -2))
    for record in (RECORD, replace(RECORD, key="cd" * 32, epoch=2), neighbour):
        ledger.commit(record)
    ledger.clear(RECORD.tile, 1)
    assert ledger.done(RECORD.tile, "cd" * 32) is not None
    ledger.clear(RECORD.tile, 2)
    assert sum(1 for _ in ledger.folder.child(block_of(RECORD.tile)).names()) == 1
    ledger.clear(RECORD.tile, 3)
    assert [r.tile for r in ledger.records()] == [neighbour.tile]


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_torn_record_is_not_done_and_is_replaced(ledger: Ledger, keep: int) -> None:
    name = f"{block_of(RECORD.tile)}/{RECORD.tile}.{KEY[:16]}.json"
    ledger.folder.create(name, RECORD.to_json()[:keep])
    with pytest.warns(UserWarning, match="damaged"):
        assert ledger.done(RECORD.tile, KEY) is None
    with pytest.warns(UserWarning, match="damaged"):
        assert list(ledger.records()) == []
    with pytest.warns(UserWarning, match="damaged"):
        ledger.commit(RECORD)  # replaces it
    assert ledger.done(RECORD.tile, KEY) == RECORD


@pytest.mark.parametrize("data", [b"[]", b"{}", b"3", b'{"tile": "r0_c0", "gaps": []}', b"\xff"])
def test_bytes_that_are_no_record_are_told_so(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a tile record"):
        TileRecord.from_json(data)


def test_a_short_key_is_refused(ledger: Ledger) -> None:
    with pytest.raises(InputError):
        ledger.done(RECORD.tile, "abc")


def test_many_tiles_are_looked_up(ledger: Ledger) -> None:
    tiles = tiles_over(Box(-20, -20, 20, 20), 1)
    for tile in tiles[::3]:
        ledger.commit(replace(RECORD, tile=tile, gaps=()))
    lookup = Lookup(ledger)
    assert [t for t in tiles if lookup.of(t) is not None] == tiles[::3]
    assert all(r is None or r.tile == t for t in tiles for r in [lookup.of(t)])
    assert sorted(r.tile for r in ledger.records()) == sorted(tiles[::3])


def _held() -> int:
    return sum(type(o) is TileRecord for o in gc.get_objects())  # isinstance would wake lazy modules


def test_records_are_held_a_few_folders_at_a_time(tmp_path: Path) -> None:
    ledger, tiles = Ledger(str(tmp_path), "map"), tiles_over(Box(0, 0, 64, 64), 1)
    for tile in tiles:
        path = tmp_path / "ledger" / "map" / block_of(tile)
        path.mkdir(parents=True, exist_ok=True)
        (path / f"{tile}.{KEY[:16]}.json").write_bytes(replace(RECORD, tile=tile).to_json())
    before = _held()
    held = [_held() - before for n, _ in enumerate(ledger.records()) if n % 500 == 0]
    assert len(held) == 9
    assert max(held) <= 2 * 256
    lookup = Lookup(ledger)
    held = [_held() - before for n, t in enumerate(tiles) if lookup.of(t) and n % 500 == 0]
    assert len(held) == 9
    assert max(held) <= 9 * 256
    assert max(held) <= 9 * 256


def _race(folder: str, number: int, wins: multiprocessing.Queue) -> None:
    wins.put(Folder(folder).create("one", str(number).encode() * 1000))


def test_of_many_creators_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    wins = context.Queue()
    racers = [context.Process(target=_race, args=(str(tmp_path), n, wins)) for n in range(4)]
    for racer in racers:
        racer.start()
    results = [wins.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert results.count(True) == 1
    data = (tmp_path / "one").read_bytes()
    assert len(set(data)) == 1
    assert len(data) == 1000
    assert [p.name for p in tmp_path.iterdir()] == ["one"], "no temporary file stays"


@given(
    row=st.integers(-(10**6), 10**6),
    col=st.integers(-(10**6), 10**6),
    counts=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)),
    text=st.text(),
)
def test_a_record_survives_json(row: int, col: int, counts: dict[str, float], text: str) -> None:
    gap = Gap("r0_c0", text, "red", "DataError", text)
    record = replace(RECORD, tile=TileKey(row, col), counts=counts, worker=text, gaps=(gap,))
    assert TileRecord.from_json(record.to_json()) == record
    assert as_dict(record) == json.loads(record.to_json())
    block = TileKey.parse(block_of(record.tile))
    assert block.row * 16 <= row < block.row * 16 + 16
    assert block.col * 16 <= col < block.col * 16 + 16
