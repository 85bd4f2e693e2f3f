"""A start that fails names its cause and the setting, on one line; its exit status is that of docs/serving.md."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
from fake_detector import FakeDetector
from test_real_detector import bundle, config_for  # noqa: F401  # a fixture

from detector.errors import CalibrationError, ClassifierSpecError, ConfigError
from server.app import App, load_detector, serve
from server.config import ServerConfig
from server.observers import metrics

ROOT = Path(__file__).parents[2]


def never(path: Path, device: str) -> FakeDetector:
    raise AssertionError("nothing is loaded before the settings are right")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token_file": "nowhere"}, "token_file: cannot read nowhere: No such file or directory"),
        ({"token_file": "/"}, "token_file: cannot read /: Is a directory"),
        ({"tls_certificate": "nowhere", "tls_key": "nowhere"}, "tls_certificate: cannot read nowhere"),
        ({"tls_key": "nowhere"}, "tls_certificate: required where there is tls_key = nowhere"),
        ({"tls_key": "A0b1" * 20}, "tls_certificate: required where there is tls_key = the file that it names"),
        ({"device": ("cuda:77",)}, "device = 'cuda:77': this machine has cpu"),
        ({"upstream": "a:1", "upstream_model": "m", "upstream_ca": "/"}, "upstream_ca: cannot read /: Is a directory"),
        (
            {"upstream": "a:1", "upstream_model": "m", "upstream_ca": __file__},
            "test_startup.py holds no certificate in PEM",
        ),
    ],
)
async def test_a_file_or_device_that_a_setting_names_wrongly_exits_2(
    settings: dict[str, Any], said: str, caplog: pytest.LogCaptureFixture
):
    assert await serve(ServerConfig(port=0, metrics_port=None, threads=1, **settings), never) == 2
    (record,) = [each for each in caplog.records if each.levelname == "ERROR"]
    assert said in record.getMessage() and not record.exc_info


def test_code_that_is_not_trusted_is_named_with_the_option(bundle: Path):  # noqa: F811
    with pytest.raises(ClassifierSpecError, match=r"python:tiny:net.* --trusted tiny .*trusted = \[\"tiny\"\]"):
        load_detector(config_for(bundle, trusted=()), bundle, "cpu")
    assert tiny.SPEC.source == "python:tiny:net"


async def test_a_rate_that_cannot_be_promised_is_named_by_its_setting(bundle: Path):  # noqa: F811
    config = config_for(bundle).model_copy(update={"false_positive_rate": 1e-6})
    app = App(config, lambda path, device: load_detector(config, path, device))
    try:
        await app.listen()
        with pytest.raises(CalibrationError, match=r"^false_positive_rate = 1e-06 cannot be promised"):
            await app.begin()
    finally:
        await app.close()


def test_a_folder_of_prometheus_that_is_missing_does_not_end_the_server():
    program = "import sys; from server.cli import serve; sys.exit(serve(['/nowhere.heatward', *sys.argv[1:]]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--port", "0", "--metrics-port", "null", "--threads", "1"],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", "PROMETHEUS_MULTIPROC_DIR": "/nowhere", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1 and "There is no bundle /nowhere.heatward" in lines[-1]["message"]
    assert lines[0]["variables"] == ["PROMETHEUS_MULTIPROC_DIR"]


async def test_where_prometheus_was_imported_before_the_variable_is_named(monkeypatch: pytest.MonkeyPatch):
    def fails(*given: object, **named: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    monkeypatch.setattr(metrics, "Counter", fails)
    with pytest.raises(ConfigError, match=r"PROMETHEUS_MULTIPROC_DIR = '/nowhere' .*: unset it"):
        App(ServerConfig(port=0, metrics_port=None), never)


async def test_work_beside_the_loop_follows_what_the_container_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("server.app.available_cpus", lambda: 2)
    with pytest.raises(OSError, match="no address"):
        await serve(ServerConfig(host="192.0.2.1", port=0, metrics_port=None), never)
    loop: Any = asyncio.get_running_loop()
    assert loop._default_executor._max_workers == 6
