"""Loaders: the cube's own values, each patch once, the same order however it is read, resumed in the middle."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.values.errors import BudgetError, ConflictError, InputError, SpecError
from tests.training.stored import Made, cube_of, labels_of, put
from training.augment import AugmentOptions, augment
from training.batch import IGNORE, Batch
from training.loader import CubeDataset, LoaderOptions, Rank, loader
from training.samples import Patches, Pixels
from training.sources import source_of
from training.splits import TRAIN, VAL, Split
from training.targets import targets_of

MADE = Made(radar=True, layers=True)
SMALL = Patches(patch_px=24, per_epoch=50)
# 18 blocks of 32 x 32 pixels, 3 dates: fewer than the cube has
OPTIONS = LoaderOptions(draw=SMALL, batch=4, buffer_bytes=18 * 32 * 32 * 46, places=3, threads=2)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return put(cube_of(MADE), MADE, tmp_path_factory.mktemp("cube"))


def places(batches: Any) -> list[list[int]]:
    return [p for batch in batches for p in batch.place.tolist()]


def require_equal(a: Batch, b: Batch) -> None:
    for name, value in vars(a).items():
        other = getattr(b, name)
        assert (value is None) == (other is None), name
        if value is not None:
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value.numpy(), other.numpy(), err_msg=name)


def require_values(batch: Batch, side: int) -> None:
    """Compare with the cube and the labels by plain slicing."""
    cube, labels = cube_of(MADE), labels_of(MADE)
    index = np.where(labels.values == 0, IGNORE, labels.values - 1)
    for i, (y, x) in enumerate(batch.place.tolist()):
        rows = slice(y - MADE.box.y0, y - MADE.box.y0 + side)
        cols = slice(x - MADE.box.x0, x - MADE.box.x0 + side)
        np.testing.assert_array_equal(batch.x[i].numpy(), cube["reflectance"].values[..., rows, cols])
        assert batch.radar is not None
        assert batch.layers is not None
        np.testing.assert_array_equal(batch.radar[i].numpy(), cube["backscatter"].values[..., rows, cols])
        np.testing.assert_array_equal(batch.layers[i].numpy(), cube["layers"].values[..., rows, cols])
        np.testing.assert_array_equal(batch.target[i].numpy(), index[rows, cols])
        np.testing.assert_array_equal(batch.weight[i].numpy(), index[rows, cols] != IGNORE)
    assert (batch.dates.numpy() == [60, 91, 121]).all()
    assert bool(batch.present.all())


def test_batches_hold_the_cubes_values(url: str) -> None:
    batches = list(loader(url, labels_of(MADE), OPTIONS))
    assert sum(map(len, batches)) == 50
    for batch in batches:
        require_values(batch, 24)


def test_single_pixels_hold_the_cubes_values(url: str) -> None:
    options = OPTIONS.model_copy(update={"draw": Pixels(per_epoch=300, balance=0.5), "batch": 64})
    made = loader(url, labels_of(MADE), options)
    batches = list(made)
    assert sum(map(len, batches)) == 300
    for batch in batches:
        assert batch.x.shape[1:] == (3, 3, 1, 1)
        require_values(batch, 1)
        assert bool((batch.target != IGNORE).all())


def test_a_lazy_and_a_loaded_cube_give_the_same_batches_where_the_order_does_not_hang_on_blocks(
    url: str,
) -> None:
    whole = OPTIONS.model_copy(update={"buffer_bytes": 1 << 26})
    stored = list(loader(url, labels_of(MADE), whole))
    for cube in (cube_of(MADE), cube_of(MADE).chunk({"y": 50, "x": 77})):
        for a, b in zip(stored, loader(cube, labels_of(MADE), whole), strict=True):
            require_equal(a, b)


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": 5}, {"ahead": 7}])
def test_threads_and_prefetch_change_nothing(url: str, changes: dict[str, int]) -> None:
    plain = list(loader(url, labels_of(MADE), OPTIONS))
    other = list(loader(url, labels_of(MADE), OPTIONS.model_copy(update=changes)))
    for a, b in zip(plain, other, strict=True):
        require_equal(a, b)


def test_worker_processes_change_nothing(url: str) -> None:
    options = OPTIONS.model_copy(update={"streams": 2})
    plain = loader(url, labels_of(MADE), options)
    shared = loader(url, labels_of(MADE), options.model_copy(update={"workers": 2, "threads": 1}))
    for epoch in range(2):
        assert plain.epoch == shared.epoch == epoch
        for a, b in zip(plain, shared, strict=True):
            require_equal(a, b)
    begun = iter(shared)
    for _ in range(3):  # an odd number: the other worker is next
        next(begun)
    assert (shared.epoch, shared.done) == (2, 3)
    plain.load_state_dict(shared.state_dict())
    assert places(shared) == places(plain)


@pytest.mark.parametrize("done", [0, 1, 5, 12])
@pytest.mark.parametrize("streams", [1, 3])
def test_a_state_gives_the_rest_of_the_epoch_and_the_next(url: str, done: int, streams: int) -> None:
    options = OPTIONS.model_copy(update={"streams": streams})
    whole = loader(url, labels_of(MADE), options)
    expected = list(whole) + list(whole)
    first = loader(url, labels_of(MADE), options)
    begun = iter(first)
    for _ in range(done):
        next(begun)
    state = json.loads(json.dumps(first.state_dict()))
    second = loader(url, labels_of(MADE), options)
    second.load_state_dict(state)
    found = list(second) + list(second)
    assert len(found) == len(expected) - done
    for a, b in zip(expected[done:], found, strict=True):
        require_equal(a, b)


def test_a_loop_that_breaks_goes_on_with_the_next_batch(url: str) -> None:
    made = loader(url, labels_of(MADE), OPTIONS)
    expected = places(loader(url, labels_of(MADE), OPTIONS))
    found = []
    for _ in range(4):
        for n, batch in enumerate(made):
            found += batch.place.tolist()
            if n == 2:
                break
    assert found == expected[: len(found)]
    assert made.state_dict()["done"] == 12


def test_epochs_differ_and_a_seed_repeats(url: str) -> None:
    made = loader(url, labels_of(MADE), OPTIONS)
    first, second = places(made), places(made)
    assert first != second
    again = loader(url, labels_of(MADE), OPTIONS)
    again.set_epoch(1)
    assert places(again) == second
    assert places(loader(url, labels_of(MADE), OPTIONS.model_copy(update={"seed": 5}))) != first


def test_ranks_share_an_epoch_out(url: str) -> None:
    labels = labels_of(MADE)
    whole = sorted(places(loader(url, labels, OPTIONS)))
    ranks = [loader(url, labels, OPTIONS, rank=Rank(r, 3)) for r in range(3)]
    assert len({len(r) for r in ranks}) == 1
    assert sorted(p for r in ranks for p in places(r)) == whole


def test_a_state_of_other_options_is_refused(url: str) -> None:
    state = loader(url, labels_of(MADE), OPTIONS).state_dict()
    other = loader(url, labels_of(MADE), OPTIONS.model_copy(update={"batch": 5}))
    with pytest.raises(ConflictError, match="other batches than before"):
        other.load_state_dict(state)


@pytest.mark.parametrize("streams", [1, 3])
def test_augmentation_hangs_on_the_patch_and_not_on_who_reads_it(url: str, streams: int) -> None:
    strong = AugmentOptions(shift_px=3, rotate_deg=10, noise=0.01, clouds=0.3)
    options = OPTIONS.model_copy(update={"streams": streams, "buffer_bytes": OPTIONS.buffer_bytes * streams})
    plain = loader(url, labels_of(MADE), options)
    drawn = loader(url, labels_of(MADE), options.model_copy(update={"augment": strong}))
    corners = plain.plan().corners.tolist()
    for before, after in zip(plain, drawn, strict=True):
        for i, place in enumerate(before.place.tolist()):
            one = Batch(**{k: v[i : i + 1] for k, v in vars(before).items() if v is not None})
            numbers = [n for n, corner in enumerate(corners) if corner == place]  # a place may be drawn twice
            made = [augment(one, strong, np.array([[options.seed, 0, n]])).x[0].numpy() for n in numbers]
            assert any(np.array_equal(after.x[i].numpy(), x) for x in made)
    second = next(iter(drawn))  # the next epoch draws anew
    assert not np.array_equal(second.x.numpy(), next(iter(plain)).x.numpy())


def test_single_pixels_are_not_augmented() -> None:
    with pytest.raises(ValueError, match="for patches"):
        LoaderOptions(draw=Pixels(), augment=AugmentOptions())


def test_bands_are_taken_by_name_and_order(url: str) -> None:
    for draw in (SMALL, Pixels(per_epoch=40)):
        options = OPTIONS.model_copy(update={"draw": draw})
        some = list(loader(url, labels_of(MADE), options.model_copy(update={"bands": ("nir", "blue")})))
        for a, b in zip(loader(url, labels_of(MADE), options), some, strict=True):
            np.testing.assert_array_equal(a.x.numpy()[:, :, [2, 0]], b.x.numpy())
    with pytest.raises(SpecError, match="lacks bands"):
        loader(url, labels_of(MADE), OPTIONS.model_copy(update={"bands": ("swir16",)}))


def test_empty_dates_are_left_out(url: str) -> None:
    made = Made()
    cube = cube_of(made)
    options = OPTIONS.model_copy(update={"drop_empty_dates": True, "batch": 6})
    lengths = set()
    for batch in loader(cube, labels_of(made), options):
        for i, (y, x) in enumerate(batch.place.tolist()):
            own = cube["reflectance"].values[..., y - made.box.y0 :, x - made.box.x0 :][..., :24, :24]
            seen = own.any(axis=(1, 2, 3))
            n = int(seen.sum())
            lengths.add(n)
            np.testing.assert_array_equal(batch.x[i, :n].numpy(), own[seen])
            assert batch.present[i].tolist() == [True] * n + [False] * (batch.n_dates - n)
            np.testing.assert_array_equal(batch.dates[i, :n].numpy(), np.array([60, 91, 121])[seen])
            assert not batch.x[i, n:].numpy().any()
            assert not batch.dates[i, n:].any()
    assert lengths == {2, 3}


def test_labels_of_another_part_are_never_given(url: str) -> None:
    split = Split(block_px=32, buffer_px=2, val=0.4)
    parts = split.parts(MADE.box)
    for part in (TRAIN, VAL):
        for batch in loader(url, labels_of(MADE), OPTIONS, split=split, part=part):
            for target, (y, x) in zip(batch.target.numpy(), batch.place.tolist(), strict=True):
                own = parts[y - MADE.box.y0 :, x - MADE.box.x0 :][:24, :24]
                assert (target[own != part] == IGNORE).all()


def test_labels_weights_are_passed_on(url: str) -> None:
    labels = labels_of(MADE)
    weights = np.random.default_rng(0).integers(0, 251, labels.values.shape).astype(np.uint8)
    weighed = dataclasses.replace(labels, weights=weights)
    for draw in (SMALL, Pixels(per_epoch=40)):
        options = OPTIONS.model_copy(update={"draw": draw})
        for batch in loader(url, weighed, options):
            side = batch.x.shape[-1]
            for i, (y, x) in enumerate(batch.place.tolist()):
                own = weights[y - MADE.box.y0 :, x - MADE.box.x0 :][:side, :side] / np.float32(250)
                own = np.where(batch.target[i].numpy() == IGNORE, 0, own)
                np.testing.assert_array_equal(batch.weight[i].numpy(), own)


def test_a_dataset_works_in_a_plain_dataloader(url: str) -> None:
    dataset = CubeDataset(source_of(url), targets_of(labels_of(MADE)), OPTIONS)
    found = list(torch.utils.data.DataLoader(dataset, batch_size=None))
    assert len(dataset) == len(found)
    assert places(found) == places(loader(url, labels_of(MADE), OPTIONS))


def test_it_tells_what_it_does(url: str) -> None:
    made = loader(url, labels_of(MADE), OPTIONS)
    memory = made.memory()
    assert memory["blocks"] <= OPTIONS.buffer_bytes
    assert memory["total"] == memory["blocks"] + memory["batches"] + memory["labels"]
    n_blocks = made.plan().n_reads
    assert made.reuse == pytest.approx(50 * 24**2 / (n_blocks * 32**2))
    assert f"{n_blocks} blocks read" in str(made)


def test_what_does_not_fit_is_refused(url: str) -> None:
    labels = labels_of(MADE)
    with pytest.raises(BudgetError, match="a block for each stream"):
        loader(url, labels, OPTIONS.model_copy(update={"buffer_bytes": 1000}))
    with pytest.raises(BudgetError, match="larger than the free memory"):
        loader(url, labels, OPTIONS.model_copy(update={"buffer_bytes": 1 << 50}))
    with pytest.raises(BudgetError, match="blocks of one patch"):
        len(loader(url, labels, OPTIONS.model_copy(update={"buffer_bytes": 2 * 32 * 32 * 46})))
    few = OPTIONS.model_copy(update={"draw": Patches(patch_px=24, per_epoch=2), "streams": 3})
    with pytest.raises(InputError, match="fewer patches than streams"):
        len(loader(url, labels, few))
    elsewhere = Made(box=MADE.box.pad(8))
    with pytest.raises(InputError, match="beyond the cube"):
        loader(url, labels_of(elsewhere), OPTIONS)
    with pytest.raises(InputError, match="share the streams out evenly"):
        loader(url, labels, OPTIONS.model_copy(update={"workers": 2, "streams": 3}))


def test_an_error_of_reading_comes_out(url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = loader(put(cube_of(Made()), Made(), tmp_path), labels_of(Made()), OPTIONS)
    for shard in (tmp_path / "cube.zarr" / "reflectance" / "c").rglob("[0-9]*"):
        if shard.is_file():
            shard.write_bytes(shard.read_bytes()[:-9])
    from engine.values.errors import DataError

    with pytest.raises(DataError, match="index of a shard is damaged"):
        list(made)
