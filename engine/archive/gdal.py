"""GDAL: how it is set up for a read, and what its errors mean.

Options hold for the length of a read and one thread, never globally. Errors come out as ours, naming the
file, without signatures, and told apart by what a caller would do: try again, or leave the file out.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from engine.archive.stac import unsigned
from engine.values.errors import DataError, InputError, LandweaveError, RetryableError

GDAL_OPTIONS: Mapping[str, str] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "5",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}
"""How GDAL reads from the cloud; set around each read, never globally."""

_FORCED = {"GDAL_NUM_THREADS": "1"}
"""GDAL 3.10 decodes JPEG 2000 in threads whose errors it loses: a read that failed half-way would come back
as zeros, a hole that nobody reports. In one thread it raises."""

_TRANSIENT = re.compile(
    r"HTTP (?:response|error) code\s*:?\s*(?:408|429|5\d\d)|timed? ?out|resolve host|connect to|connection"
    r"|recv failure|empty reply|too slow|slowdown|throttl",
    re.IGNORECASE,
)
_FINAL = re.compile(
    r"HTTP (?:response|error) code\s*:?\s*4\d\d|does not exist|no such file|NoSuchKey|denied",
    re.IGNORECASE,
)
_MISSING = re.compile(r"HTTP (?:response|error) code\s*:?\s*404|NoSuchKey", re.IGNORECASE)
_NO_KEYS = re.compile(r"AWS_SECRET_ACCESS_KEY|InvalidCredentials|InvalidAccessKeyId", re.IGNORECASE)


@contextmanager
def gdal_environment(options: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """Set GDAL up for reading from the cloud, for the length of a ``with`` block and this thread only.

    Options that the user set (with rasterio.Env) win over `GDAL_OPTIONS`,
    but for the number of threads.
    PROJ's network is switched off for the whole process: a grid file fetched on one worker and not on
    another would move pixels.

    Yields:
        The options in force.
    """
    import rasterio
    from affine import Affine
    from odc.geo.geobox import GeoBox
    from odc.loader import RioDriver

    _switch_proj_network_off()
    _keep_secrets_out_of_logs()
    driver, nowhere = RioDriver(), GeoBox((1, 1), Affine.identity(), None)
    user = driver.capture_env() if rasterio.env.hasenv() else {}
    env = {**GDAL_OPTIONS, **user, **(options or {}), **_FORCED}
    with driver.restore_env(env, driver.new_load(nowhere)):  # odc keeps the session of a thread
        yield env


@functools.cache
def _switch_proj_network_off() -> None:
    from pyproj.network import set_network_enabled  # type: ignore[attr-defined]

    os.environ["PROJ_NETWORK"] = "OFF"
    set_network_enabled(False)


_FAILED: set[str] = set()
"""Hrefs whose last read failed: GDAL remembers such a failure and must be told to ask again."""


_ATTEMPTS = 3


def explained(href: str, where: str, read: Callable[[], None], renew: Callable[[], bool]) -> None:
    """Run a read of one file; turn rasterio's errors into ours, without secrets.

    Args:
        href: Unsigned address.
        where: What an error names: item, band and address.
        read: Does the work.
        renew: Called after a failure that may be a refused signature (GDAL does not always say): gets
            another one and says whether it did. The read is then tried again, three times in all.

    Raises:
        InputError: If the storage wants keys.
        DataError: If the file is missing or broken.
        RetryableError: If the service did not answer.
    """
    for attempt in range(_ATTEMPTS):
        failure = _failure_of(href, where, read)
        if failure is None:
            _FAILED.discard(href)
            return
        _FAILED.add(href)  # a missing file may be there by the next run, on a worker that lives on
        if attempt + 1 == _ATTEMPTS or not _may_be_refused(str(failure.found)) or not renew():
            raise failure  # outside the handler: GDAL's own error in its context could not be unpickled by Dask


def _failure_of(href: str, where: str, read: Callable[[], None]) -> LandweaveError | None:
    """Run a read; return GDAL's failure as ours, or None."""
    from rasterio.errors import RasterioError

    try:
        with _asking_again(href) if href in _FAILED else nullcontext():
            read()
        return None
    except LandweaveError as error:
        error.where = where if not error.where or error.where == href else f"{where}: {error.where}"
        raise
    except (RasterioError, OSError) as error:
        return explain(error, where)


def _may_be_refused(told: str) -> bool:
    """Tell whether a failure may be a refused signature: all that is neither passing nor a missing file.

    A refusal in the midst of a file reads as "not recognized" or "read failed".

    >>> [_may_be_refused(s) for s in ("HTTP response code: 403", "HTTP response code: 404", "read failed")]
    [True, False, True]
    """
    return not (_TRANSIENT.search(told) or _MISSING.search(told))


def _asking_again(href: str) -> Any:
    """Make GDAL forget that a file could not be read."""
    import rasterio

    return rasterio.Env(CPL_VSIL_CURL_NON_CACHED=_vsi_path(href))


def explain(error: Exception, where: str) -> LandweaveError:
    """Tell a service that did not answer from a file that is not there or broken.

    GDAL often says no more than "read failed" when a transfer breaks off, or "not recognized" when that
    happens in the header, so whatever a remote file did is tried again unless the answer was final.
    """
    text = _told(error)
    if _NO_KEYS.search(text):
        mend = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=YES"
        return InputError("the storage wants keys", where=where, found=text, mend=mend)
    if _TRANSIENT.search(text) or ("://" in where and not _FINAL.search(text)):
        mend = "try again; if it lasts, read fewer files at once"
        return RetryableError("the service did not answer", where=where, found=text, mend=mend)
    mend = "check the file, or leave the item out"
    return DataError("cannot read the file", where=where, found=text, mend=mend)


def _told(error: Exception) -> str:
    """Return what an error and those behind it say, without signatures."""
    chain = (error, error.__cause__, error.__context__)
    return scrub(" ".join(dict.fromkeys(str(e) for e in chain if e)))


def _vsi_path(href: str) -> str:
    """Return GDAL's own name for an address.

    >>> _vsi_path("s3://eodata/B04.jp2")
    '/vsis3/eodata/B04.jp2'
    """
    return f"/vsis3/{href[5:]}" if href.startswith("s3://") else f"/vsicurl/{href}"


def scrub(text: str) -> str:
    """Take signatures out of a message.

    >>> scrub("cannot open https://h.net/a.tif?sv=1&sig=abc: 403")
    'cannot open https://h.net/a.tif: 403'
    """
    query = r"\?[^\s'\"]*?(?=[:,.]*(?:[\s'\"]|$))"
    return re.sub(query, lambda m: unsigned(f"x://x{m[0]}").removeprefix("x://x"), text)


class _SecretFilter(logging.Filter):
    """Take signatures out of what odc, stackstac and rasterio log about a file."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage()), None
        return True


@functools.cache
def _keep_secrets_out_of_logs() -> None:
    rasterio = ("rasterio._base", "rasterio._err", "rasterio._io", "rasterio._env")
    for name in ("odc.loader._rio", "stackstac.rio_reader", "stackstac.timer", *rasterio):
        logging.getLogger(name).addFilter(_SecretFilter())
