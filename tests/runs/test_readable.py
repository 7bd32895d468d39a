"""A tile is made without what cannot be read; never without most of it, and never in silence."""

from __future__ import annotations

import pytest

from engine.runs import readable
from engine.runs.readable import without_unreadable
from engine.runs.tile import TileOutput
from engine.values.errors import DataError, InputError, LandweaveError, RetryableError
from engine.values.grid import TileKey

TILE = TileKey(2, 3)
SCENES = [f"s{i}" for i in range(6)]


class Maker:
    """Fails for scenes that are there and broken; a busy one answers after some tries."""

    def __init__(self, broken: dict[str, LandweaveError], busy: dict[str, int] | None = None):
        self.broken, self.busy, self.asked = broken, dict(busy or {}), list[frozenset[str]]()

    def __call__(self, left_out: frozenset[str]) -> TileOutput:
        self.asked.append(left_out)
        for scene in SCENES:
            if scene in left_out:
                continue
            if self.busy.get(scene, 0):
                self.busy[scene] -= 1
                raise RetryableError("no answer").about(scene, "red")
            if scene in self.broken:
                raise self.broken[scene]
        return TileOutput({}, {"scenes": len(SCENES) - len(left_out)})


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(readable.time, "sleep", waits.append)
    monkeypatch.setattr(readable, "_GIVEN_UP", set())
    return waits


def test_a_broken_scene_is_left_out_and_listed(slept: list[float]) -> None:
    make = Maker({s: DataError("broken", where=f"file of {s}").about(s, "nir") for s in ("s1", "s4")})
    output = without_unreadable(TILE, SCENES, make)
    assert output.counts["scenes"] == 4
    assert [(g.tile, g.item, g.asset, g.kind) for g in output.gaps] == [
        ("r2_c3", "s1", "nir", "DataError"),
        ("r2_c3", "s4", "nir", "DataError"),
    ]
    assert "file of s4" in output.gaps[1].message
    assert make.asked[-1] == {"s1", "s4"}
    assert slept == []


def test_a_service_that_comes_back_costs_no_scene(slept: list[float]) -> None:
    output = without_unreadable(TILE, SCENES, Maker({}, {"s2": 3}))
    assert output.gaps == ()
    assert slept == list(readable.WAITS_S)


def test_a_service_that_stays_away_costs_its_scene(slept: list[float]) -> None:
    output = without_unreadable(TILE, SCENES, Maker({}, {"s2": 99}))
    assert [(g.item, g.kind) for g in output.gaps] == [("s2", "RetryableError")]
    assert slept == list(readable.WAITS_S)
    again = without_unreadable(TileKey(0, 0), SCENES, Maker({}, {"s2": 99}))
    assert [g.item for g in again.gaps] == ["s2"]
    assert slept == list(readable.WAITS_S)  # the next tile does not wait for it
    assert without_unreadable(TILE, SCENES, Maker({})).gaps == ()  # but tries it


def test_where_most_scenes_fail_the_tile_fails(slept: list[float]) -> None:
    make = Maker({s: DataError("refused").about(s, "red") for s in SCENES})
    with pytest.raises(DataError, match="refused"):
        without_unreadable(TILE, SCENES, make)
    assert len(make.asked) == 4


@pytest.mark.parametrize(
    "error",
    [
        DataError("no scene named"),
        InputError("wrong setting").about("s1", "red"),
        DataError("x").about("s9", ""),
    ],
)
def test_what_leaving_out_does_not_mend_is_raised(error: LandweaveError, slept: list[float]) -> None:
    with pytest.raises(type(error)):
        without_unreadable(TILE, SCENES, Maker({"s1": error}))
