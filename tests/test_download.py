"""Downloads from a host on this machine, which behaves as badly as hosts do."""

import hashlib
import os

import pytest

from dcganlib.datasets import download as fetching
from dcganlib.datasets.download import DownloadError, fetch

CONTENT = bytes(range(256)) * 4096  # 1 MiB
CHECKSUM = "sha256:" + hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that would have been waited between two tries."""
    waited = []
    monkeypatch.setattr(fetching, "sleep", waited.append)
    return waited


@pytest.fixture
def get(host, tmp_path):
    """Fetch the file from the host, as whatever it answers: ``get()``."""

    def make(**options):
        options = {"size": len(CONTENT), "advice": "See the page."} | options
        return fetch(f"{host.address}/set.zip", tmp_path / "sets" / "set.zip", CHECKSUM, **options)

    return make


def left(tmp_path):
    """All that lies where the file goes."""
    return sorted(os.listdir(tmp_path / "sets")) if (tmp_path / "sets").exists() else []


def test_a_file_arrives_whole(host, get, tmp_path):
    host.answers = [{"body": CONTENT}]
    assert get() == tmp_path / "sets" / "set.zip"
    assert get().read_bytes() == CONTENT
    assert left(tmp_path) == ["set.zip"]
    assert host.asked == ["/set.zip"]


@pytest.mark.parametrize("kind", ["sha1", "md5"])
def test_other_kinds_of_checksum_hold_as_well(host, tmp_path, kind):
    host.answers = [{"body": CONTENT}]
    checksum = f"{kind}:{hashlib.new(kind, CONTENT).hexdigest()}"
    assert fetch(host.address, str(tmp_path / "a.bin"), checksum).read_bytes() == CONTENT


def test_a_file_that_is_there_needs_no_network(host, get):
    host.answers = [{"body": CONTENT}]
    path = get()
    host.close()
    assert get() == path


def test_another_file_in_its_place_is_named_and_left_alone(get, tmp_path, host):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "set.zip").write_bytes(b"mine")
    with pytest.raises(
        DownloadError, match=r"set\.zip is there.*4 bytes, expected 1,048,576.*See the page\.$"
    ):
        get()
    assert (tmp_path / "sets" / "set.zip").read_bytes() == b"mine"
    assert host.asked == []


def test_a_web_page_is_no_file_and_is_not_asked_for_again(host, get, tmp_path):
    host.answers = [{"body": b"<html>Quota exceeded", "type": "Text/HTML; charset=utf-8"}]
    with pytest.raises(DownloadError, match=r"answered with a web page.*quota.*See the page\.$"):
        get()
    assert left(tmp_path) == []
    assert len(host.asked) == 1


def test_a_host_that_breaks_off_is_tried_again(host, get, tmp_path):
    host.answers = [{"body": CONTENT[:300_001], "length": len(CONTENT)}, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 2
    assert left(tmp_path) == ["set.zip"]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_host_that_always_breaks_off_is_given_up_with_the_bytes(host, get, tmp_path, size):
    host.answers = [{"body": CONTENT[:300_001], "length": len(CONTENT)}] * 3
    with pytest.raises(
        DownloadError,
        match=r"in 3 tries: it broke off after 300,001 of 1,048,576 bytes\. 300,001 bytes are kept",
    ):
        get(size=size)
    assert len(host.asked) == 3
    assert left(tmp_path) == ["set.zip.part"]


def test_a_host_that_tells_no_length_is_measured_by_the_known_size(host, get, tmp_path):
    host.answers = [{"body": CONTENT[:999], "length": None}] * 2 + [{"body": CONTENT, "length": None}]
    assert get().read_bytes() == CONTENT
    host.answers = [{"body": CONTENT[:999], "length": None}] * 3
    (tmp_path / "sets" / "set.zip").unlink()
    with pytest.raises(DownloadError, match="broke off after 999 of 1,048,576 bytes"):
        get()


def test_a_host_in_trouble_is_tried_again(host, get):
    host.answers = [{"status": 503}, {"status": 500}, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 3


def test_a_host_in_lasting_trouble_is_given_up_with_its_answer(host, get, tmp_path):
    host.answers = [{"status": 503}] * 3
    with pytest.raises(DownloadError, match=r"in 3 tries: the host answered 503 .*See the page\.$"):
        get()
    assert left(tmp_path) == []


def test_a_refusal_is_not_asked_again(host, get, tmp_path):
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


def test_more_than_the_published_size_is_cut_short(host, get, tmp_path):
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
    with pytest.raises(DownloadError, match=f"{target} is not fetched: only https"):
        get()
    assert len(host.asked) == 1
    assert left(tmp_path) == []


def test_redirects_in_a_circle_come_to_an_end(host, get, tmp_path):
    host.answers = [{"status": 302, "location": "/set.zip"}] * 20
    with pytest.raises(DownloadError, match="answered 302"):
        get()
    assert len(host.asked) == 10
    assert left(tmp_path) == []


def test_a_plain_address_is_refused_before_anything_is_sent(tmp_path):
    with pytest.raises(DownloadError, match="only https"):
        fetch("http://example.org/set.zip", tmp_path / "set.zip", CHECKSUM)
    assert os.listdir(tmp_path) == []


def test_a_host_that_cannot_be_reached_is_an_error_of_the_download(host, get, tmp_path):
    host.close()
    with pytest.raises(
        DownloadError, match=r"could not be fetched from http://.* in 3 tries: ConnectionError"
    ):
        get()
    assert issubclass(DownloadError, OSError)
    assert left(tmp_path) == []


def test_a_host_that_falls_silent_is_an_error_of_the_download(host, get, monkeypatch):
    monkeypatch.setattr(fetching, "TIMEOUT", 0.1)
    monkeypatch.setattr(fetching, "TRIES", 1)
    host.answers = [{"body": CONTENT[:300_000], "length": len(CONTENT), "hang": 0.5}]
    with pytest.raises(DownloadError, match=r"in 1 tries: \w+ after 262,144 bytes"):
        get()


def test_a_full_disk_is_noticed_before_the_download(host, get, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(DownloadError, match=r"sets has 1,000 bytes left, and set\.zip needs 1,048,576"):
        get()
    assert host.asked == []


# Going on


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


def test_a_download_that_breaks_off_goes_on_where_it_stopped(host, get, ranged, tmp_path):
    ranged(300_000, 500_000, 10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [0, 300_000, 800_000]
    assert left(tmp_path) == ["set.zip"]


def test_the_next_call_goes_on_where_the_last_one_stopped(host, get, ranged, monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 1)
    for length, kept in ((300_000, "300,000"), (600_000, "900,000")):
        ranged(length)
        with pytest.raises(DownloadError, match=f"{kept} bytes are kept for the next try. See the page"):
            get()
    ranged(10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [0, 300_000, 900_000]


def test_tries_that_bring_something_new_are_not_counted(host, get, ranged, pauses):
    ranged(*[100_000] * 11)
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 11
    assert pauses == [fetching.PAUSE] * 10


def test_the_pause_doubles_while_nothing_comes(host, get, pauses):
    host.answers = [{"status": status} for status in (503, 429)] + [{"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert pauses == [fetching.PAUSE, 2 * fetching.PAUSE]


def test_a_host_that_knows_no_ranges_begins_anew(host, get, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "set.zip.part").write_bytes(CONTENT[:900_000])
    host.answers = [{"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert starts(host) == [900_000]
    assert left(tmp_path) == ["set.zip"]


def test_a_part_that_is_whole_is_not_fetched_again(host, get, ranged, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "set.zip.part").write_bytes(CONTENT)
    ranged(10**7)
    assert get().read_bytes() == CONTENT
    assert len(host.asked) == 1


@pytest.mark.parametrize("part", [b"x" * 500_000, CONTENT[1:700_001], CONTENT + b"x"])
def test_a_part_of_something_else_is_thrown_away(host, get, ranged, tmp_path, part):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "set.zip.part").write_bytes(part)
    ranged(10**7, 10**7)
    assert get().read_bytes() == CONTENT
    assert starts(host) == [len(part), 0]


def test_a_host_that_goes_on_from_another_byte_is_not_believed(host, get, tmp_path):
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "set.zip.part").write_bytes(CONTENT[:1000])
    wrong = {"status": 206, "range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}", "body": CONTENT}
    host.answers = [wrong, {"body": CONTENT}]
    assert get().read_bytes() == CONTENT
    assert starts(host) == [1000, 0]


def test_another_address_is_tried_where_one_fails(host, tmp_path):
    host.answers = [{"status": 404}, {"body": CONTENT}]
    addresses = [f"{host.address}/one", f"{host.address}/two"]
    assert fetch(addresses, tmp_path / "a.bin", CHECKSUM).read_bytes() == CONTENT
    assert host.asked == ["/one", "/two"]
