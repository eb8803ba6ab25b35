"""What a release carries."""

import hashlib
import os
import zipfile

import pytest
import release

CHANGELOG = "# Changelog\n\n## 1.10.0 (2030-01-02)\n\n- ten\n\n## 1.1.0 (2030-01-01)\n\n- one\n"


def checkout(tmp_path, version="1.1.0"):
    site = tmp_path / "_build" / "html"
    (site / "book").mkdir(parents=True)
    (site / "index.html").write_text("<p>index</p>", encoding="utf-8")
    (site / "book" / "a.html").write_text("<p>a</p>", encoding="utf-8")
    (tmp_path / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {version}\n", encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    return tmp_path


def test_a_release_holds_the_site_its_checksum_and_the_notes_of_its_version(tmp_path):
    release.main("v1.1.0", checkout(tmp_path))
    out = tmp_path / "_build" / "release"
    archive = out / "dcgan-book-1.1.0.zip"
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["dcgan-book-1.1.0/book/a.html", "dcgan-book-1.1.0/index.html"]
        assert opened.read("dcgan-book-1.1.0/book/a.html") == b"<p>a</p>"
    checksum, name = (out / f"{archive.name}.sha256").read_text(encoding="utf-8").split()
    assert (checksum, name) == (hashlib.sha256(archive.read_bytes()).hexdigest(), archive.name)
    assert (out / "notes.md").read_text(encoding="utf-8") == "- one\n"


def test_a_book_of_this_version_gets_its_checksum_and_one_of_another_is_left(tmp_path):
    out = checkout(tmp_path) / "_build" / "release"
    out.mkdir()
    for name in ("1.1.0.pdf", "1.1.0.epub", "1.0.0.pdf"):
        (out / f"dcgan-book-{name}").write_bytes(name.encode())
    release.main("v1.1.0", tmp_path)
    sums = {path.name: path.read_text(encoding="utf-8").split()[0] for path in out.glob("*.sha256")}
    assert sorted(sums) == [f"dcgan-book-1.1.0.{kind}.sha256" for kind in ("epub", "pdf", "zip")]
    assert sums["dcgan-book-1.1.0.pdf.sha256"] == hashlib.sha256(b"1.1.0.pdf").hexdigest()


def test_the_same_site_gives_the_same_zip_at_another_time(tmp_path):
    site = checkout(tmp_path) / "_build" / "html"
    first = release.pack(site, tmp_path / "a.zip")
    os.utime(site / "index.html", (1, 1))
    assert release.pack(site, tmp_path / "a.zip") == first
    (site / "index.html").write_text("<p>other</p>", encoding="utf-8")
    assert release.pack(site, tmp_path / "a.zip") != first


@pytest.mark.parametrize(
    ("tag", "version", "error", "said"),
    [
        ("v1.1.1", "1.1.0", ValueError, "CITATION.cff has version 1.1.0"),
        ("v1.1.1", "1.1.1", ValueError, "no notes of version 1.1.1"),
        ("v1.1", "1.1", ValueError, "no notes of version 1.1;"),
    ],
)
def test_a_tag_that_the_repository_does_not_describe_is_refused(tmp_path, tag, version, error, said):
    with pytest.raises(error, match=said):
        release.main(tag, checkout(tmp_path, version))


def test_a_book_that_is_not_rendered_is_refused(tmp_path):
    (checkout(tmp_path) / "_build" / "html" / "index.html").unlink()
    with pytest.raises(FileNotFoundError, match="make book"):
        release.main("v1.1.0", tmp_path)


def test_the_changelog_describes_the_version_of_the_package():
    stated = release.ROOT / "CITATION.cff"
    version = next(
        line.split()[1]
        for line in stated.read_text(encoding="utf-8").splitlines()
        if line.startswith("version")
    )
    assert release.notes((release.ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
