"""`heatward detect`: image files go in, a line each comes out, in the order of the files.

The images travel on one stream with a bounded number in flight, so a folder of any size takes little memory.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from heatward.client import Client
from heatward.commands.connect import add_connection_options, connect, say_where
from heatward.commands.files import ImageFile, Reader, find_images
from heatward.commands.table import NAME_WIDTH, Progress, Totals, json_line, table_head, table_line
from heatward.errors import DetectionError
from heatward.values import Failure, Verdict

__all__ = ["detect"]

Answer = Verdict | Failure


def detect(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        files = find_images(arguments.paths)
        if not files:
            raise FileNotFoundError("no JPEG, PNG or WebP file in the folders named")
        with connect(arguments) as client:
            totals = _detect(client, files, arguments)
    except DetectionError as error:
        print(f"heatward detect: {say_where(arguments.address, error.code) or error}", file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        print(f"heatward detect: {error}", file=sys.stderr)
        return 2
    return 2 if totals.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="heatward detect",
        description="Sends images to a server and prints, for each, whether it was attacked and what it showed before. "
        "Exit code 0: every image has a verdict (whatever it is). 2: some image or the call failed.",
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of JPEG, PNG and WebP files"
    )
    parser.add_argument(
        "--fpr",
        type=float,
        metavar="RATE",
        help="share of clean images you accept to see flagged, e.g. 0.01 (default: the server's)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    parser.add_argument("--top-k", type=_count, metavar="N", help="how many of the classifier's labels --json holds")
    parser.add_argument(
        "--effort",
        choices=("fast", "thorough"),
        help="thorough looks again at images near the thresholds, if the timeout leaves time (default: the server's)",
    )
    parser.add_argument("--save-heatmaps", type=Path, metavar="DIR", help="write each image's heatmap as a PNG file")
    parser.add_argument(
        "--in-flight", type=_count, default=32, metavar="N", help="images sent ahead of their answers (%(default)s)"
    )
    add_connection_options(parser)
    return parser


def _detect(client: Client, files: list[ImageFile], arguments: argparse.Namespace) -> Totals:
    totals, progress = Totals(), Progress(len(files))
    name_width = max(len("image"), min(NAME_WIDTH, max(len(str(file.path)) for file in files)))
    names = _HeatmapNames(arguments.save_heatmaps) if arguments.save_heatmaps else None
    try:
        for position, answer in _in_order(_answers(client, files, arguments)):
            saved = names.write(files[position], answer) if names else None
            progress.clear()
            if arguments.json:
                print(json_line(files[position].path, answer, saved), flush=True)
            else:
                if not totals.answered:
                    print(table_head(name_width))
                print(table_line(files[position].path, answer, name_width), flush=True)
            totals.add(answer)
            progress.show(totals.answered)
    finally:
        progress.clear()
    if not arguments.json:
        print(f"\n{totals.line()}")
    return totals


def _answers(client: Client, files: list[ImageFile], arguments: argparse.Namespace) -> Iterator[tuple[int, Answer]]:
    """(position in `files`, answer) as they come, files that cannot be read among them."""
    reader = Reader(files)
    answers = client.detect_stream(
        reader,
        false_positive_rate=arguments.fpr,
        heatmap="png" if arguments.save_heatmaps else None,
        top_k=arguments.top_k,
        effort=arguments.effort,
        max_in_flight=arguments.in_flight,
    )
    for index, answer in answers:
        yield reader.sent[index], answer
        while reader.unreadable:
            yield reader.unreadable.pop()
    yield from reader.unreadable


def _in_order(answers: Iterator[tuple[int, Answer]]) -> Iterator[tuple[int, Answer]]:
    waiting: dict[int, Answer] = {}
    following = 0
    for position, answer in answers:
        waiting[position] = answer
        while following in waiting:
            yield following, waiting.pop(following)
            following += 1


class _HeatmapNames:
    """Writes heatmaps below a folder as the images lie below theirs; equal names get a number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[Path] = set()

    def write(self, file: ImageFile, answer: Answer) -> Path | None:
        if isinstance(answer, Failure) or answer.heatmap_png is None:
            return None
        stem = self._folder / file.relative.parent / file.relative.name
        path, number = stem.with_name(f"{stem.name}.heatmap.png"), 2
        while path in self._taken:
            path, number = stem.with_name(f"{stem.name}-{number}.heatmap.png"), number + 1
        self._taken.add(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(answer.heatmap_png)
        return path


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return number
