"""How results of an assessment are shown and written: tables on the console, Markdown, CSV."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.assessment.sheets import Sheet
from engine.products.styles import write_text


def show_sheets(sheets: Sequence[Sheet]) -> None:
    """Print tables; one that a terminal is too narrow for is named instead, a file takes any width."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=max(console.width, *map(_width, sheets)))
    for sheet in sheets:
        if _width(sheet) > max(console.width, _NARROW):
            console.print(f"{sheet.title}: too wide to show here, see what is written\n", markup=False)
            continue
        table = Table(title=sheet.title, title_justify="left", box=None, pad_edge=False, title_style="bold")
        for i, column in enumerate(sheet.columns):
            table.add_column(column, justify="right" if i else "left", no_wrap=i == 0, overflow="fold")
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table, markup=False)
        if sheet.note:
            console.print(sheet.note, markup=False, highlight=False)
        console.print()


_NARROW = 100  # up to this cells are folded


def _width(sheet: Sheet) -> int:
    columns = zip(sheet.columns, *sheet.rows, strict=True)
    return sum(max(map(len, cells)) + 2 for cells in columns)


def write_markdown(path: Path, title: str, lines: Sequence[str], sheets: Sequence[Sheet]) -> Path:
    """Write a page with facts and tables."""
    facts = "\n".join(f"- {line}" for line in lines)
    text = "\n\n".join([f"# {title}", facts, *(sheet.markdown() for sheet in sheets)])
    return write_text(path, text + "\n")


def write_json(path: Path, told: dict[str, Any]) -> Path:
    """Write results as JSON; NaN is null."""
    return write_text(path, json.dumps(told, indent=1, allow_nan=False, default=str) + "\n")


def rounded(value: float | None, digits: int = 6) -> float | None:
    """Return a number for JSON: None for none or NaN.

    >>> rounded(0.123456789), rounded(float("nan"))
    (0.123457, None)
    """
    return None if value is None or value != value else round(float(value), digits)
