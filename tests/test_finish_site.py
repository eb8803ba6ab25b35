"""What surrounds the rendered pages: link previews, the site's map, the page for wrong addresses, icons."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import finish_site
import pytest
from fontTools.ttLib import TTFont
from matplotlib import get_data_path
from PIL import Image

SITE = "https://someone.github.io/fork"
PAGE = """<head><title>3. Digits &#8212; A &amp; B</title></head><article><h1>Digits</h1>
<p><a href="x"><img src="_static/small.png"></a></p>
<p>A first paragraph that is longer than a line of sixty characters is.</p>
<p><strong>Question.</strong> Can two networks <em>learn</em> to
draw digits &lt; that a person can read?</p><img alt="a" src="big.png"></article>"""


@pytest.fixture
def site(tmp_path):
    for folder in ("book", "_images", "_static"):
        (tmp_path / folder).mkdir()
    (tmp_path / "book" / "_static").mkdir()
    Image.new("RGB", (20, 20), "#00ff00").save(tmp_path / "book" / "_static" / "small.png")
    Image.new("RGB", (200, 100), "#ff0000").save(tmp_path / "book" / "big.png")
    Image.new("RGB", (200, 100), "#0000ff").save(tmp_path / "_static" / "digits.png")
    return tmp_path


def meta(page):
    return dict(re.findall(r'<meta (?:name|property)="([^"]+)" content="([^"]*)">', page))


def test_a_preview_says_the_question_of_a_chapter_and_shows_its_first_picture(site):
    path = site / "book" / "03_digits.html"
    facts = meta(finish_site.with_preview(PAGE, path, site, SITE))
    asked = "Can two networks learn to draw digits &lt; that a person can read?"
    assert facts["description"] == facts["og:description"] == asked
    assert facts["og:title"] == "3. Digits"
    assert facts["og:site_name"] == "A &amp; B"
    assert facts["og:url"] == f"{SITE}/book/03_digits.html"
    assert facts["og:image"] == f"{SITE}/_images/preview-book-03_digits.png"
    with Image.open(site / "_images" / "preview-book-03_digits.png") as image:
        assert image.size == (int(facts["og:image:width"]), int(facts["og:image:height"])) == (1200, 630)
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}
    assert (255, 0, 0) in colours  # big.png, and not the badge
    assert (0, 255, 0) not in colours


def test_without_a_question_the_first_long_paragraph_describes_and_without_a_picture_the_digits_show(site):
    page = re.sub(r"<p><strong>.*?</p><img[^>]*>", "", PAGE, flags=re.S)
    facts = meta(finish_site.with_preview(page, site / "book" / "a.html", site, SITE))
    assert facts["description"].startswith("A first paragraph")
    with Image.open(site / "_images" / "preview-book-a.png") as image:
        assert (0, 0, 255) in {colour for _, colour in image.convert("RGB").getcolors(1 << 20)}


def test_a_description_ends_at_a_word_within_200_characters():
    about = finish_site.description(f"<article><p>{'word ' * 100}</p>")
    assert about.endswith("word …")
    assert 150 < len(about) <= 200


def test_edit_leads_to_the_text_and_a_download_is_one():
    page = '<a href="https://x/edit/main/book/a.ipynb" target="_blank">'
    page += '<a href="../_sources/book/a.ipynb" target="_blank">'
    assert finish_site.with_sources(page) == (
        '<a href="https://x/edit/main/book/a.md" target="_blank"><a href="../_sources/book/a.ipynb" download>'
    )


def test_the_map_lists_every_page_and_the_entry_leads_to_the_first(site):
    for name in ("index", "01_a"):
        page = finish_site.with_preview(PAGE, site / "book" / f"{name}.html", site, SITE)
        (site / "book" / f"{name}.html").write_text(page, encoding="utf-8")
    finish_site.write_entry_and_map(site, SITE, "<svg><title>mark</title></svg>")
    tree = ElementTree.parse(site / "sitemap.xml")
    places = [place.text for place in tree.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")]
    assert places == [f"{SITE}/book/01_a.html", f"{SITE}/book/index.html"]
    assert f"Sitemap: {SITE}/sitemap.xml" in (site / "robots.txt").read_text(encoding="utf-8")
    entry = (site / "index.html").read_text(encoding="utf-8")
    assert '<meta http-equiv="refresh" content="0; url=book/index.html">' in entry
    assert meta(entry)["og:url"] == f"{SITE}/book/index.html"


def test_the_page_for_wrong_addresses_needs_no_file_and_finds_home_from_any_depth(site):
    (site / "book" / "index.html").write_text(PAGE, encoding="utf-8")
    finish_site.write_entry_and_map(site, SITE, "<svg></svg>")
    page = (site / "404.html").read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href|action)="([^"]*)"', page) == [
        "/fork/book/index.html",
        "/fork/search.html",
    ]


def test_icons_that_no_page_shows_are_left_out_of_style_and_fonts(tmp_path):
    fonts, styles = tmp_path / "vendor" / "fonts", tmp_path / "styles"
    fonts.mkdir(parents=True)
    styles.mkdir()
    (fonts / "icons.ttf").write_bytes(Path(get_data_path(), "fonts/ttf/STIXNonUni.ttf").read_bytes())
    with TTFont(fonts / "icons.ttf") as font:
        first, second, third, *_ = sorted(code for code in font.getBestCmap() if 0xE000 <= code <= 0xF8FF)
    rules = f'.fa-bars:before,.fa-navicon:before{{content:"\\{first:x}"}}'
    rules += f'.fa-ghost:before{{content:"\\{second:x}"}}'
    sources = (
        'url(../vendor/fonts/icons.woff2) format("woff2"),url(../vendor/fonts/icons.ttf) format("truetype")'
    )
    face = f"@font-face{{src:{sources}}}"
    sheet = styles / "pydata-sphinx-theme.css"
    sheet.write_text(f"{rules}{face}p{{color:red}}", encoding="utf-8")
    (styles / "other.css").write_text(f'.x:after{{content:"{chr(third)}"}}', encoding="utf-8")
    for _ in range(2):  # a second build finds what the first has left
        finish_site.slim_icons(tmp_path, '<i class="fa-solid fa-navicon">')
        style = sheet.read_text(encoding="utf-8")
        assert "fa-bars:before,.fa-navicon:before" in style
        assert "ghost" not in style
        assert style.endswith('format("woff")}p{color:red}')
        data = re.search(r"data:font/woff;base64,([^)]*)", style)[1]
        with TTFont(io.BytesIO(base64.b64decode(data))) as font:
            assert set(font.getBestCmap()) == {first, third}
