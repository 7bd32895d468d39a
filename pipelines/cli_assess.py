"""Commands that say how right a map is: design a sample, judge it, compare maps, score tables.

An option is called as the setting that it fills in (`pipelines.assess_config` and its like).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from engine.assessment.sheets import Sheet

_Settings = TypeVar("_Settings")

app = typer.Typer(
    rich_markup_mode=None,
    help="Accuracy of a map: sampling design, estimates, agreement.",
    no_args_is_help=True,
)

Source = Annotated[str, typer.Argument(help="Run folder, map store (.zarr) or raster file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Regions = Annotated[Path | None, typer.Option(help="Vector file of regions to tell apart.")]
RegionColumn = Annotated[str | None, typer.Option(help="Column with the regions' names.")]
Kappa = Annotated[bool, typer.Option("--kappa", help="Also Cohen's kappa, for those who need it.")]
Scheme = Annotated[Path | None, typer.Option(help="Class scheme (YAML); default what the map tells.")]
Store = Annotated[str | None, typer.Option(help="Which of a run's maps: map, refined, a version.")]
Broader = Annotated[bool, typer.Option("--broader", help="Take the classes' parents.")]
Seed = Annotated[int, typer.Option(help="Of what is drawn by chance.")]
Replicates = Annotated[int, typer.Option(min=0, help="Of the bootstrap; 0 for none.")]
Cluster = Annotated[str | None, typer.Option(help="Column of what is drawn together in the bootstrap.")]
IdColumn = Annotated[str, typer.Option("--id", help="Column with the ids.")]

Kind = Annotated[str, typer.Option(help="simple, stratified (by map class) or clusters.")]
Points = Annotated[int | None, typer.Option(help="How many in all; or give a target.")]
TargetError = Annotated[
    float | None, typer.Option(help="Standard error of the overall accuracy to aim at: 0.01.")
]
TargetUsers = Annotated[
    float | None, typer.Option(help="Half width of the interval of each class's user's accuracy: 0.05.")
]
Expected = Annotated[float, typer.Option(help="User's accuracy that is expected.")]
ExpectedOf = Annotated[
    list[str] | None, typer.Option(help="That of one class: maize=0.7. May be given again.")
]
Allocation = Annotated[
    str,
    typer.Option(
        help="rare (a fixed number for rare classes, the rest by area), proportional, equal, neyman."
    ),
]
RarePoints = Annotated[int, typer.Option(help="Points of each rare class.")]
Without = Annotated[
    list[str] | None, typer.Option(help="A class that is no part of the population. May be given again.")
]
ClusterPx = Annotated[int, typer.Option(help="Side of a cluster, pixels.")]
ClusterPoints = Annotated[int, typer.Option(help="Points in each cluster.")]
Correlation = Annotated[float, typer.Option(help="How alike errors in a cluster are expected to be.")]
Keep = Annotated[
    Path | None, typer.Option(help="Answers so far of a smaller sample of this seed: they are copied.")
]

Reference = Annotated[Path, typer.Option(help="The interpreters' file: .gpkg, .geojson, .csv, .parquet.")]
Design = Annotated[Path | None, typer.Option(help="Design file; default the one beside the answers.")]
NoDesign = Annotated[
    bool, typer.Option("--no-design", help="Points of no known design: taken as a simple random sample.")
]
RunOut = Annotated[
    Path | None, typer.Option(help="Folder for what is written; default in the run folder, else assessment/.")
]
Column = Annotated[str, typer.Option(help="Column with the answers.")]
Layer = Annotated[str | None, typer.Option(help="Layer of the answers.")]
Xcolumn = Annotated[str, typer.Option(help="Column with the first coordinate, in a table.")]
Ycolumn = Annotated[str, typer.Option(help="Column with the second coordinate, in a table.")]
Crs = Annotated[str, typer.Option(help="CRS of a table's coordinates.")]
LeastCertainty = Annotated[float | None, typer.Option(help="Answers that are less certain count as none.")]
SkipUnknown = Annotated[
    bool, typer.Option("--skip-unknown", help="Answers that mean no class count as none.")
]
Poststratify = Annotated[
    bool,
    typer.Option("--poststratify", help="Weigh a simple random sample by the mapped area of each class."),
]
Interval = Annotated[str, typer.Option(help="wilson, logit, t or normal.")]
Level = Annotated[float, typer.Option(help="Of the intervals.")]

First = Annotated[str, typer.Argument(help="Run folder, map store (.zarr) or raster file: what is judged.")]
Second = Annotated[str, typer.Argument(help="The other map, or a raster of truth; on any grid.")]
AgreeOut = Annotated[Path, typer.Option(help="Folder for tables, figures and the map of errors.")]
Legend = Annotated[
    Path | None, typer.Option(help="YAML with first: {class: common} and second: {class: common}.")
]
Errors = Annotated[
    str,
    typer.Option(
        help="Map of errors: agreement; or first, second: the class of that map where both differ; or none."
    ),
]

Truth = Annotated[Path, typer.Argument(help="CSV or Parquet of truth.")]
Predictions = Annotated[Path, typer.Argument(help="CSV or Parquet of labels, or of one probability a class.")]
TableOut = Annotated[Path | None, typer.Option(help="Folder for JSON, Markdown and figures.")]
Label = Annotated[str, typer.Option(help="Column with the class (several: wheat;rye).")]
Multilabel = Annotated[
    bool,
    typer.Option("--multilabel", help="An item may have several classes; predictions are probabilities."),
]
Threshold = Annotated[float, typer.Option(help="A class is said from this probability on.")]
Thresholds = Annotated[Path | None, typer.Option(help="JSON or YAML: threshold of each class.")]
Validation = Annotated[
    tuple[Path, Path] | None,
    typer.Option(help="Truth and predictions of OTHER items, on which thresholds are chosen."),
]
CommonOnly = Annotated[bool, typer.Option("--common-only", help="Leave out items without a prediction.")]


@app.command()
def design(  # noqa: PLR0913  # typer reads the options from the signature
    source: Source,
    out: Annotated[Path, typer.Option(help="File for interpreters: .gpkg, .geojson or .csv.")],
    kind: Kind = "stratified",
    points: Points = None,
    target_error: TargetError = None,
    target_users: TargetUsers = None,
    expected: Expected = 0.85,
    expected_of: ExpectedOf = None,
    allocation: Allocation = "rare",
    rare_points: RarePoints = 75,
    without: Without = None,
    broader: Broader = False,
    cluster_px: ClusterPx = 100,
    cluster_points: ClusterPoints = 10,
    correlation: Correlation = 0.1,
    seed: Seed = 0,
    keep: Keep = None,
    classes: Scheme = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Draw a sample of a map and write the file for interpreters: blind, in random order.

    More points of one seed hold its fewer points.
    """
    asked = _asked(locals(), "source", "out", "keep", "cluster_px", "cluster_points", "correlation")
    from pipelines.assess_config import DesignOptions
    from pipelines.console import steps_progress
    from pipelines.draw_sample import design_sample

    asked["clusters"] = {"side_px": cluster_px, "points_each": cluster_points, "correlation": correlation}
    asked |= {"expected_of": _pairs(expected_of), "without": tuple(without or ())}
    options = _settings(asked, "design", DesignOptions)
    with steps_progress("design", "blocks") as show:
        found = design_sample(source, out, options, keep, show)
    told = found.told | {"files": [str(f) for f in found.files]}
    _tell(told if as_json else None, found.sheets, found.facts, found.files)


@app.command("run")
def run_command(  # noqa: PLR0913  # typer reads the options from the signature
    source: Source,
    reference: Reference,
    design: Design = None,
    no_design: NoDesign = False,
    out: RunOut = None,
    id: IdColumn = "id",
    column: Column = "reference",
    layer: Layer = None,
    x: Xcolumn = "lon",
    y: Ycolumn = "lat",
    crs: Crs = "EPSG:4326",
    regions: Regions = None,
    region_column: RegionColumn = None,
    least_certainty: LeastCertainty = None,
    skip_unknown: SkipUnknown = False,
    broader: Broader = False,
    poststratify: Poststratify = False,
    interval: Interval = "wilson",
    level: Level = 0.95,
    kappa: Kappa = False,
    replicates: Replicates = 0,
    cluster: Cluster = None,
    seed: Seed = 0,
    classes: Scheme = None,
    store: Store = None,
    as_json: Json = False,
) -> None:
    """Assess a map by interpreters' answers: accuracies and areas with standard errors and intervals."""
    asked = _asked(locals(), "source", "reference", "out")
    from pipelines.assess_config import RunOptions
    from pipelines.assess_map import assess_map, places_of
    from pipelines.assess_report import report
    from pipelines.console import steps_progress

    asked["replicates"] = replicates or (1000 if cluster else 0)
    options = _settings(asked, "run", RunOptions)
    with steps_progress("assess", "blocks") as show:
        assessment, groups = assess_map(source, reference, options, show)
    found = report(assessment, groups, options, *places_of(source, out))
    _tell(found.told if as_json else None, found.sheets, found.facts, found.files)


@app.command()
def agree(  # noqa: PLR0913  # typer reads the options from the signature
    first: First,
    second: Second,
    out: AgreeOut = Path("agreement"),
    first_classes: Scheme = None,
    second_classes: Scheme = None,
    legend: Legend = None,
    broader: Broader = False,
    regions: Regions = None,
    region_column: RegionColumn = None,
    errors: Errors = "agreement",
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Compare two maps pixel by pixel: matrix, figures per class and region, and a map of errors."""
    asked = _asked(locals(), "first", "second", "out")
    from pipelines.agree_maps import AgreeOptions
    from pipelines.agree_maps import agree as run
    from pipelines.console import steps_progress

    asked["errors"] = None if errors == "none" else errors
    options = _settings(asked, "agree", AgreeOptions)
    with steps_progress("agree", "blocks") as show:
        found = run(first, second, out, options, show)
    _tell(found.told if as_json else None, found.sheets, found.facts, found.files)


@app.command()
def table(  # noqa: PLR0913  # typer reads the options from the signature
    truth: Truth,
    predictions: Predictions,
    out: TableOut = None,
    id: IdColumn = "id",
    label: Label = "label",
    classes: Scheme = None,
    multilabel: Multilabel = False,
    threshold: Threshold = 0.5,
    thresholds: Thresholds = None,
    validation: Validation = None,
    cluster: Cluster = None,
    common_only: CommonOnly = False,
    replicates: Replicates = 1000,
    confidence: Level = 0.95,
    seed: Seed = 0,
    kappa: Kappa = False,
    as_json: Json = False,
) -> None:
    """Score a table of predictions against a table of truth: one class an item, or several."""
    asked = _asked(locals(), "truth", "predictions", "out")
    from pipelines.console import steps_progress
    from pipelines.score_tables import TableOptions, score_tables

    options = _settings(asked, "table", TableOptions)
    with steps_progress("bootstrap", "replicates") as show:
        found = score_tables(truth, predictions, options, out, show)
    _tell(found.told if as_json else None, found.sheets, found.facts, found.files)


def _asked(given: dict[str, Any], *others: str) -> dict[str, Any]:
    """Return the options of a command as settings: all that it was given but the others, paths as text."""
    return {k: _plain(v) for k, v in given.items() if k not in (*others, "as_json")}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return str(value) if isinstance(value, Path) else value


def _settings(asked: dict[str, Any], command: str, kind: type[_Settings]) -> _Settings:
    from pipelines.config import parse_config

    found: _Settings = parse_config(asked, f"landweave assess {command}", kind)  # type: ignore[type-var]
    return found


def _tell(
    told: dict[str, Any] | None, sheets: Sequence[Sheet], facts: Sequence[str], files: Sequence[Path]
) -> None:
    """Print JSON, or tables and lines."""
    if told is not None:
        typer.echo(json.dumps(told, indent=2))
        return
    from pipelines.assess_view import show_sheets

    show_sheets(sheets)
    for line in (*facts, *(f"wrote {path}" for path in files)):
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
