"""What in a bundle contradicts itself: bands, dates, windows, layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.values.errors import InputError
from engine.values.grid import Box
from engine.values.planes import groups_of

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle


def refuse_contradictions(bundle: Bundle) -> None:
    """Refuse fields that contradict each other; names the first.

    Raises:
        InputError: With the field, what it holds and what it would have to hold.
    """
    n_bands = len(bundle.planes)
    if bundle.normalisation.n_bands != n_bands:
        raise InputError(
            "normalisation and cube differ in their bands",
            where="landweave:normalisation",
            found=bundle.normalisation.n_bands,
            limit=n_bands,
        )
    _check_groups(bundle)
    if (bundle.layout.order == "BTCHW") != (bundle.kind == "safetensors"):
        raise InputError(
            "the layout does not fit the weights' format",
            where="landweave:layout.order",
            found=f"{bundle.layout.order} for {bundle.kind}",
            limit="BTCHW for safetensors, another for onnx and pt2",
        )
    if bundle.kind != "safetensors" and bundle.precision != "float32":
        raise InputError(
            "a graph computes in what it was written in",
            where="landweave:precision",
            found=f"{bundle.precision} for {bundle.kind}",
            limit="float32 (the default), or a network of the registry",
        )
    _check_lattice(bundle)
    if bundle.kind == "safetensors":
        _check_config(bundle, n_bands)


def _check_groups(bundle: Bundle) -> None:
    """Refuse a normalisation that knows other groups of planes than the bundle, and planes named twice."""
    known, groups = getattr(bundle.normalisation, "groups", None), groups_of(bundle.planes)
    if known not in (None, groups):  # None: they are there or missing all together
        raise InputError(
            "normalisation and planes differ in their groups",
            where="landweave:normalisation.groups",
            found=known,
            limit=groups,
            mend="kind: standard, with the group of each plane (engine.values.planes.groups_of)",
        )
    names = [plane.name for plane in bundle.planes]
    if len(set(names)) != len(names):
        raise InputError("each plane has a name of its own", where="landweave:planes", found=names)


def _check_lattice(bundle: Bundle) -> None:
    """Refuse windows that do not divide by the output's stride, and rows of pixels with windows."""
    if (bundle.layout.order in ("NF", "NTC")) and not bundle.pixelwise:
        raise InputError(
            "a network on rows of pixels has no windows",
            where="landweave:lattice",
            found=f"{bundle.lattice.window_px} px, overlap {bundle.lattice.overlap_px} px",
            limit="window 1 px, overlap 0 px",
        )
    bundle.frame(Box(0, 0, 0, 0), Box(0, 0, 0, 0)).small.lattice.weights()


def _check_config(bundle: Bundle, n_bands: int) -> None:
    config = bundle.config
    if config is None:
        raise InputError("safetensors need an architecture", where="landweave:architecture")
    found = (config.n_dates, config.n_bands, config.n_classes)
    limit = (bundle.n_dates, n_bands, len(bundle.classes.classes))
    if found != limit:
        raise InputError(
            "network and cube differ",
            where="landweave:config (n_dates, n_bands, n_classes)",
            found=found,
            limit=limit,
        )
    if bundle.lattice.window_px % config.window_multiple:
        raise InputError(
            "the window does not divide by the network's poolings",
            where="landweave:lattice.window_px",
            found=f"{bundle.lattice.window_px} px",
            limit=f"a multiple of {config.window_multiple} px",
        )
