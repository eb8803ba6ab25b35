"""Downloads that end in the right file or in no file, with a message that says what came instead.

What a broken download has brought is kept beside the file's place, as ``NAME.part``, and the next one goes on
from there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

from dcganlib.runtime.files import write_atomically

if TYPE_CHECKING:
    import requests

TRIES = 3  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second try; twice as many before each further one
TIMEOUT = 30  # seconds without a byte
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # answers that may be another in a moment
LOCAL = ("localhost", "127.0.0.1", "::1")


class DownloadError(OSError):
    """A file could not be fetched; nothing was left at its place."""


def download_url(
    address: str | Sequence[str],
    path: str | Path,
    checksum: str,
    *,
    size: int | None = None,
    advice: str = "",
) -> Path:
    """Fetch a file unless it is there already, going on where an earlier call broke off.

    Args:
        address: Where it is; https, or http on this machine. Of several, each is tried in turn.
        path: Where it goes. It appears there only when its checksum is right.
        checksum: "sha256:...", "sha1:..." or "md5:...".
        size: Bytes, where known.
        advice: What else can be done, for the message.

    Returns:
        The path.

    Raises:
        DownloadError: The host cannot be reached, answers with an error or a web page, breaks off, sends
            something else, or points to an address without https.
    """
    path = Path(path)
    if path.is_file():
        if _matches(path, checksum):
            return path
        raise DownloadError(
            f"{path} is there, and is not the published file: its checksum is not {checksum} "
            f"({path.stat().st_size:,} bytes{_of(size)}). Move it away and try again. {advice}".rstrip()
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _refuse_full(path, size, _length(part))
    *others, last = [address] if isinstance(address, str) else address
    for each in others:
        try:
            return _download_from(each, path, part, checksum, size)
        except DownloadError:  # the last one speaks for all
            continue
    try:
        return _download_from(last, path, part, checksum, size)
    except DownloadError as error:
        kept = f". {_length(part):,} bytes are kept for the next try" if _length(part) else ""
        raise DownloadError(f"{error}{kept}. {advice}".rstrip()) from error


class _TryAgainError(Exception):
    """What a second try may mend."""


class _PartError(_TryAgainError):
    """The host has no such file that would go on after the part."""


def _download_from(address: str, path: Path, part: Path, checksum: str, size: int | None) -> Path:
    """Fetch from one address, with as many tries as bring something new."""
    failures, furthest, begun = 0, _length(part), _length(part)
    while True:
        try:
            _get(address, part, path.name, size)
        except _TryAgainError as error:
            failures = 1 if _length(part) > furthest else failures + 1
            if isinstance(error, _PartError):
                part.unlink(missing_ok=True)
            furthest = max(furthest, _length(part))
            if failures >= TRIES:
                raise DownloadError(
                    f"{path.name} could not be fetched from {address} in {TRIES} tries: {error}"
                ) from error
            sleep(PAUSE * 2 ** (failures - 1))
            continue
        if _matches(part, checksum):
            write_atomically(path, lambda temporary: os.replace(part, temporary))
            return path
        length = _length(part)
        part.unlink()
        if not begun:
            raise DownloadError(
                f"{path.name} from {address} is not the published file: its checksum is not {checksum} "
                f"({length:,} bytes{_of(size)})"
            )
        furthest = begun = 0  # an earlier call left the beginning of something else: start again, once


def _get(address: str, part: Path, name: str, size: int | None) -> None:
    """One try, following redirects that keep to https; goes on after the bytes that ``part`` has."""
    import requests
    from tqdm.auto import tqdm

    have = got = _length(part)
    try:
        with requests.Session() as session:
            session.headers["Accept-Encoding"] = "identity"  # so that the bytes told are the bytes sent
            if have:
                session.headers["Range"] = f"bytes={have}-"
            with _answer(session, address) as answer:
                start, total = _check_answer(answer, name, have, size)
                if start == total:
                    return
                answer.raw.enforce_content_length = False  # done below, with numbers
                got = start
                options: dict[str, Any] = {"total": total or size, "initial": start}
                options |= {"unit": "B", "unit_scale": True}
                with _open_at(part, start) as file, tqdm(desc=name, delay=2, **options) as bar:
                    for block in answer.iter_content(2**18):
                        got += len(block)
                        if size and got > size:
                            raise DownloadError(f"{name}: {address} sends more than its {size:,} bytes")
                        file.write(block)
                        bar.update(len(block))
                if got < (total or size or 0):
                    raise _TryAgainError(f"it broke off after {got:,} of {total or size:,} bytes")
                os.truncate(part, got)  # it was longer where the host began anew
    except requests.exceptions.RequestException as error:
        raise _TryAgainError(f"{type(error).__name__} after {got:,} bytes") from error
    except DownloadError:
        if size and got > size:
            part.unlink(missing_ok=True)
        raise


def _answer(session: requests.Session, address: str) -> requests.Response:
    """The host's answer, or that of the host it points to."""
    for _ in range(10):
        _refuse_plain(address)
        answer = session.get(address, stream=True, timeout=TIMEOUT, allow_redirects=False)
        if not answer.is_redirect:
            break
        address = urljoin(address, answer.headers["location"])
        answer.close()
    return answer


def _check_answer(
    answer: requests.Response, name: str, have: int, size: int | None
) -> tuple[int, int | None]:
    """Refuse an answer that is not the file: (first byte it sends, bytes of the whole file if told)."""
    address, status, headers = answer.url, answer.status_code, answer.headers
    if status in AGAIN or status >= 500:
        raise _TryAgainError(f"the host answered {status} {answer.reason}")
    told = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("content-range", ""))
    total = int(told[2]) if told and told[2] != "*" else None
    if status == 416 and have and total == have:
        return have, total  # the part is the whole file
    if status not in (200, 206) and not (status == 416 and have):
        raise DownloadError(f"{name}: {address} answered {status} {answer.reason or ''}".rstrip())
    if status != 416 and headers.get("content-type", "").lower().startswith("text/html"):
        raise DownloadError(
            f"{name}: {address} answered with a web page, not the file. Hosts do so when their "
            "download quota is used up, or when they want a confirmation: try again tomorrow, or "
            "download it in a browser"
        )
    if status == 200:  # from the first byte on, whatever was asked for
        have, total = 0, int(headers.get("content-length") or 0) or None
    if size and total and total > size:
        raise DownloadError(f"{name}: {address} offers {total:,} bytes{_of(size)}")
    if status != 200 and not (status == 206 and told and told[1] == str(have)):
        raise _PartError(f"the host does not go on from byte {have:,}")
    return have, total


def _open_at(part: Path, start: int) -> BinaryIO:
    """Open the part for writing from a byte on.

    It is not cut off there: should two processes fetch the same file, both write the same bytes.
    """
    file = open(part, "r+b" if part.exists() else "wb")  # noqa: SIM115, closed by the caller
    file.seek(start)
    return file


def _matches(path: Path, checksum: str) -> bool:
    import pooch

    return bool(pooch.hashes.hash_matches(str(path), checksum))


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _refuse_plain(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise DownloadError(f"{address} is not fetched: only https is, and http from this machine")


def _refuse_full(path: Path, size: int | None, have: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size and free < size - have:
        raise DownloadError(f"{path.parent} has {free:,} bytes left, and {path.name} needs {size - have:,}")


def _of(size: int | None) -> str:
    return f", expected {size:,}" if size else ""
