"""What the layers of a network answer to: maps of patches, and strengths by class.

Layers put their axes in different orders; what is shown is brought to one::

    patches         (B, F, h, w)   (B x T, F, h, w)   (B, F, T, h, w)      ─►  (B, all else, h, w)
    single pixels   (rows, F)   (rows, T, F)   (rows, F, 1, T)   (1, F, rows, T)   ─►  (rows, F): mean of dates

Shape suffixes: N example, B batch, F channel, H row, W column, K class.
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
_PIXELS = 128  # at a time: no network of single pixels takes them in smaller pieces
_HALF_WAY = (  # not yet through their activation, or nothing of their own
    torch.nn.modules.conv._ConvNd,
    torch.nn.Linear,
    torch.nn.Embedding,
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
        examples: A few; they are evaluated at once. Of a layer that is called for each date the last call is taken.
    """
    inputs = lens.inputs(examples, slice(0, len(examples)))
    inputs.x.requires_grad_(True)
    with _watched(lens.module) as seen:
        score_B = log_odds(lens.logits(inputs), examples.mine, torch.from_numpy(examples.of))
    sizes = (len(examples), int(inputs.x.shape[1]), int(inputs.x.shape[3]))
    maps = {name: v for name, v in _blocks(seen) if v.requires_grad and _is_map(v, *sizes)}
    chosen = _spread(list(maps.items()))
    slopes = _slopes(score_B, [value for _, value in chosen])
    values = [_maps_of(value.detach(), len(examples)) for _, value in chosen]
    return LayerMaps(
        tuple(name for name, _ in chosen),
        tuple((int(v.shape[1]), int(v.shape[2]), int(v.shape[3])) for v in values),
        tuple(v.abs().mean(dim=1).float().numpy() for v in values),
        tuple(_speaks(v, _maps_of(slope, len(examples))) for v, slope in zip(values, slopes, strict=True)),
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
    for start in range(0, len(examples), _PIXELS):
        which = slice(start, min(start + _PIXELS, len(examples)))
        inputs = lens.inputs(examples[which], which)
        with _watched(lens.module) as seen:
            lens.logits(inputs)
        units = {name: _units(value, len(inputs.x), _rows(seen)) for name, value in _blocks(seen)}
        for name, values_NF in units.items():
            if values_NF is not None:
                found.setdefault(name, []).append(values_NF)
    layers = {name: np.concatenate(parts) for name, parts in found.items()}
    whole = _spread([(name, v) for name, v in layers.items() if len(v) == len(examples)])
    return LayerStrengths(
        tuple(name for name, _ in whole), tuple(class_means(v, examples.of, n_classes) for _, v in whole)
    )


def _is_map(value: torch.Tensor, n: int, dates: int, side: int) -> bool:
    shape = tuple(value.shape)
    if len(shape) not in (4, 5) or shape[0] not in (n, n * dates):
        return False
    return 1 < shape[-1] == shape[-2] and side % shape[-1] == 0


def _maps_of(value: torch.Tensor, n: int) -> torch.Tensor:
    """Bring a layer's answer to (B, channels and dates, h, w)."""
    return value.reshape(n, -1, *value.shape[-2:])


def _slopes(score_B: torch.Tensor, values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the slope of the score by each layer; 0 by those that it does not hang on."""
    if not values:
        return []
    found = torch.autograd.grad(score_B.sum(), values, allow_unused=True)
    return [torch.zeros_like(v) if s is None else s for v, s in zip(values, found, strict=True)]


def _speaks(value_BFHW: torch.Tensor, slope_BFHW: torch.Tensor) -> NDArray[np.float32]:
    """Weigh each channel by its mean slope, and keep what speaks for the class."""
    weight_BF11 = slope_BFHW.mean(dim=(2, 3), keepdim=True)
    found: NDArray[np.float32] = (value_BFHW * weight_BF11).sum(dim=1).clamp_min(0).float().numpy()
    return found


def _rows(seen: list[tuple[str, torch.nn.Module, torch.Tensor]]) -> int:
    """Return in how many rows a network of pixels works, what it fills up included: its head tells."""
    flat = [int(value.shape[0]) for _, _, value in seen if value.ndim == 2]
    return flat[-1] if flat else 0


def _units(value: torch.Tensor, n: int, rows: int) -> NDArray[np.float64] | None:
    """Return the mean over the dates of each unit, (B, F); None where a layer does not keep the pixels apart."""
    if value.ndim == 4 and value.shape[0] == 1 and value.shape[2] == rows:
        value = value[0].transpose(0, 1)[:, :, None]  # (rows, F, 1, T)
    if value.shape[0] not in (n, rows) or value.shape[0] < n or value.ndim not in (2, 3, 4):
        return None
    if value.ndim == 3:
        value = value.transpose(1, 2)
    found: NDArray[np.float64] = value[:n].double().reshape(n, value.shape[1], -1).mean(dim=2).numpy()
    return found


def _blocks(seen: list[tuple[str, torch.nn.Module, torch.Tensor]]) -> list[tuple[str, torch.Tensor]]:
    """Keep blocks and activations, each under the name of the outermost that gives it; of several calls the last."""
    kept: list[tuple[str, torch.Tensor]] = []
    for name, module, value in seen:
        if kept and kept[-1][1] is value:  # a block ends with its last layer: the block's name tells more
            kept.pop()
        elif isinstance(module, _HALF_WAY):
            continue
        kept.append((name, value))
    return list(dict(kept).items())


def _spread(layers: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Keep at most eight layers, from the first to the last."""
    if len(layers) <= _MOST_LAYERS:
        return layers
    places = np.linspace(0, len(layers) - 1, _MOST_LAYERS).round().astype(int)
    return [layers[i] for i in places]


@contextmanager
def _watched(module: torch.nn.Module) -> Iterator[list[tuple[str, torch.nn.Module, torch.Tensor]]]:
    """Collect what every part of a network gives, as it gives it."""
    seen: list[tuple[str, torch.nn.Module, torch.Tensor]] = []

    def listen(name: str) -> Any:
        def hook(part: torch.nn.Module, _given: Any, out: Any) -> None:
            value = out[0] if isinstance(out, tuple) and out else out
            if isinstance(value, torch.Tensor):
                seen.append((name, part, value))

        return hook

    handles = [part.register_forward_hook(listen(name)) for name, part in module.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
