"""Dice and Lovasz-softmax against their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import jaccard_score

from tests.training.losses.cases import case
from training.losses import IGNORE, dice, lovasz


def test_dice_matches_numpy() -> None:
    made = case()
    p, truth, weight = made.flat()
    hot = np.eye(3)[truth]
    for share, given in ((np.ones_like(weight), None), (weight, made.weight)):
        both, either = ((v * share[:, None]).sum(axis=0) for v in (p * hot, p + hot))
        found = dice(made.logits, made.target, given)
        np.testing.assert_allclose(found.item(), 1 - np.mean(2 * both / either), rtol=1e-9)


def _jaccard_loss(wrong: NDArray[np.bool_], truth: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """1 - IoU of a class when exactly the pixels of `wrong` are told wrong (Berman et al. 2018, equation 6)."""
    return float(weight[wrong].sum() / weight[truth | wrong].sum())


def _extension(errors: NDArray[np.float64], truth: NDArray[np.bool_], weight: NDArray[np.float64]) -> float:
    """The Lovasz extension by its integral: over thresholds the loss of the pixels whose error is above."""
    edges = np.unique(np.r_[0.0, errors])
    return sum((hi - lo) * _jaccard_loss(errors > lo, truth, weight) for lo, hi in itertools.pairwise(edges))


@pytest.mark.parametrize("weighted", [False, True])
def test_lovasz_is_the_integral_of_the_jaccard_loss_over_thresholds(weighted: bool) -> None:
    made = case(spread=2.0)
    p, truth, weight = made.flat()
    share = weight if weighted else np.ones_like(weight)
    expected = np.mean(
        [_extension(np.abs((truth == k) - p[:, k]), truth == k, share) for k in np.unique(truth)]
    )
    found = lovasz(made.logits, made.target, made.weight if weighted else None)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-9)


def test_lovasz_of_sure_answers_is_one_minus_scikit_learns_iou() -> None:
    made = case(4, seed=3)
    answer = torch.randint(0, 4, made.target.shape, generator=torch.Generator().manual_seed(1))
    sure = 200.0 * torch.nn.functional.one_hot(answer, 4).permute(0, 3, 1, 2).double()
    known = made.target != IGNORE
    truth = made.target[known].numpy()
    iou = jaccard_score(truth, answer[known].numpy(), labels=np.unique(truth), average="macro")
    np.testing.assert_allclose(lovasz(sure, made.target).item(), 1 - iou, rtol=1e-9)


def test_a_pixel_of_weight_two_is_two_pixels() -> None:
    made = case(seed=7)
    twice = torch.cat([made.target, made.target[:1]])
    logits = torch.cat([made.logits, made.logits[:1]])
    weight = torch.ones(2, 5, 5, dtype=torch.float64)
    weight[0] = 2
    for loss in (dice, lovasz):
        torch.testing.assert_close(loss(made.logits, made.target, weight), loss(logits, twice))


def test_gradients_match_differences() -> None:
    made = case()
    for loss in (dice, lovasz):
        assert torch.autograd.gradcheck(lambda z, of=loss: of(z, made.target, made.weight), (made.logits,))
