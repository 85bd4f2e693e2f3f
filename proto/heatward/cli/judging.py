"""Found images → one stream → verdicts and failures in the order of the files → lines, totals and an exit code.

A bounded number of images is in flight, so a folder of any size takes little memory; what the server has no room for is
sent again. However the stream ends, what was answered is printed, and what was not is counted. Where a false discovery
rate is asked for, all p-values decide together: rows wait for the last of them.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from heatward.cli.columns import open_console
from heatward.cli.congestion import CongestionWindow
from heatward.cli.connect import connect, explain
from heatward.cli.exit_codes import ExitCode
from heatward.cli.files import STANDARD_INPUT, Found, ImageFile
from heatward.cli.heatmaps import HeatmapFiles
from heatward.cli.output import complain, path_text, write
from heatward.cli.reader import Reader, largest_image
from heatward.cli.table import Progress, Totals, answer_columns, json_line, table_head, table_line
from heatward.client.discoveries import discoveries, fewest_discoveries
from heatward.client.sync import Client
from heatward.client.values import DetectorInfo, Failure, Verdict
from heatward.errors import DetectionError

__all__ = ["judge"]

Answer: TypeAlias = Verdict | Failure
Row: TypeAlias = tuple[int, Answer, Path | None]
"""Position of the file, its answer, the file of its heatmap."""

NAME = "heatward detect"
UNTOLD = " would not tell you: ask its operator (disclosure)"


def judge(found: Found, arguments: argparse.Namespace) -> int:
    """Sends the images and prints their answers; returns the exit code.

    Raises:
        KeyboardInterrupt, SystemExit: After the totals, where a signal ended the run.
    """
    try:
        heatmaps = HeatmapFiles(arguments.save_heatmaps) if arguments.save_heatmaps else None
    except OSError as error:
        complain(NAME, f"argument --save-heatmaps: heatmaps are written into a folder: {error}")
        return ExitCode.MISTAKE
    rows = _Rows(
        found.files,
        heatmaps,
        as_json=arguments.json,
        relied=arguments.max_error_rate is not None,
        masked=arguments.look_for_patches,
        false_discovery_rate=arguments.false_discovery_rate,
    )
    cut: BaseException | None = None
    try:
        with _terminated_by_exception(), connect(arguments) as client:
            _send(client, found.files, rows, arguments)
    except BrokenPipeError:
        raise
    except (DetectionError, OSError, ValueError, KeyboardInterrupt, SystemExit) as error:
        cut = error
    rows.finish()
    complaints = [found.left_out_line(), heatmaps.lost_line() if heatmaps else "", *rows.doubts(), rows.untold_line()]
    if isinstance(cut, DetectionError):
        complaints.append(explain(cut, arguments.address))
    elif isinstance(cut, Exception):
        complaints.append(str(cut))
    if rows.totals.answered or not isinstance(cut, OSError | ValueError):  # else nothing was sent
        complaints.append(rows.missing_line())
    for line in filter(None, complaints):
        complain(NAME, line)
    if isinstance(cut, KeyboardInterrupt | SystemExit):
        raise cut
    untold = rows.missing_line() or rows.untold_line()
    if cut or untold or rows.totals.failed or (heatmaps and heatmaps.lost):
        return ExitCode.MISTAKE
    flagged = rows.totals.attacked or rows.totals.patched
    return ExitCode.FAILED if arguments.exit_code and flagged else ExitCode.OK


def _send(client: Client, files: list[ImageFile], rows: _Rows, arguments: argparse.Namespace) -> None:
    server = client.describe()
    _check(arguments, server)
    limit = largest_image(server.limits)
    window = CongestionWindow(len(files), arguments.in_flight, arguments.timeout)
    reader = Reader(files, limit, window, _standard_input(limit + 1) if STANDARD_INPUT in files else b"")
    answers = client.detect_stream(
        reader,
        false_positive_rate=arguments.fpr,
        heatmap="png" if arguments.save_heatmaps else None,
        top_k=arguments.top_k,
        max_error_rate=arguments.max_error_rate,
        look_for_patches=arguments.look_for_patches,
        max_in_flight=arguments.in_flight,
    )
    try:
        with closing(answers):  # type: ignore[type-var]
            for index, answer in answers:
                position = reader.sent[index]
                if window.settle(position, answer):
                    rows.add(position, answer)
                while reader.unreadable:
                    rows.add(*reader.unreadable.popleft())
    finally:
        window.close()
        for position, failure in reader.unreadable:
            rows.add(position, failure)


def _check(arguments: argparse.Namespace, server: DetectorInfo) -> None:
    """Says once what the server would say of every image.

    Raises:
        ValueError: An option asks for what the server does not have.
    """
    smallest, told = server.smallest_false_positive_rate, bool(server.calibration_size)
    if arguments.fpr is not None and arguments.fpr < smallest:
        raise ValueError(f"argument --fpr: {arguments.fpr:g} is less than the server can promise, {smallest:.3g}")
    borne, promised = arguments.max_error_rate, server.smallest_error_rate
    if borne is not None and promised is None:
        why = "'s detector promises no error rate of predictions: leave it out" if told else UNTOLD
        raise ValueError(f"argument --max-error-rate: the server{why}")
    if borne is not None and promised is not None and borne < promised:
        raise ValueError(f"argument --max-error-rate: {borne:g} is less than the server can promise, {promised:.3g}")
    if arguments.look_for_patches and server.patches is None:
        why = "'s bundle was not made to look for patches" if told else UNTOLD
        raise ValueError(f"argument --look-for-patches: the server{why}")
    if arguments.save_heatmaps and "png" not in server.heatmap_formats:
        why = " makes no heatmaps" if told else " shows you no heatmaps: ask its operator (disclosure)"
        raise ValueError(f"argument --save-heatmaps: the server{why}")


def _standard_input(most: int) -> bytes:
    if sys.stdin is None:
        raise OSError("standard input is closed")
    return sys.stdin.buffer.read(most)


class _Rows:
    """Prints answers in the order of the files: those that come early wait for those before them."""

    def __init__(
        self,
        files: list[ImageFile],
        heatmaps: HeatmapFiles | None,
        *,
        as_json: bool,
        relied: bool = False,
        masked: bool = False,
        false_discovery_rate: float | None = None,
    ) -> None:
        self.totals = Totals(false_discovery_rate=false_discovery_rate)
        self._held: list[Row] = []
        self._files, self._heatmaps, self._as_json = files, heatmaps, as_json
        self._progress = Progress(len(files))
        self._asked = {"relied": relied, "masked": masked}
        paths = [] if as_json else [file.path for file in files]
        self._columns = answer_columns(paths, open_console(), **self._asked)
        self._waiting: dict[int, Answer] = {}
        self._following = 0

    def add(self, position: int, answer: Answer) -> None:
        self._waiting[position] = answer
        while self._following in self._waiting:
            position, self._following = self._following, self._following + 1
            self._take(position, self._waiting.pop(position))
        self._progress.show(self.totals.answered)

    def finish(self) -> None:
        """Prints what waits for an answer that does not come, and the totals of a table."""
        for position, answer in sorted(self._waiting.items()):
            self._take(position, answer)
        if self.totals.false_discovery_rate is not None:
            self._discover(self.totals.false_discovery_rate)
        self._progress.clear()
        if self.totals.answered and not self._as_json:
            write(f"\n{self.totals.line()}")

    def missing_line(self) -> str:
        """Which files have no answer; empty where all have one."""
        missing = len(self._files) - self.totals.answered
        if not missing:
            return ""
        images = "1 image" if missing == 1 else f"{missing} images"
        first = path_text(self._files[self._following].path)
        return f"{self.totals.answered} of {len(self._files)} answered; {images} without a verdict, the first: {first}"

    def untold_line(self) -> str:
        """What was asked for and the server does not tell; empty where it tells."""
        if self.totals.untold:
            images = "1 image" if self.totals.untold == 1 else f"{self.totals.untold} images"
            return f"the server does not tell you the verdicts of {images}: ask its operator (disclosure)"
        if self.totals.false_discovery_rate is not None and not self._all_ranked():
            return (
                "argument --false-discovery-rate: the server does not tell you p-values: each image decided for itself"
            )
        return ""

    def doubts(self) -> list[str]:
        """What keeps a false discovery rate from being met, or anything from being found; empty where nothing does."""
        verdicts = [answer for _, answer, _ in self._held if isinstance(answer, Verdict)]
        rate = self.totals.false_discovery_rate
        if rate is None or not verdicts or not self._all_ranked():
            return []
        said: list[str] = []
        if len({verdict.detector_version for verdict in verdicts}) > 1:
            said.append("several detectors answered: the false discovery rate holds for the images of one")
        smallest = min(verdict.p_value or 1.0 for verdict in verdicts)
        if not self.totals.attacked and smallest <= rate:
            said.append(
                f"none is called attacked: with p-values from {smallest:.3g} it would be at least "
                f"{fewest_discoveries(len(verdicts), rate, smallest)} of {len(verdicts)} images together; a detector "
                "that was calibrated on more images finds fewer"
            )
        return said

    def _take(self, position: int, answer: Answer) -> None:
        self.totals.add(answer)  # first: a signal may come behind the row
        saved = self._heatmaps.write(self._files[position], answer) if self._heatmaps else None
        if self.totals.false_discovery_rate is None:
            self._print((position, answer, saved), first=self.totals.answered == 1)
            return
        if isinstance(answer, Verdict):
            answer = replace(answer, heatmap_png=None)
        self._held.append((position, answer, saved))

    def _discover(self, rate: float) -> None:
        """Decides on all that were answered, and prints them."""
        ranked = self._all_ranked()
        verdicts = [answer for _, answer, _ in self._held if isinstance(answer, Verdict)]
        found = iter(discoveries([verdict.p_value for verdict in verdicts], rate) if ranked else ())
        self.totals.attacked = 0
        for number, row in enumerate(self._held):
            verdict = row[1] if isinstance(row[1], Verdict) else None
            discovery = next(found) if verdict and ranked else None
            self.totals.attacked += bool(discovery if ranked else verdict and verdict.attacked)
            self._print(row, first=number == 0, discovery=discovery)

    def _all_ranked(self) -> bool:
        """Whether the server tells p-values."""
        return all(answer.p_value is not None for _, answer, _ in self._held if isinstance(answer, Verdict))

    def _print(self, row: Row, *, first: bool, discovery: bool | None = None) -> None:
        position, answer, saved = row
        path = self._files[position].path
        self._progress.clear()
        if self._as_json:
            write(json_line(path, answer, saved, discovery))
        else:
            head = f"{table_head(self._columns, **self._asked)}\n" if first else ""
            write(head + table_line(path, answer, self._columns, discovery, **self._asked))


@contextmanager
def _terminated_by_exception() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: with totals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
