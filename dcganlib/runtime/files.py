"""Files written whole or not at all: filled beside their place, flushed to the disk, moved in one step.

Also locks on folders, so that one process at a time writes there, and the user's home and cache folder.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from filelock import BaseFileLock

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNSUPPORTED = (
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY),
    *(errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR),
)
"""What drives answer that cannot flush a file or a folder: some of VirtualBox, SMB, FUSE and WSL."""
LOCKLESS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""What drives answer that know no locks."""
LOCK = ".lock"


def write_atomically(
    path: str | Path,
    write: Callable[[Path], Any],
    *,
    size: int | None = None,
    previous: Path | None = None,
) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then move it into place in one step.

    Args:
        path: File to write.
        write: Takes the temporary file's path.
        size: Bytes that it will write, where they are known; named if the disk is full.
        previous: Where an older file at ``path`` goes; it is replaced if absent. At every moment one of the
            two files is whole.

    Raises:
        OSError: The file cannot be written: the disk is full, the folder is gone or may not be written to.
            What was at ``path`` is still there, and nothing half-written is.

    Where ``path`` is a mount of its own, as a single file that a container is given, nothing can take its
    place in one step: its content is replaced instead.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        write(temporary)
        _flush(temporary, os.O_RDWR)
        if previous is not None and path.exists():
            _move(path, previous)
        _move(temporary, path)
    except OSError as error:
        if error.errno in FULL:
            needed = f"more than {_written(temporary):,}" if size is None else f"{size:,}"
            temporary.unlink(missing_ok=True)  # so that what is said to be free is what is
            raise no_room(path, needed, error.errno) from error
        if not path.parent.is_dir():
            raise _no_folder(path) from error
        raise
    finally:
        with suppress(FileNotFoundError):  # gone already when all went well
            temporary.unlink()
    if os.name == "posix":  # make the move itself last through a power cut; Windows opens no folders
        _flush(path.parent, os.O_RDONLY)


def write_bytes(path: str | Path, content: bytes | bytearray, *, previous: Path | None = None) -> None:
    """Write a binary file with ``write_atomically``."""
    write_atomically(
        path, lambda temporary: temporary.write_bytes(content), size=len(content), previous=previous
    )


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8, with ``write_atomically``.

    Bytes of a file name that are no UTF-8 (lone surrogates in Python) become escapes, which JSON reads back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def no_room(path: Path, needed: str, number: int = errno.ENOSPC) -> OSError:
    """The error to raise where a disk is full, or too full to begin."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    free = shutil.disk_usage(there).free
    return OSError(
        number, f"no room for {path}: {needed} bytes are needed, {free:,} are free. Free some space there"
    )


@contextmanager
def locked(folder: Path) -> Iterator[Callable[[], None]]:
    """Hold a folder, so that no other process that asks for it writes into it; tidy up after a killed one.

    The system lets go of it when this process ends, however it ends. On a drive that knows no locks the
    folder is not guarded.

    Args:
        folder: An existing folder.

    Yields:
        A check that raises FileNotFoundError once the folder is gone, or another stands in its place.

    Raises:
        BlockingIOError: Another process holds it; the message says which.
        OSError: Nothing can be written into it.
    """
    from filelock import FileLock  # here, so that worker processes start without it

    path = folder / LOCK
    lock = FileLock(path, blocking=False)
    _acquire(lock, path)
    with suppress(OSError):  # Windows lets nobody read a locked file
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    held = os.stat(path)

    def check() -> None:
        if not _is_at(held, path):
            raise FileNotFoundError(f"{folder} was moved or deleted while a run was writing into it")

    try:
        for left in folder.rglob(".*.tmp*"):  # by a writer that was killed
            if re.fullmatch(r"\..+\.\d+\.tmp(\.\w+)?", left.name):
                left.unlink()
        yield check
    finally:
        with suppress(OSError):  # Windows removes no open file
            if _is_at(held, path):
                path.unlink()
        lock.release()


def writable(folder: Path) -> bool:
    """Whether files can be written into a folder, made if absent; tried with a file that leaves no trace."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # os.access is wrong on some network drives
            return True
    except OSError as error:
        return error.errno in FULL  # it can be written once there is room


def expand_user(path: str | Path) -> Path:
    """A path with its ``~`` replaced by the home folder.

    Raises:
        FileNotFoundError: The path begins with ``~``, and there is no such home: HOME is not set, and the
            system does not know the user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{path}: there is no home folder, give the path in full") from error


def cache_dir() -> Path:
    """Folder of what is downloaded or made for this user: ``~/.cache/dcganlib``.

    A process without a home, as under a container's arbitrary user, gets one of its own in the folder of
    temporary files.
    """
    try:
        return Path("~/.cache/dcganlib").expanduser()
    except RuntimeError:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        return Path(tempfile.gettempdir(), f"dcganlib-{user}")


def _flush(path: Path, flags: int) -> None:
    """Have the disk keep a file or a folder, where its drive can be told so."""
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


def _move(source: Path, target: Path) -> None:
    """Move a file over another in one step, or by copying where mounts do not allow that."""
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EBUSY):
            raise
        shutil.copyfile(source, target)
        _flush(target, os.O_RDWR)
        with suppress(OSError):  # the source may be a mount too, and stays then
            source.unlink()


def _acquire(lock: BaseFileLock, path: Path) -> None:
    """Lock a file, or name the process that has."""
    from filelock import Timeout

    try:
        lock.acquire()
    except Timeout as error:
        holder = ""
        with suppress(OSError):  # Windows lets nobody read it
            holder = path.read_text(encoding="utf-8", errors="replace")[:200]
        raise BlockingIOError(
            errno.EAGAIN,
            f"{holder or 'another process'} is training into {path.parent}: wait for it, or stop it first",
        ) from error
    except OSError as error:
        if error.errno not in LOCKLESS:
            raise
        path.touch()  # a file system that knows no locks; train all the same


def _is_at(held: os.stat_result, path: Path) -> bool:
    """Whether a file that is held open is still the one at this path."""
    try:
        return os.path.samestat(held, os.stat(path))
    except FileNotFoundError:
        return False


def _written(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check_overwrite(
    path: Path,
    force: bool = False,
    *,
    ours: Callable[[Path], bool] | None = None,
    option: str = "--out",
) -> None:
    """Refuse, before the work, a file that cannot be written after it, or is there and not to be replaced.

    Args:
        path: The file.
        force: Whether to replace whatever is there.
        ours: Whether a file is one that the same command wrote, and can write again; such a file is replaced.
        option: The option of the command that names the file.

    Raises:
        FileExistsError: It is there, it is none of ours, and ``force`` is not set.
        OSError: As ``check_folder``.
    """
    if path.exists() and not force and not (ours and ours(path)):
        raise FileExistsError(
            f"{path} already exists; use --force to replace it, or {option} to name another file"
        )
    check_folder(path)


def is_web_page(content: bytes) -> bool:
    """Whether a file is an HTML page, by its first bytes, 512 or more."""
    return content[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html"))


def refuse_web_page(
    path: Path | str, content: bytes, *, error: type[ValueError] = ValueError, about: str = ""
) -> None:
    """Refuse an HTML page that was saved in place of a file.

    Args:
        path: The file.
        content: Its first bytes, 512 or more.
        error: What to raise.
        about: What it should be and where to get it, for the message.

    Raises:
        ValueError: It is such a page.
    """
    if is_web_page(content):
        raise error(
            f"{path} is a web page, not the file. A host sends such a page when its download quota is used "
            "up, or when it wants a confirmation: delete it, and download the file in a browser, or "
            f"tomorrow. {about}".rstrip()
        )


def check_folder(path: Path) -> None:
    """Refuse, before the work, a file whose folder is missing or cannot be written to.

    Raises:
        FileNotFoundError: The folder is not there.
        PermissionError: Nothing can be written into it.
    """
    if not path.parent.is_dir():
        raise _no_folder(path)
    if not writable(path.parent):
        raise PermissionError(f"nothing can be written into {path.parent}: name another folder with --out")


def _no_folder(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"cannot write {path}: the folder {path.parent} is not there")
