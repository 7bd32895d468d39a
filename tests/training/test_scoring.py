"""Scores of a part against scikit-learn, for one class a pixel and for several."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss

from engine.values.classes import ClassScheme, LandClass
from tests.training.small import lessons_with, options_with
from training.batch import IGNORE
from training.lessons import call
from training.losses import ClassTree
from training.scoring import evaluate
from training.splits import TEST, VAL


class _Linear(torch.nn.Module):
    """Logits that are sums of the values of both dates."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1, 2))


def _answers(module: torch.nn.Module, lessons: object) -> tuple[np.ndarray, np.ndarray]:
    """Return truth (N) and logits (N, K) of the validation part."""
    truth, logits = [], []
    for batch, inner in lessons.part(VAL):  # type: ignore[attr-defined]
        with torch.no_grad():
            found = call(module, batch, lessons.normalisation, False)[(..., *inner)]  # type: ignore[attr-defined]
        target = batch.target[(..., *inner)]
        truth.append(target[target != IGNORE].numpy())
        logits.append(found.permute(0, 2, 3, 1)[target != IGNORE].double().numpy())
    return np.concatenate(truth), np.concatenate(logits)


def test_one_class_a_pixel_is_scored_as_scikit_learn_does() -> None:
    lessons, module = lessons_with(options_with()), _Linear().train()
    found = evaluate(module, lessons, VAL)
    assert found is not None
    assert not module.training
    truth, logits = _answers(module, lessons)
    p = torch.softmax(torch.from_numpy(logits), 1).numpy()
    assert found.scores.accuracy == pytest.approx(accuracy_score(truth, logits.argmax(1)))
    assert found.scores.mean_f1 == pytest.approx(
        f1_score(truth, logits.argmax(1), labels=np.unique(truth), average="macro")
    )
    assert found.loss == pytest.approx(log_loss(truth, p, labels=range(3)), rel=1e-5)
    assert found.by("loss") == -found.loss
    assert found.by("mean_iou") == found.scores.mean_iou


def test_several_classes_a_pixel_are_scored_each_by_itself() -> None:
    lessons, module = lessons_with(options_with()), _Linear()
    colour = "#102030"
    tree = (
        LandClass(value=1, name="wheat", colour=colour, parent="crops"),
        LandClass(value=2, name="crops", colour=colour),
        LandClass(value=3, name="forest", colour=colour),
    )
    object.__setattr__(lessons, "classes", ClassScheme(classes=tree))
    found = evaluate(module, lessons, VAL, several_labels=True)
    assert found is not None
    truth, logits = _answers(module, lessons)
    told = ClassTree.of(lessons.classes).truths()[truth]
    known = told != IGNORE
    assert not known.all()
    for k in range(3):
        here = known[:, k]
        assert found.scores.f1[k] == pytest.approx(
            f1_score(told[here, k], logits[here, k] > 0, zero_division=np.nan), nan_ok=True
        )
    assert found.scores.accuracy == pytest.approx(np.mean((logits > 0)[known] == (told == 1)[known]))
    p = 1 / (1 + np.exp(-logits[known]))
    assert found.loss == pytest.approx(log_loss(told[known], p), rel=1e-5)


def test_a_part_without_annotation_has_no_scores() -> None:
    split = options_with().split.model_copy(update={"test": 0.0})
    lessons = lessons_with(options_with(split=split.model_dump()))
    assert evaluate(_Linear(), lessons, TEST) is None
    assert evaluate(_Linear(), lessons, TEST, several_labels=True) is None
