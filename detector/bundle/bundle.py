"""The artefact between training and serving: **`Bundle`** ⇄ one `.heatward` file (zip) or a directory.

    manifest.json             what it is: schema, sha256 of every file (its own included), classifier, settings, rates
    classifier.safetensors    the classifier's weights, where they can be embedded
    witness.safetensors       the witness's, where there is one
    network.safetensors       the heatmap network's weights
    glance.safetensors        those of the glance networks, where there is a cascade
    calibration.safetensors   attack scores of clean images, by group as well where it calibrates by group
    reliability.safetensors   what may be promised of predictions, where that was calibrated
    signature.json            whose bundle it is, where somebody signed it (outside the manifest)
    patches.safetensors       scores of clean images under masks, where it looks for patches

Nothing is unpickled and nothing is extracted; a bundle from elsewhere is read within limits. The same content gives the
same bytes, and a reader sees the old bundle or the new one, never a torn file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from detector.bundle.archive import LIMITS, MANIFEST, SIGNATURE, read_files, write_files
from detector.bundle.signature import check_signature, sign
from detector.classifier import ClassifierSpec
from detector.classifier.weights import is_weights_file
from detector.errors import BundleDamagedError, BundleError, BundleForeignError, BundleVersionError
from detector.evidence import CONSTANTS
from detector.keys import PublicKeys, SigningKey
from detector.remote import local_copy

__all__ = ["EMBEDDED", "FORMAT", "SCHEMA_VERSION", "Bundle", "Manifest", "load_bundle", "read_manifest", "save_bundle"]

EMBEDDED = Path(__file__).parents[1] / "embedded" / "cifar10.heatward"
"""The default bundle, in the repository."""

FORMAT: Final = "heatward-bundle"
SCHEMA_VERSION = 4
CLASSIFIER, WITNESS = "classifier.safetensors", "witness.safetensors"
NETWORK, GLANCE, CALIBRATION = "network.safetensors", "glance.safetensors", "calibration.safetensors"
RELIABILITY, PATCHES = "reliability.safetensors", "patches.safetensors"


class Manifest(BaseModel):
    """What a bundle is.

    Attributes:
        format: Always "heatward-bundle".
        schema_version: Of this layout.
        heatward_version: That wrote it.
        files: sha256 (hex) by file name; filled by `save_bundle`. The manifest's own is taken without this entry.
        classifier: How to build the classifier under guard.
        fingerprint: The classifier's.
        witness: How to build the witness; None where the evidence has none.
        witness_fingerprint: The witness's.
        evidence: Settings of the evidence.
        constants: What decides the evidence and is no setting; another heatward must compute with the same.
        network: Settings of the heatmap network and of the attack score.
        cascade: Threshold and settings of the first look; None where every image is looked at in full.
        patches: Which patches are looked for, and how; None where none are.
        families: Attack families of the network's head.
        operating_points: Threshold by false-positive rate; none where each group has its own.
        calibration: How it is calibrated, where not on all images at once; whether it estimates a tail.
        measured: Results on the test split.
        provenance: What made it: commands, seeds, data, versions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["heatward-bundle"] = FORMAT
    schema_version: int = SCHEMA_VERSION
    heatward_version: str
    files: dict[str, str] = {}
    classifier: ClassifierSpec
    fingerprint: str
    witness: ClassifierSpec | None = None
    witness_fingerprint: str = ""
    evidence: dict[str, JsonValue] = {}
    constants: dict[str, JsonValue] = CONSTANTS
    network: dict[str, JsonValue] = {}
    cascade: dict[str, JsonValue] | None = None
    patches: dict[str, JsonValue] | None = None
    families: tuple[str, ...] = ()
    operating_points: dict[str, float] = {}
    calibration: dict[str, JsonValue] = {}
    measured: dict[str, JsonValue] = {}
    provenance: dict[str, JsonValue] = {}

    @property
    def digest(self) -> str:
        """The bundle's: sha256 of the manifest, which holds that of every other file; "" before it is saved."""
        return self.files.get(MANIFEST, "")


@dataclass(frozen=True)
class Bundle:
    """A detector as it is stored.

    Attributes:
        manifest: What it is.
        classifier_weights: The classifier's state dict; None where its file must be at hand (TorchScript, export). Of
            an ONNX model it is the file, of a served one its answers about made-up images.
        network_weights: The heatmap network's state dict.
        calibration_scores: (n,) attack scores of clean images.
        calibration_groups: Of a calibration by group: `Groups.tensors`.
        witness_weights: The witness's state dict; None where there is no witness, or its file must be at hand.
        reliability: `detector.scoring.reliability.Reliability.tensors`; None where no error rate is promised.
        glance_weights: The glance networks'; None where there is no cascade.
        patches: Scores of clean images under masks; None where it looks for no patches.
    """

    manifest: Manifest
    classifier_weights: dict[str, Tensor] | None
    network_weights: dict[str, Tensor]
    calibration_scores: Tensor
    witness_weights: dict[str, Tensor] | None = None
    reliability: dict[str, Tensor] | None = None
    calibration_groups: dict[str, Tensor] | None = None
    glance_weights: dict[str, Tensor] | None = None
    patches: dict[str, Tensor] | None = None


def save_bundle(path: str | Path, bundle: Bundle, *, half: bool = False, key: SigningKey | None = None) -> None:
    """Write a bundle: a zip if `path` ends in .heatward, otherwise a directory.

    Args:
        path: Where, also a URL; a bundle that is there is replaced.
        bundle: What; `manifest.files` is filled here, and a weights file's path is dropped from an embedded classifier.
        half: Store float32 weights as float16 (round them before taking the classifier's fingerprint).
        key: Signs it.

    Raises:
        BundleError: A weight does not fit into float16, or the place holds something that is no bundle.
        StoreError: The store of a URL does not take it.
    """
    contents = {
        NETWORK: _packed(bundle.network_weights, half),
        CALIBRATION: _packed({"scores": bundle.calibration_scores, **(bundle.calibration_groups or {})}, half=False),
    }
    if bundle.reliability is not None:
        contents[RELIABILITY] = _packed(bundle.reliability, half=False)
    if bundle.glance_weights is not None:
        contents[GLANCE] = _packed(bundle.glance_weights, half)
    if bundle.patches is not None:
        contents[PATCHES] = _packed(bundle.patches, half=False)
    manifest = bundle.manifest
    changed: dict[str, Any] = {"classifier": manifest.classifier, "witness": manifest.witness}
    for role, file, weights in (
        ("classifier", CLASSIFIER, bundle.classifier_weights),
        ("witness", WITNESS, bundle.witness_weights),
    ):
        if weights is not None:
            contents[file] = _packed(weights, half)
            if changed[role].weights and is_weights_file(changed[role].weights):
                changed[role] = changed[role].model_copy(update={"weights": None})
    files = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    manifest = manifest.model_copy(update={**changed, "files": files})
    # a heatward that knows of no cascade, groups or patches still reads a bundle that has none
    unset = {name for name in ("cascade", "calibration", "patches") if not getattr(manifest, name)}
    described = manifest.model_dump(mode="json", exclude=unset)
    described["files"][MANIFEST] = _manifest_digest(described)
    contents[MANIFEST] = (json.dumps(described, indent=2, sort_keys=True) + "\n").encode()
    if key is not None:
        contents[SIGNATURE] = sign(described["files"][MANIFEST], key)
    write_files(Path(path), contents)


def load_bundle(path: str | Path, keys: PublicKeys | None = None) -> Bundle:
    """Read and verify a bundle, by path or URL; nothing of it is used before its sha256 fits.

    Args:
        path: A directory, a `.heatward` file, or the URL of one.
        keys: One of these must have signed it; None: nobody need have.

    Raises:
        StoreError: It cannot be fetched from its URL.
        SignatureError: None of the keys signed it.
        BundleError: There is no such file or directory.
        BundleForeignError: It is something else.
        BundleVersionError: It has another schema version, or scores are made otherwise.
        BundleDamagedError: Truncated, changed, or a file is missing.
    """
    with local_copy(path) as file:
        return _loaded(file, keys)


def _loaded(path: Path, keys: PublicKeys | None) -> Bundle:
    contents, others = read_files(path)
    signature = contents.pop(SIGNATURE, None)
    described = _described(contents.pop(MANIFEST), path)
    manifest = _manifest(described, path)
    if keys is not None:
        check_signature(path, manifest.digest, signature, keys)
    if foreign := [*others, *sorted(manifest.files.keys() - LIMITS.keys())]:
        raise BundleForeignError(f"{path} holds {foreign[0]!r}, which is no file of a bundle: train the bundle again.")
    needed = {NETWORK, CALIBRATION} | ({GLANCE} if manifest.cascade is not None else set())
    needed |= {PATCHES} if manifest.patches is not None else set()
    for name in sorted(manifest.files.keys() - {MANIFEST} | needed):
        if name not in contents:
            raise BundleDamagedError(f"{path} lacks its file {name}: copy or train the bundle again.")
        if hashlib.sha256(contents[name]).hexdigest() != manifest.files.get(name):
            raise BundleDamagedError(
                f"{path}: {name} differs from the sha256 in {MANIFEST}: copy or train the bundle again."
            )
    undeclared = sorted(contents.keys() - manifest.files.keys())
    if undeclared:
        raise BundleForeignError(f"{path} holds {', '.join(undeclared)}, which its {MANIFEST} does not declare.")
    groups = _unpacked(contents[CALIBRATION], CALIBRATION, path)
    scores = groups.pop("scores", None)
    if scores is None:
        raise BundleDamagedError(f"{path}: {CALIBRATION} has no tensor 'scores': train the bundle again.")
    return Bundle(
        manifest,
        _unpacked(contents[CLASSIFIER], CLASSIFIER, path) if CLASSIFIER in contents else None,
        _unpacked(contents[NETWORK], NETWORK, path),
        scores,
        _unpacked(contents[WITNESS], WITNESS, path) if WITNESS in contents else None,
        _unpacked(contents[RELIABILITY], RELIABILITY, path) if RELIABILITY in contents else None,
        groups or None,
        _unpacked(contents[GLANCE], GLANCE, path) if GLANCE in contents else None,
        _unpacked(contents[PATCHES], PATCHES, path) if PATCHES in contents else None,
    )


def read_manifest(path: str | Path) -> Manifest:
    """Read and verify what a bundle is, without its weights; errors as `load_bundle`."""
    path = Path(path)
    return _manifest(_described(read_files(path, (MANIFEST,))[0][MANIFEST], path), path)


def _described(text: bytes, path: Path) -> dict[str, Any]:
    try:
        described = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleDamagedError(f"{path}: {MANIFEST} is not JSON ({error}): copy the bundle again.") from error
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise BundleForeignError(f"{path}: its {MANIFEST} is not that of a heatward bundle: give a .heatward file.")
    version = described.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleVersionError(
            f"{path} has schema version {version} (written by heatward {described.get('heatward_version')}), this "
            f"heatward reads {SCHEMA_VERSION}: update heatward."
        )
    if isinstance(version, int) and version < SCHEMA_VERSION:
        raise BundleVersionError(
            f"{path} has schema version {version}, whose scores are made otherwise; this heatward reads "
            f"{SCHEMA_VERSION}: run `heatward train` again, it keeps its attacked images."
        )
    return described


def _manifest(described: dict[str, Any], path: Path) -> Manifest:
    files = described.get("files")
    if not isinstance(files, dict) or files.get(MANIFEST) != _manifest_digest(described):
        raise BundleDamagedError(
            f"{path}: {MANIFEST} differs from its own sha256: it was changed after it was written."
        )
    try:
        manifest = Manifest.model_validate_json(json.dumps(described))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleDamagedError(f"{path}: {MANIFEST} has a bad {place!r} ({first['msg']}).") from error
    stored: dict[str, Any] = described.get("constants", {})
    for name in sorted(CONSTANTS.keys() | stored.keys()):
        if stored.get(name) != CONSTANTS.get(name):
            raise BundleVersionError(
                f"{path} was made with {name} {stored.get(name)}, this heatward computes with {CONSTANTS.get(name)}: "
                f"run `heatward train` again, or use heatward {manifest.heatward_version}."
            )
    return manifest


def _manifest_digest(described: dict[str, Any]) -> str:
    others = {name: digest for name, digest in described["files"].items() if name != MANIFEST}
    return hashlib.sha256(json.dumps(described | {"files": others}, sort_keys=True).encode()).hexdigest()


def _packed(tensors: dict[str, Tensor], half: bool) -> bytes:
    stored = {}
    for name, value in tensors.items():
        kept = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        if half and kept.dtype == torch.float32:
            kept = kept.half()
            if not torch.equal(kept.isfinite(), value.detach().cpu().isfinite()):
                raise BundleError(f"{name} has values beyond ±65504, float16 cannot hold them: save with half=False.")
        stored[name] = kept
    return safetensors.torch.save(stored)


def _unpacked(data: bytes, name: str, path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise BundleDamagedError(f"{path}: {name} is no safetensors file ({error}): train the bundle again.") from error
