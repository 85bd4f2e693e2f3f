"""Minutes of everything at once that breaks servers; then calm: was each request answered once, is nothing left behind?

    python -m benchmarks.serving.chaos --minutes 3            # a fake detector that takes milliseconds
    python -m benchmarks.serving.chaos --minutes 3 --real     # the embedded detector

Starts a server with a token file and a watched folder of bundles, and keeps four clients calling over our protocol and
KServe v2. Meanwhile, in an order that the seed gives: floods, slow readers, shut windows, silent and cut connections,
broken frames, cancelled calls, bad images, bytes that are no message, tiny deadlines, wrong tokens, good and bad
bundles, a full disk for the log, the whole process stopped for a second or two. Exits 1 with a list of what should not
have been: an answer lost, doubled, wrong or late, a status that blames the server, a call or a connection left behind,
memory that grew, a log line that nothing explains, an exit status other than 0.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from sample_requests import picture, png, spoiled

from benchmarks.serving.chaos_calls import Caller
from benchmarks.serving.chaos_server import Bundles, Numbers, Server
from benchmarks.serving.chaos_wire import TROUBLES, Wire
from benchmarks.serving.ledger import Ledger
from benchmarks.serving.measures import flatness
from benchmarks.serving.send import photographs
from benchmarks.serving.start import command

CALM_S, QUIET_S = 40.0, 5.0  # longer than it takes to find a connection dead: keepalive-s and 20 s more
GROWTH = 0.10
"""Of memory, from the median of the second fifth of the time to that of the last. Floods lift it at first: what the
allocator has had from the system it keeps, and later floods are no larger. A leak goes on."""
MORE_THREADS = 8
"""gRPC and asyncio keep idle threads of their pools, which grow with the first floods and are bounded."""
METHODS = [f"heatward.v1.DetectionService/{name}" for name in ("Detect", "DetectBatch", "None")]
SETTINGS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "metrics-port": 0,
    "threads": 1,
    "decode-workers": 2,
    "max-batch": 16,
    "queue-items": 128,
    "in-flight-per-call": 32,
    "default-deadline-s": 10,
    "max-message-bytes": 2**22,
    "watch-s": 0.5,
    "keepalive-s": 10,
    "allow-other-classifier": "true",  # a letter names version and classifier
}
TOKENS = {"steady": "steady-token-0123456789", "flood": "flood-token-0123456789", "slow": "slow-token-0123456789"}
QUOTA = {"slow": " 50"}


class Chaos:
    """Troubles by name, each a coroutine function that makes its trouble once."""

    def __init__(self, server: Server, ledger: Ledger, bundles: Bundles, images: list[bytes], seed: int) -> None:
        self.server, self.ledger, self.bundles, self.rng = server, ledger, bundles, random.Random(seed)
        self.steady, self.flooder, self.slow = (
            Caller(server.address, token, images, ledger, seed + i) for i, token in enumerate(TOKENS.values())
        )
        self.stranger = Caller(server.address, "no-token-of-theirs-0123", images, ledger, seed)
        self.callers = (self.steady, self.flooder, self.slow, self.stranger)
        self.running: Counter[str] = Counter()
        self.troubles: dict[str, Callable[[], Awaitable[None]]] = {
            "flood": lambda: self.many(self.flooder, 150, "flood"),
            "flood without deadline": lambda: self.many(self.flooder, 60, "flood", timeout_s=None),
            "slow reader": lambda: self.slow.stream(200, "slow reader", 20.0, pause_s=0.04),
            "cancel": self.cancel,
            "tiny deadlines": self.tiny,
            "wrong token": lambda: self.many(
                self.stranger, 20, "wrong token", allowed=frozenset({"UNAUTHENTICATED", "DEADLINE_EXCEEDED"})
            ),
            "spoiled": lambda: self.flooder.spoiled(spoiled()),
            "bytes": self.bytes,
            "good bundle": lambda: bundles.good(self.rng),
            "bad bundle": lambda: bundles.bad(self.rng),
            "full disk": lambda: server.fill_disk(self.rng.uniform(1, 3)),
            "frozen": lambda: server.freeze(self.rng.uniform(1, 2)),
        }

    def wire(self, request: bytes) -> None:
        wire = Wire(self.server.address, TOKENS["flood"], request)
        for name, trouble in TROUBLES.items():
            self.troubles[name] = partial(trouble, wire, self.rng)

    async def many(self, caller: Caller, count: int, kind: str, **how: Any) -> None:
        await asyncio.gather(*(caller.any(kind, **how) for _ in range(count)))

    async def cancel(self) -> None:
        calls = (
            self.flooder.any("cancelled", cancel_after_s=self.rng.choice((0, 0.005, 0.05, 0.3))) for _ in range(40)
        )
        await asyncio.gather(*calls)

    async def tiny(self) -> None:
        calls = (self.flooder.any("tiny deadline", self.rng.choice((0.0001, 0.001, 0.01, 0.05))) for _ in range(40))
        await asyncio.gather(*calls)

    async def bytes(self) -> None:
        for _ in range(20):
            await self.flooder.bytes(self.rng.randbytes(self.rng.choice((1, 30, 3000))), self.rng.choice(METHODS))

    async def keep_calling(self, until_s: float) -> None:
        while time.monotonic() < until_s:
            await self.steady.any()
            await asyncio.sleep(self.rng.uniform(0, 0.05))

    async def rage(self, until_s: float) -> None:
        """Troubles one after another, begun before the last has ended."""
        tasks: set[asyncio.Task[None]] = set()
        order: list[str] = []
        while time.monotonic() < until_s:
            order = order or self.rng.sample(list(self.troubles), len(self.troubles))
            name = order.pop()
            self.running[name] += 1
            tasks.add(asyncio.create_task(self._guarded(name)))
            await asyncio.sleep(self.rng.uniform(0.1, 0.8))
        await asyncio.gather(*tasks)

    async def _guarded(self, name: str) -> None:
        try:
            await self.troubles[name]()
        except Exception as error:
            self.ledger.violations[f"{name}: {error!r}"] += 1


async def run(arguments: argparse.Namespace, folder: Path) -> list[str]:
    bundles = Bundles(folder / "bundles", real=arguments.real)
    bundles.put(fine=True)
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{name} {token}{QUOTA.get(name, '')}\n" for name, token in TOKENS.items()))
    kind = "embedded" if arguments.real else "labelling"
    server = Server.start(command(kind, bundle=bundles.folder, token_file=tokens, **SETTINGS), folder / "log")
    try:
        return await observe(arguments, server, bundles)
    finally:
        server.end()


async def observe(arguments: argparse.Namespace, server: Server, bundles: Bundles) -> list[str]:
    ledger = Ledger()
    fake_images = [png(picture(label)) for label in range(20, 120)]
    images = [each.encoded for each in photographs()] if arguments.real else fake_images
    chaos = Chaos(server, ledger, bundles, images, arguments.seed)
    truth = await chaos.steady.learn()
    for caller in chaos.callers:
        caller.truth = truth
        await caller.channel.channel_ready()
    chaos.wire(chaos.steady.requests(1)[0][0].SerializeToString())
    await chaos.many(chaos.flooder, 150, "flood")
    await server.rest(CALM_S)
    start, files = server.numbers(), server.open_files()
    print(f"start: {start}", flush=True)
    started_s = time.monotonic()
    until_s = started_s + arguments.minutes * 60
    memory_mib: list[float] = []
    watching = asyncio.create_task(watch(chaos, started_s, memory_mib))
    await asyncio.gather(chaos.rage(until_s), *(chaos.keep_calling(until_s) for _ in range(4)))
    watching.cancel()
    found = await calm(chaos, start, files)
    settled = flatness(memory_mib)
    print(f"memory {settled.low:.0f} to {settled.high:.0f} MiB, second fifth to last {settled.growth:+.1%}", flush=True)
    if settled.growth > GROWTH:
        found.append(f"memory grew by {settled.growth:.1%} from the second fifth of the time to the last")
    found += [f"{text} ({count} times)" for text, count in ledger.violations.most_common()]
    for caller in chaos.callers:
        await caller.channel.close()
    if status := await asyncio.to_thread(server.end):
        found.append(f"exit status {status} after SIGTERM, not 0")
    found += [f"in the log, {count} times: {line}" for line, count in server.defects().most_common(20)]
    table = Counter(ledger.codes)
    for kind in dict.fromkeys(kind for kind, _ in table):
        print(f"{kind:>24}  {dict(sorted((code, n) for (each, code), n in table.items() if each == kind))}")
    print(f"{'troubles':>24}  {dict(chaos.running)}")
    return found


async def calm(chaos: Chaos, start: Numbers, files: Counter[str]) -> list[str]:
    """What is wrong once no more trouble is made."""
    server, found = chaos.server, []
    if left := await server.rest(CALM_S):
        found.append(left)
    chaos.bundles.put(fine=True, letter="z")
    reloads = await server.metric("heatward_reloads_total")
    until_s = time.monotonic() + CALM_S
    while await server.metric("heatward_reloads_total") == reloads and time.monotonic() < until_s:
        await asyncio.sleep(0.2)
    clean = Ledger()
    chaos.steady.ledger = clean
    for shape in (chaos.steady.unary, chaos.steady.batch, chaos.steady.stream, chaos.steady.infer):
        await shape(8, f"after the chaos, {shape.__name__}", 20.0, allowed=frozenset({"OK"}))
    found += clean.violations
    await asyncio.sleep(QUIET_S)
    until_s = time.monotonic() + CALM_S
    while (end := server.numbers()).files > start.files and time.monotonic() < until_s:  # what stays is a leak
        await asyncio.sleep(1)
    print(f"end: {end}", flush=True)
    if end.threads > start.threads + MORE_THREADS:
        found.append(f"{end.threads} threads, {start.threads} at the start")
    if end.files > start.files:
        more = server.open_files() - files
        found.append(f"{end.files} open files, {start.files} at the start: more are {dict(more)}")
    return found


async def watch(chaos: Chaos, started_s: float, memory_mib: list[float]) -> None:
    """Prints how it goes, and notes the server's memory."""
    while True:
        await asyncio.sleep(5)
        memory_mib.append(chaos.server.numbers().rss_mib)
        found = sum(chaos.ledger.violations.values())
        print(
            f"{time.monotonic() - started_s:4.0f} s  {chaos.server.numbers()}, {chaos.ledger.calls} calls open, "
            f"{found} violations, {dict(chaos.ledger.by_code.most_common())}",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of chaos (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(%(default)s)")
    parser.add_argument("--real", action="store_true", help="the embedded detector in place of a fake one")
    parser.add_argument("--keep-log", type=Path, help="copy the server's log there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = asyncio.run(run(arguments, Path(folder)))
        finally:
            if arguments.keep_log:
                shutil.copyfile(Path(folder) / "log", arguments.keep_log)
    print("\n".join(["", f"{len(found)} violations:", *found]) if found else "passed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
