"""A network of the registry in another format: ONNX, torch.export, or safetensors that explain themselves.

A graph is self-contained: its one input is reflectance x 10000 as float32, 0 where there is no data, dates
merged into the channels (all bands of the first date, then of the second). Validity and normalisation, by the
very function that the lane uses, are part of the graph::

    windows   (batch, T * C, window, window)  ─►  logits (batch, K, window, window)     order NCHW
    pixels    (4096, T * C)                   ─►  logits (4096, K)                      order NF

The temperature is not: it stays in the manifest, as for every bundle.
"""

from __future__ import annotations

import copy
import json
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.inference.blend import ROWS
from engine.inference.bundle import Bundle, BundleFields, create_onnx_bundle, create_pt2_bundle
from engine.inference.manifest import Layout
from engine.models.normalise import Standard, prepare
from engine.values.errors import InputError

if TYPE_CHECKING:
    import torch

Target = Literal["onnx", "pt2", "safetensors"]

FORMATS: dict[str, Target] = {"onnx": "onnx", "pt2": "pt2", "safetensors": "safetensors"}
"""By the name that a person gives."""

_OPSET = 17


def export_bundle(
    bundle: Bundle, folder: str | Path, to: Target, days: tuple[int, ...] = ()
) -> Bundle | Path:
    """Write a bundle's network in another format.

    Args:
        bundle: Of the registry (safetensors).
        folder: Of the new bundle; for safetensors of the one file ``model.safetensors``, whose header holds
            architecture, configuration and normalisation as JSON.
        to: ``onnx``, ``pt2`` or ``safetensors``.
        days: Running day of each date, for networks that ask for them: they become part of the graph.

    Returns:
        The new bundle, opened; for safetensors the file.

    Raises:
        InputError: If the bundle is a graph already, takes any number of dates, or needs days.
    """
    if bundle.kind != "safetensors":
        raise InputError(
            "only networks of the registry can be exported", where=str(bundle.path), found=bundle.kind
        )
    if to == "safetensors":
        return _plain(bundle, Path(folder))
    graph, example = _graph(bundle, days)
    fields, layout = _fields(bundle), _layout(bundle)
    name = f"{bundle.architecture} (exported)"
    if to == "onnx":
        return create_onnx_bundle(folder, _to_onnx(graph, example, bundle), layout, fields, name)
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.pt2"
        free = None if bundle.pixelwise else ({0: torch.export.Dim.DYNAMIC},)
        with torch.no_grad():
            torch.export.save(torch.export.export(graph, (example,), dynamic_shapes=free), file)
        return create_pt2_bundle(folder, file, layout, fields, trust_model=True, architecture=name)


def _plain(bundle: Bundle, folder: Path) -> Path:
    from safetensors.torch import load, save

    about = {
        "architecture": bundle.architecture,
        "config": bundle.config.model_dump(mode="json") if bundle.config else None,
        "normalisation": bundle.normalisation.model_dump(mode="json"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "model.safetensors"
    file.write_bytes(save(load(bundle.read_weights()), metadata={k: json.dumps(v) for k, v in about.items()}))
    return file


def _fields(bundle: Bundle) -> BundleFields:
    """Everything but the network: the same, with nothing left to normalise."""
    n_bands = len(bundle.planes)
    return BundleFields(
        name=bundle.name,
        spec=bundle.spec,
        n_dates=bundle.n_dates,
        classes=bundle.classes,
        lattice=bundle.lattice,
        normalisation=Standard(
            mean=(0.0,) * n_bands, std=(1.0,) * n_bands, groups=getattr(bundle.normalisation, "groups", None)
        ),
        temperature=bundle.temperature,
        vector=bundle.vector,
        head=bundle.head,
        border=bundle.border,
        planes=bundle.planes,
        description=bundle.description,
        licence=bundle.licence,
        training=bundle.training,
    )


def _layout(bundle: Bundle) -> Layout:
    order: Literal["NF", "NCHW"] = "NF" if bundle.pixelwise else "NCHW"
    return bundle.layout.model_copy(update={"order": order, "class_axis": 1})


def _graph(bundle: Bundle, days: tuple[int, ...]) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return the self-contained network and an example of its input."""
    import torch
    from safetensors.torch import load

    from engine.models.fold import fold_batchnorm
    from engine.models.registry import build

    dates, bands = _dates(bundle), len(bundle.planes)
    if bundle.takes_days and len(days) != dates:
        raise InputError(
            "the network asks for the day of the year of each date, and a graph has no input for it",
            where="days",
            found=f"{len(days)} days",
            limit=f"{dates} days",
            mend="give the month that the series begins with: --first-month 3",
        )
    module = build(str(bundle.architecture), bundle.config.model_dump() if bundle.config else {})
    module.load_state_dict(load(bundle.read_weights()))
    network = fold_batchnorm(copy.deepcopy(module)).requires_grad_(False)
    more = (torch.tensor(days, dtype=torch.float32),) if bundle.takes_days else ()
    rows, normalisation = bundle.pixelwise, bundle.normalisation

    class SelfContained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, reflectance: torch.Tensor) -> torch.Tensor:
            if rows:
                x_BTCHW = reflectance.T.reshape(1, dates, bands, ROWS, 1)
            else:
                x_BTCHW = reflectance.reshape(-1, dates, bands, side, side)
            x_BTCHW, valid_BTHW = prepare(x_BTCHW.clone(), normalisation)
            found: torch.Tensor = self.network(x_BTCHW, valid_BTHW, *more)
            return found[0, ..., 0].T if rows else found

    side = bundle.lattice.window_px
    shape = (ROWS, dates * bands) if rows else (2, dates * bands, side, side)  # 1 would be taken as fixed
    return SelfContained().eval(), torch.full(shape, 1000.0)


def _dates(bundle: Bundle) -> int:
    if bundle.n_dates is None:
        raise InputError(
            "a graph has a fixed number of dates",
            where="n_dates",
            found="any",
            mend="write the bundle again with n_dates",
        )
    return bundle.n_dates


def _to_onnx(graph: torch.nn.Module, example: torch.Tensor, bundle: Bundle) -> bytes:
    import torch

    try:
        import onnx  # noqa: F401  (the exporter of torch needs it)
    except ImportError as error:
        raise InputError(
            "writing ONNX needs the package onnx", where="onnx", mend="pip install onnx"
        ) from error
    free: dict[str, Any] = {} if bundle.pixelwise else {"reflectance": {0: "batch"}, "outputs": {0: "batch"}}
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings(), torch.no_grad():
        file = Path(scratch) / "model.onnx"
        # The exporter by tracing needs no further package; what it warns of are checks of fixed shapes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (example,),
            file,
            dynamo=False,
            opset_version=_OPSET,
            input_names=["reflectance"],
            output_names=["outputs"],
            dynamic_axes=free,
        )
        return file.read_bytes()
