"""The decoder that Presto was trained with, to prove that the encoder is the published one.

It gets the encoder's tokens back into full order, a learnt token for whatever was hidden, and predicts the
inputs of every token. Names are those of the published file.
"""

from __future__ import annotations

import torch
from torch import nn

from engine.models.presto import Block, Encoder, wave, year_circle
from engine.models.presto_config import PRESTO_GROUPS

GROUPS = (*PRESTO_GROUPS, "dynamic_world")


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.zeros(128))
        self.pos_embed = nn.Parameter(wave(24, 48)[None], requires_grad=False)
        self.month_embed = nn.Embedding.from_pretrained(year_circle(48), freeze=True)
        self.channel_embeddings = nn.Embedding(len(GROUPS), 32)
        self.decoder_embed = nn.Linear(128, 128)
        self.decoder_blocks = nn.ModuleList(Block() for _ in range(2))
        self.decoder_norm = nn.LayerNorm(128)
        self.eo_decoder_pred = nn.ModuleDict({k: nn.Linear(128, len(v)) for k, v in PRESTO_GROUPS.items()})
        self.dw_decoder_pred = nn.Linear(128, 9)

    def where(self, group: int, months_T: torch.Tensor) -> torch.Tensor:
        channel = self.channel_embeddings.weight[group]
        if GROUPS[group] == "SRTM":
            return nn.functional.pad(channel, (48, 48))[None]
        date = self.pos_embed[0, : len(months_T)]
        return torch.cat([self.month_embed(months_T), channel.expand(len(months_T), -1), date], dim=-1)

    def forward(
        self, place_N1D: torch.Tensor, tokens: dict[str, torch.Tensor], months_T: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """`tokens`: group to (N, T, D), already normalised and embedded, mask token where hidden."""
        n, dates = len(place_N1D), len(months_T)
        parts = [place_N1D]
        for index, group in enumerate(GROUPS):
            length = 1 if group == "SRTM" else dates
            own = tokens.get(group)
            own = self.mask_token.expand(n, length, -1) if own is None else own
            parts.append(own + self.where(index, months_T))
        x_NLD = torch.cat(parts, dim=1)
        everything = torch.ones(x_NLD.shape[:2], dtype=torch.bool)
        for block in self.decoder_blocks:
            x_NLD = block(x_NLD, everything)
        sizes = [1 if g == "SRTM" else dates for g in GROUPS]
        pieces = self.decoder_norm(x_NLD)[:, 1:].split(sizes, dim=1)
        by_group = dict(zip(GROUPS, pieces, strict=True))
        return {k: self.eo_decoder_pred[k](by_group[k]) for k in PRESTO_GROUPS}


def reconstruct(
    encoder: Encoder,
    decoder: Decoder,
    series: dict[str, torch.Tensor],
    known: dict[str, torch.Tensor],
    months_T: torch.Tensor,
    place: tuple[float, float],
) -> dict[str, torch.Tensor]:
    """Encode what is known and predict every token, known or not."""
    with torch.inference_mode():
        x_NLD, known_NL = encoder(series, known, months_T, place)
        x_NLD = decoder.decoder_embed(encoder.norm(x_NLD))
        x_NLD = torch.where(known_NL[:, :, None], x_NLD, decoder.mask_token)
        sizes = [1, *(1 if g == "SRTM" else len(months_T) for g in series)]
        place_N1D, *rest = x_NLD.split(sizes, dim=1)
        return decoder(place_N1D, dict(zip(series, rest, strict=True)), months_T)
