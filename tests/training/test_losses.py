"""Losses against plain numpy; pixels that are not annotated do not count."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.values.errors import InputError
from training.losses import IGNORE, WeightKind, class_weights, cross_entropy, dice


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, 3, (2, 5, 5))
    target[torch.rand(2, 5, 5) < 0.3] = IGNORE
    return torch.randn(2, 3, 5, 5, requires_grad=True), target


def _flat(logits: torch.Tensor, target: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    p = torch.softmax(logits, 1).detach().numpy().transpose(0, 2, 3, 1).reshape(-1, 3).astype(np.float64)
    known = target.numpy().ravel() != IGNORE
    return p[known], target.numpy().ravel()[known]


def test_cross_entropy_matches_numpy() -> None:
    logits, target = _case()
    p, truth = _flat(logits, target)
    each = -np.log(p[np.arange(len(truth)), truth])
    np.testing.assert_allclose(cross_entropy(logits, target).item(), each.mean(), rtol=1e-5)
    weights = np.array([1.0, 0.5, 3.0])
    expected = (each * weights[truth]).sum() / weights[truth].sum()
    found = cross_entropy(logits, target, torch.tensor(weights, dtype=torch.float32))
    np.testing.assert_allclose(found.item(), expected, rtol=1e-5)


def test_dice_matches_numpy() -> None:
    logits, target = _case()
    p, truth = _flat(logits, target)
    hot = np.eye(3)[truth]
    expected = 1 - np.mean(2 * (p * hot).sum(0) / (p + hot).sum(0))
    np.testing.assert_allclose(dice(logits, target).item(), expected, rtol=1e-5)


def test_unannotated_pixels_get_no_gradient() -> None:
    for loss in (cross_entropy, dice):
        logits, target = _case()
        loss(logits, target).backward()
        grad = logits.grad.abs().sum(dim=1)  # type: ignore[union-attr]
        assert (grad[target == IGNORE] == 0).all()
        assert (grad[target != IGNORE] > 0).all()


def test_a_batch_without_annotation_gives_a_zero_that_can_be_differentiated() -> None:
    for loss in (cross_entropy, dice):
        logits, target = _case()
        value = loss(logits, torch.full_like(target, IGNORE))
        value.backward()
        assert value.item() == 0.0
        assert (logits.grad == 0).all()


def test_class_weights_favour_the_rare_within_a_limit() -> None:
    weights = class_weights(np.array([1_000_000, 10_000, 1, 0]))
    assert weights[0] < weights[1] < weights[2]
    assert weights[3] == 0
    assert class_weights(np.r_[np.full(20, 10**8), 1]).max() == 5.0


def test_effective_number_matches_its_definition() -> None:
    counts, beta = np.array([3, 2000, 10**6]), 0.999
    effective = np.array([sum(beta**i for i in range(n)) for n in (3, 2000)])
    found = class_weights(counts, "effective", limit=100, beta=beta)
    np.testing.assert_allclose(found[0] / found[1], effective[1] / effective[0], rtol=1e-5)
    np.testing.assert_allclose(found[1] / found[2], (1 / effective[1]) / (1 - beta), rtol=1e-5)


@pytest.mark.parametrize("kind", ["root", "inverse", "effective"])
def test_weights_rise_with_rarity_are_capped_and_skip_absent_classes(kind: WeightKind) -> None:
    counts = np.array([10**6, 5000, 0, 40, 2])
    free = class_weights(counts, kind, limit=1e9)
    assert free[2] == 0
    assert free[0] < free[1] < free[3] <= free[4]
    np.testing.assert_allclose(free[counts > 0].mean(), 1, rtol=1e-5)
    np.testing.assert_array_equal(class_weights(counts, kind, limit=1.5), np.minimum(free, np.float32(1.5)))


def test_beta_spans_from_no_weights_to_the_inverse() -> None:
    counts = np.array([10, 300, 7000])
    np.testing.assert_allclose(class_weights(counts, "effective", beta=0.0), 1)
    inverse = class_weights(counts, "inverse", limit=100)
    np.testing.assert_allclose(class_weights(counts, "effective", 100, beta=1 - 1e-9), inverse, rtol=1e-4)


def test_weights_of_nothing_are_refused() -> None:
    with pytest.raises(InputError, match="no class weights"):
        class_weights(np.array([0, 0]))
    with pytest.raises(InputError, match="beta 1"):
        class_weights(np.array([1]), "effective", beta=1)


def test_weighted_labels_count_by_their_weight() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    target[0, 0] = IGNORE
    weight = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([0.5, 1.0, 2.0])
    p = np.log(np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True))
    above = below = 0.0
    for b, y, x in np.ndindex(2, 4, 4):
        k = int(target[b, y, x])
        if k != IGNORE:
            share = float(weight[b, y, x] * classes[k])
            above, below = above - share * p[b, k, y, x], below + share
    assert float(cross_entropy(logits, target, classes, weight)) == pytest.approx(above / below, rel=1e-5)
    one = torch.ones(2, 4, 4)
    for k in (None, classes):
        assert float(cross_entropy(logits, target, k, one)) == pytest.approx(
            float(cross_entropy(logits, target, k))
        )
    assert float(dice(logits, target, one)) == pytest.approx(float(dice(logits, target)))
    hidden = torch.where(torch.arange(4) < 2, 1.0, 0.0).expand(2, 4, 4)
    left = torch.where(hidden > 0, target, IGNORE)
    assert float(cross_entropy(logits, target, classes, hidden)) == pytest.approx(
        float(cross_entropy(logits, left, classes))
    )
    assert float(dice(logits, target, hidden)) == pytest.approx(float(dice(logits, left)))
