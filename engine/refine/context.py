"""Context filter: a class stays only where what belongs to it is near."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from engine.refine.around import Around
from engine.refine.steps import Layers, Source
from engine.refine.windows import (
    SHARE_ONE,
    Window,
    WindowConfig,
    asked,
    mask_of,
    read_only,
    relabelled,
    share_of,
)
from engine.values.classes import NO_DATA_LABEL
from engine.values.grid import Box

ClassName = str | int
ClassNames = ClassName | tuple[ClassName, ...]


class ContextConfig(WindowConfig):
    """Keep a class only where enough of certain classes is around, or only where they are not.

    ``{step: context, class: wetland, needs: [water], within_m: 500, share: 0.05, else: grassland}``

    What is around is counted in the map as it is before this step, all pixels at once; a pixel counts for itself.
    Pixels without data count for nothing.

    Attributes:
        of: The class or classes that are looked at; ``class`` in YAML.
        needs: Classes of which enough must be around.
        avoids: Classes of which as much must not be around; either these or `needs`.
        share: How much is enough: the share of the window's pixels with data; 0 = one pixel.
        otherwise: Class of the pixels that do not stay; null = no data. ``else`` in YAML.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)
    step: Literal["context"] = "context"
    of: ClassNames = Field(alias="class", description="class or classes that are looked at")
    needs: ClassNames = Field((), description="classes of which enough must be around")
    avoids: ClassNames = Field((), description="classes of which as much must not be around; or needs")
    share: float = Field(0.0, ge=0, le=1, description="share of the window that is enough; 0 = one pixel")
    otherwise: ClassName | None = Field(
        alias="else", description="class of pixels that do not stay; null = no data"
    )

    @model_validator(mode="after")
    def _one_question(self) -> ContextConfig:
        if bool(_several(self.needs)) == bool(_several(self.avoids)):
            raise ValueError("give needs or avoids, and not both")
        if not _several(self.of):
            raise ValueError("class: name at least one class")
        return self

    def made(self, around: Around) -> Context:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class, or the window is smaller than a pixel.
        """
        wanted = _several(self.needs) or _several(self.avoids)
        into = NO_DATA_LABEL if self.otherwise is None else around.value(self.otherwise, "context.else")
        return Context(
            self.window(around),
            around.values(_several(self.of), "context.class"),
            around.values(wanted, "context.needs" if _several(self.needs) else "context.avoids"),
            share_of(self.share),
            into,
            stays_with=bool(_several(self.needs)),
        )


def _several(names: ClassNames) -> tuple[ClassName, ...]:
    return names if isinstance(names, tuple) else (names,)


@dataclass(frozen=True)
class Context:
    """The context filter for one map.

    Attributes:
        window: What is around.
        of: Values that are looked at.
        others: Values that are counted.
        share: Millionths of the window's pixels with data that are enough; at least one pixel in any case.
        into: Value of the pixels that do not stay.
        stays_with: Whether pixels stay where there is enough; else where there is not.
    """

    window: Window
    of: tuple[int, ...]
    others: tuple[int, ...]
    share: int
    into: int
    stays_with: bool = True

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return self.window.reach_px

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given, beside that and what it gives."""
        return 2

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box."""
        labels, layers = asked(source, self.window.around(box), box)
        return relabelled(layers, in_context(labels, self))


def in_context(labels: NDArray[np.uint8], how: Context) -> NDArray[np.uint8]:
    """Return the labels, those changed that do not fit what is around them.

    Args:
        labels: (y, x) uint8, 0 = no data, with the window's reach on each side.
        how: Window and rule.

    Returns:
        (y, x) uint8 without that margin.

    >>> near = Context(Window.make("disc", 1), of=(1,), others=(2,), share=0, into=3)
    >>> in_context(np.array([[0, 2, 1, 1, 0]] * 3, np.uint8), near)
    array([[2, 1, 3]], dtype=uint8)
    """
    down, across = how.window.reach_yx
    out = labels[down : labels.shape[0] - down, across : labels.shape[1] - across].copy()
    kernel = _square if how.window.is_square else _spans
    rule = (how.share, how.stays_with, np.uint8(how.into))
    kernel(read_only(labels), how.window.array(), (mask_of(how.of), mask_of(how.others)), rule, out)
    return out


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _square(labels, halves, classes, rule, out):  # type: ignore[no-untyped-def]
    """Count in a rectangle by running sums: a few additions a pixel, however large it is."""
    of, others = classes
    down, across = len(halves) // 2, halves[0]
    height, width = labels.shape
    near, data = np.zeros(width, np.int64), np.zeros(width, np.int64)  # of each column
    for y in range(height):
        for x in range(width):
            near[x] += others[labels[y, x]]
            data[x] += labels[y, x] != 0
        if y > 2 * down:
            for x in range(width):
                near[x] -= others[labels[y - 2 * down - 1, x]]
                data[x] -= labels[y - 2 * down - 1, x] != 0
        if y < 2 * down:
            continue
        n, total = near[: 2 * across].sum(), data[: 2 * across].sum()
        for x in range(out.shape[1]):
            n += near[x + 2 * across]
            total += data[x + 2 * across]
            if of[labels[y - down, x + across]] and not _stays(n, total, rule):
                out[y - 2 * down, x] = rule[2]
            n -= near[x]
            total -= data[x]


@numba.njit(nogil=True, cache=True)  # pragma: no cover - compiled
def _spans(labels, halves, classes, rule, out):  # type: ignore[no-untyped-def]
    """Count row by row of the window, by sums along each row of the map; only for pixels that are looked at."""
    of, others = classes
    rows, across = len(halves), halves.max()
    down, (height, width) = rows // 2, labels.shape
    near = np.zeros((rows, width + 1), np.int32)  # sums of the last rows, in turn
    data = np.zeros((rows, width + 1), np.int32)
    for y in range(height):
        a, b = near[y % rows], data[y % rows]
        for x in range(width):
            a[x + 1] = a[x] + np.int32(others[labels[y, x]])
            b[x + 1] = b[x] + np.int32(labels[y, x] != 0)
        if y < 2 * down:
            continue
        for x in range(across, width - across):
            if not of[labels[y - down, x]]:
                continue
            n, total = np.int64(0), np.int64(0)
            for dy in range(rows):
                row, left, right = (y - 2 * down + dy) % rows, x - halves[dy], x + halves[dy] + 1
                n += near[row, right] - near[row, left]
                total += data[row, right] - data[row, left]
            if not _stays(n, total, rule):
                out[y - 2 * down, x - across] = rule[2]


@numba.njit(nogil=True, cache=True, inline="always")  # pragma: no cover - compiled
def _stays(n, total, rule):  # type: ignore[no-untyped-def]
    share, stays_with, _ = rule
    enough = n > 0 and n * SHARE_ONE >= share * total
    return enough == stays_with
