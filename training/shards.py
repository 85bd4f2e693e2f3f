"""Shards: the unit of work and of resume. Tensors in, one safetensors file out, whole or not at all.

A shard lies at `work/<stage>/<split>/<label>/00000.safetensors` and carries, in its header, the digest of everything
that decides its bytes (settings, seed, sources, the shard it was made from). A shard is finished if the file is there
and its digest is the expected one: a killed run goes on where it stopped, and changed settings redo what they touch
and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, load_file, save
from torch import Tensor

from detector.errors import DataError
from detector.files import TEMPORARY, is_temporary, write_file

__all__ = [
    "derived_seed",
    "digest",
    "digest_of",
    "folder",
    "from_bytes",
    "list_shards",
    "read_columns",
    "read_shard",
    "remove_temporary",
    "rows_of",
    "seed_everything",
    "shard_path",
    "to_bytes",
    "write_json",
    "write_shard",
]

# safetensors keeps its header's metadata in an unordered map: one key alone gives the same bytes every time
DIGEST_KEY = "heatward-digest"


def digest(value: Any) -> str:
    """sha256 of a JSON-like value; dictionaries are compared by content, not by order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(seed: int, *parts: str | int) -> int:
    """A 32-bit seed for one piece of work, e.g. `derived_seed(seed, "attack", "fit", "pgd-8", 3)`."""
    return int(digest([seed, *parts])[:8], 16)


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), numpy and `random`: torchattacks draws from all three."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def folder(work: Path, stage: str, split: str, label: str) -> Path:
    """Where the shards of one label lie."""
    return work / stage / split / label


def shard_path(work: Path, stage: str, split: str, label: str, number: int) -> Path:
    """Where one shard lies."""
    return folder(work, stage, split, label) / f"{number:05d}.safetensors"


def list_shards(work: Path, stage: str, split: str, label: str) -> list[Path]:
    """The shards of one label in order.

    Raises:
        DataError: There are none.
    """
    paths = sorted(folder(work, stage, split, label).glob("[0-9]*.safetensors"))
    if not paths:
        raise DataError(
            f"no {stage} shards in {folder(work, stage, split, label)}: run `heatward train {stage}` with the same "
            "configuration first"
        )
    return paths


def digest_of(path: Path) -> str | None:
    """The digest a shard carries; None when there is no such file or it cannot be read."""
    try:
        with safe_open(str(path), "pt") as shard:
            return (shard.metadata() or {}).get(DIGEST_KEY)
    except (OSError, SafetensorError):
        return None


def to_bytes(tensors: Mapping[str, Tensor], made_from: str = "") -> bytes:
    """A shard's bytes; `made_from` is its digest."""
    # copies: safetensors refuses tensors that share memory
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    return save(copies, metadata={DIGEST_KEY: made_from})


def from_bytes(data: bytes) -> dict[str, Tensor]:
    """The tensors of what `to_bytes` made."""
    return load(data)


def write_shard(path: Path, tensors: Mapping[str, Tensor], made_from: str) -> None:
    """Write a shard atomically; `made_from` is its digest."""
    write_file(path, to_bytes(tensors, made_from))


def read_shard(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard.

    Raises:
        DataError: The file is missing or is not a safetensors file.
    """
    try:
        tensors: dict[str, Tensor] = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return tensors


def read_columns(path: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """Some tensors of a shard; the others stay on disk.

    Raises:
        DataError: The file is missing, is not a safetensors file or has no such tensor.
    """
    try:
        with safe_open(str(path), "pt") as shard:
            return {name: shard.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def rows_of(path: Path) -> int:
    """How many rows a shard has: its header knows.

    Raises:
        DataError: The file is missing or is no shard of images.
    """
    try:
        with safe_open(str(path), "pt") as shard:
            return int(shard.get_slice("origin").get_shape()[0])
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: cannot be read as a shard ({error}); delete it and run its stage again")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, keys sorted."""
    write_file(path, (json.dumps(value, indent=2, sort_keys=True, default=str) + "\n").encode())


def remove_temporary(work: Path) -> None:
    """Remove what a killed run left half written."""
    for path in sorted(work.rglob(f".*{TEMPORARY}")):
        if is_temporary(path.name):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
