"""Networks of segmentation-models-pytorch, with weights from this bundle alone.

The library (optional extra ``smp``) gives the architecture; nothing is downloaded. Dates and bands are merged
into its channels (all bands of the first date, then of the second). It has no input for validity: what is
missing is 0 after normalisation, as in training. Weights from files: `engine.models.spatial.published`.

Shape suffixes: B batch, T date, C band, H row, W column, K class.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from engine.models.smp_config import SmpConfig
from engine.models.spatial.published import EncoderLayout
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

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor) -> torch.Tensor:
        """Return what the decoder gives to the head, (B, F, H, W) float32; arguments as of `forward`."""
        levels = self.network.encoder(x_BTCHW.flatten(1, 2))
        found: torch.Tensor = self.network.decoder(levels)
        return functional.interpolate(found, size=x_BTCHW.shape[3:], mode="nearest")

    @property
    def encoder_layout(self) -> EncoderLayout:
        """How published weights find their places."""
        own = self.network.encoder.state_dict()
        first = next(name for name, tensor in own.items() if tensor.ndim == 4)
        names = {f"network.encoder.{name}": name for name in own}
        return EncoderLayout(names, f"network.encoder.{first}", self.config.n_dates)


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
