"""A Sphinx extension that corrects the rendered pages where the theme and the notebooks fall short.

Loaded by ``_config.yml``. After the build it rewrites every page with

- one viewport, no scripts or styles that the page does not use, and no duplicate scripts;
- the fonts and the script for formulas only where there are formulas;
- no second list of contents, and no markup that changes nothing;
- roles that describe lists and tables correctly to screen readers;
- images as separate files, loaded lazily, with their size so that the layout does not jump;
- the films of trainings as sheets of frames, which are loaded once the reader scrubs through them;
- a still of each animation's last frame, in place of which book.js shows the animation once it is in view;
- a hanging indent for long lines of source and output, so that wrapped lines stay aligned;
- definitions as tooltips on the links into the glossary.

Then it writes the generators that draw in the pages (``play_data``).

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

import finish_site
import play_data
from chapters import addresses
from PIL import Image, ImageSequence

from dcganlib.viz import training_figure

WIDEST_LINE = 88  # columns that fit between the sidebars; the limit of the chapters' code

_INLINE_PICTURE = re.compile(
    r'<img (?P<before>[^>]*?)src="data:image/(?P<kind>\w+);base64,(?P<data>[^"]+)"(?P<after>[^>]*)>'
)
_PICTURE = re.compile(r"<img (?P<attributes>[^>]*)>")
_LINKED_ANIMATION = re.compile(
    r'<a class="[^"]*image-reference" href="[^"]*">\s*(<div class="animation".*?</button></div>)\s*</a>', re.S
)
_SOURCE = re.compile(
    r'(<div class="(?:output \w+ )?highlight-(?:python|ipython3|bash|myst-ansi) notranslate">'
    r'<div class="highlight)("><pre>)(.*?)(?=</pre>)',
    re.S,
)
_PRE = re.compile(r'<span class="pre">([^<]*)</span>')
_LONG_VALUE = re.compile(r'<em class="property">(?:(?!</em>).){1000,}</em>', re.S)
_SIGNATURE = re.compile(r'<dl>\s*(?=<dd><em class="sig-param">)(.*?)</dl>', re.S)
_TERM = re.compile(r'<dt id="(term-[^"]+)">.*?<dd>(.*?)</dd>', re.S)
_TERM_LINK = re.compile(r'<a class="reference internal" href="((?:glossary\.html)?#(term-[^"]+))">')


def without_repeats(page: str) -> str:
    """Keep one viewport and one copy of each inline script; remove scripts and styles that go unused.

    The index of the search is for the search page, tabs for pages with tabs, Thebe for no page. The icons are
    a font: the script that would draw them once more is eighty times as large.
    """
    unused = ["thebe", "scripts/fontawesome.js", "window.MathJax"]
    if 'id="search-results"' not in page:
        unused += ["searchtools.js", "language_data.js", "searchindex.js"]
    if "sd-tab-" not in page:
        unused += ["design-tabs.js"]
    seen: set[str] = set()

    def first(match: re.Match[str]) -> str:
        element = match[0]
        key = "viewport" if "viewport" in element else element
        if key in seen or any(name in element for name in unused):
            return ""
        seen.add(key)
        return element

    head, end, rest = page.partition("</head>")
    head = re.sub(r'<meta name="viewport"[^>]*>|<script\b[^>]*>[^<]*</script>|<link\b[^>]*>', first, head)
    return head + end + rest


def with_deferred_scripts(page: str) -> str:
    """Let the page appear before its scripts have come, except for settings that inline scripts change."""

    def deferred(match: re.Match[str]) -> str:
        source = match[1]
        return match[0] if "documentation_options" in source else f"<script defer{source}></script>"

    head, end, rest = page.partition("</head>")
    head = re.sub(r"<script(?![^>]*\bdefer)((?=[^>]*\bsrc=)[^>]*)></script>", deferred, head)
    return head + end + rest


def with_formulas(page: str) -> str:
    """Load what sets formulas, script and style, if the page has any; book.js calls it."""
    script = re.search(r'\s*<script [^>]*src="([^"]*katex/katex\.min)\.js[^"]*"></script>', page)
    if script is None:
        return page
    if 'class="math ' not in page:
        return page.replace(script[0], "")
    style = f'\n    <link rel="stylesheet" type="text/css" href="{script[1]}.css" />'
    book = re.search(
        r'\s*<link [^>]*href="[^"]*_static/book\.css[^"]*"[^>]*>', page
    )  # which has the last word
    at = book.start() if book else page.index("</head>")
    return page[:at] + style + page[at:]


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
    """Move embedded images into files; of an animation the page shows a still, and book.js the rest.

    An animation is no link to its file: its button would lead there.

    Args:
        page: The page.
        folder: Folder for the files.
        address: Address of this folder, relative to the page.
    """

    def moved(match: re.Match[str]) -> str:
        content = base64.b64decode(match["data"])
        name = hashlib.sha256(content).hexdigest()[:16]
        file = f"{address}/{name}.{match['kind']}"
        (folder / f"{name}.{match['kind']}").write_bytes(content)
        attributes = f"{match['before']}{match['after']}".strip().removesuffix("/").strip()
        with Image.open(io.BytesIO(content)) as image:
            frames = getattr(image, "n_frames", 1)
            if frames == 1:
                return f'<img {attributes} src="{file}">'
            image.seek(frames - 1)
            image.convert("RGB").save(folder / f"{name}-still.png", optimize=True)
        return (
            f'<div class="animation" data-film="{file}"><img {attributes} src="{address}/{name}-still.png">'
            '<button type="button" class="animation-button btn btn-sm" hidden>Pause</button></div>'
        )

    return _LINKED_ANIMATION.sub(r"\1", _INLINE_PICTURE.sub(moved, page))


def without_ballast(page: str) -> str:
    """Drop what says nothing: a second list of contents, spans around spaces, repeated names, long values."""
    page = re.sub(r'<div id="jb-print-docs-body".*?(?=<div id="searchbox">)', "", page, flags=re.S)
    page = re.sub(r' id="(?:exercise|solution)-content"', "", page)
    page = re.sub(r'<span class="w">(\s*)</span>', r"\1", page)

    def plain(signature: re.Match[str]) -> str:
        return _LONG_VALUE.sub("", _PRE.sub(r"\1", signature[0]))

    return re.sub(r'<dt class="sig .*?</dt>', plain, page, flags=re.S)


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
        return f'<img {attributes}{shape} loading="lazy">'

    return _PICTURE.sub(sized, page)


def slim_picture(path: Path) -> None:
    """Rewrite a large PNG without its channel of transparency if that is full everywhere."""
    if path.stat().st_size < 100_000:
        return
    with Image.open(path) as image:
        if image.mode == "RGBA" and image.getextrema()[3][0] == 255:
            image.convert("RGB").save(path, optimize=True)


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


def finish(folder: Path, site: str) -> None:
    """Correct all pages of a rendered book, and add what surrounds them.

    Args:
        folder: Folder of the rendered book.
        site: Address at which it is published.
    """
    pictures = folder / "_images"
    pictures.mkdir(exist_ok=True)
    for picture in pictures.glob("*.png"):
        slim_picture(picture)
    glossary = folder / "book" / "glossary.html"
    terms = meanings(glossary.read_text(encoding="utf-8")) if glossary.exists() else {}
    texts = [path.read_text(encoding="utf-8") for path in (folder / "_static").glob("*.js")]
    for path in sorted(folder.rglob("*.html")):
        if "_static" in path.parts or path in (folder / "index.html", folder / "404.html"):
            continue
        page = path.read_text(encoding="utf-8")
        address = "../" * (len(path.relative_to(folder).parts) - 1) + "_images"
        page = without_ballast(page)
        page = with_formulas(with_deferred_scripts(with_roles(without_repeats(page))))
        page = with_frame_sheets(page, pictures, address)
        page = with_picture_files(with_animations_inline(page, path.parent), pictures, address)
        page = with_picture_sizes(page, path.parent)
        page = with_meanings(with_hanging_lines(finish_site.with_sources(page)), terms)
        if path.parent != folder and "og:title" not in page:
            page = finish_site.with_preview(page, path, folder, site)
        path.write_text(page, encoding="utf-8")
        texts.append(page)
    finish_site.slim_icons(folder / "_static", "".join(texts))
    mark = (folder / "_static" / "mark.svg").read_text(encoding="utf-8")
    finish_site.write_entry_and_map(folder, site, mark)


def _configure(app: Any, config: Any) -> None:
    options = config.html_theme_options
    site = addresses(options["repository_url"], options["repository_branch"])["page"]
    config.html_baseurl = f"{site}/"  # canonical addresses
    options["extra_footer"] = options["extra_footer"].replace("REPOSITORY", options["repository_url"])
    options["logo"] = {"text": config.html_title}  # beside the mark


def _finished(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html" and app.builder.name == "html":
        finish(Path(app.outdir), app.config.html_baseurl.rstrip("/"))
        play_data.write(Path(app.outdir) / "_static" / "play")


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", _configure)
    app.connect("build-finished", _finished)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
