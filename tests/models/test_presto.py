"""Presto: the published weights fill it, and its own decoder restores hidden months of real series."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import xarray as xr

from engine.inference.state import read_state_dict
from engine.models import presto, presto_config
from engine.models.presto import Encoder, Presto, months_of, sentinel2_series, wave, year_circle
from engine.models.presto_config import PRESTO_GROUPS, PrestoConfig
from engine.models.registry import build, check_config
from engine.values.errors import InputError
from tests.models import presto_decoder
from tests.models.presto_decoder import Decoder, reconstruct

S2 = ("S2_RGB", "S2_NIR_10m", "S2_NIR_20m", "S2_Red_Edge", "S2_SWIR", "NDVI")
Series = dict[str, torch.Tensor]


@functools.cache
def published(folder: Path) -> tuple[Encoder, Decoder]:
    """Encoder and decoder, each filled with every tensor that the file has of it."""
    state = read_state_dict(folder / "weights" / "presto_default_model.pt")
    encoder, decoder = Encoder(24), Decoder()
    for name, module in (("encoder.", encoder), ("decoder.", decoder)):
        module.load_state_dict({k.removeprefix(name): v for k, v in state.items() if k.startswith(name)})
    assert sum(k.startswith(("encoder.", "decoder.")) for k in state) == len(state)
    return encoder.eval(), decoder.eval()


@functools.cache
def togo(folder: Path) -> Series:
    """73 pixels x 12 months, February 2019 to January 2020, all groups, as Presto scales them."""
    with rasterio.open(folder / "presto_inputs" / "98-togo_2019-02-06_2020-02-01.tif") as file:
        stack = np.nan_to_num(file.read()).reshape(file.count, -1)[:, ::4]
        names = [name.removesuffix("_0") for name in file.descriptions[:17]]
    monthly = stack[:-2].reshape(12, 17, -1).transpose(2, 0, 1)

    def bands(*wanted: str) -> torch.Tensor:
        return torch.tensor(monthly[:, :, [names.index(w) for w in wanted]], dtype=torch.float32)

    own = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"]
    found = sentinel2_series(bands(*own) / 10000, tuple(own))
    found["S1"] = (bands("VV", "VH") + 25) / 25
    weather = bands("temperature_2m", "total_precipitation")
    found["ERA5"] = (weather - torch.tensor([272.15, 0.0])) / torch.tensor([35.0, 0.03])
    return found


@functools.cache
def belgium(folder: Path) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """100 pixels x 12 months from November 2020 of nine bands; two months are missing."""
    path = folder / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    with xr.open_dataset(path, mask_and_scale=False) as cube:
        planes = [cube[f"S2-L2A-{b}"].values[:, ::10, ::10].view(np.uint16) for b in bands]
    x_NTC = np.stack(planes, -1).astype(np.float32).reshape(12, -1, len(bands)).transpose(1, 0, 2)
    known = (x_NTC != 65535).all(-1)
    return torch.tensor(np.where(known[..., None], x_NTC, 0) / 10000), torch.tensor(known), bands


def error(
    folder: Path, series: Series, known_NT: torch.Tensor | None, first: int, place: tuple[float, float]
) -> dict[str, float]:
    """Hide half of all tokens; error of the restored ones over that of the groups' means."""
    encoder, decoder = published(folder)
    n, dates = next(iter(series.values())).shape[:2]
    there = torch.ones(n, dates, dtype=torch.bool) if known_NT is None else known_NT
    draw = torch.Generator().manual_seed(5)
    hidden = {name: torch.rand(n, dates, generator=draw) < 0.5 for name in sorted(series)}
    known = {name: there & ~hidden[name] for name in series}
    months = (torch.arange(dates) + first) % 12
    found = reconstruct(encoder, decoder, series, known, months, place)
    ratio = {}
    for name in set(S2) & set(series):
        at, mean = hidden[name] & there, series[name][there].mean(0)
        off = (found[name][at] - series[name][at]).square().mean().sqrt()
        ratio[name] = float(off / (series[name][at] - mean).square().mean().sqrt())
    return ratio


def test_every_tensor_of_the_file_has_its_place_and_the_fixed_ones_are_the_formulas(real_data: Path) -> None:
    encoder, decoder = published(real_data)
    torch.testing.assert_close(encoder.pos_embed[0], wave(24, 64), rtol=0, atol=2e-6)
    torch.testing.assert_close(encoder.month_embed.weight, year_circle(32), rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.channel_embed.weight, decoder.channel_embeddings.weight)


def test_hidden_months_are_restored_far_better_than_by_the_mean(real_data: Path) -> None:
    ratio = error(real_data, togo(real_data), None, 1, (7.72, 1.42))
    assert set(ratio) == set(S2)
    assert max(ratio.values()) < 0.75
    assert np.mean(list(ratio.values())) < 0.6


def test_another_scale_another_month_and_another_order_of_groups_restore_worse(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, place = togo(real_data), (7.72, 1.42)
    right = np.mean(list(error(real_data, series, None, 1, place).values()))
    scaled = {k: v * 3 if k.startswith("S2") else v for k, v in series.items()}
    assert np.mean(list(error(real_data, scaled, None, 1, place).values())) > 1.3 * right
    assert np.mean(list(error(real_data, series, None, 7, place).values())) > 1.05 * right
    # The code that was published beside the weights has the red edge before the near infrared.
    names = list(PRESTO_GROUPS)
    for order in (
        ["S1", "S2_RGB", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", *names[5:]],
        ["S1", "S2_Red_Edge", "S2_NIR_10m", "S2_NIR_20m", "S2_RGB", *names[5:]],
    ):
        groups = {k: PRESTO_GROUPS[k] for k in order}
        for module in (presto, presto_config, presto_decoder):
            monkeypatch.setattr(module, "PRESTO_GROUPS", groups)
        monkeypatch.setattr(presto_decoder, "GROUPS", (*groups, "dynamic_world"))
        assert np.mean(list(error(real_data, series, None, 1, place).values())) > 1.01 * right


def test_surface_reflectance_with_missing_months_is_restored_too(real_data: Path) -> None:
    x_NTC, known, bands = belgium(real_data)
    ratio = error(real_data, sentinel2_series(x_NTC, bands), known, 10, (50.65, 5.33))
    # Trained on top-of-atmosphere values: the blue of L2A lies off them, so the visible group is not held to it.
    assert max(v for k, v in ratio.items() if k != "S2_RGB") < 0.85


def test_what_is_missing_is_as_if_it_were_not_there(real_data: Path) -> None:
    encoder, _ = published(real_data)
    x_NTC, known_NT, bands = belgium(real_data)
    x_NTC, known_NT = x_NTC[:40], known_NT[:40]
    months = (torch.arange(12) + 10) % 12
    series = sentinel2_series(x_NTC, bands)
    with torch.inference_mode():
        part = encoder.embedding(*encoder(series, dict.fromkeys(series, known_NT), months))
        nobody = torch.zeros_like(known_NT)
        more = {**series, "S1": torch.rand(40, 12, 2), "S2_NIR_20m": torch.rand(40, 12, 1)}
        seen = {k: known_NT if k in series else nobody for k in more}
        torch.testing.assert_close(encoder.embedding(*encoder(more, seen, months)), part, rtol=0, atol=2e-5)
        other = {k: torch.where(known_NT[..., None], v, 7.0) for k, v in series.items()}
        assert torch.equal(encoder.embedding(*encoder(other, dict.fromkeys(series, known_NT), months)), part)


def test_a_pixel_does_not_depend_on_those_beside_it(real_data: Path) -> None:
    x_NTC, known_NT, bands = belgium(real_data)
    net = _filled(real_data, bands=bands)
    x_BTCHW = x_NTC.repeat(2, 1, 1).view(1, 20, 10, 12, 9).permute(0, 3, 4, 1, 2)
    valid_BTHW = known_NT.repeat(2, 1).view(1, 20, 10, 12).permute(0, 3, 1, 2).float()
    days = torch.tensor([305.0, 335, 1, 32, 60, 91, 121, 152, 182, 213, 244, 274])
    with torch.inference_mode():
        whole = net(x_BTCHW, valid_BTHW, days)
        assert torch.equal(net(x_BTCHW[..., 7:, 3:], valid_BTHW[..., 7:, 3:], days), whole[..., 7:, 3:])
        nothing = net(torch.zeros_like(x_BTCHW), torch.zeros_like(valid_BTHW), days)
    assert whole.shape == (1, 128, 20, 10)
    assert torch.isfinite(nothing).all()
    assert whole.std(dim=(0, 2, 3)).min() > 0.01  # features of different fields differ


def _filled(folder: Path, bands: tuple[str, ...], **config: object) -> Presto:
    net = Presto(PrestoConfig(n_bands=len(bands), bands=bands, **config))
    state = read_state_dict(folder / "weights" / "presto_default_model.pt")
    net.load_state_dict({k: v for k, v in state.items() if k.startswith("encoder.")})
    return net.eval()


@pytest.mark.parametrize(("head", "layers"), [("linear", 1), ("mlp", 2)])
def test_a_head_gives_classes(head: str, layers: int) -> None:
    config = {"n_dates": 3, "n_bands": 1, "bands": ("nir",), "head": head, "n_classes": 5}
    net = build("presto", config).eval()
    assert sum(isinstance(m, torch.nn.Linear) for m in net.head.modules()) == layers
    found = net(torch.rand(1, 3, 1, 9, 4), torch.ones(1, 3, 9, 4), torch.tensor([1.0, 32.0, 60.0]))
    assert found.shape == (1, 5, 9, 4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bands": ("B02", "B03", "B04", "B05"), "n_bands": 4}, "rededge1"),
        ({"bands": ("B01",)}, "coastal"),
        ({"n_dates": 25}, "24 months"),
        ({"n_classes": 5}, "128 outputs"),
        ({"n_bands": 2}, "1 bands"),
        ({"place": (91.0, 0.0)}, "place"),
    ],
)
def test_what_it_cannot_take_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_config("presto", {"n_dates": 12, "n_bands": 1, "bands": ("nir",), **changes})


def test_input_of_another_length_is_refused() -> None:
    net = build("presto", {"n_bands": 1, "bands": ("nir",)})
    with pytest.raises(InputError, match="25"):
        net(torch.rand(1, 25, 1, 2, 2), torch.ones(1, 25, 2, 2), torch.arange(25.0) + 1)
    with pytest.raises(InputError, match="days"):
        net(torch.rand(1, 3, 1, 2, 2), torch.ones(1, 3, 2, 2), torch.arange(2.0) + 1)


def test_months_of_all_days() -> None:
    days = np.arange("2023-01-01", "2024-01-01", dtype="datetime64[D]")
    expected = days.astype("datetime64[M]").astype(int) % 12
    found = months_of(torch.arange(1.0, 366.0))
    np.testing.assert_array_equal(found.numpy(), expected)


def test_samples_may_have_months_of_their_own_in_any_order(real_data: Path) -> None:
    x, valid, bands = belgium(real_data)
    network = _filled(real_data, bands)
    x_BTCHW, valid_BTHW = x[:2, :, :, None, None], valid[:2, :, None, None].float()
    days = torch.stack([305 + 30.0 * torch.arange(12), 100 + 30.0 * torch.arange(12)])
    with torch.inference_mode():
        both = network(x_BTCHW, valid_BTHW, days)
        for i in range(2):
            alone = network(x_BTCHW[i : i + 1], valid_BTHW[i : i + 1], days[i])
            torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-4)
        turned = torch.randperm(12, generator=torch.Generator().manual_seed(1))
        other = network(x_BTCHW[:, turned], valid_BTHW[:, turned], days[:, turned])
    torch.testing.assert_close(other, both, atol=1e-5, rtol=1e-4)
    assert (both[0] - both[1]).abs().max() > 0.1
