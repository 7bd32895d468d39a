"""Split an area into training, validation and test by blocks of the grid, not by pixels.

Neighbouring pixels are alike: a split by pixel would test on what was learnt by heart. Here whole
blocks of the global grid go to one part, drawn by a hash of their place, so that the same block has the
same part in every area and run; and a strip of pixels on the border of two parts is left out::

      train     ·· val
      ▓▓▓▓▓▓▓▓▓▓··▒▒▒▒▒▒▒▒     ·· = left out, on the side of the part with the larger share
      ▓▓▓▓▓▓▓▓▓▓··▒▒▒▒▒▒▒▒
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from engine.values.grid import Box

LEFT_OUT, TRAIN, VAL, TEST = 0, 1, 2, 3


class Split(BaseModel):
    """How an area is split.

    Attributes:
        block_px: Side of a block in pixels of the grid.
        buffer_px: Pixels of two parts are more than this many pixels apart (rows and columns alike).
        val: Share of blocks for validation.
        test: Share of blocks for testing; 0 leaves none.
        seed: Another seed, another draw.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    block_px: int = Field(default=256, ge=1)
    buffer_px: int = Field(default=16, ge=0)
    val: float = Field(default=0.2, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _shares(self) -> Split:
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on: {self.val} + {self.test}")
        return self

    def part_of_block(self, row: int, col: int) -> int:
        """Return TRAIN, VAL or TEST of a block, whatever area it is in.

        >>> Split().part_of_block(3, -7) == Split().part_of_block(3, -7)
        True
        """
        digest = hashlib.sha256(f"landweave split {self.seed} {row} {col}".encode()).digest()
        drawn = int.from_bytes(digest[:8], "big") / 2**64
        if drawn < self.test:
            return TEST
        return VAL if drawn < self.test + self.val else TRAIN

    def parts(self, box: Box) -> NDArray[np.uint8]:
        """Return the part of each pixel of a box, (y, x) uint8: LEFT_OUT, TRAIN, VAL or TEST.

        A pixel is left out when a pixel of a part further down (train, val, test) lies within
        `buffer_px` of it; so the smaller parts stay whole.
        """
        from scipy.ndimage import maximum_filter

        outer = box.pad(self.buffer_px)
        whole = self._blocks(outer)
        reach = maximum_filter(whole, size=2 * self.buffer_px + 1, mode="nearest")
        kept = np.where(reach == whole, whole, LEFT_OUT).astype(np.uint8)
        return kept[box.slices_in(outer)]

    def _blocks(self, box: Box) -> NDArray[np.uint8]:
        rows, cols = (np.arange(lo, hi) // self.block_px for lo, hi in ((box.y0, box.y1), (box.x0, box.x1)))
        table = np.array(
            [
                [self.part_of_block(r, c) for c in range(cols[0], cols[-1] + 1)]
                for r in range(rows[0], rows[-1] + 1)
            ],
            np.uint8,
        )
        found: NDArray[np.uint8] = table[np.ix_(rows - rows[0], cols - cols[0])]
        return found
