"""Batches: joined with padded dates, handed over whole, normalised by prediction's own function."""

from __future__ import annotations

import pickle

import numpy as np
import torch

from engine.models.normalise import Standard, prepare
from engine.models.registry import build
from training.batch import IGNORE, Batch
from training.lessons import call
from training.losses import cross_entropy


def made(n: int, n_dates: int, *, radar: bool = False, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    side = 4
    target = rng.integers(0, 3, (n, side, side)).astype(np.uint8)
    target[:, 0] = IGNORE
    return Batch(
        x=torch.from_numpy(rng.integers(0, 4000, (n, n_dates, 2, side, side)).astype(np.uint16)),
        dates=torch.from_numpy(np.tile(np.arange(1, n_dates + 1, dtype=np.int16), (n, 1))),
        present=torch.ones((n, n_dates), dtype=torch.bool),
        target=torch.from_numpy(target),
        weight=torch.from_numpy((target != IGNORE).astype(np.float32)),
        place=torch.from_numpy(rng.integers(-9, 9, (n, 2))),
        radar=torch.from_numpy(rng.normal(size=(n, n_dates, 2, side, side)).astype(np.float32))
        if radar
        else None,
    )


def test_joining_pads_dates_that_are_not_present() -> None:
    short, long = made(2, 3, radar=True), made(1, 5, radar=True, seed=1)
    both = Batch.joined([short, long])
    assert (len(both), both.n_dates) == (3, 5)
    assert both.present.sum(dim=1).tolist() == [3, 3, 5]
    assert torch.equal(both.x[:2, :3], short.x)
    assert torch.equal(both.x[2:], long.x)
    assert not both.x[:2, 3:].to(torch.int32).any()
    assert both.radar is not None
    assert both.radar[:2, 3:].isnan().all()
    assert both.dates[0].tolist() == [1, 2, 3, 0, 0]
    assert both.layers is None
    assert torch.equal(both.place, torch.cat([short.place, long.place]))


def test_a_padded_date_is_nowhere_valid() -> None:
    normal = Standard(mean=(1000.0, 2000.0), std=(300.0, 400.0))
    batch = made(1, 3)
    values, valid = batch.padded(4).prepared(normal)
    own, own_valid = prepare(batch.x, normal)
    assert torch.equal(values[:, :3], own)
    assert torch.equal(valid[:, :3], own_valid)
    assert not valid[:, 3].any()
    assert not values[:, 3].any()


def test_it_travels_and_moves() -> None:
    batch = made(2, 3)
    again = pickle.loads(pickle.dumps(batch)).to("cpu")
    for name in ("x", "dates", "present", "target", "weight", "place"):
        assert torch.equal(getattr(batch, name), getattr(again, name)), name


def test_annotated_pixels_alone_teach_a_pixelwise_network_the_same() -> None:
    batch, normal = made(2, 3, radar=True), Standard(mean=(1000.0, 2000.0), std=(300.0, 400.0))
    pixels = batch.annotated()
    known = np.argwhere(batch.target.numpy() != IGNORE)
    assert len(pixels) == len(known) == 24
    assert pixels.radar is not None
    for n, (b, row, col) in enumerate(known):
        assert torch.equal(pixels.x[n, ..., 0, 0].int(), batch.x[b, ..., row, col].int())
        assert pixels.radar[n, 2, 1, 0, 0] == batch.radar[b, 2, 1, row, col]  # type: ignore[index]
        assert pixels.target[n, 0, 0] == batch.target[b, row, col]
        assert torch.equal(pixels.place[n], batch.place[b] + torch.tensor([row, col]))
    torch.manual_seed(0)
    net = build("lstm", {"n_bands": 2, "n_classes": 3, "width": 5, "dropout": 0.0}).train()
    grads = []
    for given in (batch, pixels):
        net.zero_grad()
        logits_BKHW = call(net, given, normal, days=True)
        cross_entropy(logits_BKHW, given.target.to(torch.int64)).backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    for whole, part in zip(*grads, strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-7)
    assert pixels.annotated() is pixels
    batch.target[:] = IGNORE
    assert batch.annotated() is batch
