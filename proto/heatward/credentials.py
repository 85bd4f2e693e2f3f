"""Tokens and PEM files as a caller names them go in; what can be sent comes out. No error shows a secret."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

__all__ = ["PEM", "clean_token", "read_pem"]

PEM: TypeAlias = bytes | str | os.PathLike[str]
"""The content of a PEM file, or its path."""

SPACE = " \t\r\n\v\f\ufeff\u200b\0"  # what editors, `echo` and secret files leave at the ends


def clean_token(token: str | None) -> str | None:
    """The token without white space and byte order mark at its ends.

    Raises:
        TypeError: It is no string.
        ValueError: It cannot be sent as HTTP metadata.
    """
    if token is None or token == "":
        return None
    if not isinstance(token, str):
        raise TypeError(f"token is a str; this is a {type(token).__qualname__}")
    clean = token.strip(SPACE)
    if not clean:
        raise ValueError("the token holds nothing but white space")
    if not all(" " <= letter <= "~" for letter in clean):
        fault = "a line break or control character" if clean.isascii() else "a letter that is not ASCII"
        raise ValueError(
            f"the token holds {fault} (not shown here), which cannot be sent: is it another file's content?"
        )
    return clean


def read_pem(name: str, pem: PEM | None) -> bytes | None:
    """The content, whether it is given itself or by its path; `name` is the argument.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not PEM.
    """
    if pem is None:
        return None
    if isinstance(pem, str) and ("-----BEGIN" in pem or "\n" in pem):
        content = pem.encode()
    elif isinstance(pem, bytes):
        content = pem
    else:
        try:
            content = Path(pem).read_bytes()
        except OSError as error:  # without the path: it may be a key that was given in place of one
            what = "the file that it names" if name == "key" else os.fspath(pem)
            raise OSError(error.errno, f"{name}: cannot read {what}: {error.strerror}") from None
    if b"-----BEGIN" not in content:
        raise ValueError(f"{name} is not PEM, which begins with -----BEGIN: give the content or the path of a PEM file")
    return content
