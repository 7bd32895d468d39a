"""The positive-unlabelled risk against its formula, and as an estimate of the risk with all labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.losses.cases import case
from training.losses import Positives, positive_unlabelled

TWO = Positives(unlabelled=0, priors=(0.0, 0.4))


def test_two_classes_match_the_paper() -> None:
    """pi R_p+ + max(0, R_u- - pi R_p-) with the logistic loss of g = logit of positive - logit of unlabelled."""
    made = case(2)
    _, truth, weight = made.flat()
    known = made.target.flatten() != 255
    z = made.logits.detach().permute(0, 2, 3, 1).reshape(-1, 2)[known].numpy()
    g = z[:, 1] - z[:, 0]
    positive, unlabelled = truth == 1, truth == 0
    right = 0.4 * np.average(np.log1p(np.exp(-g)), weights=weight * positive)
    negative = np.average(np.log1p(np.exp(g)), weights=weight * unlabelled)
    negative -= 0.4 * np.average(np.log1p(np.exp(g)), weights=weight * positive)
    assert negative > 0
    found = positive_unlabelled(made.logits, made.target, TWO, made.weight)
    np.testing.assert_allclose(found.item(), right + negative, rtol=1e-6)


def test_where_the_risk_of_negatives_falls_below_zero_it_alone_is_pushed_back() -> None:
    """Kiryo et al. 2017, algorithm 1: the gradient is -gamma times that of the negative part."""
    target = torch.tensor([[[0, 1]]])
    logits = torch.tensor([[[[3.0, 0.0]], [[-3.0, 0.5]]]], dtype=torch.float64, requires_grad=True)
    value = positive_unlabelled(logits, target, Positives(0, (0.0, 0.9), gamma=0.5))
    cost = -torch.log_softmax(logits, dim=1)
    negative = cost[0, 0, 0, 0] - 0.9 * cost[0, 0, 0, 1]
    assert negative.item() < 0
    (expected,) = torch.autograd.grad(-0.5 * negative, logits)
    (found,) = torch.autograd.grad(value, logits)
    torch.testing.assert_close(found, expected)
    np.testing.assert_allclose(value.item(), 0.9 * cost[0, 1, 0, 1].item(), rtol=1e-6)


def test_it_estimates_the_cross_entropy_with_all_labels() -> None:
    """Unlabelled pixels are a mixture by the priors: the risk is the one that full labels would give."""
    rng = np.random.default_rng(0)
    n, priors = 400_000, np.array([0.5, 0.3, 0.2])
    truth = rng.choice(3, n, p=priors)
    logits = torch.from_numpy(rng.normal(np.eye(3)[truth] * 0.7, 1.0)).T[None, :, None]
    full = torch.nn.functional.cross_entropy(logits, torch.from_numpy(truth)[None, None])
    told = (truth > 0) & (rng.random(n) < 0.3)
    # positives are annotated pixels drawn from their class, the unlabelled a draw from all of them
    positives = torch.where(torch.from_numpy(told), torch.from_numpy(truth), 255)[None, None]
    everyone = torch.zeros_like(positives)
    both = torch.cat([logits, logits], dim=3)
    found = positive_unlabelled(
        both, torch.cat([positives, everyone], dim=2).reshape(1, 1, -1), Positives(0, tuple(priors))
    )
    assert found.item() == pytest.approx(full.item(), rel=0.01)


def test_it_finds_the_class_where_unlabelled_taken_for_negative_misses_half_of_it() -> None:
    """Two bells, a seventh of the positives labelled: a line by either loss, scored with the truth of all."""
    rng = np.random.default_rng(1)
    truth = rng.random(6000) < 0.5
    x = torch.from_numpy(rng.normal(np.where(truth, 1.2, -1.2), 1.0))
    labelled = torch.from_numpy(rng.normal(1.2, 1.0, 900))
    values = torch.cat([x, labelled])[None, None, None]
    target = torch.cat([torch.zeros(6000), torch.ones(900)]).long()[None, None]
    found = {}
    for name in ("positive_unlabelled", "cross_entropy"):
        line = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
        optimiser = torch.optim.Adam([line], lr=0.1)
        for _ in range(150):
            logits = torch.cat([line[k, 0] * values + line[k, 1] for k in range(2)], dim=1)
            if name == "cross_entropy":
                loss = torch.nn.functional.cross_entropy(logits, target)
            else:
                loss = positive_unlabelled(logits, target, Positives(0, (0.0, 0.5)))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        positive = (logits[0, 1, 0, :6000] > logits[0, 0, 0, :6000]).numpy()
        found[name] = float((positive & truth).sum() / truth.sum()), float((positive == truth).mean())
    best = float(((x.numpy() > 0) == truth).mean())
    assert found["cross_entropy"][0] < 0.2
    assert found["positive_unlabelled"][1] == pytest.approx(best, abs=0.02)


def test_gradients_match_differences() -> None:
    made, positives = case(3), Positives(unlabelled=2, priors=(0.2, 0.3, 0.0))
    assert torch.autograd.gradcheck(
        lambda z: positive_unlabelled(z, made.target, positives, made.weight), (made.logits,)
    )
