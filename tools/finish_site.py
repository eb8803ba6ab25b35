"""What surrounds the rendered pages: link previews, the site's map, the page for wrong addresses, icons.

``finish_pages.py`` calls it after the build. The address of the published site follows from the repository's
in ``_config.yml``.
"""

from __future__ import annotations

import base64
import html
import io
import re
import textwrap
from pathlib import Path
from urllib.parse import urlsplit

from fontTools import subset
from PIL import Image, ImageDraw, ImageFont

CARD = (1200, 630)  # pixels, as sites that preview links want it
INK, PAPER = "#1b2330", "#ffffff"

_ICON_RULE = re.compile(r'(?:\.fa-[a-z0-9-]+:before,?)+\{content:"[^"]*"\}')
_ICON_FONT = re.compile(r'src:url\(\.\./(vendor/[^)]*/([\w-]+))\.woff2[^)]*\) format\("woff2"\)[^;}]*')
_PICTURE = re.compile(r'<img [^>]*\bsrc="([^":?]+\.(?:png|jpe?g|webp))(?:\?[^"]*)?"')

NOT_FOUND = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta name="robots" content="noindex">
    <title>No such page – {title}</title>
    <style>
      :root {{ color-scheme: light dark; }}
      body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 12vh auto; max-width: 34rem; padding: 0 1rem; }}
      svg {{ height: 4rem; width: 4rem; }}
      input, button {{ font: inherit; padding: 0.3rem 0.6rem; }}
    </style>
  </head>
  <body>
    <main>
      {mark}
      <h1>This page does not exist</h1>
      <p>The address may be an old one: chapters were renamed. <a href="{root}book/index.html">The index</a>
      lists all of them. Or search the book:</p>
      <form action="{root}search.html" role="search">
        <input type="search" name="q" aria-label="Search the book"> <button>Search</button>
      </form>
    </main>
  </body>
</html>
"""
ENTRY = """<!DOCTYPE html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta http-equiv="refresh" content="0; url=book/index.html">
    <title>{title}</title>{preview}
  </head>
  <body><p><a href="book/index.html">{title}</a></p></body>
</html>
"""


# --- icons ----------------------------------------------------------------------------------------


def slim_icons(static: Path, pages: str) -> None:
    """Reduce the theme's icons to those that are used, and put their fonts into its style sheet.

    The theme ships two thousand icons: 270 kB of fonts and 86 kB of rules. A page shows twenty.

    Args:
        static: The folder ``_static``, with the theme's ``styles``.
        pages: The text of all pages and scripts, in which the classes of icons stand.
    """
    sheet = static / "styles" / "pydata-sphinx-theme.css"
    used = set(re.findall(r"\bfa-[a-z0-9-]+", pages))

    def kept(rule: re.Match[str]) -> str:
        return rule[0] if used & set(re.findall(r"fa-[a-z0-9-]+", rule[0])) else ""

    style = _ICON_RULE.sub(kept, sheet.read_text(encoding="utf-8"))
    others = [path.read_text(encoding="utf-8") for path in static.rglob("*.css") if path != sheet]
    text = "\n".join([style, *others])
    codes = {int(code, 16) for code in re.findall(r"\\([ef][0-9a-f]{3})\b", text)}
    codes |= {ord(letter) for letter in text if "\ue000" <= letter <= "\uf8ff"}

    def embedded(source: re.Match[str]) -> str:
        data = base64.b64encode(font_subset(static / f"{source[1]}.ttf", codes)).decode()
        return f'src:url(data:font/woff;base64,{data}) format("woff")'

    sheet.write_text(_ICON_FONT.sub(embedded, style), encoding="utf-8")


def font_subset(file: Path, codes: set[int]) -> bytes:
    """A font with the glyphs of these characters alone, as WOFF."""
    options = subset.Options(flavor="woff", notdef_outline=True, hinting=False, recalc_timestamp=False)
    font = subset.load_font(str(file), options)
    subsetter = subset.Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    buffer = io.BytesIO()
    subset.save_font(font, buffer, options)
    font.close()
    return buffer.getvalue()


# --- link previews --------------------------------------------------------------------------------


def text_of(markup: str) -> str:
    """The words of some HTML, on one line."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", "", markup))).strip()


def description(page: str) -> str:
    """What a page is about: its question, or its first paragraph of a line or more."""
    article = page.partition("<article")[2]
    question = re.search(r"<p><strong>Question\.</strong>(.*?)</p>", article, re.S)
    paragraphs = [question[1]] if question else re.findall(r"<p>(.*?)</p>", article, re.S)
    texts = [text_of(paragraph) for paragraph in paragraphs if "\\(" not in paragraph]
    return textwrap.shorten(next((text for text in texts if len(text) > 60), ""), 200, placeholder=" …")


def first_picture(page: str, folder: Path) -> Path | None:
    """The first picture of a page's text that is large enough for a preview."""
    for source in _PICTURE.findall(page.partition("<article")[2].partition("</article>")[0]):
        path = (folder / source).resolve()
        if path.is_file():
            with Image.open(path) as image:
                if min(image.size) >= 100:
                    return path
    return None


def card(title: str, book: str, picture: Path) -> Image.Image:
    """The picture that a link to a page shows: its title and the book's beside a picture."""
    image = Image.new("RGB", CARD, PAPER)
    draw = ImageDraw.Draw(image)
    with Image.open(picture) as opened:
        shown = opened.convert("RGBA")
    scale = min(560 / shown.width, 490 / shown.height)
    shown = shown.resize((round(shown.width * scale), round(shown.height * scale)), Image.Resampling.LANCZOS)
    image.paste(shown, (CARD[0] - 70 - shown.width, (CARD[1] - shown.height) // 2), shown)
    for n, side in enumerate((48, 24, 12)):  # the mark: from one pixel to two by two to four by four
        for row in range(2**n):
            for column in range(2**n):
                tone = (47, 111, 222) if (row + column) % 2 == 0 else (130, 169, 235)
                x, y = 70 + 56 * n + column * side, 70 + row * side
                draw.rectangle((x, y, x + side - 2, y + side - 2), fill=tone)
    lines = textwrap.wrap(title, 18)
    size = 60 if len(lines) <= 4 else 48
    draw.multiline_text((70, 170), "\n".join(lines), INK, ImageFont.load_default(size), spacing=16)
    draw.text((70, 530), book, INK, ImageFont.load_default(28))
    return image


def preview(address: str, book: str, title: str, about: str, picture: str) -> str:
    """The elements of a page's head from which others make a preview of a link to it."""
    kind = "website" if address.endswith("/book/index.html") else "article"
    facts = {
        "og:type": kind,
        "og:site_name": book,
        "og:title": title,
        "og:description": about,
        "og:url": address,
        "og:image": picture,
        "og:image:width": str(CARD[0]),
        "og:image:height": str(CARD[1]),
        "og:image:alt": f"{title}. {book}.",
    }
    lines = [f'<meta name="description" content="{html.escape(about)}">']
    lines += [f'<meta property="{name}" content="{html.escape(value)}">' for name, value in facts.items()]
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    return "".join(f"\n    {line}" for line in lines)


def with_preview(page: str, path: Path, folder: Path, site: str) -> str:
    """Add what a preview of a link to the page needs, and draw its picture.

    Args:
        page: The page.
        path: Its file.
        folder: Folder of the site.
        site: Address of the published site.
    """
    title, _, book = text_of(re.search(r"<title>(.*?)</title>", page, re.S)[1]).rpartition(" — ")
    if not description(page):
        return page
    name = path.relative_to(folder).with_suffix("").as_posix()
    picture = f"_images/preview-{name.replace('/', '-')}.png"
    image = card(title, book, first_picture(page, path.parent) or folder / "_static" / "digits.png")
    image.quantize(128, dither=Image.Dither.NONE).save(folder / picture, optimize=True)
    head = preview(f"{site}/{name}.html", book, title, description(page), f"{site}/{picture}")
    return page.replace("</title>", f"</title>{head}", 1)


def with_sources(page: str) -> str:
    """Let "edit" lead to the .md of a chapter, from which its notebook is made, and let a download be one."""
    page = re.sub(r'(href="[^"]*/edit/[^"]*)\.ipynb"', r'\1.md"', page)
    return re.sub(r'(<a href="[^"]*_sources/[^"]*") target="_blank"', r"\1 download", page)


# --- the site ---------------------------------------------------------------------------------------


def write_entry_and_map(folder: Path, site: str, mark: str) -> None:
    """Write ``index.html``, ``404.html``, ``sitemap.xml`` and ``robots.txt``.

    Args:
        folder: Folder of the site.
        site: Its address once published.
        mark: The book's mark, as SVG.
    """
    index = (folder / "book" / "index.html").read_text(encoding="utf-8")
    title = text_of(re.search(r"<title>(.*?)</title>", index, re.S)[1]).rpartition(" — ")[2]
    metas = re.findall(r'<meta (?:property="og:|name="(?:description|twitter))[^>]*>', index)
    head = "".join(
        f"\n    {meta}" for meta in [f'<link rel="canonical" href="{site}/book/index.html">', *metas]
    )
    (folder / "index.html").write_text(ENTRY.format(title=html.escape(title), preview=head), encoding="utf-8")
    root = urlsplit(site).path.rstrip("/") + "/"
    (folder / "404.html").write_text(
        NOT_FOUND.format(title=html.escape(title), mark=mark.strip(), root=root), encoding="utf-8"
    )
    pages = sorted(path.relative_to(folder).as_posix() for path in (folder / "book").rglob("*.html"))
    entries = "".join(f"  <url><loc>{site}/{page}</loc></url>\n" for page in pages)
    (folder / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{entries}</urlset>\n',
        encoding="utf-8",
    )
    (folder / "robots.txt").write_text(
        f"User-agent: *\nAllow: /\nSitemap: {site}/sitemap.xml\n", encoding="utf-8"
    )
