"""Training on a made-up season: it learns, repeats itself, keeps the best, and maps as it scored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from engine.inference.bundle import load_bundle, save_bundle
from engine.inference.lane import Lane
from engine.models.normalise import prepare
from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from tests.training.synthetic import Season, season
from training.augment import AugmentOptions
from training.labels import LabelRaster
from training.loop import Progress, TrainedModel, TrainOptions, statistics, train
from training.splits import TEST, VAL, Split

SEASON = Season(side_px=256, n_dates=3, n_bands=4, n_classes=4, fields=220, noise=250.0, seed=2)
OPTIONS = TrainOptions(
    config={"stem": 12, "width": 8, "width_max": 16, "depth": 2},
    split=Split(block_px=32, buffer_px=4, val=0.25, test=0.1),
    steps=160,
    balance=0.2,
    batch=4,
    crop_px=32,
    threads=1,
    checks=4,
    learning_rate=1e-2,
)
ORIGIN = (-500_000, 30_000)


@pytest.fixture(scope="module")
def made() -> tuple[xr.Dataset, LabelRaster]:
    return season(SEASON, ORIGIN)


@pytest.fixture(scope="module")
def trained(made: tuple[xr.Dataset, LabelRaster]) -> TrainedModel:
    return train(*made, OPTIONS)


def test_it_learns_the_season_and_finds_the_rare_class(trained: TrainedModel) -> None:
    assert trained.val is not None
    assert trained.val.accuracy > 0.85
    assert trained.val.recall[-1] > 0.5
    assert trained.val.support[-1] < 0.1 * sum(trained.val.support)
    assert trained.test is not None
    assert trained.test.accuracy > 0.8
    assert not trained.module.training


def test_the_best_state_is_kept(trained: TrainedModel) -> None:
    assert trained.val is not None
    assert len(trained.history) == 4
    assert trained.val.mean_iou == pytest.approx(max(row["mean_iou"] for row in trained.history))
    assert trained.history[-1]["loss"] < trained.history[0]["loss"]


def test_the_same_seed_gives_the_same_weights(made: tuple[xr.Dataset, LabelRaster]) -> None:
    short = OPTIONS.model_copy(update={"steps": 5, "checks": 1})
    a, b = train(*made, short), train(*made, short)
    for name, value in a.module.state_dict().items():
        assert torch.equal(value, b.module.state_dict()[name]), name
    other = train(*made, short.model_copy(update={"seed": 1}))
    assert not torch.equal(a.module.head.weight, other.module.head.weight)  # type: ignore[union-attr,arg-type]


def test_labels_of_validation_blocks_are_never_learnt(made: tuple[xr.Dataset, LabelRaster]) -> None:
    """Scrambling every label outside the training part changes no weight."""
    cube, labels = made
    short = OPTIONS.model_copy(update={"steps": 5, "checks": 1})
    parts = short.split.parts(labels.box)
    values = labels.values.copy()
    values[np.isin(parts, (VAL, TEST)) & (values > 0)] = 1
    scrambled = LabelRaster(values, labels.box, labels.classes)
    a, b = train(cube, labels, short), train(cube, scrambled, short)
    assert a.val != b.val
    for name, value in a.module.state_dict().items():
        assert torch.equal(value, b.module.state_dict()[name]), name
    assert a.normalisation == b.normalisation


def test_a_lazy_cube_trains_like_a_loaded_one(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    short = OPTIONS.model_copy(update={"steps": 3, "checks": 1})
    lazy = train(cube.chunk({"y": 100, "x": 77}), labels, short).module.state_dict()
    for name, value in train(cube, labels, short).module.state_dict().items():
        assert torch.equal(value, lazy[name]), name


def test_a_cube_that_does_not_fit_is_streamed(made: tuple[xr.Dataset, LabelRaster]) -> None:
    """Statistics and the scored pixels are those of the loaded cube; it learns from other patches."""
    cube, labels = made
    lazy = cube.chunk({"y": 40, "x": 40})
    loaded = train(lazy, labels, OPTIONS.model_copy(update={"steps": 2, "checks": 1}))
    few = {"steps": 30, "checks": 2, "memory_bytes": 900_000}
    streamed = train(lazy, labels, OPTIONS.model_copy(update=few))
    assert (loaded.streamed, streamed.streamed) == (False, True)
    assert streamed.normalisation == loaded.normalisation
    assert streamed.history[-1]["loss"] < streamed.history[0]["loss"]
    assert streamed.val is not None
    assert loaded.val is not None
    assert streamed.val.support == loaded.val.support
    assert streamed.val.accuracy > 0.6


def test_progress_is_told_after_every_batch_and_threads_are_set_back(
    made: tuple[xr.Dataset, LabelRaster],
) -> None:
    told: list[Progress] = []
    torch.set_num_threads(1)
    train(*made, OPTIONS.model_copy(update={"steps": 6, "checks": 2, "threads": 2}), told.append)
    assert torch.get_num_threads() == 1
    assert [p.step for p in told] == [1, 2, 3, 4, 5, 6]
    assert [p.val is not None for p in told] == [False, False, True, False, False, True]


def test_a_bundle_maps_what_training_scored(
    trained: TrainedModel, made: tuple[xr.Dataset, LabelRaster], tmp_path: Path
) -> None:
    """The lane on the cube's own values agrees with the network that training held."""
    spec = CubeSpec(bands=("blue", "green", "red", "nir"))
    fields = trained.bundle_fields("first model", spec, Lattice(64, 16), "Apache-2.0")
    save_bundle(tmp_path / "b", trained.module, trained.options.architecture, fields)
    bundle = load_bundle(tmp_path / "b")
    assert trained.val is not None
    assert bundle.training["val"]["accuracy"] == pytest.approx(trained.val.accuracy, abs=1e-4)
    assert bundle.training["options"]["split"]["block_px"] == 32

    cube, labels = made
    x_TCYX = cube["reflectance"].values
    windows = [(y, x) for y in range(0, 256, 64) for x in range(0, 256, 64)]
    x_BTCHW = np.stack([x_TCYX[..., y : y + 64, x : x + 64] for y, x in windows])
    found = np.array(bundle.classes.values)[Lane(bundle).run(x_BTCHW).argmax(axis=1)]
    truth = np.stack([labels.values[y : y + 64, x : x + 64] for y, x in windows])
    assert np.mean(found[truth > 0] == truth[truth > 0]) > 0.85


@pytest.mark.parametrize("changes", [{"dice": 0.5}, {"weigh_classes": True}, {"split": Split(val=0.0)}])
def test_other_options_train_too(made: tuple[xr.Dataset, LabelRaster], changes: dict[str, object]) -> None:
    found = train(*made, OPTIONS.model_copy(update={"steps": 8, "checks": 2, **changes}))
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert (found.val is None) == ("split" in changes)


def test_statistics_match_numpy_and_skip_no_data() -> None:
    rng = np.random.default_rng(0)
    x_TCYX = rng.integers(1, 5000, (2, 3, 20, 20)).astype(np.uint16)
    x_TCYX[1, 2, :10] = 0  # one band missing hides the date
    known = np.zeros((20, 20), bool)
    known[5:15, 3:18] = True
    valid = known & (x_TCYX != 0).all(axis=1)
    found = statistics(x_TCYX, known, seed=0)
    for band in range(3):
        values = np.concatenate([x_TCYX[t, band][valid[t]] for t in range(2)]).astype(float)
        assert found.mean[band] == pytest.approx(values.mean(), abs=1e-3)
        assert found.std[band] == pytest.approx(values.std(), abs=1e-3)
    with pytest.raises(InputError, match="has data"):
        statistics(np.zeros((1, 1, 4, 4), np.uint16), np.ones((4, 4), bool), seed=0)


def test_inputs_that_do_not_fit_are_refused(made: tuple[xr.Dataset, LabelRaster]) -> None:
    cube, labels = made
    smaller = LabelRaster(labels.values[:100], Box(0, 0, 100, 256), labels.classes)
    with pytest.raises(InputError, match="same pixels"):
        train(cube, smaller, OPTIONS)
    with pytest.raises(InputError, match="multiple of 4 px"):
        train(cube, labels, OPTIONS.model_copy(update={"crop_px": 30}))
    with pytest.raises(InputError, match="uint16"):
        train(cube.astype(np.float32), labels, OPTIONS)
    empty = LabelRaster(np.zeros_like(labels.values), labels.box, labels.classes)
    with pytest.raises(InputError, match="annotated"):
        train(cube, empty, OPTIONS)


def test_labels_without_weight_teach_nothing(made: tuple[xr.Dataset, LabelRaster]) -> None:
    """A source of weight 0 that calls everything class 1 changes no gradient: what is drawn stays the same."""
    cube, labels = made
    rows = np.arange(labels.values.shape[0])[:, None] % 2 == 0
    values = np.where(rows | (labels.values == 0), labels.values, 1).astype(np.uint8)
    none = np.where(rows, 250, 0).astype(np.uint8) * np.ones_like(labels.values)
    options = OPTIONS.model_copy(update={"steps": 100, "checks": 1})
    unheard = train(cube, LabelRaster(values, labels.box, labels.classes, none), options)
    believed = train(cube, LabelRaster(values, labels.box, labels.classes), options)
    index = np.where(rows, 0, labels.values)
    right = [_share_right(t, cube, index) for t in (unheard, believed)]
    assert right[0] > 0.7
    assert right[0] > right[1] + 0.2, "one that believes it calls every second row class 1"


def _share_right(trained: TrainedModel, cube: xr.Dataset, values: np.ndarray) -> float:
    x = torch.from_numpy(cube["reflectance"].values)[None]
    with torch.inference_mode():
        found = trained.module(*prepare(x, trained.normalisation))[0].argmax(dim=0).numpy() + 1
    other = values > 1
    return float((found == values)[other].mean())


def test_augmentation_in_full_trains_and_repeats_itself(made: tuple[xr.Dataset, LabelRaster]) -> None:
    strong = AugmentOptions(
        shift_px=4, scale=0.2, rotate_deg=15, brightness=0.02, contrast=0.1, gamma=0.1, noise=0.005,
        date_drop=0.1, clouds=0.1, band_drop=0.1, paste=0.3,
    )  # fmt: skip
    options = OPTIONS.model_copy(update={"augment": strong, "steps": 60, "checks": 1})
    first, second = train(*made, options), train(*made, options)
    for a, b in zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert first.val is not None
    assert first.val.accuracy > 0.6
    assert first.history[-1]["loss"] < 1.3
