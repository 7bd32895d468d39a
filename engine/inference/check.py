"""Is a bundle what it says, and does it answer the same each time? Run on windows of made-up pixels.

Each finding is a sentence with its figure. The pixels are drawn, so nothing here says how good a model is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.inference.blend import ROWS
from engine.inference.ensemble import Model, bundles_of
from engine.inference.manifest import MANIFEST, Precision
from engine.inference.unfamiliar import read_familiarity
from engine.values.errors import LandweaveError

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle
    from engine.inference.lane import Lane

_WINDOWS = 3
_ANY_DATES = 6  # of a network that takes any number
_PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float16")

_MLM_REQUIRED = ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output")
_MLM_TASKS = (
    "regression", "classification", "scene-classification", "detection", "object-detection", "segmentation",
    "semantic-segmentation", "instance-segmentation", "panoptic-segmentation", "similarity-search",
    "generative", "image-captioning", "super-resolution",
)  # fmt: skip
_SEMVER = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        passed: Whether it is as it should be; None: it was measured or could not be checked here.
        told: A sentence with the figure.
    """

    name: str
    passed: bool | None
    told: str


def check_bundle(
    bundle: Bundle, *, device: str = "cpu", precision: bool = False, field: bool = False
) -> list[Finding]:
    """Check manifest, weights and answers of a bundle that `load_bundle` opened.

    Args:
        bundle: The model; `load_bundle` has compared its weights with their checksum.
        device: Where it runs.
        precision: Also compare the labels of bfloat16 and float16 with those of float32.
        field: Also measure how far the network looks, and whether that agrees with ``size_free``.

    Returns:
        Findings in order; later ones are left out where the network does not run at all.
    """
    found = [*_manifest(bundle.path / MANIFEST), _weights(bundle), *_familiar(bundle)]
    x_BTCHW, days = drawn_windows(bundle), drawn_days(bundle)
    try:
        from engine.inference.lane import Lane

        lane = Lane(bundle, device, days=days)
        out_BKHW = lane.run(x_BTCHW)
    except LandweaveError as error:
        return [*found, Finding("runs", False, str(error))]
    shape = "x".join(map(str, out_BKHW.shape[1:]))
    found.append(Finding("runs", True, f"{len(x_BTCHW)} drawn windows give finite {shape} (outputs, y, x)"))
    found.append(_same("repeats itself", "again in this process", out_BKHW, lane.run(x_BTCHW)))
    fresh = Lane(bundle, device, days=days).run(x_BTCHW)
    found.append(_same("starts alike", "built anew", out_BKHW, fresh))
    found += _slots(bundle, x_BTCHW, lambda batch: Lane(bundle, device, batch, days=days))
    if field:
        found.append(_field(bundle))
    if precision:
        found += _precisions(bundle, x_BTCHW, lambda other: Lane(other, device, days=days))
    return found


def check_model(
    model: Model, *, device: str = "cpu", precision: bool = False, field: bool = False
) -> list[Finding]:
    """Check a bundle, or each member of an ensemble; arguments as of `check_bundle`."""
    bundles = bundles_of(model)
    several = len(bundles) > 1
    return [
        replace(found, name=f"{bundle.path.name}: {found.name}") if several else found
        for bundle in bundles
        for found in check_bundle(bundle, device=device, precision=precision, field=field)
    ]


def drawn_windows(bundle: Bundle, seed: int = 0) -> NDArray[np.uint16]:
    """Draw windows (3, T, C, W, W), or one row of pixels (1, T, C, ROWS, 1), uint16.

    Smooth reflectance with some noise; a part of the first has no data on one date, another none at all.
    """
    rng = np.random.default_rng(seed)
    height, width = (ROWS, 1) if bundle.pixelwise else (bundle.lattice.window_px,) * 2
    shape = (1 if bundle.pixelwise else _WINDOWS, bundle.n_dates or _ANY_DATES, len(bundle.planes))
    rows, cols = np.arange(height)[:, None], np.arange(width)[None, :]
    level, across, along = (rng.uniform(0.5, 4.0, (*shape, 1, 1)) for _ in range(3))
    smooth = 1500 + 400 * level + 500 * np.sin(rows * across / 40) * np.cos(cols * along / 40)
    noisy = smooth + rng.normal(0, 60, (*shape, height, width))
    drawn = np.clip(noisy, 1, 10_000).astype(np.uint16)
    drawn[0, 0, :, : height // 3] = 0
    drawn[0, :, :, : height // 6] = 0
    return drawn


def drawn_days(bundle: Bundle) -> tuple[int, ...]:
    """Return a day of each month from January on, for networks that ask for days."""
    if not bundle.takes_days:
        return ()
    return tuple(15 + round(30.4 * (i % 12)) for i in range(bundle.n_dates or _ANY_DATES))


def _manifest(path: Path) -> Iterator[Finding]:
    """Check against the STAC 1.1 core schema, which comes with pystac, and against what MLM 1.4 asks for.

    The extension's own schema lies on the network and is not fetched.
    """
    import pystac

    fields = json.loads(path.read_text())
    try:
        pystac.Item.from_dict({**fields, "stac_extensions": []}).validate()
        yield Finding("STAC item", True, f"valid STAC {fields['stac_version']}")
    except ImportError:
        yield Finding("STAC item", None, "not checked: pip install jsonschema")
    except (pystac.STACError, KeyError, TypeError, ValueError) as error:
        yield Finding("STAC item", False, str(error)[:300])
    problems = list(_mlm_problems(fields))
    yield Finding(
        "MLM fields",
        not problems,
        "; ".join(problems) or "required fields, tasks, shapes and asset are there",
    )


def _mlm_problems(fields: dict[str, Any]) -> Iterator[str]:
    """Name what the machine learning model extension asks for and does not find (its README, version 1.4)."""
    properties = fields["properties"]
    if not any("/mlm/v1." in uri for uri in fields.get("stac_extensions", [])):
        yield "stac_extensions does not name mlm"
    yield from (f"{name} is missing" for name in _MLM_REQUIRED if not properties.get(name))
    for task in properties.get("mlm:tasks") or []:
        if task not in _MLM_TASKS:
            yield f"mlm:tasks: {task} is no task of the extension"
    version = properties.get("mlm:framework_version")
    if version is not None and not _SEMVER.fullmatch(version):
        yield f"mlm:framework_version: {version} is no semantic version"
    for side, key in (("mlm:input", "input"), ("mlm:output", "result")):
        for entry in properties.get(side) or []:
            shape, order = entry[key]["shape"], entry[key]["dim_order"]
            if len(shape) != len(order) or len(set(order)) != len(order):
                yield f"{side}: shape {shape} and dim_order {order} differ"
    if not any("mlm:model" in a.get("roles", []) for a in fields["assets"].values()):
        yield "no asset has the role mlm:model"


def _weights(bundle: Bundle) -> Finding:
    n_bytes = len(bundle.read_weights())
    return Finding(
        "weights", True, f"{n_bytes:,} bytes of {bundle.kind}, sha256 {bundle.weights_sha256[:16]}…"
    )


def _familiar(bundle: Bundle) -> Iterator[Finding]:
    """Compare the statistics of the features, where there are any, with their checksum."""
    if bundle.familiar is None:
        return
    try:
        known = read_familiarity(bundle)
        told = f"{len(known.centres_KF)} classes in {len(known.mean_F)} features, d95 {known.distance:.3g}"
        yield Finding("familiar", True, told)
    except LandweaveError as error:
        yield Finding("familiar", False, str(error))


def _slots(bundle: Bundle, x_BTCHW: NDArray[np.uint16], lane_of: Callable[[int], Lane]) -> Iterator[Finding]:
    """Check that a window's answer depends neither on its place in a batch nor on its neighbours there."""
    if bundle.pixelwise:
        lane = lane_of(1)
        turned = lane.run(np.ascontiguousarray(x_BTCHW[..., ::-1, :]))[..., ::-1, :]
        yield _same("rows are independent", "a row turned round", lane.run(x_BTCHW), turned)
        return
    try:
        lane = lane_of(_WINDOWS + 1)
        together, turned = lane.run(x_BTCHW), lane.run(np.ascontiguousarray(x_BTCHW[::-1]))[::-1]
        alone = lane.run(x_BTCHW[:1])
    except Exception as error:  # of the runtime of a graph that was written for one size of batch
        if bundle.kind == "safetensors":
            raise
        yield Finding("slots are independent", None, f"takes no larger batch: {str(error)[:120]}")
        return
    yield _same("slots are independent", "other places in a batch", together, turned)
    yield _same("neighbours do not matter", "alone in a batch", together[:1], alone)


def _same(name: str, what: str, one: NDArray[np.int32], other: NDArray[np.int32]) -> Finding:
    differing = int((one != other).any(axis=1).sum())
    if not differing:
        return Finding(name, True, f"{what}: the same bits")
    worst = int(np.abs(one.astype(np.int64) - other).max())
    return Finding(
        name, False, f"{what}: {differing} of {one[:, 0].size} pixels differ, by up to {worst}/65535"
    )


def _field(bundle: Bundle) -> Finding:
    """Measure the receptive field; a bundle may not call itself free of the window's size when it is not."""
    from engine.inference.receptive import receptive_field

    field = receptive_field(bundle)
    wrong = bundle.size_free and not field.size_free
    return Finding(
        "looks", False if wrong else None, field.line() + (", yet size_free is set" if wrong else "")
    )


def _precisions(
    bundle: Bundle, x_BTCHW: NDArray[np.uint16], lane_of: Callable[[Bundle], Lane]
) -> Iterator[Finding]:
    """Compare lower precisions with float32: labels that change per million pixels with data."""
    if bundle.kind != "safetensors":
        yield Finding("precision", None, "a graph computes in what it was written in")
        return
    exact = lane_of(replace(bundle, precision="float32")).run(x_BTCHW)
    for precision in _PRECISIONS:
        try:
            found = lane_of(replace(bundle, precision=precision)).run(x_BTCHW)
        except (LandweaveError, RuntimeError) as error:
            yield Finding(precision, None, f"does not run here: {str(error)[:200]}")
            continue
        if np.array_equal(found, exact):
            yield Finding(precision, None, "the same bits as float32: it is not computed in here")
            continue
        flips = float((found.argmax(1) != exact.argmax(1)).mean() * 1e6)
        worst = float(np.abs(found - exact).max() / 65535)
        labels = f"{flips:,.0f} labels per megapixel change, " if bundle.head.kind == "classes" else ""
        yield Finding(precision, None, f"{labels}an output changes by up to {worst:.2g} of its range")
