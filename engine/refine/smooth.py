"""Probability smoothing: each pixel's class is decided again, with the probabilities around it.

Three ways, on the layer ``probability``; pixels without data have no say and stay::

    gaussian    the weighted mean of the probabilities around
    bilateral   the same, but what differs weighs less: edges stay (Tomasi & Manduchi 1998, ICCV, on vectors)
    bayes       the mean of each logit and of its neighbours' highest, weighted by how much those vary
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine.refine.around import Around, StepConfig
from engine.refine.steps import Layers, Source
from engine.refine.windows import NO_SHARE, Window, WindowConfig, cut, read_only, share_of
from engine.values.errors import InputError
from engine.values.grid import Box

_ONE = 250
_READS = ("label", "confidence", "probability")
_GAUSSIAN_TOTAL = 2048  # of the weights along an axis: 250 x 2048 x 2048 is below 2**31
_BILATERAL_ONE = 4096
_SQUARE_STEP = 16  # squared differences of probabilities are told apart by this much
_LEAST_SHARE = 0.25  # of a stored step: 0 and 250 stand for 0.001 and 0.999 in logits
_LOGIT_ONE = 65536

Kernel = Callable[[NDArray[np.uint8], NDArray[np.uint8], tuple[NDArray[np.uint8], ...]], None]
"""Takes probabilities with their margin, the classes' values, and label, confidence and probability to fill."""


class _SigmaConfig(StepConfig):
    """Settings of a step whose weights fall with the distance.

    Attributes:
        sigma_px: Standard deviation of the weights in pixels.
        sigma_m: The same in metres; or `sigma_px`.
    """

    reads: ClassVar[tuple[str, ...]] = _READS
    sigma_px: float | None = Field(None, gt=0, description="standard deviation of the weights in pixels")
    sigma_m: float | None = Field(None, gt=0, description="the same in metres; or sigma_px")

    @model_validator(mode="before")
    @classmethod
    def _usual_sigma(cls, given: object) -> object:
        if isinstance(given, dict) and not given.keys() & {"sigma_px", "sigma_m"}:
            return {**given, "sigma_px": 1.0}
        return given

    @model_validator(mode="after")
    def _one_sigma(self) -> Self:
        if (self.sigma_px is None) == (self.sigma_m is None):
            raise ValueError("give sigma_px or sigma_m, and not both")
        return self

    def sigma_yx(self, around: Around, most_px: float) -> tuple[float, float]:
        """Return the standard deviation in pixels, down and across.

        Raises:
            InputError: If it is larger than the kernel can.
        """
        if self.sigma_px is not None:
            found = (self.sigma_px, self.sigma_px)
        else:
            found = tuple((self.sigma_m or 0) / r for r in around.resolution_yx)  # type: ignore[assignment]
        if not max(found) <= most_px:
            raise InputError(
                "the weights reach too far",
                where=f"{self.step}.sigma_px",
                found=f"{max(found):g} px",
                limit=f"at most {most_px:g} px",
                mend="take a smaller sigma, or refine a coarser map",
            )
        return found


class GaussianConfig(_SigmaConfig):
    """Average the probabilities with weights that fall with the distance.

    The weights are whole numbers, 2048 along each axis, and end where they would be 0, at most at 3 sigma.
    """

    step: Literal["gaussian"] = "gaussian"

    def made(self, around: Around) -> GaussianStep:
        """Return the step for one map.

        Raises:
            InputError: If sigma is larger than 25 px.
        """
        down, across = (gaussian_weights(s) for s in self.sigma_yx(around, 25))
        return GaussianStep(down, across, around.scheme.values)


class BilateralConfig(_SigmaConfig):
    """Average the probabilities of pixels nearby that are like it, so that edges stay.

    The weight of a neighbour is ``exp(-d**2 / (2 sigma**2)) exp(-|p - q|**2 / (2 similar**2))`` (Tomasi & Manduchi
    1998, ICCV, eq. 8 ff., on vectors of probabilities), up to a distance of 2 sigma, in 4096ths.

    Attributes:
        similar: Standard deviation of the weights by the Euclidean distance between probabilities, 0..1.41; where two
            pixels are sure of two classes it is 1.41.
    """

    step: Literal["bilateral"] = "bilateral"
    similar: float = Field(
        0.3, gt=0, le=10, description="difference of probabilities that still counts as alike"
    )

    def made(self, around: Around) -> BilateralStep:
        """Return the step for one map.

        Raises:
            InputError: If sigma is larger than 5 px.
        """
        sigma_y, sigma_x = self.sigma_yx(around, 5)
        return BilateralStep((sigma_y, sigma_x), self.similar, around.scheme.values)


class BayesConfig(WindowConfig):
    """Bring each class's logit nearer to its neighbours', the more the more those agree.

    ``E = s2 / (s2 + smoothness) x + smoothness / (s2 + smoothness) m``: x is the pixel's logit, m and s2 mean and
    sample variance of the highest logits of that class in the window, the pixel's own among them. Empirical Bayes for
    a normal prior and a normal likelihood (Camara, Assuncao, Carvalho, Simoes et al. 2024, Remote Sensing 16:4572; the
    method of the R package sits). The probabilities are the logistic of E, made to add up to 1.

    Attributes:
        smoothness: Variance of the logits that is taken for noise; more smooths more.
        classes: Another smoothness for some classes.
        fraction: Share of the window's pixels with data that make the prior: those of the highest logits, so that a
            class's own edge does not count against it.
    """

    reads: ClassVar[tuple[str, ...]] = _READS
    step: Literal["bayes"] = "bayes"
    smoothness: float = Field(20.0, gt=0, le=1000, description="variance of logits that is taken for noise")
    classes: dict[str, float] = Field(default_factory=dict, description="another smoothness for some classes")
    fraction: float = Field(0.5, gt=0, le=1, description="share of the window that makes the prior")

    @model_validator(mode="before")
    @classmethod
    def _usual_window(cls, given: object) -> object:
        if isinstance(given, dict) and not given.keys() & {"within_px", "within_m", "shape"}:
            return {**given, "within_px": 3, "shape": "square"}
        return given

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if any(not 0 < s <= 1000 for s in self.classes.values()):
            raise ValueError(f"classes: a smoothness is above 0 and at most 1000, got {self.classes}")
        return self

    def made(self, around: Around) -> BayesStep:
        """Return the step for one map.

        Raises:
            InputError: If the map has no such class, or the window is smaller than a pixel or wider than 51.
        """
        window = self.window(around)
        if window.reach_px > 25:
            raise InputError(
                "the window is too large for its neighbours to say something of its middle",
                where="bayes.within_px",
                found=f"{window.reach_px} px",
                limit="at most 25 px",
            )
        own = {around.value(name, "bayes.classes"): s for name, s in self.classes.items()}
        smoothness = tuple(own.get(v, self.smoothness) for v in around.scheme.values)
        return BayesStep(window, smoothness, share_of(self.fraction), around.scheme.values)


@dataclass(frozen=True)
class GaussianStep:
    """Gaussian smoothing of one map.

    Attributes:
        down: Weights of the rows, an odd number.
        across: Weights of the columns, an odd number.
        classes: Value of each plane.
    """

    down: tuple[int, ...]
    across: tuple[int, ...]
    classes: tuple[int, ...]

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return max(len(self.down), len(self.across)) // 2

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given: what is masked, the mask, and what is made."""
        return 3 * len(self.classes) + 4

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box.

        Raises:
            InputError: If the map has no probabilities.
        """
        from engine.refine.smooth_kernels import gaussian

        weights = (np.array(self.down, np.int32), np.array(self.across, np.int32))
        reach_yx = (len(self.down) // 2, len(self.across) // 2)
        return smoothed(
            source, box, reach_yx, self.classes, lambda p, labels, out: gaussian(p, weights, labels, out)
        )


@dataclass(frozen=True)
class BilateralStep:
    """Edge-preserving smoothing of one map.

    Attributes:
        sigma_yx: Standard deviation of the weights by distance, in pixels.
        similar: The same by the distance of probabilities.
        classes: Value of each plane.
    """

    sigma_yx: tuple[float, float]
    similar: float
    classes: tuple[int, ...]

    @property
    def reach_yx(self) -> tuple[int, int]:
        """Pixels to each side, down and across."""
        sigma_y, sigma_x = self.sigma_yx
        return math.ceil(2 * sigma_y), math.ceil(2 * sigma_x)

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return max(self.reach_yx)

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given: what is masked, the mask, and what is made."""
        return 3 * len(self.classes) + 4

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box.

        Raises:
            InputError: If the map has no probabilities.
        """
        from engine.refine.smooth_kernels import bilateral

        offsets, tables = self._offsets(), (similar_weights(self.similar), self.reach_yx)
        return smoothed(
            source,
            box,
            self.reach_yx,
            self.classes,
            lambda p, labels, out: bilateral(p, offsets, tables, labels, out),
        )

    def _offsets(self) -> NDArray[np.int64]:
        """Return the neighbours within 2 sigma: row and column from the margin's corner, and weight."""
        (sigma_y, sigma_x), (down, across) = self.sigma_yx, self.reach_yx
        found = []
        for dy in range(-down, down + 1):
            for dx in range(-across, across + 1):
                square = (dy / sigma_y) ** 2 + (dx / sigma_x) ** 2
                if square <= 4 + 1e-9:
                    found.append((dy + down, dx + across, round(_BILATERAL_ONE * math.exp(-square / 2))))
        return np.array(found, np.int64)


@dataclass(frozen=True)
class BayesStep:
    """Bayesian smoothing of one map.

    Attributes:
        window: Whose logits make the prior.
        smoothness: Of each class.
        fraction: Millionths of the window's pixels with data that make the prior.
        classes: Value of each plane.
    """

    window: Window
    smoothness: tuple[float, ...]
    fraction: int
    classes: tuple[int, ...]

    @property
    def reach_px(self) -> int:
        """Pixels beyond a box that can change something in it."""
        return self.window.reach_px

    @property
    def work_bytes_px(self) -> int:
        """Bytes of work for a pixel that it is given: what is masked, the mask, and what is made."""
        return 3 * len(self.classes) + 4

    def apply(self, source: Source, box: Box) -> Layers:
        """Return the layers over a box.

        Raises:
            InputError: If the map has no probabilities.
        """
        from engine.refine.smooth_kernels import bayes

        halves, how = self.window.array(), (_logit_tables(), np.array(self.smoothness), self.fraction)
        return smoothed(
            source,
            box,
            self.window.reach_yx,
            self.classes,
            lambda p, labels, out: bayes(p, halves, how, labels, out),
        )


def smoothed(
    source: Source, box: Box, reach_yx: tuple[int, int], classes: tuple[int, ...], kernel: Kernel
) -> Layers:
    """Ask for a box and its surroundings, and decide its pixels again.

    Args:
        source: The map, with ``probability``.
        box: Global pixels.
        reach_yx: What the kernel needs on each side.
        classes: Value of each plane.
        kernel: Fills label, confidence and probability.

    Raises:
        InputError: If the map has no probabilities, or not one for each class.
    """
    down, across = reach_yx
    outer = Box(box.y0 - down, box.x0 - across, box.y1 + down, box.x1 + across)
    layers = source(outer)
    require_probability(layers, len(classes))
    p = _known(layers)
    inner = cut(layers, outer, box)
    names = [n for n in _READS if n in inner]
    made = {n: np.array(inner[n], order="C") for n in names}
    confidence = made.get("confidence", np.empty_like(made["label"]))
    kernel(p, np.array(classes, np.uint8), (made["label"], confidence, made["probability"]))
    return {**inner, **made}


def _known(layers: Layers) -> NDArray[np.uint8]:
    """Return the probabilities, 255 in all planes where a pixel has no class or no probabilities."""
    p = np.asarray(layers["probability"])
    unknown = (layers["label"] == 0) | (p[0] == NO_SHARE)
    if (p[:, unknown] != NO_SHARE).any():
        p = np.where(unknown, np.uint8(NO_SHARE), p)
    return read_only(p)


def require_probability(layers: Mapping[str, Any], n_classes: int) -> None:
    """Refuse a map without a probability for each class.

    Raises:
        InputError: Saying how to make one that has them.
    """
    there = layers["probability"].shape[0] if "probability" in layers else 0
    if there != n_classes:
        raise InputError(
            "smoothing needs the probability of each class",
            where="layer probability",
            found=f"{there} planes" if there else f"layers {', '.join(layers)}",
            limit=f"{n_classes} planes, one for each class",
            mend="make the map with `layers: [probability]`, or leave the smoothing out",
        )


def gaussian_weights(sigma_px: float) -> tuple[int, ...]:
    """Return the weights along an axis, as whole numbers that add up to about 2048.

    >>> gaussian_weights(1.0)
    (9, 111, 496, 816, 496, 111, 9)
    """
    reach = math.ceil(3 * sigma_px)
    bells = [math.exp(-(d**2) / (2 * sigma_px**2)) for d in range(-reach, reach + 1)]
    weights = [math.floor(_GAUSSIAN_TOTAL * b / sum(bells) + 0.5) for b in bells]
    while len(weights) > 1 and not weights[0]:
        weights = weights[1:-1]
    if (
        len(weights) > 1 and sum(weights) > _GAUSSIAN_TOTAL
    ):  # rounded up more often than down: the middle gives way
        weights[len(weights) // 2] -= sum(weights) - _GAUSSIAN_TOTAL
    return tuple(weights)


def similar_weights(similar: float) -> NDArray[np.int32]:
    """Return the weight of each squared difference of probabilities in stored steps, by 16; 4096 = alike.

    Args:
        similar: Standard deviation in units of probability.
    """
    squares = np.arange(2 * _ONE**2 // _SQUARE_STEP + 2) * _SQUARE_STEP / _ONE**2
    return np.floor(_BILATERAL_ONE * np.exp(-squares / (2 * similar**2)) + 0.5).astype(np.int32)


def logits() -> NDArray[np.int64]:
    """Return the logit of each stored probability 0..250, in multiples of 2**-16; 0 and 250 are finite."""
    share = np.clip(np.arange(_ONE + 1), _LEAST_SHARE, _ONE - _LEAST_SHARE) / _ONE
    return np.rint(np.log(share / (1 - share)) * _LOGIT_ONE).astype(np.int64)


def _logit_tables() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the logits of all stored values and their squares, (256,) int64 each, 0 for no data."""
    table = np.zeros(256, np.int64)
    table[: _ONE + 1] = logits()
    return table, table**2
