"""`heatward review`, asked as a browser would and as an attacker would."""

from __future__ import annotations

import io
import re
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `review` is not installed")
pytest.importorskip("pyarrow", reason="the extra `review` is not installed")

from PIL import Image
from starlette.testclient import TestClient
from suspicious import NOON, evidence, png, record, write_label, write_records

from detector.records.reader import RecordReader
from detector.records.schema import Truth
from forensics.review.access import guards, read_tokens
from forensics.review.archive import Archive
from forensics.review.pictures import Judge, Pixels
from forensics.review.site import PAGE, Site

TOKEN = "a-token-of-many-characters"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_records(
        tmp_path,
        record(1, image=png(), evidence=evidence()),
        record(2, attacked=False, p_value=0.03, client="batch", image=png()),
        record(3, attacked=False, p_value=0.6, predicted_name="ship"),
        record(4, evidence=evidence(), time=NOON + timedelta(days=2)),
    )
    return tmp_path


def client(site: Site, **options: str) -> TestClient:
    return TestClient(site.app(), **{"base_url": "http://127.0.0.1:8090", "follow_redirects": False} | options)  # type: ignore[arg-type]


def open_site(folder: Path, judge: Judge | None = None, tokens: dict[bytes, str] | None = None) -> Site:
    return Site(Archive(folder), guards(tokens, "mara", ["review.example"]), judge)


def shown(folder: Path, query: str = "") -> list[str]:
    """Ids of the records on the page, in its order."""
    answer = client(open_site(folder)).get(f"/?{query}")
    assert answer.status_code == 200
    return re.findall(r'id="r=(\w+)"', answer.text)


def pixels(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def test_flagged_and_borderline_images_are_shown_newest_first(folder: Path) -> None:
    assert shown(folder) == ["r4", "r2", "r1"]
    page = client(open_site(folder)).get("/").text
    for text in ("cat", "90 %", "dog", "web", "p = 0.004", "29 Nov 2026, 13:00:00", "borderline", "label as mara"):
        assert text in page
    assert "ship" not in page


def test_what_a_patch_made_is_shown_as_flagged(tmp_path: Path) -> None:
    clean = {"attacked": False, "p_value": 0.9}
    write_records(tmp_path, *(record(at, **clean, patch_p_value=p) for at, p in enumerate((0.008, 0.03, 0.5, None), 1)))
    assert shown(tmp_path) == ["r2", "r1"]
    assert shown(tmp_path, "verdict=flagged") == ["r1"] and shown(tmp_path, "verdict=borderline") == ["r2"]
    assert "flagged: a patch" in (page := client(open_site(tmp_path)).get("/").text) and "of a patch 0.008" in page


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("verdict=flagged", ["r4", "r1"]),
        ("verdict=borderline", ["r2"]),
        ("labelled=unlabelled", ["r4"]),
        ("labelled=labelled", ["r2", "r1"]),
        ("labelled=contradicting", ["r1"]),
        ("client=batch", ["r2"]),
        ("since=2026-11-30", ["r4"]),
        ("until=2026-11-29", ["r2", "r1"]),
        ("verdict=flagged&client=batch", []),
    ],
)
def test_filters(folder: Path, query: str, expected: list[str]) -> None:
    write_label(folder, "r1", Truth.ATTACK)
    write_label(folder, "r1", Truth.FALSE_ALARM, by="jonas")
    write_label(folder, "r2", Truth.TRUE_LABEL, "cat")
    assert shown(folder, query) == expected


@pytest.mark.parametrize("query", ["verdict=odd", "labelled=odd", "since=yesterday", "until=2026-13-01"])
def test_a_filter_that_makes_no_sense_is_named(folder: Path, query: str) -> None:
    answer = client(open_site(folder)).get(f"/?{query}")
    assert answer.status_code == 400 and answer.text.startswith(f"{query.partition('=')[0]}: expected")


def test_pages_hold_all_and_none_twice(tmp_path: Path) -> None:
    write_records(tmp_path, *(record(number) for number in range(PAGE + 3)))
    first, second = shown(tmp_path), shown(tmp_path, "page=2")
    assert [*first, *second] == [f"r{number}" for number in reversed(range(PAGE + 3))] and len(first) == PAGE
    assert (
        shown(tmp_path, "page=99") == shown(tmp_path, "page=" + "9" * 5000) == second
        and shown(tmp_path, "page=x") == first
    )


def test_a_label_is_kept_as_the_server_keeps_it_and_leads_to_the_next(folder: Path) -> None:
    site = open_site(folder)
    form = {"form_token": site.form_token, "record": "r2", "next": "r1", "back": "verdict=borderline&page=1"}
    answer = client(site).post("/label", data=form | {"truth": "true-label", "true_label": "dog"})
    assert (answer.status_code, answer.headers["location"]) == (303, "./?verdict=borderline&page=1#r=r1")
    (label,) = RecordReader(folder).labels().values()
    assert (label.record_id, label.truth, label.true_label, label.by) == ("r2", "true-label", "dog", "mara")
    client(site).post("/label", data=form | {"truth": "attack"})
    assert RecordReader(folder).labels()["r2"].truth == "attack"
    page = client(site).get("/").text
    assert page.index("<b>attack</b> · mara") < page.index("true label: dog · mara")


def test_labels_that_contradict_each_other_are_all_shown(folder: Path) -> None:
    write_label(folder, "r1", Truth.FALSE_ALARM, by="jonas")
    assert "contradicting labels" not in client(open_site(folder)).get("/").text
    write_label(folder, "r1", Truth.ATTACK)
    page = client(open_site(folder)).get("/").text
    assert "contradicting labels: the latest counts" in page and "false alarm · jonas" in page


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"form_token": "guessed"}, 403, "reload"),
        ({"form_token": "é"}, 403, "reload"),
        ({"record": "r3"}, 400, "no record 'r3' is here"),
        ({"truth": "maybe"}, 400, "expected one of false-alarm, attack, true-label"),
        ({"truth": "true-label", "true_label": "cta"}, 400, "no class is called 'cta'; did you mean 'cat'?"),
        ({"true_label": "x" * 20_000}, 413, "at most"),
    ],
)
def test_what_is_no_label_is_refused(folder: Path, changed: dict[str, str], status: int, said: str) -> None:
    site = open_site(folder)
    form = {"form_token": site.form_token, "record": "r1", "truth": "attack"} | changed
    answer = client(site).post("/label", data=form)
    assert answer.status_code == status and said in answer.text
    assert not (folder / "labels").exists()


def test_a_label_that_cannot_be_kept_is_said(folder: Path) -> None:
    (folder / "labels").write_text("a file where the folder should be")
    site = open_site(folder)
    answer = client(site).post("/label", data={"form_token": site.form_token, "record": "r1", "truth": "attack"})
    assert answer.status_code == 500 and "the label was not kept" in answer.text


def test_an_image_that_was_not_recorded_is_never_shown(folder: Path) -> None:
    def judge(came: Pixels) -> tuple[Pixels, np.ndarray]:
        raise AssertionError("there is nothing to judge")

    with client(open_site(folder, judge)) as browser:
        answer = browser.get("/image/r4")
        assert answer.headers["content-type"] == "image/svg+xml" and "image not recorded" in answer.text
        drawn = pixels(browser.get("/heatmap/r4").content)  # from evidence, over grey
    assert len(np.unique(drawn[0, 0])) == 1 and not (drawn[128, 128] == drawn[0, 0]).all()


def test_what_is_not_on_the_pages_has_no_pictures(folder: Path) -> None:
    with client(open_site(folder)) as browser:
        for address in ("/image/r3", "/image/gone", "/other/r1", "/image/r1/r1"):
            assert browser.get(address).status_code == 404
        for shard in (folder / "records").iterdir():
            shard.unlink()
        assert browser.get("/image/r1").status_code == 404


def test_a_picture_is_drawn_anew_so_that_no_file_of_a_caller_reaches_the_browser(tmp_path: Path) -> None:
    write_records(tmp_path, record(1, image=png() + b"<script>"), record(2, image=b"<svg onload=alert(1)>"))
    with client(open_site(tmp_path)) as browser:
        assert (pixels(browser.get("/image/r1").content) == (200, 30, 40)).all()
        assert b"script" not in browser.get("/image/r1").content
        assert "image cannot be read" in browser.get("/image/r2").text


def test_a_heatmap_that_was_not_recorded_is_computed_anew(folder: Path) -> None:
    def judge(came: Pixels) -> tuple[Pixels, np.ndarray]:
        return came, np.eye(5, dtype=np.float32)

    with client(open_site(folder)) as browser:
        assert "needs --bundle" in browser.get("/heatmap/r2").text
        recorded = browser.get("/heatmap/r1").content
    with client(open_site(folder, judge)) as browser:
        assert browser.get("/heatmap/r2").headers["content-type"] == "image/png"
        assert browser.get("/heatmap/r1").content == recorded


def test_damaged_shards_and_rows_are_counted_on_the_page(folder: Path) -> None:
    whole = next((folder / "records").glob("*.parquet"))
    (folder / "records/000000000007.0.0badc0de.parquet").write_bytes(whole.read_bytes()[:300])
    write_records(folder, record(5, height=0))
    assert shown(folder) == ["r4", "r2", "r1"]
    page = client(open_site(folder)).get("/").text
    assert "1 shard cannot be read and is left out: 000000000007.0.0badc0de.parquet" in page
    assert "1 row that makes no sense is left out" in page


def test_new_records_and_labels_appear_without_a_restart(folder: Path) -> None:
    with client(open_site(folder)) as browser:
        assert 'id="r=r9"' not in browser.get("/").text
        write_records(folder, record(9))
        write_label(folder, "r9", Truth.ATTACK, by="by-rpc")
        page = browser.get("/").text
    assert 'id="r=r9"' in page and "by-rpc" in page


def test_a_folder_that_is_gone_is_said_and_forgotten(folder: Path) -> None:
    with client(open_site(folder)) as browser:
        assert browser.get("/image/r1").status_code == 200
        shutil.rmtree(folder)
        for address in ("/", "/image/r1"):
            answer = browser.get(address)
            assert answer.status_code == 500 and "is no folder of records" in answer.text


def test_what_callers_named_is_shown_as_text(tmp_path: Path) -> None:
    write_records(tmp_path, record(1, request_id="<script>\x1b", client='"><img src=x>', predicted_name="\u202ecat"))
    page = client(open_site(tmp_path)).get("/").text
    assert "<script>\\" not in page and "<img src=x" not in page and "\u202e" not in page.partition("<datalist")[0]


def test_every_answer_forbids_what_the_page_does_not_need(folder: Path) -> None:
    with client(open_site(folder)) as browser:
        for address in ("/", "/keys.js", "/style.css", "/image/r1", "/nowhere"):
            headers = browser.get(address).headers
            assert headers["content-security-policy"].startswith("default-src 'none'; img-src 'self'; style-src 'self'")
            assert "unsafe" not in headers["content-security-policy"] and headers["cache-control"] == "no-store"
        page = browser.get("/").text
    assert not re.search(r"<style|<script>|\son\w+=|\sstyle=|https?:", page)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8090", 200),
        ("localhost:1", 200),
        ("[::1]:8090", 200),
        ("review.example", 200),
        ("evil.example:8090", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_a_name_that_is_not_ours_is_refused(folder: Path, host: str, status: int) -> None:
    assert client(open_site(folder)).get("/", headers={"host": host}).status_code == status


def test_a_token_lets_in_and_names_who_labels(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"# who\njonas {TOKEN} 5\n")
    site = open_site(folder, tokens=read_tokens(tmp_path / "tokens"))
    with client(site) as browser:
        for auth in (None, ("jonas", ""), ("jonas", TOKEN[:-1]), (TOKEN, "jonas")):
            answer = browser.get("/image/r1", auth=auth)
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Basic")
        for header in ("Basic", "Basic ???", f"Bearer {TOKEN}"):
            assert browser.get("/", headers={"authorization": header}).status_code == 401
        form = {"form_token": site.form_token, "record": "r1", "truth": "attack"}
        assert browser.post("/label", data=form).status_code == 401
        assert browser.post("/label", data=form, auth=("anything", TOKEN)).status_code == 303
    assert RecordReader(folder).labels()["r1"].by == "jonas"
