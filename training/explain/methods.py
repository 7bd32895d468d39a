"""All explanations of a network, one after the other: each gives sheets, or says why it cannot.

::

    METHODS     permutation  occlusion  in_season  attention  gradients  integrated  hidden  training  activations
                confidence
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.values.errors import InputError
from training.explain.activations import layer_maps, layer_strengths
from training.explain.attention import attention
from training.explain.attribution import Told, gradients, integrated_gradients
from training.explain.confidence import confidence
from training.explain.examples import Examples
from training.explain.hidden import over_the_season, over_the_training
from training.explain.hiding import in_season, occlude_bands, occlude_dates
from training.explain.layers import chosen_examples, maps_sheet, strengths_sheet
from training.explain.lens import Lens
from training.explain.permutation import permute
from training.explain.sheets import (
    Legend,
    Sheet,
    attention_sheet,
    attribution_sheet,
    confidence_sheet,
    hidden_sheet,
    occlusion_sheet,
    permutation_sheet,
    season_sheet,
)

if TYPE_CHECKING:
    import torch

States = Sequence[tuple[str, Mapping[str, "torch.Tensor"]]]
"""Names of moments of a training, and the weights then."""


@dataclass(frozen=True, eq=False)
class Subject:
    """What is explained, and to what detail.

    Attributes:
        lens: The network.
        examples: What it is explained on.
        legend: What the axes mean.
        states: Weights of moments of its training, in order; none: its training is not shown.
        integration_steps: Points on the way of integrated gradients.
        repeats: Shuffles of each band and date.
        seed: Of the shuffles.
    """

    lens: Lens
    examples: Examples
    legend: Legend
    states: States = ()
    integration_steps: int = 32
    repeats: int = 5
    seed: int = 0

    @property
    def pixelwise(self) -> bool:
        """Whether an example is a single pixel."""
        return self.examples.batch.x.shape[3] == 1


@dataclass(frozen=True, eq=False)
class Made:
    """What one method gave.

    Attributes:
        method: Its name.
        sheets: None where it cannot be had.
        why_not: The reason then.
    """

    method: str
    sheets: tuple[Sheet, ...] = ()
    why_not: str = field(default="")


def explain(
    subject: Subject, methods: Sequence[str] = (), told: Callable[[str, int, int], None] | None = None
) -> Iterator[Made]:
    """Run methods; one that this network or these data do not allow says so.

    Args:
        subject: What is explained.
        methods: Names of `METHODS`; none: all of them.
        told: Called with the method, what is done and what there is in all.

    Raises:
        InputError: If a method is unknown, or one that was asked for by name cannot be had.
    """
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        raise InputError("no such explanation", where="only", found=unknown, limit=", ".join(METHODS))
    for name, method in METHODS.items():
        if methods and name not in methods:
            continue

        def hear(done: int, total: int, name: str = name) -> None:
            if told is not None:
                told(name, done, total)

        try:
            yield Made(name, tuple(method(subject, hear)))
        except _NotHere as here:
            if methods:
                raise InputError(here.why, where=name) from None
            yield Made(name, why_not=here.why)


class _NotHere(Exception):  # noqa: N818 - no error by itself: all methods were asked for, and one does not apply
    """This network or these data do not allow a method."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def _permutation(s: Subject, told: Told) -> list[Sheet]:
    if len(s.examples) < 2:
        raise _NotHere("there is one example only")
    found = permute(s.lens, s.examples, s.legend.season, s.repeats, s.seed, told)
    return [permutation_sheet(found, s.legend)]


def _occlusion(s: Subject, told: Told) -> list[Sheet]:
    dates = occlude_dates(s.lens, s.examples, s.legend.season, told)
    bands = occlude_bands(s.lens, s.examples, told)
    return [occlusion_sheet(dates, s.legend, "dates"), occlusion_sheet(bands, s.legend, "bands")]


def _in_season(s: Subject, told: Told) -> list[Sheet]:
    return [season_sheet(in_season(s.lens, s.examples, s.legend.season, told), s.legend)]


def _attention(s: Subject, _: Told) -> list[Sheet]:
    if not s.lens.has("attention"):
        raise _NotHere("the network has no attention over dates")
    return [attention_sheet(attention(s.lens, s.examples, s.legend.season), s.legend)]


def _gradients(s: Subject, told: Told) -> list[Sheet]:
    found = gradients(s.lens, s.examples, s.legend.season, told)
    return [attribution_sheet(found, s.legend, "gradients")]


def _integrated(s: Subject, told: Told) -> list[Sheet]:
    found = integrated_gradients(s.lens, s.examples, s.legend.season, s.integration_steps, told)
    return [attribution_sheet(found, s.legend, "integrated")]


def _hidden(s: Subject, told: Told) -> list[Sheet]:
    _require_features(s)
    found = over_the_season(s.lens, s.examples, s.legend.season, told)
    return [hidden_sheet(found, s.legend, s.examples.of, "season")]


def _training(s: Subject, told: Told) -> list[Sheet]:
    if not s.states:
        raise _NotHere("no weights of earlier moments were given (--checkpoints)")
    _require_features(s)
    found = over_the_training(s.lens, s.states, s.examples, told)
    return [hidden_sheet(found, s.legend, s.examples.of, "training")]


def _activations(s: Subject, _: Told) -> list[Sheet]:
    if s.pixelwise:
        found = layer_strengths(s.lens, s.examples, len(s.legend.classes.names))
        _require_layers(found.layers)
        return [strengths_sheet(found, s.legend)]
    some = s.examples[chosen_examples(s.examples)]
    maps = layer_maps(s.lens, some)
    _require_layers(maps.layers)
    return [maps_sheet(maps, some, s.legend, kind) for kind in ("strength", "speaks")]


def _confidence(s: Subject, _: Told) -> list[Sheet]:
    return [confidence_sheet(confidence(s.lens.answers(s.examples)), s.legend)]


def _require_layers(layers: tuple[str, ...]) -> None:
    if not layers:
        raise _NotHere("none of its layers answers for each example apart")


def _require_features(s: Subject) -> None:
    if not s.lens.has("features"):
        raise _NotHere("the network offers no hidden features")
    if len(s.examples) < 3:
        raise _NotHere("there are fewer than 3 examples")


METHODS: dict[str, Callable[[Subject, Told], list[Sheet]]] = {
    "permutation": _permutation,
    "occlusion": _occlusion,
    "in_season": _in_season,
    "attention": _attention,
    "gradients": _gradients,
    "integrated": _integrated,
    "hidden": _hidden,
    "training": _training,
    "activations": _activations,
    "confidence": _confidence,
}
