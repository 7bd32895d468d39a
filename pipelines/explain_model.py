"""Explain a bundle on what is annotated: figures, the numbers behind them, and one page that shows all."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from engine.inference.bundle import Bundle, load_bundle
from engine.inference.planes import plane_array, planes_in, with_planes
from engine.values.errors import InputError
from engine.values.spec import CubeSpec
from pipelines.table_config import TableTrainConfig
from training.explain.examples import DrawOptions, Examples, draw_examples
from training.explain.lens import Lens
from training.explain.methods import Subject, explain
from training.explain.report import write_index, write_sheet
from training.explain.season import season_of
from training.explain.sheets import Legend, Sheet
from training.lessons import PARTS, CubeLessons, Lessons
from training.threads import threads

if TYPE_CHECKING:
    import torch

    from pipelines.train_model import TrainConfig

_ORDER = ("test", "val", "train")


class ExplainOptions(BaseModel):
    """What of a bundle is explained.

    Attributes:
        part: Of the split, ``test``, ``val`` or ``train``; None: the first of them that has annotated pixels.
        per_class: Examples of each class; None: 48 single pixels or series, 8 patches.
        only: Names of explanations (`training.explain.methods.METHODS`); none: all.
        checkpoints: Folder with weights of moments of the training, ``*.safetensors`` with a number in the name.
        integration_steps: Points on the way of integrated gradients.
        repeats: Shuffles of each band and date.
        seed: Of the examples and shuffles.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    part: str | None = Field(default=None, pattern="^(test|val|train)$")
    per_class: int | None = Field(default=None, ge=1)
    only: tuple[str, ...] = ()
    checkpoints: Path | None = None
    integration_steps: int = Field(default=32, ge=2)
    repeats: int = Field(default=5, ge=1)
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Material:
    """What a bundle is explained on.

    Attributes:
        lessons: Parts of a split.
        bands: Names of the bands, or planes.
        dates: Names of the dates where all samples have the same; empty else.
        patch_px: Side of a patch.
    """

    lessons: Lessons
    bands: tuple[str, ...]
    dates: tuple[str, ...] = ()
    patch_px: int = 1


@dataclass(frozen=True, eq=False)
class Explained:
    """What was written.

    Attributes:
        about: What was explained.
        sheets: The figures, in the order of the page.
        not_made: What this network or these data do not allow, and why.
        files: All files; the page is the last but one, ``explain.json`` the last.
    """

    about: dict[str, Any]
    sheets: tuple[Sheet, ...]
    not_made: dict[str, str]
    files: tuple[Path, ...]

    def lines(self) -> dict[str, Any]:
        """Return what people are told."""
        told = {**self.about, **{s.name: s.sentence for s in self.sheets}}
        if self.not_made:
            told["not made"] = [f"{name}: {why}" for name, why in self.not_made.items()]
        return told | {"page": self.files[-2]}


def explain_model(
    bundle_path: str | Path,
    config: TrainConfig | TableTrainConfig,
    out: Path,
    options: ExplainOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Explained:
    """Explain a bundle on the cube and labels, or the table, of a training's configuration.

    Args:
        bundle_path: A bundle of the registry that tells classes.
        config: Where the examples come from: area, season, labels, split; or samples and split. Cube or table
            must be what the bundle wants.
        out: Folder, made if missing.
        options: What is explained, to what detail.
        progress: Called with what is done by name, how far, and how much there is.

    Raises:
        InputError: If the bundle cannot be explained, or bundle and configuration do not fit together.
    """
    bundle = load_bundle(bundle_path)
    lens = Lens.of(bundle)  # before anything is read
    material = _material(bundle, config)
    with threads(config.options.threads):
        return explain_on(bundle, lens, material, out, options, progress)


def explain_on(
    bundle: Bundle,
    lens: Lens,
    material: Material,
    out: Path,
    options: ExplainOptions | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Explained:
    """Explain a bundle on any material; as `explain_model`."""
    asked = options or ExplainOptions()
    _require_fit(bundle, material)
    part, examples = _draw(material, asked)
    legend = _legend(bundle, material, examples)
    states = read_states(asked.checkpoints) if asked.checkpoints else []
    subject = Subject(lens, examples, legend, states, asked.integration_steps, asked.repeats, asked.seed)
    about = _about(bundle, part, examples, legend)
    sheets, not_made, files = [], {}, []
    for made in explain(subject, asked.only, progress):
        for sheet in made.sheets:
            files += write_sheet(out, sheet)
            sheets.append(sheet)
        if made.why_not:
            not_made[made.method] = made.why_not
    files += write_index(out, about, sheets, not_made)
    return Explained(about, tuple(sheets), not_made, tuple(files))


def _material(bundle: Bundle, config: TrainConfig | TableTrainConfig) -> Material:
    if isinstance(config, TableTrainConfig):
        return table_material(bundle, config)
    return cube_material(bundle, config)


def cube_material(bundle: Bundle, config: TrainConfig) -> Material:
    """Open the cube and labels of a training's configuration.

    Raises:
        SpecError: If the cube is not what the bundle was trained on.
        InputError: As `pipelines.train_model.prepare_training`.
    """
    from pipelines.train_model import prepare_training

    ready = prepare_training(config)
    spec = CubeSpec.model_validate_json(ready.cube.attrs["landweave_spec"])
    bundle.spec.require(spec, n_dates=bundle.n_dates, other_n_dates=ready.cube.sizes["time"])
    options = config.options.model_copy(
        update={
            "split": ready.split,
            "architecture": bundle.architecture,
            "crop_px": _patch_px(bundle, config),
        }
    )
    cube = ready.cube
    if planes_in(cube) != bundle.planes:  # it may hold more than this network asks for
        cube = with_planes(cube, plane_array(cube, bundle.planes), bundle.planes)
    lessons = CubeLessons.of(cube, ready.labels, options)
    times = ready.cube["time"].values if "time" in ready.cube.coords else np.array([], "datetime64[D]")
    bands = tuple(plane.name for plane in bundle.planes)
    return Material(lessons, bands, date_names(times), options.crop_px)


def table_material(bundle: Bundle, config: TableTrainConfig) -> Material:
    """Read the table of a training's configuration.

    Raises:
        InputError: As `pipelines.train_table.prepare_table`, or if the bundle looks at neighbours or other bands.
    """
    from pipelines.train_table import prepare_table
    from training.tables.train import lessons_of

    if not bundle.pixelwise:
        raise InputError(
            "a table has no neighbours for this network to look at",
            where=str(bundle.path),
            found=bundle.architecture,
            mend="explain it on the cube and labels of a training",
        )
    ready = prepare_table(config)
    names = tuple(plane.name for plane in bundle.planes)
    if tuple(plane.name for plane in ready.planes) != names:
        raise InputError(
            "table and bundle have other bands", where="samples", found=ready.table.bands, limit=names
        )
    options = config.options.model_copy(update={"split": ready.split})
    return Material(lessons_of(ready.table, options, bundle.planes), names)


def date_names(times: Any) -> tuple[str, ...]:
    """Name dates: by month where there is one a month, on its first day, else by day.

    >>> date_names(np.array(["2023-03-01", "2023-04-01"], "datetime64[ns]"))
    ('2023-03', '2023-04')
    """
    days = np.asarray(times, "datetime64[D]")
    monthly = bool((days == days.astype("datetime64[M]")).all())
    return tuple(str(d)[:7] if monthly else str(d) for d in days)


def read_states(folder: Path) -> list[tuple[str, dict[str, torch.Tensor]]]:
    """Read the weights of moments of a training, in the order of the number in each file's name.

    Raises:
        InputError: If there are fewer than two, or one cannot be read.
    """
    from safetensors.torch import load_file

    files = sorted((p for p in folder.rglob("*.safetensors") if _number(p) is not None), key=_key)
    if len(files) < 2:
        raise InputError(
            "too few moments of the training to compare",
            where=str(folder),
            found=f"{len(files)} files *.safetensors with a number in their name",
            limit="2 or more, such as step-000100.safetensors",
        )
    kept = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, 6).round().astype(int))]
    try:
        return [(f"step {_number(path)}", load_file(path)) for path in kept]
    except Exception as error:  # safetensors raises kinds of its own
        raise InputError("cannot read the weights", where=str(folder), found=str(error)) from error


def _number(path: Path) -> int | None:
    found = re.findall(r"\d+", path.stem)
    return int(found[-1]) if found else None


def _key(path: Path) -> tuple[int, str]:
    return _number(path) or 0, path.name


def _patch_px(bundle: Bundle, config: TrainConfig) -> int:
    """Take the patches that the network was trained on; of single pixels one."""
    if bundle.pixelwise:
        return 1
    trained = bundle.training.get("options", {}).get("crop_px", config.options.crop_px)
    return min(int(trained), 256)


def _draw(material: Material, asked: ExplainOptions) -> tuple[str, Examples]:
    """Draw from the part that was asked for, or the first that has something annotated."""
    n_classes, side = material.lessons.n_classes, material.patch_px
    per_class = asked.per_class or (48 if side == 1 else 8)
    draw = DrawOptions(per_class, side, side // 4, asked.seed)
    names = _ORDER if asked.part is None else (asked.part,)
    for name in names:
        try:
            return name, draw_examples(material.lessons.part(PARTS[name]), n_classes, draw)
        except InputError:
            if name == names[-1]:
                raise
    raise AssertionError("there is always a last part")


def _require_fit(bundle: Bundle, material: Material) -> None:
    names = material.lessons.classes.names
    if names != bundle.classes.names:
        raise InputError(
            "labels and bundle have other classes", where="classes", found=names, limit=bundle.classes.names
        )
    if len(material.bands) != material.lessons.n_bands:
        raise InputError(
            "data and bundle have other bands",
            where="bands",
            found=f"{material.lessons.n_bands} bands",
            limit=", ".join(material.bands),
        )


def _legend(bundle: Bundle, material: Material, examples: Examples) -> Legend:
    season = season_of(examples.batch.dates.numpy(), material.dates or None)
    return Legend(bundle.classes, material.bands, season)


def _about(bundle: Bundle, part: str, examples: Examples, legend: Legend) -> dict[str, Any]:
    drawn = ", ".join(f"{n} {legend.classes.names[k]}" for k, n in examples.counts.items())
    side = examples.batch.x.shape[3]
    what = "single pixels or series" if side == 1 else f"patches of {side} px"
    return {
        "model": bundle.name or bundle.path.name,
        "architecture": bundle.architecture,
        "weights": f"sha256 {bundle.weights_sha256[:16]}",
        "part of the split": part,
        "examples": f"{len(examples)} {what}, drawn alike from every class: {drawn}",
        "season": f"{legend.season.names[0]} to {legend.season.names[-1]}, {len(legend.season)} steps",
        "bands": ", ".join(legend.bands),
    }
