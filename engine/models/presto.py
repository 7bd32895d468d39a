"""Presto: a transformer over the months of one pixel (Tseng et al. 2023, arXiv:2304.14065).

Each group of bands of each month is a token; whatever is missing, a band group or a month, is a token that
nobody looks at::

    blue green red ─┐                             ┌ month of the year (sine, cosine)
    rededge 1 2 3 ──┤  one linear map a group     │ group (learnt)
    nir ────────────┼─ (month, group) ──── + ─────┤ number of the date (sine, cosine)
    nir08 ──────────┤   tokens                    │
    swir16 swir22 ──┤                             └─► 2 blocks ─► mean of the known tokens ─► norm ─► 128
    NDVI ───────────┘

The published weights also know Sentinel-1, ERA5 weather, Dynamic World labels, the elevation and the place;
their layers are kept, so that the weights fill the encoder exactly. A cube of reflectance gives tokens to
the Sentinel-2 groups alone. Reflectance goes in divided by 10000, without an offset
(nasaharvest/presto, MIT: its shift of Sentinel-2 is 0, its divisor 1e4); it was trained on monthly mosaics
of top-of-atmosphere reflectance (L1C), up to 24 months.

Shape suffixes: B batch, T date, C band, H row, W column, K output, N pixel, L token, D feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn import functional

from engine.models.presto_config import PRESTO_FEATURES, PRESTO_GROUPS, PrestoConfig
from engine.models.temporal.dates import in_order, tracing
from engine.values.bands import band
from engine.values.days import YEAR_DAYS
from engine.values.errors import InputError

_HEADS = 8
_HIDDEN = 512
_BLOCKS = 2
_MONTH_FEATURES = _GROUP_FEATURES = 32
_DATE_FEATURES = PRESTO_FEATURES - _MONTH_FEATURES - _GROUP_FEATURES
_STATIC = "SRTM"
_LABELS = "dynamic_world"
_N_LABELS = 9
_CPU_ROWS = 128  # pixels at a time: their tokens stay in the cache
_GPU_ROWS = 4096
_TRACED_ROWS = 1024  # each piece is a copy of the network in an exported graph


class Attention(nn.Module):
    """Self-attention in which unknown tokens are not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(PRESTO_FEATURES, 3 * PRESTO_FEATURES)
        self.proj = nn.Linear(PRESTO_FEATURES, PRESTO_FEATURES)

    def forward(self, x_NLD: torch.Tensor, known_NL: torch.Tensor) -> torch.Tensor:
        """Mix tokens; rows of unknown tokens are computed too, and mean nothing."""
        n, tokens, features = x_NLD.shape
        query, key, value = (
            self.qkv(x_NLD).view(n, tokens, 3, _HEADS, features // _HEADS).permute(2, 0, 3, 1, 4)
        )
        looked_at = known_NL[:, None, None, :]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=looked_at)
        found: torch.Tensor = self.proj(mixed.transpose(1, 2).reshape(n, tokens, features))
        return found


class Block(nn.Module):
    """One layer of the transformer, normalised before each half (Xiong et al. 2020, arXiv:2002.04745)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(PRESTO_FEATURES)
        self.attn = Attention()
        self.norm2 = nn.LayerNorm(PRESTO_FEATURES)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(PRESTO_FEATURES, _HIDDEN), "fc2": nn.Linear(_HIDDEN, PRESTO_FEATURES)}
        )

    def forward(self, x_NLD: torch.Tensor, known_NL: torch.Tensor) -> torch.Tensor:
        """Return tokens of the same shape."""
        x_NLD = x_NLD + self.attn(self.norm1(x_NLD), known_NL)
        hidden = functional.gelu(self.mlp["fc1"](self.norm2(x_NLD)))
        found: torch.Tensor = x_NLD + self.mlp["fc2"](hidden)
        return found


class Encoder(nn.Module):
    """Tokens of a pixel's series to tokens that know of each other; names are those of the published file.

    Args:
        n_positions: Longest series that the weights know.
    """

    def __init__(self, n_positions: int) -> None:
        super().__init__()
        self.eo_patch_embed = nn.ModuleDict(
            {name: nn.Linear(len(bands), PRESTO_FEATURES) for name, bands in PRESTO_GROUPS.items()}
        )
        self.dw_embed = nn.Embedding(_N_LABELS + 1, PRESTO_FEATURES)
        self.latlon_embed = nn.Linear(3, PRESTO_FEATURES)
        self.pos_embed = nn.Parameter(wave(n_positions, _DATE_FEATURES)[None], requires_grad=False)
        self.month_embed = nn.Embedding.from_pretrained(year_circle(_MONTH_FEATURES), freeze=True)
        self.channel_embed = nn.Embedding(len(PRESTO_GROUPS) + 1, _GROUP_FEATURES)
        self.blocks = nn.ModuleList(Block() for _ in range(_BLOCKS))
        self.norm = nn.LayerNorm(PRESTO_FEATURES)

    def tokens(self, name: str, values_NTC: torch.Tensor, months: torch.Tensor) -> torch.Tensor:
        """Make the tokens of one group.

        Args:
            name: A key of `PRESTO_GROUPS`, or ``dynamic_world``.
            values_NTC: float32, scaled; for ``dynamic_world`` (N, T) labels 0..8.
            months: (T,) or (N, T), month of the year of each date, 0 = January.

        Returns:
            (N, T, D), or (N, 1, D) for the elevation, which has no date.
        """
        group = [*PRESTO_GROUPS, _LABELS].index(name)
        embed = self.dw_embed if name == _LABELS else self.eo_patch_embed[name]
        channel_D = self.channel_embed.weight[group]
        if name == _STATIC:
            where_TD = functional.pad(channel_D, (_MONTH_FEATURES, _DATE_FEATURES))[None]
            values_NTC = values_NTC[:, :1]
        else:
            parts = (
                self.month_embed(months),
                channel_D.expand(*months.shape, -1),
                self.pos_embed[0, : months.shape[-1]].expand(*months.shape, -1),
            )
            where_TD = torch.cat(parts, dim=-1)
        found: torch.Tensor = embed(values_NTC) + where_TD
        return found

    def forward(
        self,
        series: Mapping[str, torch.Tensor],
        known: Mapping[str, torch.Tensor],
        months: torch.Tensor,
        place: tuple[float, float] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode the groups that are there; those left out are as if masked everywhere.

        Args:
            series: Group to (N, T, C) float32, scaled as Presto wants it.
            known: Group to (N, T) bool; what is not known is not looked at.
            months: As in `tokens`.
            place: Latitude and longitude in degrees: one more token, the first. None leaves it out.

        Returns:
            Tokens (N, L, D), not yet normalised, in the order place, groups of `series`; known (N, L) bool.
            A pixel with no known token has all of them known, so that nothing is divided by zero.
        """
        tokens = [self.tokens(name, values, months) for name, values in series.items()]
        masks = [known[name][:, :1] if name == _STATIC else known[name] for name in series]
        if place is not None:
            place_1D = self.latlon_embed(tokens[0].new_tensor(on_the_sphere(*place)))[None]
            tokens.insert(0, place_1D.expand(len(tokens[0]), 1, -1))
            masks.insert(0, torch.ones_like(masks[0][:, :1]))
        x_NLD, known_NL = torch.cat(tokens, dim=1), torch.cat(masks, dim=1)
        known_NL = known_NL | ~known_NL.any(dim=1, keepdim=True)
        for block in self.blocks:
            x_NLD = block(x_NLD, known_NL)
        return x_NLD, known_NL

    def embedding(self, x_NLD: torch.Tensor, known_NL: torch.Tensor) -> torch.Tensor:
        """Return (N, D): the mean of the known tokens, normalised."""
        weight_NL1 = known_NL[:, :, None].to(x_NLD.dtype)
        found: torch.Tensor = self.norm((x_NLD * weight_NL1).sum(1) / weight_NL1.sum(1))
        return found


class Presto(nn.Module):
    """The encoder over the pixels of a cube, with or without a head for classes.

    Args:
        config: Bands, dates and head.
    """

    def __init__(self, config: PrestoConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.n_positions)
        self.head = _head(config)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits, or embeddings, of each pixel by itself.

        Args:
            x_BTCHW: float32, reflectance 0..1 (reflectance x 10000 divided by 10000), 0 = no data.
            valid_BTHW: float32, 1 = all bands of that date are there, 0 = no data.
            days: float32 (T,) or (B, T), running day of each month (its first, or any other day of it), in any
                order; 0 = no such month.

        Returns:
            (B, K, H, W) float32.

        Raises:
            InputError: If dates or bands do not fit the configuration.
        """
        return self._of_pixels(x_BTCHW, valid_BTHW, days, self.head)

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the embedding of each pixel, (B, 128, H, W); arguments as of `forward`."""
        return self._of_pixels(x_BTCHW, valid_BTHW, days, nn.Identity())

    def _of_pixels(
        self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor, head: nn.Module
    ) -> torch.Tensor:
        self._check(x_BTCHW, days)
        if tracing():  # of a graph the dates are in order
            days_BT = days.reshape(-1, days.shape[-1])
        else:
            x_BTCHW, valid_BTHW, days_BT, _ = in_order(x_BTCHW, valid_BTHW, days)
        batch, dates, bands, height, width = x_BTCHW.shape
        months = months_of(days_BT[0] if len(days_BT) == 1 else days_BT.repeat_interleave(height * width, 0))
        x_NTC = x_BTCHW.permute(0, 3, 4, 1, 2).reshape(-1, dates, bands)
        valid_NT = valid_BTHW.permute(0, 2, 3, 1).reshape(-1, dates) > 0
        rows = (x_NTC, valid_NT) if months.ndim == 1 else (x_NTC, valid_NT, months)
        found = [head(self._embedded(x, valid, *own or (months,))) for x, valid, *own in _pieces(*rows)]
        return torch.cat(found)[: len(x_NTC)].view(batch, height, width, -1).permute(0, 3, 1, 2)

    def _embedded(self, x_NTC: torch.Tensor, valid_NT: torch.Tensor, months: torch.Tensor) -> torch.Tensor:
        series = sentinel2_series(x_NTC, self.config.bands)
        tokens, known = self.encoder(series, dict.fromkeys(series, valid_NT), months, self.config.place)
        return self.encoder.embedding(tokens, known)

    def _check(self, x_BTCHW: torch.Tensor, days: torch.Tensor) -> None:
        config = self.config
        dates = x_BTCHW.shape[1] if config.n_dates is None else config.n_dates
        found = (*x_BTCHW.shape[1:3], days.shape[-1])
        if found != (dates, config.n_bands, dates) or dates > config.n_positions:
            raise InputError(
                "the input does not fit the network",
                where="(dates, bands, days)",
                found=found,
                limit=f"({dates}, {config.n_bands}, {dates}), at most {config.n_positions} months",
            )


_ENCODER, _POSITIONS = "encoder.", "encoder.pos_embed"


def load_published(module: Presto, state: Mapping[str, torch.Tensor]) -> frozenset[str]:
    """Fill a network's encoder with Presto's published weights; its head stays as it is.

    Args:
        module: Filled in place.
        state: Tensors by name, as `engine.inference.state.read_state_dict` reads them; a decoder is left out.

    Returns:
        The names of the tensors that were filled: all of the encoder.

    Raises:
        InputError: If a tensor of the encoder is missing, left over or of another shape.
    """
    own = {name: t for name, t in module.state_dict().items() if name.startswith(_ENCODER)}
    given = {name: t for name, t in state.items() if name.startswith(_ENCODER)}
    given[_POSITIONS] = own[_POSITIONS]  # a formula, for any number of months
    wrong = sorted(
        set(own) ^ set(given) | {n for n in set(own) & set(given) if own[n].shape != given[n].shape}
    )
    if wrong:
        more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
        raise InputError(
            "the weights are not those of Presto's encoder",
            where="weights",
            found=", ".join(wrong[:6]) + more,
            mend="give the published state dict of nasaharvest/presto or WorldCereal/prometheo",
        )
    module.load_state_dict({**module.state_dict(), **given})
    return frozenset(given)


def months_of(days: torch.Tensor) -> torch.Tensor:
    """Return the month, 0 = January, of running days (`engine.values.days`).

    In leap years the last day of a month counts as the first of the next.

    >>> months_of(torch.tensor([1.0, 31.0, 32.0, 60.0, 366.0, 367.0])).tolist()
    [0, 0, 1, 2, 11, 0]
    """
    first = torch.tensor([32, 60, 91, 121, 152, 182, 213, 244, 274, 305, 335], device=days.device)
    return torch.bucketize((days - 1) % YEAR_DAYS + 1, first.to(days.dtype), right=True)


def sentinel2_series(x_NTC: torch.Tensor, bands: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Sort the bands of a cube into Presto's groups; a group that lacks a band is left out.

    Args:
        x_NTC: float32, reflectance 0..1.
        bands: Their names in any vocabulary of `engine.values.bands`.

    Returns:
        Group to (N, T, its bands), with the NDVI (0 where red and nir are both dark) where it can be had.
    """
    have = {band(name).name: i for i, name in enumerate(bands)}
    found = {
        group: x_NTC[:, :, [have[name] for name in names]]
        for group, names in PRESTO_GROUPS.items()
        if group != "NDVI" and set(names) <= set(have)
    }
    if {"red", "nir"} <= set(have):
        red_NT, nir_NT = x_NTC[:, :, have["red"]], x_NTC[:, :, have["nir"]]
        total_NT = nir_NT + red_NT
        ndvi_NT = torch.where(total_NT > 0, (nir_NT - red_NT) / total_NT.clamp_min(1e-8), 0.0)
        found["NDVI"] = ndvi_NT[:, :, None]
    return found


def wave(n_positions: int, features: int) -> torch.Tensor:
    """Return (positions, features): sine and cosine in turn, periods up to 1000 (Vaswani et al. 2017)."""
    position = torch.arange(n_positions, dtype=torch.float64)[:, None]
    pair = torch.arange(features) // 2
    angle = position / 1000 ** (2 * pair / features)
    return torch.where(torch.arange(features) % 2 == 0, angle.sin(), angle.cos()).float()


def year_circle(features: int) -> torch.Tensor:
    """Return (12, features): half sines, half cosines of the month, January at angle 0."""
    angle = torch.arange(12, dtype=torch.float64)[:, None] * (2 * math.pi / 12)
    half = (12, features // 2)
    return torch.cat([angle.sin().expand(half), angle.cos().expand(half)], dim=1).float()


def on_the_sphere(latitude_deg: float, longitude_deg: float) -> tuple[float, float, float]:
    """Return the unit vector of a place.

    >>> [round(v, 3) for v in on_the_sphere(0.0, 90.0)]
    [0.0, 1.0, 0.0]
    """
    lat, lon = math.radians(latitude_deg), math.radians(longitude_deg)
    return math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)


def _head(config: PrestoConfig) -> nn.Module:
    if config.head == "embedding":
        return nn.Identity()
    if config.head == "linear":
        return nn.Linear(PRESTO_FEATURES, config.n_classes)
    half = PRESTO_FEATURES // 2
    return nn.Sequential(nn.Linear(PRESTO_FEATURES, half), nn.ReLU(), nn.Linear(half, config.n_classes))


def _pieces(*rows_N: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cut rows into pieces of one fixed size, the last filled up: odd row counts change the last bits."""
    first = rows_N[0]
    size = _CPU_ROWS if first.device.type == "cpu" else _GPU_ROWS
    if tracing():
        size = _TRACED_ROWS
    missing = -len(first) % size
    filled = (functional.pad(rows, (0, 0) * (rows.ndim - 1) + (0, missing)) for rows in rows_N)
    return zip(*(rows.split(size) for rows in filled), strict=True)
