"""After a training: calibrate the network, score it with intervals, and learn what it is familiar with.

::

    validation part ─► temperature or vector ─┬─► reliability before and after, by two halves of the groups
    test part ────────────────────────────────┴─► reliability before and after, scores with intervals
    training part ──► features ──► familiarity
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from engine.inference.bundle import BundleFields
from engine.inference.unfamiliar import Familiarity
from engine.models.registry import takes_days
from engine.values.calibration import VectorScale
from engine.values.errors import InputError
from training.calibration.answers import Answers, Asker, Groups, ask, blocks_of, features_of
from training.calibration.familiarity import fit_familiarity
from training.calibration.reliability import Reliability, equal_masses, reliability
from training.calibration.scaling import fit_temperature, fit_vector, softmax, vector_scaled
from training.intervals import Interval, score_intervals
from training.splits import TEST, VAL
from training.threads import threads

if TYPE_CHECKING:
    from training.batch import Batch
    from training.lessons import Lessons
    from training.loop import TrainedModel

Calibration = Literal["none", "temperature", "vector"]
"""How probabilities are mended: not at all, by one number, or by two for each class."""

_FEATURE_ITEMS = 30_000
_FEATURE_BATCHES = 64


@dataclass(frozen=True)
class Scale:
    """What logits go through before the softmax."""

    temperature: float = 1.0
    vector: VectorScale | None = None

    def probabilities(self, logits_NK: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return probabilities, (N, K)."""
        z_NK = logits_NK if self.vector is None else vector_scaled(logits_NK, self.vector)
        return softmax(z_NK, self.temperature)


@dataclass(frozen=True, eq=False)
class PartReport:
    """How a part was answered.

    Attributes:
        groups: Blocks of the part that hold annotated items.
        intervals: Accuracy, mean F1 and mean IoU, from all items, blocks drawn with replacement.
        before: Reliability as the network answers.
        after: As the bundle answers.
        adaptive: Calibration error before and after with bins of equal mass.
    """

    groups: int
    intervals: dict[str, Interval]
    before: Reliability
    after: Reliability
    adaptive: tuple[float, float]

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "groups": self.groups,
            **{name: interval.as_json() for name, interval in self.intervals.items()},
            "reliability": {"before": self.before.as_json(), "after": self.after.as_json()},
            "adaptive_ece": {
                "before": round(self.adaptive[0], 5),
                "after": round(self.adaptive[1], 5),
            },
        }


@dataclass(frozen=True, eq=False)
class Examined:
    """What is known of a trained network beside its weights.

    Attributes:
        scale: Calibration, from the validation part.
        familiarity: What its features look like; None where it shows none.
        parts: ``val`` and ``test``, those that hold anything.
        notes: What was not done, and why.
    """

    scale: Scale
    familiarity: Familiarity | None
    parts: dict[str, PartReport]
    notes: tuple[str, ...] = field(default=())

    def given_to(self, fields: BundleFields) -> BundleFields:
        """Return a bundle's fields with all of it."""
        told = {"calibration": self.as_json()}
        return replace(
            fields,
            temperature=self.scale.temperature,
            vector=self.scale.vector,
            familiarity=self.familiarity,
            training=fields.training | told,
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {
            "parts": {name: report.as_json() for name, report in self.parts.items()},
            "notes": list(self.notes),
        }

    def lines(self) -> dict[str, str]:
        """Return the figures for people."""
        told = {}
        for name, report in self.parts.items():
            shown = ", ".join(f"{k.replace('_', ' ')} {v.line()}" for k, v in report.intervals.items())
            told[f"{name}, 95% over {report.groups} blocks"] = shown
            told[f"{name}, calibration error"] = (
                f"{report.before.error:.3f}, as the bundle answers {report.after.error:.3f}"
            )
        return told


def examine(
    trained: TrainedModel,
    lessons: Lessons,
    calibration: Calibration = "temperature",
    groups: Groups | None = None,
) -> Examined:
    """Calibrate and score a trained network.

    Args:
        trained: The network.
        lessons: What it was trained on.
        calibration: How to mend its probabilities, by the validation part.
        groups: Which items belong together; None: those of a block of the split.

    Returns:
        Nothing is calibrated without a validation part; `Examined.notes` tells.
    """
    if trained.options.several_labels:
        return Examined(Scale(), None, {}, ("not examined: a pixel may have several classes",))
    with threads(trained.options.threads):  # as it was trained: more of them are slow beside other work
        return _examined(trained, lessons, calibration, groups or blocks_of(trained.options.split.block_px))


def _examined(
    trained: TrainedModel, lessons: Lessons, calibration: Calibration, of_blocks: Groups
) -> Examined:
    days = takes_days(trained.options.architecture)
    asker = Asker(trained.module, trained.normalisation, days, of_blocks)
    val, notes = ask(asker, lessons.part(VAL)), []
    scale = Scale()
    if val is None and calibration != "none":
        notes.append("not calibrated: the split has no validation part")
    elif val is not None:
        scale = fit_scale(val, calibration)
    parts = {}
    if val is not None:
        parts["val"] = _report(val, _cross_fitted(val, calibration, scale), scale)
    if (test := ask(asker, lessons.part(TEST))) is not None:
        parts["test"] = _report(test, scale.probabilities(test.logits), scale)
    familiarity = None
    try:
        familiarity = _familiarity(asker, lessons)
    except InputError as error:
        notes.append(f"no layer unfamiliar: {error.what}")
    return Examined(scale, familiarity, parts, tuple(notes))


def fit_scale(val: Answers, calibration: Calibration) -> Scale:
    """Fit on the validation part; labels of no weight do not count."""
    if calibration == "none" or not val.weight.any():
        return Scale()
    if calibration == "temperature":
        return Scale(fit_temperature(val.logits, val.truth, val.weight))
    return Scale(1.0, fit_vector(val.logits, val.truth, val.weight))


def _cross_fitted(val: Answers, calibration: Calibration, whole: Scale) -> NDArray[np.float64]:
    """Return probabilities of the validation part, each half of its groups scaled by what the other half says."""
    names = np.unique(val.group)
    if len(names) < 2:
        return whole.probabilities(val.logits)
    second = np.isin(val.group, names[1::2])
    p_NK = np.empty(val.logits.shape)
    for half in (second, ~second):
        p_NK[half] = fit_scale(_only(val, ~half), calibration).probabilities(val.logits[half])
    return p_NK


def _only(answers: Answers, chosen: NDArray[np.bool_]) -> Answers:
    kept = {name: getattr(answers, name)[chosen] for name in ("logits", "truth", "weight", "group")}
    return replace(answers, **kept)


def _report(answers: Answers, after_NK: NDArray[np.float64], scale: Scale) -> PartReport:
    before_NK = softmax(answers.logits)

    def binned(p_NK: NDArray[np.float64], edges: NDArray[np.float64] | None = None) -> Reliability:
        return reliability(p_NK, answers.truth, answers.weight, edges)

    matrices = answers.matrices if scale.vector is None else _decided_again(answers, after_NK)
    adaptive = [binned(p_NK, equal_masses(p_NK)).error for p_NK in (before_NK, after_NK)]
    return PartReport(
        groups=len(matrices),
        intervals=score_intervals(matrices),
        before=binned(before_NK),
        after=binned(after_NK),
        adaptive=(adaptive[0], adaptive[1]),
    )


def _decided_again(answers: Answers, after_NK: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count labels after vector scaling, which may change them, on the items that were kept."""
    from training.intervals import confusions

    return confusions(answers.truth, after_NK.argmax(axis=1), answers.group, after_NK.shape[1])


def _familiarity(asker: Asker, lessons: Lessons) -> Familiarity:
    """Measure training features on drawn batches, held-out ones on the whole validation part."""
    with closing(cast("Generator[Batch, None, None]", lessons.batches())) as batches:
        whole = ((b, (slice(None), slice(None))) for b in itertools.islice(batches, _FEATURE_BATCHES))
        features_NF, truth_N = features_of(asker, whole, _FEATURE_ITEMS)
    held_out_NF, _ = features_of(asker, lessons.part(VAL), _FEATURE_ITEMS)
    return fit_familiarity(features_NF, truth_N, held_out_NF)
