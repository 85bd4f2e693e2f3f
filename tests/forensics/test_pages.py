"""Whatever a page is told, it shows as text."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import UndefinedError

from forensics.pages import Grid, data_url, render

HOSTILE = "<script>alert('x')</script>\"&"
PAGE = """{% extends "base.html" %}{% from "parts.html" import cards, picture, table %}
{% block main %}<p>{{ text }}</p>{{ cards([(text, text)]) }}{{ picture(url, text) }}{{ table(grid) }}{% endblock %}"""


def write(folder: Path) -> Path:
    (folder / "page.html").write_text(PAGE)
    return folder / "page.html"


def test_every_value_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    grid = Grid([HOSTILE], [[HOSTILE]])
    html = render(write(tmp_path), title=HOSTILE, text=HOSTILE, url=data_url(b"x", "png"), grid=grid)
    assert "<script" not in html and "'x'" not in html
    assert html.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&#34;&amp;") == 7
    assert "<table>" in html and '<div class="card">' in html and 'src="data:image/png;base64,eA=="' in html


def test_a_page_fetches_nothing_and_holds_the_one_style(tmp_path: Path) -> None:
    html = render(write(tmp_path), title="t", text="t", url="", grid=Grid([], []))
    assert html.count("<style>") == 1 and ".scroll{" in html and ".legend{" in html
    assert "http" not in html and "url(" not in html and "@import" not in html


def test_a_value_that_is_missing_is_an_error_not_a_gap(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError, match="text"):
        render(write(tmp_path), title="t", url="", grid=Grid([], []))
