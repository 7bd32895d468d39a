"""What interpreters answered, as class values; whatever means no class is told row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.assessment.types import UNANSWERED
from engine.values.classes import ClassScheme
from engine.values.errors import InputError

EMPTY = ("", "nan", "none", "null", "<na>", "nat")
"""Cells without an answer, whatever their case."""


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers of points, in order.

    Attributes:
        values: (N,) int64 class values, 0 = no answer.
        unknown: What was written for points whose answer means no class, by id.
    """

    values: NDArray[np.int64]
    unknown: Mapping[str, str]

    def require_known(self, where: str, scheme: ClassScheme) -> None:
        """Refuse answers that mean no class.

        Raises:
            InputError: Naming the first rows and the classes there are.
        """
        if not self.unknown:
            return
        rows = [f"{text!r} (id {name})" for name, text in self.unknown.items()]
        raise InputError(
            f"{len(rows)} answer(s) mean no class",
            where=where,
            found=", ".join(rows[:10]) + (", ..." if len(rows) > 10 else ""),
            limit=", ".join(scheme.names),
            mend="mend the answers, add codes to the scheme (--classes), or take them as unanswered "
            "with --skip-unknown",
        )


def read_answers(ids: Sequence[str], cells: Sequence[Any], scheme: ClassScheme) -> Answered:
    """Read answers: names (whatever their case), source codes or values of the scheme.

    Args:
        ids: Of the points.
        cells: What was written; empty, NaN or None is no answer, 0 and ``no data`` too.
        scheme: The classes.

    >>> scheme = ClassScheme.from_names(["Crop", "Forest"])
    >>> found = read_answers(["a", "b", "c", "d"], ["crop", 2.0, None, "lake"], scheme)
    >>> found.values.tolist(), dict(found.unknown)
    ([1, 2, 0, 0], {'d': 'lake'})
    """
    table = {_key(text): value for text, value in scheme.lookup().items()}
    table.setdefault("0", UNANSWERED)
    table.setdefault("no data", UNANSWERED)
    values, unknown = np.zeros(len(cells), np.int64), {}
    for i, (name, cell) in enumerate(zip(ids, cells, strict=True)):
        key = _key(cell)
        if key in EMPTY:
            continue
        if key in table:
            values[i] = table[key]
        else:
            unknown[str(name)] = str(cell)
    return Answered(values, unknown)


def _key(cell: Any) -> str:
    """Write an answer in one way: 3, 3.0 and "3 " alike, names without case and doubled spaces."""
    if isinstance(cell, float | np.floating) and np.isfinite(cell) and float(cell).is_integer():
        cell = int(cell)
    text = " ".join(str(cell).replace("_", " ").split()).casefold()
    head, _, tail = text.partition(".")
    return head if tail and not tail.strip("0") and head.lstrip("-").isdigit() else text
