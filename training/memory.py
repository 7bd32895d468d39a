"""Memory of batches, used again: the system clears each page before it lends it, which takes longer than filling it."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEPT = 8


class Memory:
    """Lends arrays, and takes each back when nothing refers to it any more; keeps at most 8 of them.

    >>> memory = Memory()
    >>> address = memory.lend((2, 3), np.uint16).ctypes.data
    >>> memory.lend((3,), np.float32).ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._spare: deque[NDArray[np.uint8]] = deque(maxlen=_KEPT)

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, ()

    def lend(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array with arbitrary values."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        whole = self._taken(n_bytes)
        array: NDArray[Any] = whole[:n_bytes].view(dtype).reshape(shape)
        # Tensors made of it and their views hold the array itself, so this is when the last of them is gone.
        weakref.finalize(array, self._spare.append, whole).atexit = False
        return array

    def _taken(self, n_bytes: int) -> NDArray[np.uint8]:
        """Take the first spare array that is large enough and not wastefully so."""
        for _ in range(len(self._spare)):
            try:
                whole = self._spare.popleft()
            except IndexError:  # another thread took it
                break
            if n_bytes <= whole.nbytes <= 2 * n_bytes + 4096:
                return whole
            self._spare.append(whole)
        return np.empty(n_bytes, np.uint8)
