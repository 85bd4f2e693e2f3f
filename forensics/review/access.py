"""A request from outside → **who asks**, or a refusal. Every answer leaves with the rules that its page must keep.

Host header (DNS rebinding) ─▶ token, where one is required ─▶ the page; a form brings the page's own token (CSRF)
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from starlette.authentication import AuthCredentials, AuthenticationBackend, AuthenticationError, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response

from detector.errors import ConfigError

__all__ = ["guards", "is_loopback", "read_tokens"]

SHORTEST_TOKEN = 16
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
RULES = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def guards(tokens: dict[bytes, str] | None, reviewer: str, names: Sequence[str]) -> list[Middleware]:
    """What a request passes before it is answered.

    Args:
        tokens: Who may come in, by sha256 of their token; None for everybody.
        reviewer: Who labels where no tokens are asked for.
        names: What the page may be called, besides this machine's own names.
    """
    return [
        Middleware(BaseHTTPMiddleware, dispatch=_rules),
        Middleware(TrustedHostMiddleware, allowed_hosts=[*LOOPBACK, *names], www_redirect=False),
        Middleware(AuthenticationMiddleware, backend=_Reviewers(tokens, reviewer), on_error=_refuse),
    ]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_tokens(file: Path) -> dict[bytes, str]:
    """Names by the sha256 of their token, out of a file like the server's: `name token` a line, `#` begins a comment.

    Raises:
        ConfigError: It cannot be read, or a line is wrong; names the line, never the token.
    """
    try:
        lines = file.read_text("utf-8-sig", "replace").splitlines()
    except OSError as error:
        raise ConfigError(f"--token-file {file}: cannot be read: {error.strerror}") from error
    tokens = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if words and (len(words) < 2 or len(words[1]) < SHORTEST_TOKEN):
            raise ConfigError(
                f"--token-file {file}, line {number}: expected `name token`, the token of {SHORTEST_TOKEN} characters "
                "or more"
            )
        if words:
            tokens[hashlib.sha256(words[1].encode()).digest()] = words[0]
    if not tokens:
        raise ConfigError(f"--token-file {file} holds no token: nobody could come in")
    return tokens


class _Reviewers(AuthenticationBackend):
    """HTTP's Basic scheme: the browser asks for the token as the password, and sends it to no other address."""

    def __init__(self, tokens: dict[bytes, str] | None, reviewer: str) -> None:
        self._tokens, self._reviewer = tokens, reviewer

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        if self._tokens is None:
            return AuthCredentials(), SimpleUser(self._reviewer)
        scheme, _, encoded = conn.headers.get("authorization", "").partition(" ")
        try:
            password = base64.b64decode(encoded, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            password = b""
        digest = hashlib.sha256(password).digest()
        found = [name for known, name in self._tokens.items() if hmac.compare_digest(known, digest)]
        if scheme.lower() != "basic" or not found:
            raise AuthenticationError("the token of a line of --token-file is required, as the password")
        return AuthCredentials(), SimpleUser(found[0])


def _refuse(conn: HTTPConnection, error: Exception) -> Response:
    return PlainTextResponse(str(error), 401, {"WWW-Authenticate": 'Basic realm="heatward review", charset="UTF-8"'})


async def _rules(request: Request, answer: RequestResponseEndpoint) -> Response:
    response = await answer(request)
    response.headers.update(RULES)
    return response
