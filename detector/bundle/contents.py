"""What a bundle holds, read with care: a `Bundle` in; settings, its cascade, calibration by group and patches out."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from detector.bundle.bundle import Bundle
from detector.classifier import Classifier
from detector.errors import (
    BundleDamagedError,
    BundleVersionError,
    CalibrationError,
    ConfigError,
    FingerprintMismatchError,
)
from detector.evidence import EvidenceShape
from detector.evidence.covering import Covering
from detector.scoring.calibration import Calibration
from detector.scoring.cascade import Cascade, CascadeSettings
from detector.scoring.groups import Groups
from detector.scoring.network import NetworkSettings
from detector.scoring.patches import Patches
from detector.settings import EvidenceSettings, PatchSettings

__all__ = [
    "cascade_of",
    "check_match",
    "check_witness",
    "patches_of",
    "settings_of",
    "stored_calibration",
    "whole_settings_of",
]

Settings = TypeVar("Settings", bound=BaseModel)


def stored_calibration(bundle: Bundle, classes: int) -> tuple[Groups | None, bool]:
    """Of a bundle: its calibration by group, if any, and whether it estimates tails.

    Raises:
        BundleDamagedError: The groups are not of so many classes.
    """
    try:
        stored = bundle.calibration_groups
        groups = Groups.from_tensors(stored, classes) if stored is not None else None
    except CalibrationError as error:
        raise BundleDamagedError(str(error)) from error
    return groups, bundle.manifest.calibration.get("tail") is True


def cascade_of(bundle: Bundle) -> Cascade | None:
    """The first look that a bundle holds, on the CPU; None where it has none.

    Raises:
        BundleDamagedError: The manifest describes it badly, or the weights do not fit.
        BundleVersionError: It does not say how its scores are made.
    """
    stored = bundle.manifest.cascade
    if stored is None or bundle.glance_weights is None:
        return None
    whole_settings_of(NetworkSettings, stored.get("settings"), "cascade.settings")
    settings = settings_of(CascadeSettings, stored, "cascade")
    evidence = settings_of(EvidenceSettings, bundle.manifest.evidence, "evidence")
    try:
        views = evidence.views.places(settings.views)
    except ValueError as error:
        raise BundleDamagedError(
            f"the bundle's manifest has bad cascade.views ({error}): train the bundle again"
        ) from error
    if settings.shape != settings.shape.at_a_glance(len(views)):
        raise BundleDamagedError(
            f"the bundle's manifest has a bad cascade.shape (of other views than cascade.views, {len(views)}): train "
            "the bundle again"
        )
    return Cascade.of(settings, len(bundle.manifest.families), bundle.glance_weights, views)


def patches_of(bundle: Bundle) -> Patches | None:
    """How a bundle looks for patches; None where it does not.

    Raises:
        BundleDamagedError: The manifest describes it badly, or the scores are none.
        BundleVersionError: It does not say which masks its scores belong to.
    """
    if bundle.manifest.patches is None or bundle.patches is None:
        return None
    settings = whole_settings_of(PatchSettings, bundle.manifest.patches, "patches")
    try:
        covering = Covering.of(bundle.manifest.classifier.input_size, settings)
        return Patches(covering, Calibration.fit(bundle.patches["scores"]))
    except (CalibrationError, ConfigError, KeyError) as error:
        raise BundleDamagedError(f"the bundle has bad patches ({error}): train the bundle again") from error


def whole_settings_of(kind: type[Settings], stored: JsonValue, place: str) -> Settings:
    """Settings that decide scores, every one of them from the bundle: a default may have changed since it was made.

    A setting that is not written where it is not used (`ViewSettings.jpeg`) is not missing.

    Raises:
        BundleDamagedError: They are no such settings.
        BundleVersionError: One is missing.
    """
    settings = settings_of(kind, stored, place)
    for name in settings.model_dump():
        value = getattr(settings, name)
        if name not in settings.model_fields_set:
            raise BundleVersionError(
                f"the bundle does not say how its scores are made: {place} lacks {name}; run `heatward train` again"
            )
        if isinstance(value, BaseModel) and isinstance(stored, dict):
            whole_settings_of(type(value), stored[name], f"{place}.{name}")
    return settings


def settings_of(kind: type[Settings], stored: JsonValue, place: str) -> Settings:
    """Settings as a manifest holds them.

    Raises:
        BundleDamagedError: They are no such settings.
    """
    try:
        return kind.model_validate(stored)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (place, *first["loc"]))
        raise BundleDamagedError(
            f"the bundle's manifest has a bad {key} ({first['msg']}): train the bundle again"
        ) from error


def check_witness(shape: EvidenceShape, witness: Classifier | None) -> None:
    """See that a witness is there if the networks read one.

    Raises:
        BundleDamagedError: It is not.
    """
    if witness is None and any(name.startswith("witness.") for name in shape.groups):
        raise BundleDamagedError(
            "the bundle's networks read what a witness says, and it holds none: train the bundle again"
        )


def check_match(role: str, loaded: Classifier, fingerprint: str) -> None:
    """See that a net is the one that a bundle was made with.

    Raises:
        FingerprintMismatchError: It is not.
    """
    if loaded.fingerprint != fingerprint:
        raise FingerprintMismatchError(
            f"the bundle {role} {fingerprint[:12]}…, but {loaded.spec.source!r} loaded as {loaded.fingerprint[:12]}…: "
            "give the weights it was made with, or train a new bundle"
        )
