"""Where training patches lie: by class, so that a rare class is seen as well as the common ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError


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
            raise InputError(
                "the cube is smaller than a training patch",
                where="train.crop_px",
                found=f"{target_YX.shape} px",
                limit=f"{crop_px} px",
                mend="lower crop_px",
            )
        flat = target_YX.ravel()
        pixels = tuple(np.flatnonzero(flat == k) for k in range(n_classes))
        if not any(len(p) for p in pixels):
            raise InputError(
                "no annotated pixel is left for training",
                where="split",
                mend="lower block_px or buffer_px, or take another seed",
            )
        height, width = target_YX.shape
        return cls(pixels, (height, width), crop_px, balance, margin_px=min(8, (crop_px - 1) // 2))

    @property
    def class_shares(self) -> NDArray[np.float64]:
        """Probability of each class to be drawn."""
        counts = np.array([len(p) for p in self.pixels], np.float64)
        weights = np.where(counts > 0, np.maximum(counts, 1) ** self.balance, 0.0)
        shares: NDArray[np.float64] = weights / weights.sum()
        return shares

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Draw the upper-left corners of `n` patches, (n, 2) as (y, x), all inside the array."""
        drawn = rng.choice(len(self.pixels), size=n, p=self.class_shares)
        flat = np.array([self.pixels[k][rng.integers(len(self.pixels[k]))] for k in drawn])
        centre = np.stack(np.divmod(flat, self.shape_yx[1]), axis=1)
        inside = rng.integers(self.margin_px, self.crop_px - self.margin_px, size=(n, 2))
        corners: NDArray[np.int64] = np.clip(centre - inside, 0, np.array(self.shape_yx) - self.crop_px)
        return corners
