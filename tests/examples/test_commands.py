"""What is wrong with the words of an example or a benchmark is told in one line, before it costs anything."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import ten_classes
import torch
from PIL import Image

from detector.architectures import cifar10_net
from detector.errors import ClassifierSpecError, ConfigError, DataError, HeatwardError
from examples.cifar10 import classifier, generative, robust
from examples.cifar10.classifier import load_folder, load_net, save_net
from examples.commands import area, check_out, masks, positive, run, whole


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Ten classes of two images in `train` and `test`."""
    images = torch.randint(0, 256, (20, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    ten_classes.write(tmp_path, images, 2)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (whole, ["0", "3"], ["-1", "1.5", "x", ""]),
        (positive, ["1e-3", "4"], ["0", "-1", "nan", "inf", "x"]),
        (area, [".02", "0.25"], ["0", "-1", ".26", "nan", "x"]),
        (masks, ["4", "36"], ["0", "1", "-4", "15", "4.5", "x"]),
    ],
)
def test_a_number_is_what_it_is_said_to_be(kind: Callable[[str], float], right: list[str], wrong: list[str]) -> None:
    assert [kind(text) for text in right] == [float(text) for text in right]
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=r".+"):
            kind(text)


def test_a_command_ends_with_one_line_and_the_code_of_its_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    def ending(error: HeatwardError | None) -> int | str | None:
        def main() -> None:
            if error is not None:
                raise error

        with pytest.raises(SystemExit) as ended:
            run(main)
        return ended.value.code

    assert [ending(each) for each in (None, ConfigError("wrong"), DataError("none"))] == [0, 2, 1]
    assert capsys.readouterr().err == "error: wrong\nerror: none\n"


def test_what_cannot_be_written_is_told_before_it_is_made(tmp_path: Path, data: Path) -> None:
    for main in (classifier.main, robust.main, generative.main):
        with pytest.raises(ConfigError, match="is a folder: name a file in it"):
            main(["--data", str(data), "--out", str(tmp_path)])
    check_out(tmp_path / "new" / "file")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_without_the_images_that_are_asked_for_is_named(data: Path) -> None:
    assert len(load_folder(data / "train")[0]) == 20
    with pytest.raises(DataError, match=r"20 images in 10 class folders, none of them .*\[0:-2\] of each class"):
        load_folder(data / "train", last=-2)
    for main in (classifier.main, robust.main, generative.main):
        with pytest.raises(SystemExit, match="2"):
            main(["--data", str(data), "--held-out", "0"])
        with pytest.raises(DataError, match=r"image folder .*none/t.+ does not exist"):
            main(["--data", str(data / "none"), "--out", str(data / "out")])
    large = data / "train" / "large"
    large.mkdir()
    with pytest.raises(DataError, match="11 class folders, the net tells 10 classes apart"):
        load_folder(data / "train")
    large.rmdir()
    one = next((data / "train").rglob("*.png"))
    Image.new("RGB", (48, 40)).save(one)
    with pytest.raises(DataError, match="has 48×40 pixels, expected 32×32"):
        load_folder(data / "train")


@pytest.mark.parametrize("words", ["--small-epochs 0 --full-epochs 0", "--full-epochs 1"])
def test_a_training_that_would_learn_nothing_is_refused(data: Path, words: str) -> None:
    asked = ["--data", str(data), "--held-out", "1", "--out", str(data / "net"), *words.split()]
    for main, more in ((classifier.main, []), (robust.main, ["--widths", "4", "4", "4"])):
        with pytest.raises(ConfigError, match="nothing would be learnt"):
            main([*asked, *more])
    with pytest.raises(ConfigError, match="10 images in batches of 11: nothing would be learnt"):
        generative.main(["--data", str(data), "--held-out", "1", "--out", str(data / "net"), "--batch", "11"])
    assert not (data / "net").exists()


def test_weights_of_another_net_are_named_with_the_widths_that_were_expected(tmp_path: Path) -> None:
    save_net(cifar10_net((4, 4, 4)), tmp_path / "net.safetensors")
    with pytest.raises(ClassifierSpecError, match=r"net\.safetensors, read as a net of the widths 8 4 4, does not fit"):
        load_net(tmp_path / "net.safetensors", (8, 4, 4))
    with pytest.raises(ClassifierSpecError, match="There is no weights file"):
        load_net(tmp_path / "none.safetensors")
    with pytest.raises(ClassifierSpecError, match="does not fit the net"):
        generative._autoencoder(str(tmp_path / "net.safetensors"))
