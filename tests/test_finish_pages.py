"""What is mended in the rendered pages, each on a page of a few words."""

import base64
import io
import re

import finish_pages
import pytest
from PIL import Image


def inline(frames):
    """A picture in the address of an image: one frame, or an animation of several."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer, "webp", lossless=True, save_all=len(frames) > 1, append_images=frames[1:], duration=100
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


RED, BLUE = (Image.new("RGB", (12, 8), colour) for colour in ("#ff0000", "#0000ff"))


def test_a_script_and_the_viewport_come_once_and_thebe_not_at_all():
    view = '<meta name="viewport" content="width=device-width" />'
    script = "<script>let once = 1</script>"
    head = f"{view}{script}{view}<script>const THEBE = 'thebe'</script>{script}"
    page = f"<head>{head}<script src='a.js'></script></head>{script}"
    assert finish_pages.without_repeats(page) == (
        f"<head>{view}{script}<script src='a.js'></script></head>{script}"
    )


def test_a_constant_of_many_lines_shows_its_name_in_the_reference_and_not_its_value():
    sig = '<dt class="sig x"><span>NAME</span><em class="property"> = {}</em></dt>'
    assert finish_pages.without_ballast(sig.format("1, " * 400)) == '<dt class="sig x"><span>NAME</span></dt>'
    assert finish_pages.without_ballast(sig.format("1, 2")) == sig.format("1, 2")


def test_a_page_loads_the_search_and_tabs_only_where_they_are():
    scripts = [f'<script src="{name}.js"></script>' for name in ("searchtools", "design-tabs", "fontawesome")]
    style = '<link href="sphinx-thebe.css" rel="stylesheet" />'
    scripts[2] = scripts[2].replace("fontawesome", "scripts/fontawesome")
    head = f"<head>{''.join(scripts)}{style}</head>"
    assert finish_pages.without_repeats(f"{head}<p>text</p>") == "<head></head><p>text</p>"
    search, tabs = '<div id="search-results"></div>', '<div class="sd-tab-set"></div>'
    assert finish_pages.without_repeats(head + search) == f"<head>{scripts[0]}</head>{search}"
    assert finish_pages.without_repeats(head + tabs) == f"<head>{scripts[1]}</head>{tabs}"


def test_scripts_wait_for_the_page_but_settings_come_at_once():
    settings = '<script src="documentation_options.js"></script><script>options.a = 1</script>'
    later = '<script defer="defer" src="b.js"></script><script>let hint</script>'
    page = finish_pages.with_deferred_scripts(
        f'<head>{settings}<script src="a.js?v=1"></script>{later}</head>'
    )
    assert page == f'<head>{settings}<script defer src="a.js?v=1"></script>{later}</head>'


def test_what_sets_formulas_is_loaded_where_formulas_are():
    script = '<script defer src="../_static/katex/katex.min.js?v=2"></script>'
    book = '<link rel="stylesheet" href="../_static/book.css?v=1" />'
    page = finish_pages.with_formulas(f'<head>{book}{script}</head><span class="math notranslate">x</span>')
    assert script in page
    assert page.index("../_static/katex/katex.min.css") < page.index("book.css")
    assert (
        finish_pages.with_formulas(f"<head>{book}{script}</head><p>text</p>")
        == f"<head>{book}</head><p>text</p>"
    )


def test_ballast_goes_and_every_word_stays():
    toc = '<div id="jb-print-docs-body"><h1>Title</h1></div>\n'
    code = '<pre>a<span class="w">  </span>b <span class="pre">c</span></pre>'
    sig = '<dt class="sig x"><span class="n"><span class="pre">f</span></span>(<span class="w"> </span>)</dt>'
    twice = '<section id="solution-content">s</section>'
    page = finish_pages.without_ballast(f'{toc}<div id="searchbox"></div>{twice}{code}{sig}')
    assert page == (
        '<div id="searchbox"></div><section>s</section><pre>a  b <span class="pre">c</span></pre>'
        '<dt class="sig x"><span class="n">f</span>( )</dt>'
    )


def test_a_picture_in_the_page_becomes_a_file_of_the_same_bytes(tmp_path):
    address = inline([RED])
    page = finish_pages.with_picture_files(f'<p><img alt="red" src="{address}"></p>', tmp_path, "../_images")
    name = re.fullmatch(r'<p><img alt="red" src="\.\./_images/(\w+\.webp)"></p>', page)[1]
    assert (tmp_path / name).read_bytes() == base64.b64decode(address.split(",")[1])


def test_an_animation_in_a_file_is_treated_as_an_embedded_one(tmp_path):
    data = inline([RED, BLUE])
    (tmp_path / "a.webp").write_bytes(base64.b64decode(data.split(",")[1]))
    (tmp_path / "b.webp").write_bytes(base64.b64decode(inline([RED]).split(",")[1]))
    page = '<img alt="moves" src="a.webp"><img alt="rests" src="b.webp"><img alt="far" src="c.webp">'
    expected = page.replace("a.webp", data)
    assert finish_pages.with_animations_inline(page, tmp_path) == expected


def test_the_button_of_an_animation_lies_in_no_link(tmp_path):
    picture = f'<img alt="an animation" src="{inline([RED, BLUE])}">'
    page = f'<a class="reference internal image-reference" href="a.webp">{picture}\n</a><a href="b">b</a>'
    out = finish_pages.with_picture_files(page, tmp_path, "i")
    assert out.startswith('<div class="animation"')
    assert out.endswith('</button></div><a href="b">b</a>')


def test_an_animation_rests_on_its_last_frame(tmp_path):
    page = f'<img class="dark-light" alt="an animation" width="24" src="{inline([RED, RED, BLUE])}">'
    page = finish_pages.with_picture_files(page, tmp_path, "i")
    moving, still = re.fullmatch(
        r'<div class="animation" data-film="i/([^"]+)">'
        r'<img class="dark-light" alt="an animation" width="24" src="i/([^"]+)"><button .*</button></div>',
        page,
    ).groups()
    with Image.open(tmp_path / still) as image:
        assert image.convert("RGB").getpixel((5, 5)) == (0, 0, 255)
    with Image.open(tmp_path / moving) as image:
        assert image.n_frames in (2, 3)  # equal frames may be stored as one
        assert image.convert("RGB").getpixel((5, 5)) == (255, 0, 0)
    assert page.count("<button") == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ('<img alt="x" src="red.png" />', '<img alt="x" src="red.png" width="12" height="8" loading="lazy">'),
        ('<img width="24" src="red.png">', '<img width="24" src="red.png" height="16" loading="lazy">'),
        ('<img src="gone.png">', '<img src="gone.png">'),
        ('<img src="https://example.org/red.png">', '<img src="https://example.org/red.png">'),
    ],
)
def test_a_picture_keeps_its_place_until_it_is_seen(tmp_path, given, told):
    RED.save(tmp_path / "red.png")
    assert finish_pages.with_picture_sizes(given, tmp_path) == told


def test_a_large_picture_loses_a_transparency_that_it_does_not_use_and_no_pixel(tmp_path):
    noise = Image.effect_noise((300, 300), 90)
    full, half = (Image.new("L", noise.size, alpha) for alpha in (255, 128))
    for name, alpha in (("full", full), ("half", half)):
        Image.merge("RGBA", (noise, noise, noise, alpha)).save(tmp_path / f"{name}.png", compress_level=0)
    before = (tmp_path / "half.png").read_bytes()
    for name in ("full", "half"):
        finish_pages.slim_picture(tmp_path / f"{name}.png")
    assert (tmp_path / "half.png").read_bytes() == before
    with Image.open(tmp_path / "full.png") as image:
        assert image.mode == "RGB"
        assert image.tobytes() == Image.merge("RGB", (noise,) * 3).tobytes()


def highlighted(code):
    return f'<div class="highlight-python notranslate"><div class="highlight"><pre>{code}</pre></div></div>'


def test_long_lines_of_source_hang_below_their_own_indent():
    text = f'def f():\n    <span class="sd">"""{"word " * 20}\n\n    end"""</span>\n'
    page = finish_pages.with_hanging_lines(highlighted(text))
    assert re.findall(r"--indent: (\d+)ch", page) == ["4", "8", "8"]
    assert re.sub(r"<[^>]*>", "", page) == re.sub(r"<[^>]*>", "", text)  # what is copied is the same
    for line in re.findall(r'<span class="hangs"[^>]*>(.*)</span>$', page, re.M):
        assert line.count("<span") == line.count("</span>")
    assert page.count('<span class="sd">') == 2


def test_source_that_fits_is_left_alone():
    page = highlighted("x = 1  # " + "y" * (finish_pages.WIDEST_LINE - 9))
    assert finish_pages.with_hanging_lines(page) == page


def test_a_signature_of_several_lines_is_no_list_of_definitions():
    signature = '(<dl>\n<dd><em class="sig-param">a</em>,</dd>\n<dd><em>b</em>,</dd>\n</dl>)'
    page = signature + "<dl><dt>t</dt><dd>d</dd></dl>"
    page = finish_pages.with_roles(page)
    assert page.count("<dl>") == page.count("<dd>") == 1
    assert page.count('class="sig-line"') == 2


def test_a_link_into_the_glossary_says_what_the_term_means():
    glossary = (
        '<dt id="term-GAN">GAN</dt><dd><p>A <em>game</em> of\n two "networks".</p></dd>'
        '<dt id="term-loss">loss</dt><dd><p>As in \\(L\\).</p></dd>'
    )
    terms = finish_pages.meanings(glossary)
    link = '<a class="reference internal" href="glossary.html#term-{}">it</a>'
    shown = finish_pages.with_meanings(link.format("GAN"), terms)
    assert ' title="A game of two &quot;networks&quot;."' in shown
    for term in ("loss", "nothing"):  # a formula would be read as its code
        assert finish_pages.with_meanings(link.format(term), terms) == link.format(term)


def test_a_button_is_called_by_what_is_read_on_it():
    search = (
        '<button class="btn search-button-field x" title="Search" aria-label="Search">Search Ctrl+K</button>'
    )
    assert "aria-label" not in finish_pages.with_roles(search)
    switch = (
        '<button aria-label="Color mode"><i class="theme-switch fa-sun" data-mode="light" title="Light"></i>'
    )
    assert finish_pages.with_roles(switch) == switch.replace(' title="Light"', "")
