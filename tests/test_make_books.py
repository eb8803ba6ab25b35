"""The PDF and the EPUB, made of a book of three small pages."""

import re
import shutil
import zipfile
from xml.etree import ElementTree

import browser
import make_books
import pytest
from PIL import Image

HEAD = """<html><head><title>{title} &#8212; A Book</title>
<link rel="stylesheet" href="../_static/book.css?v=1" />
<script defer src="../_static/katex/katex.min.js"></script>{next}</head><body><nav>chapters</nav>"""
NEXT = '<link rel="next" title="Next" href="{}" />'
INDEX = """<article class="bd-article"><section id="a-book">
<h1>A Book<a class="headerlink" href="#a-book">#</a></h1>
<figure><div class="animation" data-film="../_images/film.webp"><img class="dark-light" alt="It moves."
width="40" height="30" src="../_images/film-still.png" loading="lazy"><button>Pause</button></div>
</figure>
<p>See <a href="01_one.html">one</a>, <a href="01_one.html#start">its start</a> and
<a href="https://example.org/">elsewhere</a>, or <a href="../genindex.html">the index</a>.</p></section>
</article>"""
ONE = r"""<article class="bd-article"><section id="start"><h1>One &amp; only</h1>
<p><a class="reference external" href="https://colab"><img alt="Colab" src="_static/colab.svg"></a></p>
<p>An <span class="math notranslate nohighlight">\(x^2\)</span>.</p>
<details class="hide above-input"><summary>Show</summary><pre>folded &lt;code&gt;</pre></details>
<div class="math notranslate nohighlight" id="eq-a"><span class="eqno">(1)</span>\[\frac{a}{b} &lt; 1\]</div>
<p><img alt="A chart" src="../_images/chart.png" width="30" height="20"> <a href="#eq-a">(1)</a></p>
</section></article>"""
TWO = """<article class="bd-article"><section id="start"><h1>Two</h1>
<p>As in <a href="index.html">the book</a><br>.</p>
</section></article>"""


@pytest.fixture
def root(tmp_path):
    site = tmp_path / "_build" / "html"
    for folder in ("book", "_images", "_static"):
        (site / folder).mkdir(parents=True)
    shutil.copytree(browser.STATIC / "katex", site / "_static" / "katex")
    for name in ("book.css", "book.js", "mark.svg"):
        shutil.copy(browser.STATIC / name, site / "_static" / name)
    frames = [Image.new("RGB", (40, 30), (n, 0, 0)) for n in (0, 60, 90, 120, 150, 180, 210, 255)]
    frames[0].save(site / "_images" / "film.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[-1].save(site / "_images" / "film-still.png")
    for name in ("chart", "preview-book-index"):
        Image.new("RGB", (30, 20), "white").save(site / "_images" / f"{name}.png")
    pages = {"index": ("A Book", INDEX, "01_one.html"), "01_one": ("1. One &amp; only", ONE, "02_two.html")}
    for name, (title, text, following) in (pages | {"02_two": ("2. Two", TWO, None)}).items():
        head = HEAD.format(title=title, next=NEXT.format(following) if following else "")
        (site / "book" / f"{name}.html").write_text(
            f"<!DOCTYPE html>{head}{text}</body></html>", encoding="utf-8"
        )
    citation = 'authors:\n  - name: A. & B.\nversion: 1.2.0\ndate-released: "2030-01-02"\n'
    (tmp_path / "CITATION.cff").write_text(citation, encoding="utf-8")
    return tmp_path


def test_the_order_is_that_of_the_next_links(root):
    order = make_books.reading_order(root / "_build" / "html")
    assert [path.stem for path in order] == ["index", "01_one", "02_two"]


def test_on_paper_nothing_is_folded_and_no_button_is_left():
    text = make_books.article(f"<nav>x</nav>{ONE}<footer>y</footer>")
    assert "folded &lt;code&gt;" in text
    assert not re.search("details|summary|colab|<nav|<footer|Show", text)
    assert not re.search("headerlink|loading=", make_books.article(INDEX))


@pytest.mark.parametrize(
    ("size", "shape"), [((36, 30), (174, 30)), ((80, 40), (170, 90)), ((90, 30), (90, 150))]
)
def test_a_film_becomes_a_strip_of_four_frames_from_the_first_to_the_last(tmp_path, size, shape):
    frames = [Image.new("RGB", size, (n * 28, 0, 0)) for n in range(10)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert make_books.strip(make_books.frames_of_film(tmp_path / "a.webp"), tmp_path / "a.png") == shape
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == shape
        reds = {red for _, (red, green, _) in image.getcolors(99) if green == 0}
    assert reds == {0, 3 * 28, 6 * 28, 9 * 28}


def test_a_sheet_of_frames_becomes_a_strip_that_ends_with_the_last_frame(tmp_path):
    frames = [Image.new("RGB", (30, 30), (n * 28, 0, 0)) for n in range(8)]
    sheet = Image.new("RGB", (90, 90))  # its last place is empty
    for n, frame in enumerate(frames):
        sheet.paste(frame, (n % 3 * 30, n // 3 * 30))
    sheet.save(tmp_path / "a-frames.png")
    frames[-1].save(tmp_path / "a-last.png")
    page = (
        '<img alt="a" data-steps="9" data-frames="a-frames.png" data-columns="3" width="9" src="a-last.png">'
    )
    shown = make_books.with_strips(f"<p>{page}</p>", tmp_path, tmp_path, "strips")
    assert shown == '<p><img src="strips/a-frames-strip.png" width="150" height="30" alt="a"></p>'
    with Image.open(tmp_path / "a-frames-strip.png") as image:
        assert [image.getpixel((40 * n + 15, 15))[0] // 28 for n in range(4)] == [0, 3, 6, 7]


def test_links_lead_to_the_same_place_within_one_page():
    names = {"index", "01_one", "02_two"}
    text = '<p id="a"></p><a href="#a"><a href="02_two.html#a"><a href="02_two.html">'
    text += '<a href="far.html#a"><a href="https://x/#a">'
    assert make_books.with_own_names(text, "01_one", names) == (
        '<p id="01_one--a"></p><a href="#01_one--a"><a href="#02_two--a"><a href="#02_two">'
        '<a href="far.html#a"><a href="https://x/#a">'
    )


def test_a_large_picture_becomes_a_jpeg_for_paper_unless_it_is_transparent(tmp_path):
    noise = Image.effect_noise((600, 600), 90)
    noise.convert("RGB").save(tmp_path / "a.png")
    Image.merge("LA", (noise, noise)).save(tmp_path / "b.png")
    Image.new("RGB", (600, 600)).save(tmp_path / "c.png")
    assert make_books.light(tmp_path / "a.png", tmp_path) == tmp_path / "a.jpg"
    assert make_books.light(tmp_path / "b.png", tmp_path) == tmp_path / "b.png"
    assert make_books.light(tmp_path / "c.png", tmp_path) == tmp_path / "c.png"


def test_the_epub_is_whole(root, capsys):
    browser.require()
    make_books.main(["epub"], root)
    made = root / "_build" / "release" / "dcgan-book-1.2.0.epub"
    assert capsys.readouterr().out.strip() == str(made)
    with zipfile.ZipFile(made) as archive:
        first = archive.infolist()[0]
        assert (first.filename, first.compress_type) == ("mimetype", zipfile.ZIP_STORED)
        assert archive.read("mimetype") == b"application/epub+zip"
        files = {name.removeprefix("book/"): archive.read(name) for name in archive.namelist()}
    package = ElementTree.fromstring(files["book.opf"])
    space = {"o": "http://www.idpf.org/2007/opf", "dc": "http://purl.org/dc/elements/1.1/"}
    assert package.findtext(".//dc:title", namespaces=space) == "A Book"
    assert package.findtext(".//dc:creator", namespaces=space) == "A. & B."
    items = {item.get("href"): item for item in package.iterfind(".//o:item", space)}
    assert set(items) == set(files) - {"mimetype", "META-INF/container.xml", "book.opf"}
    names = {item.get("id"): href for href, item in items.items()}
    spine = [names[item.get("idref")] for item in package.iterfind(".//o:itemref", space)]
    assert spine == ["nav.xhtml", "index.xhtml", "01_one.xhtml", "02_two.xhtml"]
    assert items["01_one.xhtml"].get("properties") == "mathml"
    anchors = {}
    for name in spine:
        tree = ElementTree.fromstring(files[name])  # it is XML
        anchors[name] = {element.get("id") for element in tree.iter()}
        assert not {element.tag.split("}")[1] for element in tree.iter()} & {"script", "button", "details"}
    for name in spine:
        for address in re.findall(r'(?:href|src)="([^"]*)"', files[name].decode()):
            page, _, anchor = address.partition("#")
            if page != "https://example.org/":
                assert (page or name) in items, address
                assert not anchor or anchor in anchors[page or name], address
    one = files["01_one.xhtml"].decode()
    assert one.count("<math") == 2
    assert "<mfrac>" in one
    assert "annotation" not in one
    assert "the index" in files["index.xhtml"].decode()  # a page that is not in the book is no link
    assert "genindex" not in files["index.xhtml"].decode()


def test_the_pdf_has_a_cover_contents_and_each_page(root):
    browser.require()
    make_books.main(["pdf"], root)
    data = (root / "_build" / "release" / "dcgan-book-1.2.0.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert len(re.findall(rb"/Type /Page\b", data)) == 5
    assert b"/Outlines" in data
    page = (root / "_build" / "print" / "book.html").read_text(encoding="utf-8")
    ids = re.findall(r'(?<=\s)id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)


def test_a_book_with_a_picture_that_is_gone_is_not_printed(root):
    browser.require()
    (root / "_build" / "html" / "_images" / "chart.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"chart\.png"):
        make_books.main(["pdf"], root)


def test_what_cannot_be_made_is_refused(root):
    with pytest.raises(ValueError, match="docx: choose from pdf, epub"):
        make_books.main(["docx"], root)
    shutil.rmtree(root / "_build" / "html" / "book")
    with pytest.raises(FileNotFoundError, match="make book"):
        make_books.main(["pdf"], root)
