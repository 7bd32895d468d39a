"""The loop's parts: what a step does, when it ends, which state is kept, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.inference.bundle import load_bundle, save_bundle
from engine.values.errors import DataError, InputError
from engine.values.head import Classes, MultiLabel
from engine.values.lattice import Lattice
from engine.values.spec import CubeSpec
from tests.training.small import SEASON, UNET, fitted_with, lessons_with, options_with
from tests.training.synthetic import season
from training.lessons import call
from training.loop import Fitted, Progress, fit, fresh_network, train
from training.losses import cross_entropy
from training.scoring import evaluate
from training.splits import VAL

SGD = {"optimiser": {"kind": "sgd", "momentum": 0}, "schedule": {"kind": "constant"}, "weight_decay": 0}
MLP = {"config": {"stem": 6, "width": 4, "depth": 1, "norm": "group"}}


def test_a_step_is_the_mean_gradient_of_its_batches_clipped_times_the_rate() -> None:
    options = options_with(**SGD, **MLP, steps=1, checks=1, accumulate=3, learning_rate=0.5, clip=0.4)
    lessons = lessons_with(options)
    before = fresh_network(lessons, options, options.crop_px)
    after, _ = fitted_with(options)
    drawn = lessons.batches()
    for _ in range(3):
        batch = next(drawn)
        logits = call(before, batch, lessons.normalisation, False)
        (cross_entropy(logits, batch.target.long()) / 3).backward()
    gradients = [p.grad for p in before.parameters()]
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[misc,union-attr,arg-type]
    assert norm > 0.4
    for p, g, new in zip(before.parameters(), gradients, after.parameters(), strict=True):
        torch.testing.assert_close(new, p - 0.5 * g * 0.4 / norm, rtol=1e-4, atol=1e-6)  # type: ignore[operator]


def test_progress_tells_rate_gradient_and_losses() -> None:
    told: list[Progress] = []
    _, fitted = fitted_with(options_with(steps=8, learning_rate=0.02), told.append)
    rates = [p.learning_rate for p in told]
    assert max(rates) == pytest.approx(0.02)
    assert rates[0] < rates[1] > rates[-1]
    assert all(p.gradient > 0 for p in told)
    checks = [p for p in told if p.val is not None]
    assert [p.val_loss for p in checks] == [row["val_loss"] for row in fitted.history]
    assert [p.val.mean_f1 for p in checks if p.val] == [row["mean_f1"] for row in fitted.history]


@pytest.mark.parametrize("metric", ["mean_iou", "mean_f1", "accuracy", "loss"])
def test_the_state_that_is_best_by_the_metric_is_kept(metric: str) -> None:
    options = options_with(best_by=metric, steps=12, checks=6, learning_rate=0.05)
    module, fitted = fitted_with(options)
    sign, name = (-1, "val_loss") if metric == "loss" else (1, metric)
    scores = {row["step"]: sign * row[name] for row in fitted.history}
    assert scores[fitted.best_step] == max(scores.values())
    found = evaluate(module, lessons_with(options), VAL)
    assert found is not None
    assert found.by(metric) == pytest.approx(max(scores.values()), rel=1e-5)  # type: ignore[arg-type]


def test_it_ends_early_after_checks_without_improvement() -> None:
    """A rate of nearly nothing improves nothing: the first check is the best, so many more are borne, one ends it."""
    options = options_with(
        **SGD, **MLP, learning_rate=1e-12, steps=40, checks=20, early_stop={"patience": 2, "least": 1e-6}
    )
    told: list[Progress] = []
    _, fitted = fitted_with(options, told.append)
    assert fitted.steps == len(told) == 2 * (1 + 2 + 1)
    assert fitted.best_step == 2
    assert len(fitted.history) == 4


def test_an_early_stop_without_validation_is_refused() -> None:
    split = options_with().split.model_copy(update={"val": 0.0}).model_dump()
    with pytest.raises(InputError, match="needs a validation part"):
        fitted_with(options_with(early_stop={}, split=split))


def test_the_average_of_the_weights_is_what_is_kept() -> None:
    options = options_with(**SGD, **MLP, average=0.9, steps=3, checks=3, learning_rate=0.1)
    trail: list[torch.Tensor] = []
    lessons = lessons_with(options)
    module = fresh_network(lessons, options, options.crop_px)
    fitted = fit(module, lessons, options, lambda p: trail.append(module.head.weight.detach().clone()))  # type: ignore[union-attr,operator]
    averages = [trail[0]]  # torch's average begins with the weights after the first step
    for weight in trail[1:]:
        averages.append(0.9 * averages[-1] + 0.1 * weight)
    torch.testing.assert_close(module.head.weight.detach(), averages[fitted.best_step - 1])  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_learns_what_single_does(precision: str) -> None:
    half, single = (
        fitted_with(options_with(precision=p, steps=12, checks=1))[1] for p in (precision, "float32")
    )
    assert half.history[0]["loss"] == pytest.approx(single.history[0]["loss"], rel=0.05)
    assert half.history[0]["loss"] != single.history[0]["loss"]


def test_a_loss_that_is_no_number_ends_it_with_the_step() -> None:
    options = options_with(**SGD, learning_rate=1e30, clip=1e30)
    with pytest.raises(DataError, match=r"step \d+.*lower options.learning_rate"):
        fitted_with(options)


class _HeadFirst:
    """The head alone learns, at ten times the rate; everything from the third step on."""

    def groups(self, module: torch.nn.Module) -> list[dict[str, Any]]:
        head = [p for n, p in module.named_parameters() if n.startswith("head")]
        body = [p for n, p in module.named_parameters() if not n.startswith("head")]
        return [{"params": body, "lr": 1e-3}, {"params": head, "lr": 1e-2}]

    def before(self, step: int, module: torch.nn.Module) -> bool:
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(name.startswith("head") or step >= 3)
        return step in (1, 3)


def test_what_is_frozen_stays_and_thaws_at_its_step() -> None:
    options = options_with(**MLP, steps=4, checks=4, schedule={"kind": "constant"})
    lessons = lessons_with(options)
    module = fresh_network(lessons, options, options.crop_px)
    trail: list[dict[str, torch.Tensor]] = [{n: p.detach().clone() for n, p in module.named_parameters()}]

    def keep(progress: Progress) -> None:
        trail.append({n: p.detach().clone() for n, p in module.named_parameters()})

    fit(module, lessons, options, keep, _HeadFirst())
    for step in range(1, 5):
        for name, value in trail[step].items():
            same = torch.equal(value, trail[step - 1][name])
            assert same == (step < 3 and not name.startswith("head")), (step, name)


def test_a_callback_that_raises_ends_it() -> None:
    def prune(progress: Progress) -> None:
        if progress.val is not None:
            raise RuntimeError("pruned")

    with pytest.raises(RuntimeError, match="pruned"):
        fitted_with(options_with(), prune)


@pytest.mark.parametrize(("loss", "head"), [(None, Classes()), ({"kind": "multi_label"}, MultiLabel())])
def test_the_bundle_says_what_the_outputs_are_and_not_where_the_state_lay(
    loss: Any, head: Any, tmp_path: Any
) -> None:
    cube, labels = season(SEASON)
    options = options_with(loss=loss, steps=2, checks=1, checkpoint={"folder": tmp_path / "state"})
    trained = train(cube, labels, options)
    spec = CubeSpec(bands=("blue", "green", "red"))
    save_bundle(
        tmp_path / "b",
        trained.module,
        "unet",
        trained.bundle_fields("a small one", spec, Lattice(32, 8), "CC0-1.0"),
    )
    bundle = load_bundle(tmp_path / "b")
    assert bundle.head == head
    assert "checkpoint" not in bundle.training["options"]
    assert str(tmp_path) not in (tmp_path / "b" / "manifest.json").read_text()
    assert bundle.training["options"]["schedule"]["kind"] == "one_cycle"


def test_several_labels_learn_each_class_by_itself() -> None:
    options = options_with(
        loss={"kind": "multi_label"}, steps=60, checks=2, batch=6, config={**UNET, "dropout": 0}
    )
    _, fitted = fitted_with(options)
    assert isinstance(fitted, Fitted)
    assert fitted.val is not None
    assert fitted.val.accuracy > 0.8
    assert fitted.history[-1]["val_loss"] < fitted.history[0]["val_loss"]
    assert np.isfinite(fitted.val.mean_f1)
