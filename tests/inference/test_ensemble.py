"""Several bundles as one model: exact means on any chunking, one read, and members that do not fit refused."""

from __future__ import annotations

import itertools
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.inference.blend import Frame
from engine.inference.blocks import Voice, predict_mean
from engine.inference.bundle import load_bundle
from engine.inference.decide import Layers
from engine.inference.ensemble import Ensemble, Member, create_ensemble, evaluations, halo_px, load_model
from engine.inference.mean import totals
from engine.inference.predict import predict
from engine.models.normalise import Standard
from engine.values.classes import ClassScheme
from engine.values.errors import InputError, TrustError
from engine.values.georef import georef_coords
from engine.values.grid import Box, Grid
from engine.values.head import ONE_CLASS, Extra, Head, MultiLabel, Values
from engine.values.lattice import Lattice
from engine.values.masking import ModelMask
from engine.values.spec import CubeSpec
from tests.inference.bundles import FIELDS, network, random_bundle
from tests.inference.fakes import N_CLASSES, FakeLane, asked_for, oracle, random_cube
from tests.inference.fakes import evaluations as counted

LABELS = (1, 2, 3, 4)
EXTRAS: tuple[Extra, ...] = ("probability", "disagreement")


def shares_of(values: np.ndarray, voice: Voice) -> tuple[np.ndarray, np.ndarray, int]:
    """One member's untiled fixed-point map, (K, y, x) in the map's order, where it answers, and its windows."""
    own = values[:, list(voice.bands)]
    sums, weights, count = oracle(own, voice.frame)
    answered = asked_for(own, voice.frame)[voice.frame.core.slices_in(voice.frame.outer)]
    return ((2 * sums + weights) // (2 * weights))[list(voice.order)], answered, count


def mean_map(values: np.ndarray, voices: Sequence[Voice]) -> tuple[np.ndarray, int]:
    """Untiled label, confidence, probability and disagreement of several members, in numpy."""
    found = [shares_of(values, v) for v in voices]
    p_MKYX = np.stack([f[0] for f in found])
    answered = np.all([f[1] for f in found], axis=0)
    w = np.array([v.weight for v in voices])
    total = (w[:, None, None, None] * p_MKYX).sum(axis=0)
    one = 65535 * w.sum()
    share = (500 * total + one) // (2 * one)
    apart = np.abs(w.sum() * p_MKYX - total).sum(axis=1)
    spread = ((w[:, None, None] * apart).sum(axis=0) + w.sum()) // (2 * w.sum())
    planes = [total.argmax(axis=0) + 1, share.max(axis=0), *share, (500 * spread + one) // (2 * one)]
    out = np.stack([np.where(answered, p, 0 if i == 0 else 255) for i, p in enumerate(planes)])
    return out.astype(np.uint8), sum(f[2] for f in found)


def voices_of(
    lattices: Sequence[Lattice], weights: Sequence[int], outer: Box, core: Box, log: Path
) -> list[Voice]:
    """The first looks at all three bands, others at fewer, and the second has its classes in another order."""
    bands = [(0, 1, 2), (2, 0), (1,)]
    orders = [(0, 1, 2, 3), (3, 1, 0, 2), (0, 1, 2, 3)]
    lane = partial(FakeLane, str(log))
    return [
        Voice(Frame(outer, core, lattice), lane, *about)
        for lattice, about in zip(lattices, zip(bands, orders, weights, strict=True), strict=False)
    ]


def ragged(total: int, cuts: list[int]) -> tuple[int, ...]:
    edges = sorted({0, total, *(c % total for c in cuts)})
    return tuple(b - a for a, b in itertools.pairwise(edges))


lattices = st.builds(
    lambda window, part, kernel: Lattice(window, int(part * window) // 2 * 2, kernel),
    st.sampled_from([8, 12, 16]),
    st.floats(0, 0.7),
    st.sampled_from(["hann", "radial", "trim"]),
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    windows=st.lists(lattices, min_size=3, max_size=3),
    weights=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    origin=st.tuples(st.integers(-60, 60), st.integers(-60, 60)),
    shape=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    cuts=st.tuples(st.lists(st.integers(0, 99), max_size=5), st.lists(st.integers(0, 99), max_size=5)),
    margin=st.integers(0, 12),
    seed=st.integers(0, 5),
)
def test_any_chunking_gives_the_weighted_mean_of_the_untiled_maps(
    tmp_path_factory: pytest.TempPathFactory,
    windows: list[Lattice],
    weights: list[int],
    origin: tuple[int, int],
    shape: tuple[int, int],
    cuts: tuple[list[int], list[int]],
    margin: int,
    seed: int,
) -> None:
    outer = Box(*origin, origin[0] + shape[0], origin[1] + shape[1])
    core = outer & outer.pad(-margin, 0)
    log = tmp_path_factory.mktemp("count") / "log"
    voices = voices_of(windows, weights, outer, core if core else outer, log)
    values = random_cube(seed, outer)
    chunks = ((1, 1), (2, 1), ragged(shape[0], cuts[0]), ragged(shape[1], cuts[1]))
    lazy = predict_mean(da.from_array(values, chunks=chunks), voices, Layers(ONE_CLASS, LABELS, EXTRAS))
    found = lazy.compute(scheduler="sync")
    expected, evaluated = mean_map(values, voices)
    np.testing.assert_array_equal(found, expected)
    assert counted(log) == evaluated, "each member evaluates each of its windows once"


class Counting:
    """An array that counts how often each of its blocks is read."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.read = values, list[tuple[slice, ...]]()
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        self.read.append(key)
        return self.values[key]


def test_the_union_of_the_bands_is_read_once(tmp_path: Path) -> None:
    outer = Box(0, 0, 120, 90)
    source = Counting(random_cube(2, outer))
    voices = voices_of(
        [Lattice(16, 4), Lattice(32, 8), Lattice(24, 12, "trim")], (1, 2, 3), outer, outer, tmp_path / "log"
    )
    values = da.from_array(source, chunks=(1, 3, 40, 45), meta=np.empty((0, 0, 0, 0), np.uint16))
    lazy = predict_mean(values, voices, Layers(ONE_CLASS, LABELS, EXTRAS))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads"), mean_map(source.values, voices)[0])
    assert len(source.read) == 2 * 3 * 2, "two dates, three by two blocks"


@pytest.mark.parametrize("head", [ONE_CLASS, MultiLabel(), Values(variable="height", low=0, high=9)])
def test_totals_and_ties(head: Head) -> None:
    parts = np.array([[[[65535, 0, 40000]], [[0, 65535, 20000]]], [[[0, 0, 10000]], [[65535, 65535, 30000]]]])
    asked = head.kind != "values"
    found = totals(parts.astype(np.uint16), (1, 3), head, disagreement=asked)
    assert found[:2, 0].tolist() == [[65535, 0, 70000], [196605, 262140, 110000]]
    if asked:  # weights 1 and 3: distances 3/4 and 1/4 of what they are apart, 3/8 on average, half up
        apart = {"classes": (30000 + 10000) / 2, "multilabel": 30000}[head.kind]
        assert found[2, 0].tolist() == [98303, 0, apart * 4 * 3 / 8]


class Fixed:
    """A lane that always gives the same answer."""

    batch = 1

    def __init__(self, p: tuple[int, ...]) -> None:
        self.p = p

    def run(self, x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.array(self.p, np.int32)[:, None, None], (len(x), 4, 8, 8)).copy()


@pytest.mark.parametrize(
    ("one", "other", "weights", "wanted"),
    [
        ((0, 0, 60000, 5535), (0, 30000, 0, 35535), (1, 2), (4, 97, 102)),
        ((0, 60000, 5535, 0), (0, 5535, 60000, 0), (1, 1), (2, 125, 104)),
        ((0, 60000, 5535, 0), (0, 5535, 60000, 0), (1, 2), (3, 160, 92)),
        ((65535, 0, 0, 0), (65535, 0, 0, 0), (5, 7), (1, 250, 0)),
    ],
    ids=["both say another", "a tie goes to the lowest", "the heavier wins", "they agree"],
)
def test_the_heavier_word_wins(
    one: tuple[int, ...], other: tuple[int, ...], weights: tuple[int, int], wanted: tuple[int, ...]
) -> None:
    box = Box(0, 0, 8, 8)
    frame, order = Frame(box, box, Lattice(8, 0)), (0, 1, 2, 3)
    voices = [
        Voice(frame, partial(Fixed, p), (0, 1, 2), order, w)
        for p, w in zip((one, other), weights, strict=True)
    ]
    values = da.from_array(np.ones((1, 3, 8, 8), np.uint16))
    found = predict_mean(values, voices, Layers(ONE_CLASS, LABELS, ("disagreement",))).compute()
    assert tuple(found[:, 4, 4].tolist()) == wanted


class PixelWise:
    """A lane that looks at each pixel by itself, in windows or in rows."""

    batch = 2

    def run(self, x_BTCHW: np.ndarray) -> np.ndarray:
        share = x_BTCHW.astype(np.int32).sum(axis=(1, 2)) * 7 % 65535
        return np.stack([share, 65534 - share, share * 0, share * 0], axis=1)


def test_rows_of_pixels_and_windows_of_any_size_meet_on_the_same_pixels() -> None:
    outer = Box(3, -40, 90, 60)
    core, wanted = outer.pad(-5), np.random.default_rng(4).random((77, 90)) < 0.7
    lattices = Lattice(1, 0), Lattice(16, 6), Lattice(40, 10, "trim")
    voices = [
        Voice(Frame(outer, core, each, wanted=wanted), PixelWise, (0, 1, 2), (0, 1, 2, 3), n)
        for n, each in enumerate(lattices, start=1)
    ]
    values = random_cube(3, outer, holes=False)
    lazy = da.from_array(values, chunks=(2, 3, 41, 53))
    layers = Layers(ONE_CLASS, LABELS, ("disagreement",))
    label, confidence, apart = predict_mean(lazy, voices, layers).compute(scheduler="sync")[:, wanted]
    p = PixelWise().run(values[None])[0][(slice(None), *core.slices_in(outer))][:, wanted]
    np.testing.assert_array_equal(label, p.argmax(axis=0) + 1)
    np.testing.assert_array_equal(confidence, np.floor(250 * p.max(axis=0) / 65535 + 0.5))
    assert set(np.unique(apart)) == {0}
    head = Values(variable="height", low=0, high=9)
    heights = predict_mean(lazy, voices, Layers(head, LABELS)).compute(scheduler="sync")
    np.testing.assert_array_equal(heights[:, wanted], p - 32767)
    assert set(np.unique(heights[:, ~wanted])) == {-32768}


def two(folder: Path) -> tuple[Path, Path]:
    """Bundles that differ in windows, bands, normalisation and the order of their classes."""
    random_bundle(folder / "a")
    names = list(reversed(FIELDS.classes.names))
    random_bundle(
        folder / "b",
        network(n_bands=2, width=6),
        name="other model",
        spec=FIELDS.spec.model_copy(update={"bands": ("nir", "red"), "season": None}),
        classes=ClassScheme.from_names(names),
        lattice=Lattice(48, 16, "radial"),
        normalisation=Standard(mean=(2000.0, 800.0), std=(800.0, 300.0)),
    )
    return folder / "a", folder / "b"


def cube_of(values: np.ndarray, bands: Sequence[str], box: Box) -> xr.Dataset:
    grid = Grid("EPSG:32633", (10.0, 10.0), (300000.0, 5700000.0))
    coords = {"band": list(bands), **georef_coords(grid, box)}
    return xr.Dataset({"reflectance": (("time", "band", "y", "x"), da.from_array(values))}, coords=coords)


def test_an_ensemble_of_real_networks_is_the_mean_of_their_maps(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    ensemble = create_ensemble(tmp_path / "both", [(a, 1), (b, 2)], "both", description="Two.")
    assert ensemble.spec.bands == ("blue", "green", "nir", "red")
    assert ensemble.spec.season == "03-01/04-30"
    assert ensemble.classes == load_bundle(a).classes
    assert halo_px(ensemble) == 48
    box = Box(0, 0, 70, 60)
    values = np.random.default_rng(1).integers(1, 4000, (2, 4, *box.shape_yx)).astype(np.uint16)
    cube = cube_of(values, ensemble.spec.bands, box)
    found = predict(cube, ensemble, layers=("probability", "disagreement")).compute(scheduler="sync")
    one, other = (
        predict(cube.sel(band=list(m.spec.bands)), m, layers=("probability",)).compute(scheduler="sync")
        for m in (load_bundle(a), load_bundle(b))
    )
    p, q = (
        one.probability.values.astype(int),
        other.probability.sel({"class": one["class"]}).values.astype(int),
    )
    mean = (p + 2 * q) / 3
    np.testing.assert_allclose(found.probability.values, mean, atol=1.0)
    apart = np.abs(p - q).sum(axis=0) / 2 * (1 * 2 / 3 + 2 * 1 / 3) / 3
    np.testing.assert_allclose(found.disagreement.values, apart, atol=2.5)
    assert found.disagreement.values.max() > 10
    sure = np.sort(mean, axis=0)[-1] - np.sort(mean, axis=0)[-2] > 2.5
    np.testing.assert_array_equal(found.label.values[sure], mean.argmax(axis=0)[sure] + 1)
    assert json.loads(found.attrs["landweave_bundle"]) == ensemble.digest()
    cut = predict(cube.chunk(y=33, x=29), ensemble, layers=("disagreement",)).compute(scheduler="sync")
    np.testing.assert_array_equal(cut.disagreement, found.disagreement)


def test_a_folder_holds_its_members_and_comes_back_as_it_was(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    made = create_ensemble(tmp_path / "both", [(a, 1), (b, 2), (a, 3)], "both")
    assert [m.bundle.path.name for m in made.members] == ["a", "b", "a-2"]
    assert made == load_model(tmp_path / "both") == pickle.loads(pickle.dumps(made))
    assert (made.name, made.licence, made.path) == ("both", "Apache-2.0", tmp_path / "both")
    core = Box(0, 0, 64, 64)
    views = {"none": 1, "flips": 4, "turns": 8}
    windows = sum(m.bundle.windows(core) for m in made.members)
    assert {k: evaluations(made, core, None, k) for k in views} == {k: n * windows for k, n in views.items()}  # type: ignore[arg-type]
    outer = made.outer(core)
    assert all(outer.holds(m.bundle.outer(core)) for m in made.members)
    other = create_ensemble(tmp_path / "other", [(a, 2), (b, 1)], "other")
    digests = {made.digest(), other.digest(), *(m.bundle.digest() for m in made.members)}
    assert len(digests) == 4, "two ensembles, two bundles"
    again = create_ensemble(tmp_path / "both", [(tmp_path / "both" / "a", 2), (b, 1)], "again")
    assert (again, again.name) == (other, "again")
    with pytest.raises(InputError, match="an ensemble where a bundle is wanted"):
        load_bundle(tmp_path / "both")
    assert load_model(a) == load_bundle(a)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "landweave:members|two members"),
        ([{"bundle": "a"}], "two members"),
        ([{"bundle": "a"}, {"bundle": "../b"}], "pattern"),
        ([{"bundle": "a"}, {"bundle": "/b"}], "pattern"),
        ([{"bundle": "a"}, {"bundle": "b", "weight": 0}], "greater than or equal to 1"),
        ([{"bundle": "a"}, {"bundle": "b", "weight": 1.5}], "weight"),
        ([{"bundle": "a", "weight": 32767}, {"bundle": "b"}], "32767 together"),
        ([{"bundle": "a"}, {"bundle": "c"}], "manifest"),
    ],
)
def test_a_manifest_that_lists_nonsense_is_refused(members: list[object], words: str, tmp_path: Path) -> None:
    a, b = two(tmp_path)
    create_ensemble(tmp_path / "both", [(a, 1), (b, 1)], "both")
    manifest = tmp_path / "both" / "manifest.json"
    item = json.loads(manifest.read_text())
    item["properties"]["landweave:members"] = members
    manifest.write_text(json.dumps(item))
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / "both")


def test_a_member_whose_weights_may_run_code_is_refused(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    create_ensemble(tmp_path / "both", [(a, 1), (b, 1)], "both")
    manifest = tmp_path / "both" / "b" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("./model.safetensors", "./model.pkl"))
    with pytest.raises(TrustError):
        load_model(tmp_path / "both")


SPEC = FIELDS.spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": ClassScheme.from_names(["wheat", "grass land", "water", "maize"])}, "class names"),
        ({"head": MultiLabel()}, "head"),
        ({"n_dates": 3}, "dates"),
        ({"spec": SPEC.model_copy(update={"season": "04-01/05-31"})}, "season"),
        ({"spec": SPEC.model_copy(update={"resolution_m": 20.0})}, "cube's resolution_m"),
        ({"spec": CubeSpec(bands=SPEC.bands, reducer="mean")}, "cube's reducer"),
        ({"spec": SPEC.model_copy(update={"mask": (ModelMask(model="s2cloudless"),)})}, "cube's mask"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_members_that_answer_another_question_are_refused(
    change: dict[str, object], words: str, tmp_path: Path
) -> None:
    one = random_bundle(tmp_path / "one")
    other = replace(one, path=tmp_path / "other", name="other model", **change)
    with pytest.raises(InputError, match=words) as refused:
        Ensemble((Member(one), Member(other)))
    assert "test model" in str(refused.value)
    assert "other model" in str(refused.value)


@pytest.mark.parametrize("reducer", ["medoid", "geomedian", "max_ndvi", "best"])
def test_values_chosen_by_the_whole_spectrum_need_equal_bands(reducer: str, tmp_path: Path) -> None:
    one = random_bundle(tmp_path / "one")
    one = replace(one, spec=CubeSpec(bands=("red", "green", "nir"), reducer=reducer))
    same = replace(one, spec=CubeSpec(bands=("nir", "green", "red"), reducer=reducer))
    fewer = replace(one, spec=CubeSpec(bands=("red", "nir"), reducer=reducer), name="fewer")
    assert Ensemble((Member(one), Member(same))).spec.bands == ("red", "green", "nir")
    with pytest.raises(InputError, match=r"'test model' .* and 'fewer' .* look|all bands together"):
        Ensemble((Member(one), Member(fewer)))


def test_one_answer_cannot_disagree_with_itself(tmp_path: Path) -> None:
    bundle, box = random_bundle(tmp_path / "one"), Box(0, 0, 32, 32)
    cube = cube_of(np.ones((2, 3, 32, 32), np.uint16), bundle.spec.bands, box)
    with pytest.raises(InputError, match="disagree with itself"):
        predict(cube, bundle, layers=("disagreement",))


assert len(LABELS) == N_CLASSES
