"""The card of a bundle: what it was trained on, how good it is and how sure of that, what it is for, where it ends.

Everything in ``card.md`` comes from the manifest, so a card can be written again at any time; the reliability figure
lies beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.calibration.plots import draw_reliability
from training.intervals import FEWEST_GROUPS

if TYPE_CHECKING:
    from engine.inference.bundle import Bundle

CARD, FIGURE = "card.md", "reliability.png"
_WEAK_F1, _FEW_PIXELS = 0.5, 200
_PARTS = {"test": "test blocks", "val": "validation blocks"}


def write_card(bundle: Bundle) -> Path:
    """Write ``card.md`` and, where the training measured it, ``reliability.png`` into the bundle's folder."""
    reports = _reports(bundle)
    figure, card = bundle.path / FIGURE, bundle.path / CARD
    figure.unlink(missing_ok=True)
    measured = {_PARTS[name]: told["reliability"] for name, told in reports.items()}
    if measured:
        draw_reliability(figure, measured, bundle.name)
    card.write_text("\n".join(card_lines(bundle)) + "\n")
    return card


def card_lines(bundle: Bundle) -> list[str]:
    """Return the card as lines of Markdown."""
    return [
        f"# {bundle.name}",
        "",
        bundle.description or "No description was given.",
        "",
        *_section("Model", _model(bundle)),
        *_section("Data", _data(bundle)),
        *_section("Scores", _scores(bundle)),
        *_section("Calibration", _calibration(bundle)),
        *_section("Intended use", _use(bundle)),
        *_section("Limits", _limits(bundle)),
    ]


def _section(title: str, lines: Iterator[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _model(bundle: Bundle) -> Iterator[str]:
    options = bundle.training.get("options") or {}
    yield f"- network: {bundle.architecture or f'a graph ({bundle.kind})'}, {bundle.precision}"
    if options:
        kept = ("steps", "batch", "crop_px", "learning_rate", "seed")
        yield "- training: " + ", ".join(f"{k} {options[k]}" for k in kept if k in options)
    pixels = "single pixels" if bundle.pixelwise else f"windows of {bundle.lattice.window_px} px"
    yield f"- maps: {pixels} at {bundle.spec.resolution_m:g} m; layers {', '.join(bundle.layers().slices)}"
    yield f"- classes: {', '.join(bundle.classes.names)}"
    yield f"- licence: {bundle.licence}"
    yield f"- digest: `{bundle.digest()}`"


def _data(bundle: Bundle) -> Iterator[str]:
    spec = bundle.spec
    dates = "any number of" if bundle.n_dates is None else str(bundle.n_dates)
    composites = f"{spec.reducer} over {spec.period}" if spec.period else "single acquisitions"
    seen = ", ".join(plane.name for plane in bundle.planes)
    yield f"- input: {dates} dates of {seen}; {composites}; season {spec.season or 'any'}"
    for key, value in (bundle.training.get("data") or {}).items():
        yield f"- {key}: {value}"
    split = (bundle.training.get("options") or {}).get("split")
    if split:
        yield (
            f"- split: by {split['by']}, {split['val']:.0%} for validation, {split['test']:.0%} for testing;"
            f" blocks of {split['block_px']} px, {split['buffer_px']} px apart"
        )
    pixels = bundle.training.get("pixels") or {}
    if pixels:
        yield "- annotated: " + ", ".join(f"{n:,} {part}" for part, n in pixels.items())


def _scores(bundle: Bundle) -> Iterator[str]:
    reports = _reports(bundle)
    if not reports:
        yield "None: the bundle brings no scores of an examined training."
        return
    yield "| part | blocks | accuracy | mean F1 | mean IoU |"
    yield "| --- | --- | --- | --- | --- |"
    for name, told in reports.items():
        figures = " | ".join(_interval(told[k]) for k in ("accuracy", "mean_f1", "mean_iou"))
        yield f"| {_PARTS[name]} | {told['groups']} | {figures} |"
    yield ""
    yield "In brackets 95% intervals: the bootstrap over blocks. Validation blocks chose the state and the calibration."
    part = "test" if bundle.training.get("test") else "val"
    scores = bundle.training.get(part)
    if scores:
        yield from _classes(scores, _PARTS[part])


def _classes(scores: Mapping[str, Any], part: str) -> Iterator[str]:
    yield ""
    yield f"| class ({part}) | pixels | user's accuracy | producer's accuracy | F1 | IoU |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, told in scores["classes"].items():
        figures = " | ".join(_number(told[k]) for k in ("precision", "recall", "f1", "iou"))
        yield f"| {name} | {told['pixels']:,} | {figures} |"


def _calibration(bundle: Bundle) -> Iterator[str]:
    how = f"temperature {bundle.temperature:.3g}"
    yield f"- probabilities: {how if bundle.vector is None else 'a scale and shift for each class'}"
    for name, told in _reports(bundle).items():
        before, after = (told["reliability"][k]["ece"] for k in ("before", "after"))
        adaptive = told["adaptive_ece"]["after"]
        yield (
            f"- expected calibration error on {_PARTS[name]}: {before:.3f} as the network answers,"
            f" {after:.3f} as the bundle does (bins of equal mass: {adaptive:.3f})"
        )
    for note in (bundle.training.get("calibration") or {}).get("notes", ()):
        yield f"- {note}"
    if bundle.familiar is not None:
        yield (
            f"- layer `unfamiliar`: distance in {bundle.familiar.n_features} features; above 0.5 a pixel is farther"
            " from the training than 95% of held-out pixels"
        )
    if _reports(bundle):
        yield ""
        yield f"![how often it is right, by how sure it is]({FIGURE})"


def _use(bundle: Bundle) -> Iterator[str]:
    told = (bundle.training.get("card") or {}).get("intended_use")
    if told:
        yield told
        return
    place = (bundle.training.get("data") or {}).get("area", "the area of its labels")
    yield (
        f"Maps of {', '.join(bundle.classes.names)} in {place}, from cubes as above. Not stated by its maker:"
        " `card.intended_use` in the training's YAML."
    )


def _limits(bundle: Bundle) -> Iterator[str]:
    training, reports = bundle.training, _reports(bundle)
    for told in (training.get("card") or {}).get("limits", ()):
        yield f"- {told}"
    data = training.get("data") or {}
    if data:
        yield f"- It knows {data.get('area', 'one area')}, {data.get('time', 'one season')}, and nothing else."
    if bundle.familiar is not None:
        yield "- Elsewhere, map the layer `unfamiliar` and believe little where it is above 0.5 (125)."
    yield "- Scores are of annotated pixels, not of the map: labels are rarely drawn at random."
    few = [_PARTS[name] for name, told in reports.items() if told["groups"] < FEWEST_GROUPS]
    if few:
        yield f"- Intervals rest on fewer than {FEWEST_GROUPS} blocks ({', '.join(few)}) and are too narrow."
    if reports and "test" not in reports:
        yield "- No test blocks: the scores chose the state that they score, and are a little too good."
    yield from _weak_classes(training)


def _weak_classes(training: Mapping[str, Any]) -> Iterator[str]:
    classes = ((training.get("test") or training.get("val")) or {}).get("classes", {})
    weak = [f"{n} ({c['f1']:.2f})" for n, c in classes.items() if c["f1"] is not None and c["f1"] < _WEAK_F1]
    if weak:
        yield f"- Classes it finds badly (F1 below {_WEAK_F1}): {', '.join(weak)}."
    few = [f"{n} ({c['pixels']})" for n, c in classes.items() if c["pixels"] < _FEW_PIXELS]
    if few:
        yield f"- Classes scored on fewer than {_FEW_PIXELS} pixels: {', '.join(few)}."


def _reports(bundle: Bundle) -> dict[str, Any]:
    """Return what was measured, the test part first."""
    parts = (bundle.training.get("calibration") or {}).get("parts", {})
    return {name: parts[name] for name in _PARTS if name in parts}


def _interval(told: Mapping[str, float]) -> str:
    return f"{told['value']:.3f} ({told['low']:.3f} to {told['high']:.3f})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
