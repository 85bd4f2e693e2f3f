"""Weights by file or by torchvision name → **a state dict**, out of whatever a checkpoint keeps beside it.

Never unpickles: safetensors, or `torch.load(weights_only=True)`. `state_dict.py` brings it into a net.
"""

from __future__ import annotations

import argparse
import logging
import pathlib
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from detector.errors import ClassifierSpecError
from detector.text import first_line, nearest

__all__ = ["halve_where_lossless", "is_weights_file", "published", "read_weights", "torchvision_weights"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "module", "params", "weights")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
STATE_DICT = b"X\x0a\x00\x00\x00state_dict"
"""A key of this name as torch.save writes it (opcode BINUNICODE, length, text)."""
_DEPTH = 3  # {"ema": {"model": {"state_dict": …}}}

_HARMLESS: list[Any] = [
    *(argparse.Namespace, pathlib.PosixPath),  # a script's arguments
    *(
        (np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ),  # a best accuracy
    *(np.dtype, *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool"))),
]
"""What may stand beside weights in a checkpoint: values that run nothing when they are made."""

_MISTAKEN = {
    b"version https://git-lfs": "it is what Git LFS keeps in the place of a file: fetch the file, git lfs pull.",
    b"<": "it is a web page: download the file itself.",
    b"\x89HDF": "it is an HDF5 file, as of Keras, and no PyTorch weights.",
}
"""Files that people take for weights, by their first bytes."""

_log = logging.getLogger("heatward")


def is_weights_file(weights: str) -> bool:
    """Whether `weights` names a file (by its suffix) and not a torchvision enum member."""
    return _file_and_entry(weights)[0].suffix.lower() in _SUFFIXES


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from *.safetensors, *.pt, *.pth, *.pth.tar, *.ckpt or *.bin, whichever of them the content is.

    Of a checkpoint that wraps it in "state_dict" or "model", perhaps beside an averaged one ("state_dict_ema"), the
    plain one is taken, and the log says so; "FILE#state_dict_ema" takes another.

    Raises:
        ClassifierSpecError: No such file, or it holds no state dict, or it would need unpickling.
    """
    file, entry = _file_and_entry(str(path))
    if not file.is_file():
        raise ClassifierSpecError(f"There is no weights file {file}.")
    try:
        if _is_safetensors(file):
            content: Any = safetensors.torch.load_file(file)
        else:
            with torch.serialization.safe_globals(_HARMLESS):
                content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds on a damaged file
        raise ClassifierSpecError(
            f"The weights file {file} cannot be read ({_said(error)}): {_way_out(file)}"
        ) from error
    return dict(_chosen(content, file, entry))


def halve_where_lossless(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors whose every value is a half-precision number become half precision: half the size, same net."""
    return {
        name: tensor.half() if tensor.dtype == torch.float32 and torch.equal(tensor.half().float(), tensor) else tensor
        for name, tensor in state_dict.items()
    }


def published(architecture: str, name: str) -> Any:
    """The member of torchvision's enumeration of weights that has this name.

    Raises:
        ClassifierSpecError: torchvision has no such weights.
    """
    import torchvision

    members = torchvision.models.get_model_weights(architecture).__members__
    if name not in members:
        raise ClassifierSpecError(
            f"torchvision has no weights {name!r} for {architecture}: it has {', '.join(members) or 'none'}; "
            f"or give a file ending in {', '.join(_SUFFIXES)}."
        )
    return members[name]


def torchvision_weights(architecture: str, name: str) -> dict[str, Tensor]:
    """Download (or take from torch's cache) the weights that torchvision publishes under `name`.

    Raises:
        ClassifierSpecError: torchvision has no such weights, or they cannot be fetched here.
    """
    member = published(architecture, name)
    try:
        state_dict: dict[str, Tensor] = member.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or the hash differs
        raise ClassifierSpecError(
            f"The weights {architecture} {name} could not be fetched ({_said(error)}): "
            f"download {member.url} elsewhere and give the file as `weights`."
        ) from error
    return state_dict


def _file_and_entry(weights: str) -> tuple[Path, str]:
    file, mark, entry = weights.rpartition("#")
    return (Path(weights), "") if not mark or Path(weights).is_file() else (Path(file), entry)


def _chosen(content: Any, file: Path, entry: str) -> dict[str, Tensor]:
    """One state dict of a file's content."""
    found = dict(_state_dicts(content))
    if not found and (found := dict(_state_dicts(content, mixed=True))):
        _log.warning("%s: what is no tensor stays out of its state dict", file)
    if entry:
        under = ({key: value for key, value in each.items() if key.startswith(entry)} for each in found.values())
        chosen = found.get(entry) or next(filter(None, under), None)
        if chosen is None:
            known = ", ".join(repr(name) for name in found if name) or "one state dict, without a name"
            raise ClassifierSpecError(
                f"The weights file {file} has no state dict {entry!r}{nearest(entry, found)} (it holds {known})."
            )
        return chosen
    if not found:
        raise ClassifierSpecError(
            f"The weights file {file} holds no state dict (names → tensors): save net.state_dict()."
        )
    named = [name for name in ("", *_PLAIN) if name in found]
    others = [name for name in found if name not in named and not _is_averaged(name)]
    averaged = [name for name in (*_AVERAGED, *found) if name in found and _is_averaged(name)]
    if not named and len(others) > 1:
        raise ClassifierSpecError(
            f"The weights file {file} holds several state dicts ({', '.join(others)}): choose one, "
            f'weights = "{file}#{others[0]}".'
        )
    taken = (named or others or averaged)[0]
    if len(found) > 1:
        left = ", ".join(f"'{name}'" for name in found if name != taken)
        _log.warning(
            '%s: the weights are those of %r, not of %s (weights = "FILE#NAME" takes another)', file, taken, left
        )
    return found[taken]


def _state_dicts(
    content: Any, name: str = "", depth: int = _DEPTH, *, mixed: bool = False
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, by its place, "" for the whole; not what an optimiser keeps by number.

    mixed: Others may stand between the tensors, as the number of an epoch.
    """
    if not isinstance(content, dict) or not content or not all(isinstance(key, str) for key in content):
        return
    tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) == len(content) or (mixed and tensors):
        yield name, tensors
    elif depth:
        for key, value in content.items():
            yield from _state_dicts(value, f"{name}.{key}" if name else key, depth - 1, mixed=mixed)


def _is_safetensors(file: Path) -> bool:
    begin = _begin(file)
    return begin[8:9] == b"{" or (file.suffix.lower() == ".safetensors" and not begin.startswith(b"PK"))


def _begin(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(32)


def _is_averaged(name: str) -> bool:
    return "ema" in name.lower().replace(".", "_").split("_") or "averaged" in name.lower()


def _way_out(file: Path) -> str:
    """How to come from a file that cannot be read to one that can."""
    plain = (
        "give a state dict, saved with safetensors.torch.save_file(net.state_dict(), ...) or "
        "torch.save(net.state_dict(), ...)."
    )
    begin = _begin(file)
    if not begin:
        return "it is empty: copy it again."
    mistaken = [told for bytes_, told in _MISTAKEN.items() if begin.lstrip().startswith(bytes_)]
    if mistaken:
        return mistaken[0]
    if _is_safetensors(file):
        return f"{plain} It may have been copied in part: copy it again."
    try:
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                return f'it is a TorchScript program: give it as source = "torchscript:{file}".'
            pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # damaged
        return plain
    if not classes:
        return plain
    classes.sort(key=lambda name: (name.startswith(("torch.", "collections.", "builtins.")), name))  # the user's first
    what = f"It holds objects of {', '.join(classes[:3])}{', …' if len(classes) > 3 else ''}, which heatward never "
    if STATE_DICT in pickled:
        return (
            f"{what}unpickles. Where you trust it, and with its code at hand, take the state dict out once: "
            'torch.save(torch.load(FILE, map_location="cpu", weights_only=False)["state_dict"], NEW).'
        )
    if all(name.startswith("numpy.") for name in classes):
        return (
            f"{what}unpickles. Where you trust it, make tensors of its arrays once: torch.save({{name: "
            "torch.as_tensor(value) for name, value in torch.load(FILE, weights_only=False).items()}, NEW)."
        )
    if _is_dictionary(pickled):
        return (
            f"{what}unpickles, as a whole net does. Where you trust it, and with its code at hand, save the state dict "
            'of its entry once, as of "model": torch.save(torch.load(FILE, map_location="cpu", weights_only=False)'
            '["model"].state_dict(), NEW).'
        )
    return (
        f"{what}unpickles, as a whole net does. Where you trust it, and with its code at hand, save its state dict "
        'once: torch.save(torch.load(FILE, map_location="cpu", weights_only=False).state_dict(), NEW).'
    )


def _is_dictionary(pickled: bytes) -> bool:
    """Whether it is one that lies there, read from the names of operations alone."""
    return next(code.name for code, _, _ in pickletools.genops(pickled) if code.name not in ("PROTO", "FRAME")) == (
        "EMPTY_DICT"
    )


def _said(error: Exception) -> str:
    line = first_line(error)
    for more in ("This file can still be loaded", "In PyTorch 2.6"):  # by unpickling, torch goes on
        line = line.partition(more)[0]
    return line.strip()
