"""Which class each small object takes: the kernels of the minimum mapping unit, on one window.

All objects below their class's minimum are freed at once. Then, round by round, each freed object that touches settled
pixels takes the class with which it shares most pixel edges, ties to the lowest value; settled are the objects that
were never freed and those that were given a class in an earlier round, not those of the same round: so no order among
objects decides. No data is no neighbour.

An object that touches the window's edge and is small as far as it is seen may be larger. It is `UNDECIDED`, and so is
each freed object whose next class depends on what an undecided neighbour will be: it can be decided for all that only
where its longest border is longer than any other one and all undecided edges together.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from engine.refine.objects import HIDDEN, Runs, find_runs

FREE = 0
"""State of an object that was freed and is not settled yet; a class is the state of a settled one."""
UNDECIDED = -1
"""State of an object that depends on what lies outside the window."""

KEPT_FATE, MERGED_FATE, LEFT_FATE, UNDECIDED_FATE = range(4)


class Rule(NamedTuple):
    """What is merged into what.

    Attributes:
        minimum_px: (256,) int64: fewest pixels of an object, for each class; at most 1 = never merged away.
        grows: (256,) bool: whether objects may be merged into this class.
        connectivity: 4: pixels of an object share edges; 8: corners join too.
        rounds: How often freed objects look for settled neighbours.
    """

    minimum_px: NDArray[np.int64]
    grows: NDArray[np.bool_]
    connectivity: int
    rounds: int


def merge_window(label: NDArray[np.uint8], rule: Rule) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Merge the small objects of a window.

    Args:
        label: (y, x) classes, 0 = no data. What lies outside is unknown.
        rule: What is merged into what.

    Returns:
        (y, x) uint8 classes; (y, x) uint8 fates: 0 not small, 1 settled, 2 small and left, for no round reached it,
        3 not decided by what the window shows.
    """
    runs = find_runs(label, rule.connectivity)
    states = _first_states(runs, rule.minimum_px)
    small = states <= FREE
    out, fates = label.copy(), np.zeros(label.shape, np.uint8)
    if small.any():
        free = np.flatnonzero(states == FREE)
        ends, contacts = _contacts(runs.records, runs.rows, free, len(states))
        _settle(free, ends, contacts, (rule.grows, rule.rounds), states)
        _paint(runs.records, runs.rows, small, states, out, fates)
    return out, fates


def _first_states(runs: Runs, minimum_px: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return the class of each object that is settled from the start, `FREE` or `UNDECIDED` of the small ones."""
    small = runs.sizes_px < minimum_px[runs.classes]
    states = np.where(small, np.where(runs.at_edge, UNDECIDED, FREE), runs.classes)
    return states.astype(np.int16)


def _contacts(
    records: NDArray[np.int32], rows: NDArray[np.int64], free: NDArray[np.int64], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """List whom each freed object touches.

    Args:
        records: From `find_runs`.
        rows: From `find_runs`.
        free: (freed,) objects.
        n: Number of all objects.

    Returns:
        (freed + 1,) where each one's list begins; (contact, 2) the other object and the pixel edges shared, where one
        pair may stand several times.
    """
    ranks = np.full(n, HIDDEN, np.int32)
    ranks[free] = np.arange(len(free), dtype=np.int32)
    counts = np.zeros(len(free), np.int64)
    none = np.empty((0, 2), np.int32)
    _walk_contacts(records, rows, ranks, counts, none)
    begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    table = np.empty((begins[-1], 2), np.int32)
    if len(table):
        _walk_contacts(records, rows, ranks, begins[:-1].copy(), table)
    return begins, table


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _note(
    a: int, b: int, edges: int, ranks: NDArray[np.int32], at: NDArray[np.int64], table: NDArray[np.int32]
) -> None:
    """Add b to a's list where a was freed; only count where there is no table."""
    rank = ranks[a]
    if rank != HIDDEN:
        if len(table):
            table[at[rank], 0], table[at[rank], 1] = b, edges
        at[rank] += 1


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _walk_contacts(
    records: NDArray[np.int32],
    rows: NDArray[np.int64],
    ranks: NDArray[np.int32],
    at: NDArray[np.int64],
    table: NDArray[np.int32],
) -> None:
    """Go over all pairs of runs that share edges, and note those of freed objects."""
    for y in range(len(rows) - 1):
        j = rows[y - 1] if y else 0
        last = rows[y] - 1 if y else 0
        for i in range(rows[y], rows[y + 1] - 1):
            start, own, end = records[i, 0], records[i, 2], records[i + 1, 0]
            if own == HIDDEN:
                continue
            if i > rows[y] and records[i - 1, 2] != HIDDEN:
                _note(own, records[i - 1, 2], 1, ranks, at, table)
                _note(records[i - 1, 2], own, 1, ranks, at, table)
            while j < last and records[j + 1, 0] <= start:
                j += 1
            k = j
            while k < last and records[k, 0] < end:
                other = records[k, 2]
                if other != HIDDEN and other != own:
                    edges = min(end, records[k + 1, 0]) - max(start, records[k, 0])
                    _note(own, other, edges, ranks, at, table)
                    _note(other, own, edges, ranks, at, table)
                k += 1


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _vote(
    contacts: NDArray[np.int32], states: NDArray[np.int16], grows: NDArray[np.bool_], edges: NDArray[np.int64]
) -> int:
    """Return the class with which a freed object shares most edges; `FREE` for none, `UNDECIDED` where it depends.

    Args:
        contacts: (contact, 2) other objects and shared edges.
        states: (object,)
        grows: (256,)
        edges: (256,) zeros; are zeros again afterwards.
    """
    open_edges = 0
    for i in range(len(contacts)):
        state = states[contacts[i, 0]]
        if state == UNDECIDED:
            open_edges += contacts[i, 1]
        elif state != FREE and grows[state]:
            edges[state] += contacts[i, 1]
    winner, most, second = FREE, np.int64(0), np.int64(0)
    for i in range(len(contacts)):
        state = states[contacts[i, 0]]
        if state <= FREE or edges[state] == 0:
            continue
        shared = edges[state]
        edges[state] = 0
        if shared > most or (shared == most and state < winner):
            winner, most, second = state, shared, most
        elif shared > second:
            second = shared
    if open_edges and most <= second + open_edges:
        return UNDECIDED
    return winner


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _settle(
    free: NDArray[np.int64],
    begins: NDArray[np.int64],
    contacts: NDArray[np.int32],
    rule: tuple[NDArray[np.bool_], int],
    states: NDArray[np.int16],
) -> None:
    """Give freed objects their classes, round by round; all of one round look at the states before it."""
    grows, rounds = rule
    edges = np.zeros(256, np.int64)
    waiting = np.arange(len(free))
    found = np.empty(len(free), np.int16)
    for _ in range(rounds):
        for w in range(len(waiting)):
            at = waiting[w]
            found[w] = _vote(contacts[begins[at] : begins[at + 1]], states, grows, edges)
        still = 0
        for w in range(len(waiting)):
            if found[w] == FREE:
                waiting[still] = waiting[w]
                still += 1
            else:
                states[free[waiting[w]]] = found[w]
        if still == len(waiting):
            return
        waiting = waiting[:still]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _paint(
    records: NDArray[np.int32],
    rows: NDArray[np.int64],
    small: NDArray[np.bool_],
    states: NDArray[np.int16],
    out: NDArray[np.uint8],
    fates: NDArray[np.uint8],
) -> None:
    """Write the classes and fates of small objects."""
    for y in range(len(rows) - 1):
        for i in range(rows[y], rows[y + 1] - 1):
            own = records[i, 2]
            if own == HIDDEN or not small[own]:
                continue
            begin, end = records[i, 0], records[i + 1, 0]
            if states[own] == UNDECIDED:
                fates[y, begin:end] = UNDECIDED_FATE
            elif states[own] == FREE:
                fates[y, begin:end] = LEFT_FATE
            else:
                fates[y, begin:end] = MERGED_FATE
                out[y, begin:end] = states[own]
