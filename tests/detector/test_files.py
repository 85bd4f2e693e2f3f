"""A file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from detector.files import replacing, write_file


def test_a_file_takes_the_place_of_the_old_one_and_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    write_file(path, b"old")
    write_file(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(path.parent) == ["b.txt"]


def test_until_it_is_whole_the_old_one_stays_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "b.txt"
    write_file(path, b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as stream:
        stream.write(b"half")
        stream.flush()
        assert path.read_bytes() == b"old"
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["b.txt"]


def test_a_disk_that_does_not_take_it_is_an_error_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "b.txt"
    write_file(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["b.txt"]


def test_who_could_read_the_old_file_can_read_the_new_one(tmp_path: Path) -> None:
    path, other = tmp_path / "b.txt", tmp_path / "c.txt"
    write_file(path, b"old")
    path.chmod(0o640)
    before = os.umask(0o077)
    try:
        write_file(path, b"new")
        write_file(other, b"new", like=path)
    finally:
        os.umask(before)
    assert [each.stat().st_mode & 0o777 for each in (path, other)] == [0o640, 0o640]


@pytest.mark.parametrize(("before", "after"), [(0o664, 0o644), (0o660, 0o600), (0o640, 0o600), (0o4755, 0o755)])
def test_where_a_file_cannot_be_given_to_its_group_ours_gets_none_of_its_rights(
    before: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "b.txt"
    write_file(path, b"old")
    path.chmod(before)
    found = os.fstat
    monkeypatch.setattr(os, "fchown", refused)
    monkeypatch.setattr(os, "fstat", lambda file: os.stat_result([*found(file)[:5], os.getgid() + 1, 0, 0, 0, 0]))
    write_file(path, b"new")
    assert path.stat().st_mode & 0o7777 == after and path.read_bytes() == b"new"


def test_an_error_names_the_file_and_not_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "b.txt").mkdir()
    with pytest.raises(OSError) as caught:
        write_file(tmp_path / "b.txt", b"new")
    assert caught.value.filename == str(tmp_path / "b.txt")
