"""What a job tells MLflow: a run, and the champion of a registry; a server in trouble costs no run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from notes import Notes
from tiny_job import configure, write_source
from tiny_store import NEVER, make_store, words

from detector.bundle import load_bundle
from forensics.report import app
from training import pipeline, tracking
from training.progress import SilentProgress
from training.retraining import cli
from training.tracking import ALIAS, DIGEST, Run, point_alias, send


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of a local MLflow: a database, and a folder for files."""
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow-skinny needs sqlalchemy and alembic for a database")
    pytest.importorskip("alembic", reason="mlflow-skinny needs sqlalchemy and alembic for a database")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return tracking._client()


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_retraining_is_a_run_and_its_champion_a_version_with_the_alias(
    client: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_source(tmp_path / "source")
    pipeline.run(configure(source, tmp_path), SilentProgress())
    store = make_store(tmp_path, tmp_path, NEVER)
    assert app.retrain(words(source, tmp_path, "--json", "--mlflow", "shop")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["mlflow"] == {"experiment": "shop", "run_id": told["mlflow"]["run_id"], "version": "1", "failed": 0}
    run = client.get_run(told["mlflow"]["run_id"])
    assert run.info.status == "FINISHED" and run.info.run_name == "heatward retrain"
    assert run.data.params["fit.epochs"] == "2" and run.data.params["attacks.pgd.name"] == "PGD"
    assert run.data.metrics["promoted"] == 1 and 0 <= run.data.metrics["rows/pgd/challenger"] <= 1
    kept = {each.path for folder in ("report", "bundle") for each in client.list_artifacts(run.info.run_id, folder)}
    name = told["champion"]["bundle"]
    assert kept == {"report/comparison.html", "report/comparison.json", f"bundle/{name}"}
    first = client.get_model_version_by_alias("shop", ALIAS)
    assert first.tags[DIGEST] == told["champion"]["digest"] and first.run_id == run.info.run_id

    other = replace(load_bundle(store.path(store.champion())))
    other = replace(other, manifest=other.manifest.model_copy(update={"provenance": {"made": "by hand"}}))
    second = store.promote(other, "promoted", "a test", store.champion())
    sent = send("shop", Run("retrain", bundle=store.path(second), digest=second.digest, champion=True), Notes())
    assert (sent.version, sent.failed) == ("2", 0)
    capsys.readouterr()
    assert cli.rollback([str(store.folder), "--to", name, "--json", "--mlflow", "shop"]) == 0
    assert json.loads(capsys.readouterr().out)["mlflow"]["version"] == "1"
    assert client.get_model_version_by_alias("shop", ALIAS).version == first.version
    notes = Notes()
    assert point_alias("shop", "0" * 64, notes).failed == 1
    assert "no version of shop has the tag" in notes.notes[0]


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_is_down_is_said_and_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for uri in ("http://user:secret@127.0.0.1:9", "strange://server"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        notes = Notes()
        sent = send("shop", Run("train", {"seed": 1}), notes)
        assert (sent.run_id, sent.failed) == (None, 1)
        assert len(notes.notes) == 1 and notes.notes[0].startswith("warning: mlflow: ")
        assert "secret" not in notes.notes[0]


@pytest.mark.filterwarnings("ignore")
def test_what_the_server_does_not_take_is_counted_and_the_rest_arrives(client: Any, tmp_path: Path) -> None:
    notes = Notes()
    (tmp_path / "there.json").write_text("{}")
    run = Run("train", {"a": 1}, {"b": 0.5, "none": None}, (tmp_path / "gone.html", tmp_path / "there.json"))
    sent = send("shop", run, notes)
    assert sent.failed == 1 and "gone.html: not logged" in notes.notes[0]
    found = client.get_run(sent.run_id)
    assert found.info.status == "FAILED" and found.data.params == {"a": "1"} and found.data.metrics == {"b": 0.5}
    assert [each.path for each in client.list_artifacts(sent.run_id, "report")] == ["report/there.json"]


def test_settings_lose_secrets_and_lists_go_by_label() -> None:
    settings = {"images": {"source": "s3://me:secret@shop/photos?key=1", "fit_sources": ["s3://you:secret@x/y"]}}
    assert dict(tracking._texts(settings)) == {
        "images.source": "s3://shop/photos", "images.fit_sources": "['s3://x/y']"
    }  # fmt: skip
    told = {"rows": [{"label": "pgd", "tpr": {"0.01": {"value": 0.5, "low": None}}}, {"label": "new?", "n": 3}]}
    assert dict(tracking._numbers(told)) == {"rows/pgd/tpr/0.01/value": 0.5, "rows/new_/n": 3.0}


def test_without_mlflow_nothing_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.rollback([str(tmp_path), "--mlflow", "shop"]) == 2
    assert "mlflow is not installed: pip install 'heatward[mlflow]'" in capsys.readouterr().err
