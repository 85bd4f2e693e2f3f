"""A folder, or the name of a model on the Hugging Face hub → **a folder on this machine**, and what its JSON says.

The network is asked only where the user allows it; otherwise a name must lie in the local cache.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detector.errors import ClassifierSpecError
from detector.text import first_line, printable

__all__ = ["folder_of", "read_json", "weights_in"]

WANTED = ("*.json", "*.safetensors")
PICKLED = ("pytorch_model*.bin",)
SAFE = ("model.safetensors", "model.safetensors.index.json")
OTHERS = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def folder_of(name: str, source: str, *, hub: bool) -> Path:
    """Where the model lies.

    Args:
        name: A folder, or "owner/model" or "owner/model@revision".
        source: As it was written, for messages.
        hub: Whether the hub may be asked.

    Raises:
        ClassifierSpecError: There is no such folder, and no such model in the cache or on the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ClassifierSpecError(
            f"{source}: there is no folder {printable(name)}, and a name on the hub needs huggingface_hub: "
            'pip install "heatward[hf]".'
        ) from error
    repository, _, revision = name.partition("@")

    def download(patterns: Sequence[str]) -> Path:
        return Path(
            snapshot_download(
                repository, revision=revision or None, allow_patterns=list(patterns), local_files_only=not hub
            )
        )

    try:
        folder = download(WANTED)
        return folder if weights_in(folder, SAFE) else download((*WANTED, *PICKLED))
    except Exception as error:  # the hub's client raises many kinds, and the network more
        way_out = (
            "check the name and the network, or download it elsewhere and give its folder"
            if hub
            else "give a folder, or allow it with hub = true in [classifier]"
        )
        where = "the Hugging Face hub" if hub else "the local cache of the Hugging Face hub"
        raise ClassifierSpecError(
            f"{source}: there is no folder {printable(name)}, and {where} does not have it "
            f"({type(error).__name__}: {first_line(error)}): {way_out}."
        ) from error


def read_json(folder: Path, name: str, source: str) -> dict[str, Any]:
    """A JSON file of the folder.

    Raises:
        ClassifierSpecError: There is none, or it is no JSON object.
    """
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        held = sorted(path.name for path in folder.iterdir())[:5]
        raise ClassifierSpecError(
            f"{source}: {folder} is no model: it has no {name} (it has {printable(', '.join(held)) or 'nothing'})."
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ClassifierSpecError(f"{source}: {folder / name} cannot be read ({error}): download it again.") from error
    if not isinstance(content, dict):
        raise ClassifierSpecError(f"{source}: {folder / name} is no JSON object: download it again.")
    return content


def weights_in(folder: Path, names: Sequence[str] = (*SAFE, *OTHERS)) -> Path | None:
    """The first of these files that the folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
