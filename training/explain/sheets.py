"""From a result to a sheet: a figure, one sentence that says what is seen, and the numbers behind it.

Shape suffixes: N example, A head, S step, C band, K class, L layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from training.explain import figures
from training.explain.attention import Attention
from training.explain.attribution import Attribution
from training.explain.confidence import Confidence
from training.explain.hidden import Hidden
from training.explain.hiding import InSeason, Occlusion
from training.explain.permutation import Permutation
from training.explain.season import Season

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_MISSING = 0.05


@dataclass(frozen=True, eq=False)
class Legend:
    """What the axes of all results mean.

    Attributes:
        classes: In the network's order.
        bands: Names of the bands.
        season: Steps of the dates.
    """

    classes: ClassScheme
    bands: tuple[str, ...]
    season: Season


@dataclass(frozen=True, eq=False)
class Sheet:
    """One figure with what belongs to it.

    Attributes:
        name: Stem of its files.
        title: Heading.
        sentence: What it shows, and what is seen in it.
        table: The numbers behind it, one row a value or a few.
        draw: Draws the figure.
        facts: A few numbers of the whole.
    """

    name: str
    title: str
    sentence: str
    table: pd.DataFrame
    draw: Callable[[], Figure]
    facts: dict[str, Any] = field(default_factory=dict)


def permutation_sheet(found: Permutation, legend: Legend) -> Sheet:
    """Show what shuffling bands and dates costs."""
    names = legend.season.names if len(found.dates) else ()
    rows = [
        {"kind": kind, "name": name, "repeat": r, "accuracy_loss": accuracy[i, r], "f1_loss": f1[i, r]}
        for kind, told, accuracy, f1 in (
            ("band", legend.bands, found.bands, found.bands_f1),
            ("date", names, found.dates, found.dates_f1),
        )
        for i, name in enumerate(told)
        for r in range(accuracy.shape[1])
    ]
    seen = _cost("Of the bands", found.bands.mean(axis=1), legend.bands)
    if names:
        seen += f"; {_cost('of the dates', found.dates.mean(axis=1), names)}"
    return Sheet(
        "permutation",
        "Permutation importance",
        f"How much accuracy is lost when a band or a date comes from another example. {seen}.",
        pd.DataFrame(rows),
        partial(figures.draw_permutation, found, legend.bands, names),
        {"accuracy": found.whole.scores.accuracy, "mean_f1": found.whole.scores.mean_f1},
    )


def occlusion_sheet(found: Occlusion, legend: Legend, axis: str) -> Sheet:
    """Show what hiding dates (`axis` ``dates``) or bands (``bands``) costs."""
    names = legend.season.names if axis == "dates" else legend.bands
    rows = [
        {
            axis[:-1]: name,
            "accuracy_loss": found.accuracy[j],
            "f1_loss": found.f1[j],
            **{f"probability_loss {c}": found.probability[j, k] for k, c in enumerate(legend.classes.names)},
        }
        for j, name in enumerate(names)
    ]
    how = "is hidden, as under a cloud" if axis == "dates" else "is flattened to its mean"
    return Sheet(
        f"occlusion_{axis}",
        f"Occlusion of {axis}",
        f"How much is lost when a {axis[:-1]} {how}. {_cost('Of them', found.accuracy, names)}.",
        pd.DataFrame(rows),
        partial(figures.draw_occlusion, found, legend.classes, names, axis),
        {"accuracy": found.whole.scores.accuracy, "mean_f1": found.whole.scores.mean_f1},
    )


def season_sheet(found: InSeason, legend: Legend) -> Sheet:
    """Show what is known at each moment of the season."""
    names = legend.season.names
    table = pd.DataFrame({"last_date": names, "accuracy": found.accuracy, "mean_f1": found.f1})
    for k, name in enumerate(legend.classes.names):
        table[f"recall {name}"] = found.recall[:, k]
    reached = found.reached()
    return Sheet(
        "in_season",
        "In season",
        "Accuracy against the last date that is known. "
        f"95% of the final accuracy ({found.accuracy[-1]:.1%}) is held from {names[reached]} on; "
        f"always saying the most frequent class would give {found.chance:.1%}.",
        table,
        partial(figures.draw_in_season, found, legend.classes, names),
        {"final_accuracy": float(found.accuracy[-1]), "held_from": names[reached], "chance": found.chance},
    )


def attribution_sheet(found: Attribution, legend: Legend, kind: str) -> Sheet:
    """Show ``gradients`` or ``integrated`` gradients by class, band and date."""
    k = len(legend.classes.names)
    signed_KSC, strength_KSC = found.by_class(k), found.strength(k)
    whole_SC = figures.shares(strength_KSC)
    s, c = np.unravel_index(int(whole_SC.argmax()), whole_SC.shape)
    place = f"{legend.bands[c]} at {legend.season.names[s]}"
    if kind == "gradients":
        title, unit = "Input gradients", "log-odds per standard deviation"
        told = f"How a class's log-odds change when a band rises at a date. Strongest: {place}"
        facts: dict[str, Any] = {}
    else:
        title, unit = "Integrated gradients", "log-odds"
        told = "What each band of each date brings for the class, against an average pixel. "
        told += f"Strongest: {place}, {whole_SC[s, c]:.0%} of all"
        if found.worst_missing > _MISSING:
            told += (
                f"; the sum misses {found.worst_missing:.0%} of what the answer gains, so read it with care"
            )
        facts = {"missing_share_of_gain_median": found.worst_missing, "gain_mean": float(found.gain.mean())}
    return Sheet(
        kind,
        title,
        f"{told}.",
        _cells(legend, signed_KSC, strength_KSC),
        partial(figures.draw_attribution, (signed_KSC, strength_KSC), legend.classes, _axes(legend), unit),
        facts,
    )


def attention_sheet(found: Attention, legend: Legend) -> Sheet:
    """Show which dates are looked at for each class."""
    values_KAS = found.by_class(len(legend.classes.names))
    even_KS = _even(found, len(legend.classes.names))
    rows = [
        {"class": name, "head": a + 1, "date": step, "weight": values_KAS[k, a, s], "even": even_KS[k, s]}
        for k, name in enumerate(legend.classes.names)
        for a in range(values_KAS.shape[1])
        for s, step in enumerate(legend.season.names)
    ]
    mean_S = np.nanmean(values_KAS, axis=(0, 1))
    most = _largest(mean_S, legend.season.names)
    return Sheet(
        "attention",
        "Attention",
        "How much of its attention the network gives to each date, for each class and head. "
        f"Most goes to {most[0]}: {most[1]:.0%}, where looking at all alike would give "
        f"{float(np.nanmean(even_KS, axis=0)[int(mean_S.argmax())]):.0%}.",
        pd.DataFrame(rows),
        partial(figures.draw_attention, values_KAS, even_KS, legend.classes, legend.season.names),
    )


def confidence_sheet(found: Confidence, legend: Legend) -> Sheet:
    """Show how sure the network is of each class that it says, and how often it is right."""
    centres = (found.edges[:-1] + found.edges[1:]) / 2
    right, wrong = found.right.sum(axis=1), found.wrong.sum(axis=1)
    rows = [
        {
            "class": name,
            "from": found.edges[j],
            "to": found.edges[j + 1],
            "right": int(found.right[k, j]),
            "wrong": int(found.wrong[k, j]),
        }
        for k, name in enumerate(legend.classes.names)
        for j in range(len(centres))
    ]
    sure = float(((found.right + found.wrong) * centres).sum() / max(1, (right + wrong).sum()))
    accuracy = float(right.sum() / max(1, (right + wrong).sum()))
    return Sheet(
        "confidence",
        "Confidence",
        "How sure the network is of each class that it says, where it is right and where it is wrong. "
        f"It is {sure:.0%} sure on average, and right {accuracy:.0%} of the time.",
        pd.DataFrame(rows),
        partial(figures.draw_confidence, found, legend.classes),
        {"mean_confidence": sure, "accuracy": accuracy},
    )


def hidden_sheet(found: Hidden, legend: Legend, of_N: NDArray[np.int64], kind: str) -> Sheet:
    """Show hidden features over the ``season`` or the ``training``."""
    rows = []
    for j, picture in enumerate(found.names):
        for n, k in enumerate(of_N):
            row = {"picture": picture, "example": n, "class": legend.classes.names[k]}
            row |= {"pca_1": found.pca[j, n, 0], "pca_2": found.pca[j, n, 1]}
            if len(found.tsne):
                row |= {"tsne_1": found.tsne[j, n, 0], "tsne_2": found.tsne[j, n, 1]}
            rows.append(row)
    told = {
        "season": "Hidden features of the examples when nothing after a cut-off is known",
        "training": "Hidden features of the same examples as training went on",
    }[kind]
    agree = found.neighbours
    return Sheet(
        f"hidden_{kind}",
        f"Hidden features over the {kind}",
        f"{told}. Examples whose nearest others are mostly of their class: {agree[0]:.0%} at first "
        f"({found.names[0]}), {agree[-1]:.0%} at the end ({found.names[-1]}).",
        pd.DataFrame(rows),
        partial(figures.draw_hidden, found, legend.classes, of_N),
        {
            "pictures": [
                {
                    "name": name,
                    "accuracy": float(found.accuracy[j]),
                    "silhouette": float(found.silhouette[j]),
                    "nearest_agree": float(agree[j]),
                }
                for j, name in enumerate(found.names)
            ]
        },
    )


def _even(found: Attention, n_classes: int) -> NDArray[np.float64]:
    from training.explain.attribution import class_means

    return class_means(found.even, found.of, n_classes)


def _axes(legend: Legend) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return legend.bands, legend.season.names


def _cells(legend: Legend, signed_KSC: NDArray[Any], strength_KSC: NDArray[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "class": name,
                "date": step,
                "band": band,
                "mean": signed_KSC[k, s, c],
                "mean_absolute": strength_KSC[k, s, c],
            }
            for k, name in enumerate(legend.classes.names)
            for s, step in enumerate(legend.season.names)
            for c, band in enumerate(legend.bands)
        ]
    )


def _largest(values: NDArray[Any], names: tuple[str, ...]) -> tuple[str, float]:
    place = int(np.nanargmax(values))
    return names[place], float(values[place])


def _cost(which: str, losses: NDArray[Any], names: tuple[str, ...]) -> str:
    """Say what costs most accuracy, if anything does."""
    name, loss = _largest(losses, names)
    if loss < 0.0005:
        return f"{which} none costs any accuracy"
    return f"{which} {name} costs most: {100 * loss:.1f} points of accuracy"
