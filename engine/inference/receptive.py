"""How far a network looks: measured, not believed; and what overlap follows from it.

Two ways, which agree where both work (the tests hold them against arithmetic):

- **gradient**, for torch networks: the derivative of one output pixel by every input pixel, over several
  inputs (Luo et al. 2016, "Understanding the effective receptive field in deep convolutional networks").
- **differences**, for networks that are only a graph to run (ONNX): everything farther than d pixels is
  replaced; the smallest d that leaves the answer alone is the support. Rings replaced one by one tell how
  the influence falls with distance.

The output pixel stands at the centre ``c`` of the window or one before it. With poolings a pixel reaches
farthest to the left where its number divides by the network's step, and farthest to the right one before
that; ``c`` divides by many powers of two, so the two hold the extremes.

::

    ┌──────────────────────┐ window of the probe
    │   ┌──────────────┐   │ support: no pixel outside has any influence
    │   │  ┌────────┐  │   │
    │   │  │  ○     │  │   │ effective field: 99.9% of all |derivatives|
    │   │  └────────┘  │   │
    │   └──────────────┘   │ where the support reaches the window's edge the probe's window grows, if the
    └──────────────────────┘ network lets it; if it still does, the network looks at its whole window
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.values.errors import InputError
from engine.values.lattice import Lattice

if TYPE_CHECKING:
    import torch

    from engine.inference.bundle import Bundle

MASS = 0.999
"""Share of all |derivatives| that the effective field holds."""

INPUTS = 3
"""Inputs that are tried at each of the two positions, once one has shown that the window holds the field."""

SMALL_PX, GROWTH = (64, 128), (1, 1.5, 2, 3, 4)
"""The probe's window: sides below the trained one, and how it grows from there, as long as the network takes it."""

SOME_DATES = 6
"""Dates of the input of a network that takes any number."""

SHIFTS_PX = (1, 2, 4, 8, 16, 32, 64)
"""Shifts that are tried to find the network's own step."""

_SAME = 1e-4  # of the outputs' spread: float32 sums in another order differ by 1e-6 of it
_UNMOVED = 1e-6  # of the answer's change when all the input changes: less counts as none

Network = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
"""``(x_BTCHW, valid_BTHW) -> outputs_BKHW``, float32; the output may be coarser than the input."""

Draw = Callable[[int, int], tuple["torch.Tensor", "torch.Tensor"]]
"""``(side_px, seed) -> (x_1TCHW, valid_1THW)``: an input as the network gets it, normalised."""

NetworkAt = Callable[[int], Network]
"""Gives the network for windows of a side; raises anything where it does not take them."""


@dataclass(frozen=True)
class ReceptiveField:
    """How far a network looks around an output pixel.

    Attributes:
        support_px: Greatest distance (the larger of rows and columns) of an input pixel with any influence.
        effective_px: Distance within which `MASS` of the influence lies.
        shift_px: Smallest shift of the input that only shifts the output: the network's own step, 1 without
            poolings; 0 if none was found: the answer depends on where in the window a pixel lies.
        probe_px: Side of the window in which this was measured.
        whole_window: The influence reached the edge of every window tried: there may be no limit to it.
        method: ``gradient``, ``differences``, or ``layout`` (a network that is given single pixels).
    """

    support_px: int
    effective_px: int
    shift_px: int
    probe_px: int
    whole_window: bool
    method: Literal["gradient", "differences", "layout"]

    @property
    def pixelwise(self) -> bool:
        """Whether each pixel is answered from itself alone."""
        return self.support_px == 0 and self.shift_px == 1 and not self.whole_window

    @property
    def size_free(self) -> bool:
        """Whether a larger window gives the same answers away from its edge."""
        return not self.whole_window and self.shift_px > 0

    def as_dict(self) -> dict[str, Any]:
        """Return figures for programs."""
        return {**asdict(self), "pixelwise": self.pixelwise, "size_free": self.size_free}

    def line(self) -> str:
        """Say it to a person.

        >>> ReceptiveField(138, 41, 16, 512, False, "gradient").line()
        '99.9% of the influence within 41 px, all within 138 px, in steps of 16 px (gradient)'
        """
        if self.pixelwise:
            return f"each pixel from itself alone ({self.method})"
        most = f"all within {self.support_px} px"
        if self.whole_window:
            most = f"the rest up to the edge of all windows up to {self.probe_px} px"
        steps = f"in steps of {self.shift_px} px" if self.shift_px else "depending on the place in the window"
        return f"{MASS:.1%} of the influence within {self.effective_px} px, {most}, {steps} ({self.method})"


@dataclass(frozen=True)
class LatticeProposal:
    """Windows that follow from a receptive field.

    Attributes:
        lattice: The proposal.
        effective_share: Share of the map's pixels whose best window misses a part of the effective field.
        support_share: Share of the map's pixels whose best window misses a part of the support.
        reason: Why, for people.
    """

    lattice: Lattice
    effective_share: float
    support_share: float
    reason: str


def receptive_field(
    bundle: Bundle, windows: NDArray[np.uint16] | None = None, patience_s: float = math.inf
) -> ReceptiveField:
    """Measure how far a bundle's network looks.

    Args:
        bundle: The model.
        windows: Real windows (n, T, C, y, x) uint16, 0 = no data, to measure on beside simulated ones; used
            where they are as large as the probe's window.
        patience_s: No larger window is tried once this much time is gone; the largest tried is told.

    Returns:
        The field, in pixels of the input.
    """
    from engine.inference.lane import network_of

    if bundle.pixelwise:
        return ReceptiveField(0, 0, 1, 1, False, "layout")
    n_dates = bundle.n_dates or SOME_DATES
    days = tuple(1 + 365 * n // n_dates for n in range(n_dates)) if bundle.takes_days else ()

    def network_at(side_px: int) -> Network:
        return network_of(replace(bundle, lattice=Lattice(side_px, 0)), "cpu", days)

    draw = partial(_draw, bundle, windows)
    by_differences = bundle.kind != "safetensors"
    return measure_field(
        network_at, draw, bundle.lattice.window_px, differences=by_differences, patience_s=patience_s
    )


def measure_field(
    network_at: NetworkAt,
    draw: Draw,
    window_px: int,
    *,
    differences: bool = False,
    patience_s: float = math.inf,
) -> ReceptiveField:
    """Measure a network's field, in windows that grow until they hold it.

    Args:
        network_at: Gives the network for a window; one that it cannot take may raise anything.
        draw: Gives inputs.
        window_px: Side of the trained window.
        differences: Replace inputs instead of taking derivatives.
        patience_s: No larger window is tried once this much time is gone.

    Returns:
        The field.
    """
    look = _by_differences if differences else _by_gradient
    found, start = None, time.perf_counter()
    for side_px, network in _growing(network_at, draw, window_px):
        found = side_px, network, *look(network, draw, side_px, 1)
        if not _reaches_edge(found[2], side_px):
            found = side_px, network, *look(network, draw, side_px, INPUTS)
            if not _reaches_edge(found[2], side_px):
                break
        if side_px >= window_px and time.perf_counter() - start > patience_s:
            break
    if found is None:
        raise InputError("the network cannot be run", where="receptive field", found=f"{window_px} px")
    side_px, _, support, effective = found
    whole = _reaches_edge(support, side_px)
    return ReceptiveField(
        support_px=support,
        effective_px=effective,
        shift_px=_shift(*_roomy(network_at, draw, side_px, support), support),
        probe_px=side_px,
        whole_window=whole,
        method="differences" if differences else "gradient",
    )


def propose_lattice(field: ReceptiveField, window_px: int) -> LatticeProposal:
    """Propose overlap and blending for a window from what the network looks at.

    A pixel of the map is best seen by the window in whose middle it lies: at least half the overlap away
    from the edge. So an overlap of twice the effective field shows each pixel its effective field. More than
    half the window is not proposed: each pixel would be evaluated more than four times. The distance of
    windows is a multiple of the network's own step, so that neighbouring windows compute the same thing
    where both see all that there is to see.

    >>> propose_lattice(ReceptiveField(138, 41, 16, 512, False, "gradient"), 256).lattice
    Lattice(window_px=256, overlap_px=96, kernel='hann')
    """
    if field.pixelwise:
        return LatticeProposal(
            Lattice(1, 0), 0.0, 0.0, "each pixel is answered from itself alone: no overlap"
        )
    own = field.shift_px if field.shift_px and window_px % field.shift_px == 0 else 1
    step = math.lcm(2, own)
    rest = window_px % step  # so that window less overlap is a multiple of the step
    wanted = rest + -(-max(0, 2 * field.effective_px - rest) // step) * step
    most = rest + max(0, window_px // 2 - rest) // step * step
    overlap = min(wanted, most)
    lattice = Lattice(window_px, overlap)
    seen, all_seen = edge_share(lattice, field.effective_px), edge_share(lattice, field.support_px)
    if field.whole_window:
        reason = (
            "the network looks at its whole window: no overlap makes windows agree, blending hides the rest"
        )
    elif overlap < wanted:
        reason = (
            f"the effective field of {field.effective_px} px does not fit: {seen:.0%} of pixels miss a part"
            " of it; a larger window would show it"
        )
    else:
        reason = f"half the overlap holds the effective field of {field.effective_px} px"
        reason += f"; {all_seen:.0%} of pixels miss a part of the last {1 - MASS:.1%} of the influence"
    return LatticeProposal(lattice, seen, all_seen, reason)


def edge_share(lattice: Lattice, radius_px: int) -> float:
    """Return the share of the map's pixels that even their best window shows less than a radius around them.

    Of the stride x stride pixels that a window answers best, those nearer than the radius to its edge.

    >>> edge_share(Lattice(256, 96), 48), round(edge_share(Lattice(256, 96), 64), 2)
    (0.0, 0.36)
    """
    free = max(0, lattice.window_px - 2 * radius_px)
    return 1.0 - min(1.0, free / lattice.stride_px) ** 2


def _reaches_edge(support: int, side_px: int) -> bool:
    return support >= side_px // 2 - 1 and side_px > 1


def _growing(network_at: NetworkAt, draw: Draw, window_px: int) -> Iterator[tuple[int, Network]]:
    """Yield the network for windows that it takes: small ones, which are quick, the trained one, larger ones."""
    import torch

    small = [side_px for side_px in SMALL_PX if 2 * side_px <= window_px]
    for side_px in dict.fromkeys((*small, *(int(window_px * factor) for factor in GROWTH))):
        try:
            network = network_at(side_px)
            with torch.no_grad():
                network(*draw(side_px, 0))
        except (
            Exception
        ):  # torch, ONNX Runtime and the network itself: whatever they raise, it does not take it
            if side_px == window_px:
                raise
            continue
        yield side_px, network


def _positions(side_px: int, count: int) -> Iterator[tuple[int, int]]:
    """Yield (position, seed): the centre and one before it in turn."""
    for seed in range(count):
        for position in {side_px // 2, max(0, side_px // 2 - 1)}:
            yield position, seed


def _by_gradient(network: Network, draw: Draw, side_px: int, inputs: int) -> tuple[int, int]:
    """Return support and effective field from derivatives of single outputs."""
    import torch

    mass = np.zeros(side_px + 1)
    support = 0
    for position, seed in _positions(side_px, inputs):
        x, valid = (part.clone().requires_grad_(True) for part in draw(side_px, seed))
        answer = network(x, valid)
        at = _answered(position, side_px, answer)
        signs = torch.randn(answer.shape[1], generator=torch.Generator().manual_seed(seed))
        parts = torch.autograd.grad((answer[0, :, at, at] * signs).sum(), (x, valid), allow_unused=True)
        influence = sum(
            g.abs().double().flatten(0, -3).sum(0).numpy() for g in parts if g is not None
        )  # (y, x)
        by_distance = np.bincount(
            _distances(side_px, position).ravel(), np.broadcast_to(influence, (side_px, side_px)).ravel()
        )
        mass[: by_distance.size] += by_distance / max(by_distance.sum(), 1e-300)
        support = max(support, int(np.flatnonzero(by_distance).max(initial=0)))
    return support, _radius(mass)


def _by_differences(network: Network, draw: Draw, side_px: int, inputs: int) -> tuple[int, int]:
    """Return support and effective field from answers to inputs that are replaced in part."""
    probes = [_Changed(network, draw, side_px, *at) for at in _positions(side_px, inputs)]
    support = max(probe.support() for probe in probes)
    if inputs == 1 or _reaches_edge(support, side_px):
        return support, support  # rings take long, and tell little of a window that is all seen
    mass = np.zeros(side_px + 1)
    for changed in probes:
        found = np.zeros(side_px + 1)
        for near, far in _rings(support):
            # Changes of many pixels add up like their root: |derivatives| add up like pixels.
            found[far] = changed.by(near, far) * np.sqrt((2 * far + 1) ** 2 - max(0, 2 * near - 1) ** 2)
        mass += found / max(found.sum(), 1e-300)
    return support, min(_radius(mass), support)


class _Changed:
    """How much one answer changes when a part of its input is replaced."""

    def __init__(self, network: Network, draw: Draw, side_px: int, position: int, seed: int) -> None:
        self.network, self.side_px, self.position = network, side_px, position
        self.x, self.valid = draw(side_px, seed)
        self.other, _ = draw(side_px, seed + 1000)
        self.distances = _distances(side_px, position)
        self.before = self._answer(self.x)
        self.whole = self.by(0, side_px)

    def _answer(self, x: torch.Tensor) -> NDArray[np.float64]:
        import torch

        with torch.no_grad():
            found = self.network(x, self.valid)
        at = _answered(self.position, self.side_px, found)
        return found[0, :, at, at].double().numpy()

    def by(self, near: int, far: int) -> float:
        """Replace what lies at distances ``near..far``; return the greatest change of an output."""
        import torch

        ring = torch.from_numpy((self.distances >= near) & (self.distances <= far))
        found = self._answer(torch.where(ring, self.other, self.x))
        return float(np.abs(found - self.before).max())

    def support(self) -> int:
        """Find by halving the smallest distance beyond which nothing matters."""
        inside, outside = -1, int(self.distances.max())
        while outside - inside > 1:
            middle = (inside + outside) // 2
            moved = self.by(middle + 1, self.side_px) > _UNMOVED * self.whole
            inside, outside = (middle, outside) if moved else (inside, middle)
        return outside


def _rings(reach_px: int) -> list[tuple[int, int]]:
    """Cut distances 0..reach into rings that widen with distance.

    >>> _rings(12)[-4:], _rings(40)[-3:]
    ([(9, 9), (10, 10), (11, 11), (12, 12)], [(31, 33), (34, 38), (39, 40)])
    """
    rings, near = [], 0
    while near <= reach_px:
        far = min(reach_px, near + near // 16 * 2)
        rings.append((near, far))
        near = far + 1
    return rings


def _radius(mass: NDArray[np.float64]) -> int:
    """Return the smallest distance that holds `MASS` of what was found."""
    total = float(mass.sum())
    return int(np.searchsorted(np.cumsum(mass), MASS * total)) if total else 0


def _roomy(network_at: NetworkAt, draw: Draw, side_px: int, support: int) -> tuple[Network, Draw, int]:
    """Return the network for a window that shows some pixels all that there is, shifted or not, if there is one."""
    import torch

    needed = 2 * support + side_px // 4 + 1
    if side_px < needed:
        with (
            contextlib.suppress(Exception),
            torch.no_grad(),
        ):  # whatever it raises, it does not take this window
            larger = network_at(2 * side_px)
            larger(*draw(2 * side_px, 0))
            return larger, draw, 2 * side_px
    return network_at(side_px), draw, side_px


def _shift(network: Network, draw: Draw, side_px: int, support: int) -> int:
    """Return the smallest shift of the input that only shifts the output, 0 if there is none."""
    import torch

    if side_px == 1:
        return 1
    most = max((s for s in SHIFTS_PX if s <= max(1, side_px // 4)), default=0)
    big_x, big_valid = draw(side_px + most, 7)
    with torch.no_grad():
        first = network(big_x[..., :side_px, :side_px], big_valid[..., :side_px, :side_px])
        spread = float(first.std()) or 1.0
        for shift in SHIFTS_PX:
            if shift > most:
                break
            cut = slice(shift, shift + side_px)
            second = network(big_x[..., cut, cut], big_valid[..., cut, cut])
            stride = side_px // first.shape[-1]
            if shift % stride == 0 and _agree(first, second, shift // stride, support // stride, spread):
                return shift
    return 0


def _agree(first: torch.Tensor, second: torch.Tensor, by: int, margin: int, spread: float) -> bool:
    """Tell whether two overlapping answers are one where both see all that there is, or else in the middle."""
    side = first.shape[-1]
    if side - by - 2 * margin < 1:  # no such pixel: those in the middle, where the edges matter least
        margin = (side - by - 1) // 2
    same = slice(margin, max(margin + 1, side - by - margin))
    shown = slice(same.start + by, same.stop + by)
    gap = (first[..., shown, shown] - second[..., same, same]).abs().max()
    return float(gap) <= _SAME * spread


def _answered(position: int, side_px: int, answer: torch.Tensor) -> int:
    """Return the output pixel over an input pixel."""
    return position // (side_px // answer.shape[-1])


def _distances(side_px: int, position: int) -> NDArray[np.int64]:
    """Distance of each pixel of a window from (position, position), the larger of rows and columns."""
    line = np.abs(np.arange(side_px) - position)
    return np.maximum(line[:, None], line[None, :])


def _draw(
    bundle: Bundle, windows: NDArray[np.uint16] | None, side_px: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw an input of a bundle's network: a real window where there is one, else fields with noise."""
    import torch

    from engine.models.normalise import prepare

    if windows is not None and seed < len(windows) and windows.shape[-1] >= side_px <= windows.shape[-2]:
        values = windows[seed][..., :side_px, :side_px]
    else:
        values = simulated(bundle.n_dates or SOME_DATES, len(bundle.planes), side_px, seed)
    return prepare(torch.tensor(values)[None], bundle.normalisation)


def simulated(n_dates: int, n_bands: int, side_px: int, seed: int) -> NDArray[np.uint16]:
    """Draw a window like reflectance: fields of 12 pixels, each of its own spectrum, and noise in each pixel.

    Returns:
        (date, band, y, x) uint16, never 0.
    """
    rng = np.random.default_rng(seed)
    cells = -(-side_px // 12)
    fields = rng.lognormal(7.3, 0.6, (n_dates, n_bands, cells, cells))
    values = fields.repeat(12, axis=2).repeat(12, axis=3)[..., :side_px, :side_px]
    noisy = values * rng.lognormal(0.0, 0.15, values.shape)
    return np.clip(noisy, 1, 12_000).astype(np.uint16)
