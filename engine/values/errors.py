"""The one tree of errors, grouped by what a handler would do.

Every error tells *what* failed, *where* (tile, date, band, file), the value *found* against the
*limit*, and the *mend*. The fields survive pickling, so an error raised on a worker reads the same
on the client::

    LandweaveError
    ├── InputError      fix the input or the configuration        exit code 2
    │   ├── SpecError       a cube that does not satisfy a bundle
    │   ├── TrustError      something that could run code was refused, unrun
    │   └── BudgetError     it would not fit: memory, storage, overflow
    ├── DataError       the data itself is wrong                  exit code 4
    ├── RetryableError  try again: network, throttling            exit code 3 when retries ran out
    ├── RefusedError    the disk is full or write-protected       exit code 3: what is finished is kept
    ├── PartialError    done, but with holes that are listed      exit code 3
    └── ConflictError   somebody else holds or changed it         exit code 2
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self


class LandweaveError(Exception):
    """Root of all errors that landweave raises on purpose.

    Args:
        what: What failed, one sentence.
        where: The tile, item, band, file or setting concerned.
        found: The value that was found, with its unit.
        limit: What was expected or allowed, with its unit.
        mend: What to do about it.

    >>> print(InputError("resolution must be positive", where="grid.resolution_m", found=-10, mend="use 10"))
    resolution must be positive [grid.resolution_m]; found -10; to mend: use 10
    """

    exit_code = 2
    item = ""
    asset = ""

    def __init__(self, what: str, *, where: str = "", found: Any = None, limit: Any = None, mend: str = ""):
        super().__init__(what)
        self.what, self.where, self.found, self.limit, self.mend = what, where, found, limit, mend

    def about(self, item: str, asset: str) -> Self:
        """Say which catalogue item and band (or file) could not be read, for the gap list; returns itself."""
        self.item, self.asset = item, asset
        return self

    def __str__(self) -> str:
        text = f"{self.what} [{self.where}]" if self.where else self.what
        if self.found is not None:
            text += f"; found {self.found}"
        if self.limit is not None:
            text += f", expected {self.limit}" if self.found is not None else f"; expected {self.limit}"
        return f"{text}; to mend: {self.mend}" if self.mend else text

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {k: getattr(self, k) for k in ("where", "found", "limit", "mend")}
        notes = {"__notes__": list(self.__notes__)} if hasattr(self, "__notes__") else {}
        return _rebuild, (type(self), self.what, fields, (self.item, self.asset)), notes


@contextmanager
def concerning(item: str, asset: str) -> Iterator[None]:
    """Let every error of ours that is raised inside name the item and the band that it is about."""
    try:
        yield
    except LandweaveError as error:
        error.about(item, asset)
        raise


def _rebuild(
    kind: type[LandweaveError], what: str, fields: dict[str, Any], concerned: tuple[str, str]
) -> LandweaveError:
    error = kind(what, **fields)
    return error.about(*concerned) if any(concerned) else error


class InputError(LandweaveError):
    """The input or the configuration is wrong; retrying will not help."""


class SpecError(InputError):
    """A cube does not satisfy what the model bundle was trained on."""


class TrustError(InputError):
    """Something that could run code was refused before it ran."""


class BudgetError(InputError):
    """It would not fit; found and limit carry the numbers."""


class DataError(LandweaveError):
    """The data itself is wrong: truncated, wrong shape, wrong CRS."""

    exit_code = 4


class RetryableError(LandweaveError):
    """A transient failure: try again."""

    exit_code = 3


class RefusedError(LandweaveError):
    """The place that is written to refuses: make room or give rights, then run the same command again."""

    exit_code = 3


class PartialError(LandweaveError):
    """The work is done, but with holes that are listed in gaps.json."""

    exit_code = 3


class ConflictError(LandweaveError):
    """Somebody else holds the store, or it changed under us."""
