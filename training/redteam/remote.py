"""The oracle that is a running server: images travel over gRPC, answers come back.

A server that is gone in the middle (restarted, overloaded, cut off) is waited for: only images without an answer are
asked about again. What it does not tell the caller, the attacker does not see. One that answers for another detector,
or refuses the caller, ends the job with a line that says so.
The only file of training/ that uses the client.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from heatward.client.sync import Client
from heatward.client.values import DetectorInfo, Failure, Verdict
from heatward.errors import DetectionError
from torch import Tensor

from detector.errors import ConfigError, DataError, FingerprintMismatchError
from detector.text import printable
from training.progress import Progress
from training.redteam.oracles import AT_ONCE, Answers, known_probabilities, to_8_bits

__all__ = ["ServerOracle", "open_client"]

T = TypeVar("T")

COMES_BACK = ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED")
"""Codes of a server that may answer later."""
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED")
TIMEOUT_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
KEPT_BACK = {
    "verdict": "the server tells this caller attacked or not, and no p-value",
    "none": "the server tells this caller nothing of what it finds: rows 2 and 3 look for a wrong label alone",
}
"""What is noted, by how much a server tells."""


def open_client(server: str, token_file: Path | None, tls_roots: Path | None) -> Client:
    """A client of the server.

    Raises:
        ConfigError: The address makes no sense, or a file cannot be read.
    """
    try:
        token = None if token_file is None else token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {token_file} cannot be read: {error}") from error
    try:
        return Client(server, timeout_s=TIMEOUT_S, tls=tls_roots or False, token=token)
    except (OSError, TypeError, ValueError) as error:
        raise ConfigError(f"--server {printable(server)}: {error}") from error


class ServerOracle:
    """Asks a server.

    Args:
        client: Of the server.
        rate: The false-positive rate at which it is to flag.
        fingerprint: Of the classifier that it has to guard.
        progress: Is told when the server is gone and when it is back.
        patience_s: How long it may be gone.
        sleep: Waits so many seconds.

    Raises:
        FingerprintMismatchError: The server guards another classifier.
        DataError: It does not answer, or refuses the caller.
    """

    def __init__(
        self,
        client: Client,
        rate: float,
        fingerprint: str,
        progress: Progress,
        *,
        patience_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client, self.rate, self.asked = client, rate, 0
        self.progress, self.patience_s, self.sleep = progress, patience_s, sleep
        info: DetectorInfo = self._patiently(client.describe)
        if info.classifier.fingerprint != fingerprint:
            raise FingerprintMismatchError(
                f"the server guards classifier {printable(info.classifier.fingerprint[:12])}…, the bundle "
                f"{fingerprint[:12]}…: start it with the same bundle"
            )
        self.classes, self.version, self.told = len(info.classifier.classes), info.version, _told(info)
        if self.told in KEPT_BACK:
            progress.note(KEPT_BACK[self.told])

    def ask(self, images: Tensor) -> Answers:
        self.asked += len(images)
        pixels = to_8_bits(images).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
        verdicts = [verdict for batch in torch.split(pixels, AT_ONCE) for verdict in self._verdicts(batch)]
        return Answers(
            torch.tensor([each.predicted.index for each in verdicts], dtype=torch.long),
            known_probabilities(
                [[(one.index, one.probability) for one in each.top] for each in verdicts], self.classes
            ),
            torch.tensor(
                [math.nan if each.p_value is None else each.p_value for each in verdicts], dtype=torch.float64
            ),
            torch.tensor([bool(each.attacked) for each in verdicts]),  # None: who is told nothing takes it for clean
        )

    def _verdicts(self, pixels: Tensor) -> list[Verdict]:
        found: dict[int, Verdict] = {}

        def ask_missing() -> None:
            missing = [row for row in range(len(pixels)) if row not in found]
            arrays = [pixels[row].numpy() for row in missing]
            answers = self.client.detect_batch(arrays, false_positive_rate=self.rate)
            found.update(
                {row: each for row, each in zip(missing, answers, strict=True) if not isinstance(each, Failure)}
            )
            failed = [each for each in answers if isinstance(each, Failure)]
            if failed:
                raise failed[0].error()

        self._patiently(ask_missing)
        if changed := {each.detector_version for each in found.values()} - {self.version}:
            raise DataError(
                f"the server went over to another detector ({printable(changed.pop())}, it was "
                f"{printable(self.version)}): measure one that stays"
            )
        return [found[row] for row in range(len(pixels))]

    def _patiently(self, call: Callable[[], T]) -> T:
        """What the call brings, however often the server has to be waited for."""
        waited_s, pause_s = 0.0, FIRST_PAUSE_S
        while True:
            try:
                answer = call()
            except DetectionError as error:
                if error.code not in COMES_BACK or waited_s >= self.patience_s:
                    raise self._ended(error, waited_s) from error
                if not waited_s:
                    at_most = f"at most {self.patience_s:g} s (patience_s)"
                    self.progress.note(f"the server does not answer ({_why(error)}): waiting for it, {at_most}")
                self.sleep(pause_s)
                waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, LONGEST_PAUSE_S)
                continue
            if waited_s:
                self.progress.note("the server is back")
            return answer

    def _ended(self, error: DetectionError, waited_s: float) -> DataError:
        if error.code in REFUSED:
            return DataError(f"the server refuses the caller ({error.code}): name its token with --token-file")
        gone = f" for {waited_s:.0f} s; the same command goes on from here when it is back" if waited_s else ""
        return DataError(f"the server does not answer ({_why(error)}){gone}")


def _why(error: DetectionError) -> str:
    return f"{error.code}: {printable(' '.join(error.message.split()), 300)}"


def _told(info: DetectorInfo) -> str:
    """How much the server tells this caller, as its operator names it (docs/serving.md)."""
    if not info.default_false_positive_rate:
        return "none"
    return "full" if info.calibration_size else "verdict"
