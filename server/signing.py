"""`heatward keygen`, `sign`, `verify`: key files and a bundle's path or URL in, a line and an exit code out.

They need neither a server nor training; what they print is a key's name, a bundle's digest, and never a key.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from heatward.cli.exit_codes import ExitCode
from heatward.cli.options import Parser

from detector.errors import ConfigError, HeatwardError
from detector.keys import PublicKeys, SigningKey, make_key
from detector.remote import shown
from detector.text import printable

__all__ = ["keygen", "sign", "verify"]

BUNDLE = "a .heatward file, a bundle's folder, or the URL of a file"
PUBLIC = ".pub"


def keygen(argv: Sequence[str] | None = None) -> int:
    """`heatward keygen FILE`."""
    parser = Parser(
        "heatward keygen",
        description="Make a pair of Ed25519 keys: FILE signs bundles, FILE.pub verifies them. Both are PEM files.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="where the private key goes; only you may read it")
    return _exit_code("keygen", parser.parse_args(argv), _keygen)


def sign(argv: Sequence[str] | None = None) -> int:
    """`heatward sign BUNDLE --key FILE`."""
    parser = Parser(
        "heatward sign",
        description="Verify a bundle and sign it where it lies. Its digest and its version stay the same.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    parser.add_argument("--key", type=Path, required=True, metavar="FILE", help="private Ed25519 key in PEM (PKCS8)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return _exit_code("sign", parser.parse_args(argv), _sign)


def verify(argv: Sequence[str] | None = None) -> int:
    """`heatward verify BUNDLE --key FILE`."""
    parser = Parser(
        "heatward verify",
        description="Verify every file of a bundle, and that one of these keys signed it. Exit code 1: none did.",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help=BUNDLE)
    parser.add_argument(
        "--key",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="public Ed25519 keys in PEM; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return _exit_code("verify", parser.parse_args(argv), _verify)


def _keygen(arguments: argparse.Namespace) -> None:
    if not arguments.file.name:
        raise ConfigError(f"FILE is {str(arguments.file)!r}, a folder: say what the private key is to be called in it")
    public = arguments.file.with_name(arguments.file.name + PUBLIC)
    key = make_key(arguments.file, public)
    print(f"key {key.name}\nsigns: {printable(str(arguments.file))}\nverifies: {printable(str(public))}")


def _sign(arguments: argparse.Namespace) -> None:
    key = SigningKey.read("--key", arguments.key)
    if exposure := key.exposure():
        print(f"warning: {exposure}", file=sys.stderr)
    from detector.bundle import sign_bundle  # torch: only once the key is right

    _tell(arguments, sign_bundle(arguments.bundle, key), key.name)


def _verify(arguments: argparse.Namespace) -> None:
    keys = PublicKeys.read("--key", arguments.key)
    from detector.bundle import verify_bundle

    _tell(arguments, *verify_bundle(arguments.bundle, keys))


def _tell(arguments: argparse.Namespace, digest: str, key: str) -> None:
    bundle = shown(arguments.bundle)
    if arguments.json:
        print(json.dumps({"bundle": bundle, "digest": digest, "key": key}, indent=2))
    else:
        print(f"{printable(bundle, None)}\ndigest {digest}\nsigned by the key {key}")


def _exit_code(name: str, arguments: argparse.Namespace, command: Callable[[argparse.Namespace], None]) -> int:
    try:
        command(arguments)
    except HeatwardError as error:
        print(f"heatward {name}: {printable(str(error), None)}", file=sys.stderr)
        return ExitCode.MISTAKE if isinstance(error, ConfigError) else ExitCode.FAILED
    except OSError as error:  # a folder that cannot be written, a full disk
        place = f"{error.filename}: " if error.filename else ""
        print(f"heatward {name}: {printable(f'{place}{error.strerror or error}', None)}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK
