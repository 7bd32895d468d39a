"""What the layers of a network answer to: maps of patches, and strengths by class.

Shape suffixes: N example, B batch, F channel, H row, W column, K class, L layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.explain.attribution import class_means
from training.explain.examples import Examples
from training.explain.lens import Lens, log_odds

_MOST_LAYERS = 8
_HALF_WAY = (  # not yet through their activation, or nothing of their own
    torch.nn.modules.conv._ConvNd,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.Dropout,
    torch.nn.MaxPool2d,
    torch.nn.Identity,
)


@dataclass(frozen=True, eq=False)
class LayerMaps:
    """Maps of some patches, layer by layer.

    Attributes:
        layers: Names of the layers, in the order in which they answer.
        sizes: Channels, rows and columns of each layer.
        strength: For each layer (N, H, W) float32, the mean over the channels of the absolute activation.
        speaks: For each layer (N, H, W) float32, Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391): where the
            layer speaks for the class that the patch was drawn for; 0 where it does not.
    """

    layers: tuple[str, ...]
    sizes: tuple[tuple[int, int, int], ...]
    strength: tuple[NDArray[np.float32], ...]
    speaks: tuple[NDArray[np.float32], ...]


@dataclass(frozen=True, eq=False)
class LayerStrengths:
    """How strongly the units of each layer answer to each class, for networks of single pixels.

    Attributes:
        layers: Names of the layers, in the order in which they answer.
        units: For each layer (K, F) float64, mean activation over the examples of a class; NaN without any.
    """

    layers: tuple[str, ...]
    units: tuple[NDArray[np.float64], ...]


def layer_maps(lens: Lens, examples: Examples) -> LayerMaps:
    """Map the layers' activations on patches, at most eight layers, spread evenly from first to last.

    Args:
        lens: A network that keeps rows and columns.
        examples: A few; they are evaluated at once.
    """
    inputs = lens.inputs(examples, slice(0, len(examples)))
    inputs.x.requires_grad_(True)
    side = int(inputs.x.shape[3])

    def is_map(value: torch.Tensor) -> bool:
        shape = tuple(value.shape)
        return len(shape) == 4 and shape[0] == len(examples) and side % shape[2] == 0 and shape[2] > 1

    with _watched(lens.module, is_map) as seen:
        score_B = log_odds(lens.logits(inputs), examples.mine, torch.from_numpy(examples.of))
    chosen = _spread([(name, value) for name, value in seen if value.requires_grad])
    slopes = torch.autograd.grad(score_B.sum(), [value for _, value in chosen], allow_unused=True)
    return LayerMaps(
        tuple(name for name, _ in chosen),
        tuple((int(v.shape[1]), int(v.shape[2]), int(v.shape[3])) for _, v in chosen),
        tuple(v.detach().abs().mean(dim=1).float().numpy() for _, v in chosen),
        tuple(_speaks(v.detach(), slope) for (_, v), slope in zip(chosen, slopes, strict=True)),
    )


@torch.no_grad()
def layer_strengths(lens: Lens, examples: Examples, n_classes: int) -> LayerStrengths:
    """Average each unit's activation over the examples of each class.

    Args:
        lens: A network of single pixels.
        examples: Of one pixel each.
        n_classes: K.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    for inputs in lens.pieces(examples):
        size = len(inputs.x)
        with _watched(lens.module, lambda v, n=size: v.ndim >= 2 and v.shape[0] == n) as seen:
            lens.logits(inputs)
        for name, value in _spread(seen):
            found.setdefault(name, []).append(_units(value))
    layers = {name: np.concatenate(parts) for name, parts in found.items()}
    whole = {name: values for name, values in layers.items() if len(values) == len(examples)}
    return LayerStrengths(tuple(whole), tuple(class_means(v, examples.of, n_classes) for v in whole.values()))


def _speaks(value_BFHW: torch.Tensor, slope_BFHW: torch.Tensor | None) -> NDArray[np.float32]:
    """Weigh each channel by its mean slope, and keep what speaks for the class."""
    if slope_BFHW is None:
        return np.zeros((value_BFHW.shape[0], *value_BFHW.shape[2:]), np.float32)
    weight_BF11 = slope_BFHW.mean(dim=(2, 3), keepdim=True)
    found: NDArray[np.float32] = (value_BFHW * weight_BF11).sum(dim=1).clamp_min(0).float().numpy()
    return found


def _units(value: torch.Tensor) -> NDArray[np.float64]:
    """Return the mean over everything but example and second axis, (B, F)."""
    flat = value.detach().double().reshape(value.shape[0], value.shape[1], -1)
    found: NDArray[np.float64] = flat.mean(dim=2).numpy()
    return found


def _spread(seen: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Keep at most eight layers, from the first to the last."""
    if len(seen) <= _MOST_LAYERS:
        return seen
    places = np.linspace(0, len(seen) - 1, _MOST_LAYERS).round().astype(int)
    return [seen[i] for i in places]


@contextmanager
def _watched(module: torch.nn.Module, wanted: Any) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Collect what the blocks and activations of a network give, under the name of the outermost that gives it."""
    seen: list[tuple[str, torch.Tensor]] = []

    def listen(name: str) -> Any:
        def hook(_module: torch.nn.Module, _given: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) else out
            if not isinstance(value, torch.Tensor) or not wanted(value):
                return
            if seen and seen[-1][1] is value:  # a block ends with its last layer: the block's name tells more
                seen.pop()
            elif isinstance(_module, _HALF_WAY):
                return
            seen.append((name, value))

        return hook

    handles = [part.register_forward_hook(listen(name)) for name, part in module.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
