"""The Python in README.md and docs/client.md runs as it stands, but for the addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from fake_servicer import FakeServer

ROOT = Path(__file__).parents[3]
BLOCKS = [
    block
    for name in ("README.md", "docs/client.md")
    for block in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
]
ADDRESSES = re.compile(r"127\.0\.0\.1:50051|10\.0\.0\.1:50051,10\.0\.0\.2:50051")
TLS_ADDRESS = '"guard.test:50051",'


class Context:
    """Of a call that came without a deadline, as the synchronous server has it."""

    def time_remaining(self) -> float:
        return 9.223372035059309e18


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("cat.jpg", "dog.jpg", "detector/embedded/samples/cat/0000.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"attacked")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "docs"}
    exec(compile(code, "docs/client.md", "exec"), names)
    return names


@pytest.mark.parametrize("block", [block for block in BLOCKS if TLS_ADDRESS not in block])
def test_a_block_runs(server: FakeServer, folder: Path, block: str) -> None:
    names = run(ADDRESSES.sub(server.address, block))
    if "is_attacked" in names:
        assert names["is_attacked"](b"attacked", Context())
        names["client"].close()
    assert server.detector.calls
    assert names.get("attacked", True)


def test_the_tls_block_runs(folder: Path) -> None:
    (block,) = (block for block in BLOCKS if TLS_ADDRESS in block)
    authority = trustme.CA()
    mine, theirs = authority.issue_cert("pipeline.test"), authority.issue_cert("guard.test")
    authority.cert_pem.write_to_path(str(folder / "roots.pem"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    mine.private_key_pem.write_to_path(str(folder / "client.key"))
    pair = (theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())
    server = FakeServer(grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), True))
    try:
        run(block.replace(TLS_ADDRESS, f'"{server.address}", server_name="guard.test",'))
        assert server.detector.metadata["authorization"] == "Bearer secret"
    finally:
        server.stop()
