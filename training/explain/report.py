"""Sheets in a folder: a picture and its numbers each, and one page that shows all."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.explain.sheets import Sheet

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2327; max-width: 74rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 0.2rem; }
img { max-width: 100%; height: auto; } p { margin: 0.3rem 0 0.8rem; } a { color: #2f6f73; }
table { border-collapse: collapse; font-size: 0.9rem; } td { padding: 0.1rem 1.2rem 0.1rem 0; vertical-align: top; }
td:first-child, .small { color: #66727a; } .small { font-size: 0.85rem; }
"""


def write_sheet(folder: Path, sheet: Sheet) -> list[Path]:
    """Write a sheet's picture (PNG) and numbers (CSV), and return both paths."""
    folder.mkdir(parents=True, exist_ok=True)
    picture, numbers = folder / f"{sheet.name}.png", folder / f"{sheet.name}.csv"
    sheet.draw().savefig(picture, facecolor="white")
    sheet.table.to_csv(numbers, index=False, float_format="%.6g")
    return [picture, numbers]


def write_index(
    folder: Path, about: dict[str, Any], sheets: Sequence[Sheet], not_made: dict[str, str]
) -> list[Path]:
    """Write ``index.html`` that shows the sheets, and ``explain.json`` with what is known of all of them.

    Args:
        folder: Where the sheets were written.
        about: What was explained: facts in the order in which they are told.
        sheets: In the order of the page.
        not_made: Sheets that this network or these data do not allow, and why.
    """
    name = html.escape(str(about.get("model", "model")))
    rows = "".join(
        f"<tr><td>{html.escape(k)}</td><td>{html.escape(str(v))}</td></tr>" for k, v in about.items()
    )
    parts = [_section(sheet) for sheet in sheets]
    if not_made:
        missing = "".join(f"<li>{html.escape(k)}: {html.escape(v)}</li>" for k, v in not_made.items())
        parts.append(f"<h2>Not made</h2><ul>{missing}</ul>")
    page = (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        f"<title>{name}, explained</title><style>{_STYLE}</style></head>\n<body>"
        f"<h1>{name}, explained</h1><table>{rows}</table>\n{''.join(parts)}</body></html>\n"
    )
    told = {
        "about": {k: str(v) if isinstance(v, Path) else v for k, v in about.items()},
        "sheets": {s.name: {"title": s.title, "sentence": s.sentence, **s.facts} for s in sheets},
        "not_made": not_made,
    }
    index, facts = folder / "index.html", folder / "explain.json"
    index.write_text(page, encoding="utf-8")
    facts.write_text(json.dumps(_plain(told), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return [index, facts]


def _section(sheet: Sheet) -> str:
    return (
        f"<h2 id='{sheet.name}'>{html.escape(sheet.title)}</h2><p>{html.escape(sheet.sentence)}</p>"
        f"<a href='{sheet.name}.png'><img src='{sheet.name}.png' alt='{html.escape(sheet.title)}'></a>"
        f"<p class='small'>numbers: <a href='{sheet.name}.csv'>{sheet.name}.csv</a></p>\n"
    )


def _plain(value: Any) -> Any:
    """Replace what JSON cannot say: a number that is not known is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
