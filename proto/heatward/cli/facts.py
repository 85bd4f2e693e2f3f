"""What a server or a manifest says of itself → lines for people: nothing is cut but long lists of classes.

A manifest is taken as it was written, of any shape; what has no table of its own is shown as `key  value` lines.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heatward.cli.columns import Columns, width_of
from heatward.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from heatward.client.values import DetectorInfo

__all__ = ["bundle_lines", "server_lines"]

CLASSES_SHOWN = 12
UNTOLD = "not told (the server's disclosure)"
FEW = 30
"""Images below which a rate means little."""


def server_lines(info: DetectorInfo, console: Console | None = None) -> str:
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
        "trained on": ", ".join(info.families),
        "default rate": f"{_percent(info.default_false_positive_rate)} of clean images flagged"
        if info.default_false_positive_rate
        else UNTOLD,
        "calibration": f"{info.calibration_size} clean images; smallest rate "
        f"{_percent(info.smallest_false_positive_rate)}"
        if info.calibration_size
        else UNTOLD,
        "reliability": None
        if info.smallest_error_rate is None
        else f"smallest error rate of predictions {_percent(info.smallest_error_rate)}",
        "limits": f"{limits.max_image_bytes / 2**20:g} MiB and {limits.max_image_pixels / 1e6:g} million pixels "
        f"an image, {limits.max_batch} images a batch",
    }
    if info.calibration_groups:
        groups = (f"{group.name}: {group.size}" for group in info.calibration_groups)
        pairs["calibrated by"] = f"predicted class; clean images of {_names(groups)}"
    if info.has_tail:
        pairs["tail"] = "estimated where a score is higher than those of all clean images"
    if info.cascade:
        cleared, asked = _percent(info.cascade.share_cleared), _percent(info.cascade.share_asked)
        pairs["cascade"] = (
            f"a first look clears {cleared} of clean images ({asked} asked for); the others get the full look"
        )
    if info.patches:
        pairs["patches"] = (
            f"looked for on request, up to {_percent(info.patches.area)} of the image ({info.patches.side} pixels a "
            f"side); forward passes more: {info.patches.masks}"
        )
    points = {point.false_positive_rate: point.threshold for point in info.operating_points}
    rates = map(dataclasses.asdict, info.measured)
    rows = [{"attack": row.pop("attack"), "n": row.pop("images"), **row} for row in rates]
    return "\n".join([*_pairs(pairs, console), *_points(points), *_table(rows, console)])


def bundle_lines(
    path: str,
    manifest: Mapping[str, Any],
    console: Console | None = None,
    signature: Mapping[str, Any] | None = None,
) -> str:
    classifier = _mapping(manifest.get("classifier"))
    size = classifier.get("input_size")
    pairs = {
        "bundle": path,
        "schema version": manifest.get("schema_version"),
        "written by": f"heatward {manifest.get('heatward_version', 'unknown')}",
        "classifier": classifier.get("source"),
        "input": f"{' × '.join(map(str, size))} pixels" if isinstance(size, list) else size,
        "classes": _names(_list(classifier.get("classes"))),
        "fingerprint": manifest.get("fingerprint"),
        "trained on": ", ".join(map(str, _list(manifest.get("families")))),
        "files": ", ".join(sorted(_mapping(manifest.get("files")))),
        "digest": _digest(manifest),
        "signed by": "nobody" if signature is None else _signed_by(signature, _digest(manifest)),
    }
    patches = _mapping(manifest.get("patches"))
    if "area" in patches:
        pairs["patches"] = (
            f"looked for on request: area: {_flat(patches['area'])}, masks: {_flat(patches.get('masks'))}"
        )
    measured = dict(_mapping(manifest.get("measured")))
    attacks, cascade = _attacks(measured), _mapping(manifest.get("cascade"))
    if attacks:
        measured.pop("attacks")
    return "\n".join(
        [
            *_pairs(pairs, console),
            *_outline("made from", _mapping(manifest.get("provenance"))),
            *_outline("calibrated", _mapping(manifest.get("calibration"))),
            *_outline("cascade", {key: cascade[key] for key in ("clears", "threshold", "views") if key in cascade}),
            *_points(_mapping(manifest.get("operating_points"))),
            *_table(attacks, console),
            *_outline("measured", measured),
        ]
    )


def _digest(manifest: Mapping[str, Any]) -> Any:
    return _mapping(manifest.get("files")).get("manifest.json")


def _signed_by(signature: Mapping[str, Any], digest: Any) -> str:
    """What is written there, which anybody can write."""
    if not signature.get("key"):
        return "a signature that cannot be read"
    if signature.get("digest") != digest:
        return "a signature of another bundle: it does not fit"
    return f"key {_flat(signature['key'])}, it says (heatward verify BUNDLE --key FILE tells whether that is so)"


def _attacks(measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns that a server tells, each rate with its interval, and the number of attacked images as n."""
    return [
        {
            "attack": attack["label"],
            "n": _at(attack, "auroc", "count"),
            "auroc": attack.get("auroc"),
            "tpr_at_1_percent": _at(attack, "tpr", "0.01"),
            "tpr_at_5_percent": _at(attack, "tpr", "0.05"),
            "recovery": _at(attack, "recovery", "all", "top1"),
        }
        for attack in _list(measured.get("attacks"))
        if isinstance(attack, Mapping) and "label" in attack
    ]


def _pairs(pairs: Mapping[str, Any], console: Console | None) -> list[str]:
    shown = {key: printable(_flat(value), None) for key, value in pairs.items() if value not in (None, "")}
    columns = Columns((max(map(len, pairs)), max(map(len, shown.values()))), console=console)
    return [columns.row(pair, ("bold",)) for pair in shown.items()]


def _points(points: Mapping[Any, Any]) -> list[str]:
    if not points:
        return []
    rows = [f"  {_percent(rate):>7}   {_flat(threshold)}" for rate, threshold in points.items()]
    return ["", "at this false-positive rate   an image is flagged from this attack score", *map(_line, rows)]


def _table(rows: Sequence[Mapping[str, Any]], console: Console | None) -> list[str]:
    """One row an attack, whose name stands first."""
    if not rows:
        return []
    head = list(rows[0])
    cells = [[_cell(row[column]) for column in head] for row in rows]
    widths = [max(map(width_of, column)) for column in zip(head, *cells, strict=True)]
    columns = Columns(widths, right=range(1, len(head)), console=console)
    lines = ["", columns.row(head, ["bold"] * len(head)), *map(columns.row, cells)]
    if few := [_cell(row["attack"]) for row in rows if isinstance(row["n"], int) and row["n"] < FEW]:
        lines.append(f"fewer than {FEW} images, so these rates mean little: {', '.join(few)}")
    return lines


def _outline(title: str, facts: Mapping[str, Any]) -> list[str]:
    """The facts below their title: what holds more facts is taken apart for one level, then written on one line."""
    if not facts:
        return []
    lines = []
    for key, value in facts.items():
        if isinstance(value, Mapping) and not _is_estimate(value):
            lines += [f"  {key}", *(f"    {inner}: {_flat(each)}" for inner, each in value.items())]
        elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            lines += [f"  {key}", *(f"    {_flat(each)}" for each in value)]
        else:
            lines.append(f"  {key}: {_flat(value)}")
    return ["", title, *map(_line, lines)]


def _flat(value: Any) -> str:
    """All of it on one line."""
    if isinstance(value, Mapping):
        if _is_estimate(value):
            return f"{_interval(value)} (n = {value['count']})"
        inner = ((key, f"({_flat(each)})" if _nests(each) else _flat(each)) for key, each in value.items())
        return ", ".join(f"{key}: {each}" for key, each in inner)
    if isinstance(value, list):
        return ", ".join(f"({_flat(each)})" if isinstance(each, list | Mapping) else _flat(each) for each in value)
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _cell(value: Any) -> str:
    return printable(_interval(value) if _is_estimate(value) else _flat(value), None)


def _is_estimate(value: Any) -> bool:
    """How evaluation writes a rate: its value, its interval and the number of images."""
    return isinstance(value, Mapping) and {"value", "low", "high", "count"} <= value.keys()


def _interval(estimate: Mapping[str, Any]) -> str:
    return f"{_flat(estimate['value'])} [{_flat(estimate['low'])}, {_flat(estimate['high'])}]"


def _nests(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Mapping) and not _is_estimate(value))


def _at(tree: Any, *keys: str) -> Any:
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(names: Iterable[Any]) -> str:
    known = [str(name) for name in names]
    more = f", … ({len(known)} in all)" if len(known) > CLASSES_SHOWN else ""
    return ", ".join(known[:CLASSES_SHOWN]) + more


def _percent(rate: Any) -> str:
    try:
        return f"{float(rate) * 100:.3g} %"
    except (TypeError, ValueError):
        return str(rate)


def _line(text: str) -> str:
    return printable(text, None).rstrip()
