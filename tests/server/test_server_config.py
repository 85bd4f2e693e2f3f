from __future__ import annotations

from pathlib import Path

import pytest

from detector.errors import ConfigError
from server.cli import serve
from server.load import load_config


def test_command_line_wins_over_environment_over_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "serve.toml"
    file.write_text('port = 1\nmax_batch = 2\nthreads = 3\nbundle = "a.heatward"\nimage_formats = ["PNG"]\n')
    monkeypatch.setenv("HEATWARD_SERVE_MAX_BATCH", "20")
    monkeypatch.setenv("HEATWARD_SERVE_THREADS", "30")
    config = load_config(["--config", str(file), "--threads", "300"])
    assert (config.port, config.max_batch, config.threads) == (1, 20, 300)
    assert config.bundle == Path("a.heatward")
    assert config.image_formats == ("PNG",)


def test_defaults_are_safe():
    config = load_config([])
    assert config.host == "127.0.0.1"
    assert config.bundle is None
    assert config.linger_ms == 0


@pytest.mark.parametrize("value", ["JPEG,PNG"])
def test_lists_are_written_with_commas(value: str, monkeypatch: pytest.MonkeyPatch):
    assert load_config(["--image-formats", value]).image_formats == ("JPEG", "PNG")
    monkeypatch.setenv("HEATWARD_SERVE_IMAGE_FORMATS", value)
    monkeypatch.setenv("HEATWARD_SERVE_METRICS_PORT", "null")
    config = load_config([])
    assert config.image_formats == ("JPEG", "PNG")
    assert config.metrics_port is None


def test_unknown_key_names_its_nearest_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"'--max-bacth'; did you mean '--max-batch'"):
        load_config(["--max-bacth", "3"])
    file = tmp_path / "serve.toml"
    file.write_text("lingerms = 3\n")
    with pytest.raises(ConfigError, match=r"'lingerms'; did you mean 'linger_ms'.*serve\.toml"):
        load_config(["--config", str(file)])
    monkeypatch.setenv("HEATWARD_SERVE_THREAD", "3")
    with pytest.raises(ConfigError, match=r"'thread'; did you mean 'threads'.*environment"):
        load_config([])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("port", "70000"), ("false-positive-rate", "1"), ("device", "tpu"), ("image-formats", "BMP"), ("max-batch", "x")],
)
def test_value_out_of_range_names_the_key(argument: str, value: str):
    with pytest.raises(ConfigError, match=argument.replace("-", ".")):
        load_config([f"--{argument}", value])


def test_a_wrong_command_line_exits_2_with_one_line(capsys: pytest.CaptureFixture[str]):
    assert serve(["--prot", "1"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("heatward serve: ") and error.count("\n") == 1
