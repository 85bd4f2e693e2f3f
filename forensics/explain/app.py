"""`heatward explain`: images and a bundle in, one HTML page or one PNG with every heatmap and the verdict out.

    photograph ─▶ verdict, maps a method and class, channels ─▶ explain.html | explain.png

It judges in this process: no server.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, count, words

from detector.cpus import available_cpus
from detector.errors import ConfigError, HeatwardError, ImageError
from detector.remote import is_url, shown
from detector.text import printable
from forensics.explain.choices import choose_class, choose_methods

__all__ = ["main", "run"]

SUFFIXES = (".html", ".png")


def main(argv: Sequence[str] | None = None) -> int:
    """`run`, with errors said on stderr."""
    try:
        return run(argv)
    except HeatwardError as error:
        print(f"heatward explain: {printable(str(error), None)}", file=sys.stderr)
        return ExitCode.MISTAKE
    except KeyboardInterrupt:
        print("heatward explain: interrupted, nothing was written", file=sys.stderr)
        return ExitCode.INTERRUPTED


def run(argv: Sequence[str] | None = None) -> int:
    """Explain the images that `argv` names; 0 when the page is written.

    Raises:
        HeatwardError: A bundle, an image, a method, a class or a layer that cannot be used, or no place to write to.
        SystemExit: `--help`, or words that argparse refuses.
    """
    arguments = _parse(argv)
    out: Path = arguments.out
    _check_out(out)
    methods = choose_methods(arguments.methods)
    if arguments.bundle is not None and not (is_url(arguments.bundle) or arguments.bundle.exists()):
        raise ConfigError(f"--bundle {arguments.bundle}: there is no such file or folder")
    contents = [_read(path) for path in arguments.images]
    # torch takes seconds to import: only once the command line is known to be good
    import torch

    from detector.bundle import EMBEDDED
    from detector.detector import Detector
    from detector.files import write_file
    from detector.images import decode
    from forensics.explain.compute import check_layer, explain
    from forensics.explain.figure import render_png
    from forensics.explain.page import render_page
    from training.progress import make_progress

    torch.set_num_threads(arguments.threads)
    bundle = arguments.bundle or EMBEDDED
    detector = Detector.from_bundle(bundle, allow=arguments.trusted)
    classifier = detector.classifier
    label = None if arguments.target is None else choose_class(arguments.target, classifier.classes)
    if arguments.layer is not None:
        check_layer(classifier, arguments.layer)
    images = []
    for path, content in zip(arguments.images, contents, strict=True):
        try:
            images.append(classifier.prepare(decode(content)))
        except ImageError as error:
            raise ConfigError(f"{path}: {error}") from error
    explanations = []
    with make_progress() as progress:
        for number, (name, image) in enumerate(zip(_names(arguments.images), images, strict=True), 1):
            title = f"explaining image {number} of {len(images)}"
            with progress.task(title, len(methods) + 2, unit="steps") as advance:
                found = explain(
                    detector, image, name=name, methods=methods, label=label, layer=arguments.layer, advance=advance
                )
            explanations.append(found)
    source = (
        f"{classifier.spec.source} · {classifier.num_classes} classes · judged by {printable(Path(shown(bundle)).name)}"
    )
    drawn = out.suffix.lower() == ".png"
    content = render_png(explanations, source=source) if drawn else render_page(explanations, source=source).encode()
    try:
        write_file(out, content)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    print(printable(str(out), None))
    return ExitCode.OK


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if out.is_dir():
        raise ConfigError(f"--out {out}: this is a folder, expected a file")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}: make it first")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error


def _names(paths: Sequence[Path]) -> list[str]:
    """File names; with their folder where two files have the same."""
    alike = len({path.name for path in paths}) < len(paths)
    shown = ["/".join(path.parts[-2:]) if alike else path.name for path in paths]
    return [printable(name) for name in shown]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "heatward explain",
        description="Show what the classifier looked at: every heatmap of an image side by side, and the verdict, in "
        "one self-contained file.",
        epilog="Maps are shown for the predicted class and, where it differs, for the label heatward recovers (or for "
        "--class).",
        allow_abbrev=False,
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="JPEG, PNG or WebP files")
    parser.add_argument(
        "--bundle", type=Path, metavar="FILE", help="a detector, by path or URL; default: the embedded CIFAR-10 one"
    )
    parser.add_argument(
        "--class",
        dest="target",
        metavar="NAME|INDEX",
        help="a class to show beside the predicted one, instead of the recovered label",
    )
    parser.add_argument("--methods", metavar="A,B,C", help="heatmap methods, in this order; default: all")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="layer of cam and of the channels; default: the deepest for cam, the verdict's own for the channels",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("explain.html"), metavar="FILE", help="*.html or *.png (default: explain.html)"
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=available_cpus(),
        metavar="N",
        help="CPU threads",
    )
    parser.add_argument(
        "--trusted",
        type=words,
        default=(),
        metavar="A,B",
        help="Python modules that a bundle's classifier may be built from, and HOST:PORT it may be asked at",
    )
    return parser.parse_args(argv)
