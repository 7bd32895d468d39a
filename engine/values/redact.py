"""Cut secrets out of texts before they are written or shown: signatures, tokens, passwords.

An error of a library may quote the address that it could not read, and a signed address is a key: whoever
reads the log could read the archive, or the bucket. What is cut is replaced by ``***``; the rest of
the text stays, so that the file concerned can still be found.
"""

from __future__ import annotations

import re

CUT = "***"

_WORD = r"[^\s\"'<>`|\\)\]},;]"
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # user:password@host
    (re.compile(r"(://)[^/\s@\"'<>]+@"), rf"\1{CUT}@"),
    # everything after the question mark of an address: it may be a signature, and nothing there is missed
    (re.compile(rf"(\?)(?=[\w.~%$-]+=){_WORD}+"), rf"\1{CUT}"),
    # single fields, where a text quotes them outside an address
    (
        re.compile(
            r"(?i)\b((?:x-amz-(?:signature|credential|security-token)|x-goog-signature|x-goog-credential"
            r"|signature|sig|credential|awsaccesskeyid|aws_access_key_id|aws_secret_access_key"
            r"|aws_session_token|access_token|sas_token|token|password|secret|account_key|api[_-]?key"
            rf"|subscription-key)[\"']?\s*[=:]\s*[\"']?){_WORD}+"
        ),
        rf"\1{CUT}",
    ),
    (re.compile(rf"(?i)\b(bearer\s+){_WORD}{{8,}}"), rf"\1{CUT}"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), CUT),
)


def without_secrets(text: str) -> str:
    """Return a text without signatures, tokens and passwords.

    >>> without_secrets("cannot open https://a.blob/x.tif?sv=2021&sig=Zm9v%3D: 403")
    'cannot open https://a.blob/x.tif?*** 403'
    >>> without_secrets("s3://key:word@host/bucket")
    's3://***@host/bucket'
    """
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text
