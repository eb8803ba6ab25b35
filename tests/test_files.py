"""Files appear whole or not at all."""

import os
import sys
from pathlib import Path

import pytest

from dcganlib.files import writable, write_atomically, write_text

OLD = b"the old content"


def test_a_writer_that_fails_half_way_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)

    def write(temporary):
        temporary.write_bytes(b"half of the ne")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_atomically(path, write)
    assert path.read_bytes() == OLD
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_written_beside_its_place_flushed_and_then_moved(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def watched_replace(source, target):
        assert Path(source).parent == tmp_path
        assert Path(source).suffix == ".bin"  # writers such as PIL choose the format by it
        assert path.read_bytes() == OLD
        events.append("move")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    if sys.platform == "linux":  # where /proc tells a folder from a file
        assert events == ["file", "move", "folder"]


def test_a_text_is_utf8_with_plain_line_ends_on_every_system(tmp_path):
    write_text(str(tmp_path / "a.txt"), "é\nß\n")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n\xc3\x9f\n"


def test_a_folder_can_be_written_if_it_can_be_made(tmp_path, monkeypatch):
    assert writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    assert writable(tmp_path)
    (tmp_path / "file").write_bytes(OLD)
    assert not writable(tmp_path / "file")
    assert not writable(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert not writable(tmp_path)
