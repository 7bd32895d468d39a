"""Where training patches and pixels lie: by place, by class, around rare classes, by field.

All places are global pixels of the cube's grid: the lattice of patches is anchored on it, so that a larger area
has the same patches where it had them before. An epoch's places follow from the seed and the epoch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.values.errors import InputError
from engine.values.grid import Box
from training.fields import pixels_of_fields
from training.plan import rng_of
from training.targets import Targets

_MARGIN_PX = 8
_TRIES = 20


@dataclass(frozen=True, eq=False)
class Sampler:
    """Draws patches around labelled pixels.

    A class is drawn with probability ``count ** balance`` (0 = all classes alike, 1 = as they occur),
    then one of its pixels, then a patch that holds this pixel anywhere but within `margin_px` of its
    edge, where the network sees least.

    Attributes:
        pixels: For each class index the flat indices of its pixels.
        shape_yx: Height and width of the array.
        crop_px: Side of a patch.
        balance: Exponent.
        margin_px: See above.
    """

    pixels: tuple[NDArray[np.int64], ...]
    shape_yx: tuple[int, int]
    crop_px: int
    balance: float = 0.5
    margin_px: int = 8

    @classmethod
    def over(cls, target_YX: NDArray[np.uint8], n_classes: int, crop_px: int, balance: float) -> Sampler:
        """Index the pixels of each class.

        Args:
            target_YX: (y, x) uint8, class index 0..n_classes - 1; larger values are not annotated.
            n_classes: Number of classes.
            crop_px: Side of a patch.
            balance: Exponent.

        Raises:
            InputError: If nothing is annotated or the array is smaller than a patch.
        """
        if min(target_YX.shape) < crop_px:
            raise _smaller("train.crop_px", target_YX.shape, crop_px)
        pixels = _pixels_of(target_YX, n_classes)
        height, width = target_YX.shape
        return cls(pixels, (height, width), crop_px, balance, margin_px=min(_MARGIN_PX, (crop_px - 1) // 2))

    @property
    def class_shares(self) -> NDArray[np.float64]:
        """Probability of each class to be drawn."""
        counts = np.array([len(p) for p in self.pixels], np.float64)
        return balanced_shares(counts, self.balance)

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the upper-left corners of `n` patches, (n, 2) as (y, x), all inside the array."""
        drawn = rng.choice(len(self.pixels), size=n, p=self.class_shares)
        flat = np.array([self.pixels[k][rng.integers(len(self.pixels[k]))] for k in drawn])
        centre = np.stack(np.divmod(flat, self.shape_yx[1]), axis=1)
        inside = rng.integers(self.margin_px, self.crop_px - self.margin_px, size=(n, 2))
        corners: NDArray[np.int64] = np.clip(centre - inside, 0, np.array(self.shape_yx) - self.crop_px)
        return corners


class Patches(BaseModel):
    """Which patches an epoch has.

    Attributes:
        patch_px: Side of a patch.
        draw: ``lattice``: all patches of a lattice anchored on the grid. ``classes``: around annotated pixels, a
            class drawn as ``count ** balance``. ``rare``: centred on annotated pixels, a class drawn by the
            logarithm of how rare it is, ``ln(1 + all / count)``.
        per_epoch: Patches of an epoch, for ``classes`` and ``rare``; None: as many as would cover the annotated
            pixels once. For ``lattice`` at most so many, another draw each epoch; None takes all.
        overlap_px: Of neighbours on the lattice.
        shift: Move the lattice in each epoch, so that patches are not always cut at the same lines.
        balance: For ``classes``: 0 draws all alike, 1 as often as they occur.
        least_known: Smallest share of annotated pixels in a patch, 0..1 (the valid fraction). A patch always has
            one, unless `empty_share` says otherwise.
        empty_share: Share of the epoch's patches that hold no class but `background`, or nothing annotated at
            all: a network that never meets them finds something everywhere.
        background: Index of the class that does not count as something; None: every class counts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    patch_px: int = Field(default=256, ge=1)
    draw: Literal["lattice", "classes", "rare"] = "classes"
    per_epoch: int | None = Field(default=None, ge=1)
    overlap_px: int = Field(default=0, ge=0)
    shift: bool = True
    balance: float = Field(default=0.5, ge=0, le=1)
    least_known: float = Field(default=0.0, ge=0, le=1)
    empty_share: float = Field(default=0.0, ge=0, lt=1)
    background: int | None = Field(default=None, ge=0)


class Pixels(BaseModel):
    """Which single pixels an epoch has: series for networks that look at no neighbours.

    Attributes:
        per_epoch: Pixels of an epoch; None takes all annotated ones.
        balance: 0 draws all classes alike, 1 as often as they occur; None draws them without regard to classes.
        per_field: Draw so many annotated pixels of each field instead, others in each epoch; the targets then need
            ``fields``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    per_epoch: int | None = Field(default=None, ge=1)
    balance: float | None = Field(default=None, ge=0, le=1)
    per_field: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_way(self) -> Pixels:
        if self.per_field is not None and (self.per_epoch, self.balance) != (None, None):
            raise ValueError("per_field says how many there are: leave out per_epoch and balance")
        return self


def places_of(
    draw: Patches | Pixels, targets: Targets, cube: Box, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw an epoch's places.

    Args:
        draw: How.
        targets: What is annotated.
        cube: Global pixels that there are; patches lie inside.
        seed: Of the draw.
        epoch: Its number.

    Returns:
        (n, 2) int64, global row and column of the upper left pixel of each patch.

    Raises:
        InputError: If the cube is smaller than a patch, nothing is annotated, or no patch has as many annotated
            pixels as asked for.
    """
    rng = rng_of(seed, epoch, "places")
    if isinstance(draw, Pixels):
        return _draw_pixels(draw, targets, rng)
    if min(cube.shape_yx) < draw.patch_px:
        raise _smaller("loader.draw.patch_px", cube.shape_yx, draw.patch_px)
    kinds = {"lattice": _draw_lattice, "classes": _draw_classes, "rare": _draw_rare}
    found = kinds[draw.draw](draw, targets, cube, rng)
    if not draw.empty_share:
        return found
    n_empty = round(len(found) * draw.empty_share)
    empty = _draw_empty(draw, targets, cube, n_empty, rng)
    kept = rng.choice(len(found), len(found) - n_empty, replace=False)
    return np.concatenate([found[np.sort(kept)], empty])


def balanced_shares(counts_K: NDArray[np.float64], balance: float) -> NDArray[np.float64]:
    """Return how often each class is drawn: as ``count ** balance``, 0 for classes without pixels.

    >>> balanced_shares(np.array([900.0, 100.0, 0.0]), 0.5).tolist()
    [0.75, 0.25, 0.0]
    """
    weights = np.where(counts_K > 0, np.maximum(counts_K, 1) ** balance, 0.0)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def rare_shares(counts_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how often each class is drawn: as ``ln(1 + all / count)``, 0 for classes without pixels.

    >>> rare_shares(np.array([900.0, 100.0, 0.0])).round(3).tolist()
    [0.238, 0.762, 0.0]
    """
    weights = np.where(counts_K > 0, np.log1p(counts_K.sum() / np.maximum(counts_K, 1)), 0.0)
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def _draw_pixels(draw: Pixels, targets: Targets, rng: np.random.Generator) -> NDArray[np.int64]:
    if draw.per_field is not None:
        return _global(_draw_fields(draw.per_field, targets, rng), targets.box)
    pixels = _pixels_of(targets.index, targets.n_classes)
    if draw.balance is not None:
        counts = np.array([len(p) for p in pixels], np.float64)
        shares = balanced_shares(counts, draw.balance)
        n = draw.per_epoch or int(counts.sum())
        flat = _by_class(pixels, shares, n, rng)
    else:
        every = np.concatenate(pixels)
        n = min(len(every), draw.per_epoch or len(every))
        flat = np.sort(rng.choice(every, n, replace=False))
    return _global(flat, targets.box)


def _draw_fields(per_field: int, targets: Targets, rng: np.random.Generator) -> NDArray[np.int64]:
    if targets.fields is None:
        raise InputError(
            "pixels by field need the fields",
            where="loader.draw.per_field",
            mend="pass them: targets_of(labels, ..., fields=numbers)",
        )
    flat = pixels_of_fields(targets.fields, targets.index < targets.n_classes, per_field, rng)
    if not len(flat):
        raise InputError("no field has an annotated pixel", where="loader.draw.per_field")
    return flat


def _draw_lattice(draw: Patches, targets: Targets, cube: Box, rng: np.random.Generator) -> NDArray[np.int64]:
    step = draw.patch_px - draw.overlap_px
    if step < 1:
        raise InputError(
            "patches overlap wholly",
            where="loader.draw.overlap_px",
            found=draw.overlap_px,
            limit=f"less than {draw.patch_px}",
        )
    shift_y, shift_x = (int(v) for v in rng.integers(0, step, 2)) if draw.shift else (0, 0)
    ys = _on_lattice(cube.y0, cube.y1 - draw.patch_px, step, shift_y)
    xs = _on_lattice(cube.x0, cube.x1 - draw.patch_px, step, shift_x)
    corners = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 2)
    corners = corners[_known_shares(draw, targets, corners) >= _least(draw)]
    if not len(corners):
        raise _nothing(draw)
    if draw.per_epoch is None or draw.per_epoch >= len(corners):
        return corners
    return corners[np.sort(rng.choice(len(corners), draw.per_epoch, replace=False))]


def _on_lattice(lo: int, hi: int, step: int, shift: int) -> NDArray[np.int64]:
    """List the multiples of `step`, shifted, in ``lo..hi``.

    >>> _on_lattice(-5, 9, 4, 1).tolist()
    [-3, 1, 5, 9]
    """
    return np.arange(lo + (shift - lo) % step, hi + 1, step, dtype=np.int64)


def _draw_classes(draw: Patches, targets: Targets, cube: Box, rng: np.random.Generator) -> NDArray[np.int64]:
    margin = min(_MARGIN_PX, (draw.patch_px - 1) // 2)

    def inside(n: int) -> NDArray[np.int64]:
        return rng.integers(margin, draw.patch_px - margin, size=(n, 2))

    return _around(draw, targets, cube, (lambda counts: balanced_shares(counts, draw.balance), inside), rng)


def _draw_rare(draw: Patches, targets: Targets, cube: Box, rng: np.random.Generator) -> NDArray[np.int64]:
    def centred(n: int) -> NDArray[np.int64]:
        return np.full((n, 2), draw.patch_px // 2, np.int64)

    return _around(draw, targets, cube, (rare_shares, centred), rng)


_How = tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], Callable[[int], NDArray[np.int64]]]
"""Shares of the classes from their counts; and where in each patch its annotated pixel lies."""


def _around(
    draw: Patches, targets: Targets, cube: Box, how: _How, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw patches around annotated pixels; those with too few others are drawn again."""
    shares_of, inside = how
    pixels = _pixels_of(targets.index, targets.n_classes)
    counts = np.array([len(p) for p in pixels], np.float64)
    shares = shares_of(counts)
    wanted = draw.per_epoch or max(1, round(counts.sum() / draw.patch_px**2))
    lower = np.array((cube.y0, cube.x0))
    upper = np.array((cube.y1, cube.x1)) - draw.patch_px
    found: list[NDArray[np.int64]] = []
    missing = wanted
    for _ in range(_TRIES):
        centres = _global(_by_class(pixels, shares, missing, rng), targets.box)
        corners = np.clip(centres - inside(missing), lower, upper)
        if draw.least_known:
            corners = corners[_known_shares(draw, targets, corners) >= draw.least_known]
        found.append(corners)
        missing -= len(corners)
        if not missing:
            return np.concatenate(found)
    raise _nothing(draw)


def _draw_empty(
    draw: Patches, targets: Targets, cube: Box, n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw patches anywhere that hold no class but the background."""
    found: list[NDArray[np.int64]] = []
    missing = n
    for _ in range(_TRIES):
        ys = rng.integers(cube.y0, cube.y1 - draw.patch_px + 1, 4 * missing)
        xs = rng.integers(cube.x0, cube.x1 - draw.patch_px + 1, 4 * missing)
        corners = np.stack([ys, xs], axis=1)
        corners = corners[_something_shares(draw, targets, corners) == 0][:missing]
        found.append(corners)
        missing -= len(corners)
        if not missing:
            return np.concatenate(found)
    raise InputError(
        "there are too few patches without any class",
        where="loader.draw.empty_share",
        found=f"{n - missing} of {n} after {_TRIES} tries",
        mend="lower empty_share or patch_px, or name the background class",
    )


def _known_shares(draw: Patches, targets: Targets, corners: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of annotated pixels of each patch."""
    return _shares(targets.index < targets.n_classes, targets.box, corners, draw.patch_px)


def _something_shares(draw: Patches, targets: Targets, corners: NDArray[np.int64]) -> NDArray[np.float64]:
    something = targets.index < targets.n_classes
    if draw.background is not None:
        something &= targets.index != draw.background
    return _shares(something, targets.box, corners, draw.patch_px)


def _shares(mask: NDArray[np.bool_], box: Box, corners: NDArray[np.int64], side: int) -> NDArray[np.float64]:
    def share(y: int, x: int) -> float:
        both = Box(y, x, y + side, x + side) & box
        return np.count_nonzero(mask[both.slices_in(box)]) / side**2 if both else 0.0

    return np.array([share(int(y), int(x)) for y, x in corners], np.float64)


def _least(draw: Patches) -> float:
    """A patch of the lattice has an annotated pixel at least."""
    return max(draw.least_known, 1e-12)


def _by_class(
    pixels: tuple[NDArray[np.int64], ...], shares: NDArray[np.float64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw n pixels, with the classes' shares."""
    drawn, at = rng.choice(len(pixels), size=n, p=shares), rng.random(n)
    flat = np.empty(n, np.int64)
    for k, own in enumerate(pixels):
        of_class = drawn == k
        flat[of_class] = own[(at[of_class] * len(own)).astype(np.int64)]
    return flat


def _pixels_of(index: NDArray[np.uint8], n_classes: int) -> tuple[NDArray[np.int64], ...]:
    """List the flat indices of each class."""
    flat = index.ravel()
    pixels = tuple(np.flatnonzero(flat == k) for k in range(n_classes))
    if not any(len(p) for p in pixels):
        raise InputError(
            "no annotated pixel is left for training",
            where="split",
            mend="lower block_px or buffer_px, or take another seed",
        )
    return pixels


def _global(flat: NDArray[np.int64], box: Box) -> NDArray[np.int64]:
    return np.stack(np.divmod(flat, box.shape_yx[1]), axis=1) + np.array((box.y0, box.x0))


def _smaller(where: str, shape_yx: tuple[int, ...], patch_px: int) -> InputError:
    return InputError(
        "the cube is smaller than a training patch",
        where=where,
        found=f"{shape_yx} px",
        limit=f"{patch_px} px",
        mend=f"lower {where.rpartition('.')[2]}",
    )


def _nothing(draw: Patches) -> InputError:
    return InputError(
        "no patch has as many annotated pixels as asked for",
        where="loader.draw.least_known",
        limit=f"a share of {draw.least_known:g} of {draw.patch_px} x {draw.patch_px} px",
        mend="lower least_known or patch_px",
    )
