"""Signing: an address gets its signature when a file is opened, and never before.

Signed addresses expire and are secrets: they are never stored in a table, a plan or a log.
"""

from __future__ import annotations

from importlib import import_module

from engine.values.errors import InputError, RetryableError


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
    if provider != "planetary-computer" or not href.startswith("https://"):
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
        return str(signer.sign_url(href))
    except Exception as error:  # the package lets the errors of requests and pydantic through
        reason = type(error).__name__
    # outside the handler: the library's error could hold what cannot be pickled
    raise RetryableError("the Planetary Computer did not sign the address", where=href, found=reason)
