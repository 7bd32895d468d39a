"""Make a tile without the files that cannot be read, and say which they were.

A file that is missing or broken would fail its tile again and again; left out, its scene is one date less.
It is left out of the whole tile, never of one chunk, so the tile is exactly what it would be without that
scene. A service that does not answer is waited for first. And where most scenes of a tile fail, the fault
is not in the files: then the tile fails, and the run says why.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import replace

from engine.runs.tile import TileOutput
from engine.store.ledger import Gap
from engine.values.errors import DataError, LandweaveError, RetryableError
from engine.values.grid import TileKey

WAITS_S: tuple[float, ...] = (5.0, 20.0, 60.0)
"""How long a service that does not answer is waited for, each time one scene meets it."""

MOST = 0.5
"""A tile from which more than this part of its scenes would be left out fails instead."""

_GIVEN_UP: set[str] = set()
"""Scenes that were waited for in vain by this process: other tiles try them once, without waiting again."""

Make = Callable[[frozenset[str]], TileOutput]
"""Makes a tile without the scenes of these ids."""


def without_unreadable(tile: TileKey, scenes: Collection[str], make: Make) -> TileOutput:
    """Make a tile; leave out scenes whose files cannot be read, and list them as gaps.

    Args:
        tile: Which tile.
        scenes: Ids of all its scenes.
        make: Makes it without some of them.

    Returns:
        The tile, with one gap for each scene left out.

    Raises:
        LandweaveError: What `make` raised, where it names no scene of the tile, where too many scenes fail,
            or where trying again or leaving out does not help (wrong settings).
    """
    gaps: list[Gap] = []
    left_out: frozenset[str] = frozenset()
    waits = list(WAITS_S)
    while True:
        try:
            output = make(left_out)
            return replace(output, gaps=(*output.gaps, *gaps))
        except (DataError, RetryableError) as error:
            if error.item not in scenes or error.item in left_out:
                raise
            failure: LandweaveError = error
        if isinstance(failure, RetryableError):
            if waits and failure.item not in _GIVEN_UP:
                time.sleep(waits.pop(0))
                continue
            _GIVEN_UP.add(failure.item)
        left_out |= {failure.item}
        if len(left_out) > max(1, MOST * len(scenes)):
            raise failure
        waits = list(WAITS_S)
        gaps.append(Gap(str(tile), failure.item, failure.asset, type(failure).__name__, str(failure)))
