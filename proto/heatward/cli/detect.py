"""`heatward detect`: image files go in, a line each comes out, in the order of the files.

Here are its options; `heatward.cli.judging` does the work, and is imported when they are right.
"""

from __future__ import annotations

from pathlib import Path

from heatward.cli.exit_codes import ExitCode
from heatward.cli.files import find_images
from heatward.cli.options import Parser, add_connection_options, count, rate
from heatward.cli.output import complain

__all__ = ["detect"]


def detect(argv: list[str]) -> int:
    arguments = _parser().parse_args(argv)
    try:
        found = find_images(arguments.paths)
    except (OSError, ValueError) as error:
        complain("heatward detect", str(error))
        return ExitCode.MISTAKE
    if not found.files:
        left_out = found.left_out_line()
        complain("heatward detect", "no image in the folders named" + (f"; {left_out}" if left_out else ""))
        return ExitCode.MISTAKE

    from heatward.cli.judging import judge

    return judge(found, arguments)


def _parser() -> Parser:
    parser = Parser(
        prog="heatward detect",
        description="Sends images to a server and prints, for each, whether it was attacked and what it showed before. "
        "Exit codes: heatward --help.",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="image files, folders of JPEG, PNG and WebP files, or - for one image from standard input",
    )
    rates = parser.add_mutually_exclusive_group()
    rates.add_argument(
        "--fpr",
        type=rate,
        metavar="RATE",
        help="share of clean images you accept to see flagged, e.g. 0.01 (default: the server's)",
    )
    rates.add_argument(
        "--false-discovery-rate",
        type=rate,
        metavar="RATE",
        help="judge all images together: the share of false alarms you accept among those called attacked, e.g. 0.05; "
        "nothing is printed before the last answer",
    )
    parser.add_argument(
        "--max-error-rate",
        type=rate,
        metavar="RATE",
        help="share of wrong predictions you bear among those you accept, e.g. 0.05: says which can be relied on",
    )
    parser.add_argument(
        "--look-for-patches",
        action="store_true",
        help="look again under masks that surely hide a patch: says whether one made the prediction; costs more",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    parser.add_argument(
        "--exit-code", action="store_true", help="exit with 1 when an image was attacked or patched, and none failed"
    )
    parser.add_argument("--top-k", type=count, metavar="N", help="how many of the classifier's labels --json holds")
    parser.add_argument("--save-heatmaps", type=Path, metavar="DIR", help="write each image's heatmap as a PNG file")
    parser.add_argument(
        "--in-flight", type=count, default=32, metavar="N", help="images sent ahead of their answers (%(default)s)"
    )
    add_connection_options(parser)
    return parser
