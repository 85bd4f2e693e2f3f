"""The token file ─▶ **who calls**, how many images a second they may send, and how much they are told.

One `name token [images_per_second] [disclosure]` a line, `#` begins a comment. The file is read again within a second
of a change. Tokens are kept as sha256 digests, compared in constant time, and neither logged nor put into an error. A
name may stand twice, with an old and a new token, so that clients can change over.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import re
import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from detector.errors import ConfigError
from detector.text import nearest
from server.access.disclosure import Disclosure
from server.access.watched import Watched
from server.config import ServerConfig
from server.errors import QuotaError, UnauthenticatedError

__all__ = ["CALLER", "Caller", "Quota", "Tokens", "warn_of_unknown"]

log = logging.getLogger("heatward.tokens")

CHECK_S = 1.0
BURST_S = 2.0
LINE = "`name token [images_per_second] [disclosure]`"
LEVELS = tuple(each.value for each in Disclosure)
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]{16,}=*")  # RFC 6750, and long enough not to be guessed


class Quota:
    """A token bucket that holds two seconds' worth of images, at least one. Ask it on the event loop only.

    Args:
        images_per_s: How fast it fills; infinity never refuses.
        clock: In seconds; for tests.
    """

    def __init__(self, images_per_s: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self.images_per_s = images_per_s
        self._clock = clock
        self._most = max(1.0, BURST_S * images_per_s)
        self._left = self._most
        self._filled_s = clock()

    def take(self) -> None:
        """Takes one image's worth.

        Raises:
            QuotaError: Nothing is left; says when there will be.
        """
        if math.isinf(self.images_per_s):
            return
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._filled_s) * self.images_per_s)
        self._filled_s = now_s
        if self._left < 1:
            raise QuotaError(
                f"your token allows {self.images_per_s:g} images a second: retry later",
                retry_after_s=(1 - self._left) / self.images_per_s,
            )
        self._left -= 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose token came with a call."""

    name: str
    quota: Quota
    disclosure: Disclosure | None = None
    """How much is told; None: as the server's setting says."""
    now: Callable[[], Quota] | None = None
    """The quota that the token has by now, for a call that lasts; raises `UnauthenticatedError` where it has none."""


CALLER: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Who makes the call that is being answered; None where no tokens are asked for."""


class Tokens:
    """The callers that the token file lets in.

    Args:
        file: One `name token [images_per_second] [disclosure]` a line.
        on_reload: Told "tokens" and whether a new file could be used.

    Raises:
        ConfigError: The file cannot be read or a line is wrong; names the line, never the token.
    """

    def __init__(self, file: Path, on_reload: Callable[[str, bool], None] = lambda what, fine: None) -> None:
        self._file = file
        self._quotas: dict[tuple[str, float], Quota] = {}  # survive a reload, which would otherwise refill them
        self._callers = Watched("tokens", {"token_file": file}, self._parse, on_reload=on_reload, every_s=CHECK_S)

    @property
    def names(self) -> frozenset[str]:
        """Of the callers that it lets in now."""
        return frozenset(caller.name for caller in self._callers.get().values())

    def find(self, token: str) -> Caller | None:
        """The caller whose token it is, if any. Takes as long whichever it is."""
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for known, caller in self._callers.get().items():
            if hmac.compare_digest(known, digest):
                found = caller
        return None if found is None else replace(found, now=partial(self._quota_now, digest))

    def _quota_now(self, digest: bytes) -> Quota:
        caller = self._callers.get().get(digest)
        if caller is None:
            raise UnauthenticatedError("your token is no longer known: ask the operator for another one")
        return caller.quota

    def _parse(self, contents: dict[str, bytes]) -> dict[bytes, Caller]:
        callers: dict[bytes, Caller] = {}
        lines: dict[bytes, int] = {}
        for number, line in enumerate(contents["token_file"].decode("utf-8-sig", "replace").splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if not 2 <= len(words) <= 4:
                self._refuse(number, f"expected {LINE}, but came {len(words)} words")
            name, token, *rest = words
            if not TOKEN.fullmatch(token):
                self._refuse(number, "a token has at least 16 characters out of A-Z a-z 0-9 - . _ ~ + /")
            disclosure = Disclosure(rest.pop()) if rest and rest[-1] in LEVELS else None
            if len(rest) == 2:
                near = nearest(rest[1], LEVELS)  # names what is known, never what came: it may be a token
                self._refuse(number, f"expected {LINE}, with a disclosure of {', '.join(LEVELS)}{near}")
            rate = _rate(rest[0]) if rest else math.inf
            if rate is None:
                near = nearest(rest[0], LEVELS)
                self._refuse(
                    number, f"images_per_second must be a number above 0, a disclosure {', '.join(LEVELS)}{near}"
                )
            digest = hashlib.sha256(token.encode()).digest()
            if digest in callers:
                # By line, not by name: where the columns are swapped, the names are the tokens.
                self._refuse(number, f"the same token as in line {lines[digest]}: each line needs its own")
            lines[digest] = number
            callers[digest] = Caller(name, self._quotas.setdefault((name, rate), Quota(rate)), disclosure)
        if not callers:
            raise ConfigError(f"token_file: {self._file} holds no token: nobody could call")
        return callers

    def _refuse(self, line: int, why: str) -> NoReturn:
        raise ConfigError(f"token_file: {self._file}, line {line}: {why}")


def warn_of_unknown(config: ServerConfig, tokens: Tokens | None) -> None:
    """Logs a warning where a setting names callers by tokens that nobody has: it does nothing for them.

    Args:
        config: The settings.
        tokens: Who may call; None where callers are known by their addresses.
    """
    for setting, names in (("query_exempt", config.query_exempt), ("record_labellers", config.record_labellers)):
        unknown = [name for name in names if (":" not in name if tokens is None else name not in tokens.names)]
        if unknown:
            whose = "no line of the token file has" if tokens else "nobody has: there is no token_file"
            shown = ["a token, by the looks of it" if TOKEN.fullmatch(each) else each for each in unknown]
            log.warning("%s names tokens that %s: it does nothing for them", setting, whose, extra={"names": shown})


def _rate(word: str) -> float | None:
    try:
        rate = float(word)
    except ValueError:
        return None
    return rate if 0 < rate < math.inf else None
