"""`heatward label`: a request id or record id and what is known of that image go in; the server keeps it as a label."""

from __future__ import annotations

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser, add_connection_options
from heatward.cli.output import complain, write

__all__ = ["label"]

NAME = "heatward label"


def label(argv: list[str]) -> int:
    parser = Parser(
        prog=NAME,
        description="Tells a server that records what an image really was: a false alarm, an attack, or what it shows. "
        "All labels are kept; the latest counts.",
    )
    parser.add_argument("id", metavar="ID", help="the request id of the image, CALL/REQUEST, or the id of its record")
    parser.add_argument("truth", metavar="TRUTH", help="false-alarm, attack or true-label=CLASS")
    add_connection_options(parser)
    arguments = parser.parse_args(argv)
    truth, _, true_label = arguments.truth.partition("=")

    from heatward.cli.connect import connect, explain
    from heatward.errors import DetectionError

    try:
        with connect(arguments) as client:
            kept = client.label(arguments.id, truth, true_label)
    except DetectionError as error:
        unimplemented = error.code == "UNIMPLEMENTED"
        complain(NAME, "this server does not record" if unimplemented else explain(error, arguments.address))
        return ExitCode.MISTAKE
    except (OSError, ValueError) as error:
        complain(NAME, str(error))
        return ExitCode.MISTAKE
    said = " (an earlier label says otherwise; the latest counts)" if kept.contradicts else ""
    write(f"{kept.record_id}: {arguments.truth}{said}")
    return ExitCode.OK
