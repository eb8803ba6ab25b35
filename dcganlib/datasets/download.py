"""Downloads that end in the right file or in no file, with a message that says what came instead.

``pooch`` checks the file and moves it into place. What it lacks is added here: a transfer that is interrupted
continues from the bytes that it has, now and in the next call; they are kept as ``NAME.part``.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    import requests
    from tqdm.auto import tqdm

MAX_ATTEMPTS = 3  # in a row that bring no new bytes
BACKOFF_SECONDS = 1.0  # pause after such an attempt; twice as long after each further one
TIMEOUT_SECONDS = 30  # without a byte
MAX_REDIRECTS = 10
BLOCK_BYTES = 2**18  # written at a time
RETRIED_STATUSES = (408, 425, 429, 500, 502, 503, 504)  # a later request may succeed
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class DownloadError(OSError):
    """A file could not be downloaded; nothing was left in its place."""


def download_url(
    address: str | Sequence[str],
    path: str | Path,
    checksum: str,
    *,
    size: int | None = None,
    advice: str = "",
) -> Path:
    """Download a file unless it is there already; continue where an earlier call was interrupted.

    Args:
        address: Its address: https, or http on this machine. Of several, each is tried in turn.
        path: Where it goes. It appears there only when its checksum is right.
        checksum: "sha256:...", "sha1:..." or "md5:...".
        size: Its bytes, if known.
        advice: What else can be done, for the message.

    Returns:
        The path.

    Raises:
        DownloadError: The host cannot be reached, answers with an error or a web page, interrupts the
            transfer, sends something else, or redirects to an address without https.
    """
    path = Path(path)
    if path.is_file():
        _check_existing(path, checksum, size, advice)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    _check_space(path, size, _length(part))
    *mirrors, last = [address] if isinstance(address, str) else address
    for mirror in mirrors:
        try:
            return _retrieve(mirror, path, checksum, _ResumingDownloader(part, path.name, size))
        except DownloadError:  # the error of the last address is reported
            continue
    try:
        return _retrieve(last, path, checksum, _ResumingDownloader(part, path.name, size))
    except DownloadError as error:
        kept = f". {_length(part):,} bytes are kept for the next call" if _length(part) else ""
        raise DownloadError(f"{error}{kept}. {advice}".rstrip()) from error


def _retrieve(address: str, path: Path, checksum: str, downloader: _ResumingDownloader) -> Path:
    """Download from one address; if an old part turns out to be of another file, once more without it."""
    import pooch

    _check_scheme(address)
    had_part = _length(downloader.part) > 0
    try:
        with _silent(pooch.get_logger()):
            return Path(pooch.retrieve(address, checksum, path.name, path.parent, downloader=downloader))
    except ValueError as error:  # pooch's, that the checksum is wrong
        if had_part:
            return _retrieve(address, path, checksum, downloader)
        raise DownloadError(
            f"{path.name} from {address} is not the published file: its checksum is not {checksum} "
            f"({downloader.received:,} bytes{_expected(downloader.size)})"
        ) from error


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Keep a logger from announcing each file on stderr."""
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


class _InterruptedError(Exception):
    """A further request may bring the rest."""


class _RangeError(_InterruptedError):
    """The host does not continue after the part."""


class _ResumingDownloader:
    """Downloads into ``part`` with as many requests as it takes; what ``pooch.retrieve`` calls.

    Attributes:
        part: File that holds the bytes received so far.
        name: Name of the file, for messages.
        size: Bytes of the whole file, if known.
        received: Bytes of the last complete transfer.
    """

    def __init__(self, part: Path, name: str, size: int | None) -> None:
        self.part, self.name, self.size, self.received = part, name, size, 0

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Download a file, and move it to the path that pooch checks.

        Raises:
            DownloadError: The host does not send it.
        """
        import requests

        failures, furthest = 0, _length(self.part)
        with _session() as session:
            while True:
                try:
                    self._transfer(session, url)
                    break
                except requests.exceptions.TooManyRedirects as error:
                    raise DownloadError(
                        f"{self.name}: {url} redirects more than {MAX_REDIRECTS} times"
                    ) from error
                except requests.exceptions.RequestException as error:
                    raise self._failure(
                        url, f"{type(error).__name__} after {_length(self.part):,} bytes"
                    ) from error
                except _InterruptedError as error:
                    failures = 1 if _length(self.part) > furthest else failures + 1
                    furthest = max(furthest, _length(self.part))
                    if isinstance(error, _RangeError):
                        self.part.unlink(missing_ok=True)
                    if failures >= MAX_ATTEMPTS:
                        raise self._failure(url, error) from error
                    sleep(BACKOFF_SECONDS * 2 ** (failures - 1))
        self.received = _length(self.part)
        os.replace(self.part, output_file)

    def _transfer(self, session: requests.Session, url: str) -> None:
        """Send one request, for the bytes after those that the part has, and write what comes."""
        from tqdm.auto import tqdm

        have = _length(self.part)
        headers = {"Range": f"bytes={have}-"} if have else {}
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
            if response.status_code in RETRIED_STATUSES:  # after all retries
                raise self._failure(url, f"the host answered {response.status_code} {response.reason}")
            start, total = self._check_response(response, have)
            if start == total:
                return
            progress: dict[str, Any] = {"total": total or self.size, "initial": start}
            progress |= {"unit": "B", "unit_scale": True, "desc": self.name, "delay": 2}
            with _open_at(self.part, start) as file, tqdm(**progress) as bar:
                got = self._write(response, file, bar)
            if self.size and got > self.size:
                self.part.unlink()
                raise DownloadError(f"{self.name}: {response.url} sends more than its {self.size:,} bytes")
            if got < (total or self.size or 0):
                raise _InterruptedError(f"it ended after {got:,} of {total or self.size:,} bytes")
            os.truncate(self.part, got)  # it was longer if the host started again from the first byte

    def _write(self, response: requests.Response, file: BinaryIO, bar: tqdm[Any]) -> int:
        """Write the body of a response from the file's position on; returns the position after it."""
        import requests

        response.raw.enforce_content_length = False  # checked by `_transfer`, for a message with numbers
        try:
            for block in response.iter_content(BLOCK_BYTES):
                file.write(block)
                bar.update(len(block))
                if self.size and file.tell() > self.size:
                    break
        except requests.exceptions.RequestException as error:
            raise _InterruptedError(f"{type(error).__name__} after {file.tell():,} bytes") from error
        return file.tell()

    def _check_response(self, response: requests.Response, have: int) -> tuple[int, int | None]:
        """Refuse a response that is not the file.

        Returns:
            Position of the first byte that it sends, and bytes of the whole file if the host names them.
        """
        address, status, headers = response.url, response.status_code, response.headers
        content_range = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("content-range", ""))
        total = int(content_range[2]) if content_range and content_range[2] != "*" else None
        if status == 416 and have and total == have:
            return have, total  # the part is the whole file
        if status not in (200, 206) and not (status == 416 and have):
            raise DownloadError(f"{self.name}: {address} answered {status} {response.reason or ''}".rstrip())
        if status != 416 and headers.get("content-type", "").lower().startswith("text/html"):
            raise DownloadError(
                f"{self.name}: {address} answered with a web page, not the file. Hosts do so when their "
                "download quota is used up, or when they want a confirmation: try again tomorrow, or "
                "download it in a browser"
            )
        if status == 200:  # all of it, whatever was requested
            have, total = 0, int(headers.get("content-length") or 0) or None
        if self.size and total and total > self.size:
            raise DownloadError(f"{self.name}: {address} offers {total:,} bytes{_expected(self.size)}")
        if status != 200 and not (status == 206 and content_range and content_range[1] == str(have)):
            raise _RangeError(f"the host does not continue from byte {have:,}")
        return have, total

    def _failure(self, url: str, reason: object) -> DownloadError:
        return DownloadError(
            f"{self.name} could not be downloaded from {url} in {MAX_ATTEMPTS} tries: {reason}"
        )


def _session() -> requests.Session:
    """A session that repeats failed requests and refuses to be redirected away from https."""
    import requests
    from urllib3.util import Retry

    retries = Retry(
        MAX_ATTEMPTS - 1,
        status_forcelist=RETRIED_STATUSES,
        backoff_factor=BACKOFF_SECONDS,
        raise_on_status=False,
        respect_retry_after_header=False,  # a host may ask for hours
    )
    session = requests.Session()
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(max_retries=retries))
    session.max_redirects = MAX_REDIRECTS
    session.headers["Accept-Encoding"] = "identity"  # so that the announced length is that of the file

    def check_redirect(response: requests.Response, **_: Any) -> None:
        target = session.get_redirect_target(response)
        if target is not None:
            _check_scheme(urljoin(response.url, target))

    session.hooks["response"].append(check_redirect)
    return session


def _check_existing(path: Path, checksum: str, size: int | None, advice: str) -> None:
    import pooch

    if not pooch.hashes.hash_matches(str(path), checksum):
        raise DownloadError(
            f"{path} exists, and is not the published file: its checksum is not {checksum} "
            f"({path.stat().st_size:,} bytes{_expected(size)}). Move it away and try again. {advice}".rstrip()
        )


def _open_at(part: Path, start: int) -> BinaryIO:
    """Open the part for writing from a byte on.

    It is not cut off there: if two processes download the same file, both write the same bytes.
    """
    file = open(part, "r+b" if part.exists() else "wb")  # noqa: SIM115, closed by the caller
    file.seek(start)
    return file


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_scheme(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOCAL_HOSTS):
        raise DownloadError(f"{address} is not downloaded: only https is, and http from this machine")


def _check_space(path: Path, size: int | None, have: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size and free < size - have:
        raise DownloadError(f"{path.parent} has {free:,} bytes left, and {path.name} needs {size - have:,}")


def _expected(size: int | None) -> str:
    return f", expected {size:,}" if size else ""
