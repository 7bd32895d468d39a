"""Architectures by name, so that a bundle can say in words what its weights fill.

A name stands for a configuration (a frozen value, checked without torch) and a builder (imported only
when a network is really built).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from engine.models.configs import MlpConfig, NetworkConfig, TempCnnConfig, UNetConfig
from engine.models.fusion.configs import FusionTransformerConfig, FusionUNetConfig
from engine.models.presto_config import PrestoConfig
from engine.models.smp_config import SmpConfig
from engine.models.spacetime.configs import (
    Cnn3d2dConfig,
    Cnn3dConfig,
    ConvRecurrentConfig,
    UNet3dConfig,
    UtaeConfig,
)
from engine.models.spatial.configs import ResNetUNetConfig, SeasonUNetConfig
from engine.models.temporal.configs import (
    AttentionLstmConfig,
    Cnn1dConfig,
    HybridConfig,
    LtaeConfig,
    RecurrentConfig,
    TransformerConfig,
)
from engine.values.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Architecture:
    """One entry of the registry.

    Attributes:
        config_type: The pydantic model of its configuration.
        module: Module that holds the network class.
        name: Name of the class there; called with the configuration.
        takes_days: Whether its forward also takes ``days``, float32 (T,) or (B, T), the running day of each
            date (`engine.values.days`), 0 = no such date.
        size_free: Whether windows of another size give the same answers but for their rims.
        pixelwise: Whether it looks at one pixel at a time.
    """

    config_type: type[NetworkConfig]
    module: str
    name: str
    takes_days: bool = False
    size_free: bool = True
    pixelwise: bool = False


def _of_series(config_type: type[NetworkConfig], module: str, name: str) -> Architecture:
    return Architecture(
        config_type, f"engine.models.temporal.{module}", name, takes_days=True, pixelwise=True
    )


def _of_images(config_type: type[NetworkConfig], module: str, name: str) -> Architecture:
    return Architecture(config_type, f"engine.models.spacetime.{module}", name, takes_days=True)


_ARCHITECTURES: dict[str, Architecture] = {
    "fusion_transformer": Architecture(
        FusionTransformerConfig,
        "engine.models.fusion.transformer",
        "FusionTransformer",
        takes_days=True,
        pixelwise=True,
    ),
    "fusion_unet": Architecture(FusionUNetConfig, "engine.models.fusion.unet", "FusionUNet", takes_days=True),
    "presto": Architecture(PrestoConfig, "engine.models.presto", "Presto", takes_days=True, pixelwise=True),
    "smp": Architecture(SmpConfig, "engine.models.smp", "SegmentationModel", size_free=False),
    "mlp": Architecture(MlpConfig, "engine.models.pixel", "Mlp", takes_days=True, pixelwise=True),
    "tempcnn": Architecture(TempCnnConfig, "engine.models.pixel", "TempCnn", takes_days=True, pixelwise=True),
    "unet": Architecture(UNetConfig, "engine.models.unet", "UNet"),
    "lstm": _of_series(RecurrentConfig, "recurrent", "Lstm"),
    "gru": _of_series(RecurrentConfig, "recurrent", "Gru"),
    "atlstm": _of_series(AttentionLstmConfig, "recurrent", "AtLstm"),
    "cnn1d": _of_series(Cnn1dConfig, "cnn", "Cnn1d"),
    "transformer": _of_series(TransformerConfig, "transformer", "Transformer"),
    "ltae": _of_series(LtaeConfig, "ltae", "Ltae"),
    "hybrid": Architecture(HybridConfig, "engine.models.temporal.hybrid", "Hybrid", takes_days=True),
    "utae": _of_images(UtaeConfig, "utae", "Utae"),
    "convlstm": _of_images(ConvRecurrentConfig, "recurrent", "ConvLstm"),
    "convgru": _of_images(ConvRecurrentConfig, "recurrent", "ConvGru"),
    "convstar": _of_images(ConvRecurrentConfig, "recurrent", "ConvStar"),
    "cnn3d": _of_images(Cnn3dConfig, "cnn3d", "Cnn3d"),
    "cnn3d2d": _of_images(Cnn3d2dConfig, "cnn3d", "Cnn3d2d"),
    "unet3d": _of_images(UNet3dConfig, "unet3d", "AttentionUNet3d"),
    "unet_resnet": Architecture(
        ResNetUNetConfig, "engine.models.spatial.unet_resnet", "ResNetUNet", takes_days=True
    ),
    "unet_seasons": Architecture(
        SeasonUNetConfig, "engine.models.spatial.unet_resnet", "SeasonUNet", takes_days=True
    ),
}


def architectures() -> tuple[str, ...]:
    """List the names that `build` knows.

    >>> {"mlp", "unet"} <= set(architectures())
    True
    """
    return tuple(sorted(_ARCHITECTURES))


def check_config(architecture: str, config: Mapping[str, Any]) -> NetworkConfig:
    """Read a configuration, filling in defaults; loads no torch.

    Raises:
        InputError: If the name is unknown or a field is missing, unknown or out of range.
    """
    entry = _entry(architecture)
    try:
        return entry.config_type.model_validate(dict(config))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors())
        raise InputError(
            f"the configuration does not fit architecture {architecture!r}",
            where=f"config: {fields}",
            found=dict(config),
            mend="; ".join(e["msg"] for e in error.errors()),
        ) from error


def size_free(architecture: str, config: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a network answers alike in windows of another size; not known of a whole library of networks.

    Args:
        architecture: A name of `architectures`.
        config: Its configuration, on which it depends for networks of networks.
    """
    return all(entry.size_free for entry in _parts(architecture, config))


def pixelwise(architecture: str, config: Mapping[str, Any] | None = None) -> bool:
    """Tell whether a network looks at one pixel at a time, so that its maps need no windows.

    Arguments as of `size_free`.

    >>> pixelwise("mlp"), pixelwise("unet")
    (True, False)
    """
    return all(entry.pixelwise for entry in _parts(architecture, config))


def takes_days(architecture: str) -> bool:
    """Tell whether a network's forward also takes ``days``, float32 (T,) or (B, T), running days."""
    return _entry(architecture).takes_days


def knows_groups(architecture: str) -> bool:
    """Tell whether a network's configuration has ``groups``: which sensor each of its bands is of.

    >>> knows_groups("fusion_unet"), knows_groups("unet")
    (True, False)
    """
    return "groups" in _entry(architecture).config_type.model_fields


def build(architecture: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """Build a network with fresh weights (draw them under `torch.manual_seed`).

    Args:
        architecture: A name of `architectures`.
        config: Fields of its configuration.

    Returns:
        A module ``forward(x_BTCHW float32, valid_BTHW float32) -> logits_BKHW float32``, and with
        ``days_T`` where `takes_days` says so.

    Raises:
        InputError: As `check_config`.
    """
    entry = _entry(architecture)
    checked = check_config(architecture, config)
    module: torch.nn.Module = getattr(import_module(entry.module), entry.name)(checked)
    return module


def _parts(architecture: str, config: Mapping[str, Any] | None) -> list[Architecture]:
    """Return the entries of the networks that it consists of: itself, or its branches."""
    branches = (config or {}).get("branches", ())
    return [e for b in branches for e in _parts(b["architecture"], b.get("config"))] or [_entry(architecture)]


def _entry(architecture: str) -> Architecture:
    if architecture not in _ARCHITECTURES:
        raise InputError(
            "unknown architecture", where="architecture", found=architecture, limit=", ".join(architectures())
        )
    return _ARCHITECTURES[architecture]
