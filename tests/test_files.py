"""Files appear whole or not at all."""

import errno
import json
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest

from dcganlib.datasets import celeba, image_files, mnist
from dcganlib.runtime import checkpoint
from dcganlib.runtime.files import cache_dir, expand_user, writable, write_atomically, write_text

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


@pytest.mark.posix("names of files are text")
def test_a_text_with_a_name_that_is_no_utf8_can_be_written_and_json_gives_the_name_back(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "a.json", json.dumps({"é": name}, ensure_ascii=False))
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "é" in text
    assert os.fsencode(json.loads(text)["é"]) == b"caf\xe9"


# Drives that cannot do all


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EOPNOTSUPP, errno.EACCES, errno.EBADF, errno.ENOSYS])
@pytest.mark.parametrize("call", ["open", "fsync"])
def test_a_file_is_written_where_folders_cannot_be_flushed(tmp_path, monkeypatch, number, call):
    usual = getattr(os, call)

    def refuse(target, *more):
        status = os.stat(target)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(number, os.strerror(number))
        return usual(target, *more)

    monkeypatch.setattr(os, call, refuse)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "whole"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_disk_that_fails_to_keep_a_file_is_an_error_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_bytes(OLD)

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        write_text(path, "new")
    assert path.read_bytes() == OLD
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_file_that_is_a_mount_gets_its_content_replaced(tmp_path, monkeypatch, number):
    path, before = tmp_path / "a.bin", tmp_path / "before.bin"
    path.write_bytes(OLD)
    inode = path.stat().st_ino

    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    write_atomically(path, lambda temporary: temporary.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert path.stat().st_ino == inode
    write_atomically(path, lambda temporary: temporary.write_bytes(b"newer"), previous=before)
    assert (path.read_bytes(), before.read_bytes()) == (b"newer", b"new")
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "before.bin"]


def test_a_move_that_fails_otherwise_is_an_error_and_the_old_file_stays(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    path.write_bytes(OLD)

    def refuse(source, target):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_text(path, "new")
    assert path.read_bytes() == OLD


def test_a_folder_can_be_written_if_it_can_be_made_and_nothing_is_left_in_it(tmp_path):
    assert writable(tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder").is_dir()
    assert writable(tmp_path)
    (tmp_path / "file").write_bytes(OLD)
    assert not writable(tmp_path / "file")
    assert not writable(tmp_path / "file" / "below")
    if sys.platform == "linux":
        assert not writable(Path("/proc/self"))
    assert sorted(os.listdir(tmp_path)) == ["file", "new"]
    assert os.listdir(tmp_path / "new" / "folder") == []


@pytest.mark.parametrize(
    ("number", "can"), [(errno.EROFS, False), (errno.EACCES, False), (errno.ENOSPC, True)]
)
def test_a_full_folder_can_be_written_and_a_read_only_one_cannot(tmp_path, monkeypatch, number, can):
    def refuse(**where):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert writable(tmp_path) is can


# The user's folders


@pytest.fixture
def homeless(monkeypatch):
    """No HOME, and a user whom the system does not know, as in a container with an arbitrary one."""

    def unknown(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pytest.importorskip("pwd"), "getpwuid", unknown)


def test_the_cache_is_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # which Windows looks at
    assert cache_dir() == tmp_path / ".cache" / "dcganlib"
    assert expand_user("~/a") == expand_user(Path("~/a")) == tmp_path / "a"
    assert expand_user("a/~") == Path("a/~")


@pytest.mark.posix("the home is not asked of pwd")
@pytest.mark.usefixtures("homeless")
def test_without_a_home_the_cache_is_among_the_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert cache_dir().parent == tmp_path
    assert writable(cache_dir())


@pytest.mark.posix("the home is not asked of pwd")
@pytest.mark.usefixtures("homeless")
def test_without_a_home_a_path_into_it_is_refused_by_name():
    with pytest.raises(FileNotFoundError, match="~/pictures: there is no home folder"):
        expand_user("~/pictures")
    assert expand_user("/a") == Path("/a")


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><title>Quota", b"\xef\xbb\xbf\r\n <HTML lang=en>"])
@pytest.mark.parametrize(
    "read",
    [
        checkpoint.load,
        checkpoint.load_generator,
        image_files.open_zip,
        lambda path: mnist.read_idx(path, 3),
        lambda path: celeba.decode_text(str(path), path.read_bytes()),
    ],
    ids=["checkpoint", "generator", "zip", "idx", "list"],
)
def test_a_web_page_in_the_place_of_a_file_is_called_one(tmp_path, read, page):
    path = tmp_path / "file"
    path.write_bytes(page)
    with pytest.raises(
        ValueError, match=r"file is a web page, not the file\. .* in a browser, or tomorrow\.$"
    ):
        read(path)


def test_a_list_that_merely_mentions_a_page_is_read(tmp_path):
    assert celeba.decode_text("a.txt", b"x <!DOCTYPE html>") == "x <!DOCTYPE html>"
