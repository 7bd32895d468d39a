"""The model bundle: a folder with ``manifest.json`` and ``model.safetensors`` or ``model.onnx``.

Weights are only ever numbers (safetensors) or a graph without code (ONNX). A graph of torch
(``model.pt2``) may bring code with it, so it needs an explicit word of trust. Whatever else a folder
offers, a pickle above all, is refused before a byte of it is interpreted.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.inference.blend import Border, Frame
from engine.inference.contradictions import refuse_contradictions
from engine.inference.decide import Layers
from engine.inference.formats import Kind, kind_of, refuse_code
from engine.inference.manifest import (
    FORMAT,
    MANIFEST,
    MEMBERS,
    Description,
    LatticeFields,
    Layout,
    ManifestFields,
    Precision,
    read_fields,
    read_item,
    to_item,
    weights_name,
)
from engine.inference.unfamiliar import Familiarity, write_familiarity
from engine.models.configs import NetworkConfig
from engine.models.normalise import LogSigmoid, Standard
from engine.models.registry import check_config, size_free, takes_days
from engine.values.calibration import FamiliarFields, VectorScale
from engine.values.classes import ClassScheme
from engine.values.errors import DataError, InputError
from engine.values.grid import Box
from engine.values.head import ONE_CLASS, Classes, Extra, MultiLabel, Values
from engine.values.lattice import Lattice
from engine.values.masking import refuse_functions
from engine.values.planes import Plane, reflectance_planes
from engine.values.spec import CubeSpec

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Bundle:
    """A model and everything that its map depends on.

    Two bundles are equal when they give the same map; path, names and scores do not count.

    Attributes:
        spec: Cubes that the model runs on.
        n_dates: Dates of such a cube; None: any number.
        classes: Names of the outputs, in their order.
        lattice: Windows, overlap and blending.
        normalisation: From the planes' uint16 to the network's input.
        temperature: Divides the logits before the softmax.
        layout: Order of the input, kind of the output.
        kind: Format of the weights.
        weights_sha256: Checksum of the weights file.
        architecture: Name in the registry; None for graphs (ONNX, pt2).
        config: Its configuration; None for graphs.
        path: The folder.
        head: What the outputs mean.
        border: What lies beyond the input.
        planes: What the network sees of each date, in its order; empty is filled in: the spec's bands.
        vector: Scale and shift of each class's logit, before the temperature.
        familiar: What is known of the features of the training, for the layer ``unfamiliar``.
        precision: What the network computes in.
        size_free: Whether windows of another size give the same answers but for their rims.
        name: Short name.
        description: A sentence or two.
        licence: SPDX identifier.
        training: Split, scores and options of the training.
    """

    spec: CubeSpec
    n_dates: int | None
    classes: ClassScheme
    lattice: Lattice
    normalisation: Standard | LogSigmoid
    temperature: float
    layout: Layout
    kind: Kind
    weights_sha256: str
    architecture: str | None
    config: NetworkConfig | None
    path: Path = field(compare=False)
    head: Classes | MultiLabel | Values = ONE_CLASS
    border: Border = "reflect"
    precision: Precision = "float32"
    planes: tuple[Plane, ...] = ()
    vector: VectorScale | None = None
    familiar: FamiliarFields | None = None
    size_free: bool = field(default=False, compare=False)
    name: str = field(default="", compare=False)
    description: str = field(default="", compare=False)
    licence: str = field(default="other", compare=False)
    training: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if not self.planes:
            object.__setattr__(self, "planes", reflectance_planes(self.spec.bands))

    @property
    def weights_path(self) -> Path:
        """The weights file."""
        return self.path / f"model.{self.kind}"

    @property
    def stride(self) -> int:
        """Input pixels per output pixel, along y and x."""
        return self.layout.stride

    @property
    def pixelwise(self) -> bool:
        """Whether the network looks at one pixel at a time."""
        return self.lattice.window_px == 1

    @property
    def takes_days(self) -> bool:
        """Whether the network asks for the running day of each date."""
        return self.architecture is not None and takes_days(self.architecture)

    def frame(self, outer: Box, core: Box, wanted: NDArray[np.bool_] | None = None) -> Frame:
        """Say what is known and what is wanted, for this model."""
        groups = getattr(self.normalisation, "groups", None)
        return Frame(outer, core, self.lattice, self.border, self.layout.stride, wanted, groups)

    def layers(self, extras: tuple[Extra, ...] = ()) -> Layers:
        """Return the layers of this model's maps."""
        return Layers(self.head, self.classes.values, extras)

    def outer(self, core: Box) -> Box:
        """Return all input that the pixels of a core depend on, both in input pixels."""
        return self.lattice.pad(core)

    def windows(self, core: Box, wanted: NDArray[np.bool_] | None = None) -> int:
        """Return how many windows (of a pixel-wise network: rows of pixels) a core in input pixels needs.

        Args:
            core: What an answer is wanted for; its halo is there.
            wanted: (y, x) bool over the core's output pixels; None: all of them.
        """
        return self.frame(self.outer(core), core, wanted).count()

    def digest(self) -> str:
        """Return the sha256 over everything that changes a byte of the map.

        Weights, cube spec, dates, class values, head, lattice, normalisation, temperature, layout, precision and
        architecture count; names, colours, paths and scores do not.
        """
        parts = {
            "format": FORMAT,
            "weights": self.weights_sha256,
            "kind": self.kind,
            "spec": self.spec.model_dump(mode="json"),
            "n_dates": self.n_dates,
            "classes": self.classes.values,
            "lattice": (self.lattice.window_px, self.lattice.overlap_px, self.lattice.kernel, self.border),
            "head": self.head.model_dump(mode="json"),
            "precision": self.precision,
            "normalisation": self.normalisation.model_dump(mode="json"),
            "temperature": self.temperature,
            "layout": self.layout.model_dump(mode="json"),
            "architecture": self.architecture,
            "config": self.config.model_dump(mode="json") if self.config else None,
        }
        if self.planes != reflectance_planes(self.spec.bands):
            parts["planes"] = [plane.model_dump(mode="json") for plane in self.planes]
        for name in ("vector", "familiar"):  # bundles without them keep the digest that they had
            if (value := getattr(self, name)) is not None:
                parts[name] = value.model_dump(mode="json")
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def read_weights(self) -> bytes:
        """Read the weights and check them, so that what runs is what was hashed.

        Raises:
            DataError: If the file is missing or its checksum differs.
        """
        try:
            content = self.weights_path.read_bytes()
        except OSError as error:
            raise DataError(
                "cannot read the weights", where=str(self.weights_path), mend=str(error)
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.weights_sha256:
            raise DataError(
                "the weights are not those that the manifest names",
                where=str(self.weights_path),
                found=f"sha256 {found}",
                limit=self.weights_sha256,
                mend="copy the bundle again, or write it again with `landweave bundle`",
            )
        return content

    def __dask_tokenize__(self) -> tuple[str, str]:
        return ("landweave.Bundle", self.digest())


@dataclass(frozen=True)
class BundleFields:
    """What is needed, beside the weights, to write a bundle; attributes as in `Bundle`.

    `size_free` None: what the registry says of the architecture, false of foreign networks.
    """

    name: str
    spec: CubeSpec
    n_dates: int | None
    classes: ClassScheme
    lattice: Lattice
    normalisation: Standard | LogSigmoid
    temperature: float = 1.0
    head: Classes | MultiLabel | Values = ONE_CLASS
    border: Border = "reflect"
    precision: Precision = "float32"
    planes: tuple[Plane, ...] = ()
    vector: VectorScale | None = None
    familiarity: Familiarity | None = None
    size_free: bool | None = None
    description: str = ""
    licence: str = "other"
    training: dict[str, Any] = field(default_factory=dict)


def load_bundle(path: str | Path, *, trust_model: bool = False) -> Bundle:
    """Open a bundle without running anything of it.

    Args:
        path: The bundle's folder.
        trust_model: Accept weights that may run code when the model is built (``.pt2``), and a cube spec
            that masks with a function (``package.module:function``), which runs when the cube is opened.

    Raises:
        InputError: If the manifest is missing or wrong; names the field.
        TrustError: If the weights are in a format that can run code, or the cube spec names a function and
            is not trusted; nothing is opened or imported.
        DataError: If the weights are missing or are not those that the manifest names.
    """
    folder = Path(path)
    refuse_code(folder)
    manifest = folder / MANIFEST
    item = read_item(manifest)
    if MEMBERS in item["properties"]:
        raise InputError("an ensemble where a bundle is wanted", where=str(manifest), mend="see load_model")
    kind = kind_of(folder / weights_name(item, manifest), trust_model=trust_model)
    fields = read_fields(item, manifest)
    bundle = _bundle(folder, kind, fields, item["properties"])
    if not trust_model:
        refuse_functions(bundle.spec.mask, f"{manifest}: landweave:cube.mask")
    refuse_contradictions(bundle)
    bundle.read_weights()
    return bundle


def save_bundle(
    folder: str | Path, module: torch.nn.Module, architecture: str, fields: BundleFields
) -> Bundle:
    """Write a network of the registry as a bundle.

    Args:
        folder: Made if need be; an older bundle in it is replaced.
        module: The network; its ``config`` names its sizes.
        architecture: Its name in the registry.
        fields: Everything else.

    Returns:
        The bundle as `load_bundle` gives it.

    Raises:
        InputError: If the fields do not fit the network.
    """
    import torch
    from safetensors.torch import save

    config = module.config
    if not isinstance(config, NetworkConfig):
        raise InputError("the network is not of the registry", where="module.config", found=type(config))
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    title = {"unet": "U-Net", "presto": "Presto"}.get(architecture, architecture)
    about = _about(fields, "PyTorch", title, str(torch.__version__)).model_copy(
        update={"n_parameters": sum(p.numel() for p in module.parameters())}
    )
    model = {"layout": Layout(), "architecture": architecture, "config": config.model_dump(mode="json")}
    manifest, known = _manifest_fields(fields, model), fields.familiarity
    return _write(Path(folder), "safetensors", save(state), manifest, about, known)


def create_onnx_bundle(
    folder: str | Path,
    onnx: str | Path | bytes,
    layout: Layout,
    fields: BundleFields,
    architecture: str = "unknown",
) -> Bundle:
    """Wrap a foreign ONNX network as a bundle.

    Args:
        folder: Made if need be.
        onnx: The network, a file or its bytes: one float32 input, in windows (fully convolutional, or of the
            lattice's size) or in rows of pixels, as the layout says.
        layout: Order of its input, kind of its output.
        fields: Everything else.
        architecture: Name for people.

    Returns:
        The bundle as `load_bundle` gives it.

    Raises:
        InputError: If the file cannot be read or the layout does not fit ONNX.
        TrustError: If the file is not ONNX by its name.
    """
    content = onnx if isinstance(onnx, bytes) else _read(Path(onnx), "onnx")
    about = _about(fields, "ONNX", architecture)
    return _write(Path(folder), "onnx", content, _manifest_fields(fields, {"layout": layout}), about)


def create_pt2_bundle(
    folder: str | Path,
    pt2: str | Path,
    layout: Layout,
    fields: BundleFields,
    *,
    trust_model: bool = False,
    architecture: str = "unknown",
) -> Bundle:
    """Wrap a network that `torch.export.save` wrote; it is not opened here.

    Args:
        folder: Made if need be.
        pt2: The network: one float32 input of one window, as for ONNX.
        layout: Order of its input, kind of its output.
        fields: Everything else.
        trust_model: Say that the file comes from someone you trust: it may run code when it is opened.
        architecture: Name for people.

    Returns:
        The bundle as `load_bundle` gives it.

    Raises:
        InputError: If the file cannot be read or is none by its name.
        TrustError: If it is not trusted.
    """
    import torch

    content = _read(Path(pt2), "pt2", trust_model=trust_model)
    about = _about(fields, "PyTorch", architecture, str(torch.__version__))
    return _write(Path(folder), "pt2", content, _manifest_fields(fields, {"layout": layout}), about)


def _about(
    fields: BundleFields, framework: str, architecture: str, version: str | None = None
) -> Description:
    return Description(
        name=fields.name,
        description=fields.description,
        licence=fields.licence,
        framework=framework,
        framework_version=version,
        architecture=architecture,
    )


def _read(path: Path, kind: Kind, *, trust_model: bool = False) -> bytes:
    """Read a weights file without interpreting it, once its name says that this is safe or trusted."""
    if kind_of(path, trust_model=trust_model) != kind:
        raise InputError("weights of another format", where=str(path), limit=f"*.{kind}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError("cannot read the weights", where=str(path), mend=str(error)) from error


def _manifest_fields(fields: BundleFields, model: dict[str, Any]) -> ManifestFields:
    """Join fields and model; the checksum is filled in when the weights are written."""
    lattice = fields.lattice
    known = size_free(model["architecture"], model["config"]) if "architecture" in model else False
    return ManifestFields(
        format=FORMAT,
        cube=fields.spec,
        n_dates=fields.n_dates,
        classes=fields.classes,
        head=fields.head,
        lattice=LatticeFields(
            window_px=lattice.window_px,
            overlap_px=lattice.overlap_px,
            kernel=lattice.kernel,
            border=fields.border,
        ),
        size_free=known if fields.size_free is None else fields.size_free,
        precision=fields.precision,
        planes=fields.planes or None,
        normalisation=fields.normalisation,
        temperature=fields.temperature,
        vector=fields.vector,
        familiar=fields.familiarity.fields() if fields.familiarity else None,
        training=fields.training,
        weights_sha256="0" * 64,
        **model,
    )


def _write(
    folder: Path,
    kind: Kind,
    content: bytes,
    fields: ManifestFields,
    about: Description,
    familiarity: Familiarity | None = None,
) -> Bundle:
    """Write weights, then the manifest by rename: a folder never holds a manifest without its weights."""
    fields = fields.model_copy(update={"weights_sha256": hashlib.sha256(content).hexdigest()})
    item = to_item(fields, about, f"model.{kind}", len(content))
    refuse_contradictions(_bundle(folder, kind, fields, item["properties"]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"model.{kind}").write_bytes(content)
    write_familiarity(folder, familiarity)
    draft = folder / f"{MANIFEST}.part"
    draft.write_text(json.dumps(item, indent=2, ensure_ascii=False) + "\n")
    draft.replace(folder / MANIFEST)
    return load_bundle(folder, trust_model=True)  # the spec is the writer's own


def _bundle(folder: Path, kind: Kind, fields: ManifestFields, about: dict[str, Any]) -> Bundle:
    known = fields.architecture is not None
    return Bundle(
        spec=fields.cube,
        n_dates=fields.n_dates,
        classes=fields.classes,
        lattice=fields.lattice.lattice(),
        normalisation=fields.normalisation,
        temperature=fields.temperature,
        layout=fields.layout,
        kind=kind,
        weights_sha256=fields.weights_sha256,
        architecture=fields.architecture,
        config=check_config(str(fields.architecture), fields.config or {}) if known else None,
        path=folder,
        head=fields.head,
        border=fields.lattice.border,
        precision=fields.precision,
        planes=fields.planes or (),
        vector=fields.vector,
        familiar=fields.familiar,
        size_free=fields.size_free,
        name=str(about.get("mlm:name", folder.name)),
        description=str(about.get("description", "")),
        licence=str(about.get("license", "other")),
        training=fields.training,
    )
