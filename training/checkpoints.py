"""What a training leaves behind so that it can go on exactly: one file, replaced as a whole.

The file holds numbers and plain values only and is read as such (``weights_only``). Where batches and the draws of
dropout stand follows from the number of steps alone, so nothing else is needed.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.values.errors import ConflictError, DataError
from training.batch import Batch
from training.options import Checkpoints, TrainOptions

FILE = "training.pt"
_FORMAT = 1
_FREE = {"threads", "checkpoint", "memory_bytes"}


@dataclass(frozen=True)
class CheckpointFile:
    """The file of one training.

    Attributes:
        options: Where and how often.
        training: Digest of what is trained on what; another training's file is refused.
    """

    options: Checkpoints
    training: str

    @property
    def path(self) -> Path:
        """The file."""
        return self.options.folder / FILE

    def read(self, device: torch.device) -> dict[str, Any] | None:
        """Read what was written last; None where there is nothing to go on from.

        Raises:
            ConflictError: If it is another training's.
            DataError: If it cannot be read.
        """
        if not self.options.resume or not self.path.exists():
            return None
        try:
            found: dict[str, Any] = torch.load(self.path, map_location=device, weights_only=True)
            training = found["training"] if found["format"] == _FORMAT else None
        except Exception as error:  # torch raises whatever the bytes lead it to
            raise DataError(
                "the checkpoint cannot be read",
                where=str(self.path),
                found=f"{type(error).__name__}: {error}",
                mend="begin anew: --no-resume, or `resume: false` of the checkpoint",
            ) from error
        if training != self.training:
            raise ConflictError(
                "the checkpoint is of another training",
                where=str(self.path),
                found=str(training)[:12],
                limit=self.training[:12],
                mend="use the same options, data, number of processes and version of torch to go on; or begin "
                "anew: --no-resume, or `resume: false` of the checkpoint",
            )
        return found

    def write(self, state: dict[str, Any]) -> None:
        """Write the state; whoever is killed meanwhile finds the one before."""
        self.options.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f"{FILE}.", dir=self.options.folder)
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save({"format": _FORMAT, "training": self.training, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def keep(self, step: int, module: torch.nn.Module) -> None:
        """Keep the weights of a check, if that is asked for."""
        if self.options.keep:
            self.options.folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: value.contiguous() for name, value in module.state_dict().items()}
            save_file(tensors, kept_path(self.options.folder, step))


def kept_path(folder: Path, step: int) -> Path:
    """Return where the weights of a check are kept.

    >>> kept_path(Path("a"), 350).name
    'step-000350.safetensors'
    """
    return folder / f"step-{step:06d}.safetensors"


def remove(folder: Path) -> None:
    """Remove the state of a training that is done; kept weights stay."""
    if folder.is_dir():
        for path in folder.glob(f"{FILE}*"):
            path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def digest_of(options: TrainOptions, module: torch.nn.Module, first: Batch, processes: int) -> str:
    """Return a hash of all that decides the steps of a training.

    Args:
        options: How; threads, memory and checkpoints do not count.
        module: The network, before its first step.
        first: First batch: it tells data, split and draw.
        processes: That train together.
    """
    found = hashlib.sha256(
        json.dumps(
            {
                "options": options.model_dump(mode="json", exclude=_FREE),
                "torch": torch.__version__,
                "processes": processes,
            },
            sort_keys=True,
        ).encode()
    )
    tensors = [first.x.view(torch.int16), first.target, first.weight, *module.state_dict().values()]
    for tensor in tensors:
        found.update(tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
