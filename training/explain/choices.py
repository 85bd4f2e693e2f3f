"""Words from the command line in; what they name out: heatmap methods, a class. What names nothing is an error
that says what is near.
"""

from __future__ import annotations

import difflib

from detector.errors import ConfigError
from detector.text import printable
from training.explain.captions import CAPTIONS
from training.load import nearest

__all__ = ["choose_class", "choose_methods"]

LONGEST_COMPARED = 64


def choose_methods(text: str | None) -> tuple[str, ...]:
    """`a,b,c` in the order given, each once, by name or by title (`Grad-CAM`); None for all of them.

    Raises:
        ConfigError: None named, or one that there is not (names the nearest).
    """
    if text is None:
        return tuple(CAPTIONS)
    given = [word.strip() for word in text.split(",") if word.strip()]
    if not given:
        raise ConfigError(f"--methods: expected names with commas between, from {', '.join(CAPTIONS)}; got {text!r}")
    known = {_letters(said): name for name, caption in CAPTIONS.items() for said in (caption.title, name)}
    for name in given:
        if _letters(name) not in known:
            raise ConfigError(
                f"--methods: there is no heatmap method {printable(name)!r}{nearest(name, list(CAPTIONS))}"
            )
    return tuple(dict.fromkeys(known[_letters(name)] for name in given))


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text)).casefold()


def choose_class(text: str, classes: tuple[str, ...]) -> int:
    """The index of a class given by name, whatever its case, or by index; a name wins over an index.

    Raises:
        ConfigError: No class of that name (lists near ones) or index.
    """
    wanted = text.strip()
    if wanted in classes:
        return classes.index(wanted)
    folded = [name.casefold() for name in classes]
    if wanted.casefold() in folded:
        return folded.index(wanted.casefold())
    if wanted.isdecimal():
        if int(wanted) < len(classes):
            return int(wanted)
        raise ConfigError(f"--class: expected an index in 0 … {len(classes) - 1}, got {wanted}")
    asked = wanted.casefold()[:LONGEST_COMPARED]
    near = difflib.get_close_matches(asked, folded, n=5, cutoff=0.4) or folded[:5]
    names = ", ".join(printable(classes[folded.index(each)]) for each in near)
    raise ConfigError(f"--class: the classifier has no class {printable(wanted)!r}; near: {names} (or give an index)")
