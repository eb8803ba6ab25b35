"""Downloads from a host on this machine that misbehaves as hosts do."""

import hashlib
import os

import pytest
from urllib3.util import Retry

from dcganlib.datasets import download as downloading
from dcganlib.datasets.download import DownloadError, download_url

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that would have been waited between two requests."""
    waited = []
    monkeypatch.setattr(downloading, "sleep", waited.append)
    monkeypatch.setattr(Retry, "sleep", lambda self, response=None: waited.append(self.get_backoff_time()))
    return waited


@pytest.fixture
def get(host, tmp_path):
    """Download the file from the host, whatever it answers: ``get()``."""

    def make(**options):
        options = {"size": len(CONTENT), "advice": "See the page."} | options
        return download_url(f"{host.address}/set.zip", tmp_path / "data" / "set.zip", CHECKSUM, **options)

    return make


def left(tmp_path):
    """The files in the folder of the download."""
    return sorted(os.listdir(tmp_path / "data")) if (tmp_path / "data").exists() else []


def test_a_file_arrives_whole(host, get, tmp_path):
    host.answers = [{"body": CONTENT}]
    assert get() == tmp_path / "data" / "set.zip"
    assert get().read_bytes() == CONTENT
    assert left(tmp_path) == ["set.zip"]
    assert host.asked == ["/set.zip"]


@pytest.mark.parametrize("kind", ["sha1", "md5"])
def test_other_kinds_of_checksum_hold_as_well(host, tmp_path, kind):
    host.answers = [{"body": CONTENT}]
    checksum = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    assert download_url(host.address, str(tmp_path / "a.bin"), checksum).read_bytes() == CONTENT


def test_a_file_that_is_there_needs_no_network(host, get):
    host.answers = [{"body": CONTENT}]
    path = get()
    host.close()
    assert get() == path


def test_another_file_in_its_place_is_named_and_left_alone(get, tmp_path, host):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.zip").write_bytes(b"mine")
    with pytest.raises(
        DownloadError,
        match=r"set\.zip exists, and is not the published file.*4 bytes, expected 1,048,576.*See the page\.$",
    ):
        get()
    assert (tmp_path / "data" / "set.zip").read_bytes() == b"mine"
    assert host.asked == []


def test_a_web_page_is_refused_and_not_requested_again(host, get, tmp_path):
    host.answers = [{"body": b"<html>Quota exceeded", "type": "Text/HTML; charset=utf-8"}]
    with pytest.raises(DownloadError, match=r"answered with a web page.*quota.*See the page\.$"):
        get()
    assert left(tmp_path) == []
    assert len(host.asked) == 1


def test_an_interrupted_download_is_tried_again(host, get, tmp_path):
    host.answers = [{"body": CONTENT[:300_001], "length": len(CONTENT)}, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 2
    assert left(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_download_that_is_always_interrupted_fails_with_the_number_of_bytes(host, get, tmp_path, size):
    host.answers = [{"body": CONTENT[:300_001], "length": len(CONTENT)}] * 3
    with pytest.raises(
        DownloadError,
        match=r"in 3 tries: it ended after 300,001 of 1,048,576 bytes\. 300,001 bytes are kept",
    ):
        get(size=size)
    assert len(host.asked) == 3
    assert left(tmp_path) == ["set.zip.part"]


def test_without_a_content_length_the_known_size_counts(host, get, tmp_path):
    host.answers = [{"body": CONTENT[:999], "length": None}] * 2 + [{"body": CONTENT, "length": None}]
    assert get().read_bytes() == CONTENT
    host.answers = [{"body": CONTENT[:999], "length": None}] * 3
    (tmp_path / "data" / "set.zip").unlink()
    with pytest.raises(DownloadError, match="it ended after 999 of 1,048,576 bytes"):
        get()


def test_a_server_error_is_tried_again(host, get):
    host.answers = [{"status": 503}, {"status": 500}, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 3


def test_a_lasting_server_error_is_reported(host, get, tmp_path):
    host.answers = [{"status": 503}] * 3
    with pytest.raises(DownloadError, match=r"in 3 tries: the host answered 503 .*See the page\.$"):
        get()
    assert left(tmp_path) == []


def test_a_refused_request_is_not_repeated(host, get, tmp_path):
    host.answers = [{"status": 404}, {"body": CONTENT}]
    with pytest.raises(DownloadError, match=r"/set\.zip answered 404 Not Found\. See the page\.$"):
        get()
    assert len(host.asked) == 1
    assert left(tmp_path) == []


def test_the_wrong_content_is_refused_by_its_checksum(host, get, tmp_path):
    host.answers = [{"body": CONTENT[::-1]}]
    with pytest.raises(
        DownloadError, match=r"is not the published file.*1,048,576 bytes, expected 1,048,576"
    ):
        get()
    assert left(tmp_path) == []
    assert len(host.asked) == 1


def test_more_than_the_published_size_is_refused(host, get, tmp_path):
    host.answers = [{"body": CONTENT + b"x"}]
    with pytest.raises(DownloadError, match="offers 1,048,577 bytes, expected 1,048,576"):
        get()
    host.answers = [{"body": CONTENT + b"x", "length": None}]
    with pytest.raises(DownloadError, match="sends more than its 1,048,576 bytes"):
        get()
    assert left(tmp_path) == []


def test_a_redirect_is_followed(host, get):
    host.answers = [{"status": 302, "location": "/elsewhere"}, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert host.asked == ["/set.zip", "/elsewhere"]


@pytest.mark.parametrize("target", ["http://example.org/set.zip", "ftp://127.0.0.1/a", "file:///etc/passwd"])
def test_a_redirect_away_from_https_is_refused(host, get, tmp_path, target):
    host.answers = [{"status": 302, "location": target}]
    with pytest.raises(DownloadError, match=f"{target} is not downloaded: only https"):
        get()
    assert len(host.asked) == 1
    assert left(tmp_path) == []


def test_circular_redirects_end(host, get, tmp_path):
    host.answers = [{"status": 302, "location": "/set.zip"}] * 20
    with pytest.raises(DownloadError, match=r"set\.zip redirects more than 10 times\. See the page"):
        get()
    assert len(host.asked) == 11
    assert left(tmp_path) == []


def test_a_plain_address_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(DownloadError, match="only https"):
        download_url("http://example.org/set.zip", tmp_path / "set.zip", CHECKSUM)
    assert os.listdir(tmp_path) == []


def test_a_host_that_cannot_be_reached_is_an_error(host, get, tmp_path):
    host.close()
    with pytest.raises(
        DownloadError, match=r"could not be downloaded from http://.* in 3 tries: ConnectionError"
    ):
        get()
    assert issubclass(DownloadError, OSError)
    assert left(tmp_path) == []


def test_a_host_that_stops_sending_is_an_error(host, get, monkeypatch):
    monkeypatch.setattr(downloading, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(downloading, "MAX_ATTEMPTS", 1)
    host.answers = [{"body": CONTENT[:300_000], "length": len(CONTENT), "hang": 0.5}]
    with pytest.raises(DownloadError, match=r"in 1 tries: \w+ after 262,144 bytes"):
        get()


def test_a_full_disk_is_noticed_before_the_download(host, get, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match=r"data has 1,000 bytes left, and set\.zip needs 1,048,576"):
        get()
    assert host.asked == []


# Resumed transfers


@pytest.fixture
def ranged(host):
    """A host that gives parts of the content as asked, but breaks off after so many bytes: ``ranged(n)``."""

    def make(*lengths, content=CONTENT):
        def answer(length):
            def give(headers):
                start = int(headers.get("Range", "bytes=0-")[6:-1])
                if start >= len(content):
                    return {"status": 416, "range": f"bytes */{len(content)}"}
                told = {"body": content[start : start + length], "length": len(content) - start}
                if "Range" not in headers:
                    return told
                return told | {"status": 206, "range": f"bytes {start}-{len(content) - 1}/{len(content)}"}

            return give

        host.answers = [answer(length) for length in lengths]

    return make


def starts(host):
    """From which byte on each request asked."""
    return [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in host.headers]


def test_an_interrupted_download_continues_where_it_stopped(host, get, ranged, tmp_path):
    ranged(300_000, 500_000, 10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [0, 300_000, 800_000]
    assert left(tmp_path) == ["set.zip"]


def test_the_next_call_continues_where_the_last_one_stopped(host, get, ranged, monkeypatch):
    monkeypatch.setattr(downloading, "MAX_ATTEMPTS", 1)
    for length, kept in ((300_000, "300,000"), (600_000, "900,000")):
        ranged(length)
        with pytest.raises(DownloadError, match=f"{kept} bytes are kept for the next call. See the page"):
            get()
    ranged(10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [0, 300_000, 900_000]


def test_attempts_that_bring_new_bytes_are_not_counted(host, get, ranged, pauses):
    ranged(*[100_000] * 11)
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 11
    assert pauses == [1] * 10


def test_the_pause_grows_while_the_host_fails(host, get, pauses):
    host.answers = [{"status": status} for status in (503, 429)] + [{"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert pauses == [0, 2]  # seconds: urllib3 repeats the first request at once


def test_a_host_without_ranges_starts_again(host, get, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.zip.part").write_bytes(CONTENT[:900_000])
    host.answers = [{"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert starts(host) == [900_000]
    assert left(tmp_path) == ["set.zip"]


def test_a_complete_part_is_not_downloaded_again(host, get, ranged, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.zip.part").write_bytes(CONTENT)
    ranged(10**7)
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 1


@pytest.mark.parametrize("part", [b"x" * 500_000, CONTENT[1:700_001], CONTENT + b"x"])
def test_a_part_of_another_file_is_discarded(host, get, ranged, tmp_path, part):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.zip.part").write_bytes(part)
    ranged(10**7, 10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [len(part), 0]


def test_a_host_that_continues_from_another_byte_is_refused(host, get, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set.zip.part").write_bytes(CONTENT[:1000])
    wrong = {"status": 206, "range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "body": CONTENT}
    host.answers = [wrong, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert starts(host) == [1000, 0]


def test_another_address_is_tried_where_one_fails(host, tmp_path):
    host.answers = [{"status": 404}, {"body": CONTENT}]
    addresses = [f"{host.address}/one", f"{host.address}/two"]
    assert download_url(addresses, tmp_path / "a.bin", CHECKSUM).read_bytes() == CONTENT
    assert host.asked == ["/one", "/two"]


def test_nothing_is_printed_on_the_way(host, get, capfd):
    host.answers = [{"status": 503}, {"body": CONTENT}]
    get()
    assert capfd.readouterr() == ("", "")
