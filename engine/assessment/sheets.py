"""Tables of results: one value, written as Markdown, CSV, or shown on a console by whoever has one."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass


@dataclass(frozen=True)
class Sheet:
    """A table of results, as text.

    Attributes:
        title: What it shows.
        columns: Headings; the first column names the rows.
        rows: Cells, as many as headings.
        note: What a reader must know.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """Return it as Markdown, numbers to the right.

        >>> print(Sheet("Classes", ("class", "F1"), (("maize", "0.9"),)).markdown())
        ### Classes
        <BLANKLINE>
        | class | F1 |
        | --- | ---: |
        | maize | 0.9 |
        """
        rules = ["---", *["---:"] * (len(self.columns) - 1)]
        lines = [self.columns, tuple(rules), *self.rows]
        text = "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )
        return f"### {self.title}\n\n{text}" + (f"\n\n{self.note}" if self.note else "")

    def csv(self) -> str:
        """Return it as CSV with a header."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.rows)
        return out.getvalue()


def figure(value: float | None, digits: int = 3) -> str:
    """Write a figure, ``-`` where there is none.

    >>> figure(0.91234), figure(float("nan")), figure(None)
    ('0.912', '-', '-')
    """
    return "-" if value is None or value != value else f"{value:,.{digits}f}"


def matrix_sheet(
    title: str, names: tuple[str, ...], matrix: list[list[float]], corner: str, digits: int = 0
) -> Sheet:
    r"""Return a matrix of classes with its sums; rows and columns without anything are left out.

    Args:
        title: What it shows.
        names: Of rows and columns.
        matrix: (K, K).
        corner: What rows and columns are: ``map \ reference``.
        digits: Behind the point.
    """
    used = [k for k in range(len(names)) if any(matrix[k]) or any(row[k] for row in matrix)]
    rows = [
        (
            names[k],
            *(figure(matrix[k][j], digits) for j in used),
            figure(sum(matrix[k][j] for j in used), digits),
        )
        for k in used
    ]
    sums = [sum(matrix[k][j] for k in used) for j in used]
    total = ("total", *(figure(s, digits) for s in sums), figure(sum(sums), digits))
    return Sheet(title, (corner, *(names[j] for j in used), "total"), (*rows, total))
