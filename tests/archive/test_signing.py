"""Signing: only when asked, only where needed, and never a secret in an error."""

from __future__ import annotations

import pickle
import sys
from types import SimpleNamespace

import pytest

from engine.archive.signing import sign
from engine.values.errors import InputError, RetryableError

BLOB = "https://sentinel2l2a01.blob.core.windows.net/c/B04.tif"


@pytest.mark.parametrize(
    ("href", "provider"),
    [
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com/B04.tif", "earth-search"),
        ("s3://eodata/B04.jp2", "cdse"),
        ("/data/B04.tif", "planetary-computer"),
        (BLOB, "other"),
    ],
)
def test_most_addresses_stay(href: str, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planetary_computer", None)  # not even looked at
    assert sign(href, provider) == href


def test_the_planetary_computer_signs(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(sign_url=lambda href: f"{href}?sig=x")
    monkeypatch.setitem(sys.modules, "planetary_computer", fake)
    assert sign(BLOB, "planetary-computer") == f"{BLOB}?sig=x"


def test_the_real_package_leaves_other_hosts_alone() -> None:
    pytest.importorskip("planetary_computer")
    assert sign("https://127.0.0.1/B04.tif", "planetary-computer") == "https://127.0.0.1/B04.tif"


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "planetary_computer", None)
    with pytest.raises(InputError, match="pip install"):
        sign(BLOB, "planetary-computer")


def test_a_signer_that_does_not_answer_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(href: str) -> str:
        raise TimeoutError("SECRET")

    monkeypatch.setitem(sys.modules, "planetary_computer", SimpleNamespace(sign_url=fail))
    with pytest.raises(RetryableError) as caught:
        sign(BLOB, "planetary-computer")
    assert "SECRET" not in str(caught.value)
    assert caught.value.__context__ is None
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
