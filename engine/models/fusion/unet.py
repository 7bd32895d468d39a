"""Two sensors through encoders over time and space into U-Nets that meet early or late.

::

    early   optical ─ encoder ─ its dates pooled ─┐
            radar ─── encoder ─ its dates pooled ─┼─ U-Net ─ head
            layers ────────────────────── 1 x 1 ──┘

    late    optical ─ encoder ─ its dates pooled ─ U-Net ─┐
            radar ─── encoder ─ its dates pooled ─ U-Net ─┼─ head
            layers ────────────────────────────── 1 x 1 ──┘

An encoder is a layer that mixes a date's bands, its validity and its season, then convolutions over 3 dates x 3 x 3
pixels, as in the 3D networks of Ji et al. 2018 (Remote Sensing 10:75) and, for Sentinel-1 beside Sentinel-2 with
fusion at both places, Rustowicz et al. 2019 (CVPR workshops: 75-82). With shared weights only the first
layers are the sensors' own. A convolution over dates is written as one over the features of three
dates side by side: the same sums, in fast two-dimensional code. Each head of the pooling shares itself out over
the dates on which the sensor has data in that pixel, by their features and their place in the season (after Garnot
and Landrieu 2021, ICCV: 4872), so any number of dates will do, and a sensor that is missing is zeros.

Shape suffixes: B batch, T date, C band, H row, W column, F feature, A head of the pooling, S season,
K output.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from engine.models.configs import UNetConfig
from engine.models.fusion.configs import FusionUNetConfig
from engine.models.fusion.sensors import Sensor, layers, sensor, sensors_of
from engine.models.temporal.dates import as_given, in_order, seasons
from engine.models.unet import ConvNorm, UNet

_HARMONICS = 2
_NEVER = -1e9


class FusionUNet(nn.Module):
    """The network; see the module's drawing.

    Args:
        config: Sizes and variants.
    """

    def __init__(self, config: FusionUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.sensors = sensors_of(config)
        known = 1 + 2 * _HARMONICS
        self.first = nn.ModuleDict(
            {s: ConvNorm(len(config.bands(s)) + known, config.series, 1, config.norm) for s in self.sensors}
        )
        shared = config.weights == "shared"
        branches = ("all",) if shared else self.sensors
        self.series = nn.ModuleDict({name: _over_dates(config) for name in branches})
        # Without a constant: one number for all dates would change no share.
        n_scored = config.series + 2 * _HARMONICS
        self.scores = nn.ModuleDict({s: nn.Conv2d(n_scored, config.heads, 1, bias=False) for s in branches})
        pooled = config.heads * config.series
        n_layers, n_sensors = len(config.bands("static")), len(self.sensors)
        self.layers = ConvNorm(2 * n_layers, config.series, 1, config.norm) if n_layers else None
        static = config.series if n_layers else 0
        if config.fusion == "early":
            self.unets = nn.ModuleDict({"all": _unet(config, pooled * n_sensors + static)})
            last = config.width
        else:
            self.unets = nn.ModuleDict({name: _unet(config, pooled) for name in branches})
            last = config.width * n_sensors + static
        self.head = nn.Conv2d(last, config.n_classes, 1)

    def forward(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            x_BTCHW: float32, normalised, 0 where there is no data and nowhere else.
            valid_BTHW: float32, 1 = a sensor has data on that date.
            days: float32 (T,) or (B, T), running days in any order, 0 = no such date.

        Returns:
            Logits (B, K, H, W), float32.

        Raises:
            InputError: If dates, bands or the window do not fit the configuration.
        """
        logits_BKHW: torch.Tensor = self.head(self.features(x_BTCHW, valid_BTHW, days))
        return logits_BKHW

    def features(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return what the last layer sees, (B, F, H, W); arguments as of `forward`."""
        x_BTCHW, valid_BTHW, days_BT, _ = in_order(x_BTCHW, valid_BTHW, days)
        series = {s: sensor(self.config, s, x_BTCHW, valid_BTHW) for s in self.sensors}
        pooled = {s: self._pooled(s, own, days_BT)[0] for s, own in series.items()}
        static = [] if self.layers is None else [self.layers(layers(self.config, x_BTCHW))]
        some = {s: own.valid.amax(dim=1, keepdim=True) for s, own in series.items()}
        if self.config.fusion == "early":
            joined_BFHW = torch.cat([*pooled.values(), *static], dim=1)
            return _answer(
                self.unets["all"], joined_BFHW, torch.cat(list(some.values()), 1).amax(1, keepdim=True)
            )
        unet = {s: self.unets["all" if "all" in self.unets else s] for s in self.sensors}
        return torch.cat([*(_answer(unet[s], pooled[s], some[s]) for s in self.sensors), *static], dim=1)

    def attention(self, x_BTCHW: torch.Tensor, valid_BTHW: torch.Tensor, days: torch.Tensor) -> torch.Tensor:
        """Return the share of each date in what is pooled, (B, A, T, H, W), the mean of the sensors that have one.

        Arguments as of `forward`; 1 in sum over the dates of a pixel, 0 without any.
        """
        x_BTCHW, valid_BTHW, days_BT, order_BT = in_order(x_BTCHW, valid_BTHW, days)
        series = [(s, sensor(self.config, s, x_BTCHW, valid_BTHW)) for s in self.sensors]
        shares_BATHW = torch.stack([self._pooled(s, own, days_BT)[1] for s, own in series]).sum(0)
        some_BHW = torch.stack([own.valid.amax(dim=1) for _, own in series]).sum(0)
        return as_given(shares_BATHW / some_BHW.clamp_min(1.0)[:, None, None], order_BT)

    def _pooled(self, name: str, own: Sensor, days_BT: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a sensor's series and pool its dates: (B, A x F, H, W), and the share of each, (B, A, T, H, W)."""
        valid_BT1HW, season_BTS = own.valid[:, :, None], seasons(days_BT, _HARMONICS)
        season_BTSHW = season_BTS[..., None, None] + 0.0 * valid_BT1HW
        present_BT111 = (days_BT > 0).to(own.x.dtype)[..., None, None, None]
        x_BTFHW = torch.cat([own.x, valid_BT1HW, season_BTSHW], dim=2)
        x_BTFHW = _each_date(self.first[name], x_BTFHW) * present_BT111
        branch = "all" if "all" in self.series else name
        for layer in self.series[branch].children():  # beyond the first and last date lies nothing
            beside = torch.cat([_moved(x_BTFHW, 1), x_BTFHW, _moved(x_BTFHW, -1)], dim=2)
            x_BTFHW = _each_date(layer, beside) * present_BT111
        scores_BTAHW = _each_date(self.scores[branch], torch.cat([x_BTFHW, season_BTSHW], dim=2))
        shares_BTAHW = torch.softmax(scores_BTAHW.masked_fill(valid_BT1HW == 0, _NEVER), dim=1)
        shares_BTAHW = shares_BTAHW * valid_BT1HW.amax(dim=1, keepdim=True)
        pooled_BAFHW = torch.einsum("btahw,btfhw->bafhw", shares_BTAHW, x_BTFHW)
        return pooled_BAFHW.flatten(1, 2), shares_BTAHW.transpose(1, 2)


def _over_dates(config: FusionUNetConfig) -> nn.Sequential:
    sizes = 3 * config.series, config.series
    return nn.Sequential(*(ConvNorm(*sizes, 3, config.norm) for _ in range(config.series_depth)))


def _unet(config: FusionUNetConfig, n_in: int) -> UNet:
    """Build a U-Net on one "date" of features; its outputs are features too."""
    return UNet(
        UNetConfig(
            n_dates=1,
            n_bands=n_in,
            n_classes=config.width,
            stem=config.width,
            width=config.width,
            width_max=config.width_max,
            depth=config.depth,
            norm=config.norm,
            decoder=config.decoder,
            dropout=config.dropout,
        )
    )


def _answer(unet: nn.Module, x_BFHW: torch.Tensor, valid_B1HW: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = torch.relu(unet(x_BFHW[:, None], valid_B1HW))
    return found


def _each_date(layer: nn.Module, x_BTFHW: torch.Tensor) -> torch.Tensor:
    """Run a layer on each date; the sizes stay open in an exported graph."""
    found: torch.Tensor = layer(x_BTFHW.flatten(0, 1))
    return found.reshape(-1, x_BTFHW.shape[1], *found.shape[1:])


def _moved(x_BTFHW: torch.Tensor, by: int) -> torch.Tensor:
    """Move the dates by one, zeros coming in."""
    padded = functional.pad(x_BTFHW, (0, 0) * 3 + ((1, 0) if by > 0 else (0, 1)))
    return padded[:, :-1] if by > 0 else padded[:, 1:]
