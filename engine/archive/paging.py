"""Paging through a STAC API that throttles, stumbles, and chokes on large pages.

A page that was too much for the service is asked for again in halves; all else waits and tries again::

    answer              what is done
    200                 the page is taken, its `next` link followed
    429, 503            wait (Retry-After, else longer and longer), same page
    413                 half the page at once
    500, 502, 504,      once more the same; then half the page
    time-out, cut off
    other 4xx           the question is wrong: InputError

Where pages are numbered, a smaller page would begin elsewhere: then the walk starts anew, and what was
seen already is passed over. So the items are the same whatever happened on the way.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import email.utils
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from engine.values.errors import InputError, RetryableError

_WAIT, _TOO_LARGE = (429, 503), (413,)
_PERHAPS_TOO_LARGE = (0, 500, 502, 504)
_LONGEST_WAIT_S = 120.0
_NUMBERED = {"page", "offset", "startindex", "start"}


@dataclass(frozen=True)
class Ask:
    """One request.

    Attributes:
        method: ``GET`` or ``POST``.
        href: Address, with its query for GET.
        body: JSON of a POST.
        headers: Headers that the link asked for.
    """

    method: str
    href: str
    body: dict[str, Any] = dataclasses.field(default_factory=dict)
    headers: dict[str, str] = dataclasses.field(default_factory=dict)

    def with_limit(self, limit: int) -> Ask:
        """Return the same question for smaller pages.

        >>> Ask("GET", "https://h/search?token=x&limit=9").with_limit(4).href
        'https://h/search?token=x&limit=4'
        """
        if self.method == "POST":
            return dataclasses.replace(self, body={**self.body, "limit": limit})
        parts = urlsplit(self.href)
        query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k != "limit"]
        return dataclasses.replace(
            self, href=urlunsplit(parts._replace(query=urlencode([*query, ("limit", str(limit))])))
        )

    @property
    def numbered(self) -> bool:
        """Whether it stands for the n-th page, so that another page size would move it."""
        keys = {k.lower() for k, _ in parse_qsl(urlsplit(self.href).query)} | {k.lower() for k in self.body}
        return bool(keys & _NUMBERED)


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: HTTP status, 0 for a time-out or a connection that broke.
        document: The JSON, or None.
        retry_after: The header, ``""`` without.
        text: What to say of a failure.
    """

    status: int
    document: Any = None
    retry_after: str = ""
    text: str = ""


@dataclass(frozen=True)
class Patience:
    """How long to try.

    Attributes:
        retries: Times that one page is asked for again.
        backoff_s: First wait in seconds; doubles.
        sleep: Waits.
    """

    retries: int = 6
    backoff_s: float = 0.5
    sleep: Callable[[float], None] = time.sleep


Send = Callable[[Ask], Answer]


def walk(send: Send, first: Ask, limit: int, patience: Patience | None = None) -> Iterator[dict[str, Any]]:
    """Yield every item of a search once.

    Args:
        send: Sends a request; never raises.
        first: The search.
        limit: Items a page to begin with.
        patience: How long to try.

    Raises:
        InputError: If the service refuses the question.
        RetryableError: If a page of one item does not come either.
    """
    seen: set[tuple[str, str]] = set()
    ask: Ask | None = first.with_limit(limit)
    while ask is not None:
        page, got = _page(send, ask, limit, patience or Patience())
        if page is None:  # smaller pages, from the start
            ask, limit = first.with_limit(got), got
            continue
        limit = got
        items = page.get("features") or []
        for item in items:
            key = str(item.get("collection")), str(item.get("id"))
            if key not in seen:
                seen.add(key)
                yield item
        ask = _next(page, ask.with_limit(limit)) if items else None


def _page(send: Send, ask: Ask, limit: int, patience: Patience) -> tuple[dict[str, Any] | None, int]:
    """Ask for a page until it comes; return it and the page size that worked, or None and a smaller size."""
    tries, stumbles, wait_s = 0, 0, patience.backoff_s
    while True:
        answer = send(ask)
        if answer.status == 200 and isinstance(answer.document, dict):
            return answer.document, limit
        tries += 1
        if 400 <= answer.status < 500 and answer.status not in (*_WAIT, *_TOO_LARGE, 408):
            raise InputError("the STAC API refuses the search", where=ask.href, found=_told(answer))
        stumbles += answer.status not in _WAIT
        if limit > 1 and (
            answer.status in _TOO_LARGE or (answer.status in _PERHAPS_TOO_LARGE and stumbles > 1)
        ):
            limit, tries, stumbles = limit // 2, 0, 0
            if ask.numbered:
                return None, limit
            ask = ask.with_limit(limit)
            continue
        if tries > patience.retries:
            raise _given_up(ask, answer, patience)
        patience.sleep(_wait_s(answer.retry_after, wait_s))
        wait_s *= 2


def _next(page: dict[str, Any], asked: Ask) -> Ask | None:
    """Return the request for the following page, as its link says."""
    link = next((one for one in page.get("links") or [] if one.get("rel") == "next"), None)
    if not link or not link.get("href"):
        return None
    method = str(link.get("method") or "GET").upper()
    body = link.get("body") or {}
    if method == "POST" and (link.get("merge") or not body):
        body = {**asked.body, **body}
    following = Ask(
        method, urljoin(asked.href, link["href"]), body if method == "POST" else {}, link.get("headers") or {}
    )
    return following if following != asked else None


def _wait_s(retry_after: str, otherwise_s: float) -> float:
    """Return how long to wait: what the service says, in seconds or as a date, else our own.

    >>> _wait_s("2", 0.5), _wait_s("", 0.5), _wait_s("soon", 0.5)
    (2.0, 0.5, 0.5)
    """
    try:
        wait_s = float(retry_after)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(retry_after)
        except ValueError:
            wait_s = otherwise_s
        else:
            wait_s = (moment - dt.datetime.now(moment.tzinfo)).total_seconds()
    return min(max(wait_s, 0.0), _LONGEST_WAIT_S)


def _told(answer: Answer) -> str:
    return f"{answer.status or 'no answer'}: {answer.text[:300]}"


def _given_up(ask: Ask, answer: Answer, patience: Patience) -> RetryableError:
    return RetryableError(
        "the STAC API does not answer",
        where=ask.href,
        found=_told(answer),
        limit=f"{patience.retries} retries",
        mend="try again later",
    )
