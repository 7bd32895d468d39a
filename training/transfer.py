"""Training that begins with what another network, or an encoder of others, has learnt.

::

    options.transfer.start ─┬─ a bundle: all its weights, bands by name, classes by name   ─► body, 1e-5
                            └─ a file of weights: the encoder, bands by name               ─► body, 1e-5
                               what is new: head, layers that meet new bands, a decoder    ─► head, 1e-4

The head learns faster than the body, which may stay frozen or thaw stage by stage from the output inwards (Howard
and Ruder 2018, arXiv:1801.06146). Inputs are normalised as the start's were, bands that it does not know as
the training pixels say; so before the first step the network is the start's own function of the bands that both know.
To pretrain on weak labels and fine-tune on few good ones: train a bundle on the one, and start from it on the other.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from pydantic import BaseModel, ConfigDict, Field

from engine.models.normalise import Standard
from engine.models.spatial.published import load_encoder
from engine.values.bands import find_band
from engine.values.errors import InputError
from engine.values.planes import Plane
from training.graft import Names, Network, graft

if TYPE_CHECKING:
    from training.lessons import Lessons
    from training.options import TrainOptions

AnyLessons = TypeVar("AnyLessons", bound="Lessons")


class TransferOptions(BaseModel):
    """Where a training starts from, and how fast what is learnt already may change.

    Attributes:
        start: Folder of a bundle, or a file of an encoder's weights (.pth, .pt, .safetensors).
        bands: Of a file: the bands of its first layer, in order; None: all 13 of Sentinel-2, or red, green, blue
            where it has three.
        scale: Of a file: the cube's numbers (reflectance x 10000) are divided by it; 10000 is what torchgeo's
            Sentinel-2 weights were trained with.
        body_rate: Peak learning rate of what comes from the start.
        head_rate: Peak learning rate of what is new.
        thaw: Share of the steps over which the body thaws, one stage after the other from the output inwards; 0: it
            learns from the first step on; None: it stays as it is.
        stages: Into how many stages the body is cut.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    start: str
    bands: tuple[str, ...] | None = None
    scale: float = Field(default=10_000.0, gt=0)
    body_rate: float = Field(default=1e-5, gt=0)
    head_rate: float = Field(default=1e-4, gt=0)
    thaw: float | None = Field(default=0.0, ge=0, le=1)
    stages: int = Field(default=4, ge=1, le=64)


_Constants = dict[str, tuple[float, float, Plane]]
"""Of each band: mean and standard deviation, in the stored steps of a plane."""


class BodyAndHead:
    """A body and a head that learn at their own rates, the body stage by stage: a `training.learner.Tuning`.

    Args:
        stages: Names of the body's parameters, the stage nearest the output first.
        options: Rates and times.
        steps: Of the training.
    """

    def __init__(self, stages: Sequence[Sequence[str]], options: TransferOptions, steps: int) -> None:
        self.stages = tuple(tuple(stage) for stage in stages)
        self.options, self.steps = options, steps

    def groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        """Return the body at its rate, and all else at the head's; a group without parameters is left out."""
        body = {name for stage in self.stages for name in stage}
        named = dict(module.named_parameters())
        groups = [
            {"params": [p for name, p in named.items() if name in body], "lr": self.options.body_rate},
            {"params": [p for name, p in named.items() if name not in body], "lr": self.options.head_rate},
        ]
        return [group for group in groups if group["params"]]

    def before(self, step: int, module: torch.nn.Module) -> bool:
        """Freeze the stages that have not thawed before this step, batch norms' running statistics included."""
        frozen = {name for stage in self.stages[self.thawed(step) :] for name in stage}
        changed = False
        for name, parameter in module.named_parameters():
            changed |= parameter.requires_grad != (name not in frozen)
            parameter.requires_grad_(name not in frozen)
        for prefix, part in module.named_modules():
            own = {f"{prefix}.{name}".lstrip(".") for name, _ in part.named_parameters(recurse=False)}
            if own and own <= frozen:
                part.eval()
        return changed

    def thawed(self, step: int) -> int:
        """Return how many stages learn in a step, from 1.

        >>> tuning = BodyAndHead([["c"], ["b"], ["a"]], TransferOptions(start="b", thaw=0.6), steps=10)
        >>> [tuning.thawed(step) for step in range(1, 11)]
        [0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
        """
        thaw, count = self.options.thaw, len(self.stages)
        if thaw is None:
            return 0
        if thaw == 0:
            return count
        return min(count, int((step - 1) / (thaw * self.steps) * count + 1e-9))


def started(
    module: torch.nn.Module, lessons: AnyLessons, planes: Sequence[Plane], options: TrainOptions
) -> tuple[AnyLessons, BodyAndHead | None]:
    """Let a training begin where its options say; without a start nothing changes.

    Args:
        module: Of the registry, with fresh weights; filled in place with what the start has learnt.
        lessons: What it learns from: a dataclass with a field ``normalisation``.
        planes: What its bands are, in order.
        options: Tell architecture and start.

    Returns:
        The lessons, normalised as the start was, and the tuning for `training.loop.fit`.

    Raises:
        InputError: If the start cannot be read or does not fit the network.
        TrustError: If the start could run code; it was not opened.
    """
    transfer = options.transfer
    if transfer is None:
        return lessons, None
    names = Names(_normal(plane.name for plane in planes), tuple(lessons.classes.names))
    new = Network(options.architecture, module, names)
    known, body = (_from_bundle if Path(transfer.start).is_dir() else _from_file)(new, transfer)
    normalisation = _merged(known, dict(zip(names.bands, planes, strict=True)), lessons.normalisation)
    used = [name for name in _by_use(new) if name in body]
    tuning = BodyAndHead(_cut(used[::-1], transfer.stages), transfer, options.steps)
    renewed: AnyLessons = replace(cast(Any, lessons), normalisation=normalisation)
    return renewed, tuning


def start_fields(start: str) -> dict[str, Any]:
    """Return the configuration of a start's network beside dates, bands and classes; none of a file of weights."""
    from engine.inference.bundle import load_bundle

    if not Path(start).is_dir():
        return {}
    config = load_bundle(start).config
    return {} if config is None else config.model_dump(exclude={"n_dates", "n_bands", "n_classes"})


def _from_bundle(new: Network, options: TransferOptions) -> tuple[_Constants, frozenset[str]]:
    from safetensors.torch import load

    from engine.inference.bundle import load_bundle
    from engine.models.registry import build

    bundle = load_bundle(options.start)
    if bundle.architecture is None or bundle.config is None or not isinstance(bundle.normalisation, Standard):
        raise InputError(
            "a training starts from a network of the registry with a standard normalisation",
            where="transfer.start",
            found=f"{bundle.architecture or bundle.kind}, {bundle.normalisation.kind}",
            mend="give a bundle that `landweave train` wrote, or a file of an encoder's weights",
        )
    module = build(bundle.architecture, bundle.config.model_dump())
    module.load_state_dict(load(bundle.read_weights()))
    names = Names(_normal(plane.name for plane in bundle.planes), tuple(bundle.classes.names))
    body = graft(Network(bundle.architecture, module, names), new)
    constants = zip(bundle.normalisation.mean, bundle.normalisation.std, bundle.planes, strict=True)
    return dict(zip(names.bands, constants, strict=True)), body


def _from_file(new: Network, options: TransferOptions) -> tuple[_Constants, frozenset[str]]:
    from engine.inference.state import read_state_dict

    state = read_state_dict(options.start)
    if new.architecture == "presto":
        from engine.models.presto import load_published

        return {name: (0.0, options.scale, Plane(name=name)) for name in new.names.bands}, load_published(
            new.module, state
        )
    filled = load_encoder(new.module, state, new.names.bands, options.bands)
    return {name: (0.0, options.scale, Plane(name=name)) for name in filled.bands}, filled.whole


def _normal(bands: Iterable[str]) -> tuple[str, ...]:
    """Return landweave's names of bands; indices and layers keep theirs."""
    return tuple(name if (found := find_band(name)) is None else found.name for name in bands)


def _merged(known: _Constants, planes: Mapping[str, Plane], own: Standard) -> Standard:
    """Normalise bands as the start did, and those that it does not know as the training pixels say."""
    means, stds = list(own.mean), list(own.std)
    for at, (name, plane) in enumerate(planes.items()):
        if name in known:
            means[at], stds[at] = _rewritten(*known[name], plane)
    return own.model_copy(update={"mean": tuple(means), "std": tuple(stds)})


def _rewritten(mean: float, std: float, theirs: Plane, ours: Plane) -> tuple[float, float]:
    """Bring constants from the stored steps of one plane to those of another.

    >>> _rewritten(200.0, 50.0, Plane(name="slope", kind="layer", scale=10, low=-1), Plane(name="slope", kind="layer"))
    (19.0, 5.0)
    """
    if theirs.rule == ours.rule:
        return mean, std
    (their_scale, their_low), (scale, low) = theirs.rule, ours.rule
    return (mean / their_scale + their_low - low) * scale, std / their_scale * scale


@torch.no_grad()
def _by_use(network: Network) -> list[str]:
    """Return the names of all parameters in the order in which a forward pass comes to their modules."""
    order: dict[str, int] = {}

    def noting(name: str) -> Callable[..., None]:
        def note(*_: Any) -> None:
            order.setdefault(name, len(order))

        return note

    parts = network.module.named_modules()
    hooks = [part.register_forward_pre_hook(noting(name)) for name, part in parts]
    network.run(torch.zeros(network.shape))
    for hook in hooks:
        hook.remove()

    def place(name: str) -> int:
        """Of the module that holds the parameter, or of the nearest around it that was called."""
        while name:
            name = name.rpartition(".")[0]
            if name in order:
                return order[name]
        return 0

    return sorted((name for name, _ in network.module.named_parameters()), key=place)


def _cut(names: Sequence[str], stages: int) -> list[Sequence[str]]:
    """Cut into stages of nearly as many parameters' names each; none is empty."""
    count = max(1, min(stages, len(names)))
    edges = [round(i * len(names) / count) for i in range(count + 1)]
    return [names[a:b] for a, b in itertools.pairwise(edges)]
