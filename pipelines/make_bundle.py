"""Wrap a foreign ONNX network as a bundle, from a YAML that says what the network expects.

::

    name: Dynamic World
    onnx: dynamicworld.onnx
    bundle: bundle
    cube: {bands: [B02, B03, B04, B05, B06, B07, B08, B11, B12], period: null, mask: null}
    n_dates: 1
    classes: classes.yaml
    layout: {order: NHWC, class_axis: 3, output: logits}
    normalisation: {kind: standard, mean: [...], std: [...]}
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle
from engine.inference.manifest import Layout
from engine.models.normalise import Normalisation
from engine.values.classes import ClassScheme
from engine.values.spec import CubeSpec
from pipelines.config import LatticeConfig, parse_yaml


class BundleConfig(BaseModel):
    """What must be known of a foreign network."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str = Field(description="Short name of the model.")
    onnx: str = Field(description="The ONNX file.")
    bundle: str = Field(description="Folder of the bundle to write.")
    cube: CubeSpec = Field(description="The cube that the network was trained on.")
    n_dates: int = Field(ge=1, description="Dates of that cube.")
    classes: str = Field(description="YAML of the class scheme, in the order of the outputs.")
    layout: Layout = Field(description="Order of the input; kind and class axis of the output.")
    normalisation: Normalisation = Field(description="From reflectance x 10000 to the network's input.")
    lattice: LatticeConfig = Field(default_factory=LatticeConfig, description="Windows of the map.")
    temperature: float = Field(default=1.0, gt=0, description="Logits are divided by it (calibration).")
    licence: str = Field(default="other", description="SPDX identifier of the weights' licence.")
    description: str = Field(default="", description="A sentence or two for people.")


def make_bundle(path: str | Path, overrides: list[str] | None = None) -> Bundle:
    """Read the YAML and write the bundle; its network is not run.

    Raises:
        InputError: If a setting or a file is wrong.
    """
    config = parse_yaml(BundleConfig, path, overrides, paths=("onnx", "bundle", "classes"))
    fields = BundleFields(
        name=config.name,
        spec=config.cube,
        n_dates=config.n_dates,
        classes=ClassScheme.from_file(config.classes),
        lattice=config.lattice.lattice(),
        normalisation=config.normalisation,
        temperature=config.temperature,
        description=config.description,
        licence=config.licence,
    )
    return create_onnx_bundle(config.bundle, config.onnx, config.layout, fields)
