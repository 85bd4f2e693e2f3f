"""An archive of records → **the site**: a page of them, their pictures, and forms that take the truth.

/?verdict=flagged&page=2    image/ID    heatmap/ID    POST label    style.css    keys.js
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from detector.errors import ConfigError, HeatwardError
from detector.text import printable
from forensics.pages import render
from forensics.review.archive import BORDERLINE, Archive, Filter
from forensics.review.pictures import Judge, draw_heatmap, draw_image
from forensics.theme import DARK

__all__ = ["Site"]

TEMPLATES = Path(__file__).with_name("templates")
PAGE = 20
LONGEST_FORM = 16_384
KEPT_PICTURES = 100
NOTHING = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256"><rect width="256" height="256" fill="#8a94a3"/>'
    '<text x="128" y="132" text-anchor="middle" font-family="sans-serif" font-size="17" fill="#fff">{}</text></svg>'
)


@dataclass(eq=False)
class Site:
    """The pages.

    Args:
        archive: What they show.
        guards: What a request passes before it comes here.
        judge: Draws heatmaps that were not recorded.
    """

    archive: Archive
    guards: Sequence[Middleware]
    judge: Judge | None = None
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    """Every form of ours brings it; other sites cannot read it."""

    def __post_init__(self) -> None:
        self._picture = lru_cache(KEPT_PICTURES)(self._draw)
        self._drawing = threading.Lock()  # a detector belongs to one thread at a time, and images are large

    def app(self) -> Starlette:
        """What a server of ASGI serves."""
        return Starlette(
            routes=[
                Route("/", self._page),
                Route("/{kind:str}/{record_id:str}", self._show, methods=["GET"]),
                Route("/label", self._label, methods=["POST"]),
                Route("/style.css", self._style),
                Route("/keys.js", self._keys),
            ],
            middleware=self.guards,
            exception_handlers={ConfigError: _say(400), HeatwardError: _say(500)},
        )

    def _page(self, request: Request) -> Response:
        words = dict(request.query_params)
        chosen, found = Filter.of(words), self.archive.find()
        entries = [each for each in found.entries if chosen.holds(each)]
        pages = max(1, -(-len(entries) // PAGE))
        page = words.get("page", "")[:9]  # Python refuses to read thousands of digits
        number = min(max(1, int(page)), pages) if page.isdecimal() else 1
        query = {name: word for name, word in words.items() if name in Filter.__dataclass_fields__ and word}
        return HTMLResponse(
            render(
                TEMPLATES / "review.html",
                title="Review · heatward",
                found=found,
                entries=entries[(number - 1) * PAGE : number * PAGE],
                count=len(entries),
                unlabelled=sum(not each.labels for each in entries),
                words=defaultdict(str, query),
                clients=[("", "all"), *((each, printable(each)) for each in found.clients)],
                factor=BORDERLINE,
                page=number,
                pages=pages,
                address=lambda page: "?" + urlencode({**query, "page": page}),
                back=urlencode({**query, "page": number}),
                form_token=self.form_token,
                reviewer=request.user.display_name,
                printable=printable,
            )
        )

    def _show(self, request: Request) -> Response:
        kind, record_id = request.path_params["kind"], request.path_params["record_id"]
        if kind not in ("image", "heatmap"):
            raise HTTPException(404)
        if all(
            each.record.record_id != record_id for each in self.archive.find().entries
        ):  # removed, but still kept here
            raise HTTPException(404, "no such record is here")
        with self._drawing:
            content, why = self._picture(kind, record_id)
        if content is None:
            return Response(NOTHING.format(why), media_type="image/svg+xml")
        return Response(content, media_type="image/png")

    def _draw(self, kind: str, record_id: str) -> tuple[bytes | None, str]:
        """The picture, or why there is none."""
        record = self.archive.whole(record_id)
        if record is None:
            return None, "record was removed"
        missing = "image not recorded" if record.image is None else "image cannot be read"
        if kind == "image":
            return draw_image(record), missing
        return draw_heatmap(record, self.judge), "no heatmap" if record.image is None else "heatmap needs --bundle"

    async def _label(self, request: Request) -> Response:
        form = await _form(request)
        if not hmac.compare_digest(form.get("form_token", "").encode(), self.form_token.encode()):
            raise HTTPException(403, "this form is not of the page that is served now: go back and reload it")
        record_id, truth, true_label = (form.get(name, "") for name in ("record", "truth", "true_label"))
        await run_in_threadpool(self.archive.label, record_id, truth, true_label, request.user.display_name)
        back = urlencode(parse_qsl(form.get("back", "")))
        return RedirectResponse(f"./?{back}#{urlencode({'r': form.get('next', '')})}", 303)

    async def _style(self, request: Request) -> Response:
        return Response(render(TEMPLATES / "review.css", dark=DARK), media_type="text/css")

    async def _keys(self, request: Request) -> Response:
        return FileResponse(TEMPLATES / "keys.js", media_type="text/javascript")


async def _form(request: Request) -> dict[str, str]:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            raise HTTPException(413, f"a form has at most {LONGEST_FORM} bytes")
    return dict(parse_qsl(body.decode(errors="replace"), keep_blank_values=True))


def _say(status: int) -> Callable[[Request, Exception], Response]:
    return lambda request, error: PlainTextResponse(str(error), status)
