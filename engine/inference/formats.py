"""Formats of weights: which are only numbers or graphs, and which may run code when they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from engine.inference.manifest import MANIFEST
from engine.values.errors import InputError, TrustError

Kind = Literal["safetensors", "onnx", "pt2"]

_KINDS: dict[str, Kind] = {".safetensors": "safetensors", ".onnx": "onnx"}
_ON_TRUST: dict[str, Kind] = {".pt2": "pt2"}
_MAY_RUN_CODE = (
    ".pt",
    ".pt2",
    ".pth",
    ".pkl",
    ".pickle",
    ".ckpt",
    ".bin",
    ".joblib",
    ".h5",
    ".keras",
    ".npy",
)


def kind_of(path: Path, *, trust_model: bool = False) -> Kind:
    """Tell the format from the name; opens nothing."""
    suffix = path.suffix.lower()
    if suffix in _ON_TRUST and not trust_model:
        raise TrustError(
            "a graph of torch.export may run code when it is opened, so it was not",
            where=str(path),
            found=suffix,
            limit=", ".join(_KINDS),
            mend="if you trust whoever made it: --trust-model, or load_bundle(path, trust_model=True)",
        )
    known = _KINDS | _ON_TRUST
    if suffix not in known:
        raise TrustError(
            "weights in this format may run code when they are opened, so they were not",
            where=str(path),
            found=path.suffix or "no suffix",
            limit=", ".join(known),
            mend="convert them where you trust them: safetensors.torch.save_file(state_dict) or ONNX export",
        )
    return known[suffix]


def refuse_code(path: Path) -> None:
    """Refuse a weights file that was given in place of a folder, or that lies alone in one."""
    if path.is_file():
        kind_of(path)
        raise InputError("a bundle is a folder", where=str(path), mend="give the folder with manifest.json")
    if path.is_dir() and not (path / MANIFEST).exists():
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in _MAY_RUN_CODE:
                kind_of(file)
