"""Networks of segmentation-models-pytorch, with weights from this bundle alone.

The library (optional extra ``smp``) gives the architecture; nothing is downloaded. Dates and bands are merged
into its channels (all bands of the first date, then of the second). It has no input for validity: what is
missing is 0 after normalisation, as in training.

Shape suffixes: B batch, T date, C band, H row, W column, K class.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from engine.models.smp_config import SmpConfig
from engine.values.errors import InputError

_MEND = 'pip install "landweave[smp]"'


class SegmentationModel(nn.Module):
    """A network of segmentation-models-pytorch behind the registry's signature.

    Args:
        config: Architecture, encoder and sizes.

    Raises:
        InputError: If the library is missing, or knows no such encoder.
    """

    def __init__(self, config: SmpConfig) -> None:
        super().__init__()
        self.config = config
        library = _library()
        try:
            self.network = library.create_model(
                config.arch,
                encoder_name=config.encoder,
                encoder_weights=None,
                encoder_depth=config.encoder_depth,
                in_channels=config.n_dates * config.n_bands,
                classes=config.n_classes,
            )
        except (KeyError, ValueError) as error:
            raise InputError(
                "segmentation-models-pytorch cannot build this",
                where="config.arch, config.encoder",
                found=f"{config.arch}, {config.encoder}",
                mend=str(error)[:300],
            ) from error

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Compute logits (B, K, H, W), float32.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data.
            valid_BTHW: Not looked at; see the module.
        """
        found: torch.Tensor = self.network(x_BTCHW.flatten(1, 2))
        return found


def with_encoder(
    module: SegmentationModel, state: Mapping[str, torch.Tensor], bands: tuple[int, ...] | None = None
) -> SegmentationModel:
    """Fill the encoder with published weights, e.g. of torchgeo for Sentinel-2.

    Args:
        module: Gets the weights, in place.
        state: Tensors by the encoder's own names, as `engine.inference.state.read_state_dict` reads them; those
            of a classifier (``fc.*``, ``classifier.*``, ``head.*``) are left out.
        bands: For each of the network's channels its channel in the published first layer (torchgeo: the 13
            bands of L1C, B01 first); None: they are the same.

    Returns:
        The module.

    Raises:
        InputError: If a tensor is missing, or one is left over, or has another shape.
    """
    own = module.network.encoder.state_dict()
    first = next(name for name, tensor in own.items() if tensor.ndim == 4)
    given = {k: v for k, v in state.items() if not k.startswith(("fc.", "classifier.", "head."))}
    if bands is not None and first in given:
        if max(bands) >= given[first].shape[1]:
            raise InputError(
                "the published first layer has fewer bands",
                where=first,
                found=given[first].shape[1],
                limit=max(bands) + 1,
            )
        given[first] = given[first][:, list(bands)]
    counters = {k for k in own if k.endswith("num_batches_tracked")}  # say nothing of what the network does
    differing = (set(own) ^ set(given)) - counters
    differing |= {k for k in set(own) & set(given) if own[k].shape != given[k].shape}
    if differing:
        raise InputError(
            "the weights are not of this encoder",
            where=f"{module.config.encoder}, {module.config.n_bands} bands",
            found=", ".join(sorted(differing)[:6]),
            mend="name the encoder that they were trained with, and map the bands of the first layer",
        )
    encoder: Any = module.network.encoder
    encoder.load_state_dict({**own, **given})
    return module


def _library() -> Any:
    try:
        _name_missing_operators()
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError as error:
        raise InputError(
            "architecture 'smp' needs segmentation-models-pytorch", where="architecture", mend=_MEND
        ) from error


_declared: list[torch.library.Library] = []
"""Keeps the declarations below alive."""


def _name_missing_operators() -> None:
    """Declare two operators that torchvision wants to know when it is imported, where its own are not loaded.

    The wheel of torchvision on PyPI is built for CUDA; beside a CPU torch its compiled operators cannot be
    loaded, and the import fails when it describes `nms` and `qnms`. The networks here use neither: a bare
    declaration, without any code behind it, lets the import go on; calling one is still an error.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
        _forget_torchvision()
        importlib.import_module("torchvision")


def _forget_torchvision() -> None:
    """Drop what the failed import left behind."""
    import sys

    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]
