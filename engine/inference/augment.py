"""Augmentation at test time: a network sees each window turned in several ways, and the answers are averaged.

::

    window ──┬─ as it is ──────────► network ────────────────────► ┐
             ├─ mirrored ──────────► network ──► mirrored back ──► ├─ mean, in fixed point, halves upward
             └─ turned a quarter ──► network ──► turned back ────► ┘

``flips`` are four views (as it is, mirrored along either axis, along both), ``turns`` all eight of the square.
A network that looks at one pixel at a time has one view: it sees no neighbours that could be turned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.mean import totals
from engine.inference.unfamiliar import FamiliarLane
from engine.values.errors import InputError
from engine.values.head import Augment, Classes, Extra, MultiLabel, Values

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle

View = tuple[bool, int]
"""Whether x is mirrored, and then how many quarter turns."""

_VIEWS: dict[Augment, tuple[View, ...]] = {
    "none": ((False, 0),),
    "flips": tuple((mirrored, turns) for mirrored in (False, True) for turns in (0, 2)),
    "turns": tuple((mirrored, turns) for mirrored in (False, True) for turns in range(4)),
}


def views_of(bundle: Bundle, augment: Augment) -> tuple[View, ...]:
    """Return the views in which a network sees each window."""
    return _VIEWS["none" if bundle.pixelwise else augment]


def augmented_lane(
    bundle: Bundle,
    device: str,
    days: tuple[int, ...],
    augment: Augment,
    *,
    disagreement: bool = False,
    unfamiliar: bool = False,
) -> Any:
    """Return this process's lane of a bundle, or one that turns the windows for it.

    Args:
        bundle: The model.
        device: ``cpu``, ``cuda`` or ``cuda:n``.
        days: Running day of each date, for networks that take it.
        augment: The views.
        disagreement: Whether to give that of the views as one output more.
        unfamiliar: Whether to give how unfamiliar pixels are as the last output.
    """
    from engine.inference.lane import lane_for

    plain, views = lane_for(bundle, device, days), views_of(bundle, augment)
    lane = plain if len(views) == 1 else TurningLane(plain, views, bundle.head, disagreement=disagreement)
    return FamiliarLane(lane, plain) if unfamiliar else lane


class TurningLane:
    """A lane that sees each window in several views; as a lane to `engine.inference.blend`.

    Args:
        lane: What evaluates windows: ``.run`` and ``.batch``.
        views: How it sees them.
        head: What its outputs mean.
        disagreement: Whether to give that of the views as one output more.
    """

    def __init__(
        self,
        lane: Any,
        views: tuple[View, ...],
        head: Classes | MultiLabel | Values,
        *,
        disagreement: bool = False,
    ) -> None:
        self.lane, self.views, self.head, self.disagreement = lane, views, head, disagreement

    @property
    def batch(self) -> int:
        """Windows per evaluation."""
        return int(self.lane.batch)

    def run(self, x_BTCHW: NDArray[np.uint16]) -> NDArray[np.int32]:
        """Evaluate windows in all views.

        Args:
            x_BTCHW: uint16 windows, 0 = no data.

        Returns:
            (B, K, H, W) int32, the mean of the views' fixed points, halves upward; with disagreement as
            the last of K + 1 planes.
        """
        n = len(self.views)
        first_BKHW = _turned_back(self.lane.run(_turned(x_BTCHW, self.views[0])), self.views[0])
        answers_BVKHW = np.empty((len(first_BKHW), n, *first_BKHW.shape[1:]), np.uint16)
        answers_BVKHW[:, 0] = first_BKHW
        for i, view in enumerate(self.views[1:], start=1):
            answers_BVKHW[:, i] = _turned_back(self.lane.run(_turned(x_BTCHW, view)), view)
        sums = [totals(a, (1,) * n, self.head, disagreement=self.disagreement) for a in answers_BVKHW]
        return np.stack([(2 * s + n) // (2 * n) for s in sums])


def _turned(x: NDArray[np.uint16], view: View) -> NDArray[np.uint16]:
    mirrored, turns = view
    return np.ascontiguousarray(np.rot90(x[..., ::-1] if mirrored else x, turns, axes=(-2, -1)))


def _turned_back(p: NDArray[np.int32], view: View) -> NDArray[np.int32]:
    mirrored, turns = view
    back = np.rot90(p, -turns, axes=(-2, -1))
    return back[..., ::-1] if mirrored else back


def require_opinions(layers: tuple[Extra, ...], n_members: int, n_views: int) -> None:
    """Refuse a layer of disagreement where there is but one opinion.

    Raises:
        InputError: If there is one member and one view.
    """
    if "disagreement" in layers and n_members * n_views == 1:
        raise InputError(
            "one model that looks once cannot disagree with itself",
            where="layers",
            found="disagreement",
            mend="take an ensemble, or augment: flips (of a network that looks at more than single pixels)",
        )
