"""What people write is understood, or refused with a message that helps."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from detector.errors import ConfigError
from forensics.explain import app
from training import cli
from training.config import AttackSpec, ClassifierConfig
from training.load import load_config
from training.settings import fraction

EXAMPLES = Path(__file__).parents[2] / "examples"
MINIMAL = """
[classifier]
source = "torchvision:resnet18"
input_size = [32, 32]
[images]
source = "images"
[fit]
epochs = 3
[[attacks]]
name = "FGSM"
label = "fgsm"
family = "one-step"
[[attacks]]
name = "Square"
label = "square"
family = "score-based"
train = false
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL)
    return path


SHIPPED = [*sorted(EXAMPLES.glob("*/config.toml")), *sorted(EXAMPLES.glob("cifar10/[dh]*.toml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_configurations_are_valid(path: Path) -> None:
    from training.attacks import check_attack

    config = load_config(path)
    for attack in config.attacks:
        check_attack(attack)
    asked = config.classifier.kind in ("onnx", "kserve")  # a minimum norm of the witness seldom fools the classifier
    wanted = {"one-step", "iterative", "score-based" if asked else "minimum-norm"}
    assert {attack.family for attack in config.attacks if attack.train} >= wanted
    assert asked or any(not attack.train for attack in config.attacks)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"batchsize": 3}, "'batchsize'; did you mean 'batch_size'?"),
        ({"images": {"sorce": "x"}}, "'images.sorce'; did you mean 'source'?"),
        ({"classifier": {"preprocessing": {"means": [0]}}}, "did you mean 'mean'?"),
        ({"evidence": {"candidate": 3}}, "did you mean 'candidates'?"),
        ({"fit": {"epoch": 3}}, "'fit.epoch'; did you mean 'epochs'?"),
    ],
)
def test_unknown_key_names_its_nearest(minimal: Path, overrides: dict[str, object], expected: str) -> None:
    with pytest.raises(ConfigError, match="unknown key") as caught:
        load_config(minimal, overrides)
    assert expected in str(caught.value)


def test_unknown_key_of_an_attack(minimal: Path) -> None:
    minimal.write_text(MINIMAL.replace("train = false", "trian = false"))
    with pytest.raises(ConfigError, match=r"attacks\.1\.trian.*did you mean 'train'"):
        load_config(minimal)


def test_flags_win_over_environment_over_file(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_config(minimal).fit.epochs == 3
    monkeypatch.setenv("HEATWARD_IMAGES__LIMIT", "20")
    monkeypatch.setenv("HEATWARD_SEED", "5")
    monkeypatch.setenv("HEATWARD_PORT", "8500")  # the server's; none of our business
    config = load_config(minimal)
    assert (config.images.limit, config.images.source, config.seed) == (20, "images", 5)
    assert load_config(minimal, {"seed": "7"}).seed == 7


def test_value_out_of_range_names_the_key(minimal: Path) -> None:
    with pytest.raises(ConfigError, match=r"batch_size = 0: .*greater than or equal to 1"):
        load_config(minimal, {"batch_size": 0})


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('label = "square"', 'label = "fgsm"'), "label 'fgsm' is used twice"),
        (('label = "square"', 'label = "twin-9"'), "reserved"),
        (('label = "square"', 'label = "../up"'), "label"),
        (('family = "one-step"', 'family = "one-step"\ntrain = false'), "no attack has train = true"),
        (('torchvision:resnet18"\ninput_size = [32, 32]', 'python:own:net"'), "give input_size = [height, width]"),
        (("[images]", "[images"), "is no TOML"),
    ],
)
def test_mistakes_are_refused(minimal: Path, change: tuple[str, str], expected: str) -> None:
    minimal.write_text(MINIMAL.replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_config(minimal)
    assert expected in str(caught.value)


def test_fractions() -> None:
    assert fraction("8/255") == 8 / 255
    assert fraction(" 0.5 ") == 0.5
    assert fraction("Linf") == "Linf"
    with pytest.raises(ValueError, match="zero"):
        fraction("1/0")


def test_unseen_attacks_are_made_for_the_test_split_only(minimal: Path) -> None:
    config = load_config(minimal, {"twins": {"sizes": ["2/255", "0.5/255"]}})
    assert config.labels("fit") == ("clean", "twin-2", "twin-0.5", "fgsm")
    assert config.labels("calibrate") == ("clean",)
    assert config.labels("test") == ("clean", "twin-2", "twin-0.5", "fgsm", "square")
    assert config.families == ("clean", "one-step")
    assert config.family_of("twin-2") == "clean"
    assert config.family_of("square") == "score-based"


def test_threads_follow_what_the_container_may_use(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("training.config", "forensics.explain.app"):
        monkeypatch.setattr(f"{module}.available_cpus", lambda: 3)
    assert load_config(minimal).thread_count == 3
    assert load_config(minimal, {"threads": 5}).thread_count == 5
    assert app._parse(["a.png"]).threads == 3


def test_limits_may_differ_by_split() -> None:
    attack = AttackSpec(name="FGSM", label="a", family="b", limit={"fit": 10})
    assert (attack.limit_of("fit"), attack.limit_of("test")) == (10, None)


def test_command_line_explains_itself(minimal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.train(["--config", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: No such file" in capsys.readouterr().err
    assert cli.train(["--config", str(minimal), "--set", "fitt.epochs=1"]) == 2
    assert "did you mean 'fit'" in capsys.readouterr().err
    assert cli.train(["--config", str(minimal), "--set", "fit"]) == 2
    assert "KEY=VALUE" in capsys.readouterr().err
    assert cli.train(["--config", str(minimal), "--threads", "1", "--images", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_file(minimal: Path, encoding: str) -> None:
    labels = minimal.parent / "labels.txt"
    labels.write_bytes("cat\r\ndog\r\n".encode(encoding))
    text = MINIMAL.replace("input_size", f'labels = "{labels}"\ninput_size').replace("\n", "\r\n")
    minimal.write_bytes(text.encode(encoding))
    assert load_config(minimal).classifier.class_names() == ("cat", "dog")


def test_a_long_value_is_not_repeated(minimal: Path) -> None:
    minimal.write_text(f'seed = "{"x" * 10**6}"\n{MINIMAL}')
    with pytest.raises(ConfigError, match="seed") as caught:
        load_config(minimal)
    assert len(str(caught.value)) < 600


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        load_config(tmp_path)


def test_variables_of_a_service_are_passed_over(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "HEATWARD_FIT__X_SERVICE_HOST": "10.0.0.7",  # of a Service called heatward-fit--x
        "HEATWARD_FIT__X_PORT": "tcp://10.0.0.7:80",
        "HEATWARD_PORT": "tcp://10.0.0.8:80",
        "HEATWARD_FIT__EPOCHS": "7",
    }.items():
        monkeypatch.setenv(name, value)
    assert load_config(minimal).fit.epochs == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[twins]\nsizes = [nan]", "twins.sizes.0 = nan: input should be a finite number"),
        ("[twins]\nsizes = [0]", "twins.sizes.0 = 0: input should be greater than 0"),
        ('[twins]\nsizes = ["8/255", 0.0313726]', "twins.sizes: every size must be another one"),
        ("[evidence.views]\nnoise = [inf]", "evidence.views.noise.0 = inf: input should be a finite number"),
        ("[evidence.views]\nrescale = [0]", "evidence.views.rescale.0 = 0: input should be greater than 0"),
        ("[images.splits]\ntest = nan", "images.splits.test = nan: input should be a finite number"),
        ("[fit]\ntoken = 10\nheads = 4", "fit: token must be a multiple of heads, got 10 and 4"),
        ("[fit]\nlearning_rate = inf", "fit.learning_rate = inf: input should be a finite number"),
    ],
)
def test_numbers_without_sense_are_refused_before_hours_are_spent(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL.replace("[fit]\nepochs = 3", text))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(path)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("limit = -1", "attacks.0.limit = -1: input should be greater than or equal to 1"),
        ("limit = { fit = -5 }", "attacks.0.limit.fit = -5: input should be greater than or equal to 1"),
        ("parameters = { eps = nan }", "attacks.0.parameters.eps = nan: input should be a finite number"),
        (
            "parameters = { eps = { uniform = [0.1, inf] } }",
            "attacks.0.parameters.eps.uniform.1 = inf: input should be a finite number",
        ),
    ],
)
def test_numbers_of_an_attack_without_sense_are_refused(minimal: Path, attack: str, expected: str) -> None:
    minimal.write_text(MINIMAL.replace('family = "one-step"', f'family = "one-step"\n{attack}'))
    with pytest.raises(ConfigError, match=re.escape(expected)):
        load_config(minimal)


@pytest.mark.parametrize("key", ["work", "out"])
def test_an_empty_path_is_not_the_current_folder(minimal: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} = '': expected a path"):
        load_config(minimal, {key: ""})


def test_a_configuration_that_nests_too_deep_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("seed = " + "[" * 9999 + "]" * 9999)
    with pytest.raises(ConfigError, match="nests too deep"):
        load_config(path)


def test_what_the_page_of_classifiers_shows_can_be_written() -> None:
    page = (EXAMPLES.parent / "docs/classifiers.md").read_text(encoding="utf-8")
    shown = [tomllib.loads(block.split("```")[0]) for block in page.split("```toml")[1:]]
    assert len(shown) >= 4
    for each in shown:
        ClassifierConfig.model_validate({"source": "timm:resnet18", **each["classifier"]})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SEDE", "unknown key 'sede'; did you mean 'seed'? in the environment (HEATWARD_SEDE)"),
        ("FITT__EPOCHS", "unknown key 'fitt'; did you mean 'fit'? in the environment (HEATWARD_FITT__EPOCHS)"),
        ("FIT__EPOCS", "unknown key 'fit.epocs'; did you mean 'epochs'?"),
        ("SEED", "seed = 'x': input should be a valid integer"),
    ],
)
def test_a_wrong_variable_is_told_and_not_the_file_blamed(
    minimal: Path, name: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    minimal.write_text(f"seed = 4\n{MINIMAL}")
    monkeypatch.setenv(f"HEATWARD_{name}", "x")
    with pytest.raises(ConfigError) as caught:
        load_config(minimal)
    assert told in str(caught.value) and "toml" not in str(caught.value)


def test_variables_of_others_are_passed_over(minimal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMAGE", "TOKEN", "SERVE_THREADS", "REDTEAM_SEED", "VERSION", "PATH", "WORKERS", "WORKDIR"):
        monkeypatch.setenv(f"HEATWARD_{name}", "x")
    assert load_config(minimal).fit.epochs == 3


@pytest.mark.parametrize(("name", "told"), [("ATTACKS", "ATTACKS"), ("FIT__SCORE", "FIT")])
def test_a_variable_that_is_no_json_is_named(name: str, told: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"HEATWARD_{name}", "PGD")
    with pytest.raises(ConfigError, match=rf"environment variable HEATWARD_{told}\b.*expected JSON"):
        load_config(None)
