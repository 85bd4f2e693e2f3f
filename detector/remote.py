"""Places by URL (`s3://`, `gs://`, `hf://`, `memory://`, `file://`, …) ⇄ **whole local files**, by fsspec's drivers.

    URL ─▶ stamp: ETag, size, time       file ─▶ the object, put at once
       └─▶ a private copy, whole: as many bytes as the store announced, and no more than a limit

Drivers find credentials as they always do, in the environment; nothing here stores any. Errors name a URL without what
may be a secret: the user, the query. A setting that is a `Path` may hold a URL: a path makes `s3:/x` of `s3://x`, and
it is read back here. Nothing imports fsspec before a URL is used.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from detector.errors import ConfigError, HeatwardError, StoreError
from detector.files import replacing

__all__ = ["check_writable", "download", "is_url", "listing", "local_copy", "shown", "stamp", "uploading", "version_of"]

T = TypeVar("T")

URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.+)", re.DOTALL)  # two letters or more: c:/ is a drive
SECRETS = re.compile(r"(?<=://)[^/@\s]*@|[?#]\S*")
DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "az": "adlfs"}
VERSIONS = ("VersionId", "ETag", "etag", "generation", "md5Hash", "blob_id", "content_md5", "ino")
TIMES = ("LastModified", "last_modified", "mtime", "updated", "created", "last_commit")
PATIENCE_S = 60.0
"""How long a store may take for one answer: what a file is, or its next part."""
PART = 8 * 2**20
LARGEST = 32 * 2**30
"""Bytes of the largest object that is fetched; what a bundle's files may weigh is checked when it is read."""


def is_url(place: str | Path) -> bool:
    """Whether a place is a URL, and no path."""
    return URL.fullmatch(str(place)) is not None


def shown(place: str | Path) -> str:
    """A place as people and logs may see it: a URL without user and query."""
    return SECRETS.sub("", _url(place)) if is_url(place) else str(place)


def stamp(place: str | Path) -> tuple[str, int]:
    """Version and size of an object: they change when it does.

    Raises:
        StoreError: The store does not say.
        ConfigError: There is no driver for such URLs.
    """
    info = _info(place)
    return version_of(info), int(info.get("size") or 0)


def version_of(info: Mapping[str, Any]) -> str:
    """What a driver says of an object's version, and when it was written."""
    return " ".join(str(info[name]) for name in (*VERSIONS, *TIMES) if info.get(name) is not None)


def listing(place: str | Path) -> dict[str, dict[str, Any]]:
    """Every object below a URL: its name, relative to it, and what the driver says of it.

    Raises:
        StoreError: The store does not list it.
        ConfigError: There is no driver for such URLs.
    """
    found: dict[str, dict[str, Any]] = _answer(place, lambda: _find(*_open(place)))
    return found


def download(place: str | Path, file: Path) -> None:
    """Fetch an object, whole.

    Raises:
        StoreError: It is not there, is refused, is larger than any bundle, or ends early.
        ConfigError: There is no driver for such URLs.
    """
    size = _info(place).get("size")  # None where a web server does not say
    most = LARGEST if size is None else int(size)
    if most > LARGEST:
        raise StoreError(f"{shown(place)} has {size} bytes, at most {LARGEST} are fetched: name another object.")
    system, path = _open(place)
    come = 0
    with file.open("wb") as copy:
        stream = _answer(place, lambda: system.open(path, "rb"))
        try:
            while part := _answer(place, lambda: stream.read(PART)):
                come += copy.write(part)
                if come > most:
                    break
        finally:
            with suppress(Exception):
                stream.close()
    if come > most or (size is not None and come < most):
        raise StoreError(
            f"{shown(place)} was announced with {most} bytes, {come} came: it was cut or changed, try again."
        )


@contextmanager
def local_copy(place: str | Path) -> Iterator[Path]:
    """A file that holds what is there: a path itself or, of a URL, a private copy that lasts as long as the context.

    What is said of the copy in an error is said of the URL.

    Raises:
        StoreError: It cannot be fetched.
        ConfigError: There is no driver for such URLs.
    """
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="heatward-") as folder:
        file = Path(folder) / Path(shown(place)).name
        download(place, file)
        try:
            yield file
        except HeatwardError as error:
            raise type(error)(str(error).replace(str(file), shown(place))) from error


@contextmanager
def uploading(place: str | Path) -> Iterator[Path]:
    """A local file to write, which is put at a URL when the context ends well: all of it, or nothing.

    Raises:
        StoreError: The store does not take it.
        ConfigError: There is no driver for such URLs.
    """
    system, path = _open(place)
    with tempfile.TemporaryDirectory(prefix="heatward-") as folder:
        file = Path(folder) / Path(shown(place)).name
        yield file
        if "file" in _protocols(system):  # a copy is no rename
            with replacing(Path(path)) as stream:
                stream.write(file.read_bytes())
            return
        _answer(place, lambda: system.put_file(str(file), path), waits=True)


def check_writable(place: str | Path) -> None:
    """Puts an empty object beside the place and removes it: only this shows whether a store takes what will come.

    Raises:
        StoreError: It does not.
        ConfigError: There is no driver for such URLs.
    """
    system, path = _open(place)
    _answer(place, lambda: system.pipe_file(f"{path}.probe", b""))
    with suppress(StoreError):  # who may put need not be allowed to remove
        _answer(place, lambda: system.rm_file(f"{path}.probe"))


def _url(place: str | Path) -> str:
    scheme, rest = URL.fullmatch(str(place)).groups()  # type: ignore[union-attr]
    return f"{scheme}://{'/' if scheme == 'file' else ''}{rest}"


def _open(place: str | Path) -> tuple[Any, str]:
    """The driver and what it calls the place."""
    url = _url(place)
    scheme = url.partition(":")[0]
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError(f"{shown(place)}: URLs need fsspec: pip install 'heatward[remote]'") from error
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        driver = DRIVERS.get(scheme)
        mend = f"pip install {driver}" if driver else str(error)
        raise ConfigError(f"{shown(place)}: the driver of {scheme}:// is not installed: {mend}") from error
    except ValueError as error:
        raise ConfigError(f"{shown(place)}: no driver knows {scheme}://; s3, gs, hf and file are usual") from error
    opened: tuple[Any, str] = _answer(place, lambda: fsspec.url_to_fs(url))
    return opened


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _info(place: str | Path) -> Mapping[str, Any]:
    system, path = _open(place)

    def ask() -> Any:
        system.invalidate_cache()  # what the store says now
        return system.info(path)

    info: Mapping[str, Any] = _answer(place, ask)
    if info.get("type") == "directory":
        raise StoreError(f"{shown(place)} is a folder: name one file.")
    return info


def _find(system: Any, path: str) -> dict[str, dict[str, Any]]:
    system.invalidate_cache()
    root = path.rstrip("/")
    found = system.find(root, detail=True)
    if not found and not system.exists(root):
        raise FileNotFoundError(root)
    return {name.removeprefix(root).lstrip("/"): info for name, info in found.items() if name != root}


def _answer(place: str | Path, ask: Callable[[], T], *, waits: bool = False) -> T:
    """What a driver answers, in time unless `waits`; on a thread that the end of the process does not wait for."""
    answer: Future[T] = Future()

    def work() -> None:
        try:
            answer.set_result(ask())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=work, name="heatward-store", daemon=True).start()
    try:
        return answer.result(None if waits else PATIENCE_S)
    except TimeoutError as error:
        said = f"the store did not answer within {PATIENCE_S:g} s"
        raise StoreError(f"{shown(place)}: {said}: check the endpoint and the network.") from error
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise _failed(place, error.__cause__) from error  # of a web server that does not answer
        raise StoreError(f"{shown(place)}: there is no such object or bucket (404): check the URL.") from error
    except PermissionError as error:
        raise StoreError(
            f"{shown(place)}: the store refuses it (403): check the credentials in the environment and their rights."
        ) from error
    except Exception as error:  # a driver's own
        raise _failed(place, error) from error


def _failed(place: str | Path, error: BaseException) -> StoreError:
    said = SECRETS.sub("", f"{type(error).__name__}: {error}".replace(_url(place), shown(place)))
    return StoreError(f"{shown(place)}: the store failed: {said.splitlines()[0][:300]}")
