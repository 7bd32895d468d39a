"""Configuration: one YAML file, checked before anything runs, every field documented in its schema."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, overload

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster.local import LocalSpec
from cluster.spec import AnyCluster
from engine.refine.chain import RefineSpec
from engine.values.errors import InputError, TrustError
from engine.values.head import Augment, Extra
from engine.values.lattice import Kernel, Lattice
from engine.values.spec import CubeSpec
from pipelines.publish_config import PublishConfig


class AreaConfig(BaseModel):
    """The area: exactly one of name, file or bbox."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str | None = Field(
        default=None, description="Country, or 'province, country' with a file of provinces."
    )
    file: str | None = Field(
        default=None, description="Vector file; with a name, the file that holds the name."
    )
    bbox: tuple[float, float, float, float] | None = Field(
        default=None, description="west, south, east, north."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"file": value} if Path(value).suffix else {"name": value}
        return {"bbox": value} if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _one(self) -> AreaConfig:
        if self.bbox is not None and (self.name or self.file):
            raise ValueError("give a bbox or a name/file, not both")
        if self.bbox is None and not (self.name or self.file):
            raise ValueError("give a name, a file or a bbox")
        return self


def part_named(text: str, area: AreaConfig) -> AreaConfig:
    """Read a part of an area: ``w,s,e,n``, a vector file, or a name (from the area's own file, if it has one).

    >>> part_named("5.9,49.4,6.1,49.6", AreaConfig(name="Luxembourg")).bbox
    (5.9, 49.4, 6.1, 49.6)
    """
    numbers = text.split(",")
    with contextlib.suppress(ValueError):
        if len(numbers) == 4:
            west, south, east, north = map(float, numbers)
            return AreaConfig(bbox=(west, south, east, north))
    return AreaConfig(file=text) if Path(text).suffix else AreaConfig(name=text, file=area.file)


class LatticeConfig(BaseModel):
    """The windows of the map."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    window_px: int = Field(default=256, ge=16, description="Side of a window in pixels.")
    overlap_px: int = Field(default=96, ge=0, description="Pixels that neighbouring windows share.")
    kernel: Kernel = Field(default="hann", description="hann, radial or trim.")

    def lattice(self) -> Lattice:
        """Return the value; raises what `Lattice` raises."""
        return Lattice(self.window_px, self.overlap_px, self.kernel)


class CardConfig(BaseModel):
    """What a model's card says that no training can know."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    intended_use: str = Field(default="", description="What the model is for, in a sentence or two.")
    limits: tuple[str, ...] = Field(default=(), description="What it must not be used for, or is bad at.")


class RadarConfig(BaseModel):
    """Where Sentinel-1 comes from, over the same area and time."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    catalog: str = Field(default="planetary-computer", description="As `catalog` of the run.")
    collection: str = Field(
        default="sentinel-1-rtc", description="Collection of terrain-corrected backscatter, linear power."
    )


class SourceConfig(BaseModel):
    """Where the pixels come from: an area, a season, a catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    area: AreaConfig = Field(description="A country's name, a vector file, or [west, south, east, north].")
    time: str = Field(description="First and last month or day, both included: 2023-03/2023-10.")
    catalog: str = Field(
        default="earth-search",
        description="earth-search, planetary-computer, cdse, an API's URL, catalog.json, folder, GeoParquet.",
    )
    collection: str | None = Field(
        default=None, description="Collection; default the catalogue's Sentinel-2 L2A."
    )
    max_cloud: float | None = Field(
        default=None, ge=0, le=100, description="Leave out cloudier scenes (percent)."
    )
    orbits: tuple[int | Literal["ascending", "descending"], ...] | None = Field(
        default=None, description="Only these relative orbits, or ascending/descending passes, or both."
    )
    sentinel1: RadarConfig = Field(
        default_factory=RadarConfig, description="Radar scenes, for a cube with `sentinel1`."
    )
    crs: str | None = Field(
        default=None,
        description="CRS of the grid; default the area's UTM zone, else its country's own, else LAEA.",
    )
    probe: Literal["warn", "fail", "trust", "off"] = Field(
        default="warn",
        description="Where a scene's dark pixels contradict its metadata about the radiometric offset: warn, "
        "fail, trust the pixels; off does not look.",
    )

    @field_validator("probe", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """YAML reads off as false."""
        return "off" if value is False else value

    @field_validator("time", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads 2023 as a number and 2023-05-03 as a date."""
        return str(value) if isinstance(value, int | dt.date) else value


DEFAULT_TILE_PX = 2048

_TilePx = Annotated[int, Field(ge=64, le=16384, multiple_of=16)]


class TiledConfig(SourceConfig):
    """What is made tile by tile, and where it runs."""

    out: str = Field(description="Run folder; running again into it goes on where it stopped.")
    tile_px: _TilePx = Field(default=DEFAULT_TILE_PX, description="Side of a tile in pixels.")
    chunk_px: int = Field(
        1024, ge=64, le=16384, description="Side of a piece inside a tile; the map is the same."
    )
    cluster: AnyCluster = Field(default_factory=LocalSpec, description="Where it runs; default here.")


class RunConfig(TiledConfig):
    """One map of one area for one season with one model."""

    tile_px: _TilePx | Literal["auto"] = Field(  # type: ignore[assignment]  # a map's may be chosen
        default=DEFAULT_TILE_PX,
        description="Side of a tile in pixels; auto takes the smallest that fits into a worker and reads nearly the "
        "least, and freezes it. Same map.",
    )
    bundle: str = Field(description="Folder of the model: a bundle or an ensemble.")
    cube: CubeSpec | None = Field(default=None, description="Default: the bundle's own cube spec.")
    layers: tuple[Extra, ...] = Field(
        default=(), description="Layers of a map of classes beside label and confidence."
    )
    augment: Augment = Field(
        default="none",
        description="Views in which the network sees each window, whose answers are averaged: none, flips (4 times "
        "the evaluations) or turns (8 times).",
    )
    through: Literal["fused", "staged", "auto"] = Field(
        default="fused",
        description="fused reads the archive for each tile; staged makes cube.zarr first and reads it; auto takes "
        "what `plan` finds cheaper. Same map.",
    )
    window: Literal["trained", "auto"] | Annotated[int, Field(ge=16, le=8192)] = Field(
        default="trained",
        description="Side of the network's windows: trained, a number of pixels, or auto, which takes the one that "
        "`plan` finds fastest and freezes it. Not trained: only for bundles free of the input size; another map.",
    )
    refine: RefineSpec | None = Field(
        default=None,
        description="Steps that refine the map: refined.zarr beside map.zarr; products are then made of the refined "
        "map.",
    )
    version: str | None = Field(
        default=None,
        pattern=r"^[a-z0-9][a-z0-9.-]*$",
        description="Name of this map beside others of the same run folder: map-NAME.zarr.",
    )
    trust_model: bool = Field(
        default=False,
        exclude=True,
        description="Open a bundle that may run code; only on the command line: --trust-model.",
    )
    products: bool = Field(
        default=True, description="Write COG, STAC item, overviews and quicklook at the end."
    )
    publish: PublishConfig = Field(
        default_factory=PublishConfig,
        description="Licence and providers of the map, and the size of its files.",
    )


class CubeConfig(TiledConfig):
    """One cube of one area, staged as a store; a later `time` into the same folder is appended."""

    cube: CubeSpec = Field(description="Bands, resolution, period, reducer, mask.")
    halo_px: int = Field(
        default=0,
        ge=0,
        le=16384,
        description="Pixels around the area that a map of it will need: the window of its bundle.",
    )


Config = TypeVar("Config", bound=BaseModel)


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run's YAML and apply ``key=value`` overrides (dots go deeper: ``cube.period=10D``).

    Relative paths of files, catalogues and folders are taken from the YAML's own folder.

    Raises:
        InputError: If the file is missing or a field is wrong; names every field at once.
    """
    return parse_yaml(RunConfig, path, overrides, paths=("bundle", "out"))


def parse_yaml(
    kind: type[Config], path: str | Path, overrides: list[str] | None, *, paths: tuple[str, ...]
) -> Config:
    """Read any of our YAML files; `paths` are the settings whose relative paths start at the file."""
    return parse_config(read_yaml(path, overrides, paths=paths), str(path), kind)


def read_yaml(path: str | Path, overrides: list[str] | None, *, paths: tuple[str, ...]) -> dict[str, Any]:
    """Read a YAML file as a mapping, with overrides, relative paths taken from its folder."""
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise InputError("cannot read the configuration", where=str(path), mend="landweave init") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("the configuration is not YAML", where=str(path), found=str(error)) from error
    if not isinstance(raw, dict):
        raise InputError("the configuration is not a mapping", where=str(path), mend="landweave init")
    if "trust_model" in raw:
        raise TrustError(
            "trust is not given in a file",
            where=f"{path}: trust_model",
            mend="say --trust-model when you run it",
        )
    _anchor_paths(raw, path.parent, paths)
    return with_overrides(raw, overrides)


def with_overrides(raw: dict[str, Any], overrides: list[str] | None) -> dict[str, Any]:
    """Apply ``key=value`` overrides to a mapping, in place, and return it."""
    for text in overrides or []:
        _override(raw, text)
    return raw


@overload
def parse_config(raw: dict[str, Any], where: str) -> RunConfig: ...
@overload
def parse_config(raw: dict[str, Any], where: str, kind: type[Config]) -> Config: ...
def parse_config(raw: dict[str, Any], where: str, kind: type[Any] = RunConfig) -> Any:
    """Validate a mapping; every wrong field is named in one error."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = _problems(error)
        raise InputError(
            f"{len(lines)} setting(s) are wrong: {'; '.join(lines)}",
            where=where,
            mend="landweave schema prints every setting with its meaning",
        ) from error


def _problems(error: ValidationError) -> list[str]:
    """Say what is wrong with each setting, one line a setting.

    Of a setting that is a word or a number pydantic tells what is wrong with either; a number is judged as one.
    """
    found: dict[str, list[Any]] = {}
    for problem in error.errors():
        names = [str(part) for part in problem["loc"] if not _is_kind(str(part))]
        found.setdefault(".".join(names) or "run", []).append(problem)
    lines = []
    for name, problems in found.items():
        fitting = [p for p in problems if (p["type"] == "literal_error") == isinstance(p["input"], str)]
        lines.append(f"{name}: {'; or: '.join(dict.fromkeys(p['msg'] for p in fitting or problems))}")
    return lines


def _is_kind(part: str) -> bool:
    """Tell the name that pydantic gives to a branch of a union from that of a setting."""
    return part.startswith(("literal[", "constrained-")) or part in ("int", "float", "str", "bool")


def _override(raw: dict[str, Any], text: str) -> None:
    key, sep, value = text.partition("=")
    if not sep or not key:
        raise InputError("an override reads key=value", where="-o", found=text, mend="-o cube.period=10D")
    *parents, last = key.strip().split(".")
    at = raw
    for parent in parents:
        below = at.setdefault(parent, {})
        if not isinstance(below, dict):
            raise InputError("an override goes deeper than the setting", where="-o", found=text)
        at = below
    at[last] = yaml.safe_load(value)


def anchored(raw: dict[str, Any], base: Path) -> dict[str, Any]:
    """Make all relative paths of a whole configuration absolute, in place, and return it.

    Args:
        raw: A validated configuration as a mapping.
        base: What relative paths are relative to.
    """
    _anchor_paths(raw, base, ("bundle", "out"))
    cluster = raw.get("cluster", {})
    for name in {"scheduler_file", "key_file", "known_hosts"} & set(cluster):
        if cluster[name] is not None:
            cluster[name] = str(base / Path(cluster[name]).expanduser())
    if not str(cluster.get("log_directory", "$")).startswith(("$", "~")):
        cluster["log_directory"] = str(base / cluster["log_directory"])
    if "code" in cluster:
        cluster["code"] = [str(base / path) for path in cluster["code"]]
    return raw


def _anchor_paths(raw: dict[str, Any], base: Path, paths: tuple[str, ...]) -> None:
    """Make relative paths start at the YAML's folder, so that a run works from anywhere."""
    for dotted in paths:
        *parents, last = dotted.split(".")
        at: Any = raw
        for parent in parents:
            at = at.get(parent) if isinstance(at, dict) else None
        if isinstance(at, dict) and isinstance(at.get(last), str) and "://" not in at[last]:
            at[last] = str(base / at[last])
    for source in (raw, raw.get("sentinel1")):
        if not isinstance(source, dict):
            continue
        catalog = source.get("catalog")
        if isinstance(catalog, str) and "://" not in catalog and _looks_local(catalog, base):
            source["catalog"] = str(base / catalog)
    area = raw.get("area")
    if isinstance(area, str) and Path(area).suffix:
        raw["area"] = str(base / area)
    elif isinstance(area, dict) and area.get("file"):
        area["file"] = str(base / area["file"])
    anchor_steps(raw.get("refine"), base)
    for holder, key in _files_of_cube(raw.get("cube")):
        if isinstance(holder.get(key), str) and "://" not in holder[key]:
            holder[key] = str(base / holder[key])


_FILES_OF_STEPS = ("file", "inside")


def anchor_steps(refine: Any, base: Path) -> None:
    """Make the relative paths of the files that steps of a refinement read absolute, in place."""
    steps = refine.get("steps") if isinstance(refine, dict) else None
    for step in (s for s in steps if isinstance(s, dict)) if isinstance(steps, list) else ():
        for key in _FILES_OF_STEPS:
            if isinstance(step.get(key), str) and "://" not in step[key]:
                step[key] = str(base / step[key])


def _files_of_cube(cube: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield where a cube's settings name files: crop calendar, ONNX masks, static layers."""
    if not isinstance(cube, dict):
        return
    masks, features = cube.get("mask"), cube.get("features")
    layers = features.get("layers") if isinstance(features, dict) else None
    named = [(cube.get("period"), "file"), *((layer, "file") for layer in layers or ())]
    several = masks if isinstance(masks, list) else [masks]
    named += [(m, "model") for m in several if isinstance(m, dict) and str(m.get("model")).endswith(".onnx")]
    yield from ((holder, key) for holder, key in named if isinstance(holder, dict))


def _looks_local(value: str, folder: Path) -> bool:
    return (folder / value).exists() or value.endswith((".json", ".parquet", "/"))


def schema(kind: type[BaseModel] = RunConfig) -> str:
    """Return the JSON Schema of a run's YAML, or of another kind."""
    return json.dumps(kind.model_json_schema(), indent=2)


def template(area: str, time: str) -> str:
    """Return a commented YAML for a new run."""
    slug = "".join(c if c.isalnum() else "-" for c in Path(area).stem.lower()).strip("-")
    bbox = area.split(",")
    place = f"[{', '.join(bbox)}]" if len(bbox) == 4 else json.dumps(area)
    return _TEMPLATE.format(area=place, time=time, out=f"runs/{slug}")


_TEMPLATE = """\
# A landweave run: `landweave check` reads this file, `landweave map` makes the map.
area: {area}          # a country, a vector file, or [west, south, east, north]
time: {time}      # first and last month (or day), both included
catalog: earth-search      # or planetary-computer, cdse, an API's URL, a catalog.json, a GeoParquet file
max_cloud: 80              # leave out scenes cloudier than this (percent)
bundle: bundle             # folder of the model, made by `landweave train`
out: {out}
# crs: EPSG:32632          # default: the area's UTM zone, else LAEA
# layers: [probability, entropy, margin]   # beside label and confidence
# refine: {{steps: [{{step: mmu, min_ha: 0.5}}]}}   # see docs/refine.md
# tile_px: 2048            # one Dask task makes one tile
cluster:
  kind: local              # or address, slurm, ssh, gateway, kubernetes, cuda: see docs/clusters
"""
