"""Logits and targets of chance for losses, and what plain numpy makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.losses import IGNORE


@dataclass(frozen=True, eq=False)
class Case:
    """A batch: logits (2, K, 5, 5) that can be differentiated, targets with gaps, weights of classes and labels."""

    logits: torch.Tensor
    target: torch.Tensor
    weights: torch.Tensor
    weight: torch.Tensor

    @property
    def n_classes(self) -> int:
        return self.logits.shape[1]

    def flat(self) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Return probabilities (N, K), truth (N) and weights of labels (N) of the annotated pixels."""
        z = self.logits.detach().numpy().transpose(0, 2, 3, 1).reshape(-1, self.n_classes)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        known = self.target.numpy().ravel() != IGNORE
        return (
            (p / p.sum(axis=1, keepdims=True))[known],
            self.target.numpy().ravel()[known],
            self.weight.numpy().ravel()[known],
        )


def case(n_classes: int = 3, seed: int = 0, spread: float = 1.0) -> Case:
    """Draw one in float64."""
    chance = torch.Generator().manual_seed(seed)
    target = torch.randint(0, n_classes, (2, 5, 5), generator=chance)
    target[torch.rand(2, 5, 5, generator=chance) < 0.3] = IGNORE
    logits = spread * torch.randn(2, n_classes, 5, 5, generator=chance, dtype=torch.float64)
    return Case(
        logits.requires_grad_(),
        target,
        torch.rand(n_classes, generator=chance, dtype=torch.float64) + 0.5,
        torch.rand(2, 5, 5, generator=chance, dtype=torch.float64),
    )
