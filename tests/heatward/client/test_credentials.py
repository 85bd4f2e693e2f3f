"""Tokens and PEM files: what is sent, what is refused, and that no secret is ever shown."""

from __future__ import annotations

import codecs
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import heatward
import pytest
import trustme
from either import both, either
from fake_servicer import FakeServer
from heatward.client.connection import Connection
from heatward.client.credentials import clean_token, read_pem

SECRET = "do-not-print-me-0123456789"
KEY = f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n"


@both
@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "\ufeff{}\n", "  {}\t", "\ufeff {} \n\n"])
async def test_white_space_around_a_token_is_cut(server: FakeServer, kind: str, around: str) -> None:
    server.set_serving(True)
    async with either(kind, server.address, token=around.format(SECRET)) as client:
        await client.detect(b"image")
        assert server.detector.metadata["authorization"] == f"Bearer {SECRET}"
        assert await client.health()


@pytest.mark.parametrize(
    "token",
    [f"{SECRET}\nmore", f"{SECRET}\r{SECRET}", f"{SECRET}\0x", f"{SECRET}\x7f", f"ü{SECRET}", f"ï»¿{SECRET}",
     f"{SECRET}\u2028x", f"{SECRET}\udc80", f"a\t{SECRET}", " \n", SECRET.encode(), [SECRET]],
)  # fmt: skip
@pytest.mark.parametrize("client", [heatward.Client, heatward.AsyncClient])
async def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(client: type, token: object) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        client("127.0.0.1:1", token=token)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown.replace(repr(token), "") and "token" in str(caught.value)
    assert SECRET not in str(caught.value) and SECRET not in repr(caught.value)


def test_no_token_stays_none() -> None:
    assert clean_token(None) is None and clean_token("") is None
    assert clean_token("two words") == "two words"


def test_no_repr_shows_a_secret() -> None:
    connection = Connection(tls=KEY.encode(), certificate=KEY, key=KEY.encode(), token=SECRET)
    assert SECRET not in repr(connection) and SECRET not in str(connection)
    with heatward.Client(token=SECRET) as client:
        assert SECRET not in repr(client)


@both
async def test_no_error_of_a_call_shows_a_secret(server: FakeServer, kind: str) -> None:
    server.detector.fail_first = 99
    async with either(kind, server.address, token=f"{SECRET}\n") as client:
        with pytest.raises(heatward.DetectionError) as caught:
            await client.detect(b"image")
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in "".join(traceback.format_exception(error)) + repr(error)
        error = error.__cause__


def test_pem_is_taken_as_content_or_path(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(KEY)
    for pem in (KEY, KEY.encode(), path, str(path)):
        assert read_pem("key", pem) == KEY.encode()
    assert read_pem("key", None) is None


@pytest.mark.parametrize("pem", [SECRET, f"{SECRET}\n{SECRET}", SECRET.encode(), f"/{SECRET}" * 40])
def test_a_key_that_cannot_be_read_is_not_shown(pem: bytes | str) -> None:
    with pytest.raises((OSError, ValueError), match="key") as caught:
        read_pem("key", pem)
    assert SECRET not in str(caught.value) and caught.value.__cause__ is None


@pytest.mark.parametrize("address", [f"https://user:{SECRET}@guard:1", f"user:{SECRET}@guard:1"])
def test_a_password_in_an_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ValueError, match="token=") as caught:
        heatward.Client(address)
    assert SECRET not in str(caught.value)


def test_tls_is_never_guessed() -> None:
    with pytest.raises(TypeError, match="tls is True, False, or root certificates"):
        heatward.Client(tls=None)  # type: ignore[arg-type]


def test_a_token_that_is_longer_than_a_call_may_carry_is_refused() -> None:
    with pytest.raises(ValueError, match="the token has 6001 characters, and at most 6000") as caught:
        clean_token("x" * 6001)
    assert "xxx" not in str(caught.value)


AUTHORITY = trustme.CA()
LEAF, OTHER = AUTHORITY.issue_cert("guard.test"), AUTHORITY.issue_cert("guard.test")
CHAIN, PRIVATE = LEAF.cert_chain_pems[0].bytes(), LEAF.private_key_pem.bytes()


@pytest.mark.parametrize(
    "written",
    [
        lambda pem: codecs.BOM_UTF8 + pem,
        lambda pem: pem.decode().encode("utf-16"),
        lambda pem: "# Autorit\u00e9\n".encode() + pem,
    ],
)
def test_pem_may_have_a_byte_order_mark_and_comments(written: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "cert.pem"
    path.write_bytes(written(CHAIN))
    read = read_pem("certificate", path)
    assert read is not None and read.endswith(CHAIN) and not read.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE))
    with heatward.Client(tls=written(CHAIN), certificate=written(CHAIN), key=written(PRIVATE)):
        pass


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tls": PRIVATE}, "tls holds no certificate .*it holds a private key, which goes into key="),
        ({"tls": CHAIN[:300]}, "tls holds no certificate in PEM"),
        ({"certificate": PRIVATE, "key": PRIVATE}, "certificate holds no certificate"),
        ({"certificate": CHAIN, "key": CHAIN}, "key holds no private key in PEM: it holds a certificate"),
        ({"certificate": CHAIN, "key": OTHER.private_key_pem.bytes()}, "not the private key of certificate"),
        ({"certificate": CHAIN, "key": KEY}, "key is damaged"),
        ({"certificate": CHAIN, "key": KEY.replace("PRIVATE", "ENCRYPTED PRIVATE")}, "key is encrypted"),
    ],
)
@pytest.mark.parametrize("client", [heatward.Client, heatward.AsyncClient])
async def test_pem_that_cannot_be_used_is_refused_when_the_client_opens(
    client: type, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        client("guard.test:1", **{"tls": True, **settings})
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("name", ["tls", "certificate"])
def test_what_may_be_a_key_in_place_of_a_path_is_not_shown(name: str) -> None:
    with pytest.raises(OSError, match=f"{name}: cannot read the file that it names") as caught:
        read_pem(name, f"{SECRET}" * 10)
    assert SECRET not in str(caught.value)
