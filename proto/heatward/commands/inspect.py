"""`heatward inspect`: a bundle's path or a server's address goes in, what it holds comes out as text or JSON."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from heatward.commands.bundles import NotABundleError, read_manifest
from heatward.commands.connect import add_connection_options, connect, say_where
from heatward.errors import DetectionError
from heatward.values import DetectorInfo

__all__ = ["inspect"]

ADDRESS = re.compile(r"(?:[a-z0-9+.-]+:.*[^:]|.*:\d+)", re.IGNORECASE)
CLASSES_SHOWN = 12


def inspect(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="heatward inspect",
        description="Shows what a bundle or a running server holds. Of a bundle, only the manifest is read.",
    )
    parser.add_argument("target", metavar="BUNDLE | HOST:PORT", help="a bundle (folder or .heatward file) or a server")
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_connection_options(parser, address=False)
    arguments = parser.parse_args(argv)
    target: str = arguments.target
    try:
        if Path(target).exists():
            facts, lines = _of_bundle(Path(target))
        elif ADDRESS.fullmatch(target):
            facts, lines = _of_server(arguments)
        else:
            print(f"heatward inspect: {target}: no such file, nor an address HOST:PORT", file=sys.stderr)
            return 2
    except DetectionError as error:
        print(f"heatward inspect: {say_where(target, error.code) or error}", file=sys.stderr)
        return 2
    except (NotABundleError, OSError, ValueError) as error:
        print(f"heatward inspect: {error}", file=sys.stderr)
        return 2
    print(json.dumps(facts, indent=2, ensure_ascii=False) if arguments.json else "\n".join(lines))
    return 0


def _of_server(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    with connect(arguments, arguments.target) as client:
        info = client.describe()
    return dataclasses.asdict(info), _server_lines(info)


def _server_lines(info: DetectorInfo) -> list[str]:
    classifier, limits = info.classifier, info.limits
    pairs = {
        "detector": info.name,
        "version": info.version,
        "served by": f"heatward {info.server_version}",
        "classifier": classifier.source,
        "input": f"{classifier.input_height} × {classifier.input_width} pixels",
        "classes": _names(classifier.classes),
        "fingerprint": classifier.fingerprint,
        "evidence": ", ".join(info.evidence),
        "heatmaps": ", ".join(info.heatmap_formats) or "none",
        "efforts": ", ".join(info.efforts),
        "trained on": ", ".join(info.families),
        "default rate": f"{_percent(info.default_false_positive_rate)} of clean images flagged",
        "calibration": f"{info.calibration_size} clean images; smallest rate "
        f"{_percent(info.smallest_false_positive_rate)}",
        "limits": f"{limits.max_image_bytes / 2**20:g} MiB and {limits.max_image_pixels / 1e6:g} million pixels "
        f"an image, {limits.max_batch} images a batch",
    }
    points = {point.false_positive_rate: point.threshold for point in info.operating_points}
    return [*_pairs(pairs), *_points(points), *_measured({rates.attack: _rates(rates) for rates in info.measured})]


def _rates(rates: Any) -> dict[str, Any]:
    return {key: value for key, value in dataclasses.asdict(rates).items() if key != "attack"}


def _of_bundle(path: Path) -> tuple[dict[str, Any], list[str]]:
    manifest = read_manifest(path)
    classifier = _mapping(manifest.get("classifier"))
    size = classifier.get("input_size") or ()
    families = manifest.get("families") or ()
    pairs = {
        "bundle": str(path),
        "schema version": manifest.get("schema_version"),
        "written by": f"heatward {manifest.get('heatward_version', 'unknown')}",
        "classifier": classifier.get("source"),
        "input": f"{' × '.join(map(str, size))} pixels" if isinstance(size, list) else size,
        "classes": _names(classifier.get("classes") or ()),
        "fingerprint": manifest.get("fingerprint"),
        "trained on": ", ".join(map(str, families)),
        "files": ", ".join(sorted(_mapping(manifest.get("files")))),
    }
    pairs |= {key: _short(value) for key, value in _mapping(manifest.get("provenance")).items()}
    points = _mapping(manifest.get("operating_points"))
    return manifest, [*_pairs(pairs), *_points(points), *_measured(_mapping(manifest.get("measured")))]


def _pairs(pairs: Mapping[str, Any]) -> list[str]:
    width = max(map(len, pairs))
    return [f"{key:<{width}}  {value}" for key, value in pairs.items() if value not in (None, "")]


def _points(points: Mapping[Any, Any]) -> list[str]:
    if not points:
        return []
    rows = [f"  {_percent(rate):>7}   {_number(threshold)}" for rate, threshold in points.items()]
    return ["", "at this false-positive rate   an image is flagged from this attack score", *rows]


def _measured(measured: Mapping[str, Any]) -> list[str]:
    """A table where each attack has its rates; otherwise whatever was written, as it is."""
    if not measured:
        return []
    if not all(isinstance(rates, Mapping) and rates for rates in measured.values()):
        return ["", "measured", *(f"  {key}: {_short(value)}" for key, value in measured.items())]
    columns = list(dict.fromkeys(column for rates in measured.values() for column in rates))
    first = max(len("attack"), *map(len, measured))
    widths = [max(len(column), 8) for column in columns]
    head = "  ".join(f"{column:>{width}}" for column, width in zip(columns, widths, strict=True))
    rows = [
        f"{attack:<{first}}  "
        + "  ".join(f"{_number(rates.get(c)):>{width}}" for c, width in zip(columns, widths, strict=True))
        for attack, rates in measured.items()
    ]
    return ["", f"{'attack':<{first}}  {head}", *rows]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _names(names: Iterable[Any]) -> str:
    known = [str(name) for name in names]
    more = f", … ({len(known)} in all)" if len(known) > CLASSES_SHOWN else ""
    return ", ".join(known[:CLASSES_SHOWN]) + more


def _percent(rate: Any) -> str:
    try:
        return f"{float(rate) * 100:.3g} %"
    except (TypeError, ValueError):
        return str(rate)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else _short(value)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"
