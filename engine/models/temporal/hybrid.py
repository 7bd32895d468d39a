"""Networks beside each other, their features joined: a CNN that looks around beside an RNN that looks along time.

::

                     ┌─ branch, e.g. gru ── features ─┐
    dates in order ──┤                                ├─ side by side ─ 1 x 1 ─ logits
                     └─ branch, e.g. unet ─ features ─┘

After DuPLO (Interdonato et al. 2019, arXiv:1809.07589), whose branches are a CNN and a GRU; here they are any networks
of the registry that show their features, each without its own head.

Shape suffixes: B batch, T date, C band, H row, W column, F feature, K output.
"""

from __future__ import annotations

import torch
from torch import nn

from engine.models.registry import build, takes_days
from engine.models.temporal.configs import Branch, HybridConfig
from engine.models.temporal.dates import in_order
from engine.values.errors import InputError


class Hybrid(nn.Module):
    """The network; see the module.

    Args:
        config: The branches.

    Raises:
        InputError: If a branch shows no features.
    """

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.branches = nn.ModuleList(_headless(branch) for branch in config.branches)
        self.drop = nn.Dropout(config.dropout)
        self.head = nn.Conv2d(self._n_features(), config.n_classes, 1)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits, whatever the order of the dates.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.
            days: float32 (T,) or (B, T), running days (`engine.values.days`), 0 = no such date.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates, bands, days or the window do not fit a branch.
        """
        found: torch.Tensor = self.head(self.drop(self.features(x_BTCHW, valid_BTHW, days)))
        return found

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the features of all branches side by side, (B, F, H, W); arguments as of `forward`."""
        dates = in_order(x_BTCHW, valid_BTHW, days)
        sorted_days = dates.days[0] if days.ndim == 1 else dates.days
        found = []
        for branch, network in zip(self.config.branches, self.branches, strict=True):
            more = (sorted_days,) if takes_days(branch.architecture) else ()
            found.append(network.features(dates.x, dates.valid, *more))  # type: ignore[operator]
        return torch.cat(found, dim=1)

    @torch.no_grad()
    def _n_features(self) -> int:
        """Look how many features there are, on a window of nothing."""
        config, side, training = self.config, self.config.window_multiple, self.training
        dates = config.n_dates or 1
        x_BTCHW = torch.zeros(1, dates, config.n_bands, side, side)
        found = self.eval().features(x_BTCHW, x_BTCHW[:, :, 0], torch.arange(1.0, dates + 1))
        self.train(training)
        return int(found.shape[1])


def _headless(branch: Branch) -> nn.Module:
    """Build a branch; its own head would learn nothing."""
    network = build(branch.architecture, branch.config.model_dump())
    if not (hasattr(network, "features") and hasattr(network, "head")):
        raise InputError(
            "this network shows no features, so it cannot be a branch",
            where="config.branches",
            found=branch.architecture,
        )
    network.head = nn.Identity()
    return network
