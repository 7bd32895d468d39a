"""The command line. Commands only read arguments and print; the work is in the other pipelines.

Exit codes: 0 done, 2 usage or configuration, 3 partial (gap list written), 4 data error, 5 interrupted.
Imports stand inside the commands, so that ``landweave --help`` loads next to nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.cli_area import app as area_app
from pipelines.cli_assess import app as assess_app
from pipelines.cli_bundle import app as bundle_app
from pipelines.cli_cluster import app as cluster_app
from pipelines.cli_explain import app as explain_app
from pipelines.cli_export import app as export_app
from pipelines.cli_options import as_overrides as _as_overrides
from pipelines.cli_options import print_told as _print
from pipelines.cli_options import trusted as _trusted
from pipelines.cli_refine import app as refine_app
from pipelines.cli_run import app as run_app
from pipelines.cli_submit import app as submit_app

if TYPE_CHECKING:
    from pipelines.table_config import TableTrainConfig
    from pipelines.train_model import TrainConfig

EXIT_PARTIAL, EXIT_INTERRUPTED = 3, 5

app = typer.Typer(
    name="landweave",
    help="Maps of whole countries from the Sentinel-2 archive: the same map however it is cut.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(bundle_app, name="bundle")
app.add_typer(submit_app)
app.add_typer(cluster_app, name="cluster")
app.add_typer(run_app)
app.add_typer(explain_app)
app.add_typer(export_app)
app.add_typer(refine_app)
app.add_typer(area_app)
app.add_typer(assess_app, name="assess")

Config = Annotated[Path, typer.Argument(help="The run's YAML (landweave init writes one).")]
Override = Annotated[
    list[str] | None, typer.Option("-o", "--override", help="key=value; dots go deeper: cube.period=10D.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


Only = Annotated[
    str | None,
    typer.Option(help="Make only the tiles of this part: a name of the area's file, a file, or w,s,e,n."),
]
Refresh = Annotated[
    bool, typer.Option("--refresh", help="Search again; tiles that other scenes touch now are made again.")
]
Trust = Annotated[
    bool, typer.Option("--trust-model", help="Open a bundle that may run code; only if you trust its maker.")
]


def main() -> None:
    """Run the command line; errors become one line and an exit code."""
    from engine.values.errors import LandweaveError

    try:
        app()
    except LandweaveError as error:
        _say(f"error: {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        from engine.store.refusals import refusal_of

        if (refused := refusal_of(error, str(error.filename or "."))) is None:
            raise
        _say(f"error: {refused}")
        sys.exit(refused.exit_code)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        sys.exit(EXIT_INTERRUPTED)


def _say(text: str) -> None:
    typer.echo(text, err=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything that the demo makes.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Another seed, another territory.")] = 7,
    workers: Annotated[int | None, typer.Option(help="Worker processes; default one a core.")] = None,
) -> None:
    """Make a simulated archive, train a network on it, map it and score the map against the truth."""
    from pipelines.demo import run_demo

    run_demo(out, seed=seed, workers=workers)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the YAML.")] = Path("run.yaml"),
    area: Annotated[str, typer.Option(help="A country, a vector file, or w,s,e,n.")] = "Luxembourg",
    time: Annotated[str, typer.Option(help="First and last month, both included.")] = "2023-03/2023-10",
) -> None:
    """Write a commented YAML to start from."""
    from engine.values.errors import ConflictError
    from pipelines.config import template

    if path.exists():
        raise ConflictError("the file exists already", where=str(path), mend="name another file")
    path.write_text(template(area, time))
    typer.echo(f"wrote {path}; next: landweave check {path}")


@app.command()
def schema(
    kind: Annotated[str, typer.Option(help="map, cube, refine, train, sweep or bundle.")] = "map",
) -> None:
    """Print the JSON Schema of a run's YAML: every setting with its meaning and limits."""
    from engine.values.errors import InputError
    from pipelines.config import CubeConfig, RunConfig
    from pipelines.config import schema as text
    from pipelines.make_bundle import BundleConfig
    from pipelines.refine_config import RefineConfig

    kinds: dict[str, type[Any]] = {
        "map": RunConfig,
        "cube": CubeConfig,
        "refine": RefineConfig,
        "bundle": BundleConfig,
    }
    if kind == "train":  # it loads torch
        from pipelines.train_model import TrainConfig

        kinds["train"] = TrainConfig
    if kind == "sweep":
        from pipelines.sweep_training import SweepConfig

        kinds["sweep"] = SweepConfig
    if kind not in kinds:
        raise InputError(
            "no such kind of YAML", where="--kind", found=kind, limit=", ".join([*kinds, "train", "sweep"])
        )
    typer.echo(text(kinds[kind]))


@app.command()
def check(
    config: Config, override: Override = None, trust_model: Trust = False, as_json: Json = False
) -> None:
    """Read a run's YAML, its area and its bundle, and say what would be mapped; searches nothing."""
    from pipelines.config import load_config
    from pipelines.plan_area import describe

    _print(describe(load_config(config, _trusted(override, trust_model))), as_json)


@app.command()
def stage(
    folder: Annotated[Path, typer.Argument(help="File or folder: JP2, GeoTIFF, NetCDF, SAFE, zipped SAFE.")],
    out: Annotated[
        Path | None, typer.Option(help="Where to write the catalogue; default FOLDER/stac.")
    ] = None,
    bands: Annotated[str, typer.Option(help="Names of a file's bands in order: red,green,blue,nir.")] = "",
    dates: Annotated[str, typer.Option(help="Date of each group of bands: 2021-05-01,2021-08-01.")] = "",
    nodata: Annotated[float | None, typer.Option(help="Value that means no data.")] = None,
    scale: Annotated[float | None, typer.Option(help="Reflectance per unit of the pixels.")] = None,
    offset: Annotated[float | None, typer.Option(help="Reflectance of value 0.")] = None,
    copy: Annotated[bool, typer.Option("--copy", help="Copy pixels; floats become uint16.")] = False,
    level: Annotated[str | None, typer.Option(help="L1C or L2A, where names do not tell.")] = None,
) -> None:
    """Turn local images into a STAC catalogue that `search` and `map` read."""
    from engine.archive.staging import hints_of
    from engine.archive.staging import stage as run
    from pipelines.console import steps_progress

    told = {"bands": bands.split(",") if bands else None, "dates": dates.split(",") if dates else None}
    hints = hints_of({**told, "nodata": nodata, "scale": scale, "offset": offset})
    home = folder if folder.is_dir() else folder.parent
    with steps_progress("stage", "scenes") as show:
        path = run(folder, out or home / "stac", level=level, hints=hints, copy=copy, listener=show)
    typer.echo(f"wrote {path}")


@app.command()
def search(
    config: Config,
    override: Override = None,
    out: Annotated[Path | None, typer.Option(help="Also write the scenes as GeoParquet.")] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Coverage, clouds, orbits, tiles, offsets.")
    ] = False,
    picture: Annotated[Path | None, typer.Option("--map", help="Also draw the coverage (PNG).")] = None,
    as_json: Json = False,
) -> None:
    """Search the scenes of a run and print what there is."""
    from pipelines.config import load_config

    if summary or picture is not None:
        from pipelines.search_view import search_summary, show

        counted, seen = search_summary(load_config(config, override), out, picture)
        _print(counted, as_json=True) if as_json else show(counted, seen)
        return
    from pipelines.plan_area import scenes_of

    table, counts = scenes_of(load_config(config, override))
    if out is not None:
        table.to_parquet(out)
    _print(counts, as_json)


@app.command()
def plan(
    config: Config,
    override: Override = None,
    cube: Annotated[bool, typer.Option("--cube", help="Of staging the cube instead of the map.")] = False,
    probe: Annotated[
        int | None, typer.Option(min=0, help="Tiles to time, made and kept; 0 reads no pixel.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of a worker for an hour, any currency.")] = None,
    explain: Annotated[
        str | None, typer.Option("--explain", help="Why this tile (r3_c-4) would be made again, or not.")
    ] = None,
    refresh: Refresh = False,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """Say what the map needs before it runs: scenes, tiles, bytes, memory, storage, hours, money.

    A few tiles are made to tell the time; they stay, and `map` does not make them again.
    """
    override = _trusted(override, trust_model)
    if explain is not None:
        from pipelines.config import load_config
        from pipelines.explain_tile import explain_tile

        _print(explain_tile(load_config(config, override), explain, refresh=refresh), as_json)
        return
    if cube:
        from pipelines.plan_cube import load_cube_config, plan_staging

        _print(plan_staging(load_cube_config(config, override)), as_json)
        return
    from pipelines.config import load_config
    from pipelines.console import steps_progress
    from pipelines.plan_map import PlanOptions, plan_map

    with steps_progress("plan", "tiles") as show:
        planned = plan_map(load_config(config, override), PlanOptions(probe, price, refresh=refresh), show)
    _print(planned.as_dict() if as_json else planned.lines(), as_json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="The training's YAML.")],
    override: Override = None,
    check_labels: Annotated[
        bool,
        typer.Option(
            "--check-labels",
            help="Only check the labels: report what is wrong, write mended files; trains nothing.",
        ),
    ] = False,
    inspect: Annotated[
        bool,
        typer.Option("--inspect", help="Only look: classes, parts, samples, statistics; trains nothing."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for what --inspect writes.")] = Path("inspect"),
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Begin anew, whatever an ended training left.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder for TensorBoard: losses, rates, scores.")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option(help="YAML of settings to search: trains many times, compares, writes no bundle."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a network on the same cubes that are mapped, or on a table of series, and write a bundle.

    Running it again goes on where it was ended or killed, with the very steps that were left. Under torchrun all
    its processes train together.
    """
    from pipelines.table_config import load_table_config
    from pipelines.train_model import TrainConfig, check_training_labels, load_train_config
    from pipelines.train_together import TrainCall, train_together

    if sweep is not None:
        _sweep(config, sweep, override, as_json)
        return
    tabled = load_table_config(config, override)
    if tabled is not None and (check_labels or inspect):
        _look_at_table(tabled, as_json)
        return
    settings = tabled or load_train_config(config, override)
    if isinstance(settings, TrainConfig) and inspect:
        _inspect(settings, out, as_json)
        return
    if isinstance(settings, TrainConfig) and check_labels:
        for report, path in check_training_labels(settings):
            told = report.as_dict() if as_json else report.lines()
            _print(told | {"mended": str(path)}, as_json)
        return
    found = train_together(settings, TrainCall(not no_resume, tensorboard))
    if found is not None:
        _print(found, as_json)


def _sweep(config: Path, sweep: Path, override: list[str] | None, as_json: bool) -> None:
    from pipelines.console import steps_progress
    from pipelines.sweep_training import load_sweep_config, sweep_training

    with steps_progress("sweep", "trials") as show:
        found = sweep_training(config, load_sweep_config(sweep), override, progress=show)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        return
    from rich.console import Console

    Console(soft_wrap=True).print(found.table())
    _print(found.lines(), as_json)


def _look_at_table(config: TableTrainConfig, as_json: bool) -> None:
    from pipelines.train_table import prepare_table

    ready = prepare_table(config)
    _print(ready.lines() | {"classes": ready.table.counts()}, as_json)


def _inspect(settings: TrainConfig, out: Path, as_json: bool) -> None:
    from pipelines.console import steps_progress
    from pipelines.inspect_training import inspect_data, show

    with steps_progress("look", "blocks") as progress:
        seen, facts, paths = inspect_data(settings, out, lambda done, total: progress(done, total, ""))
    if as_json:
        typer.echo(json.dumps(facts | seen.as_dict(), indent=2))
        return
    show(seen)
    _print(facts | {"written": ", ".join(map(str, paths))}, as_json)


@app.command("indices")
def indices_command(
    name: Annotated[str | None, typer.Argument(help="One index; default all of them.")] = None,
    as_json: Json = False,
) -> None:
    """List the spectral indices that a cube's features may name: formula, bands, source."""
    from engine.cube.spectral import list_indices
    from pipelines.console import indices_table

    found = list_indices(name)
    if as_json:
        typer.echo(json.dumps([index.as_dict() for index in found], indent=2))
    elif name is not None:
        _print(found[0].as_dict(), as_json)
    else:
        indices_table(found)


Out = Annotated[str | None, typer.Option(help="Run folder.")]
Chunk = Annotated[int | None, typer.Option(help="Side of a piece inside a tile, pixels.")]
Tile = Annotated[int | None, typer.Option(help="Side of a tile, pixels.")]
Workers = Annotated[int | None, typer.Option(help="Worker processes.")]
Cluster = Annotated[str | None, typer.Option(help="Cluster YAML, or the address of a scheduler.")]
NoResume = Annotated[bool, typer.Option("--no-resume", help="Make every tile again.")]


@app.command("map")
def map_command(
    config: Config,
    override: Override = None,
    out: Out = None,
    chunk: Chunk = None,
    tile: Tile = None,
    workers: Workers = None,
    cluster: Cluster = None,
    only: Only = None,
    refresh: Refresh = False,
    no_resume: NoResume = False,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """Map an area; running it again goes on where it stopped, and makes again only what changed."""
    from pipelines.config import load_config, part_named
    from pipelines.console import map_progress
    from pipelines.map_area import map_area

    settings = {"out": out, "chunk_px": chunk, "tile_px": tile, "cluster.n_workers": workers}
    run = load_config(config, [*_trusted(override, trust_model), *_as_overrides(settings, cluster)])
    with map_progress(quiet=as_json) as listener:
        part = None if only is None else part_named(only, run.area)
        result = map_area(run, resume=not no_resume, refresh=refresh, only=part, listener=listener)
    _print(result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)


@app.command("cube")
def cube_command(
    config: Config,
    override: Override = None,
    out: Out = None,
    chunk: Chunk = None,
    tile: Tile = None,
    workers: Workers = None,
    cluster: Cluster = None,
    refresh: Refresh = False,
    no_resume: NoResume = False,
    trust_model: Trust = False,
    as_json: Json = False,
) -> None:
    """Stage a cube as OUT/cube.zarr; again, it goes on; with a later time, it appends.

    The YAML names a `cube`, or is a map's: then the cube is what its bundle needs, with the halo.
    """
    from pipelines.console import map_progress
    from pipelines.make_cube import make_cube
    from pipelines.plan_cube import load_cube_config

    settings = {"out": out, "chunk_px": chunk, "tile_px": tile, "cluster.n_workers": workers}
    run = load_cube_config(config, [*_trusted(override, trust_model), *_as_overrides(settings, cluster)])
    with map_progress(quiet=as_json) as listener:
        result = make_cube(run, resume=not no_resume, refresh=refresh, listener=listener)
    _print(result.as_dict(), as_json)
    raise typer.Exit(result.exit_code)
