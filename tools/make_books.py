"""Make one file of the rendered book: ``python tools/make_books.py pdf epub``, or ``make pdf epub``.

Both are made of the pages in ``_build/html``, in the order of their "next" links: what is wrong there was
an error already. A headless Chromium sets the formulas, prints the PDF, and writes the pages as XML for the
EPUB. An animation becomes a strip of four frames. A figure to play with is the picture that the page has
without JavaScript. All that is folded is open.
"""

from __future__ import annotations

import html
import os
import re
import shutil
import sys
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finish_site import text_of
from PIL import Image


@dataclass(frozen=True)
class Edition:
    """What is made into one file.

    Attributes:
        site: Folder of the rendered book.
        out: Folder for what is made on the way.
        version: The version, its author and its date as in ``CITATION.cff``.
        author: Who wrote it.
        released: The date, as YYYY-MM-DD.
    """

    site: Path
    out: Path
    version: str
    author: str
    released: str

    @classmethod
    def of(cls, root: Path) -> Edition:
        """The edition that a checkout holds."""
        cited = (root / "CITATION.cff").read_text(encoding="utf-8")
        version = re.search(r"^version: (\S+)$", cited, re.M)[1]
        author = re.search(r'^ +- name: "?(.*?)"?$', cited, re.M)[1]
        released = re.search(r'^date-released: "?([0-9-]+)', cited, re.M)[1]
        return cls(root / "_build" / "html", root / "_build" / "print", version, author, released)


ROOT = Path(__file__).resolve().parent.parent
BROWSERS = (
    *("chromium", "chromium-browser", "google-chrome", "chrome"),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)
FRAMES = 4  # of an animation, on paper
STRIP = 1600  # pixels that a strip of them is wide, at most

_ANIMATION = re.compile(
    r'<div class="animation" data-film="([^"]+)">(<img [^>]*>)<button.*?</button></div>', re.S
)
_SHEET = re.compile(r'<img [^>]*\bdata-frames="[^>]*>')
_PICTURE_FILE = re.compile(r'\bsrc="((?:\.\./)*[^":]+)"')


# --- the pages --------------------------------------------------------------------------------------


def reading_order(site: Path) -> list[Path]:
    """The pages of the book from its index on, each the one that the last calls the next."""
    pages, path = [], site / "book" / "index.html"
    while path.parent.name == "book" and path not in pages:
        pages.append(path)
        following = re.search(r'<link rel="next" [^>]*href="([^"#]+)"', path.read_text(encoding="utf-8"))
        if following is None:
            break
        path = (path.parent / following[1]).resolve()
    return pages


def article(page: str) -> str:
    """The text of a page without what only a screen can use; what is folded is open."""
    text = re.search(r"<article[^>]*>(.*?)</article>", page, re.S)[1]
    text = re.sub(r'<a class="headerlink".*?</a>', "", text, flags=re.S)
    text = re.sub(r"<p><a [^>]*><img [^>]*colab\.svg[^>]*></a></p>", "", text)
    text = re.sub(r"<summary.*?</summary>", "", text, flags=re.S)
    text = re.sub(r"<(/?)details\b", r"<\1div", text)
    return re.sub(r' loading="lazy"', "", text)


def frames_of_film(film: Path) -> list[Image.Image]:
    """Some frames of an animation, from the first to the last."""
    with Image.open(film) as image:
        frames = []
        for n in range(FRAMES):
            image.seek(round(n * (image.n_frames - 1) / (FRAMES - 1)))
            frames.append(image.convert("RGB"))
    return frames


def frames_of_sheet(sheet: Path, columns: int, last: Path) -> list[Image.Image]:
    """Some frames of a film that is stored as one picture of all frames, row by row, and its last."""
    with Image.open(last) as image:
        end = image.convert("RGB")
    wide, high = end.size
    with Image.open(sheet) as image:
        count = columns * (image.height // high)
        places = [divmod(n * count // (FRAMES - 1), columns) for n in range(FRAMES - 1)]
        boxes = [(x * wide, y * high, x * wide + wide, y * high + high) for y, x in places]
        return [*(image.crop(box).convert("RGB") for box in boxes), end]


def strip(frames: list[Image.Image], out: Path) -> tuple[int, int]:
    """Draw frames of one size side by side in one picture.

    Returns:
        Width and height of the picture.
    """
    wide, high = frames[0].size
    columns = 4 if wide < 1.3 * high else 2 if wide < 2.5 * high else 1
    scale = min(1, (STRIP - 10 * (columns - 1)) / (wide * columns))
    wide, high = round(wide * scale), round(high * scale)
    rows = -(-len(frames) // columns)
    picture = Image.new("RGB", (columns * (wide + 10) - 10, rows * (high + 10) - 10), "white")
    for n, frame in enumerate(frames):
        place = (n % columns * (wide + 10), n // columns * (high + 10))
        picture.paste(frame.resize((wide, high), Image.Resampling.LANCZOS), place)
    picture.save(out, optimize=True)
    return picture.size


def with_strips(text: str, folder: Path, out: Path, address: str) -> str:
    """Show each animation, and each film that is stored as a sheet of its frames, as a strip of some frames.

    Args:
        text: The text of a page.
        folder: Folder of the page.
        out: Folder for the strips.
        address: Address of this folder.
    """

    def stripped(picture: str, name: str, frames: list[Image.Image]) -> str:
        width, height = strip(frames, out / f"{name}-strip.png")
        bare = re.sub(r'\s(?:src|width|height|style|data-[a-z]+)="[^"]*"', "", picture)
        size = f'width="{width}" height="{height}"'
        return bare.replace("<img", f'<img src="{address}/{name}-strip.png" {size}', 1)

    def animation(match: re.Match[str]) -> str:
        return stripped(match[2], Path(match[1]).stem, frames_of_film(folder / match[1]))

    def sheet(match: re.Match[str]) -> str:
        facts = dict(re.findall(r'\s(src|data-frames|data-columns)="([^"]*)"', match[0]))
        paths = folder / facts["data-frames"], folder / facts["src"]
        frames = frames_of_sheet(paths[0], int(facts["data-columns"]), paths[1])
        return stripped(match[0], paths[0].stem, frames)

    return _SHEET.sub(sheet, _ANIMATION.sub(animation, text))


def light(picture: Path, out: Path) -> Path:
    """A picture for the PDF: a large one without transparency as JPEG, a third of its size."""
    if picture.suffix != ".png" or picture.stat().st_size < 200_000:
        return picture
    with Image.open(picture) as image:
        shown = image.convert("RGBA")
    if shown.getextrema()[3][0] < 255:
        return picture
    made = out / f"{picture.stem}.jpg"
    shown.convert("RGB").save(made, quality=90)
    return made


def title_of(page: str) -> tuple[str, str]:
    """The titles of a page and of the book."""
    title, _, book = text_of(re.search(r"<title>(.*?)</title>", page, re.S)[1]).rpartition(" — ")
    return title, book


# --- PDF --------------------------------------------------------------------------------------------


def with_own_names(text: str, name: str, names: set[str]) -> str:
    """Give a page names that are its own within the book, and let its links lead to those of the others.

    Args:
        text: The text of the page.
        name: The page's name.
        names: The names of all pages of the book.
    """

    def linked(match: re.Match[str]) -> str:
        page, anchor = match[1].removesuffix(".html") or name, match[2]
        if page not in names:
            return match[0]
        return f'href="#{page}--{anchor}"' if anchor else f'href="#{page}"'

    text = re.sub(r'(?<=\s)id="([^"]+)"', rf'id="{name}--\1"', text)
    return re.sub(r'href="([\w.-]*)(?:#([^"]*))?"', linked, text)


def whole_page(edition: Edition) -> str:
    """The book on one page, for print."""
    site, out = edition.site, edition.out
    paths = reading_order(site)
    names = {path.stem for path in paths}
    pages = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    _, book = title_of(pages["index"])
    sections, entries = [], []
    for path in paths:
        address = Path(os.path.relpath(out, path.parent)).as_posix()
        text = with_strips(article(pages[path.stem]), path.parent, out, address)
        for source in set(_PICTURE_FILE.findall(text)):
            file = light((path.parent / source).resolve(), out).as_uri()
            text = text.replace(f'src="{source}"', f'src="{file}"')
        text = with_own_names(text, path.stem, names)
        sections.append(f'<section class="page" id="{path.stem}">{text}</section>')
        entries.append(f'<li><a href="#{path.stem}">{html.escape(title_of(pages[path.stem])[0])}</a></li>')
    static = (site / "_static").as_uri()
    head = re.search(r"<head>.*?</head>", next(page for page in pages.values() if "katex" in page), re.S)[0]
    styles = re.findall(r'<link [^>]*href="\.\./_static/([^"?]+\.css)', head)
    loaded = [f'<link rel="stylesheet" href="{static}/{style}">' for style in styles]
    loaded += [f'<script defer src="{static}/{name}"></script>' for name in ("katex/katex.min.js", "book.js")]
    cover = sections[0].partition("<figure")[2].partition("</figure>")[0]
    picture = re.search(r"<img [^>]*>", cover)
    return f"""<!DOCTYPE html>
<html lang="en" data-theme="light">
<head><meta charset="utf-8"><title>{html.escape(book)}</title>{"".join(loaded)}</head>
<body class="book"><div class="bd-content"><article class="bd-article">
<section class="cover"><img src="{static}/mark.svg" alt=""><p class="cover-title">{html.escape(book)}</p>
{picture[0] if picture else ""}
<p>{html.escape(edition.author)}<br>{edition.version}, {edition.released}</p></section>
<section class="page contents"><h1>Contents</h1><ul>{"".join(entries)}</ul></section>
{"".join(sections)}</article></div></body></html>"""


FOOTER = """<div style="font: 8px sans-serif; width: 100%; padding: 0 18mm; display: flex; color: #555">
<span style="flex: 1">{title}</span><span class="pageNumber"></span></div>"""


def make_pdf(edition: Edition) -> Path:
    """Print the book."""
    source, made = edition.out / "book.html", edition.out / "book.pdf"
    source.write_text(whole_page(edition), encoding="utf-8")
    title = html.escape(title_of((edition.site / "book" / "index.html").read_text(encoding="utf-8"))[1])
    with tab() as shown:
        failed: list[str] = []
        shown.on("pageerror", lambda error: failed.append(str(error)))
        shown.on("requestfailed", lambda request: failed.append(request.url))
        shown.goto(source.as_uri(), timeout=600_000)
        shown.evaluate("document.fonts.ready.then(() => true)")
        bad = shown.evaluate("""[...document.querySelectorAll(".katex-error"), ...[...document.images]
            .filter((image) => !image.naturalWidth)].map((box) => box.src || box.textContent)""")
        if failed or bad:
            raise RuntimeError(f"the book cannot be printed: {failed + bad}")
        shown.pdf(
            path=str(made),
            format="A4",
            margin={"top": "18mm", "bottom": "20mm", "left": "18mm", "right": "18mm"},
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOTER.format(title=title),
            print_background=True,
            tagged=True,
            outline=True,
        )
    return made


# --- EPUB -------------------------------------------------------------------------------------------

# Formulas as MathML, which readers set; scripts, styles of single elements and unknown attributes go.
AS_XML = """(text) => {
  const article = document.querySelector("article");
  article.innerHTML = text;
  article.querySelectorAll(".math:is(span, div)").forEach((box) => {
    const source = [...box.childNodes].find((part) => part.nodeType === 3 && part.data.includes("\\\\"));
    const found = source && source.data.match(/\\\\([([])([^]*)\\\\[)\\]]/);
    if (!found) return;
    const set = document.createElement("span");
    katex.render(found[2], set, {displayMode: found[1] === "[", output: "mathml"});
    set.querySelectorAll("annotation").forEach((note) => note.remove());
    source.replaceWith(...set.querySelector(".katex").childNodes);
  });
  article.querySelectorAll("script, style, button").forEach((box) => box.remove());
  const known = new Set("class id href src alt width height lang colspan rowspan start".split(" "));
  article.querySelectorAll("*").forEach((box) => {
    if (box.closest("math, svg")) return;
    [...box.attributes].forEach(({name}) => { if (!known.has(name)) box.removeAttribute(name); });
  });
  return [...article.childNodes].map((part) => new XMLSerializer().serializeToString(part)).join("");
}"""
XHTML = """<?xml version="1.0" encoding="utf-8"?>
<!DOCTYPE html>
<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops" lang="en" xml:lang="en">
<head><title>{title}</title><link rel="stylesheet" type="text/css" href="book.css"/></head>
<body>{body}</body>
</html>
"""
PACKAGE = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="id" xml:lang="en">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:identifier id="id">urn:uuid:{identifier}</dc:identifier>
<dc:title>{title}</dc:title>
<dc:language>en</dc:language>
<dc:creator>{author}</dc:creator>
<meta property="dcterms:modified">{modified}</meta>
</metadata>
<manifest>
{items}</manifest>
<spine>
{spine}</spine>
</package>
"""
CONTAINER = """<?xml version="1.0"?>
<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container">
<rootfiles><rootfile full-path="book/book.opf" media-type="application/oebps-package+xml"/></rootfiles>
</container>
"""
EPUB_CSS = """body { line-height: 1.4; }
pre { font-size: 0.75em; line-height: 1.3; white-space: pre-wrap; overflow-wrap: anywhere; }
.cell_input, .highlight { border-left: 2px solid #bbb; padding-left: 0.5em; }
.cell_input .highlight { border: 0; padding: 0; }
img { height: auto; max-width: 100%; }
figure { margin: 1em 0; }
table { border-collapse: collapse; font-size: 0.85em; }
td, th { border-bottom: 1px solid #bbb; padding: 0.2em 0.5em; text-align: left; vertical-align: top; }
.admonition { border: 1px solid #bbb; margin: 1em 0; padding: 0 0.8em; }
.admonition-title, .caption-number { font-weight: bold; }
.eqno { float: right; }
div.math { margin: 0.8em 0; text-align: center; }
.sig-line { display: block; padding-left: 2em; }
dt { font-weight: bold; }
"""
MADE = (1980, 1, 1, 0, 0, 0)  # the date of every file: the same book gives the same bytes
KINDS = {
    ".xhtml": "application/xhtml+xml",
    ".css": "text/css",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
}


def make_epub(edition: Edition) -> Path:
    """Write the book as EPUB 3."""
    site, out = edition.site, edition.out
    paths = reading_order(site)
    pages = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    files: dict[str, bytes] = {"book.css": EPUB_CSS.encode()}
    with tab() as shown:
        shown.set_content("<!DOCTYPE html><article></article>")
        shown.add_script_tag(path=site / "_static" / "katex" / "katex.min.js")
        for path in paths:
            address = Path(os.path.relpath(out, path.parent)).as_posix()
            text = with_strips(article(pages[path.stem]), path.parent, out, address)
            for source in set(_PICTURE_FILE.findall(text)):
                picture = (path.parent / source).resolve()
                files[picture.name] = picture.read_bytes()
            text = _PICTURE_FILE.sub(lambda match: f'src="{Path(match[1]).name}"', text)
            body = shown.evaluate(AS_XML, with_files_of_the_book(text, set(pages)))
            title = html.escape(title_of(pages[path.stem])[0])
            files[f"{path.stem}.xhtml"] = XHTML.format(title=title, body=body).encode()
    entries = [(f"{path.stem}.xhtml", title_of(pages[path.stem])[0]) for path in paths]
    files["nav.xhtml"] = contents(entries).encode()
    files["cover.png"] = (site / "_images" / "preview-book-index.png").read_bytes()
    files["book.opf"] = package(
        title_of(pages["index"])[1], files, ["nav.xhtml", *(name for name, _ in entries)], edition
    ).encode()
    made = out / "book.epub"
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo("mimetype", MADE), "application/epub+zip", zipfile.ZIP_STORED)
        archive.writestr(zipfile.ZipInfo("META-INF/container.xml", MADE), CONTAINER, zipfile.ZIP_DEFLATED)
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(f"book/{name}", MADE), content, zipfile.ZIP_DEFLATED)
    return made


def with_files_of_the_book(text: str, names: set[str]) -> str:
    """Let links lead to the files of the EPUB; a link to any other file becomes its text."""

    def linked(match: re.Match[str]) -> str:
        address, inside = match[1], match[2]
        if address.startswith(("https:", "http:", "#")):
            return match[0]
        page, dot, anchor = address.partition(".html")
        return f'<a href="{page}.xhtml{anchor}">{inside}</a>' if dot and page in names else inside

    return re.sub(r'<a [^>]*href="([^"]*)"[^>]*>(.*?)</a>', linked, text, flags=re.S)


def contents(entries: list[tuple[str, str]]) -> str:
    """The EPUB's table of contents.

    Args:
        entries: File and title of each page.
    """
    items = "".join(f'<li><a href="{name}">{html.escape(title)}</a></li>\n' for name, title in entries)
    body = f'<nav epub:type="toc" id="toc"><h1>Contents</h1><ol>\n{items}</ol></nav>'
    return XHTML.format(title="Contents", body=body)


def package(title: str, files: dict[str, bytes], spine: list[str], edition: Edition) -> str:
    """The EPUB's list of files.

    Args:
        title: The book's title.
        files: All files by name.
        spine: The names of the pages in order.
        edition: Its version, author and date.
    """
    items = []
    for name in sorted(files):
        kind = KINDS[Path(name).suffix]
        traits = [{"nav.xhtml": "nav", "cover.png": "cover-image"}.get(name, "")]
        traits += ["mathml"] if kind.endswith("xhtml+xml") and b"<math" in files[name] else []
        more = f' properties="{" ".join(filter(None, traits))}"' if any(traits) else ""
        items.append(f'<item id="{item(name)}" href="{name}" media-type="{kind}"{more}/>\n')
    return PACKAGE.format(
        identifier=uuid.uuid5(uuid.NAMESPACE_URL, f"{title} {edition.version}"),
        title=html.escape(title),
        author=html.escape(edition.author),
        modified=f"{edition.released}T00:00:00Z",
        items="".join(items),
        spine="".join(f'<itemref idref="{item(name)}"/>\n' for name in spine),
    )


def item(name: str) -> str:
    """A name for the list of files, which begins with a letter and has no dot."""
    return "f-" + re.sub(r"\W", "-", name)


# --- the browser ------------------------------------------------------------------------------------


@contextmanager
def tab() -> Iterator[Any]:
    """A page of a headless Chromium.

    Raises:
        FileNotFoundError: There is none.
    """
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, (os.environ.get("CHROMIUM"), *map(shutil.which, BROWSERS))), None)
    if browser is None:
        raise FileNotFoundError(
            "a PDF or an EPUB needs Chromium or Chrome on the path, or its place in CHROMIUM"
        )
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, headless=True, args=["--no-sandbox"])
        yield opened.new_page()
        opened.close()


def main(kinds: list[str], root: Path = ROOT) -> None:
    """Make the book's PDF or EPUB in ``_build/release``.

    Raises:
        ValueError: Another kind is asked for.
        FileNotFoundError: The book is not rendered, or there is no Chromium.
    """
    makers = {"pdf": make_pdf, "epub": make_epub}
    if not kinds or set(kinds) - set(makers):
        raise ValueError(f"{' '.join(kinds) or 'nothing'}: choose from {', '.join(makers)}")
    edition, release = Edition.of(root), root / "_build" / "release"
    if not (edition.site / "book" / "index.html").is_file():
        raise FileNotFoundError(f"{edition.site} has no book/index.html: run `make book` first")
    for folder in (edition.out, release):
        folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        made = release / f"dcgan-book-{edition.version}.{kind}"
        makers[kind](edition).replace(made)
        print(made)


if __name__ == "__main__":
    main(sys.argv[1:])
