"""Commands that say how right a map is: design a sample, judge it, compare maps, score tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None,
    help="Accuracy of a map: sampling design, estimates, agreement.",
    no_args_is_help=True,
)

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Regions = Annotated[Path | None, typer.Option(help="Vector file of regions to tell apart.")]
RegionColumn = Annotated[str | None, typer.Option(help="Column with the regions' names.")]
Kappa = Annotated[bool, typer.Option("--kappa", help="Also Cohen's kappa, for those who need it.")]


@app.command()
def agree(  # noqa: PLR0913  # typer reads the options from the signature
    first: Annotated[
        str, typer.Argument(help="Run folder, map store (.zarr) or raster file: what is judged.")
    ],
    second: Annotated[str, typer.Argument(help="The other map, or a raster of truth; on any grid.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the map of errors.")] = Path(
        "agreement"
    ),
    first_classes: Annotated[Path | None, typer.Option(help="Class scheme (YAML) of the first map.")] = None,
    second_classes: Annotated[
        Path | None, typer.Option(help="Class scheme (YAML) of the second map.")
    ] = None,
    legend: Annotated[
        Path | None, typer.Option(help="YAML with first: {class: common} and second: {class: common}.")
    ] = None,
    broader: Annotated[bool, typer.Option("--broader", help="Compare the classes' parents.")] = False,
    regions: Regions = None,
    region_column: RegionColumn = None,
    errors: Annotated[
        str,
        typer.Option(
            help="Map of errors: agreement; or first, second: the class of that map where both differ; or none."
        ),
    ] = "agreement",
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Compare two maps pixel by pixel: matrix, figures per class and region, and a map of errors."""
    from pipelines.agree_maps import AgreeOptions
    from pipelines.agree_maps import agree as run
    from pipelines.assess_view import show_sheets
    from pipelines.config import parse_config
    from pipelines.console import steps_progress

    asked = {
        "first_classes": _text(first_classes),
        "second_classes": _text(second_classes),
        "legend": _text(legend),
        "broader": broader,
        "regions": _text(regions),
        "region_column": region_column,
        "errors": None if errors == "none" else errors,
        "kappa": kappa,
    }
    options = parse_config(asked, "landweave assess agree", AgreeOptions)
    with steps_progress("agree", "blocks") as show:
        found = run(first, second, out, options, show)
    if as_json:
        typer.echo(json.dumps(found.told, indent=2))
        return
    show_sheets(found.sheets)
    for line in (*found.facts, *(f"wrote {path}" for path in found.files)):
        typer.echo(line)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


@app.command()
def table(  # noqa: PLR0913  # typer reads the options from the signature
    truth: Annotated[Path, typer.Argument(help="CSV or Parquet of truth.")],
    predictions: Annotated[
        Path, typer.Argument(help="CSV or Parquet of labels, or of one probability a class.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for JSON, Markdown and figures.")] = None,
    id_column: Annotated[str, typer.Option("--id", help="Column that joins both.")] = "id",
    label: Annotated[str, typer.Option(help="Column with the class (several: wheat;rye).")] = "label",
    classes: Annotated[Path | None, typer.Option(help="Class scheme (YAML): names, codes, values.")] = None,
    multilabel: Annotated[
        bool,
        typer.Option("--multilabel", help="An item may have several classes; predictions are probabilities."),
    ] = False,
    threshold: Annotated[float, typer.Option(help="A class is said from this probability on.")] = 0.5,
    thresholds: Annotated[Path | None, typer.Option(help="JSON or YAML: threshold of each class.")] = None,
    validation: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Truth and predictions of OTHER items, on which thresholds are chosen."),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="Column of the truth: items that are drawn together in the bootstrap.")
    ] = None,
    common_only: Annotated[
        bool, typer.Option("--common-only", help="Leave out items without a prediction.")
    ] = False,
    replicates: Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 gives no intervals.")] = 1000,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Score a table of predictions against a table of truth: one class an item, or several."""
    from pipelines.assess_view import show_sheets
    from pipelines.config import parse_config
    from pipelines.console import steps_progress
    from pipelines.score_tables import TableOptions, score_tables

    asked = {
        "id": id_column,
        "label": label,
        "classes": _text(classes),
        "multilabel": multilabel,
        "threshold": threshold,
        "thresholds": _text(thresholds),
        "validation": None if validation is None else tuple(map(str, validation)),
        "cluster": cluster,
        "common_only": common_only,
        "replicates": replicates,
        "confidence": confidence,
        "seed": seed,
        "kappa": kappa,
    }
    options = parse_config(asked, "landweave assess table", TableOptions)
    with steps_progress("bootstrap", "replicates") as show:
        found = score_tables(truth, predictions, options, out, show)
    if as_json:
        typer.echo(json.dumps(found.told, indent=2))
        return
    show_sheets(found.sheets)
    for line in (*found.facts, *(f"wrote {path}" for path in found.files)):
        typer.echo(line)


@app.command()
def design(  # noqa: PLR0913  # typer reads the options from the signature
    source: Annotated[str, typer.Argument(help="Run folder, map store (.zarr) or raster file.")],
    out: Annotated[Path, typer.Option(help="File for interpreters: .gpkg, .geojson or .csv.")],
    kind: Annotated[str, typer.Option(help="simple, stratified (by map class) or clusters.")] = "stratified",
    points: Annotated[int | None, typer.Option(help="How many in all; or give a target.")] = None,
    target_error: Annotated[
        float | None, typer.Option(help="Standard error of the overall accuracy to aim at: 0.01.")
    ] = None,
    target_users: Annotated[
        float | None, typer.Option(help="Half width of the interval of each class's user's accuracy: 0.05.")
    ] = None,
    expected: Annotated[float, typer.Option(help="User's accuracy that is expected.")] = 0.85,
    expected_of: Annotated[
        list[str] | None, typer.Option(help="That of one class: maize=0.7. May be given again.")
    ] = None,
    allocation: Annotated[
        str,
        typer.Option(
            help="rare (a fixed number for rare classes, the rest by area), proportional, equal or neyman."
        ),
    ] = "rare",
    rare_points: Annotated[int, typer.Option(help="Points of each rare class.")] = 75,
    without: Annotated[
        list[str] | None, typer.Option(help="A class that is no part of the population. May be given again.")
    ] = None,
    broader: Annotated[bool, typer.Option("--broader", help="Strata are the classes' parents.")] = False,
    cluster_px: Annotated[int, typer.Option(help="Side of a cluster, pixels.")] = 100,
    cluster_points: Annotated[int, typer.Option(help="Points in each cluster.")] = 10,
    correlation: Annotated[float, typer.Option(help="How alike errors in a cluster are expected to be.")] = 0.1,
    seed: Annotated[int, typer.Option(help="More points of one seed hold its fewer points.")] = 0,
    keep: Annotated[
        Path | None, typer.Option(help="Answers so far of a smaller sample of this seed: they are copied.")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="Class scheme (YAML), for a raster file.")] = None,
    store: Annotated[str | None, typer.Option(help="Which of a run's maps: map, refined.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a sample of a map and write the file for interpreters: blind, in random order."""
    from pipelines.assess_config import DesignOptions
    from pipelines.assess_view import show_sheets
    from pipelines.config import parse_config
    from pipelines.console import steps_progress
    from pipelines.draw_sample import design_sample

    asked = {
        "kind": kind,
        "points": points,
        "target_error": target_error,
        "target_users": target_users,
        "expected": expected,
        "expected_of": _pairs(expected_of),
        "allocation": allocation,
        "rare_points": rare_points,
        "without": tuple(without or ()),
        "broader": broader,
        "clusters": {"side_px": cluster_px, "points_each": cluster_points, "correlation": correlation},
        "seed": seed,
        "classes": _text(classes),
        "store": store,
    }
    options = parse_config(asked, "landweave assess design", DesignOptions)
    with steps_progress("design", "blocks") as show:
        found = design_sample(source, out, options, keep, show)
    if as_json:
        typer.echo(json.dumps(found.told | {"files": [str(f) for f in found.files]}, indent=2))
        return
    show_sheets(found.sheets)
    for line in (*found.facts, *(f"wrote {path}" for path in found.files)):
        typer.echo(line)


def _pairs(texts: list[str] | None) -> dict[str, str]:
    """Read ``name=value`` options."""
    from engine.values.errors import InputError

    found = {}
    for text in texts or ():
        name, sep, value = text.rpartition("=")
        if not sep:
            raise InputError("an option reads class=number", where="--expected-of", found=text)
        found[name] = value
    return found
