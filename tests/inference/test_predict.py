"""The same map however it is cut: chunks, cores, schedulers, workers; each window once."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.inference.blend import Frame
from engine.inference.blocks import predict_array
from engine.inference.decide import Layers
from engine.values.grid import Box
from engine.values.head import ONE_CLASS
from engine.values.lattice import Kernel, Lattice
from tests.inference.fakes import FakeLane, evaluations, oracle_map, random_cube

LABELS = (1, 2, 3, 4)


def _ragged(total: int, cuts: list[int]) -> tuple[int, ...]:
    edges = sorted({0, total, *(c % total for c in cuts)})
    return tuple(b - a for a, b in itertools.pairwise(edges))


def _lazy(values: np.ndarray, frame: Frame, chunks: tuple[tuple[int, ...], ...], log: Path) -> da.Array:
    array = da.from_array(values, chunks=((1, 1), (2, 1), *chunks))
    return predict_array(
        array, frame, partial(FakeLane, str(log)), Layers(ONE_CLASS, LABELS, ("probability",))
    )


lattices = st.builds(
    lambda window, part, kernel: Lattice(window, int(part * window) // 2 * 2, kernel),
    st.sampled_from([8, 12, 16]),
    st.floats(0, 0.7),
    st.sampled_from(["hann", "radial", "trim"]),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lattice=lattices,
    origin=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    cuts=st.tuples(st.lists(st.integers(0, 99), max_size=5), st.lists(st.integers(0, 99), max_size=5)),
    margins=st.tuples(*[st.integers(0, 20)] * 4),
    seed=st.integers(0, 5),
)
def test_any_chunking_equals_the_untiled_answer_and_evaluates_each_window_once(
    tmp_path_factory: pytest.TempPathFactory,
    lattice: Lattice,
    origin: tuple[int, int],
    shape: tuple[int, int],
    cuts: tuple[list[int], list[int]],
    margins: tuple[int, int, int, int],
    seed: int,
) -> None:
    outer = Box(*origin, origin[0] + shape[0], origin[1] + shape[1])
    top, left, bottom, right = margins
    core = outer & Box(outer.y0 + top, outer.x0 + left, outer.y1 - bottom, outer.x1 - right)
    frame = Frame(outer, core if core else outer, lattice)
    values = random_cube(seed, outer)
    log = tmp_path_factory.mktemp("count") / "log"
    chunks = _ragged(shape[0], cuts[0]), _ragged(shape[1], cuts[1])
    with dask.config.set(scheduler="threads", num_workers=2):
        found = _lazy(values, frame, chunks, log).compute()
    expected, windows = oracle_map(values, frame)
    np.testing.assert_array_equal(found, expected)
    assert evaluations(log) == windows


BOX = Box(-37, 211, 163, 391)
FRAME = Frame(BOX, Box(-30, 215, 150, 390), Lattice(32, 12))
CHUNKS = [
    ((200,), (180,)),
    ((40, 40, 40, 40, 40), (36, 36, 36, 36, 36)),
    ((33, 67, 100), (90, 90)),
    ((7, 93, 3, 97), (179, 1)),
]


@pytest.mark.parametrize("scheduler", ["sync", "threads", "processes"])
def test_schedulers_agree_for_every_layout(scheduler: str, tmp_path: Path) -> None:
    values = random_cube(1, BOX)
    expected, windows = oracle_map(values, FRAME)
    for n, chunks in enumerate(CHUNKS):
        log = tmp_path / f"{n}"
        found = _lazy(values, FRAME, chunks, log).compute(scheduler=scheduler, num_workers=2)
        np.testing.assert_array_equal(found, expected)
        assert evaluations(log) == windows


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (1, 4), (2, 1)])
def test_clusters_agree_for_every_layout(workers: int, threads: int, tmp_path: Path) -> None:
    values = random_cube(1, BOX)
    expected, windows = oracle_map(values, FRAME)
    cluster = LocalCluster(
        n_workers=workers, threads_per_worker=threads, processes=workers > 1, dashboard_address="127.0.0.1:0"
    )
    with cluster, Client(cluster):
        for n, chunks in enumerate(CHUNKS):
            log = tmp_path / f"{n}"
            np.testing.assert_array_equal(_lazy(values, FRAME, chunks, log).compute(), expected)
            assert evaluations(log) == windows


@pytest.mark.parametrize("tile", [17, 40, 64, 200])
@pytest.mark.parametrize("kernel", ["hann", "radial", "trim"])
def test_tiles_with_their_halo_equal_the_whole(tile: int, kernel: Kernel, tmp_path: Path) -> None:
    lattice = Lattice(24, 10, kernel)
    area = Box(-50, 20, 70, 130)
    values = random_cube(3, lattice.pad(area))
    whole = Frame(lattice.pad(area), area, lattice)
    expected, _ = oracle_map(values, whole)
    found = np.zeros_like(expected)
    for part in area.blocks(tile):
        outer = lattice.pad(part)
        cut = values[(..., *outer.slices_in(whole.outer))]
        frame = Frame(outer, part, lattice)
        chunks = (outer.shape_yx[0],), (outer.shape_yx[1],)
        found[(slice(None), *part.slices_in(area))] = _lazy(cut, frame, chunks, tmp_path / "log").compute()
    np.testing.assert_array_equal(found, expected)


def test_a_cube_without_data_costs_nothing_and_is_no_data(tmp_path: Path) -> None:
    values = np.zeros((2, 3, 200, 180), np.uint16)
    found = _lazy(values, FRAME, CHUNKS[1], tmp_path / "log").compute(scheduler="sync")
    assert evaluations(tmp_path / "log") == 0
    assert set(np.unique(found[0])) == {0}
    assert set(np.unique(found[1:])) == {255}


def test_the_graph_has_few_tasks_a_block(tmp_path: Path) -> None:
    values = da.zeros((2, 3, 2000, 2000), chunks=(2, 3, 200, 200), dtype=np.uint16)
    frame = Frame(Box(0, 0, 2000, 2000), Box(0, 0, 2000, 2000), Lattice(64, 24))
    result = predict_array(values, frame, partial(FakeLane, str(tmp_path / "log")), Layers(ONE_CLASS, LABELS))
    (optimized,) = dask.optimize(result)
    assert len(dict(optimized.__dask_graph__())) / 100 < 25
