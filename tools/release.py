"""Make the files of a release in ``_build/release``: ``python tools/release.py vX.Y.Z`` after ``make book``.

These are the rendered site as a zip and the notes of the version from ``CHANGELOG.md``; beside the zip, and
beside the PDF and the EPUB of ``make pdf epub`` if they are there, its SHA-256 for ``sha256sum --check``.
"""

from __future__ import annotations

import hashlib
import re
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BOOKS = (".pdf", ".epub")


def notes(changelog: str, version: str) -> str:
    """The section of one version.

    Raises:
        ValueError: The changelog has no such section, or an empty one.
    """
    sections = re.split(r"^## ", changelog, flags=re.M)[1:]
    for section in sections:
        head, _, body = section.partition("\n")
        if re.match(rf"\[?{re.escape(version)}\b(?!\.)", head) and body.strip():
            return body.strip() + "\n"
    raise ValueError(
        f"CHANGELOG.md has no notes of version {version}; it has {[s.split()[0] for s in sections]}"
    )


def pack(site: Path, out: Path) -> str:
    """Zip a folder reproducibly: the same files give the same bytes.

    Returns:
        The SHA-256 of the zip, in hexadecimal.
    """
    files = sorted(path for path in site.rglob("*") if path.is_file())
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            name = (Path(out.stem) / path.relative_to(site)).as_posix()
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return hashlib.sha256(out.read_bytes()).hexdigest()


def main(tag: str, root: Path = ROOT) -> None:
    """Write the zip, its checksum and the notes.

    Raises:
        ValueError: The tag is not the version in ``CITATION.cff``, or the changelog does not know it.
        FileNotFoundError: The book is not rendered.
    """
    version = tag.removeprefix("v")
    stated = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    if stated is None or stated[1] != version:
        raise ValueError(f"the tag is {tag}, CITATION.cff has version {stated and stated[1]}")
    site, out = root / "_build" / "html", root / "_build" / "release"
    text = notes((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if not (site / "index.html").is_file():
        raise FileNotFoundError(f"{site} has no index.html: run `make book` first")
    out.mkdir(exist_ok=True)
    archive = out / f"dcgan-book-{version}.zip"
    pack(site, archive)
    for file in [archive, *(file for kind in BOOKS if (file := archive.with_suffix(kind)).is_file())]:
        checksum = hashlib.sha256(file.read_bytes()).hexdigest()
        (out / f"{file.name}.sha256").write_text(f"{checksum}  {file.name}\n", encoding="utf-8")
    (out / "notes.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
