"""`hf:FOLDER` or `hf:OWNER/NAME`: an image classifier of Hugging Face's transformers, by its config.json.

A folder is read once. What was read, config.json's content, becomes the spec's `arguments`, so that a bundle builds the
net without the folder. No code that a model brings along is ever run, and nothing is unpickled.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from detector.classifier.sources.hub import folder_of, read_json, weights_in
from detector.classifier.sources.known import Known, distinct
from detector.classifier.sources.net import Net
from detector.classifier.sources.processor import images_of
from detector.classifier.weights import read_weights
from detector.errors import ClassifierSpecError
from detector.spec import ClassifierSource, ClassifierSpec
from detector.text import briefly, first_line, nearest

__all__ = ["build", "converted_weights", "known"]

_log = logging.getLogger("heatward")

FORGOTTEN = frozenset(
    {
        *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "id2label", "label2id"),
        *("return_dict", "output_hidden_states", "output_attentions", "_attn_implementation_autoset", "auto_map"),
    }
)
"""Entries of config.json that do not decide the net, or are said elsewhere."""


def known(described: ClassifierSource) -> Known:
    """What lies in the folder: the net's configuration, its weights, its processor and the names of its classes."""
    if "model_type" in described.arguments:  # read before, as in a bundle
        return Known(described.source, described.weights, described.arguments)
    source = described.source
    folder = folder_of(described.name, source, hub=described.hub)
    config = read_json(folder, "config.json", source)
    model_type = config.get("model_type")
    if model_type in (None, "timm_wrapper") and "architecture" in config:
        origin = "local-dir" if Path(described.name).is_dir() else "hf-hub"
        raise ClassifierSpecError(f'{source} is a model of timm\'s: write source = "timm:{origin}:{described.name}".')
    _check_type(model_type, source, own_code="auto_map" in config)
    if config.get("problem_type") == "multi_label_classification":
        raise ClassifierSpecError(
            f"{source} was trained to give several labels an image (problem_type multi_label_classification), and a "
            "verdict names one: it cannot be guarded."
        )
    if config.get("problem_type") == "regression":
        raise ClassifierSpecError(
            f"{source} estimates numbers (problem_type regression) and names no class: it cannot be guarded."
        )
    _check_arguments(described.arguments, config, source)
    names = _names(config, source)
    weights = described.weights or (str(folder) if weights_in(folder) else None)
    if weights is None:
        raise ClassifierSpecError(f"{source}: {folder} has no model.safetensors: give weights, or copy it there.")
    arguments: dict[str, JsonValue] = {key: value for key, value in config.items() if key not in FORGOTTEN}
    arguments |= {"num_labels": len(names)} | described.arguments
    found = Known(
        f"hf:{folder.resolve().name}" if Path(described.name).is_dir() else f"hf:{described.name}",
        weights,
        arguments,
        classes=None if all(name == f"LABEL_{index}" for index, name in enumerate(names)) else distinct(names),
    )
    if described.input_size is not None and described.preprocessing is not None:
        return found
    return images_of(folder, found, source)


def build(spec: ClassifierSpec, device: torch.device) -> Net:
    return Net(_built(spec), True, f"hf:{spec.arguments['model_type']}")


def converted_weights(spec: ClassifierSpec) -> dict[str, Tensor]:
    """The weights that `spec.weights` names, a folder or a file, by the names that transformers gives them in a net.

    Its names in files are older ones; transformers alone knows how they go together.

    Raises:
        ClassifierSpecError: They are damaged, or do not fill the net.
    """
    path = Path(spec.weights or "")
    given = _shards(path, spec.source) if path.is_dir() else read_weights(spec.weights or "")
    net, first_problems = _built(spec), ""
    for prefix in _prefixes(given):
        under = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
        state_dict, problems = _converted(type(net), net.config, under, spec.source)
        if not problems:
            if len(under) < len(given):
                _log.warning(
                    "%s: its tensors under %r are the net's; %d are left", path, prefix, len(given) - len(under)
                )
            return state_dict
        first_problems = first_problems or problems
    raise ClassifierSpecError(
        f"{spec.source}: the weights in {path} do not fill the net ({first_problems}): they are another net's, or "
        "those of a backbone whose classifier was never trained."
    )


def _built(spec: ClassifierSpec) -> Any:
    if "model_type" not in spec.arguments:
        raise ClassifierSpecError(
            f"{spec.source}: its spec lacks the net's configuration: give it as a ClassifierSource, which is completed."
        )
    transformers = _transformers(spec.source)
    _check_type(spec.arguments["model_type"], spec.source)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = transformers.AutoConfig.for_model(**spec.arguments)
            return transformers.AutoModelForImageClassification.from_config(config).float()
    except Exception as error:  # a library's code
        raise ClassifierSpecError(
            f"{spec.source} could not be built from its config.json ({type(error).__name__}: {briefly(error)})."
        ) from error


def _shards(folder: Path, source: str) -> dict[str, Tensor]:
    """The state dict of a folder, which may lie in several files. Read here, for transformers unpickles some forms."""
    found = weights_in(folder)
    if found is None:
        raise ClassifierSpecError(f"{source}: {folder} has no model.safetensors: give weights, or copy it there.")
    if found.suffix != ".json":
        return read_weights(found)
    try:
        names = {Path(str(name)).name for name in read_json(folder, found.name, source)["weight_map"].values()}
    except (KeyError, AttributeError) as error:
        raise ClassifierSpecError(f"{source}: {found} has no weight_map: copy it again.") from error
    return {key: value for name in sorted(names) for key, value in read_weights(folder / name).items()}


def _prefixes(given: dict[str, Tensor]) -> list[str]:
    """None, and the first one or two parts of most names."""
    most = ["", *(Counter(".".join(name.split(".")[:n]) for name in given).most_common(1)[0][0] + "." for n in (1, 2))]
    return list(dict.fromkeys(most))


def _converted(kind: Any, config: Any, given: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], str]:
    """The net's own state dict, and what does not fit."""
    logging_ = _transformers(source).utils.logging
    showing, verbosity = logging_.is_progress_bar_enabled(), logging_.get_verbosity()
    logging_.disable_progress_bar()
    logging_.set_verbosity_error()  # what it would report is in our error
    try:
        module, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(given),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as error:  # a library's code
        return {}, f"{type(error).__name__}: {first_line(error)}"
    finally:
        logging_.set_verbosity(verbosity)
        if showing:
            logging_.enable_progress_bar()
    problems = [
        f"{len(keys)} {what}: {', '.join(sorted(str(key) for key in keys)[:4])}"
        for what, keys in (
            ("missing", loading["missing_keys"]),
            ("unexpected", loading["unexpected_keys"]),
            ("of another shape", [key if isinstance(key, str) else key[0] for key in loading["mismatched_keys"]]),
        )
        if keys
    ]
    return dict(module.state_dict()), "; ".join(problems)


def _names(config: dict[str, Any], source: str) -> list[str]:
    """Of the classes, by number; transformers' own where the configuration gives none."""
    names = config.get("id2label")
    if not isinstance(names, dict):
        return [f"LABEL_{index}" for index in range(int(config.get("num_labels", 2)))]
    try:
        return [str(names[number]) for number in sorted(names, key=int)]
    except ValueError as error:
        raise ClassifierSpecError(
            f"{source}: id2label in its config.json has keys that are no numbers ({error}): name the classes 0, 1, …"
        ) from error


def _check_type(model_type: Any, source: str, own_code: bool = False) -> None:
    _transformers(source)
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as KNOWN

    if model_type in KNOWN and model_type != "timm_wrapper":
        return
    if own_code:
        raise ClassifierSpecError(
            f"{source} needs code that it brings along (auto_map in config.json), which heatward does not run: write a "
            'function that builds it, and give that as "python:MODULE:FACTORY".'
        )
    raise ClassifierSpecError(
        f"{source}: transformers has no image classifier of the model_type {str(model_type)!r}"
        f"{nearest(str(model_type), KNOWN) or '.'}"
    )


def _check_arguments(arguments: Mapping[str, JsonValue], config: dict[str, Any], source: str) -> None:
    """Transformers takes an entry of any name, and a misspelt one would change nothing."""
    if not arguments:
        return
    usual = _transformers(source).AutoConfig.for_model(config["model_type"])
    unknown = [name for name in arguments if name not in config and not hasattr(usual, name)]
    if unknown:
        raise ClassifierSpecError(
            f"{source}: arguments replace entries of its config.json, and {unknown[0]!r} is none"
            f"{nearest(unknown[0], {*config, *usual.to_dict()}) or '.'}"
        )


def _transformers(source: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ClassifierSpecError(f'{source} needs transformers: pip install "heatward[hf]".') from error
    return transformers
