"""Maskers: models and functions that tell from a scene's own pixels what hides the ground.

A masker is asked for fixed blocks of `MASK_BLOCK_PX` of a grid of its own (the cube's CRS, the mask's
resolution, anchored to the CRS' origin), each with the mask's margin around it, so that no chunking moves
what it says, and a network always sees an input of one size::

      ┌───────────────────────────┐
      │ margin                    │   512 + 2 x margin_px a side: what the model is given
      │   ┌───────────────────┐   │
      │   │                   │   │
      │   │   block, 512 px   │   │   what is taken from its answer, grown by dilate_m
      │   │                   │   │
      │   └───────────────────┘   │
      └───────────────────────────┘

``s2cloudless`` and ``package.module:function`` run installed code. A function is a spec's own choice of
code, so a bundle that names one is refused unless it is trusted (`engine.load_bundle`).
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.archive.items import ItemRecord
from engine.cube.masks import pixels_of
from engine.values.bands import band
from engine.values.errors import DataError, InputError
from engine.values.masking import Mask, ModelMask, SclMask
from engine.values.spec import REFLECTANCE_ONE

MASK_BLOCK_PX = 512
"""Side of the fixed blocks for which a masker is asked, in pixels of its own grid."""

Hide = Callable[[NDArray[np.uint16]], NDArray[np.bool_]]
"""(band, y, x) uint16 reflectance x 10000, 0 = no data, to (y, x) bool: True hides the ground."""

S2CLOUDLESS_BANDS = (
    "coastal", "blue", "red", "rededge1", "nir", "nir08", "nir09", "cirrus", "swir16", "swir22",
)  # fmt: skip
"""Inputs of s2cloudless, in its order: top-of-atmosphere reflectance (L1C), the only level with cirrus."""

OMNICLOUDMASK_BANDS = ("red", "green", "nir")
"""Inputs of OmniCloudMask, in its order."""

_S2CLOUDLESS_THRESHOLD = 0.4  # its authors' default, as are averaging and dilation by a disk of 1 px
_S2CLOUDLESS_DISK_PX = 1
_S2CLOUDLESS_REACH_PX = 2 * _S2CLOUDLESS_DISK_PX  # averaging, then dilation
_S2CLOUDLESS_FILE = "models/pixel_s2_cloud_detector_lightGBM_v0.1.txt"


@dataclass(frozen=True)
class Masker:
    """A model that was opened.

    Attributes:
        bands: What it is given, in this order.
        hide: What it says.
    """

    bands: tuple[str, ...]
    hide: Hide


def ready_masks(masks: tuple[Mask, ...], items: Iterable[ItemRecord], crs: str) -> tuple[Mask, ...]:
    """Check masks against the scenes before anything is read, and fill in the checksums of their models.

    Args:
        masks: What hides the ground.
        items: The scenes.
        crs: CRS of the cube's grid.

    Raises:
        InputError: If a scene lacks a layer or band that a mask reads, a margin is too narrow, a model is
            not there, or the CRS is not in metres.
    """
    from pyproj import CRS

    ready: list[Mask] = []
    for mask in masks:
        if CRS.from_user_input(crs).is_geographic:
            mend = "choose a projected grid.crs, or mask none"
            raise InputError("masks measure in metres", where="grid.crs", found=crs, mend=mend)
        if isinstance(mask, ModelMask):
            check_margin(mask)
            mask = with_checksum(mask)
        wanted = set(mask_bands(mask))
        for item in items:
            if not wanted.issubset(item.bands):
                raise _lacks(mask, item, sorted(wanted.difference(item.bands)))
        ready.append(mask)
    return tuple(ready)


def mask_bands(mask: Mask) -> tuple[str, ...]:
    """Return the bands that a mask reads of each scene."""
    if isinstance(mask, ModelMask):
        return bands_of(mask)
    return ("scl",) if isinstance(mask, SclMask) else (mask.band,)


def _lacks(mask: Mask, item: ItemRecord, missing: list[str]) -> InputError:
    mend = "choose another mask (scl, cloud_probability, s2cloudless, none) or a collection that has it"
    if isinstance(mask, ModelMask) and mask.form == "s2cloudless" and "cirrus" in missing:
        mend = "s2cloudless works on L1C alone, L2A has no cirrus band: use mask scl or cloud_probability"
    return InputError(
        "a scene lacks what the mask reads",
        where=f"item {item.id}, mask {mask.kind}",
        found=", ".join(item.bands) or "no bands",
        limit=", ".join(missing),
        mend=mend,
    )


def bands_of(mask: ModelMask) -> tuple[str, ...]:
    """Return the bands that a model is given.

    >>> bands_of(ModelMask(model="omnicloudmask"))
    ('red', 'green', 'nir')

    Raises:
        InputError: If the spec names none where it must, or others than a package wants.
    """
    own = {"s2cloudless": S2CLOUDLESS_BANDS, "omnicloudmask": OMNICLOUDMASK_BANDS}.get(mask.form)
    where = f"mask {mask.model}"
    if own is not None:
        if mask.bands not in ((), own):
            raise InputError("the model knows its bands", where=where, found=mask.bands, limit=own)
        return own
    layers = [b for b in mask.bands if not band(b).wavelength_um]
    if not mask.bands or layers:
        mend = "name the bands that the model is given, in its order: bands: [red, green, nir]"
        raise InputError(
            "the mask needs reflectance bands", where=where, found=mask.bands or "none", mend=mend
        )
    return mask.bands


def check_margin(mask: ModelMask) -> None:
    """Refuse a margin that is narrower than what the mask does around a pixel.

    Raises:
        InputError: With both widths.
    """
    grows = pixels_of(mask.dilate_m, mask.resolution_m)
    needed = grows + (_S2CLOUDLESS_REACH_PX if mask.form == "s2cloudless" else 0)
    if mask.margin_px < needed:
        raise InputError(
            "the mask reaches farther than its margin",
            where=f"mask {mask.model}, margin_px",
            found=f"{mask.margin_px} px",
            limit=f"{needed} px or more",
            mend="widen margin_px, or shorten dilate_m",
        )


def with_checksum(mask: ModelMask) -> ModelMask:
    """Fill in the sha256 of what answers, so that another file gives another key.

    A package's or function's code beyond the one file is not looked at.

    Raises:
        InputError: If the model is not there, or is not the one that the spec names.
    """
    found = _checksum(mask)
    if mask.sha256 not in (None, found):
        raise InputError(
            "the mask's model is not the one that the spec names",
            where=f"mask {mask.model}",
            found=f"sha256 {found}",
            limit=mask.sha256,
            mend="bring back that model, or leave sha256 out of the spec and make a new bundle",
        )
    return mask.model_copy(update={"sha256": found})


def _checksum(mask: ModelMask) -> str:
    if mask.form == "omnicloudmask":  # it fetches its weights itself; its version decides which
        _import(mask.form)
        version = importlib.metadata.version("omnicloudmask")
        return hashlib.sha256(f"omnicloudmask {version}".encode()).hexdigest()
    path = _model_file(mask)
    try:
        stat = path.stat()
        return _file_checksum(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise InputError("cannot read the mask's model", where=str(path), found=str(error)) from error


@functools.lru_cache(maxsize=64)
def _file_checksum(path: Path, _size: int, _time_ns: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _model_file(mask: ModelMask) -> Path:
    if mask.form == "onnx":
        return Path(mask.model)
    name = "s2cloudless" if mask.form == "s2cloudless" else mask.model.partition(":")[0]
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin:
        raise _not_installed(name)
    origin = Path(spec.origin)
    return origin.parent / _S2CLOUDLESS_FILE if mask.form == "s2cloudless" else origin


def _not_installed(name: str) -> InputError:
    extra = name in ("s2cloudless", "omnicloudmask")
    mend = "pip install 'landweave[cloudmasks]'" if extra else "install it, on the workers too"
    return InputError("the mask's package is not installed", where=f"mask {name}", mend=mend)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise _not_installed(name) from error


@functools.lru_cache(maxsize=8)
def open_masker(mask: ModelMask) -> Masker:
    """Open a model once a process.

    Args:
        mask: From a planned cube, its ``sha256`` filled in.

    Raises:
        InputError: If the model is not there or not the one that the spec names.
        DataError: If it cannot be opened.
    """
    mask = with_checksum(mask)
    openers = {
        "s2cloudless": _s2cloudless,
        "omnicloudmask": _omnicloudmask,
        "onnx": _onnx,
        "function": _function,
    }
    hide = openers[mask.form](mask)
    return Masker(bands_of(mask), functools.partial(_checked, mask, hide))


def _checked(
    mask: ModelMask, answer: Callable[[NDArray[np.uint16]], Any], values: NDArray[np.uint16]
) -> NDArray[np.bool_]:
    """Ask, and turn classes or a probability into what is hidden."""
    found = np.asarray(answer(values))
    if found.shape != values.shape[1:] or found.dtype.kind not in "buif":
        raise DataError(
            "the masker's answer does not fit its input",
            where=f"mask {mask.model}",
            found=f"{found.dtype} {found.shape}",
            limit=f"bool or numbers {values.shape[1:]}",
        )
    if found.dtype.kind == "b":
        return found
    return np.asarray(found != 0 if mask.threshold is None else found > mask.threshold)


def _s2cloudless(mask: ModelMask) -> Callable[[NDArray[np.uint16]], NDArray[np.bool_]]:
    """Open s2cloudless (Sentinel Hub; pixel-wise LightGBM of ten L1C bands), smoothed as its authors do.

    The probability is its own. Averaging and dilation by its disk of 1 px are done here in one fixed
    order, because OpenCV's differ in the last bits with a pixel's place in its block. Pixels without data
    count as clear in the average.
    """
    threshold = _S2CLOUDLESS_THRESHOLD if mask.threshold is None else mask.threshold
    detector = _import("s2cloudless").S2PixelCloudDetector(threshold=threshold)

    def answer(values: NDArray[np.uint16]) -> NDArray[np.bool_]:
        seen = values.any(axis=0)
        reflectance = values[:, seen].T.astype(np.float32) / np.float32(REFLECTANCE_ONE)
        probability = np.zeros(seen.shape, np.float32)
        probability[seen] = detector.get_cloud_probability_maps(reflectance[None, None], num_threads=1)[0, 0]
        cloudy = averaged_over_cross(probability) > threshold
        padded = np.pad(cloudy, 1)
        return cloudy | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]

    return answer


def averaged_over_cross(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Average each pixel with its four neighbours (a disk of 1 px), mirrored at the edges.

    Args:
        values: (y, x) float32.

    Returns:
        (y, x) float64.

    >>> averaged_over_cross(np.array([[0, 0, 5]], np.float32)).tolist()
    [[0.0, 1.0, 4.0]]
    """
    p = np.pad(values.astype(np.float64), 1, mode="symmetric")
    total = p[1:-1, 1:-1] + p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:]
    return np.asarray(total / 5)


def _omnicloudmask(mask: ModelMask) -> Callable[[NDArray[np.uint16]], NDArray[Any]]:
    """Open OmniCloudMask (Wright et al. 2025, Remote Sens. Environ. 322:114694): classes 0 clear to 3 shadow.

    One patch holds the whole block with its margin; on the CPU, so that every worker says the same.
    """
    predict = _import("omnicloudmask").predict_from_array

    def answer(values: NDArray[np.uint16]) -> NDArray[Any]:
        side = min(values.shape[1:])
        reflectance = values.astype(np.float32) / np.float32(REFLECTANCE_ONE)
        found = predict(
            reflectance,
            patch_size=side,
            patch_overlap=min(300, side // 2),
            batch_size=1,
            inference_device="cpu",
            no_data_value=0,
            apply_no_data_mask=True,
        )
        return np.asarray(found)[0]

    return answer


def _function(mask: ModelMask) -> Callable[[NDArray[np.uint16]], Any]:
    """Import a function of installed code."""
    module, _, name = mask.model.partition(":")
    function = getattr(_import(module), name, None)
    if not callable(function):
        raise InputError("no such function", where=f"mask {mask.model}", found=name, limit=f"in {module}")
    return function


def _onnx(mask: ModelMask) -> Callable[[NDArray[np.uint16]], NDArray[Any]]:
    """Open an ONNX network: (1, band, y, x) float32 reflectance 0..1 to classes or a probability.

    Its first output is (1, y, x) or (1, 1, y, x): the values; or (1, class, y, x): scores, of which the
    highest names the class (the first of equals). In one thread, so that its sums have one order.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    content = Path(mask.model).read_bytes()
    if hashlib.sha256(content).hexdigest() != mask.sha256:
        raise InputError("the mask's model changed while it was opened", where=mask.model)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen kinds, all of them its own
        raise DataError("cannot open the mask's network", where=mask.model, found=str(error)) from error
    first_input, first_output = session.get_inputs()[0].name, session.get_outputs()[0].name

    def answer(values: NDArray[np.uint16]) -> NDArray[Any]:
        feed = values[None].astype(np.float32) / np.float32(REFLECTANCE_ONE)
        try:
            found = np.asarray(session.run([first_output], {first_input: feed})[0])
        except Exception as error:
            raise DataError(
                "the mask's network refused its input", where=mask.model, found=str(error), limit=feed.shape
            ) from error
        return _as_plane(mask, found)

    return answer


def _as_plane(mask: ModelMask, found: NDArray[Any]) -> NDArray[Any]:
    """Reduce a network's output to (y, x)."""
    if found.ndim == 4 and found.shape[1] > 1:
        if mask.threshold is not None:
            raise InputError(
                "the network gives scores of classes, to which no threshold applies",
                where=f"mask {mask.model}, threshold",
                found=f"{found.shape[1]} classes",
                mend="leave threshold out: any class but 0 hides the ground",
            )
        return np.asarray(found[0].argmax(axis=0))
    return found.reshape(found.shape[-2:]) if found.size == np.prod(found.shape[-2:]) else found
