"""What every network of the registry keeps, as a class that the tests of each architecture inherit.

::

    class TestGru(NetworkConformance):
        @pytest.fixture(params=[{}, {"layers": 2}], ids=str)
        def case(self, request):
            return Case("gru", {"width": 8, **request.param})

Shape suffixes: B batch, T date, C band, H row, W column, K class.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from engine.inference.blend import ROWS
from engine.inference.bundle import BundleFields, load_bundle, save_bundle
from engine.inference.lane import Lane
from engine.models.normalise import Standard, prepare
from engine.models.registry import build, check_config, pixelwise, takes_days
from engine.values.errors import InputError
from engine.values.lattice import PROBABILITY_ONE, Lattice
from tests.inference.bundles import FIELDS

_BANDS = ("blue", "green", "nir", "red", "swir16", "swir22", "rededge1", "rededge2", "rededge3", "nir08")
_CLASSES = 4


@dataclass(frozen=True)
class Case:
    """One architecture with a small configuration.

    Attributes:
        name: In the registry.
        config: Fields of its configuration beside dates, bands and classes; ``n_dates`` belongs in here
            where the network wants it.
        dates: Dates of the made-up input.
        bands: Bands of the made-up input.
        side_px: Side of its windows.
        steps: Steps in which one small batch is learnt by heart,
        rate: at this learning rate (Adam),
        bound: to a cross entropy below this.
        any_order: Whether the order in which dates are given says nothing; None: where it takes days.
        any_dates: Whether dates may be padded with absent ones; None: where ``n_dates`` is open.
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    dates: int = 5
    bands: int = 3
    side_px: int = 4
    steps: int = 40
    rate: float = 1e-2
    bound: float = 0.1
    any_order: bool | None = None
    any_dates: bool | None = None

    @property
    def fields(self) -> dict[str, Any]:
        """The whole configuration."""
        return {"n_bands": self.bands, "n_classes": _CLASSES, **self.config}

    @property
    def days(self) -> torch.Tensor:
        """Running days of the input, from autumn over New Year: uneven, in order."""
        return torch.tensor([270.0 + 23 * i + 5 * (i % 3) for i in range(self.dates)])

    def network(self, seed: int = 0) -> torch.nn.Module:
        """Build it, its batch norms with statistics as after training."""
        torch.manual_seed(seed)
        net = build(self.name, self.fields)
        for part in net.modules():
            if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
                torch.nn.init.uniform_(part.running_mean, -0.3, 0.1)
                torch.nn.init.uniform_(part.running_var, 0.3, 0.9)
                torch.nn.init.uniform_(part.bias, 0.0, 0.3)
        return net.eval()

    def block(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw two windows with a quarter of the dates missing, and one pixel without any."""
        generator = torch.Generator().manual_seed(seed)
        shape = (2, self.dates, self.side_px, self.side_px)
        valid_BTHW = (torch.rand(shape, generator=generator) < 0.75).float()
        valid_BTHW[0, :, 0, 0] = 0
        values = torch.randn((2, self.dates, self.bands, self.side_px, self.side_px), generator=generator)
        return values * valid_BTHW[:, :, None], valid_BTHW

    def call(
        self,
        net: torch.nn.Module,
        block: tuple[torch.Tensor, torch.Tensor],
        days: torch.Tensor | None = None,
        method: str = "__call__",
    ) -> torch.Tensor:
        """Run the network, with days where it takes them."""
        more = (self.days if days is None else days,) if takes_days(self.name) else ()
        found: torch.Tensor = getattr(net, method)(*block, *more)
        return found


def lesson(case: Case, seed: int = 0) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Draw a batch with something to learn: each class has a series of its own, under noise; quarters of classes."""
    generator = torch.Generator().manual_seed(seed)
    half = case.side_px // 2
    quarter = torch.tensor([[0, 1], [2, 3]]) if half else torch.tensor([[seed % _CLASSES]])
    target_HW = quarter.repeat_interleave(max(half, 1), 0).repeat_interleave(max(half, 1), 1)
    target_BHW = torch.stack([target_HW, target_HW.flip(0)])
    series_KTC = torch.randn((_CLASSES, case.dates, case.bands), generator=generator)
    x_BTCHW = series_KTC[target_BHW].permute(0, 3, 4, 1, 2)
    x_BTCHW = x_BTCHW + 0.3 * torch.randn(x_BTCHW.shape, generator=generator)
    valid_BTHW = torch.ones(2, case.dates, *target_HW.shape)
    valid_BTHW[:, 1, : case.side_px // 4] = 0
    return (x_BTCHW * valid_BTHW[:, :, None], valid_BTHW), target_BHW


class NetworkConformance:
    """Inherit, and give a fixture ``case``."""

    @pytest.fixture
    def case(self) -> Case:
        raise NotImplementedError("give the architecture's own case")

    def bundle_fields(self, case: Case) -> BundleFields:
        """Return what its bundle says; override where a cube of reflectance is not its input."""
        n_dates = check_config(case.name, case.fields).n_dates
        return replace(
            FIELDS,
            spec=FIELDS.spec.model_copy(update={"bands": _BANDS[: case.bands]}),
            n_dates=n_dates,
            lattice=Lattice(1, 0) if pixelwise(case.name, case.fields) else Lattice(case.side_px, 0),
            normalisation=Standard(mean=(2000.0,) * case.bands, std=(900.0,) * case.bands),
            temperature=1.0,
        )

    def test_answers_with_one_logit_per_class(self, case: Case) -> None:
        found = case.call(case.network(), case.block())
        assert found.shape == (2, _CLASSES, case.side_px, case.side_px)
        assert found.dtype == torch.float32
        assert found.std() > 1e-4  # and they depend on the pixel

    def test_stays_finite_where_there_is_no_date(self, case: Case) -> None:
        x_BTCHW, valid_BTHW = case.block()
        nothing = torch.zeros_like(x_BTCHW), torch.zeros_like(valid_BTHW)
        for block in ((x_BTCHW, valid_BTHW), nothing):
            net = case.network().train()
            logits = case.call(net, block)
            assert torch.isfinite(logits).all()
            logits.square().mean().backward()
            grads = [p.grad for p in net.parameters() if p.grad is not None]
            assert all(torch.isfinite(g).all() for g in grads)

    def test_gradients_reach_every_parameter(self, case: Case) -> None:
        net = case.network().train()
        block, target_BHW = lesson(case)
        functional.cross_entropy(case.call(net, block), target_BHW).backward()
        learnt = {name: p for name, p in net.named_parameters() if p.requires_grad}
        assert learnt
        assert not [name for name, p in learnt.items() if p.grad is None or not p.grad.abs().sum() > 0]

    def test_learns_one_small_batch_by_heart(self, case: Case) -> None:
        torch.manual_seed(0)
        net = build(case.name, case.fields).train()
        block, target_BHW = lesson(case)
        optimiser = torch.optim.Adam(net.parameters(), lr=case.rate)
        loss = torch.tensor(torch.inf)
        for _ in range(case.steps):
            loss = functional.cross_entropy(case.call(net, block), target_BHW)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        assert float(loss.detach()) < case.bound

    def test_a_sample_does_not_depend_on_its_batch(self, case: Case) -> None:
        net, (x_BTCHW, valid_BTHW) = case.network(), case.block()
        days_BT = torch.stack([case.days, case.days + 41])
        with torch.no_grad():
            together = case.call(net, (x_BTCHW, valid_BTHW))
            _near(case.call(net, (x_BTCHW.flip(0), valid_BTHW.flip(0))), together.flip(0))
            _near(case.call(net, (x_BTCHW, valid_BTHW), case.days.expand(2, -1)), together)
            own_days = case.call(net, (x_BTCHW, valid_BTHW), days_BT)
            for i in range(2):
                alone = x_BTCHW[i : i + 1], valid_BTHW[i : i + 1]
                _near(case.call(net, alone), together[i : i + 1])
                _near(case.call(net, alone, days_BT[i]), own_days[i : i + 1])

    def test_absent_dates_say_nothing_or_are_refused(self, case: Case) -> None:
        net, (x_BTCHW, valid_BTHW) = case.network(), case.block()
        order = torch.tensor([case.dates, *range(3), case.dates + 1, *range(3, case.dates)])
        if not _any_order(case):  # then only at the end
            order = torch.arange(case.dates + 2)
        x_more = functional.pad(x_BTCHW, (0, 0) * 3 + (0, 2))[:, order]
        valid_more = functional.pad(valid_BTHW, (0, 0) * 2 + (0, 2))[:, order]
        days = functional.pad(case.days, (0, 2))[order]
        with torch.no_grad():
            if _any_dates(case):
                _near(case.call(net, (x_more, valid_more), days), case.call(net, (x_BTCHW, valid_BTHW)))
            else:
                with pytest.raises(InputError, match=str(case.dates + 2)):
                    case.call(net, (x_more, valid_more), days)

    def test_the_order_of_the_dates_says_nothing_where_days_tell_it(self, case: Case) -> None:
        net, (x_BTCHW, valid_BTHW) = case.network(), case.block()
        order = torch.randperm(case.dates, generator=torch.Generator().manual_seed(3))
        other = x_BTCHW[:, order], valid_BTHW[:, order]
        with torch.no_grad():
            straight = case.call(net, (x_BTCHW, valid_BTHW))
            if not _any_order(case):
                assert not torch.allclose(case.call(net, other), straight, atol=1e-3)
                return
            _near(case.call(net, other, case.days[order]), straight)
            if takes_days(case.name):  # each sample in an order of its own
                mixed = [torch.stack([a[0], b[1]]) for a, b in zip((x_BTCHW, valid_BTHW), other, strict=True)]
                days_BT = torch.stack([case.days, case.days[order]])
                _near(case.call(net, (mixed[0], mixed[1]), days_BT), straight)

    def test_weights_come_from_the_seed(self, case: Case) -> None:
        first, same, other = (case.network(seed).state_dict() for seed in (1, 1, 2))
        assert all(torch.equal(first[name], same[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_neighbours_count_unless_it_says_that_it_is_pixelwise(self, case: Case) -> None:
        net, (x_BTCHW, valid_BTHW) = case.network(), case.block()
        with torch.no_grad():
            whole = case.call(net, (x_BTCHW, valid_BTHW))
            if not pixelwise(case.name, case.fields):
                other = x_BTCHW.clone()
                other[..., 1::2, :] = 0
                assert not torch.allclose(
                    case.call(net, (other, valid_BTHW))[..., ::2, :], whole[..., ::2, :]
                )
                return
            _near(case.call(net, (x_BTCHW[..., 1:2, 2:3], valid_BTHW[..., 1:2, 2:3])), whole[..., 1:2, 2:3])
            rows = x_BTCHW.flatten(3)[..., None], valid_BTHW.flatten(2)[..., None]
            _near(case.call(net, rows), whole.flatten(2)[..., None])

    def test_its_bundle_gives_its_answers(self, case: Case, tmp_path: Path) -> None:
        net, fields = case.network(), self.bundle_fields(case)
        bundle = save_bundle(tmp_path, net, case.name, fields)
        again = load_bundle(tmp_path)
        assert again.digest() == bundle.digest()
        sides = (ROWS, 1) if bundle.pixelwise else (case.side_px, case.side_px)
        rng = np.random.default_rng(0)
        x_BTCHW = rng.integers(200, 5000, (2, case.dates, case.bands, *sides)).astype(np.uint16)
        x_BTCHW[rng.random(x_BTCHW.shape[:2]) < 0.2] = 0
        days = tuple(int(d) for d in case.days) if takes_days(case.name) else ()
        found = Lane(again, days=days).run(x_BTCHW) / PROBABILITY_ONE
        with torch.no_grad():
            logits = case.call(net, prepare(torch.from_numpy(x_BTCHW), fields.normalisation), case.days)
        np.testing.assert_allclose(found, torch.softmax(logits, 1).numpy(), atol=1e-4)

    def test_shows_its_last_features_and_its_attention(self, case: Case) -> None:
        net, block = case.network(), case.block()
        with torch.no_grad():
            features_BFHW = case.call(net, block, method="features")
            assert features_BFHW.ndim == 4
            assert (len(features_BFHW), *features_BFHW.shape[2:]) == (2, case.side_px, case.side_px)
            assert torch.isfinite(features_BFHW).all()
            assert features_BFHW.std() > 0
            if hasattr(net, "attention"):
                _check_attention(case, net, block)


def _check_attention(case: Case, net: torch.nn.Module, block: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Weights (batch, head, date, row, column): not negative, 1 in sum, none on what is missing, any order."""
    x_BTCHW, valid_BTHW = block
    found = case.call(net, block, method="attention")
    assert (len(found), *found.shape[2:]) == tuple(valid_BTHW.shape)
    assert (found >= 0).all()
    some_BHW = valid_BTHW.sum(1) > 0
    sums_BHWA = found.sum(2).permute(0, 2, 3, 1)[some_BHW]
    _near(sums_BHWA, torch.ones_like(sums_BHWA))
    if pixelwise(case.name, case.fields):
        assert (found * (1 - valid_BTHW[:, None]) * some_BHW[:, None, None]).max() < 1e-6
    if _any_order(case):
        order = torch.arange(case.dates).flip(0)
        turned = case.call(net, (x_BTCHW[:, order], valid_BTHW[:, order]), case.days[order], "attention")
        _near(turned, found[:, :, order])


def _any_order(case: Case) -> bool:
    return takes_days(case.name) if case.any_order is None else case.any_order


def _any_dates(case: Case) -> bool:
    open_ = check_config(case.name, case.fields).n_dates is None
    return open_ if case.any_dates is None else case.any_dates


def _near(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
