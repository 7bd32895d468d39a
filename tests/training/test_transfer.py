"""Training with a start: what begins where, what learns how fast and when, and that it is worth it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from engine.inference.bundle import save_bundle
from engine.inference.planes import planes_in
from engine.inference.state import read_state_dict
from engine.models.normalise import Standard
from engine.models.presto import load_published
from engine.models.registry import build
from engine.models.spatial.resnet import ResNet, published_name
from engine.values.classes import ClassScheme
from engine.values.errors import InputError, TrustError
from engine.values.lattice import Lattice
from engine.values.planes import Plane
from engine.values.spec import CubeSpec
from tests.training.synthetic import Season, season
from training.labels import LabelRaster
from training.lessons import CubeLessons
from training.loop import Progress, TrainedModel, TrainOptions, fit, fresh_network, train
from training.options import Checkpoints
from training.series import SeriesTable
from training.splits import Split
from training.tables.train import TableOptions, train_table
from training.transfer import BodyAndHead, TransferOptions, started

BANDS = ("blue", "green", "red", "nir")
SEASON = Season(side_px=128, n_dates=3, n_bands=4, n_classes=4, fields=70, noise=1200.0, seed=2)
OPTIONS = TrainOptions(
    config={"stem": 12, "width": 8, "width_max": 16, "depth": 2},
    split=Split(block_px=32, buffer_px=4, val=0.25),
    steps=120,
    batch=4,
    crop_px=32,
    checks=1,
)


@pytest.fixture(scope="module")
def made() -> tuple[xr.Dataset, LabelRaster]:
    cube, labels = season(SEASON, (-500_000, 30_000))
    return cube.assign_coords(band=list(BANDS)), labels


@pytest.fixture(scope="module")
def weak(made: tuple[xr.Dataset, LabelRaster], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A bundle that learnt from labels of which a fifth is wrong."""
    cube, labels = made
    rng = np.random.default_rng(0)
    wrong = rng.random(labels.values.shape) < 0.2
    values = np.where(wrong & (labels.values > 0), rng.integers(1, 5, wrong.shape), labels.values)
    noisy = LabelRaster(values.astype(np.uint8), labels.box, labels.classes)
    return _saved(train(cube, noisy, OPTIONS), tmp_path_factory.mktemp("weak"))


def _saved(trained: TrainedModel, folder: Path) -> str:
    spec = CubeSpec(bands=BANDS, period="1MS", season="03-01/05-31")
    fields = trained.bundle_fields("weak", spec, Lattice(32, 8), "other")
    save_bundle(folder, trained.module, trained.options.architecture, fields)
    return str(folder)


def _with(start: str, **fields: Any) -> TrainOptions:
    return OPTIONS.model_copy(update={"transfer": TransferOptions(start=start, **fields)})


def _partial(labels: LabelRaster, every: int = 9) -> LabelRaster:
    """Leave a few good labels in the training part, all in the others."""
    values = labels.values.copy()
    train_YX = OPTIONS.split.parts(labels.box) == 1
    keep = np.zeros(values.shape, bool)
    keep[::every, ::every] = True
    values[train_YX & ~keep] = 0
    return LabelRaster(values, labels.box, labels.classes)


def test_before_the_first_step_it_answers_as_its_start(
    made: tuple[xr.Dataset, LabelRaster], weak: str
) -> None:
    cube, labels = made
    other = cube.isel(band=slice(None, None, -1))  # from nir to blue
    lessons = CubeLessons.of(other, labels, OPTIONS)
    options = _with(weak)
    module = fresh_network(lessons, options, options.crop_px)
    renewed, tuning = started(module, lessons, planes_in(other), options)
    first = CubeLessons.of(cube, labels, OPTIONS)
    start = fresh_network(first, options, options.crop_px)
    kept, _ = started(start, first, planes_in(cube), options)
    assert renewed.normalisation.mean == kept.normalisation.mean[::-1]
    batches = (next(iter(x.batches())).prepared(x.normalisation) for x in (renewed, kept))
    with torch.no_grad():
        answers = [net.eval()(*batch) for net, batch in zip((module, start), batches, strict=True)]
    torch.testing.assert_close(answers[0], answers[1], atol=1e-4, rtol=1e-4)
    assert tuning is not None


def test_weak_labels_first_then_few_good_ones_is_better_than_these_alone(
    made: tuple[xr.Dataset, LabelRaster], weak: str
) -> None:
    cube, labels = made
    few = _partial(labels)
    assert np.count_nonzero(few.values) < 0.4 * np.count_nonzero(labels.values)
    short = {"steps": 30, "checks": 1}
    alone = train(cube, few, OPTIONS.model_copy(update=short))
    fine = train(cube, few, _with(weak).model_copy(update=short))
    assert alone.val is not None
    assert fine.val is not None
    assert fine.val.mean_f1 > alone.val.mean_f1 + 0.1
    told = fine.bundle_fields("fine", CubeSpec(bands=BANDS, period="1MS"), Lattice(32, 8), "other").training
    assert told["options"]["transfer"]["start"] == weak


def test_rates_are_of_body_and_head(made: tuple[xr.Dataset, LabelRaster], weak: str) -> None:
    """With other classes only the head is new: after one step all has moved by its own rate."""
    cube, labels = made
    renamed = LabelRaster(labels.values, labels.box, ClassScheme.from_names(["class 1", "b", "c", "d"]))
    options = _with(weak).model_copy(update={"steps": 1, "weight_decay": 0.0, "checks": 1})
    lessons = CubeLessons.of(cube, renamed, options)
    module = fresh_network(lessons, options, options.crop_px)
    lessons, tuning = started(module, lessons, planes_in(cube), options)
    assert tuning is not None
    body = {name for stage in tuning.stages for name in stage}
    assert set(dict(module.named_parameters())) - body == {"head.weight", "head.bias"}
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    fit(module, lessons, options, tuning=tuning)
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in module.named_parameters()}
    head, most = [moved[name] for name in moved if name not in body], max(moved[name] for name in body)
    # One step of Adam moves a weight by the rate of that step: the one-cycle begins at a 25th of its peak.
    assert head == pytest.approx([1e-4 / 25] * 2, rel=0.01)
    assert most == pytest.approx(1e-5 / 25, rel=0.1)  # a few last bits of weights around 1


def test_frozen_means_frozen_and_it_thaws_from_the_output_inwards(
    made: tuple[xr.Dataset, LabelRaster], weak: str
) -> None:
    cube, labels = made
    for thaw, moving in ((None, set()), (1.0, {0, 1})):
        options = _with(weak, thaw=thaw, stages=3).model_copy(update={"steps": 6, "checks": 1})
        lessons = CubeLessons.of(cube, labels, options)
        module = fresh_network(lessons, options, options.crop_px)
        lessons, tuning = started(module, lessons, planes_in(cube), options)
        assert tuning is not None
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        fit(module, lessons, options, tuning=tuning)
        after = module.state_dict()
        for number, stage in enumerate(tuning.stages):
            same = [torch.equal(after[name], before[name]) for name in stage]
            assert not any(same) if number in moving else all(same), (thaw, number)
        # running statistics of the deepest layers stand still as well
        assert torch.equal(after["stem.1.running_mean"], before["stem.1.running_mean"])
        assert not torch.equal(after["head.weight"], before["head.weight"])
        assert tuning.stages[0][-1].startswith(("up.", "raise_."))
        assert tuning.stages[-1][-1].startswith("stem.")


def _encoder_file(folder: Path) -> str:
    torch.manual_seed(5)
    state = ResNet("resnet18", 13, 8).state_dict()
    save_file({f"backbone.{published_name(n)}": t for n, t in state.items()}, folder / "weights.safetensors")
    return str(folder / "weights.safetensors")


@dataclass(frozen=True)
class _Lessons:
    normalisation: Standard
    classes: ClassScheme


def _begun(start: str, *planes: Plane, name: str = "unet_seasons") -> tuple[Any, Standard, BodyAndHead]:
    torch.manual_seed(0)
    module = build(name, {"width": 8, "stem": 8, "n_bands": len(planes), "n_classes": 2})
    measured = Standard(mean=(500.0,) * len(planes), std=(200.0,) * len(planes))
    own = _Lessons(measured, ClassScheme.from_names(["one", "two"]))
    transfer = TransferOptions(start=start, stages=64)
    options = TrainOptions(architecture=name, transfer=transfer, steps=10)
    lessons, tuning = started(module, own, planes, options)  # type: ignore[type-var]
    assert tuning is not None
    return module, lessons.normalisation, tuning


def test_a_file_of_weights_is_the_body_and_says_how_its_bands_are_normalised(tmp_path: Path) -> None:
    planes = Plane(name="B02"), Plane(name="NDVI", kind="index"), Plane(name="B08")
    module, normalisation, tuning = _begun(_encoder_file(tmp_path), *planes)
    assert normalisation == Standard(mean=(0.0, 500.0, 0.0), std=(10_000.0, 200.0, 10_000.0))
    stages = [name for stage in tuning.stages for name in stage]
    assert all(name.startswith("encoder.") for name in stages)
    assert "encoder.first.0.weight" not in stages  # it meets a new band
    assert stages[0].startswith("encoder.stages.3.1.body")
    assert stages[-1].startswith("encoder.first.1")
    body, head = tuning.groups(module)
    assert (body["lr"], head["lr"]) == (1e-5, 1e-4)
    assert len(body["params"]) + len(head["params"]) == len(list(module.parameters()))


def test_prestos_published_file_is_its_body(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = {"n_dates": None, "n_bands": 4, "bands": ("B02", "B03", "B04", "B08"), "n_positions": 24}
    published = build("presto", config)
    save_file(
        {**published.state_dict(), "decoder.mask_token": torch.zeros(3)}, tmp_path / "presto.safetensors"
    )
    fresh = build("presto", config | {"n_positions": 30, "head": "linear", "n_classes": 5})
    assert load_published(fresh, read_state_dict(tmp_path / "presto.safetensors")) == frozenset(
        n for n in fresh.state_dict() if not n.startswith("head")
    )
    x, valid, days = torch.rand(1, 3, 4, 1, 1), torch.ones(1, 3, 1, 1), torch.tensor([15.0, 45.0, 75.0])
    assert torch.equal(fresh.features(x, valid, days), published.features(x, valid, days))
    with pytest.raises(InputError, match="not those of Presto"):
        load_published(fresh, {"encoder.norm.weight": torch.zeros(3)})


def test_a_start_that_is_none_is_refused(tmp_path: Path, weak: str) -> None:
    with pytest.raises(InputError, match="cannot read"):
        _begun(str(tmp_path / "absent.pth"), Plane(name="B02"))
    torch.save({"weights": torch.nn.Linear(1, 1)}, tmp_path / "code.pth")
    with pytest.raises(TrustError):
        _begun(str(tmp_path / "code.pth"), Plane(name="B02"))
    with pytest.raises(InputError, match="another architecture"):
        _begun(weak, *(Plane(name=name) for name in BANDS))


def test_a_table_starts_from_a_bundle_too(tmp_path: Path) -> None:
    """Bands may be called otherwise; a frozen body stays as it came, and it learns the new class."""
    rng = np.random.default_rng(0)
    value = rng.integers(1, 4, 120).astype(np.uint8)
    curves = rng.uniform(0.1, 0.5, (4, 5, 2))
    values = (curves[value] + rng.normal(0, 0.01, (120, 5, 2))).astype(np.float32)
    dates = np.tile(np.arange("2023-03", "2023-08", dtype="datetime64[M]").astype("datetime64[D]"), (120, 1))
    place, group = np.zeros(120), np.array([f"farm {i % 10}" for i in range(120)])
    two, three = ClassScheme.from_names(["a", "b"]), ClassScheme.from_names(["b", "a", "new"])
    old = SeriesTable(
        values,
        dates,
        ("B04", "B08"),
        value,
        three,
        place,
        place,
        "EPSG:4326",
        group,
        np.ones(120, np.float32),
    )
    options = TableOptions(
        architecture="tempcnn",
        steps=40,
        batch=32,
        checks=1,
        split=Split(by="groups", val=0.3, buffer_px=0),
        config={"width": 16},
    )
    first = replace(old[value < 3], classes=two, bands=("red", "nir"))
    trained = train_table(first, options)
    spec = CubeSpec(bands=("red", "nir"), period="1MS")
    save_bundle(
        tmp_path,
        trained.module,
        "tempcnn",
        trained.bundle_fields("two classes", spec, Lattice(1, 0), "other"),
    )
    start = TransferOptions(start=str(tmp_path), thaw=None, head_rate=3e-2)
    again = train_table(old, options.model_copy(update={"transfer": start, "config": {}}))
    before, after = trained.module.state_dict(), again.module.state_dict()
    body = [name for name in after if not name.startswith("head")]
    assert body
    assert all(torch.equal(after[name], before[name]) for name in body)
    assert again.normalisation == trained.normalisation
    assert again.val is not None
    assert again.val.recall[2] > 0.8


def test_a_broken_training_with_a_start_goes_on_to_the_same_weights(
    made: tuple[xr.Dataset, LabelRaster], weak: str, tmp_path: Path
) -> None:
    """Broken between two stages of the thaw."""
    cube, labels = made
    plain = _with(weak, thaw=0.8, stages=2, body_rate=1e-3).model_copy(update={"steps": 8, "checks": 2})
    whole = train(cube, labels, plain)
    kept = plain.model_copy(update={"checkpoint": Checkpoints(folder=tmp_path, every_s=0)})

    def stop(progress: Progress) -> None:
        if progress.step == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cube, labels, kept, stop)
    again = train(cube, labels, kept).module.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.module.state_dict().items())
