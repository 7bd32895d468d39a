"""What a YAML names becomes the loss it names; all of them heed gaps and weights of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from engine.values.classes import ClassScheme, LandClass
from engine.values.errors import InputError
from training.batch import Batch
from training.losses import IGNORE, ClassTree, cross_entropy, dice
from training.losses.options import Criterion, Learnt, criterion, several
from training.options import TrainOptions

CLASSES = ClassScheme(
    classes=(
        LandClass(value=1, name="wheat", colour="#aa0000", parent="cereals"),
        LandClass(value=2, name="cereals", colour="#bb0000"),
        LandClass(value=3, name="forest", colour="#003300"),
    )
)
COUNTS = np.array([100, 400, 25])
LOSSES: list[dict[str, Any]] = [
    {"kind": "cross_entropy", "smoothing": 0.1},
    {"kind": "focal", "gamma": 1.0},
    {"kind": "dice"},
    {"kind": "lovasz"},
    {"kind": "multi_label"},
    {"kind": "hierarchical", "alpha": 0.5},
    {"kind": "positive_unlabelled", "unlabelled": "forest", "priors": {"wheat": 0.2, "cereals": 0.3}},
]


def _made(loss: Any, **more: Any) -> Criterion:
    options = TrainOptions(loss=loss, **more)
    return criterion(options.losses, Learnt(CLASSES, COUNTS, options.weigh))


def _batch(target: torch.Tensor, weight: torch.Tensor | None = None) -> Batch:
    known = (target != IGNORE).float()
    n, h, w = target.shape
    return Batch(
        x=torch.ones((n, 1, 1, h, w), dtype=torch.int16).view(torch.uint16),
        dates=torch.zeros((n, 1), dtype=torch.int16),
        present=torch.ones((n, 1), dtype=torch.bool),
        target=target.to(torch.uint8),
        weight=known if weight is None else weight * known,
        place=torch.zeros((n, 2), dtype=torch.int64),
    )


def _case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 3, (2, 6, 6), generator=chance)
    target[torch.rand(2, 6, 6, generator=chance) < 0.3] = IGNORE
    return torch.randn(2, 3, 6, 6, generator=chance, requires_grad=True), target


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss["kind"]))
def test_pixels_that_are_not_annotated_get_no_gradient_and_labels_without_weight_neither(
    loss: dict[str, Any],
) -> None:
    logits, target = _case()
    weight = (torch.rand(target.shape, generator=torch.Generator().manual_seed(9)) < 0.7).float()
    _made(loss)(logits, _batch(target, weight)).backward()
    gradient = logits.grad.abs().sum(dim=1)  # type: ignore[union-attr]
    counts = (target != IGNORE) & (weight > 0)
    assert (gradient[~counts] == 0).all()
    assert (gradient[counts] > 0).all()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss["kind"]))
def test_a_batch_without_annotation_gives_a_zero_that_can_be_differentiated(loss: dict[str, Any]) -> None:
    logits, target = _case()
    value = _made(loss)(logits, _batch(torch.full_like(target, IGNORE)))
    value.backward()
    assert value.item() == 0.0
    assert (logits.grad == 0).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: str(loss["kind"]))
def test_following_the_gradient_learns_the_labels(loss: dict[str, Any]) -> None:
    """Free logits of pixels: after some steps the answer is the label (for broad labels: one of the group)."""
    logits, target = _case(1)
    learnt, batch = _made(loss), _batch(target)
    first = learnt(logits, batch).item()
    optimiser = torch.optim.Adam([logits], lr=0.3)
    for _ in range(60):
        optimiser.zero_grad()
        learnt(logits, batch).backward()
        optimiser.step()
    assert learnt(logits, batch).item() < 0.8 * first
    found, forest = logits.argmax(dim=1), target == 2
    assert (found[target < 2] != 2).float().mean() > 0.9
    if loss["kind"] != "positive_unlabelled":  # there forest says "not known"
        assert (found[forest] == 2).all()


def test_a_list_is_a_weighted_sum_and_dice_beside_cross_entropy_is_one() -> None:
    logits, target = _case()
    batch = _batch(target)
    ce, di = cross_entropy(logits, target), dice(logits, target)
    found = _made([{"kind": "cross_entropy", "weight": 0.25}, {"kind": "dice", "weight": 2}])(logits, batch)
    torch.testing.assert_close(found, 0.25 * ce + 2 * di)
    torch.testing.assert_close(_made(None, dice=0.4)(logits, batch), 0.6 * ce + 0.4 * di)
    torch.testing.assert_close(_made(None, dice=1.0)(logits, batch), di)
    torch.testing.assert_close(_made(None)(logits, batch), ce)


def test_classes_are_weighted_where_asked() -> None:
    logits, target = _case()
    weights = Learnt(CLASSES, COUNTS, "root").weights_K()
    found = _made({"kind": "cross_entropy"}, weigh_classes=True)(logits, _batch(target))
    torch.testing.assert_close(found, cross_entropy(logits, target, weights))
    assert not torch.isclose(found, cross_entropy(logits, target))


def test_a_label_tells_its_ancestors_and_nothing_of_its_descendants() -> None:
    truths = torch.from_numpy(ClassTree.of(CLASSES).truths())
    target = torch.tensor([[[0, 1, 2, IGNORE]]])
    assert several(target, truths)[0, :, 0].T.tolist() == [[1, 1, 0], [IGNORE, 1, 0], [0, 0, 1], [IGNORE] * 3]
    as_given = torch.zeros((1, 3, 1, 4), dtype=torch.int64)
    assert several(as_given, truths) is as_given


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"loss": {"kind": "hinge"}}, "hinge"),
        ({"loss": {"kind": "focal", "alpha": 2}}, "alpha"),
        ({"loss": []}, "names no loss"),
        ({"loss": {"kind": "dice"}, "dice": 0.5}, "name it in `loss`"),
        ({"loss": [{"kind": "multi_label"}, {"kind": "dice"}]}, "stands alone"),
        ({"loss": {**LOSSES[-1], "priors": {"wheat": 0.6, "cereals": 0.5}}}, "less than 1"),
    ],
)
def test_losses_that_make_no_sense_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TrainOptions.model_validate(fields)


def test_priors_that_do_not_name_the_classes_are_refused() -> None:
    with pytest.raises(InputError, match=r"a prior for each class.*\['wheat', 'cereals', 'forest'\]"):
        _made({"kind": "positive_unlabelled", "unlabelled": "forest", "priors": {"wheat": 0.2}})
