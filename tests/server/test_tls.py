"""TLS and mTLS as a client sees them, while the files change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from heatward.v1 import detection_pb2_grpc
from sample_requests import picture, raw

from detector.errors import ConfigError
from server.access.tls import credentials
from server.config import ServerConfig

OLD, NEW, CLIENTS = trustme.CA(), trustme.CA(), trustme.CA()


def write(folder: Path, authority: trustme.CA) -> dict[str, Path]:
    certificate = authority.issue_cert("localhost")
    files = {"tls_certificate": folder / "server.pem", "tls_key": folder / "server.key"}
    files["tls_certificate"].write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    files["tls_key"].write_bytes(certificate.private_key_pem.bytes())
    return files


def connect(address: str, authority: trustme.CA, client: trustme.LeafCert | None = None) -> grpc.aio.Channel:
    own = (client.private_key_pem.bytes(), client.cert_chain_pems[0].bytes()) if client else (None, None)
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), *own)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    return grpc.aio.secure_channel(address, trusted, options=options)


async def label(channel: grpc.aio.Channel) -> int:
    stub = detection_pb2_grpc.DetectionServiceStub(channel)
    return (await stub.Detect(raw(picture(7)), timeout=10)).predicted.index


async def is_refused(channel: grpc.aio.Channel) -> bool:
    async with channel:
        try:
            await label(channel)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def test_new_certificates_serve_new_connections_and_old_ones_live_on(serving, tmp_path: Path):
    async with serving(**write(tmp_path, OLD)) as served, connect(served.app.address, OLD) as before:
        assert await label(before) == 7
        assert await is_refused(connect(served.app.address, NEW))
        write(tmp_path, NEW)
        async with connect(served.app.address, NEW) as after:
            assert await label(after) == 7
        assert await is_refused(connect(served.app.address, OLD))
        assert await label(before) == 7


async def test_broken_files_keep_the_old_certificates_and_are_reported_once(
    serving, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO", "heatward.files")
    async with serving(**write(tmp_path, OLD)) as served:
        other = tmp_path / "other"
        other.mkdir()
        good = write(other, NEW)
        (tmp_path / "server.pem").write_bytes(good["tls_certificate"].read_bytes())  # the key is still the old one's
        for _ in range(3):
            async with connect(served.app.address, OLD) as channel:
                assert await label(channel) == 7
        faults = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
        assert len(faults) == 1 and "server.key" in faults[0] and "MISMATCH" in faults[0]
        (tmp_path / "server.key").write_bytes(good["tls_key"].read_bytes())
        async with connect(served.app.address, NEW) as channel:
            assert await label(channel) == 7
        counted = [
            served.app.metrics.registry.get_sample_value(
                "heatward_reloads_total", {"what": "certificates", "outcome": outcome}
            )
            for outcome in ("failed", "loaded")
        ]
    assert counted == [1, 1]


async def test_mutual_tls_asks_clients_for_a_certificate_of_ours(serving, tmp_path: Path):
    authorities = tmp_path / "clients.pem"
    CLIENTS.cert_pem.write_to_path(str(authorities))
    ours, foreign = CLIENTS.issue_cert("client@example.org"), OLD.issue_cert("client@example.org")
    async with serving(**write(tmp_path, OLD), tls_client_ca=authorities) as served:
        async with connect(served.app.address, OLD, ours) as channel:
            assert await label(channel) == 7
        assert await is_refused(connect(served.app.address, OLD))
        assert await is_refused(connect(served.app.address, OLD, foreign))
        NEW.cert_pem.write_to_path(str(authorities))  # the clients' authority may change, too
        assert await is_refused(connect(served.app.address, OLD, ours))


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b"\xff\xfe"])
async def test_pem_files_may_begin_with_a_byte_order_mark(serving, tmp_path: Path, mark: bytes):
    files = write(tmp_path, OLD) | {"tls_client_ca": tmp_path / "clients.pem"}
    CLIENTS.cert_pem.write_to_path(str(files["tls_client_ca"]))
    for file in files.values():
        text = file.read_text().replace("\n", "\r\n")
        file.write_bytes(mark + text.encode("utf-16-le" if mark == b"\xff\xfe" else "utf-8"))
    client = CLIENTS.issue_cert("client@example.org")
    async with serving(**files) as served, connect(served.app.address, OLD, client) as channel:
        assert await label(channel) == 7


async def test_plain_clients_are_refused(serving, tmp_path: Path):
    async with serving(**write(tmp_path, OLD)) as served:
        assert await is_refused(grpc.aio.insecure_channel(served.app.address))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ({"tls_key": None}, r"tls_key: required where there is tls_certificate = .*server\.pem"),
        ({"tls_certificate": None}, r"tls_certificate: required where there is tls_key = .*server\.key"),
        ({"tls_certificate": None, "tls_key": None, "tls_client_ca": "nowhere.pem"}, "tls_certificate: required"),
        ({"tls_certificate": "nowhere.pem"}, r"tls_certificate: cannot read nowhere\.pem: No such file"),
        ({"tls_client_ca": "nowhere.pem"}, r"tls_client_ca: cannot read nowhere\.pem"),
        ({"tls_certificate": "text"}, r"tls_certificate: .*text holds no certificate in PEM"),
        ({"tls_client_ca": "text"}, r"tls_client_ca: .*text holds no certificate in PEM"),
        ({"tls_key": "text"}, r"tls_key: .*text is no private key in PEM"),
        ({"tls_key": "locked"}, r"tls_key: .*locked is no private key in PEM, without a passphrase"),
    ],
)
def test_files_that_cannot_be_used_are_named(tmp_path: Path, spoil: dict[str, str | None], message: str):
    files = write(tmp_path, OLD)
    (tmp_path / "text").write_text("-----BEGIN CERTIFICATE-----\nhello\n-----END CERTIFICATE-----\n")
    (tmp_path / "locked").write_bytes(locked(files["tls_key"].read_bytes()))
    named: dict[str, Any] = {
        key: (tmp_path / value if value in ("text", "locked") else value) for key, value in spoil.items()
    }
    with pytest.raises(ConfigError, match=message) as caught:
        credentials(ServerConfig(**(files | named)), lambda what, fine: None)
    assert not re.search("BEGIN|hello", str(caught.value))


def locked(key: bytes) -> bytes:
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    private = load_pem_private_key(key, None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


def test_a_comment_in_any_language_may_stand_between_certificates(tmp_path: Path):
    files: dict[str, Any] = write(tmp_path, OLD)
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes("# Autorit\u00e9\n".encode() + CLIENTS.cert_pem.bytes())
    assert credentials(ServerConfig(**files, tls_client_ca=authorities), lambda what, fine: None) is not None
