"""Weights of a network into one of other bands and other classes.

::

    old: blue green nir      new: blue nir NDVI          old: wheat maize water     new: maize grass
         w1   w2    w3            w1   w3  0                  h1    h2    h3             h2    fresh

Where a tensor meets bands or classes is found by building the architecture once with a band and once with a class
more: an axis that grows by n has n blocks of bands side by side, such as one for each date. Bands that the
old network does not know begin at 0, so that the new one begins as the old one's function of the bands that both
know; that it does is computed on a drawn block before anything is learnt.

Shape suffixes: B batch, T date, C band, H row, W column, F feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.models.configs import NetworkConfig
from engine.models.registry import build, takes_days
from engine.values.errors import InputError

_DATES = 4
"""Dates of the drawn block where the network takes any number."""

_SAME = 1e-4
"""Greatest difference between both networks on it, as a share of the greatest feature."""


@dataclass(frozen=True)
class Names:
    """What a network's inputs and outputs stand for.

    Attributes:
        bands: Of its input, in order.
        classes: Of its output, in order.
    """

    bands: tuple[str, ...]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Network:
    """A network of the registry and what its ends stand for.

    Attributes:
        architecture: Name in the registry.
        module: The network; its ``config`` names its sizes.
        names: Of its bands and classes.
    """

    architecture: str
    module: Any
    names: Names

    @property
    def config(self) -> dict[str, Any]:
        """Fields of its configuration."""
        config: NetworkConfig = self.module.config
        return config.model_dump()

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """Sizes (B, T, C, H, W) of a small input."""
        config: NetworkConfig = self.module.config
        side = config.window_multiple
        return 2, config.n_dates or _DATES, config.n_bands, side, side

    def run(self, x_BTCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits, in evaluation mode, of an input with every date there."""
        batch, dates, _, height, width = x_BTCHW.shape
        days = (torch.arange(dates, dtype=torch.float32) * 30 + 15,) if takes_days(self.architecture) else ()
        training = self.module.training
        self.module.eval()
        found: torch.Tensor = self.module(x_BTCHW, torch.ones(batch, dates, height, width), *days)
        self.module.train(training)
        return found


def graft(old: Network, new: Network) -> frozenset[str]:
    """Fill a network with another's weights, in place.

    Args:
        old: What was learnt; stays as it is.
        new: Of the same architecture; with other bands, classes or number of dates where that is free.

    Returns:
        Names of the parameters that come whole from the old one; the others are of the new classes' head or
        meet a band that the old one did not know.

    Raises:
        InputError: If the architectures or the sizes of inner layers differ, no band is known to both, or the
            architecture cannot take other bands.
    """
    if old.architecture != new.architecture:
        raise InputError(
            "the start is of another architecture",
            where="transfer.start",
            found=old.architecture,
            limit=new.architecture,
            mend=f"set architecture: {old.architecture}",
        )
    if not set(old.names.bands) & set(new.names.bands):
        raise InputError(
            "the start knows none of the bands", where="bands", found=new.names.bands, limit=old.names.bands
        )
    exchange = old.names.bands != new.names.bands
    growth = _growth(new, probe_bands=exchange)
    _same_insides(old, new, growth)
    if exchange:
        _verify(old, new, growth)
    _fill(old, new, growth)
    unknown = set(new.names.bands) - set(old.names.bands)
    touched = {n for n, axes in growth.items() if any(k or (c and unknown) for c, k in axes)}
    return frozenset(name for name, _ in new.module.named_parameters() if name not in touched)


_Axes = tuple[tuple[int, int], ...]
"""For each axis of a tensor: by how much it grows with one band more, and with one class more."""


def _growth(network: Network, *, probe_bands: bool) -> dict[str, _Axes]:
    """Return how the axes of each tensor grow."""
    config = network.config
    shapes = _shapes(network.architecture, config)
    try:
        wide = (
            _shapes(network.architecture, config | {"n_bands": config["n_bands"] + 1})
            if probe_bands
            else shapes
        )
    except InputError as error:
        raise _cannot(network.architecture, str(error)) from error
    more = _shapes(network.architecture, config | {"n_classes": config["n_classes"] + 1})
    if not set(shapes) == set(wide) == set(more):
        raise _cannot(network.architecture, "it has other tensors with other bands")
    return {
        name: tuple((b - a, c - a) for a, b, c in zip(shape, wide[name], more[name], strict=True))
        for name, shape in shapes.items()
    }


def _shapes(architecture: str, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):  # no memory, no weights drawn
        return {name: tuple(t.shape) for name, t in build(architecture, config).state_dict().items()}


def _same_insides(old: Network, new: Network, growth: Mapping[str, _Axes]) -> None:
    """Refuse tensors that differ by more than bands and classes."""
    more = {"n_bands": len(new.names.bands), "n_classes": len(new.names.classes)}
    expected = _shapes(old.architecture, old.config | more)
    found = {name: tuple(t.shape) for name, t in new.module.state_dict().items()}
    wrong = sorted(n for n in set(expected) | set(found) if expected.get(n) != found.get(n))
    if wrong:
        mine, theirs = new.config, old.config
        differing = {
            k: f"{theirs.get(k)} in the start, here {v}" for k, v in mine.items() if theirs.get(k) != v
        }
        raise InputError(
            "the network is not the size of its start",
            where=", ".join(wrong[:4]),
            found="; ".join(f"{k}: {v}" for k, v in differing.items() if k not in more),
            mend="leave these to the start, or take an architecture that is free of them",
        )
    if any(len(axes) != len(found[name]) for name, axes in growth.items()):
        raise _cannot(new.architecture, "its tensors have other axes with other bands")


def _fill(old: Network, new: Network, growth: Mapping[str, _Axes]) -> None:
    """Put what both know in its place; bands that are new at 0, classes that are new as they were drawn."""
    given, own = old.module.state_dict(), new.module.state_dict()
    sides = (old.names, new.names)
    new.module.load_state_dict({n: _filled(given[n], tensor, growth[n], sides) for n, tensor in own.items()})


def _filled(given: torch.Tensor, own: torch.Tensor, axes: _Axes, sides: tuple[Names, Names]) -> torch.Tensor:
    theirs, ours = sides
    found, wheres = own.clone(), []
    for axis, (per_band, per_class) in enumerate(axes):
        where = torch.arange(own.shape[axis])
        if per_band or per_class:
            names = (theirs.bands, ours.bands) if per_band else (theirs.classes, ours.classes)
            pairs = _pairs(*names, per_band or per_class, given.shape[axis])
            given = given.index_select(axis, torch.tensor([old for old, _ in pairs], dtype=torch.int64))
            where = torch.tensor([new for _, new in pairs], dtype=torch.int64)
        if per_band:
            unknown = set(range(per_band * len(ours.bands))) - set(where.tolist())
            found.index_fill_(axis, torch.tensor(sorted(unknown), dtype=torch.int64), 0)
        wheres.append(where)
    if not any(map(any, axes)):
        return given.clone()
    found[torch.meshgrid(*wheres, indexing="ij")] = given
    return found


def _pairs(old: Sequence[str], new: Sequence[str], blocks: int, size: int) -> list[tuple[int, int]]:
    """Pair positions of an axis: `blocks` times what both know, then what is neither band nor class.

    >>> _pairs(["blue", "green", "nir"], ["nir", "blue"], 1, 4)
    [(2, 0), (0, 1), (3, 2)]
    """
    shared = [(old.index(name), at) for at, name in enumerate(new) if name in old]
    found = [(block * len(old) + i, block * len(new) + j) for block in range(blocks) for i, j in shared]
    return found + [(at, at + blocks * (len(new) - len(old))) for at in range(blocks * len(old), size)]


@torch.no_grad()
def _verify(old: Network, new: Network, growth: Mapping[str, _Axes]) -> None:
    """Compare both, with the old one's classes, on a block in which bands that only one of them knows are 0."""
    sizes = {"n_bands": len(old.names.bands), "n_classes": len(old.names.classes)}
    was = replace(
        old, module=build(old.architecture, new.config | sizes)
    )  # for the new one's number of dates
    was.module.load_state_dict(old.module.state_dict())
    sizes = {"n_classes": len(old.names.classes)}
    now = replace(
        new,
        module=build(new.architecture, new.config | sizes),
        names=replace(new.names, classes=old.names.classes),
    )
    _fill(old, now, growth)
    x_BTCHW = torch.randn(now.shape, generator=torch.Generator().manual_seed(0))
    old_BTCHW, new_BTCHW = torch.zeros(was.shape), torch.zeros(now.shape)
    for j, name in enumerate(new.names.bands):
        if name in old.names.bands:
            old_BTCHW[:, :, old.names.bands.index(name)] = new_BTCHW[:, :, j] = x_BTCHW[:, :, j]
    expected, found = was.run(old_BTCHW), now.run(new_BTCHW)
    if not (expected - found).abs().max() <= _SAME * expected.abs().max():
        raise _cannot(new.architecture, "its first layers do not hold the bands side by side")


def _cannot(architecture: str, why: str) -> InputError:
    return InputError(
        "this architecture cannot change its bands",
        where=architecture,
        found=why,
        mend="give it the start's own bands in their order",
    )
