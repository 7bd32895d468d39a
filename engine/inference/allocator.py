"""Keep the memory of one forward pass for the next.

A network asks for the same few hundred megabytes again and again. The C library by default gives memory
back to the system after each layer, and the system clears every page before it lends it again: measured,
a quarter of the time of a forward pass over windows of 256 pixels, and half over windows of 1024; two
thirds in worker processes that are told to give back early (``MALLOC_TRIM_THRESHOLD_``, Dask's default).
"""

from __future__ import annotations

import ctypes
import functools

# Numbers of mallopt(3), as in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEEP_BYTES = 2**31 - 1  # mallopt takes a C int
_ONE_PIECE_BYTES = 2**30


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep up to 2 GiB of freed memory; True where the C library can (glibc).

    One arena for all threads: in arenas of their own, threads cannot keep pieces above 64 MiB. It binds the
    threads that start after the call.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library: slower, not wrong
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = (
        (_M_ARENA_MAX, 1),
        (_M_MMAP_THRESHOLD, _ONE_PIECE_BYTES),
        (_M_TRIM_THRESHOLD, _KEEP_BYTES),
    )
    return all(mallopt(*setting) == 1 for setting in settings)
