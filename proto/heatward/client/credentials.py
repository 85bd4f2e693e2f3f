"""Tokens and PEM files as a caller names them go in; what can be sent comes out. No error shows a secret."""

from __future__ import annotations

import codecs
import os
import ssl
from pathlib import Path
from typing import TypeAlias

__all__ = ["PEM", "check_pair", "clean_token", "read_pem"]

PEM: TypeAlias = bytes | str | os.PathLike[str]
"""The content of a PEM file, or its path."""

LONGEST_TOKEN = 6000
"""A call's metadata may weigh 8 KiB; beyond that, servers drop calls by chance."""
LONGEST_NAME = 150
"""Characters of a path that an error repeats: what is longer may be a key that was given in its place."""
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
    if len(clean) > LONGEST_TOKEN:
        raise ValueError(f"the token has {len(clean)} characters, and at most {LONGEST_TOKEN} can be sent")
    return clean


def read_pem(name: str, pem: PEM | None) -> bytes | None:
    """The content, whether it is given itself or by its path, as UTF-8 without a byte order mark.

    Args:
        name: The argument; "key" stands for a private key, everything else for certificates.
        pem: What was given for it.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not PEM, or does not hold what it should.
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
            path = os.fsdecode(pem)
            what = "the file that it names" if name == "key" or len(path) > LONGEST_NAME else path
            raise OSError(error.errno, f"{name}: cannot read {what}: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    content = content.replace(codecs.BOM_UTF8, b"")  # joined files may have a mark in the middle
    if b"-----BEGIN" not in content:
        raise ValueError(f"{name} is not PEM, which begins with -----BEGIN: give the content or the path of a PEM file")
    if name == "key":
        _check_key(content)
    else:
        _check_certificates(name, content)
    return content


def check_pair(certificate: bytes | None, key: bytes | None) -> None:
    """Whether the key is the certificate's; asked only where it needs no file on a disk.

    Raises:
        ValueError: It is not, or one of them is damaged.
    """
    if certificate is None or key is None or not hasattr(os, "memfd_create"):
        return
    with open(os.memfd_create("heatward"), "wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        try:
            ssl.create_default_context().load_cert_chain(f"/proc/self/fd/{file.fileno()}", password="")
        except (OSError, ValueError):  # ssl.SSLError is an OSError
            raise ValueError("key is damaged, or is not the private key of certificate") from None


def _check_certificates(name: str, content: bytes) -> None:
    """Before gRPC, which would say no more than that the deadline has passed."""
    try:
        ssl.create_default_context(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        hint = ": it holds a private key, which goes into key=" if b"PRIVATE KEY" in content else ""
        raise ValueError(f"{name} holds no certificate in PEM that can be read{hint}") from None


def _check_key(content: bytes) -> None:
    if b"ENCRYPTED" in content:
        raise ValueError("key is encrypted, and there is nobody to ask for its passphrase: take it off")
    if b"PRIVATE KEY-----" not in content:
        hint = ": it holds a certificate, which goes into certificate=" if b"CERTIFICATE" in content else ""
        raise ValueError(f"key holds no private key in PEM{hint}")
