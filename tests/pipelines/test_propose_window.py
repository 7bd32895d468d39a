"""Windows other than the trained one: which are tried, which is chosen, what is frozen, what it changes."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from distributed import Client
from hypothesis import given
from hypothesis import strategies as st

from engine.inference.bundle import Bundle, load_bundle
from engine.store.ledger import Ledger
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.lattice import Lattice
from pipelines.config import RunConfig, load_config, parse_config
from pipelines.map_area import design, map_area, window_of
from pipelines.plan_area import bundle_of, trimmed_overlap, window_step, windowed
from pipelines.plan_map import PlanOptions, plan_map
from pipelines.propose_window import (
    GROWS,
    LEAST_GAIN,
    Difference,
    WindowTrial,
    _compared,
    candidates,
    choose,
    label_difference,
)
from pipelines.run_folder import read_plan
from pipelines.sample.archive import SampleArchive
from tests.inference.bundles import network, random_bundle
from tests.pipelines.test_map_area import make_bundle

FIELDS = ("spec", "n_dates", "classes", "lattice", "normalisation")


@pytest.fixture(scope="module")
def project(sample: SampleArchive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("windows")
    scheme = ClassScheme.from_file(sample.classes)
    made = make_bundle(folder / "bundle", scheme, seed=0)
    sizes = made.config.model_dump(exclude={"n_dates", "n_bands", "n_classes"}) if made.config else {}
    net = network(n_dates=8, n_bands=3, n_classes=len(scheme.values), **sizes)
    random_bundle(folder / "bundle", net, **{f: getattr(made, f) for f in FIELDS})
    settings = {
        "area": str(sample.territory), "time": "2023-03/2023-10", "catalog": str(sample.catalog), "bundle": "bundle",
        "tile_px": 128, "products": False, "window": "auto", "cluster": {"n_workers": 2}, "out": "map",
    }  # fmt: skip
    (folder / "run.yaml").write_text(yaml.safe_dump(settings))
    return folder


def settings(project: Path, out: str, *more: str) -> RunConfig:
    return load_config(project / "run.yaml", [f"out={json.dumps(str(project / out))}", *more])


@pytest.fixture(scope="module")
def bundle(project: Path) -> Bundle:
    return load_bundle(project / "bundle")


def trial(km2_s: float | None, memory: int = 0) -> WindowTrial:
    return WindowTrial(Lattice(256, 96), 2.5, memory, km2_s, km2_s)


@given(
    st.lists(st.tuples(st.none() | st.floats(0.001, 10), st.integers(0, 100)), min_size=1, max_size=7),
    st.none() | st.integers(0, 100),
)
def test_the_fastest_that_fits_is_chosen_unless_little_is_gained(
    rows: list[tuple[float | None, int]], limit: int | None
) -> None:
    trials = [trial(rows[0][0] or 1.0, rows[0][1]), *(trial(s, m) for s, m in rows[1:])]
    chosen, reason = choose(trials, limit)
    assert reason
    found, before = trials[chosen], trials[0].km2_s or 0
    possible = [t for t in trials if t.km2_s is not None and (limit is None or t.memory_bytes <= limit)]
    fastest = min((t.km2_s for t in possible if t.km2_s is not None), default=before)
    if chosen:
        assert found in possible
        assert found.km2_s == fastest <= (1 - LEAST_GAIN) * before
    else:
        assert trials[0] not in possible or fastest > (1 - LEAST_GAIN) * before or fastest == before


def test_a_limit_is_named_with_what_it_leaves_out() -> None:
    chosen, reason = choose([trial(1.0, 1), trial(0.5, 9), trial(0.8, 2)], 5)
    assert chosen == 2
    assert "1 do not fit" in reason
    assert "0.80 times" in reason


@pytest.mark.parametrize("tile_px", [64, 128, 192, 2048, 3072])
def test_strides_divide_the_tile_and_windows_suit_the_network(bundle: Bundle, tile_px: int) -> None:
    found = candidates(bundle, tile_px)
    assert found[0] == bundle.lattice
    for before, after in itertools.pairwise(found):
        assert tile_px % after.stride_px == 0
        assert after.stride_px >= GROWS * before.stride_px
        assert after.window_px % window_step(bundle) == 0
        assert (after.overlap_px, after.kernel) == (trimmed_overlap(bundle), "trim")
    assert len(found) >= 2


def test_another_window_needs_a_network_that_says_it_takes_it(bundle: Bundle) -> None:
    assert windowed(bundle, 48) is bundle
    assert windowed(bundle, 144).lattice == Lattice(144, 16, "trim")
    assert windowed(bundle, 144).digest() != bundle.digest()
    with pytest.raises(InputError, match="multiple of 4 px"):
        windowed(bundle, 146)
    with pytest.raises(InputError, match="does not say"):
        windowed(replace(bundle, size_free=False), 144)


def test_settings_take_a_word_or_a_number() -> None:
    fields = {"area": "Weavonia", "time": "2023", "bundle": "b", "out": "o"}
    assert RunConfig(**fields).window == "trained"
    assert [RunConfig(**fields, window=w).window for w in ("auto", 512)] == ["auto", 512]
    with pytest.raises(InputError, match="window"):
        parse_config({**fields, "window": "large"}, "test")


@pytest.fixture(scope="module")
def followed(project: Path, client: Client) -> Path:
    """A plan that chose its window, and the run that followed it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipelines.propose_window.TIMED_S", 0.1)
        plan = plan_map(settings(project, "followed"), PlanOptions(probe=1, client=client))
    assert plan.windows is not None
    map_area(settings(project, "followed"), client=client)
    return project / "followed"


def test_the_choice_is_frozen_with_what_it_changes(followed: Path, project: Path) -> None:
    plan = read_plan(str(followed))
    told = plan["windows"]
    assert plan["window"] == told["window_px"] in {t["lattice"]["window_px"] for t in told["trials"]}
    assert {t["lattice"]["window_px"] for t in told["trials"]} == {48, 80, 144}
    assert all(t["window_s"] > 0 and t["km2_s"] > 0 and t["peak_bytes"] >= 0 for t in told["trials"])
    records = list(Ledger(str(followed), "map").records())
    chosen = next(t for t in told["trials"] if t["lattice"]["window_px"] == plan["window"])
    windows = sum(r.counts["windows"] for r in records)
    job = design(settings(project, "followed"), inputs_dir=str(followed)).job
    pixels = sum(int(job.wanted(core).sum()) for r in records if (core := job.core(r.tile)))
    assert chosen["evaluations"] == pytest.approx(windows * plan["window"] ** 2 / pixels, rel=0.02)
    if plan["window"] != 48:
        assert told["difference"]["pixels"] > 1000
        assert 0 <= told["difference"]["labels"] < told["difference"]["pixels"]


def test_a_run_that_goes_on_keeps_its_window(
    followed: Path, project: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("pipelines.map_area.propose_window", never)
    frozen = read_plan(str(followed))
    assert window_of(settings(project, "followed")) == (frozen["window"], None)
    assert bundle_of(settings(project, "followed")).lattice.window_px == frozen["window"]
    again = map_area(settings(project, "followed"), client=client)
    assert again.summary.done == 0
    assert again.summary.reused == len(list(Ledger(str(followed), "map").records()))
    kept = read_plan(str(followed))
    assert (kept["window"], kept["windows"]) == (frozen["window"], frozen["windows"])
    plan = plan_map(settings(project, "followed"), PlanOptions(probe=0))
    assert (plan.windows, plan.window_px) == (None, frozen["window"])
    assert plan.record["kept"] == again.summary.reused


def test_a_pinned_window_gives_the_map_of_the_same_window_chosen(project: Path, client: Client) -> None:
    """And tiles that share no window give the map of other tiles, and of none."""
    maps = []
    for out, tile in (("pinned", 128), ("pinned-64", 64)):
        config = settings(project, out, "window=80", f"tile_px={tile}")
        map_area(config, client=client)
        maps.append(xr.open_zarr(project / out / "map.zarr", chunks=None))
    small, large = xr.align(*maps, join="inner")
    assert (small.label.values > 0).sum() > 10_000
    np.testing.assert_array_equal(small.label.values, large.label.values)
    np.testing.assert_array_equal(small.confidence.values, large.confidence.values)


def test_the_difference_is_none_for_the_same_windows_and_some_for_others(project: Path) -> None:
    job = design(settings(project, "compared"), inputs_dir=str(project / "compared")).job
    assert job.bundle.lattice == Lattice(48, 16)
    same = label_difference(job, job.bundle.lattice)
    assert same is not None
    assert (same.labels, same.most) == (0, 0.0)
    other = label_difference(job, Lattice(48, 4, "trim"))
    assert other is not None
    assert other.pixels == same.pixels > 1000
    assert other.most > 0.004
    assert "another label on" in other.line()
    assert Difference(10, None, 0.25).line() == "values change by at most 0.250, on 10 pixels"


def test_differences_are_counted_where_both_have_data() -> None:
    first = np.array([[1, 2, 0]], np.uint8), np.array([[[0.5, 0.1, np.nan]], [[0.5, 0.9, np.nan]]])
    second = np.array([[1, 3, 3]], np.uint8), np.array([[[0.5, 0.4, 0.2]], [[0.25, 0.6, 0.8]]])
    found = _compared(first, second)
    assert (found.pixels, found.labels) == (2, 1)
    assert found.most == pytest.approx(0.3)
    assert _compared((None, first[1]), (None, second[1])).labels is None


def test_a_bundle_bound_to_its_window_is_refused_before_anything_is_searched(
    project: Path, tmp_path: Path
) -> None:
    bound = tmp_path / "bundle"
    bound.mkdir()
    for name in ("manifest.json", "model.safetensors"):
        (bound / name).write_bytes((project / "bundle" / name).read_bytes())
    manifest = json.loads((bound / "manifest.json").read_text())
    manifest["properties"]["landweave:size_free"] = False
    (bound / "manifest.json").write_text(json.dumps(manifest))
    config = settings(project, "bound", f"bundle={bound}", "catalog=/nowhere/catalog.json")
    with pytest.raises(InputError, match="does not say"):
        window_of(config)
