"""The command that measures a map."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None)


@app.command()
def area(  # noqa: PLR0913  # typer reads the options from the signature
    source: Annotated[str, typer.Argument(help="Run folder, map store (.zarr) or raster file of classes.")],
    zones: Annotated[
        Path | None, typer.Option(help="Vector file of units, any CRS; without it the whole map alone.")
    ] = None,
    name_column: Annotated[str | None, typer.Option(help="Column with the units' names.")] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the file; default the first.")] = None,
    where: Annotated[str | None, typer.Option(help="Which features: SQL, as \"admin = 'Slovenia'\".")] = None,
    dissolve: Annotated[
        bool, typer.Option("--dissolve", help="Join features of one name into one unit.")
    ] = False,
    assessment: Annotated[
        Path | None,
        typer.Option(help="assessment.json of `landweave assess run`: adjusted areas, intervals."),
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Class scheme (YAML) of a raster file.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Which map of a run: map or refined; default the refined one.")
    ] = None,
    fewest: Annotated[
        int, typer.Option(min=2, help="Points from which on a unit is estimated by its own points too.")
    ] = 30,
    out: Annotated[Path, typer.Option(help="Folder for CSV, JSON, GeoParquet, Markdown, charts.")] = Path(
        "areas"
    ),
    workers: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Measure hectares of each class in each unit: true area, border pixels by the part that lies inside.

    With an assessment each area is put right by the sample, with an interval, and what counting pixels says too much
    is shown next to it.
    """
    from pipelines.assess_view import show_sheets
    from pipelines.config import parse_config
    from pipelines.console import steps_progress
    from pipelines.measure_area import AreaOptions, measure_area

    asked = {
        "zones": zones,
        "name_column": name_column,
        "layer": layer,
        "where": where,
        "dissolve": dissolve,
        "assessment": assessment,
        "classes": None if classes is None else str(classes),
        "store": store,
        "fewest": fewest,
        "workers": workers,
    }
    options = parse_config(asked, "landweave area", AreaOptions)
    with steps_progress("area", "blocks") as show:
        found = measure_area(source, out, options, show)
    if as_json:
        typer.echo(json.dumps(found.report.as_json(), indent=2))
        return
    show_sheets(found.sheets)
    for line in found.lines():
        typer.echo(line)
