"""After how many queries is an attack seen by what it asks, who is not seen, and who is taken for one?

    python -m benchmarks.robustness.query_sequences attacks --images DIR        # alone, among photographs, by accounts
    python -m benchmarks.robustness.query_sequences disguises --images DIR      # by attackers who know
    python -m benchmarks.robustness.query_sequences traffic --images DIR DIR    # photographs without an attack
    python -m benchmarks.robustness.query_sequences video --images DIR          # films over large photographs
    python -m benchmarks.robustness.query_sequences wire --images DIR           # against a server, over gRPC

Attacks are made on the classifier of a bundle and end where they succeed; *wire* asks `heatward serve` itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.robustness.query_attacks import ATTACKS, Attack, Picture
from benchmarks.robustness.query_disguises import DISGUISES, WINDOW, Disguise
from benchmarks.robustness.query_traffic import VIDEOS, frames, nearest, paths_of, read, usual
from benchmarks.robustness.query_wire import attack_server
from detector.bundle import EMBEDDED, load_bundle
from detector.classifier import load_classifier
from detector.errors import DataError
from detector.queries import Fingerprint, QuerySequence, fingerprint
from examples.commands import count as some
from examples.commands import run

Ask = Callable[[list[Picture]], NDArray[np.float32]]
SHORT = 36
"""Queries that are about as many as the first alert takes."""


@dataclass(frozen=True)
class Asked:
    """One attack as the server sees it."""

    queries: list[Fingerprint]
    succeeded: bool
    bare: bool = False
    """Whether what it found fools without a disguise, too."""


def attacked(
    attack: Attack, images: list[Picture], ask: Ask, most: int, disguise: Disguise, *, until_seen: bool = False
) -> list[Asked]:
    """Runs an attack on all images side by side, for so many queries each, or until each is seen."""
    labels = ask(images).argmax(1).tolist()
    chances = [np.random.default_rng(number) for number in range(len(images))]
    running = {
        number: attack(image, label, np.random.default_rng(number))
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    }
    worn = [deepcopy(disguise) for _ in images]  # what one remembers is its own
    following = {number: next(sequence) for number, sequence in running.items()}
    queries: list[list[Fingerprint]] = [[] for _ in images]
    watched = [QuerySequence(WINDOW) for _ in images]
    succeeded: dict[int, bool] = {}
    for asked in range(most):
        sent = {number: worn[number](query, asked, chances[number]) for number, query in following.items()}
        answers = list(ask(list(sent.values()))) if sent else []
        for (number, query), answer in zip(sent.items(), answers, strict=True):
            queries[number].append(fingerprint(query))
            watched[number].add(queries[number][-1])
            try:
                following[number] = running[number].send(answer)
                if until_seen and watched[number].similarity >= 1 and asked >= SHORT:
                    del following[number]
            except StopIteration as end:
                del following[number]
                succeeded[number] = bool(ask([end.value])[0].argmax() != labels[number])
    return [Asked(each, number in succeeded, succeeded.get(number, False)) for number, each in enumerate(queries)]


def seen_after(queries: Iterable[Fingerprint], *, moves: bool = True) -> int | None:
    """The query at which one caller is warned of."""
    sequence = QuerySequence(WINDOW, moves=moves)
    for number, query in enumerate(queries, 1):
        sequence.add(query)
        if sequence.similarity >= 1:
            return number
    return None


def among(queries: list[Fingerprint], others: list[Fingerprint], every: int, rng: np.random.Generator) -> int | None:
    """The same where only one image of so many is the attack's: how many of its queries."""
    stream = []
    for query in queries:
        stream += [others[place] for place in rng.integers(0, len(others), every - 1)] + [query]
    found = seen_after(stream)
    return None if found is None else -(-found // every)


def by_accounts(queries: list[Fingerprint], accounts: int) -> int | None:
    """The query at which the first of several accounts, which take turns, is warned of."""
    found = [after for first in range(accounts) if (after := seen_after(queries[first::accounts])) is not None]
    return min(found) * accounts if found else None


def row(name: str, results: list[Asked], found: list[int | None]) -> str:
    """Seen, and when (median, slowest); of those that succeeded, how many before."""
    hits = sorted(each for each in found if each is not None)
    before = sum(result.succeeded for result, each in zip(results, found, strict=True) if each is None)
    total = sum(result.succeeded for result in results)
    long = [each for result, each in zip(results, found, strict=True) if len(result.queries) > SHORT]
    when = f"{hits[len(hits) // 2]} | {hits[-1]}" if hits else "– | –"
    seen = f"{sum(each is not None for each in long)} of {len(long)}"
    return f"| {name} | {seen} | {when} | {before} of {total} |"


def attacks(
    ask: Ask, images: list[Picture], others: list[Fingerprint], most: int, names: list[str], *, until_seen: bool
) -> None:
    """Among others only where there are any, and by accounts only where attacks go on after they are seen."""
    print(f"| attack | seen, of those longer than {SHORT} queries | median | slowest | of successes, unseen |")
    print("| --- | --: | --: | --: | --: |")
    for name in names:
        results = attacked(ATTACKS[name], images, ask, most, DISGUISES["as they are"], until_seen=until_seen)
        print(row(name, results, [seen_after(each.queries) for each in results]), flush=True)
        strict = [seen_after(each.queries, moves=False) for each in results]
        print(row(f"{name}, video not excused", results, strict), flush=True)
        for every in (10, 25, 50) if others else ():
            rng = np.random.default_rng(every)
            found = [among(each.queries, others, every, rng) for each in results]
            print(row(f"{name}, 1 of {every} images", results, found), flush=True)
        for accounts in (4, 10) if not until_seen else ():
            found = [by_accounts(each.queries, accounts) for each in results]
            print(row(f"{name}, by {accounts} accounts", results, found), flush=True)


def disguises(ask: Ask, images: list[Picture], most: int, names: list[str], which: list[str]) -> None:
    print("| attack | disguise | seen | not excused | succeeded | of them unseen | not excused | fools undisguised |")
    print("| --- | --- | --: | --: | --: | --: | --: | --: |")
    for name in names:
        for worn in which:
            results = attacked(ATTACKS[name], images, ask, most, DISGUISES[worn])
            excused, strict = ([seen_after(each.queries, moves=moves) for each in results] for moves in (True, False))
            won = [result.succeeded for result in results]
            unseen = [sum(w for w, f in zip(won, found, strict=True) if f is None) for found in (excused, strict)]
            seen = [f"{sum(each is not None for each in found)} of {len(found)}" for found in (excused, strict)]
            bare = sum(result.bare for result in results)
            counts = " | ".join(map(str, (*seen, sum(won), *unseen, bare)))
            print(f"| {name} | {worn} | {counts} |", flush=True)


def traffic(folders: list[Path], images: int, side: int | None, clients: int) -> None:
    """Where video is not excused: what is suspicious where it is, is suspicious there, too."""
    paths = paths_of(folders)
    photographs = [fingerprint(read(path, side)) for path in paths]
    rng = np.random.default_rng(0)
    orders = (photographs[place] for _ in count() for place in rng.permutation(len(photographs)))
    if len(photographs) > WINDOW:
        replayed(f"{len(photographs)} photographs in random order, again and again", [islice(orders, images)])
    print("nearest of the last 1000, and fifth: {:.2f}, {:.2f}".format(*nearest(photographs, WINDOW)), flush=True)
    changed = [list(usual(paths, rng, side)) for _ in range(clients)]
    for moves in (False, True):
        what = f"and what clients do to them, video {'' if moves else 'not '}excused, clients: {clients}"
        replayed(what, changed, moves=moves)


def replayed(name: str, streams: Iterable[Iterable[Fingerprint]], *, moves: bool = False) -> None:
    """The traffic of clients; one begins anew after an alert."""
    images, alerts, suspicious, highest = 0, 0, 0, 0
    for stream in streams:
        sequence = QuerySequence(WINDOW, moves=moves)
        for image in stream:
            images += 1
            suspicious += sequence.add(image)
            highest = max(highest, sequence.suspicious)
            if sequence.similarity >= 1:
                alerts, sequence = alerts + 1, QuerySequence(WINDOW, moves=moves)
    bound = f", at 95 % at most {3 / images:.1e} of images" if not alerts else ""
    print(
        f"{name}: {images} images, {alerts} alerts{bound}; {suspicious} suspicious, at most {highest} of {WINDOW}",
        flush=True,
    )


def video(folders: list[Path], films: int) -> None:
    paths = paths_of(folders)
    if len(paths) < films:
        raise DataError(f"{len(paths)} photographs for {films} films: give more --images, or a smaller --count")
    chosen = [paths[place] for place in np.random.default_rng(0).permutation(len(paths))[:films]]
    print("| film, 300 frames | alerts | suspicious of 300, median | alerts, not excused |")
    print("| --- | --: | --: | --: |")
    for name, move in VIDEOS.items():
        alerts, suspicious = [0, 0], []
        for number, path in enumerate(chosen):
            film = list(frames(path, move, 300, np.random.default_rng(number)))
            for place, moves in enumerate((True, False)):
                sequence = QuerySequence(WINDOW, moves=moves)
                found = sum(sequence.add(frame) for frame in film)
                alerts[place] += sequence.similarity >= 1
                if moves:
                    suspicious.append(found)
        half = sorted(suspicious)[films // 2]
        print(f"| {name} | {alerts[0]} of {films} | {half} | {alerts[1]} of {films} |", flush=True)


def classifier_of(bundle: Path) -> tuple[Ask, int]:
    loaded = load_bundle(bundle)
    classifier = load_classifier(loaded.manifest.classifier, state_dict=loaded.classifier_weights)

    @torch.no_grad()
    def ask(images: list[Picture]) -> NDArray[np.float32]:
        return classifier(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 255).numpy()

    return ask, classifier.input_size[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("attacks", "disguises", "traffic", "video", "wire"))
    parser.add_argument("--images", type=Path, nargs="+", required=True, help="folders of images")
    parser.add_argument("--bundle", type=Path, default=EMBEDDED)
    parser.add_argument("--count", type=some, default=20, help="images attacked, or films")
    parser.add_argument("--queries", type=some, default=300, help="of each attack")
    parser.add_argument(
        "--attacks", nargs="+", choices=ATTACKS, help="default: all; with disguises, square and hopskip"
    )
    parser.add_argument("--until-seen", action="store_true", help="attacks end where they are seen: cheap")
    parser.add_argument("--disguises", nargs="+", choices=DISGUISES, default=list(DISGUISES))
    parser.add_argument("--replay", type=some, default=3_000_000, help="images of traffic")
    parser.add_argument("--side", type=some, help="traffic is cropped and resized to so many pixels; else as it is")
    parser.add_argument("--clients", type=some, default=1, help="who send all of it, changed as clients do")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.what == "traffic":
        return traffic(arguments.images, arguments.replay, arguments.side, arguments.clients)
    if arguments.what == "video":
        return video(arguments.images, arguments.count)
    ask, side = classifier_of(arguments.bundle)
    paths = paths_of(arguments.images)
    order = np.random.default_rng(0).permutation(len(paths))
    images = [read(paths[place], side) for place in order[: arguments.count]]
    if arguments.what == "attacks":
        fill = len(order) > 2 * WINDOW and not arguments.until_seen  # fewer would be passed over as exact repeats
        others = [fingerprint(read(paths[place], side)) for place in order[arguments.count :][:5000] if fill]
        names = arguments.attacks or list(ATTACKS)
        return attacks(ask, images, others, arguments.queries, names, until_seen=arguments.until_seen)
    names = arguments.attacks or ["square", "hopskip"]
    if arguments.what == "disguises":
        return disguises(ask, images, arguments.queries, names, arguments.disguises)
    for name in names:
        for image in images[: arguments.count]:
            print(name, attack_server(ATTACKS[name], image, arguments.queries), flush=True)


if __name__ == "__main__":
    run(main)
