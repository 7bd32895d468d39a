"""Tables of truth and of predictions as files: read, checked, joined by id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from training.label_sources import key_of

if TYPE_CHECKING:
    import pandas as pd

_SEPARATORS = r"[;|,]"


@dataclass(frozen=True)
class Columns:
    """What the columns of both tables mean.

    Attributes:
        id: Column that joins them.
        label: Column with the class, or with several of them (``wheat;rye``).
        classes: YAML of the class scheme, or None.
        several: Whether an item may have several classes.
        common_only: Leave out items without a prediction instead of an error.
    """

    id: str
    label: str
    classes: str | None
    several: bool
    common_only: bool


@dataclass(frozen=True, eq=False)
class Pair:
    """Truth and predictions of the same items in the same order.

    Attributes:
        names: Of the classes.
        lookup: What each name, code or value means: number of the class.
        ids: Of the items.
        truth: Table of truth.
        said: Table of predictions.
        label: Column with the class.
        missing: Items of the truth without a prediction, left out.
        extra: Predictions without truth.
    """

    names: tuple[str, ...]
    lookup: dict[str, int]
    ids: tuple[str, ...]
    truth: pd.DataFrame
    said: pd.DataFrame
    label: str
    missing: int
    extra: int

    def truth_indices(self) -> NDArray[np.int64]:
        """Return the class of each item, (N,)."""
        return self._indices(self.truth, "truth")

    def said_indices(self) -> NDArray[np.int64]:
        """Return the predicted class of each item, (N,): the label, or the likeliest; ties to the first class."""
        if self.label in self.said:
            return self._indices(self.said, "predictions")
        return np.argmax(self.score_matrix(), axis=1)

    def truth_matrix(self) -> NDArray[np.bool_]:
        """Return which classes each item has, (N, K) bool."""
        if self.label in self.truth:
            return self._listed()
        values = _numbers(self.truth, self.names, "truth")
        if not np.isin(values, (0.0, 1.0)).all():
            raise InputError(
                "truth must be 0 or 1", where="truth", found=float(values[~np.isin(values, (0, 1))][0])
            )
        return values == 1

    def score_matrix(self) -> NDArray[np.float64]:
        """Return the probability of each class for each item, (N, K) float64."""
        values = _numbers(self.said, self.names, "predictions")
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise InputError(
                "a probability lies outside 0..1",
                where="predictions",
                found=f"{values.min():g} to {values.max():g}",
                mend="give probabilities, not logits",
            )
        return values

    def _listed(self) -> NDArray[np.bool_]:
        """Read lists of classes; an empty cell is an item with none."""
        out = np.zeros((len(self.truth), len(self.names)), np.bool_)
        cells = self.truth[self.label].fillna("").astype(str).str.split(_SEPARATORS, regex=True)
        unknown: dict[str, int] = {}
        for row, parts in enumerate(cells):
            for part in (p.strip() for p in parts if p.strip()):
                if part in self.lookup:
                    out[row, self.lookup[part]] = True
                else:
                    unknown.setdefault(part, row)
        self._refuse(unknown, "truth")
        return out

    def _indices(self, frame: pd.DataFrame, where: str) -> NDArray[np.int64]:
        if self.label not in frame:
            raise InputError(
                "the table has no such column",
                where=where,
                found=self.label,
                limit=", ".join(map(str, frame)),
            )
        keys = [key_of(value) for value in frame[self.label]]
        found = np.array([self.lookup.get(key, -1) for key in keys], np.int64)
        self._refuse({keys[row]: int(row) for row in np.flatnonzero(found < 0)[::-1]}, where)
        return found

    def _refuse(self, unknown: dict[str, int], where: str) -> None:
        if unknown:
            rows = sorted(unknown.items(), key=lambda pair: pair[1])[:10]
            raise InputError(
                f"{len(unknown)} unknown class(es)",
                where=where,
                found=", ".join(f"{name!r} (id {self.ids[row]})" for name, row in rows),
                limit=", ".join(self.names),
                mend="mend the table, or name it as a code in the class scheme",
            )


def read_pair(
    truth: str | Path, predictions: str | Path, columns: Columns, names: Sequence[str] | None = None
) -> Pair:
    """Read and join two tables.

    Args:
        truth: CSV or Parquet.
        predictions: CSV or Parquet.
        columns: What their columns mean.
        names: Classes, where they are known already.

    Raises:
        InputError: If a file cannot be read, lacks the id, names one twice, or items have no prediction.
    """
    left, right = _read(truth, columns.id), _read(predictions, columns.id)
    kept = left.index.isin(right.index)
    if not kept.all() and not columns.common_only:
        missing = left.index[~kept]
        raise InputError(
            "items of the truth have no prediction",
            where=str(predictions),
            found=f"{len(missing)} of {len(left)}: {', '.join(missing[:5])}",
            mend="predict them, or leave them out with --common-only",
        )
    if not kept.any():
        raise InputError(
            "no item is in both tables", where=columns.id, found=str(predictions), limit=str(truth)
        )
    both = left[kept]
    said = right.loc[both.index]
    known, lookup = _classes(both, said, columns, names)
    extra = len(right) - len(both)
    return Pair(known, lookup, tuple(both.index), both, said, columns.label, int((~kept).sum()), extra)


def read_thresholds(path: str, names: Sequence[str]) -> NDArray[np.float64]:
    """Read thresholds from JSON or YAML: class to number; also the JSON that a scoring wrote.

    Raises:
        InputError: If the file is missing, or a class has no number in 0..1.
    """
    try:
        told = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("cannot read the thresholds", where=path, mend=str(error)) from error
    except yaml.YAMLError as error:
        raise InputError("the thresholds are neither JSON nor YAML", where=path, found=str(error)) from error
    table = told.get("thresholds", told) if isinstance(told, dict) else {}
    wrong = [n for n in names if not isinstance(table.get(n), int | float) or not 0 <= table[n] <= 1]
    if wrong:
        raise InputError(
            "classes without a threshold in 0..1",
            where=path,
            found=", ".join(wrong),
            limit=json.dumps(list(table)),
        )
    return np.array([float(table[n]) for n in names])


def _read(path: str | Path, column: str) -> pd.DataFrame:
    """Read a table, indexed by its ids as text."""
    import pandas as pd

    path = Path(path)
    if not path.exists():
        raise InputError("no such file", where=str(path), mend="give a CSV or Parquet file")
    try:
        frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
    except Exception as error:  # Arrow and pandas raise many kinds
        raise InputError("cannot read the table", where=str(path), found=str(error)) from error
    if column not in frame:
        raise InputError(
            "the table has no column of ids",
            where=str(path),
            found=", ".join(map(str, frame)),
            limit=column,
            mend="give --id",
        )
    ids = frame[column].map(key_of)
    if (twice := ids[ids.duplicated()]).size:
        raise InputError(
            "an id is there more than once",
            where=str(path),
            found=f"{twice.nunique()} ids: {', '.join(twice.unique()[:5])}",
            limit="once",
        )
    return frame.set_index(pd.Index(ids, name=None))


def _classes(
    truth: pd.DataFrame, said: pd.DataFrame, columns: Columns, names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Return the classes, and what each name, code or value means."""
    if names is not None:
        return tuple(names), {name: i for i, name in enumerate(names)}
    if columns.classes is not None:
        scheme = ClassScheme.from_file(columns.classes)
        place = {value: i for i, value in enumerate(scheme.values)}
        return scheme.names, {key: place[value] for key, value in scheme.lookup().items()}
    if columns.several and columns.label not in truth:
        found = [str(c) for c in said if c in truth and c != columns.id and _is_numeric(said[c])]
    elif columns.label in truth:
        found = _labels(truth, columns)
        if columns.label in said and not columns.several:
            found = sorted({*found, *_labels(said, columns)}, key=_natural)
    else:
        found = []
    if not found:
        raise InputError(
            "no classes found",
            where="truth",
            found=", ".join(map(str, truth)),
            limit=f"a column {columns.label!r}, or one column a class in both tables",
            mend="give --label or --classes",
        )
    return tuple(found), {name: i for i, name in enumerate(found)}


def _labels(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """Return the classes that a column names, in their natural order."""
    cells = frame[columns.label]
    if columns.several:
        cells = cells.fillna("").astype(str).str.split(_SEPARATORS, regex=True).explode().str.strip()
        return sorted({c for c in cells if c}, key=_natural)
    if cells.isna().any():
        raise InputError("items without a class", where=columns.label, found=int(cells.isna().sum()), limit=0)
    return sorted({key_of(c) for c in cells}, key=_natural)


def _natural(name: str) -> tuple[bool, float, str]:
    """Order numbers by size, before texts."""
    number = name.lstrip("-").replace(".", "", 1).isdigit()
    return not number, float(name) if number else 0.0, name


def _is_numeric(values: Any) -> bool:
    return bool(np.issubdtype(values.dtype, np.number) or values.dtype == bool)


def _numbers(frame: pd.DataFrame, names: Sequence[str], where: str) -> NDArray[np.float64]:
    missing = [n for n in names if n not in frame]
    if missing:
        raise InputError(
            "the table lacks a column for each class",
            where=where,
            found=", ".join(map(str, frame)),
            limit=", ".join(missing),
        )
    try:
        values = frame[list(names)].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError("a column of a class holds no numbers", where=where, found=str(error)) from error
    if np.isnan(values).any():
        raise InputError(
            "empty cells among the classes", where=where, found=int(np.isnan(values).sum()), limit=0
        )
    return values
