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
    small = states[:-1] <= FREE
    out, fates = label.copy(), np.zeros(label.shape, np.uint8)
    if small.any():
        free = np.append(states[:-1] == FREE, False)
        begins, contacts = _contacts(_pairs(runs.records, runs.rows, free), free)
        _settle(np.flatnonzero(free), begins, contacts, (rule.grows, rule.rounds), states)
        _paint(runs.records, runs.rows, small, states, (out, fates))
    return out, fates


def _first_states(runs: Runs, minimum_px: NDArray[np.int64]) -> NDArray[np.int16]:
    """Return the class of each object that is settled from the start, `FREE` or `UNDECIDED` of the small ones.

    A last entry stands for all hidden runs, number -1: free, as what is never anybody's neighbour.
    """
    small = runs.sizes_px < minimum_px[runs.classes]
    states = np.where(small, np.where(runs.at_edge, UNDECIDED, FREE), runs.classes)
    return np.append(states, FREE).astype(np.int16)


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _pairs(records: NDArray[np.int32], rows: NDArray[np.int64], free: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return (pair, 3): two objects, one of them freed, and the pixel edges that they share at one place.

    Two rows are gone over together, from one beginning of a run in either to the next. A pair is written at every
    step, and stays if it counts: no branch that could be mispredicted.

    Args:
        records: From `find_runs`.
        rows: From `find_runs`.
        free: (object + 1,), False for the hidden.
    """
    pairs = np.empty((1024 + len(records) // 8, 3), np.int32)
    n = 0
    for y in range(len(rows) - 1):
        first, end = rows[y], rows[y + 1] - 1
        i, j = first, rows[y - 1] if y else end
        most = 2 * (end - first) + max(0, first - j)
        if n + most > len(pairs):
            larger = np.empty((2 * len(pairs) + most, 3), np.int32)
            larger[:n] = pairs[:n]
            pairs = larger
        for k in range(first + 1, end):
            a, b = records[k - 1, 2], records[k, 2]
            pairs[n, 0], pairs[n, 1], pairs[n, 2] = a, b, 1
            n += (free[a] | free[b]) & (a != b)
        x = np.int32(0)
        while i < end and j < first:
            stop = min(records[i + 1, 0], records[j + 1, 0])
            a, b = records[i, 2], records[j, 2]
            pairs[n, 0], pairs[n, 1], pairs[n, 2] = a, b, stop - x
            n += (free[a] | free[b]) & (a != b)
            i += records[i + 1, 0] == stop
            j += records[j + 1, 0] == stop
            x = stop
    return pairs[:n]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _contacts(
    pairs: NDArray[np.int32], free: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Sort pairs by the freed object.

    Args:
        pairs: From `_pairs`.
        free: (object + 1,), False for the hidden.

    Returns:
        (object + 2,) where each one's list begins; (contact, 2) the other object, or -1, and the edges shared. A pair
        may stand several times; a last entry, of nobody's list, is written where nothing is to be noted.
    """
    begins = np.zeros(len(free) + 2, np.int64)
    for p in range(len(pairs)):
        a, b = pairs[p, 0], pairs[p, 1]
        begins[a + 2] += free[a]
        begins[b + 2] += free[b]
    for i in range(1, len(begins)):
        begins[i] += begins[i - 1]
    last = begins[-1]
    table = np.empty((last + 1, 2), np.int32)
    for p in range(len(pairs)):
        a, b, edges = pairs[p, 0], pairs[p, 1], pairs[p, 2]
        place = begins[a + 1] if free[a] else last
        table[place, 0], table[place, 1] = b, edges
        begins[a + 1] += free[a]
        place = begins[b + 1] if free[b] else last
        table[place, 0], table[place, 1] = a, edges
        begins[b + 1] += free[b]
    return begins[:-1], table


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
    waiting: NDArray[np.int64],
    begins: NDArray[np.int64],
    contacts: NDArray[np.int32],
    rule: tuple[NDArray[np.bool_], int],
    states: NDArray[np.int16],
) -> None:
    """Give freed objects their classes, round by round; all of one round look at the states before it."""
    grows, rounds = rule
    edges = np.zeros(256, np.int64)
    found = np.empty(len(waiting), np.int16)
    for _ in range(rounds):
        for w in range(len(waiting)):
            own = waiting[w]
            found[w] = _vote(contacts[begins[own] : begins[own + 1]], states, grows, edges)
        still = 0
        for w in range(len(waiting)):
            if found[w] == FREE:
                waiting[still] = waiting[w]
                still += 1
            else:
                states[waiting[w]] = found[w]
        if still == len(waiting):
            return
        waiting = waiting[:still]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _paint(
    records: NDArray[np.int32],
    rows: NDArray[np.int64],
    small: NDArray[np.bool_],
    states: NDArray[np.int16],
    layers: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    """Write the classes and fates of small objects."""
    out, fates = layers
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
