"""Words from the command line in; what they name out: heatmap methods, a class. What names nothing is an error
that says what is near.
"""

from __future__ import annotations

from heatward.cli.options import words

from detector import text
from detector.errors import ConfigError
from forensics.explain.captions import CAPTIONS
from training.load import nearest

__all__ = ["choose_class", "choose_methods"]


def choose_methods(names: str | None) -> tuple[str, ...]:
    """`a,b,c` in the order given, each once, by name or by title (`Grad-CAM`); None for all of them.

    Raises:
        ConfigError: None named, or one that there is not (names the nearest).
    """
    if names is None:
        return tuple(CAPTIONS)
    given = words(names)
    if not given:
        raise ConfigError(f"--methods: expected names with commas between, from {', '.join(CAPTIONS)}; got {names!r}")
    known = {_letters(said): name for name, caption in CAPTIONS.items() for said in (caption.title, name)}
    for name in given:
        if _letters(name) not in known:
            raise ConfigError(
                f"--methods: there is no heatmap method '{text.printable(name)}'{nearest(name, list(CAPTIONS))}"
            )
    return tuple(dict.fromkeys(known[_letters(name)] for name in given))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def choose_class(given: str, classes: tuple[str, ...]) -> int:
    """The index of a class given by name, whatever its case, or by index; a name wins over an index.

    Raises:
        ConfigError: No class of that name (lists near ones) or index.
    """
    wanted = given.strip()
    if wanted in classes:
        return classes.index(wanted)
    folded = [name.casefold() for name in classes]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    if wanted.isdecimal() and len(wanted) < 10:
        if int(wanted) < len(classes):
            return int(wanted)
        raise ConfigError(f"--class: expected an index in 0 … {len(classes) - 1}, got {wanted}")
    hint = (
        text.nearest(wanted, classes)
        or f"; it has {', '.join(map(text.printable, classes[:5]))}{', …' * (len(classes) > 5)}"
    )
    raise ConfigError(f"--class: the classifier has no class '{text.printable(wanted)}'{hint} (or give an index)")
