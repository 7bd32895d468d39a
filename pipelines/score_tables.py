"""Score a table of predictions against a table of truth, joined by id.

::

    truth.csv            predictions.csv                        one class an item
    id,label             id,label                               names, codes or values of the scheme
    7,wheat              7,maize                                or one column of probability a class

    id,wheat,maize       id,wheat,maize                         several classes an item (--multilabel):
    7,1,0                7,0.91,0.12                            0/1 or `wheat;rye` against probabilities
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.assessment.confusion import Scores
from engine.assessment.confusion import kappa as kappa_of
from engine.assessment.figures import Mark, draw_accuracies, draw_confusion
from engine.assessment.multilabel import (
    HALF,
    OVERALL,
    PER_CLASS,
    Answers,
    MultiLabel,
    choose_thresholds,
    percentiles,
    redraw,
)
from engine.assessment.sheets import Sheet, figure, matrix_sheet
from engine.values.errors import InputError
from pipelines.assess_view import rounded, write_json, write_markdown
from pipelines.table_files import Columns, Pair, read_pair, read_thresholds

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "landweave/table-scores/1"

Listener = Callable[[int, int, str], None]


class TableOptions(BaseModel):
    """How a table of predictions is scored."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(default="id", description="Column that joins both tables.")
    label: str = Field(default="label", description="Column with the class.")
    classes: str | None = Field(
        default=None, description="Class scheme (YAML); default the classes of the truth."
    )
    multilabel: bool = Field(default=False, description="An item may have several classes.")
    threshold: float = Field(
        default=HALF, ge=0, le=1, description="A class is said from this probability on."
    )
    thresholds: str | None = Field(default=None, description="JSON or YAML: threshold of each class.")
    validation: tuple[str, str] | None = Field(
        default=None, description="Truth and predictions on which thresholds are chosen; never those scored."
    )
    cluster: str | None = Field(
        default=None, description="Column of the truth: what belongs together and is drawn together."
    )
    common_only: bool = Field(default=False, description="Leave out items without a prediction.")
    replicates: int = Field(
        default=1000, ge=0, le=100_000, description="Of the bootstrap; 0 gives no intervals."
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="Of the intervals.")
    seed: int = Field(default=0, description="Of the bootstrap.")
    kappa: bool = Field(default=False, description="Also Cohen's kappa (one class an item).")

    @model_validator(mode="after")
    def _one_way(self) -> TableOptions:
        chosen = [self.thresholds is not None, self.validation is not None, self.threshold != HALF]
        if sum(chosen) > 1:
            raise ValueError("give one of threshold, thresholds and validation")
        if not self.multilabel and any(chosen):
            raise ValueError("thresholds are for several classes an item: multilabel")
        return self

    @property
    def columns(self) -> Columns:
        """What the tables' columns mean."""
        return Columns(self.id, self.label, self.classes, self.multilabel, self.common_only)


@dataclass(frozen=True, eq=False)
class TableScores:
    """What was found.

    Attributes:
        told: All figures, as in the JSON.
        sheets: Tables.
        facts: Lines about the whole.
        files: What was written.
    """

    told: dict[str, Any]
    sheets: tuple[Sheet, ...]
    facts: tuple[str, ...]
    files: tuple[Path, ...] = ()


def score_tables(
    truth: str | Path,
    predictions: str | Path,
    options: TableOptions,
    out: Path | None = None,
    listener: Listener | None = None,
) -> TableScores:
    """Score predictions against truth, with intervals by the bootstrap over items or clusters.

    Args:
        truth: CSV (also compressed) or Parquet.
        predictions: CSV or Parquet.
        options: What columns mean, thresholds, intervals.
        out: Folder for JSON, Markdown and figures; None writes nothing.
        listener: Gets done and total replicates.

    Raises:
        InputError: If a table lacks columns, names an id twice, an item has no prediction, a class is not
            known, or thresholds would be chosen on items that are scored.
    """
    pair = read_pair(truth, predictions, options.columns)
    groups = _groups(pair.truth, options)
    found = (
        _several(pair, groups, options, listener)
        if options.multilabel
        else _one(pair, groups, options, listener)
    )
    if out is None:
        return found
    out.mkdir(parents=True, exist_ok=True)
    files = [
        write_json(out / "scores.json", found.told),
        write_markdown(out / "scores.md", "Scores of a table", found.facts, found.sheets),
        *_drawn(found.told, out),
    ]
    return TableScores(found.told, found.sheets, found.facts, tuple(files))


def _groups(truth: pd.DataFrame, options: TableOptions) -> NDArray[Any]:
    if options.cluster is None:
        return np.arange(len(truth))
    if options.cluster not in truth:
        raise InputError(
            "the truth has no such column",
            where="--cluster",
            found=options.cluster,
            limit=", ".join(map(str, truth)),
        )
    if truth[options.cluster].isna().any():
        raise InputError(
            "items without a cluster",
            where=options.cluster,
            found=int(truth[options.cluster].isna().sum()),
            limit=0,
        )
    return truth[options.cluster].astype(str).to_numpy()


def _intervals(
    figures: Callable[[NDArray[Any] | None], NDArray[Any]],
    groups: NDArray[Any],
    options: TableOptions,
    listener: Listener | None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return figures and both ends of their intervals."""
    values, drawn = figures(None), []
    for weights in redraw(groups, options.replicates, options.seed):
        drawn.append(figures(weights))
        if listener is not None and (len(drawn) % 20 == 0 or len(drawn) == options.replicates):
            listener(len(drawn), options.replicates, "")
    if not drawn:
        nothing = np.full_like(values, np.nan)
        return values, nothing, nothing
    return values, *percentiles(drawn, options.confidence)


_ONE_OVERALL = ("accuracy", "macro_f1", "macro_iou")
_ONE_PER_CLASS = ("users_accuracy", "producers_accuracy", "f1", "iou")


def _one(pair: Pair, groups: NDArray[Any], options: TableOptions, listener: Listener | None) -> TableScores:
    """Score one class an item."""
    k = len(pair.names)
    truth, said = pair.truth_indices(), pair.said_indices()
    cell = truth * k + said

    def matrix(weights: NDArray[Any] | None) -> NDArray[np.int64]:
        return np.bincount(cell, weights, minlength=k * k).reshape(k, k).astype(np.int64)

    def figures(weights: NDArray[Any] | None) -> NDArray[Any]:
        scores = Scores.of(matrix(weights))
        own = (scores.precision, scores.recall, scores.f1, scores.iou)
        return np.concatenate([[scores.accuracy, scores.mean_f1, scores.mean_iou], np.ravel(own)])

    values, low, high = _intervals(figures, groups, options, listener)
    counts = matrix(None)
    told = _head(pair, groups, options, "one")
    told["overall"] = {n: _told(values[i], low[i], high[i]) for i, n in enumerate(_ONE_OVERALL)}
    if options.kappa:
        told["overall"]["kappa"] = {"value": rounded(kappa_of(counts))}
    told["per_class"] = _per_class(
        pair.names, _ONE_PER_CLASS, *(v[3:].reshape(4, k) for v in (values, low, high))
    )
    for i, name in enumerate(pair.names):
        told["per_class"][name] |= {"truth": int(counts[i].sum()), "predicted": int(counts[:, i].sum())}
    told["matrix"] = {"rows": "predicted", "columns": "truth", "items": counts.T.tolist()}
    sheets = (
        matrix_sheet("Items", pair.names, counts.T.tolist(), "predicted \\ truth"),
        _class_sheet(told, _ONE_PER_CLASS),
        _overall_sheet(told),
    )
    return TableScores(told, sheets, _facts(told))


def _several(
    pair: Pair, groups: NDArray[Any], options: TableOptions, listener: Listener | None
) -> TableScores:
    """Score several classes an item."""
    answers = Answers(pair.truth_matrix(), pair.score_matrix())
    thresholds, source = _thresholds(pair, options)
    scorer, k = MultiLabel(answers, thresholds), len(pair.names)

    def figures(weights: NDArray[Any] | None) -> NDArray[Any]:
        by_class, overall = scorer.figures(weights)
        return np.concatenate([overall, by_class.ravel()])

    values, low, high = _intervals(figures, groups, options, listener)
    n = len(OVERALL)
    told = _head(pair, groups, options, "several")
    told["thresholds"] = {
        "source": source,
        **dict(zip(pair.names, map(rounded, thresholds.tolist()), strict=True)),
    }
    told["overall"] = {name: _told(values[i], low[i], high[i]) for i, name in enumerate(OVERALL)}
    shaped = (v[n:].reshape(len(PER_CLASS), k) for v in (values, low, high))
    told["per_class"] = _per_class(pair.names, PER_CLASS, *shaped)
    hit, false, missed, none = scorer.counts(np.ones(len(answers.truth)))
    for i, name in enumerate(pair.names):
        cells = {"tp": hit[i], "fp": false[i], "fn": missed[i], "tn": none[i]}
        told["per_class"][name] |= {
            "threshold": rounded(thresholds[i]),
            **{c: int(v) for c, v in cells.items()},
        }
    return TableScores(told, (_class_sheet(told, PER_CLASS), _overall_sheet(told)), _facts(told))


def _thresholds(pair: Pair, options: TableOptions) -> tuple[NDArray[np.float64], str]:
    """Return the threshold of each class and where it comes from."""
    if options.thresholds is not None:
        return read_thresholds(options.thresholds, pair.names), f"given in {options.thresholds}"
    if options.validation is None:
        return np.full(len(pair.names), options.threshold), f"{options.threshold:g} for all classes"
    other = read_pair(*options.validation, options.columns, names=pair.names)
    shared = set(other.ids) & set(pair.ids)
    if shared:
        raise InputError(
            "thresholds must not be chosen on items that are scored",
            where="--validation",
            found=f"{len(shared)} shared ids: {', '.join(sorted(shared)[:5])}",
            limit="none",
            mend="choose them on other items, or give ids that tell them apart",
        )
    chosen = choose_thresholds(Answers(other.truth_matrix(), other.score_matrix()))
    return chosen, f"highest F1 on the {len(other.ids)} items of {Path(options.validation[0]).name}"


def _head(pair: Pair, groups: NDArray[Any], options: TableOptions, kind: str) -> dict[str, Any]:
    clusters = len(set(groups.tolist()))
    return {
        "schema": SCHEMA,
        "kind": kind,
        "classes": list(pair.names),
        "items": len(pair.ids),
        "without_prediction": pair.missing,
        "without_truth": pair.extra,
        "intervals": {
            "method": f"bootstrap over {options.cluster or 'items'}, percentiles",
            "confidence": options.confidence,
            "replicates": options.replicates,
            "clusters": clusters,
            "seed": options.seed,
        },
    }


def _told(value: Any, low: Any, high: Any) -> dict[str, float | None]:
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high)}


def _per_class(
    names: tuple[str, ...],
    figures: tuple[str, ...],
    values: NDArray[Any],
    low: NDArray[Any],
    high: NDArray[Any],
) -> dict[str, dict[str, Any]]:
    return {
        name: {f: _told(values[i, k], low[i, k], high[i, k]) for i, f in enumerate(figures)}
        for k, name in enumerate(names)
    }


def _with_ends(told: dict[str, float | None]) -> str:
    text = figure(told["value"])
    if told.get("low") is None or told.get("high") is None:
        return text
    return f"{text} ({figure(told['low'])}-{figure(told['high'])})"


def _class_sheet(told: dict[str, Any], figures: tuple[str, ...]) -> Sheet:
    short = {
        "users_accuracy": "user's",
        "producers_accuracy": "producer's",
        "average_precision": "avg. precision",
    }
    count = "truth" if told["kind"] == "one" else "tp"
    rows = []
    for name, own in told["per_class"].items():
        items = own[count] + (own["fn"] if count == "tp" else 0)
        rows.append((name, f"{items:,}", *(_with_ends(own[f]) for f in figures)))
    heads = ("class", "items", *(short.get(f, f.replace("_", " ")) for f in figures))
    return Sheet("Classes", heads, tuple(rows), _method(told))


def _method(told: dict[str, Any]) -> str:
    if not told["intervals"]["replicates"]:
        return ""
    return (
        f"In brackets: {told['intervals']['method']}; without, no draw differs and the interval is not known."
    )


def _overall_sheet(told: dict[str, Any]) -> Sheet:
    rows = tuple((name.replace("_", " "), _with_ends(own)) for name, own in told["overall"].items())
    return Sheet("Overall", ("figure", "value"), rows)


_FEW_CLUSTERS = 20


def _facts(told: dict[str, Any]) -> tuple[str, ...]:
    lines = [f"{told['items']:,} items, {len(told['classes'])} classes"]
    if told["without_prediction"]:
        lines.append(f"left out without a prediction: {told['without_prediction']:,} items")
    if told["without_truth"]:
        lines.append(f"predictions without truth, not scored: {told['without_truth']:,}")
    if "thresholds" in told:
        lines.append(f"thresholds: {told['thresholds']['source']}")
    if told["intervals"]["replicates"] and told["intervals"]["clusters"] < _FEW_CLUSTERS:
        lines.append(f"only {told['intervals']['clusters']} clusters: the intervals are likely too narrow")
    return tuple(lines)


def _drawn(told: dict[str, Any], out: Path) -> list[Path]:
    names = told["classes"]
    first, second = (
        ("users_accuracy", "producers_accuracy") if told["kind"] == "one" else ("precision", "recall")
    )
    users, producers = ([Mark(**told["per_class"][n][f]) for n in names] for f in (first, second))
    labels = (first.replace("_", " "), second.replace("_", " "))
    files = [draw_accuracies(out / "classes.png", names, users, producers, "Accuracy of each class", labels)]
    if told["kind"] == "one":
        matrix = np.array(told["matrix"]["items"])
        title = f"accuracy {told['overall']['accuracy']['value']:.1%} (numbers: percent of the row)"
        files.append(
            draw_confusion(out / "matrix.png", names, matrix, rows="predicted", columns="truth", title=title)
        )
    return files
