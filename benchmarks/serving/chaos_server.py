"""The server under chaos as a process of its own: started, stopped and continued, its disk filled, its numbers read.

Its log is a file whose size RLIMIT_FSIZE bounds, so that a full disk needs no disk: every write fails with EFBIG.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.start import ENVIRONMENT, ROOT
from detector.bundle import EMBEDDED

MIB = 2**20
EXPLAINED = {
    "the new bundle is refused, the old one stays": "bad bundles are put there; a traceback would not be explained",
}
GRPC_CORE = re.compile(r"^(WARNING: All log messages before absl|[IWE]\d{4} )")  # of gRPC's C++, about broken peers
NO_ROOM = "[Errno 27] File too large"


@dataclass(frozen=True)
class Numbers:
    """What a process holds."""

    rss_mib: float
    threads: int
    files: int

    def __str__(self) -> str:
        return f"{self.rss_mib:.0f} MiB, {self.threads} threads, {self.files} files"


class Server:
    """A running server; its log is `log`."""

    def __init__(self, popen: subprocess.Popen[str], log: Path) -> None:
        self.popen, self.log = popen, log
        self.process = psutil.Process(popen.pid)
        ready = json.loads(popen.stdout.readline() or "null") if popen.stdout else None
        if ready is None:
            raise SystemExit(f"the server did not start:\n{log.read_text()}")
        self.address, self._metrics = str(ready["address"]), str(ready["metrics_address"])

    @classmethod
    def start(cls, command: Sequence[str], log: Path) -> Server:
        with log.open("ab") as stderr:
            return cls(subprocess.Popen(command, stdout=-1, stderr=stderr, text=True, env=ENVIRONMENT, cwd=ROOT), log)

    def open_files(self) -> Counter[str]:
        """Kinds of open files: "socket", "anon_inode", the path of a regular one."""
        found: Counter[str] = Counter()
        for link in Path(f"/proc/{self.popen.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[os.readlink(link).partition(":[")[0]] += 1
        return found

    def numbers(self) -> Numbers:
        return Numbers(self.process.memory_info().rss / MIB, self.process.num_threads(), self.process.num_fds())

    async def freeze(self, seconds: float) -> None:
        """Stops the whole process for so long."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def fill_disk(self, seconds: float) -> None:
        """Leaves no room for the log for so long."""
        _, most = self.process.rlimit(resource.RLIMIT_FSIZE)
        self.process.rlimit(resource.RLIMIT_FSIZE, (self.log.stat().st_size + 100, most))
        try:
            await asyncio.sleep(seconds)
        finally:
            self.process.rlimit(resource.RLIMIT_FSIZE, (most, most))

    async def metric(self, name: str) -> float:
        """The sum of a metric's samples."""

        def scrape() -> str:
            with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=10) as answer:
                return str(answer.read().decode())

        lines = (await asyncio.to_thread(scrape)).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"{name}[ {{]", line))

    async def rest(self, within_s: float) -> str:
        """Waits until no call is open and no image waits; says what is left where that does not come true."""
        until_s = time.monotonic() + within_s
        while True:
            left = {name: await self.metric(f"heatward_{name}") for name in ("in_flight_requests", "pending_images")}
            if not any(left.values()):
                return ""
            if time.monotonic() > until_s:
                return f"the server did not come to rest within {within_s:g} s: {left}"
            await asyncio.sleep(0.2)

    def end(self) -> int:
        """SIGTERM; the exit status, or -9 where it does not end."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            return self.popen.wait(30)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def defects(self) -> Counter[str]:
        """Lines of the log that nothing here explains, and how often each came."""
        found: Counter[str] = Counter()
        stray: list[str] = []
        for text in [*self.log.read_text(errors="replace").splitlines(), "{}"]:
            try:
                line = json.loads(text)
            except ValueError:
                stray.append(text)
                continue
            if stray and not _is_explained(stray):
                found["\n".join(stray)[:1500]] += 1
            stray = []
            traceback = line.get("traceback", "")
            unexpected = line.get("level") in ("error", "critical") and line["message"] not in EXPLAINED
            if traceback or unexpected:
                text = f"{line['logger']}: {line['message']} {line.get('error', '')}\n{traceback}"
                found[re.sub("0x[0-9a-f]+", "0x…", text)[-1500:]] += 1
        return found


def _is_explained(stray: list[str]) -> bool:
    """gRPC's own lines, and what the full disk cut."""
    text = "\n".join(line for line in stray if not GRPC_CORE.match(line))
    return "Traceback" not in text or NO_ROOM in text


class Bundles:
    """A folder whose last file by name serves: letters for the fake detector, copies for the real one."""

    def __init__(self, folder: Path, *, real: bool) -> None:
        self.folder, self.real, self.count = folder, real, 0
        folder.mkdir()

    def put(self, *, fine: bool, letter: str = "a", torn: bool = False) -> None:
        self.count += 1
        path = self.folder / f"v{self.count}.heatward"
        fresh = path if torn else path.with_suffix(".new")  # torn: seen while it is written
        if not self.real:
            fresh.write_text(letter if fine else "!")
        elif fine:
            shutil.copyfile(EMBEDDED, fresh)
        else:
            content = bytearray(EMBEDDED.read_bytes())
            content[len(content) // 2 :] = b"" if torn else content[len(content) // 2 :][::-1]
            fresh.write_bytes(content)
        fresh.replace(path)
        for old in self.folder.glob(f"v{self.count - 4}.heatward"):
            old.unlink()

    async def good(self, rng: random.Random) -> None:
        self.put(fine=True, letter=rng.choice("abcdef"))

    async def bad(self, rng: random.Random) -> None:
        self.put(fine=False, torn=rng.random() < 0.5)
