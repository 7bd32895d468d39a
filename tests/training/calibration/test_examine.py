"""A trained network examined: calibrated on validation, scored with intervals, and it knows a stranger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.inference.bundle import save_bundle
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from tests.training.synthetic import Season, season
from training.calibration.answers import Answers, Asker, ask, blocks_of
from training.calibration.examine import Examined, examine, fit_scale
from training.calibration.plots import draw_reliability
from training.calibration.scaling import cross_entropy, softmax
from training.lessons import CubeLessons
from training.loop import TrainedModel, TrainOptions, train
from training.metrics import Scores
from training.splits import TEST, VAL, Split

OPTIONS = TrainOptions(
    architecture="unet",
    config={"stem": 8, "width": 8, "width_max": 8, "depth": 1},
    split=Split(block_px=16, buffer_px=2, val=0.25, test=0.2),
    steps=60,
    batch=4,
    crop_px=16,
    checks=1,
)


@pytest.fixture(scope="module")
def made() -> tuple[TrainedModel, CubeLessons]:
    cube, labels = season(Season(side_px=128, n_dates=3, n_bands=3, n_classes=3, fields=90, noise=300.0))
    return train(cube, labels, OPTIONS), CubeLessons.of(cube, labels, OPTIONS)


@pytest.fixture(scope="module")
def examined(made: tuple[TrainedModel, CubeLessons]) -> Examined:
    return examine(*made)


def test_scores_are_those_of_the_training_and_lie_in_their_intervals(
    made: tuple[TrainedModel, CubeLessons], examined: Examined
) -> None:
    trained, lessons = made
    for name, scores in (("val", trained.val), ("test", trained.test)):
        report = examined.parts[name]
        assert scores is not None
        assert report.intervals["accuracy"].value == pytest.approx(scores.accuracy)
        assert report.intervals["mean_iou"].value == pytest.approx(scores.mean_iou)
        assert report.intervals["mean_f1"].low <= scores.mean_f1 <= report.intervals["mean_f1"].high
        assert report.after.count.sum() == pytest.approx(sum(scores.support))
    parts = OPTIONS.split.parts(lessons.box)
    blocks = {(y // 16, x // 16) for y, x in np.argwhere((parts == TEST) & (lessons.targets[TEST] != 255))}
    assert examined.parts["test"].groups == len(blocks)


def test_it_takes_the_threads_of_the_training_and_gives_them_back(
    made: tuple[TrainedModel, CubeLessons], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, part = set(), CubeLessons.part
    monkeypatch.setattr(
        CubeLessons, "part", lambda self, which: seen.add(torch.get_num_threads()) or part(self, which)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        examine(*made)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {OPTIONS.threads} == {1}


def test_the_temperature_lessens_the_cross_entropy_it_was_fitted_on(
    made: tuple[TrainedModel, CubeLessons], examined: Examined
) -> None:
    trained, lessons = made
    val = ask(Asker(trained.module, trained.normalisation, False, blocks_of(16)), lessons.part(VAL))
    assert val is not None
    before = cross_entropy(softmax(val.logits), val.truth)
    after = cross_entropy(examined.scale.probabilities(val.logits), val.truth)
    assert after <= before + 1e-9
    by_vector = fit_scale(val, "vector").probabilities(val.logits)
    assert cross_entropy(by_vector, val.truth) <= after + 1e-3
    assert fit_scale(val, "none").probabilities(val.logits) == pytest.approx(softmax(val.logits))


def test_a_bundle_carries_it_all(
    made: tuple[TrainedModel, CubeLessons], examined: Examined, tmp_path: Path
) -> None:
    trained, _ = made
    spec = CubeSpec(bands=("blue", "green", "red"))
    fields = examined.given_to(trained.bundle_fields("a b", spec, Lattice(32, 8), "other"))
    bundle = save_bundle(tmp_path, trained.module, "unet", fields)
    assert bundle.temperature == examined.scale.temperature
    assert bundle.familiar is not None
    assert bundle.familiar.n_features == 8
    told = bundle.training["calibration"]["parts"]["val"]
    assert told["accuracy"]["value"] == pytest.approx(trained.val.accuracy, abs=1e-4)  # type: ignore[union-attr]
    assert set(told["reliability"]) == {"before", "after"}
    draw_reliability(tmp_path / "r.png", {"val": told["reliability"]}, "a title")
    assert (tmp_path / "r.png").stat().st_size > 5000


def test_vector_scaling_scores_the_labels_that_it_gives(made: tuple[TrainedModel, CubeLessons]) -> None:
    found = examine(*made, calibration="vector")
    assert found.scale.vector is not None
    assert found.scale.temperature == 1.0
    report = found.parts["test"]
    assert report.intervals["accuracy"].value == pytest.approx(report.after.accuracy, abs=1e-9)


def test_held_out_pixels_are_mostly_familiar_and_a_new_class_is_not(
    made: tuple[TrainedModel, CubeLessons], examined: Examined
) -> None:
    trained, lessons = made
    assert examined.familiarity is not None

    def score(x_TCHW: np.ndarray) -> np.ndarray:
        batch = next(iter(lessons.part(VAL)))[0]
        strange = replace(batch, x=torch.from_numpy(x_TCHW)[None])
        with torch.inference_mode():
            features = trained.module.features(*strange.prepared(trained.normalisation))  # type: ignore[operator]
        distance = examined.familiarity.distances(features[0].flatten(1).T.numpy())  # type: ignore[union-attr]
        return distance / (distance + examined.familiarity.distance)  # type: ignore[union-attr,no-any-return]

    known = lessons.cube.cut(lessons.box)
    assert np.median(score(known)) < 0.45
    assert np.median(score(np.full_like(known, 9000))) > 0.6


def test_without_validation_nothing_is_calibrated_and_it_says_so() -> None:
    cube, labels = season(Season(side_px=64, n_dates=2, n_bands=2, n_classes=3, fields=40))
    options = OPTIONS.model_copy(update={"split": Split(val=0.0), "steps": 2})
    found = examine(train(cube, labels, options), CubeLessons.of(cube, labels, options))
    assert found.scale.temperature == 1.0
    assert found.parts == {}
    assert any("no validation part" in note for note in found.notes)
    assert found.familiarity is None


def test_of_many_items_a_fair_draw_is_kept_and_all_are_counted(
    made: tuple[TrainedModel, CubeLessons], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, lessons = made
    asker = Asker(trained.module, trained.normalisation, False, blocks_of(16))
    whole = ask(asker, lessons.part(VAL))
    monkeypatch.setattr("training.calibration.answers.MOST_ITEMS", 300)
    few = ask(asker, _repeated(lessons, 3))
    assert isinstance(whole, Answers)
    assert isinstance(few, Answers)
    assert len(few) == 300
    np.testing.assert_array_equal(few.matrices, 3 * whole.matrices)
    expected = Scores.of(whole.matrices.sum(axis=0)).accuracy
    assert np.mean(few.logits.argmax(axis=1) == few.truth) == pytest.approx(expected, abs=0.1)


def _repeated(lessons: CubeLessons, times: int) -> Iterator:
    for _ in range(times):
        yield from lessons.part(VAL)
