"""Signing: an address gets its signature when a file is opened, and never before.

Signed addresses expire and are secrets: they are never stored in a table, a plan or a log.
"""

from __future__ import annotations

import threading
from importlib import import_module

from engine.values.errors import InputError, RetryableError

_ONE_AT_A_TIME = threading.RLock()
"""Threads that find a token expired wait for the first of them to get another, and share it."""


def sign(href: str, provider: str) -> str:
    """Return the address under which a file can be opened now.

    Planetary Computer addresses are signed through the package ``planetary_computer``, which keeps its
    token until it expires. Earth Search needs none. ``s3://`` addresses (CDSE, requester pays) take their
    keys from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_S3_ENDPOINT.

    Args:
        href: Unsigned address or local path.
        provider: As in `ItemRecord.provider`.

    Raises:
        InputError: If the package that signs is not installed.
        RetryableError: If the signing service did not answer.
    """
    if not _is_signed(href, provider):
        return href
    try:
        signer = import_module("planetary_computer")
    except ImportError as error:
        raise InputError(
            "reading from the Planetary Computer needs one more package",
            where=href,
            mend="pip install 'landweave[planetary-computer]'",
        ) from error
    try:
        with _ONE_AT_A_TIME:
            return str(signer.sign_url(href))
    except Exception as error:  # the package lets the errors of requests and pydantic through
        reason = type(error).__name__
    # outside the handler: the library's error could hold what cannot be pickled
    raise RetryableError("the Planetary Computer did not sign the address", where=href, found=reason)


def sign_anew(href: str, provider: str, refused: str) -> bool:
    """Get another signature for a file whose signed address was refused, as when it expired early.

    Threads whose reads were refused together share one new signature.

    Args:
        href: Unsigned address.
        provider: As in `ItemRecord.provider`.
        refused: The signed address that the storage did not take.

    Returns:
        Whether `sign` now gives another address than the one refused.

    Raises:
        RetryableError: If the signing service did not answer.
    """
    if not _is_signed(href, provider):
        return False
    with _ONE_AT_A_TIME:
        if sign(href, provider) != refused:
            return True
        kept = import_module("planetary_computer.sas").TOKEN_CACHE
        for key in [k for k, token in kept.items() if refused.endswith(token.token)]:
            del kept[key]
        return sign(href, provider) != refused


def _is_signed(href: str, provider: str) -> bool:
    return provider == "planetary-computer" and href.startswith("https://")
