"""Augmentation of a batch: one draw for each patch, applied to all its dates, sensors and its target.

What is drawn hangs on the patch's key alone (seed, epoch, its number in the epoch), never on the worker or the
batch that it comes in. Values stay the cube's own numbers; normalisation comes after, in the place where prediction
has it.

Shape suffixes: B batch, T date, C band, P polarisation, L layer, H row, W column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from engine.values.planes import Plane
from training.batch import Batch
from training.losses import IGNORE
from training.paste import field_of
from training.sensors import changed, of_group, of_kind, together
from training.tones import Tone, toned
from training.warps import Move, dihedral, moved, moved_values
from training.weather import Clouds, drop_bands, drop_dates, shift_dates, with_clouds

__all__ = ["AugmentOptions", "augment", "dihedral", "drop_dates"]

_Share = Field(default=0.0, ge=0, lt=1)


class AugmentOptions(BaseModel):
    """What is drawn for each patch; the default is a flip or quarter turn alone.

    Attributes:
        turns: Draw one of the eight symmetries of the square.
        shift_px: Largest shift, whole pixels.
        scale: Largest change of size: 0.2 draws 1/1.2 to 1.2.
        rotate_deg: Largest rotation in degrees, either way.
        brightness: Largest change of reflectance.
        contrast: Largest change of contrast: 0.2 draws 1/1.2 to 1.2.
        gamma: Largest change of the exponent, likewise.
        noise: Largest standard deviation of noise, reflectance.
        date_drop: Probability of each optical date to go; one stays.
        date_shift_days: Largest shift of the season.
        clouds: Probability of each optical date to get clouds.
        cloud_cover: Largest share of the patch under them.
        missed_clouds: Share of clouded dates that the mask missed.
        band_drop: Probability of each optical band to lose its information; one stays.
        paste: Probability of a patch to get a field of the next one in its batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    turns: bool = True
    shift_px: int = Field(default=0, ge=0)
    scale: float = Field(default=0.0, ge=0, le=1)
    rotate_deg: float = Field(default=0.0, ge=0, le=45)
    brightness: float = Field(default=0.0, ge=0, le=0.5)
    contrast: float = Field(default=0.0, ge=0, le=1)
    gamma: float = Field(default=0.0, ge=0, le=1)
    noise: float = Field(default=0.0, ge=0, le=0.5)
    date_drop: float = _Share
    date_shift_days: int = Field(default=0, ge=0, le=183)
    clouds: float = _Share
    cloud_cover: float = Field(default=0.6, gt=0, le=1)
    missed_clouds: float = Field(default=0.1, ge=0, le=1)
    band_drop: float = _Share
    paste: float = _Share


@dataclass(frozen=True, eq=False)
class _Patch:
    """One patch of a batch as arrays; see `Batch`."""

    x: NDArray[np.uint16]
    dates: NDArray[np.int16]
    present: NDArray[np.bool_]
    target: NDArray[np.uint8]
    weight: NDArray[np.float32]
    radar: NDArray[np.float32] | None
    layers: NDArray[np.float32] | None


def augment(
    batch: Batch,
    options: AugmentOptions,
    keys: NDArray[np.int64],
    band_means: tuple[float, ...] | None = None,
    planes: tuple[Plane, ...] = (),
) -> Batch:
    """Augment each patch of a batch.

    Args:
        batch: Square patches on the CPU.
        options: What is drawn.
        keys: (B, k) non-negative: seed, epoch and the patch's number in the epoch, say. The same key draws the same.
        band_means: Mean of each plane over the training pixels, for `band_drop`; None takes the patch's own.
        planes: What the planes of `x` are; none: bands of reflectance. Tones change reflectance alone; clouds, dropped
            dates and bands all that is optical.

    Returns:
        A new batch of the same shapes; `place` stays that of the patch as it was read.
    """
    patches = [_patch(batch, i) for i in range(len(batch))]
    draws = [np.random.default_rng([int(k) for k in key]) for key in keys]
    fill = None if band_means is None else np.clip(np.rint(band_means), 1, 65535).astype(np.uint16)
    pasted = [
        _pasted(patch, patches[(i + 1) % len(patches)], options, rng)
        for i, (patch, rng) in enumerate(zip(patches, draws, strict=True))
    ]
    done = [_changed(patch, options, rng, (fill, planes)) for patch, rng in zip(pasted, draws, strict=True)]
    stacked: dict[str, Any] = {name: _stacked(done, name) for name in _Patch.__dataclass_fields__}
    return replace(batch, **stacked)


def _patch(batch: Batch, i: int) -> _Patch:
    named: dict[str, Any] = {name: getattr(batch, name) for name in _Patch.__dataclass_fields__}
    arrays: dict[str, Any] = {name: None if t is None else t[i].numpy() for name, t in named.items()}
    return _Patch(**arrays)


def _stacked(patches: list[_Patch], name: str) -> torch.Tensor | None:
    parts = [getattr(patch, name) for patch in patches]
    return None if parts[0] is None else torch.from_numpy(np.stack(parts))


def _pasted(patch: _Patch, donor: _Patch, options: AugmentOptions, rng: np.random.Generator) -> _Patch:
    """Paste a field of the donor, where both show the same dates."""
    if not (rng.random() < options.paste) or donor is patch:
        return patch
    if not (np.array_equal(patch.dates, donor.dates) and np.array_equal(patch.present, donor.present)):
        return patch
    field_HW = field_of(donor.target, rng)
    if field_HW is None:
        return patch

    def mixed(name: str) -> Any:
        mine, other = getattr(patch, name), getattr(donor, name)
        return None if mine is None else np.where(field_HW, other, mine)

    changed: dict[str, Any] = {name: mixed(name) for name in ("x", "target", "weight", "radar", "layers")}
    return replace(patch, **changed)


def _changed(
    patch: _Patch,
    options: AugmentOptions,
    rng: np.random.Generator,
    about: tuple[NDArray[np.uint16] | None, tuple[Plane, ...]],
) -> _Patch:
    """Draw and apply all that changes values; `about`: what stands in for each plane, and what the planes are."""
    fill_C, planes = about
    patch = _moved(patch, _move(options, rng), planes)
    optical, x = of_group(planes, "optical"), patch.x
    if options.band_drop:
        own = fill_C if fill_C is None or optical is None else fill_C[optical]
        x = changed(x, optical, lambda v: drop_bands(v, options.band_drop, rng, own))
    tone = _tone(options, rng)
    x = changed(x, of_kind(planes, "reflectance"), lambda v: toned(v, tone, rng))
    # An index of a cloud is no brighter index: where there are some, the mask misses no cloud.
    missed = 0.0 if of_kind(planes, "index") else options.missed_clouds
    clouds = Clouds(options.clouds, options.cloud_cover, missed)
    if clouds.dates:
        x = changed(x, optical, lambda v: with_clouds(v, clouds, rng))
    if options.date_drop:
        x = changed(x, optical, lambda v: drop_dates(v, options.date_drop, rng))
    days = int(rng.integers(-options.date_shift_days, options.date_shift_days + 1))
    return replace(patch, x=x, dates=shift_dates(patch.dates, days) if days else patch.dates)


def _move(options: AugmentOptions, rng: np.random.Generator) -> Move:
    turn = int(rng.integers(8)) if options.turns else 0
    dy, dx = (int(v) for v in rng.integers(-options.shift_px, options.shift_px + 1, 2))
    angle = float(rng.uniform(-options.rotate_deg, options.rotate_deg)) if options.rotate_deg else 0.0
    return Move(turn, (dy, dx), _factor(options.scale, rng), angle)


def _tone(options: AugmentOptions, rng: np.random.Generator) -> Tone:
    brightness = float(rng.uniform(-options.brightness, options.brightness)) if options.brightness else 0.0
    contrast, gamma = _factor(options.contrast, rng), _factor(options.gamma, rng)
    return Tone(brightness, contrast, gamma, float(rng.uniform(0, options.noise)) if options.noise else 0.0)


def _factor(most: float, rng: np.random.Generator) -> float:
    """Draw a factor between 1 / (1 + most) and 1 + most, as often below 1 as above."""
    return float(np.exp(rng.uniform(-1, 1) * np.log1p(most))) if most else 1.0


def _moved(patch: _Patch, move: Move, planes: tuple[Plane, ...]) -> _Patch:
    if move == Move():
        return patch
    return replace(
        patch,
        x=_moved_groups(patch.x, move, planes),
        target=moved(patch.target, move, IGNORE),
        weight=moved(patch.weight, move, 0),
        radar=_moved_floats(patch.radar, move),
        layers=_moved_floats(patch.layers, move),
    )


def _moved_groups(x_TCHW: NDArray[np.uint16], move: Move, planes: tuple[Plane, ...]) -> NDArray[np.uint16]:
    """Move planes that are there or missing together as one."""
    if not planes or not move.resamples:
        return _moved_dn(x_TCHW, move)
    out_TCHW = np.empty_like(x_TCHW)
    for places in together(planes):
        out_TCHW[:, places] = _moved_dn(x_TCHW[:, places], move)
    return out_TCHW


def _moved_dn(x_TCHW: NDArray[np.uint16], move: Move) -> NDArray[np.uint16]:
    """Move reflectance; where a pixel is no data in one band it is so in all, as in `normalise.prepare`."""
    if not move.resamples:
        return np.ascontiguousarray(moved(x_TCHW, move, 0))
    valid_T1HW = (x_TCHW != 0).all(axis=1, keepdims=True)
    planes = [
        moved_values(x_CHW.astype(np.float32), valid_1HW, move)
        for x_CHW, valid_1HW in zip(x_TCHW, valid_T1HW, strict=True)
    ]
    values = np.stack(planes)
    there = np.isfinite(values)
    return np.where(there, np.clip(np.rint(np.where(there, values, 1)), 1, 65535), 0).astype(np.uint16)


def _moved_floats(values: NDArray[np.float32] | None, move: Move) -> NDArray[np.float32] | None:
    if values is None:
        return None
    planes = values.reshape(-1, *values.shape[-2:])
    return moved_values(planes, np.isfinite(planes), move).reshape(values.shape)
