"""Cross entropy, focal loss and one answer per class, against plain numpy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from tests.training.losses.cases import case
from training.losses import IGNORE, cross_entropy, focal, multi_label


def test_cross_entropy_is_scikit_learns_log_loss() -> None:
    made = case()
    p, truth, weight = made.flat()
    found = cross_entropy(made.logits, made.target)
    np.testing.assert_allclose(found.item(), log_loss(truth, p, labels=range(3)), rtol=1e-9)
    classes = made.weights.numpy()
    found = cross_entropy(made.logits, made.target, made.weights)
    expected = log_loss(truth, p, labels=range(3), sample_weight=classes[truth])
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)
    found = cross_entropy(made.logits, made.target, made.weights, made.weight)
    expected = log_loss(truth, p, labels=range(3), sample_weight=classes[truth] * weight)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing_is_the_cross_entropy_to_a_softened_truth(weighted: bool) -> None:
    made = case(4)
    p, truth, weight = made.flat()
    soft = 0.8 * np.eye(4)[truth] + 0.2 / 4
    share = weight if weighted else np.ones_like(weight)
    expected = (-(soft * np.log(p)).sum(axis=1) * share).sum() / share.sum()
    found = cross_entropy(made.logits, made.target, None, made.weight if weighted else None, smoothing=0.2)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_focal_matches_its_formula(gamma: float) -> None:
    made = case(spread=3.0)
    p, truth, weight = made.flat()
    of_truth, classes = p[np.arange(len(truth)), truth], made.weights.numpy()[truth]
    each = -classes * (1 - of_truth) ** gamma * np.log(of_truth)
    found = focal(made.logits, made.target, made.weights, made.weight, gamma)
    np.testing.assert_allclose(found.item(), (each * weight).sum() / (classes * weight).sum(), rtol=1e-7)


def test_focal_without_focus_is_cross_entropy_and_stays_finite_where_all_is_known() -> None:
    made = case()
    plain = cross_entropy(made.logits, made.target, made.weights)
    torch.testing.assert_close(focal(made.logits, made.target, made.weights, gamma=0.0), plain)
    sure = torch.zeros(1, 2, 1, 1, requires_grad=True)
    with torch.no_grad():
        sure[0, 0] = 80.0
    focal(sure, torch.zeros(1, 1, 1, dtype=torch.int64), gamma=0.5).backward()
    assert torch.isfinite(sure.grad).all()  # type: ignore[arg-type]


def test_multi_label_is_the_log_loss_of_each_class_over_what_is_known() -> None:
    made = case(4)
    chance = torch.Generator().manual_seed(5)
    target = torch.randint(0, 2, made.logits.shape, generator=chance)
    target[torch.rand(target.shape, generator=chance) < 0.4] = IGNORE
    p, known = torch.sigmoid(made.logits).detach().numpy(), target.numpy() != IGNORE
    share = np.broadcast_to(made.weight.numpy()[:, None] * made.weights.numpy()[:, None, None], p.shape)
    expected = log_loss(target.numpy()[known], p[known], sample_weight=share[known])
    found = multi_label(made.logits, target, made.weights, made.weight)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)


def test_gradients_match_differences() -> None:
    made = case()
    several = torch.where(
        made.target[:, None] == IGNORE, IGNORE, made.target[:, None] == torch.arange(3)[:, None, None]
    )
    weights, weight = made.weights, made.weight
    for of_logits in (
        lambda z: cross_entropy(z, made.target, weights, weight, 0.1),
        lambda z: focal(z, made.target, weights, weight),
        lambda z: multi_label(z, several.long(), weights, weight),
    ):
        assert torch.autograd.gradcheck(of_logits, (made.logits,))
