"""Published state dicts (``.pt``, ``.pth``): read as numbers alone, to be written again as safetensors."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from engine.values.errors import DataError, InputError, TrustError

if TYPE_CHECKING:
    import torch

_SAFE_TORCH = (2, 6)


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a file that `torch.save` or safetensors wrote; nothing else in it is run.

    torch reads such a file with ``weights_only=True``: a restricted unpickler that knows tensors and containers
    and calls no other function. Before torch 2.6 it could be led around (CVE-2025-32434), so it is not used there.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU by name.

    Raises:
        TrustError: If the file holds anything but tensors and plain containers; it was not run.
        InputError: If the file cannot be read, holds no tensors, or torch is older than 2.6.
    """
    source = Path(path)
    if source.suffix.lower() == ".safetensors":
        return _read_safetensors(source)
    import torch

    version = tuple(int(n) for n in str(torch.__version__).split("+")[0].split(".")[:2])
    if version < _SAFE_TORCH:
        raise InputError(
            "this torch cannot be trusted to read a state dict without running code",
            where="torch",
            found=torch.__version__,
            limit="2.6 or later",
            mend="pip install -U torch",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an unusual pickle, which is refused below
            state = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TrustError(
            "the file holds more than tensors, and opening it may run code, so it was not opened",
            where=str(source),
            found=str(error).splitlines()[0][:200],
            mend="convert it where you trust it: safetensors.torch.save_file(state_dict)",
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise InputError("cannot read the weights", where=str(source), mend=str(error)[:300]) from error
    return _tensors(state, source)


def _read_safetensors(source: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(source.read_bytes()))
    except OSError as error:
        raise InputError("cannot read the weights", where=str(source), mend=str(error)) from error
    except SafetensorError as error:
        raise DataError("not a safetensors file", where=str(source), found=str(error)) from error


def _tensors(state: object, source: Path) -> dict[str, torch.Tensor]:
    """Take a state dict, or the one under ``state_dict`` or ``model`` of a checkpoint."""
    import torch

    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(torch.is_tensor(v) for v in state.values()):
        raise InputError("the file holds no state dict", where=str(source), limit="names and tensors")
    return {str(k): v for k, v in state.items()}
