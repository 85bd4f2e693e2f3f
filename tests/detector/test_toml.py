"""A configuration that extends another: what is named wins, all else stays."""

from pathlib import Path

import pytest

from detector.errors import ConfigError
from detector.toml import read_toml
from training.load import load_config

BASE = """
work = "work/base"
[fit]
epochs = 12
width = 64
[[attacks]]
label = "pgd"
name = "PGD"
parameters = { eps = "8/255", steps = 10 }
[[attacks]]
label = "cw"
name = "CW"
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "recipes" / "base.toml"
    path.parent.mkdir()
    path.write_text(BASE)
    return path


def test_tables_merge_and_labels_are_one_entry(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'extend = "recipes/base.toml"\n[fit]\nepochs = 6\n'
        '[[attacks]]\nlabel = "new"\nname = "FGSM"\n'
        '[[attacks]]\nlabel = "pgd"\nparameters = { steps = 40 }\n'
    )
    assert read_toml(path) == {
        "work": "work/base",
        "fit": {"epochs": 6, "width": 64},
        "attacks": [
            {"label": "pgd", "name": "PGD", "parameters": {"eps": "8/255", "steps": 40}},
            {"label": "cw", "name": "CW"},
            {"label": "new", "name": "FGSM"},
        ],
    }


def test_an_extended_file_extends_another_beside_itself(base: Path, tmp_path: Path) -> None:
    (base.parent / "middle.toml").write_text('extend = "base.toml"\nseed = 1\n')
    path = tmp_path / "mine.toml"
    path.write_text('extend = "recipes/middle.toml"\nwork = "work/mine"\n')
    content = read_toml(path)
    assert (content["work"], content["seed"], content["fit"]["width"]) == ("work/mine", 1, 64)


def test_an_empty_list_begins_anew(base: Path) -> None:
    path = base.with_name("mine.toml")
    path.write_text('attacks = []\nextend = "base.toml"\n')
    assert read_toml(path)["attacks"] == []


def test_a_label_given_twice_stays_twice(base: Path) -> None:
    path = base.with_name("mine.toml")
    path.write_text('extend = "base.toml"\n' + '[[attacks]]\nlabel = "new"\n' * 2)
    assert [each["label"] for each in read_toml(path)["attacks"]] == ["pgd", "cw", "new", "new"]


@pytest.mark.parametrize(
    "content", ["extend = 3\n", 'extend = ["base.toml"]\n', 'extend = ""\n', 'extend = "a\\u0000b"\n']
)
def test_extend_is_a_path(base: Path, content: str) -> None:
    path = base.with_name("mine.toml")
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.toml: extend: expected the path of a TOML file"):
        read_toml(path)


def test_what_is_changed_twice_is_refused(base: Path) -> None:
    path = base.with_name("mine.toml")
    path.write_text('extend = "base.toml"\n' + '[[attacks]]\nlabel = "cw"\n' * 2)
    with pytest.raises(ConfigError, match=r"mine\.toml: label 'cw' is used twice"):
        read_toml(path)


def test_another_way_to_draw_a_number_replaces_the_one_below(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("[parameters]\nalpha = { of_eps = 0.25 }\nsteps = { choice = [2, 3] }\n")
    path = tmp_path / "mine.toml"
    path.write_text('extend = "base.toml"\n[parameters]\nalpha = { uniform = [0.1, 0.2] }\n')
    assert read_toml(path)["parameters"] == {"alpha": {"uniform": [0.1, 0.2]}, "steps": {"choice": [2, 3]}}


def test_a_chain_without_end_is_refused(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number}.toml").write_text(f'extend = "{number + 1}.toml"\n')
    with pytest.raises(ConfigError, match=r"64\.toml: extend: it is extended through 64 files"):
        read_toml(tmp_path / "0.toml")


def test_a_circle_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extend = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extend = "a.toml"\n')
    with pytest.raises(ConfigError, match=r"a\.toml extends itself"):
        read_toml(tmp_path / "a.toml")


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extend = "gone.toml"\n')
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml, which .*mine\.toml extends: No such file"):
        read_toml(path)


def test_the_embedded_recipe_can_be_extended(tmp_path: Path) -> None:
    recipe = Path("examples/cifar10/delivered.toml").resolve()
    path = tmp_path / "mine.toml"
    path.write_text(f'extend = "{recipe}"\nseed = 7\n[[attacks]]\nlabel = "transfer-8"\nlimit = 512\n')
    ours, theirs = load_config(path), load_config(recipe)
    assert ours.seed == 7
    assert [each.label for each in ours.attacks] == [each.label for each in theirs.attacks]
    assert (
        next(each for each in ours.attacks if each.label == "transfer-8").limit
        != next(each for each in theirs.attacks if each.label == "transfer-8").limit
    )
