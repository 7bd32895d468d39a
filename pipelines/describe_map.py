"""What the catalogue says of a run's map: name, season, layers, model, what it was made from and how."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from engine.archive.items import ItemTable
from engine.inference.ensemble import bundles_of
from engine.inference.predict import layer_attributes, stacked
from engine.products.map_product import MapProduct, ModelRef
from engine.products.mosaic_files import Mosaic
from engine.refine.chain import CHANGED, CHANGED_NO_DATA, RefineSpec
from engine.store.objects import local_path
from engine.values.area import Area
from engine.values.classes import ClassScheme
from engine.values.grid import Box
from pipelines.map_job import MapJob
from pipelines.publish_config import PublishConfig
from pipelines.refine_job import RefineJob
from pipelines.run_folder import MAP

_MOST_BANDS = 32  # of a file: beyond that a reader wants the Zarr


@dataclass(frozen=True)
class Published:
    """A map that leaves the house.

    Attributes:
        job: The map.
        area: Its outline.
        table: The scenes it was made from.
        refined: Its refinement; None where the map itself is published.
        publish: Licence, providers, sizes.
    """

    job: MapJob
    area: Area
    table: ItemTable
    refined: RefineJob | None = None
    publish: PublishConfig = field(default_factory=PublishConfig)

    @property
    def stage(self) -> MapJob | RefineJob:
        """The stage whose store is published."""
        return self.refined or self.job

    @property
    def title(self) -> str:
        """Area and season."""
        return f"{self.area.name}, {_season(*self.table.time_range)}"

    @property
    def subtitle(self) -> str:
        """Model and imagery."""
        number = len(self.table)
        kind = "simulated " if self._simulated else ""
        return f"{self.job.bundle.name}, {number} {kind}Sentinel-2 scene{'s' if number > 1 else ''}"

    @property
    def layers(self) -> list[str]:
        """Layers that become files, the main one first: flat ones, and all where there is no label."""
        layers = self.job.bundle.layers(self.job.layers)
        sizes = {name: planes.stop - planes.start for name, planes in layers.slices.items()}
        flat = [name for name, size in sizes.items() if size == 1]
        deep = [name for name, size in sizes.items() if 1 < size <= _MOST_BANDS and "label" not in sizes]
        return [*deep, *flat, "observations", *([CHANGED] if self.refined else [])]

    def scheme_of(self, layer: str) -> ClassScheme | None:
        """Return the classes of a layer: the map's, or the steps of the refinement; None for amounts."""
        if layer == CHANGED and self.refined is not None:
            return ClassScheme.from_names(self.refined.spec.names)
        return self.job.bundle.classes if layer == "label" else None

    @property
    def attribution(self) -> str:
        """The notice that users of Copernicus Sentinel data owe; none for simulated scenes."""
        years = sorted({day.year for day in self.table.time_range})
        return (
            ""
            if self._simulated
            else f"Contains modified Copernicus Sentinel data {'-'.join(map(str, years))}."
        )

    @property
    def _simulated(self) -> bool:
        return any("simulated" in item.collection for item in self.table)


def describe(
    map_: Published, box: Box, home: Path, files: dict[str, Path], mosaics: tuple[Mosaic, ...]
) -> MapProduct:
    """Say what a map is.

    Args:
        map_: The map.
        box: The area's own pixels.
        home: Local folder that is, or stands for, the run folder.
        files: Files of the whole map by asset key.
        mosaics: Its variables as files.
    """
    job, refined = map_.job, map_.refined
    first, last = map_.table.time_range
    name = f"{map_.area.name}-{first:%Y%m}-{last:%Y%m}{job.name.removeprefix(MAP)}"
    return MapProduct(
        id=_item_id(name),
        title=map_.title,
        grid=job.grid,
        box=box,
        scheme=job.bundle.classes,
        start=first,
        end=last,
        outline=map_.area.geometry,
        files={**files, "zarr": home / f"{map_.stage.name}.zarr"},
        mosaics=mosaics,
        layers={n: _band(map_, n) for n in map_.layers if n not in ("label", "observations")},
        model=_model(job),
        sources=(str(home / job.items),),
        raw=str(home / f"{job.name}.zarr") if refined else "",
        steps=steps_in_words(refined.spec) if refined else (),
        terms=map_.publish.terms(map_.attribution),
        version=software_version(),
    )


def steps_in_words(spec: RefineSpec) -> tuple[str, ...]:
    """Write each step of a refinement with the settings that are not its defaults.

    >>> from engine.refine.chain import SieveConfig
    >>> steps_in_words(RefineSpec(sieve=SieveConfig(min_px=5)))
    ('sieve (min_px 5)',)
    """
    steps = [spec.sieve] if spec.sieve is not None else list(spec.steps)
    kinds = (name.partition("_")[2] for name in spec.names)
    told = []
    for kind, step in zip(kinds, steps, strict=True):
        settings = step.model_dump(mode="json", exclude_defaults=True, exclude={"step"})
        words = ", ".join(f"{key} {_words(value)}" for key, value in settings.items())
        told.append(f"{kind} ({words})" if words else kind)
    return tuple(told)


def _words(value: Any) -> str:
    """Write a setting; of a file its name alone, as a catalogue tells no paths.

    >>> _words("/home/somebody/fields.gpkg"), _words(["water", 3])
    ('fields.gpkg', 'water 3')
    """
    if isinstance(value, list):
        return " ".join(_words(v) for v in value)
    if isinstance(value, dict):
        return " ".join(f"{k} {_words(v)}" for k, v in value.items())
    return Path(value).name if isinstance(value, str) and "/" in value else str(value)


def _band(map_: Published, name: str) -> dict[str, Any]:
    """Say how a layer is stored, by the names of the raster extension."""
    if name == CHANGED and map_.refined is not None:
        steps = dict(enumerate(("unchanged", *map_.refined.spec.names)))
        return {"data_type": "uint8", "nodata": CHANGED_NO_DATA, "classes": steps}
    bundle = map_.job.bundle
    attributes, layers = layer_attributes(bundle, name), bundle.layers(map_.job.layers)
    found = {"data_type": layers.dtype.name, "nodata": layers.no_data(name), "scale": attributes["scale"]}
    found |= {"offset": attributes.get("offset", 0.0)}
    if attributes["units"] != "1":
        found["unit"] = attributes["units"]
    if stacked(bundle, name):
        found["planes"] = list(bundle.classes.names)
    return found


def _item_id(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-._") or "map"


def _season(first: dt.date, last: dt.date) -> str:
    """Write a season by its months.

    >>> _season(dt.date(2023, 3, 1), dt.date(2023, 10, 31)), _season(dt.date(2017, 2, 1), dt.date(2017, 2, 28))
    ('March 2023 to October 2023', 'February 2017')
    """
    months = dict.fromkeys(f"{day:%B %Y}" for day in (first, last))
    return " to ".join(months)


def _model(job: MapJob) -> ModelRef:
    folder = Path(job.bundle.path).absolute()
    manifest = folder / "manifest.json"
    href = str(manifest) if local_path(job.run_dir) is not None else manifest.as_uri()
    weights = " + sha256:".join(b.weights_sha256 for b in bundles_of(job.bundle))
    return ModelRef(name=job.bundle.name, href=href, digest=weights)


def software_version() -> str:
    """Return the version of landweave that runs."""
    try:
        return version("landweave")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "source"
