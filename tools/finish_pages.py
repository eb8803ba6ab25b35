"""A Sphinx extension that corrects the rendered pages where the theme and the notebooks fall short.

Loaded by ``_config.yml``. After the build it rewrites every page with

- one viewport, no scripts of unused services, and no duplicate scripts;
- roles that describe lists and tables correctly to screen readers;
- images as separate files, loaded lazily, with their size so that the layout does not jump;
- the films of trainings as sheets of frames, which are loaded once the reader scrubs through them;
- a still of each animation's last frame, for print and for readers who prefer reduced motion;
- a hanging indent for long lines of source and output, so that wrapped lines stay aligned;
- definitions as tooltips on the links into the glossary.

Each step is a function from text to text, which can be tested on its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageSequence

from dcganlib.viz import training_figure

WIDEST_LINE = 88  # columns that fit between the sidebars; the limit of the chapters' code

_INLINE_PICTURE = re.compile(
    r'<img (?P<before>[^>]*?)src="data:image/(?P<kind>\w+);base64,(?P<data>[^"]+)"(?P<after>[^>]*)>'
)
_PICTURE = re.compile(r"<img (?P<attributes>[^>]*)>")
_SOURCE = re.compile(
    r'(<div class="(?:output \w+ )?highlight-(?:python|ipython3|bash|myst-ansi) notranslate">'
    r'<div class="highlight)("><pre>)(.*?)(?=</pre>)',
    re.S,
)
_SIGNATURE = re.compile(r'<dl>\s*(?=<dd><em class="sig-param">)(.*?)</dl>', re.S)
_TERM = re.compile(r'<dt id="(term-[^"]+)">.*?<dd>(.*?)</dd>', re.S)
_TERM_LINK = re.compile(r'<a class="reference internal" href="((?:glossary\.html)?#(term-[^"]+))">')


def without_repeats(page: str) -> str:
    """Keep one viewport and one copy of each inline script; remove Thebe's, which no page uses."""
    seen: set[str] = set()

    def first(match: re.Match[str]) -> str:
        element = match[0]
        key = "viewport" if "viewport" in element else element
        if "thebe" in element or key in seen:
            return ""
        seen.add(key)
        return element

    head, end, rest = page.partition("</head>")
    head = re.sub(r'<meta name="viewport"[^>]*>|<script\b[^>]*>[^<]*</script>', first, head)
    return head + end + rest


def with_roles(page: str) -> str:
    """Describe the visible structure to screen readers."""
    page = page.replace('role="doc-biblioentry"', 'role="listitem"')  # the parent is a list
    page = re.sub(
        r'<th class="head">\s*(<p>\s*</p>)?\s*</th>', "<td></td>", page
    )  # an empty corner is no header
    # A signature over several lines is a list of <dd> without <dt>, which is no list of definitions.
    page = _SIGNATURE.sub(_as_lines, page)
    # A button with a visible text needs no other name.
    page = re.sub(r'(<button class="btn search-button-field[^>]*?) aria-label="[^"]*"', r"\1", page)
    page = re.sub(r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"', r"\1", page)  # the button has a name
    page = page.replace('<summary aria-label="Toggle hidden content">', "<summary>")
    page = page.replace('title="Toggle primary sidebar"', 'title="Chapters" aria-label="Chapters"')
    page = page.replace('title="Toggle secondary sidebar"', 'title="On this page" aria-label="On this page"')
    sidebar = '<div id="pst-primary-sidebar" '
    return page.replace(sidebar, f'{sidebar}role="complementary" aria-label="The book" ')


def _as_lines(match: re.Match[str]) -> str:
    lines = match[1].replace("<dd>", '<span class="sig-line">').replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def with_animations_inline(page: str, folder: Path) -> str:
    """Embed the animations that a page shows from files, as notebooks embed theirs, so that both get a still.

    Args:
        page: The page.
        folder: Folder of the page, which its addresses are relative to.
    """

    def embedded(match: re.Match[str]) -> str:
        source = re.search(r'\bsrc="([^":]+\.webp)"', match["attributes"])
        if source is None or not (file := folder / source[1]).is_file():
            return match[0]
        with Image.open(file) as image:
            if getattr(image, "n_frames", 1) == 1:
                return match[0]
        data = base64.b64encode(file.read_bytes()).decode()
        return match[0].replace(source[1], f"data:image/webp;base64,{data}")

    return _PICTURE.sub(embedded, page)


def with_frame_sheets(page: str, folder: Path, address: str) -> str:
    """Store the films of trainings as scrubber.js reads them: the last frame, and a sheet of all frames.

    Args:
        page: The page.
        folder: Folder for the files.
        address: Address of this folder, relative to the page.
    """

    def stored(match: re.Match[str]) -> str:
        if " data-generated=" not in match[0]:
            return match[0]
        content = base64.b64decode(match["data"])
        name = hashlib.sha256(content).hexdigest()[:16]
        with Image.open(io.BytesIO(content)) as film:
            frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
        sheet, columns = training_figure.frame_sheet(frames)
        (folder / f"{name}-frames.webp").write_bytes(sheet)
        (folder / f"{name}-last.webp").write_bytes(training_figure.webp(frames[-1]))
        attributes = f"{match['before']}{match['after']}".strip()
        sheet_at = f'data-frames="{address}/{name}-frames.webp" data-columns="{columns}"'
        return f'<img {attributes} {sheet_at} src="{address}/{name}-last.webp">'

    return _INLINE_PICTURE.sub(stored, page)


def with_picture_files(page: str, folder: Path, address: str) -> str:
    """Move embedded images into files, and add a still to each animation.

    Args:
        page: The page.
        folder: Folder for the files.
        address: Address of this folder, relative to the page.
    """

    def moved(match: re.Match[str]) -> str:
        content = base64.b64decode(match["data"])
        name = hashlib.sha256(content).hexdigest()[:16]
        (folder / f"{name}.{match['kind']}").write_bytes(content)
        attributes = f"{match['before']}{match['after']}".strip().removesuffix("/").strip()
        picture = f'<img {attributes} src="{address}/{name}.{match["kind"]}">'
        with Image.open(io.BytesIO(content)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames == 1:
                return picture
            image.seek(frames - 1)
            image.convert("RGB").save(folder / f"{name}-still.png")
        still = f'<img {attributes} src="{address}/{name}-still.png">'
        return (
            '<div class="animation">'
            + still.replace('class="', 'class="animation-still ', 1)
            + picture.replace('class="', 'class="animation-moving ', 1)
            + '<button type="button" class="animation-button btn btn-sm" hidden>Pause</button></div>'
        )

    return _INLINE_PICTURE.sub(moved, page)


def with_picture_sizes(page: str, folder: Path) -> str:
    """Load images lazily, and reserve their space until then.

    Args:
        page: The page.
        folder: Folder of the page, which its addresses are relative to.
    """

    def sized(match: re.Match[str]) -> str:
        attributes = match["attributes"].rstrip().removesuffix("/").rstrip()
        source = re.search(r'\bsrc="([^":]+\.(?:png|webp|gif|jpe?g))"', attributes)
        if source is None or "loading=" in attributes:
            return match[0]
        path = (folder / source[1].split("?")[0]).resolve()
        if not path.is_file():
            return match[0]
        with Image.open(path) as image:
            wide, high = image.size
        shape = "" if "transform:" in attributes else f' width="{wide}" height="{high}"'
        given = re.search(r'\bwidth="(\d+)"', attributes)
        if given:
            shape = f' height="{round(int(given[1]) * high / wide)}"'
        lazy = (
            "" if "animation-still" in attributes else ' loading="lazy"'
        )  # print shows it even if it was never in view
        return f"<img {attributes}{shape}{lazy}>"

    return _PICTURE.sub(sized, page)


def with_hanging_lines(page: str) -> str:
    """Indent the continuation lines of source and output that is wider than the page."""

    def lined(match: re.Match[str]) -> str:
        start, middle, code = match.groups()
        texts = [html.unescape(re.sub(r"<[^>]*>", "", line)) for line in code.split("\n")]
        if max(map(len, texts)) <= WIDEST_LINE:
            return match[0]
        lines, opened = [], []
        for line, text in zip(code.split("\n"), texts, strict=True):
            before = "".join(opened)
            for tag in re.findall(r"<span\b[^>]*>|</span>", line):
                if tag == "</span>":
                    opened.pop()
                else:
                    opened.append(tag)
            indent = len(text) - len(text.lstrip()) + 4
            body = f"{before}{line}{'</span>' * len(opened)}"
            lines.append(f'<span class="hangs" style="--indent: {indent}ch">{body}</span>' if text else line)
        return f"{start} long-source{middle}" + "\n".join(lines)

    return _SOURCE.sub(lined, page)


def meanings(glossary: str) -> dict[str, str]:
    """The definition of each term of the rendered glossary, in plain text, by its anchor."""
    return {
        anchor: re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", text))).strip()
        for anchor, text in _TERM.findall(glossary)
    }


def with_meanings(page: str, terms: dict[str, str]) -> str:
    """Add the definition to each link into the glossary as a tooltip, unless it contains a formula."""

    def with_tooltip(match: re.Match[str]) -> str:
        meaning = terms.get(match[2], "")
        if not meaning or "\\" in meaning:
            return match[0]
        return f'<a class="reference internal" href="{match[1]}" title="{html.escape(meaning)}">'

    return _TERM_LINK.sub(with_tooltip, page)


def finish(folder: Path) -> None:
    """Correct all pages of a rendered book."""
    pictures = folder / "_images"
    pictures.mkdir(exist_ok=True)
    glossary = folder / "book" / "glossary.html"
    terms = meanings(glossary.read_text(encoding="utf-8")) if glossary.exists() else {}
    for path in sorted(folder.rglob("*.html")):
        if "_static" in path.parts:
            continue
        page = path.read_text(encoding="utf-8")
        address = "../" * (len(path.relative_to(folder).parts) - 1) + "_images"
        page = with_roles(without_repeats(page))
        page = with_frame_sheets(page, pictures, address)
        page = with_picture_files(with_animations_inline(page, path.parent), pictures, address)
        page = with_picture_sizes(page, path.parent)
        path.write_text(with_meanings(with_hanging_lines(page), terms), encoding="utf-8")


def _finished(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html" and app.builder.name != "epub":
        finish(Path(app.outdir))


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
