"""What a bundle is, as a dictionary for programs and as a table for people; and how it was examined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.inference.ensemble import Ensemble, Model

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle
    from engine.inference.check import Finding


_IN_CARD = ("calibration", "card", "data")  # what a training measured at length: `landweave bundle card`


def as_dict(model: Model) -> dict[str, Any]:
    """Return everything that a bundle, or each member of an ensemble, says of itself, for JSON."""
    if not isinstance(model, Ensemble):
        return _bundle_dict(model)
    return {
        "name": model.name,
        "description": model.description,
        "licence": model.licence,
        "digest": model.digest(),
        "members": [{"weight": m.weight, **_bundle_dict(m.bundle)} for m in model.members],
    }


def _bundle_dict(bundle: Bundle) -> dict[str, Any]:
    lattice, spec = bundle.lattice, bundle.spec
    return {
        "name": bundle.name,
        "description": bundle.description,
        "licence": bundle.licence,
        "digest": bundle.digest(),
        "network": bundle.architecture or f"a graph ({bundle.kind})",
        "config": bundle.config.model_dump(mode="json") if bundle.config else None,
        "weights": {
            "file": bundle.weights_path.name,
            "sha256": bundle.weights_sha256,
            "bytes": bundle.weights_path.stat().st_size,
        },
        "cube": spec.model_dump(mode="json"),
        "n_dates": bundle.n_dates,
        "normalisation": bundle.normalisation.model_dump(mode="json"),
        "head": bundle.head.model_dump(mode="json"),
        "classes": [c.model_dump(mode="json", exclude_none=True) for c in bundle.classes.classes],
        "layers": list(bundle.layers().slices),
        "temperature": bundle.temperature,
        "window_px": lattice.window_px,
        "overlap_px": lattice.overlap_px,
        "kernel": lattice.kernel,
        "border": bundle.border,
        "stride": bundle.layout.stride,
        "size_free": bundle.size_free,
        "precision": bundle.precision,
        "training": bundle.training,
    }


def facts(bundle: Bundle) -> dict[str, str]:
    """Return the same in short, one line each, without the classes."""
    told, lattice, spec = _bundle_dict(bundle), bundle.lattice, bundle.spec
    window = (
        f"{lattice.window_px} px, overlap {lattice.overlap_px} px, {lattice.kernel}, border {bundle.border}"
    )
    dates = "any number of" if bundle.n_dates is None else f"{bundle.n_dates} x"
    stride = bundle.layout.stride
    found = {
        "name": bundle.name,
        "what": bundle.description,
        "licence": bundle.licence,
        "network": f"{told['network']}, {told['weights']['bytes'] / 1e6:.1f} MB, {bundle.precision}",
        "bands": ", ".join(plane.name for plane in bundle.planes),
        "dates": f"{dates} {spec.period or 'acquisitions'}, season {spec.season or 'any'}",
        "pixels": f"{spec.resolution_m:g} m, answers every {spec.resolution_m * stride:g} m",
        "gives": ", ".join(told["layers"]),
        "window": "none: each pixel by itself" if bundle.pixelwise else window,
        "temperature": f"{bundle.temperature:g}",
        **{str(k): _short(value) for k, value in bundle.training.items() if k not in _IN_CARD},
        "digest": bundle.digest(),
        "folder": str(bundle.path),
    }
    return {key: value for key, value in found.items() if value}


def _short(value: Any) -> str:
    """Write a training's note on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_short(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:200]


def show(model: Model) -> None:
    """Print a table of facts, of each member of an ensemble, and one of the classes with their colours."""
    from rich.console import Console

    console = Console(soft_wrap=not Console().is_terminal)
    if isinstance(model, Ensemble):
        about = {"ensemble": model.name, "what": model.description, "licence": model.licence}
        console.print(_table({**about, "digest": model.digest()}), highlight=False)
        for member in model.members:
            console.print()
            console.print(_table({"weight": str(member.weight), **facts(member.bundle)}), highlight=False)
    else:
        console.print(_table(facts(model)), highlight=False)
    console.print()
    console.print(_classes(model), highlight=False)


def _table(told: dict[str, str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column("what", no_wrap=True)
    table.add_column("told", overflow="fold")
    for key, value in told.items():
        table.add_row(key, Text(value))
    return table


def _classes(bundle: Model) -> Any:
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    table = Table("value", "colour", "output", box=None, pad_edge=False)
    shown = bundle.classes.classes[:40]
    for entry in shown:
        swatch = Text("   ", Style(bgcolor=entry.colour)) + Text(f" {entry.colour}")
        table.add_row(str(entry.value), swatch, Text(entry.name))
    if len(bundle.classes.classes) > len(shown):
        table.add_row("...", Text(""), Text(f"{len(bundle.classes.classes)} outputs in all"))
    return table


def check_lines(findings: list[Finding]) -> list[str]:
    """Write findings as aligned lines."""
    width = max(len(f.name) for f in findings)
    words = {True: "ok    ", False: "FAILED", None: "-     "}
    return [f"{words[f.passed]}  {f.name:<{width}}  {f.told}" for f in findings]
