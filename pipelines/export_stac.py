"""The catalogue of an export: what a run's plan and the store itself tell, with no model opened."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.archive.search import parse_time
from engine.inference.manifest import MANIFEST, read_item
from engine.products.look import look_of
from engine.products.map_product import MapProduct, ModelRef
from engine.products.mosaic_files import Mosaic
from engine.products.stac import write_stac
from engine.products.styles import scheme_of_flags
from engine.refine.chain import RefineSpec
from engine.store.objects import join, local_path
from engine.store.view import MapView
from engine.values.errors import InputError
from engine.values.grid import Box
from pipelines.describe_map import software_version, steps_in_words
from pipelines.publish_config import PublishConfig
from pipelines.run_folder import MAP, read_plan
from pipelines.tile_inputs import area_in

STAC = "stac"


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        run: The run folder, or the store itself.
        view: The map.
        box: The part of it; None for all.
        out: Folder of the export.
        mosaics: Its layers as files.
        files: Other files by asset key.
        time: First and last month or day, such as ``2023-03/2023-10``; None takes the run's.
        title: One line; None takes area and time of the run, or the name of the store.
    """

    run: str
    view: MapView
    box: Box | None
    out: Path
    mosaics: tuple[Mosaic, ...]
    files: dict[str, Path]
    time: str | None = None
    title: str | None = None

    @property
    def name(self) -> str:
        """Name of the store: ``map``, ``refined``, ``map-b`` ..."""
        return self.view.url.rstrip("/").rpartition("/")[2].removesuffix(".zarr")


def write_catalogue(exported: Exported) -> Path:
    """Describe an export as STAC, in the folder ``stac`` beside its files.

    Returns:
        Path of the item, of a mosaic that of the collection.

    Raises:
        InputError: If it is no map of classes, or nothing tells its time.
    """
    view, plan = exported.view, _plan_of(exported)
    config = plan.get("config", {})
    time = exported.time or config.get("time")
    if time is None:
        raise InputError(
            "a catalogue tells the time of the imagery", where=view.url, mend="give --time 2023-03/2023-10"
        )
    if "label" not in view.variables:
        raise InputError(
            "not a map of classes", where=view.url, found=", ".join(view.variables), limit="label"
        )
    start, end = parse_time(time)
    home = view.url.rstrip("/").rpartition("/")[0]
    steps = _steps(exported)
    title = exported.title or f"{plan.get('area', exported.name)}, {time}"
    publish = PublishConfig.model_validate(config.get("publish") or {})
    product = MapProduct(
        id=re.sub(r"[^A-Za-z0-9_.-]+", "-", title).strip("-._") or "map",
        title=title,
        grid=view.grid,
        box=exported.box or view.box,
        scheme=scheme_of_flags(view.attributes("label"), view.url),
        start=start,
        end=end,
        outline=area_in(exported.run, plan["outline"]).geometry if "outline" in plan else None,
        files=exported.files,
        mosaics=exported.mosaics,
        layers={n: _band(view, n) for n in (m.variable for m in exported.mosaics) if n != "label"},
        model=_model(config.get("bundle")),
        sources=(_reachable(join(home, plan["items"])),) if "items" in plan else (),
        raw=_reachable(join(home, f"{_map_stage(exported.name)}.zarr")) if steps else "",
        steps=steps,
        terms=publish.terms(""),
        version=software_version(),
    )
    return write_stac(exported.out / STAC, product)


def _plan_of(exported: Exported) -> dict[str, Any]:
    """Return the plan of the map from which the store came; nothing for a store without a run."""
    try:
        return read_plan(exported.run, _map_stage(exported.name))
    except InputError:
        return {}


def _map_stage(name: str) -> str:
    """Name the map that a store is, or is the refinement of.

    >>> _map_stage("refined-b"), _map_stage("map")
    ('map-b', 'map')
    """
    return f"{MAP}{name.removeprefix('refined')}" if name.startswith("refined") else name


def _steps(exported: Exported) -> tuple[str, ...]:
    """Return the steps of the refinement, in words; none for a map as the model gave it."""
    if not exported.name.startswith("refined"):
        return ()
    try:
        spec = read_plan(exported.run, exported.name)["config"]["refine"]
    except (InputError, KeyError):
        return ()
    return steps_in_words(RefineSpec.model_validate(spec))


def _reachable(url: str) -> str:
    """Return a local path as it is, and anything else as the URL that it is."""
    path = local_path(url)
    return url if path is None else str(path)


def _model(bundle: str | None) -> ModelRef | None:
    """Name the model; None where its manifest is not to be had any more."""
    if not bundle or local_path(bundle) is None:
        return None
    manifest = Path(bundle).absolute() / MANIFEST
    try:
        properties = read_item(manifest)["properties"]
    except InputError:
        return None
    return ModelRef(str(properties.get("mlm:name", Path(bundle).name)), str(manifest), _weights(properties))


def _weights(properties: dict[str, Any]) -> str | None:
    found = properties.get("landweave:weights_sha256")
    return None if found is None else str(found)


def _band(view: MapView, name: str) -> dict[str, Any]:
    """Say how a layer is stored, by the names of the raster extension."""
    look, attributes = look_of(view, name), view.attributes(name)
    found: dict[str, Any] = {"data_type": look.dtype, "planes": list(look.bands)}
    if look.no_data is not None:
        found["nodata"] = look.no_data
    if look.scale is not None:
        found |= {"scale": look.scale, "offset": look.offset}
    if (unit := attributes.get("units", "1")) != "1":
        found["unit"] = str(unit)
    if view.is_classes(name):
        meanings = str(attributes.get("flag_meanings", "")).split()
        found["classes"] = dict(zip(attributes["flag_values"], meanings, strict=False))
    return found
