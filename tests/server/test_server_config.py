from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from detector.errors import ConfigError
from server.cli import serve
from server.config import PREFIX, ServerConfig
from server.load import load_config
from server.surroundings import pass_over

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    ("written", "words"), [("a.b, c", ("a.b", "c")), (" a , b,", ("a", "b")), ("", ()), (' ["a", "b"]', ("a", "b"))]
)
def test_spaces_and_empty_places_are_no_part_of_a_list(
    written: str, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert load_config(["--trusted", written]).trusted == words
    monkeypatch.setenv("HEATWARD_SERVE_RECORD_LABELLERS", written)
    assert load_config([]).record_labellers == words
    file = tmp_path / "serve.toml"
    file.write_text(f"trusted = '{written}'")
    assert load_config(["--config", str(file)]).trusted == words


@pytest.mark.parametrize("name", ["upstream", "upstream-input", "upstream-output", "upstream-model"])
def test_an_empty_word_is_no_name(name: str):
    with pytest.raises(ConfigError, match=r"expected a name; null or nothing at all for none"):
        load_config([f"--{name}", " "])


def test_what_nests_too_deep_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "serve.toml"
    file.write_text("trusted = " + "[" * 9999 + "]" * 9999)
    with pytest.raises(ConfigError, match=r"serve\.toml nests too deep"):
        load_config(["--config", str(file)])
    monkeypatch.setenv("HEATWARD_SERVE_TRUSTED", "[" * 9999)
    with pytest.raises(ConfigError, match="expected words with commas"):
        load_config([])


def test_unknown_key_names_its_nearest_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match=r"'--max-bacth'; did you mean '--max-batch'"):
        load_config(["--max-bacth", "3"])
    file = tmp_path / "serve.toml"
    file.write_text("lingerms = 3\n")
    with pytest.raises(ConfigError, match=r"serve\.toml: unknown key 'lingerms'; did you mean 'linger_ms'"):
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


# ---- what is written wrongly is one short line ----------------------------------------------------------------------

FLOATS = [name for name, field in ServerConfig.model_fields.items() if "float" in str(field.annotation)]


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("name", FLOATS)
def test_every_number_is_finite(name: str, number: str):
    with pytest.raises(ConfigError, match=name):
        load_config([f"--{name.replace('_', '-')}={number}"])


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "abc", "port = 'abc': input should be a valid integer"),
        ("device", "gpu0", "device.0 = 'gpu0': expected auto, cpu, cuda"),
        ("threads", "9" * 12, "less than or equal to 4096"),
        ("upstream", "triton:8001", "upstream_model: upstream is set"),
        ("upstream", "http://triton:8001", "expected host:port"),
        ("upstream", "triton:73537", "at most 65535"),
        ("upstream", "triton: 8001", "expected host:port"),
        ("trusted", "[a", "trusted = '[a': expected words with commas between"),
        ("token-file", "", "token_file = '': expected a path"),
        ("tls-key", "-----BEGIN PRIVATE KEY-----\nMIIE", "tls_key: expected the path of a file"),
        ("otlp-endpoint", "ftp://me:secret@host", "otlp_endpoint = 'ftp://…@host'"),
        ("otlp-endpoint", "me:secret@host", "otlp_endpoint = '…@host'"),
        ("upstream", "me:secret@host:1", "upstream = '…@host:1': expected host:port"),
        ("tls-keyy", "secret", "unknown option '--tls-keyy'; did you mean '--tls-key'?"),
        ("max-batch", "x" * 10**6, "max_batch = 'xxx"),
        ("max-batch", "1\n\x1b[2K", "max_batch = '1\\n\\x1b[2K'"),
    ],
)
def test_a_wrong_value_is_named_on_one_short_line(name: str, value: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert serve([f"--{name}={value}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 400
    assert "MIIE" not in error and "secret" not in error and "value error" not in error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--bundle", "a.heatward"], "heatward serve BUNDLE"),
        (["a.heatward", "b.heatward"], "unexpected word 'b.heatward'"),
        (["--" + "y" * 10**6], "unknown option"),
        (["--config", "/nowhere.toml"], "/nowhere.toml: No such file"),
        (["--config", "/"], "configuration /: Is a directory"),
        (["--port"], "--port: expected one argument"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]):
    assert serve(argv) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and len(error) < 400


def test_a_long_or_boolean_value_in_the_file_is_refused_shortly(tmp_path: Path):
    file = tmp_path / "serve.toml"
    for text in ("port = true", f'"{"k" * 10**6}" = 1', f'port = "{"9" * 10**6}"', "port = 1\nport = 2"):
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            load_config(["--config", str(file)])
        assert len(str(caught.value)) < 600


def test_null_and_lists_can_be_written_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "serve.toml"
    file.write_text('metrics_port = "null"\n')
    assert load_config(["--config", str(file)]).metrics_port is None
    monkeypatch.setenv("HEATWARD_SERVE_TRUSTED", '["a", "b"]')
    assert load_config([]).trusted == ("a", "b")


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfport = 7\r\n", "port = 7\r\n".encode("utf-16"), b"port = 7"])
def test_a_byte_order_mark_is_no_part_of_the_file(content: bytes, tmp_path: Path):
    file = tmp_path / "serve.toml"
    file.write_bytes(content)
    assert load_config(["--config", str(file)]).port == 7


def test_variables_of_a_service_are_passed_over_and_typing_errors_are_not(monkeypatch: pytest.MonkeyPatch):
    for name, value in {
        "SERVICE_HOST": "10.0.0.7",
        "SERVICE_PORT": "50051",
        "PORT": "tcp://10.0.0.7:50051",
        "PORT_50051_TCP": "tcp://10.0.0.7:50051",
        "METRICS_PORT": "tcp://10.0.0.8:9090",
    }.items():
        monkeypatch.setenv(PREFIX + name, value)
    config = load_config([])
    assert (config.port, config.metrics_port) == (50051, 9090)
    monkeypatch.setenv("HEATWARD_SERVE_PORT", "50052")
    assert load_config([]).port == 50052
    monkeypatch.setenv("HEATWARD_SERVE_MAX_BTACH", "8")
    with pytest.raises(ConfigError, match="'max_btach'; did you mean 'max_batch'"):
        load_config([])


def test_what_is_passed_over_is_named_and_metrics_stay_in_memory():
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": "/nowhere",
        "HEATWARD_SERVE_PORT": "tcp://10.0.0.7:50051",
        "HEATWARD_SERVE_MAX_BATCH": "8",
    }
    assert pass_over(environment) == ["PROMETHEUS_MULTIPROC_DIR", "HEATWARD_SERVE_PORT"]
    assert "PROMETHEUS_MULTIPROC_DIR" not in environment


@pytest.mark.parametrize(("cpus", "expected"), [(1, "1 1"), (3, "2 3"), (64, "63 4")])
def test_threads_follow_what_the_container_may_use(cpus: int, expected: str):
    program = (
        f"from detector import cpus; cpus.available_cpus = lambda: {cpus}\n"
        "from server.config import ServerConfig; print(ServerConfig().threads, ServerConfig().decode_workers)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == expected, done.stderr
