"""Write bundles: from a YAML that says what a network expects, from published weights, or from another bundle.

::

    name: Dynamic World
    onnx: dynamicworld.onnx          # or pt2: (with --trust-model), or weights: with architecture and config
    bundle: bundle
    cube: {bands: [B02, B03, B04, B05, B06, B07, B08, B11, B12], period: null, mask: null}
    n_dates: 1
    classes: classes.yaml
    layout: {order: NHWC, class_axis: 3, output: logits}
    normalisation: {kind: standard, mean: [...], std: [...]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.inference.blend import Border
from engine.inference.bundle import (
    Bundle,
    BundleFields,
    create_onnx_bundle,
    create_pt2_bundle,
    load_bundle,
    save_bundle,
)
from engine.inference.manifest import NAME, Layout, Precision
from engine.models.normalise import Normalisation
from engine.models.registry import pixelwise
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.head import ONE_CLASS, Head
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from pipelines.config import LatticeConfig, parse_config, parse_yaml, with_overrides

_PRESTO_BANDS = (
    "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22",
)  # fmt: skip


class BundleConfig(BaseModel):
    """What must be known of a network: its weights in one of three forms, and everything around them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=NAME, description="Short name of the model.")
    onnx: str | None = Field(default=None, description="An ONNX file.")
    pt2: str | None = Field(default=None, description="A graph of torch.export; needs --trust-model.")
    weights: str | None = Field(
        default=None, description="State dict of a network of the registry: .safetensors, .pt or .pth."
    )
    architecture: str | None = Field(default=None, description="With weights: name in the registry.")
    config: dict[str, Any] = Field(default_factory=dict, description="With weights: its configuration.")
    bundle: str = Field(description="Folder of the bundle to write.")
    cube: CubeSpec = Field(description="The cube that the network was trained on.")
    n_dates: int | None = Field(default=None, ge=1, description="Dates of that cube; none: any number.")
    classes: str = Field(description="YAML of the class scheme, in the order of the outputs.")
    head: Head = Field(default=ONE_CLASS, description="classes, multilabel or values.")
    layout: Layout = Field(
        default_factory=Layout,
        description="Of a graph: order of the input; kind and class axis of the output.",
    )
    normalisation: Normalisation = Field(description="From reflectance x 10000 to the network's input.")
    lattice: LatticeConfig | None = Field(
        default=None, description="Windows of the map; by default none for networks of single pixels."
    )
    border: Border = Field(default="reflect", description="What lies beyond the archive's edge.")
    size_free: bool | None = Field(
        default=None, description="Whether larger windows give the same answers but for their rims."
    )
    precision: Precision = Field(default="float32", description="What the network computes in.")
    temperature: float = Field(default=1.0, gt=0, description="Logits are divided by it (calibration).")
    licence: str = Field(default="other", description="SPDX identifier of the weights' licence.")
    description: str = Field(default="", description="A sentence or two for people.")

    @model_validator(mode="after")
    def _one_network(self) -> BundleConfig:
        given = [name for name in ("onnx", "pt2", "weights") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of onnx, pt2 and weights, not {given or 'none of them'}")
        if (self.weights is None) != (self.architecture is None):
            raise ValueError("weights and architecture come together")
        return self

    def fields(self) -> BundleFields:
        """Return everything but the network."""
        known = self.architecture is not None and pixelwise(self.architecture, self.config)
        rows = known or self.layout.order in ("NF", "NTC")
        default = Lattice(1, 0) if rows else LatticeConfig().lattice()
        return BundleFields(
            name=self.name,
            spec=self.cube,
            n_dates=self.n_dates,
            classes=ClassScheme.from_file(self.classes),
            lattice=default if self.lattice is None else self.lattice.lattice(),
            normalisation=self.normalisation,
            temperature=self.temperature,
            head=self.head,
            border=self.border,
            precision=self.precision,
            size_free=self.size_free,
            description=self.description,
            licence=self.licence,
        )


class PublishedConfig(BaseModel):
    """What may be chosen for a network whose bundle is known here."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    bands: tuple[str, ...] = Field(default=_PRESTO_BANDS, description="presto: bands of the cube.")
    n_dates: int | None = Field(default=None, ge=1, description="presto: months; none: any number.")
    place: tuple[float, float] | None = Field(default=None, description="presto: latitude and longitude.")
    normalisation: str | None = Field(
        default=None, description="dynamic-world: JSON of its constants; default beside the weights."
    )


def make_bundle(path: str | Path, overrides: list[str] | None = None, *, trust_model: bool = False) -> Bundle:
    """Read the YAML and write the bundle; its network is not run.

    Raises:
        InputError: If a setting or a file is wrong.
        TrustError: If the weights could run code.
    """
    files = ("onnx", "pt2", "weights", "bundle", "classes")
    config = parse_yaml(BundleConfig, path, overrides, paths=files)
    if config.onnx is not None:
        return create_onnx_bundle(config.bundle, config.onnx, config.layout, config.fields())
    if config.pt2 is not None:
        return create_pt2_bundle(
            config.bundle, config.pt2, config.layout, config.fields(), trust_model=trust_model
        )
    return _from_registry(config)


def _from_registry(config: BundleConfig) -> Bundle:
    """Fill a network of the registry with a state dict, every tensor of it."""
    from engine.inference.state import read_state_dict
    from engine.models.registry import build

    architecture, fields = str(config.architecture), config.fields()
    sizes = {"n_dates": fields.n_dates, "n_bands": len(fields.spec.bands)}
    module = build(architecture, {**sizes, "n_classes": len(fields.classes.classes), **config.config})
    try:
        module.load_state_dict(read_state_dict(str(config.weights)))
    except RuntimeError as error:
        raise InputError(
            "the weights do not fit the architecture", where=str(config.weights), found=str(error)[:500]
        ) from error
    return save_bundle(config.bundle, module, architecture, fields)


def make_published(
    name: str, weights: str | Path, out: str | Path | None, overrides: list[str] | None = None
) -> Bundle:
    """Write the bundle of a published network that is known here: ``presto`` or ``dynamic-world``.

    Args:
        name: Which.
        weights: Its weights file.
        out: The bundle's folder; None: named after the network.
        overrides: ``key=value`` of `PublishedConfig`.

    Raises:
        InputError: If it is not known, or a setting or the file is wrong.
    """
    from engine.inference.foreign import dynamic_world, presto

    chosen = parse_config(with_overrides({}, overrides), "-o", PublishedConfig)
    folder = Path(name if out is None else out)
    if name == "presto":
        spec = CubeSpec(bands=chosen.bands, period="1MS")
        return presto(folder, weights, spec, chosen.n_dates, chosen.place)
    if name == "dynamic-world":
        beside = Path(weights).parent / "dynamicworld_normalisation.json"
        return dynamic_world(folder, weights, chosen.normalisation or beside)
    raise InputError("no such published network", where="--from", found=name, limit="presto, dynamic-world")


def export(
    folder: str | Path, to: str, out: str | Path | None = None, first_month: int | None = None
) -> Path:
    """Export a bundle's network; returns what was written.

    Raises:
        InputError: If the format is unknown or the bundle cannot be exported.
    """
    from engine.inference.export import FORMATS, export_bundle

    if to not in FORMATS:
        raise InputError("no such format", where="--to", found=to, limit=", ".join(FORMATS))
    bundle = load_bundle(folder)
    source = Path(folder)
    days = _days(bundle, first_month) if bundle.takes_days else ()
    target = source.with_name(f"{source.name}-{to}") if out is None else Path(out)
    found = export_bundle(bundle, target, FORMATS[to], days)
    return found.path if isinstance(found, Bundle) else found


def _days(bundle: Bundle, first_month: int | None) -> tuple[int, ...]:
    """Return a day in each month of the series; none where the first month is not known."""
    if first_month is None:
        return ()
    months = ((first_month - 1 + i) % 12 for i in range(bundle.n_dates or 0))
    return tuple(round(30.4 * month) + 15 for month in months)
