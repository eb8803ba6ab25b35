"""Downloads that end in the right file or in no file, with a message that says what came instead."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

from dcganlib.files import write_atomically

TRIES = 3
TIMEOUT = 30  # seconds without a byte
LOCAL = ("localhost", "127.0.0.1", "::1")


class DownloadError(OSError):
    """A file could not be fetched; nothing was left at its place."""


def fetch(
    address: str, path: str | Path, checksum: str, *, size: int | None = None, advice: str = ""
) -> Path:
    """Fetch a file unless it is there already.

    Args:
        address: Where it is; https, or http on this machine.
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
    import pooch

    path = Path(path)
    if path.is_file():
        if pooch.hashes.hash_matches(str(path), checksum):
            return path
        raise DownloadError(
            f"{path} is there, and is not the published file: its checksum is not {checksum} "
            f"({path.stat().st_size:,} bytes{_of(size)}). Move it away and try again. {advice}".rstrip()
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _refuse_full(path, size)

    def fill(temporary: Path) -> None:
        reason = ""
        for _ in range(TRIES):
            try:
                with open(temporary, "wb") as file:
                    _get(address, file, path.name, size)
            except _TryAgainError as error:
                reason = str(error)
                continue
            except DownloadError as error:
                raise DownloadError(f"{error}. {advice}".rstrip()) from error
            if not pooch.hashes.hash_matches(str(temporary), checksum):
                raise DownloadError(
                    f"{path.name} from {address} is not the published file: its checksum is not {checksum} "
                    f"({temporary.stat().st_size:,} bytes{_of(size)}). {advice}".rstrip()
                )
            return
        raise DownloadError(
            f"{path.name} could not be fetched from {address} in {TRIES} tries: {reason}. {advice}".rstrip()
        )

    write_atomically(path, fill)
    return path


class _TryAgainError(Exception):
    """What a second try may mend."""


def _get(address: str, file: BinaryIO, name: str, size: int | None) -> None:
    """One try, following redirects that keep to https."""
    import requests
    from tqdm.auto import tqdm

    _refuse_plain(address)
    got = 0
    try:
        with requests.Session() as session:
            session.headers["Accept-Encoding"] = "identity"  # so that the bytes told are the bytes sent
            for _ in range(10):
                answer = session.get(address, stream=True, timeout=TIMEOUT, allow_redirects=False)
                if not answer.is_redirect:
                    break
                address = urljoin(address, answer.headers["location"])
                answer.close()
                _refuse_plain(address)
            with answer:
                if answer.status_code >= 500:
                    raise _TryAgainError(f"the host answered {answer.status_code} {answer.reason}")
                if answer.status_code != 200:
                    raise DownloadError(
                        f"{name}: {address} answered {answer.status_code} {answer.reason or ''}".rstrip()
                    )
                if answer.headers.get("content-type", "").lower().startswith("text/html"):
                    raise DownloadError(
                        f"{name}: {address} answered with a web page, not the file. Hosts do so when their "
                        "download quota is used up, or when they want a confirmation: try again tomorrow, or "
                        "download it in a browser"
                    )
                told = int(answer.headers.get("content-length") or 0) or None
                if size and told and told > size:
                    raise DownloadError(f"{name}: {address} offers {told:,} bytes{_of(size)}")
                answer.raw.enforce_content_length = False  # done below, with numbers
                with tqdm(total=told or size, unit="B", unit_scale=True, desc=name, delay=2) as bar:
                    for block in answer.iter_content(2**18):
                        got += len(block)
                        if size and got > size:
                            raise DownloadError(f"{name}: {address} sends more than its {size:,} bytes")
                        file.write(block)
                        bar.update(len(block))
                if got < (told or size or 0):
                    raise _TryAgainError(f"it broke off after {got:,} of {told or size:,} bytes")
    except requests.exceptions.RequestException as error:
        raise _TryAgainError(f"{type(error).__name__} after {got:,} bytes") from error


def _refuse_plain(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL):
        raise DownloadError(f"{address} is not fetched: only https is, and http from this machine")


def _refuse_full(path: Path, size: int | None) -> None:
    free = shutil.disk_usage(path.parent).free
    if size and free < size:
        raise DownloadError(f"{path.parent} has {free:,} bytes left, and {path.name} needs {size:,}")


def _of(size: int | None) -> str:
    return f", expected {size:,}" if size else ""
