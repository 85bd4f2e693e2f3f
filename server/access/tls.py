"""`tls_certificate`, `tls_key`, `tls_client_ca` ─▶ **server credentials** that follow their files without a restart.

gRPC asks for the certificates before each handshake: a new connection sees the files as they are now, open connections
live on. With `tls_client_ca` a client must show a certificate that it signed (mutual TLS).
"""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from detector.errors import ConfigError
from server.access.watched import Watched, file_name
from server.config import ServerConfig

__all__ = ["check_certificates", "credentials"]

CERTIFICATE, KEY, CLIENT_CA = "tls_certificate", "tls_key", "tls_client_ca"


def credentials(config: ServerConfig, on_reload: Callable[[str, bool], None]) -> grpc.ServerCredentials | None:
    """Credentials for `add_secure_port`; None where the settings name no certificate.

    Args:
        config: Names the files.
        on_reload: Told "certificates" and whether new ones could be used.

    Raises:
        ConfigError: A file is missing, not PEM, or does not fit the others; names the setting and the file.
    """
    named = {CERTIFICATE: config.tls_certificate, KEY: config.tls_key, CLIENT_CA: config.tls_client_ca}
    files = {setting: file for setting, file in named.items() if file is not None}
    if not files:
        return None
    for setting in (CERTIFICATE, KEY):
        if setting not in files:
            given = " and ".join(f"{name} = {file_name(file)}" for name, file in files.items())
            raise ConfigError(f"{setting}: required where there is {given}: name a PEM file")

    def parse(contents: dict[str, bytes]) -> grpc.ServerCertificateConfiguration:
        for setting in contents.keys() - {KEY}:
            check_certificates(setting, files[setting], contents[setting])
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            with _as_file(contents[CERTIFICATE]) as certificate, _as_file(contents[KEY]) as key:
                context.load_cert_chain(certificate, key, password="")  # never asks a terminal for one
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            reason = getattr(error, "reason", None) or "cannot be read"
            raise ConfigError(
                f"{KEY}: {files[KEY]} is no private key in PEM, without a passphrase, of the certificate"
                f" {files[CERTIFICATE]} ({reason})"
            ) from None
        return grpc.ssl_server_certificate_configuration(
            [(contents[KEY], contents[CERTIFICATE])], root_certificates=contents.get(CLIENT_CA)
        )

    watched = Watched("certificates", files, parse, on_reload=on_reload)
    current = watched.get()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal current
        previous, current = current, watched.get()
        return None if current is previous else current

    return grpc.dynamic_ssl_server_credentials(current, fetch, require_client_authentication=CLIENT_CA in files)


def check_certificates(setting: str, file: Path, content: bytes) -> None:
    """Before gRPC, which would say nothing of it. Comments may be in any language.

    Raises:
        ConfigError: There is none that can be read.
    """
    try:
        ssl.create_default_context(cadata=content.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise ConfigError(f"{setting}: {file} holds no certificate in PEM") from None


@contextmanager
def _as_file(content: bytes) -> Iterator[Path]:
    """A file that holds it, in memory where the system can: what is checked is what was read."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("heatward"), "wb") as file:
            file.write(content)
            file.flush()
            yield Path(f"/proc/self/fd/{file.fileno()}")
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "pem"
            path.write_bytes(content)
            yield path
