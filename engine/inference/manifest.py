"""The manifest of a model bundle: a STAC 1.1 item with the machine learning model extension (MLM) 1.4.

Any STAC tool can read what the model is (the ``mlm:`` fields); what landweave needs to run it stands
beside them under ``landweave:`` and is the only part that is read back.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.inference.blend import Border
from engine.models.normalise import Normalisation, Standard
from engine.values.bands import find_band
from engine.values.calibration import FamiliarFields, VectorScale
from engine.values.classes import ClassScheme
from engine.values.errors import InputError
from engine.values.head import ONE_CLASS, Head, MultiLabel, Values
from engine.values.lattice import Kernel, Lattice
from engine.values.planes import Plane, reflectance_planes
from engine.values.spec import CubeSpec

MANIFEST = "manifest.json"
FORMAT = 1
"""Raised when a reader of an older version could not read a manifest of this one."""

Precision = Literal["float32", "bfloat16", "float16"]
"""What a network computes in; sums and decisions stay exact."""

_PREFIX = "landweave:"
MEMBERS = f"{_PREFIX}members"
"""Where the manifest of an ensemble lists its members; that of a bundle has no such field."""

_EXTENSIONS = (
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json",
)
_SHA256_MULTIHASH = "1220"  # multihash code of sha2-256, 32 bytes; what file:checksum asks for


class Layout(BaseModel):
    """How the network wants its input and gives its output.

    Attributes:
        order: ``BTCHW`` for networks of the registry, which also get the validity planes; ``NCHW`` or
            ``NHWC`` for foreign ONNX, dates merged into the channels (all bands of the first date, then
            of the second); ``NF`` or ``NTC`` for foreign ONNX on rows of pixels, NF merged likewise.
        output: What the network gives: ``logits`` or ``probabilities``; no matter for values.
        class_axis: Axis of the output (0..3) that holds the classes.
        stride: Input pixels per output pixel, along y and x; the map's grid is coarser by it.
        input_name: Name of the ONNX input; empty takes the only one.
        output_name: Name of the ONNX output; empty takes the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    order: Literal["BTCHW", "NCHW", "NHWC", "NF", "NTC"] = "BTCHW"
    output: Literal["logits", "probabilities"] = "logits"
    class_axis: int = Field(default=1, ge=1, le=3)
    stride: int = Field(default=1, ge=1)
    input_name: str = ""
    output_name: str = ""


class LatticeFields(BaseModel):
    """A `Lattice` as JSON, and what lies beyond the input."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    window_px: int = Field(ge=1)
    overlap_px: int = Field(ge=0)
    kernel: Kernel
    border: Border = "reflect"

    def lattice(self) -> Lattice:
        """Return the value; raises what `Lattice` raises."""
        return Lattice(self.window_px, self.overlap_px, self.kernel)


class ManifestFields(BaseModel):
    """What stands under ``landweave:`` in a manifest.

    Attributes:
        format: Version of these fields.
        cube: Spec of the cubes that the model was trained on.
        n_dates: Dates of such a cube; None: any number.
        classes: Names of the outputs, in their order.
        head: What the outputs mean.
        lattice: Windows and blending.
        size_free: Whether windows of another size give the same answers but for their rims.
        precision: What the network computes in.
        planes: What the network sees of each date, in its order; None: the cube's bands.
        normalisation: From the planes' 16 bits (reflectance x 10000) to the network's input.
        layout: Input and output order.
        temperature: Logits are divided by it before the softmax (calibration).
        vector: Scale and shift of each class's logit, before the temperature; None: as they are.
        familiar: What is known of the features of the training; None: nothing, and no layer ``unfamiliar``.
        architecture: Name in the registry; None for ONNX.
        config: Configuration of the architecture; None for ONNX.
        weights_sha256: Of the weights file, lower-case hex.
        training: Split, scores and options of the training; free text and numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int
    cube: CubeSpec
    n_dates: int | None = Field(default=None, ge=1)
    classes: ClassScheme
    head: Head = ONE_CLASS
    lattice: LatticeFields
    size_free: bool = False
    precision: Precision = "float32"
    planes: tuple[Plane, ...] | None = None
    normalisation: Normalisation
    layout: Layout
    temperature: float = Field(gt=0, allow_inf_nan=False)
    vector: VectorScale | None = None
    familiar: FamiliarFields | None = None
    architecture: str | None = None
    config: dict[str, Any] | None = None
    weights_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    training: dict[str, Any] = Field(default_factory=dict)

    @property
    def seen(self) -> tuple[Plane, ...]:
        """The planes, those of the bands filled in."""
        return self.planes or reflectance_planes(self.cube.bands)


NAME = r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"
"""Pattern of a model's name, as the MLM extension has it."""


class Description(BaseModel):
    """What a person wants to know, and no byte of a map depends on.

    Attributes:
        name: Short name of the model: letters, digits, ``. _ -`` and blanks.
        description: A sentence or two.
        licence: SPDX identifier, or ``other``.
        framework: ``PyTorch`` or ``ONNX``.
        framework_version: Version that wrote the weights.
        architecture: Name from the literature.
        n_parameters: Number of weights, if known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(pattern=NAME)
    description: str = ""
    licence: str = "other"
    framework: str = "PyTorch"
    framework_version: str | None = None
    architecture: str = "unknown"
    n_parameters: int | None = None


def to_item(fields: ManifestFields, about: Description, weights_name: str, n_bytes: int) -> dict[str, Any]:
    """Write a manifest.

    Args:
        fields: What landweave reads back.
        about: What people and catalogues read.
        weights_name: File name of the weights, in the manifest's folder.
        n_bytes: Their size.

    Returns:
        A STAC item as JSON.
    """
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    # Inside the cube spec None means something (no mask, no composites), so only whole fields are left out.
    own = {_PREFIX + k: v for k, v in fields.model_dump(mode="json").items() if v is not None}
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": list(_EXTENSIONS),
        "id": re.sub(r"\s+", "-", about.name),
        "geometry": None,
        "properties": {
            "datetime": now,
            "created": now,
            "description": about.description or f"Land cover model {about.name}",
            "license": about.licence,
            "bands": [_band(plane, fields.cube.resolution_m) for plane in fields.seen],
            **_mlm(fields, about),
            **own,
        },
        "links": [],
        "assets": {"model": _asset(fields, about, weights_name, n_bytes)},
    }


def _band(plane: Plane, resolution_m: float) -> dict[str, Any]:
    """Describe a plane: a band of Sentinel-2, or what stands beside them."""
    known = find_band(plane.name) if plane.kind == "reflectance" else None
    if known is not None:
        told, size = f"Sentinel-2 MSI {known.msi}", float(known.resolution_m)
    else:
        scale, low = plane.rule
        told, size = f"{plane.kind}, stored as (value - {low:g}) x {scale:g}", resolution_m
    return {"name": plane.name, "description": told, "gsd": size}


def _mlm(fields: ManifestFields, about: Description) -> dict[str, Any]:
    found: dict[str, Any] = {
        "mlm:name": about.name,
        "mlm:architecture": about.architecture,
        "mlm:tasks": [_task(fields)],
        "mlm:framework": about.framework,
        "mlm:framework_version": about.framework_version,
        "mlm:total_parameters": about.n_parameters,
        "mlm:batch_size_suggestion": 1,
        "mlm:input": [_mlm_input(fields)],
        "mlm:output": [_mlm_output(fields)],
        "mlm:hyperparameters": fields.config,
    }
    return {k: v for k, v in found.items() if v is not None}


def _mlm_input(fields: ManifestFields) -> dict[str, Any]:
    side, n_bands = fields.lattice.window_px, len(fields.seen)
    dates = fields.n_dates or -1  # -1: any number
    merged = n_bands * fields.n_dates if fields.n_dates else -1
    shape, order = {
        "BTCHW": ([-1, dates, n_bands, side, side], ["batch", "time", "channel", "height", "width"]),
        "NCHW": ([-1, merged, side, side], ["batch", "channel", "height", "width"]),
        "NHWC": ([-1, side, side, merged], ["batch", "height", "width", "channel"]),
        "NF": ([-1, merged], ["batch", "feature"]),
        "NTC": ([-1, dates, n_bands], ["batch", "time", "channel"]),
    }[fields.layout.order]
    return {
        "name": "window of the cube",
        "bands": [plane.name for plane in fields.seen],
        "input": {"shape": shape, "dim_order": order, "data_type": "float32"},
        "description": "Reflectance x 10000, scaled; 0 where a date has no data. Bands repeat for each date.",
        "value_scaling": _value_scaling(fields.normalisation),
    }


def _value_scaling(normalisation: Any) -> list[dict[str, Any]]:
    if isinstance(normalisation, Standard):
        pairs = zip(normalisation.mean, normalisation.std, strict=True)
        return [{"type": "z-score", "mean": m, "stddev": s} for m, s in pairs]
    return [
        {
            "type": "processing",
            "format": "numexpr",
            "expression": f"1 / (1 + exp(1 - 5 * (log(0.005 * x + 1) - {c}) / {s}))",
        }
        for c, s in zip(normalisation.centre, normalisation.scale, strict=True)
    ]


def _task(fields: ManifestFields) -> str:
    """Name the task as the extension does, which has no name for many classes a pixel, nor for features."""
    if isinstance(fields.head, Values):
        return "regression"
    return "classification" if isinstance(fields.head, MultiLabel) else "semantic-segmentation"


def _mlm_output(fields: ManifestFields) -> dict[str, Any]:
    side, n_classes = fields.lattice.window_px // fields.layout.stride, len(fields.classes.classes)
    shape, order = [-1, side, side], ["batch", "height", "width"]
    if fields.layout.order in ("NF", "NTC"):
        shape, order = [-1], ["batch"]
    shape.insert(fields.layout.class_axis, n_classes)
    order.insert(fields.layout.class_axis, "class")
    return {
        "name": fields.head.variable if isinstance(fields.head, Values) else fields.layout.output,
        "tasks": [_task(fields)],
        "result": {"shape": shape, "dim_order": order, "data_type": "float32"},
        "classification:classes": [
            {
                "value": c.value,
                "name": re.sub(r"[^0-9A-Za-z_-]", "_", c.name),
                "title": c.name,
                "description": c.name,
                "color_hint": c.colour[1:].upper(),
            }
            for c in fields.classes.classes
        ],
    }


def _asset(fields: ManifestFields, about: Description, weights_name: str, n_bytes: int) -> dict[str, Any]:
    return {
        "bands": [
            _band(plane, fields.cube.resolution_m) for plane in fields.seen
        ],  # core 1.1: properties' bands need an asset's
        "href": f"./{weights_name}",
        "type": "application/octet-stream",
        "title": f"Weights of {about.name}",
        "roles": ["mlm:model", "mlm:weights", "data"],
        "mlm:artifact_type": Path(weights_name).suffix.lstrip("."),
        "file:size": n_bytes,
        "file:checksum": _SHA256_MULTIHASH + fields.weights_sha256,
    }


def read_item(path: Path) -> dict[str, Any]:
    """Read a manifest's JSON.

    Raises:
        InputError: If it is missing or not a JSON object with properties and assets.
    """
    try:
        item = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            "cannot read the bundle's manifest",
            where=str(path),
            mend=f"give the folder that `landweave train` or `landweave bundle` wrote ({error})",
        ) from error
    for key in ("properties", "assets"):
        if not isinstance(item, dict) or not isinstance(item.get(key), dict):
            raise InputError("the manifest is not a STAC item", where=f"{path}: {key}", limit="an object")
    found: dict[str, Any] = item
    return found


def weights_name(item: dict[str, Any], path: Path) -> str:
    """Return the file name of the weights; refuses everything that leaves the bundle's folder.

    Raises:
        InputError: If the asset is missing or its href is not a plain file name.
    """
    href = (item["assets"].get("model") or {}).get("href")
    name = href.removeprefix("./") if isinstance(href, str) else ""
    if not name or Path(name).name != name or name in (".", ".."):
        raise InputError(
            "the weights must lie in the bundle's own folder",
            where=f"{path}: assets.model.href",
            found=href,
            limit="a file name",
        )
    return name


def read_fields(item: dict[str, Any], path: Path) -> ManifestFields:
    """Read landweave's own fields.

    Raises:
        InputError: If a field is missing, unknown or out of range; names it.
    """
    properties = item["properties"]
    own = {k.removeprefix(_PREFIX): v for k, v in properties.items() if k.startswith(_PREFIX)}
    if own.get("format", FORMAT) != FORMAT:
        raise InputError(
            "the bundle was written by another version",
            where=f"{path}: {_PREFIX}format",
            found=own.get("format"),
            limit=FORMAT,
            mend="write the bundle again with this version, or upgrade",
        )
    try:
        return ManifestFields.model_validate(own)
    except ValidationError as error:
        problems = [f"{_PREFIX}{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise InputError(
            "the manifest does not describe a model", where=str(path), found="; ".join(problems)
        ) from error
