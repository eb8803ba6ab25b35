"""How a figure to play with takes a picture's place, with a figure made up for the test."""

import shutil

import browser
import pytest

browser.require()

PAGE = """<!doctype html><html lang="en"><head><title>t</title>
<script src="_static/play.js" defer></script></head><body>
<div class="play" id="div" data-play="made-up" data-options='{"size": 64}'>picture</div>
<div class="cell tag_hide-input tag_play-made-up:small" id="captioned"><div class="cell_output">
  <figure id="fig-one"><div class="output">picture</div><figcaption>caption</figcaption></figure></div></div>
<div class="cell tag_play-made-up" id="plain"><div class="cell_output">picture</div></div>
<div class="cell tag_play-broken" id="broken"><div class="cell_output">picture</div></div>
<div class="cell tag_other" id="other"><div class="cell_output">picture</div></div>
</body></html>"""
SCRIPT = """
play.register("made-up", (box, options) => { box.textContent = "plays " + JSON.stringify(options); });
"""


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "_static" / "play").mkdir(parents=True)
    shutil.copy(browser.STATIC / "play.js", folder / "_static")
    shutil.copy(browser.STATIC / "book.css", folder / "_static")
    (folder / "_static" / "play" / "made-up.js").write_text(SCRIPT, encoding="utf-8")
    (folder / "page.html").write_text(PAGE, encoding="utf-8")
    page = chromium.new_page()
    page.goto((folder / "page.html").as_uri())
    page.add_style_tag(path=browser.STATIC / "book.css")
    page.wait_for_function("document.querySelectorAll('.play-box').length === 3")
    yield page
    page.close()


@pytest.mark.parametrize(
    ("place", "options"), [("div", '{"size":64}'), ("captioned", '{"preset":"small"}'), ("plain", "{}")]
)
def test_a_figure_opens_with_its_options_in_the_pictures_place(page, place, options):
    box = page.locator(".play-box", has_text=f"plays {options}")
    assert box.inner_text() == f"plays {options}"
    assert not page.locator(f"#{place}").get_by_text("picture", exact=True).is_visible()


def test_a_caption_and_its_address_stay(page):
    assert page.locator("#fig-one figcaption").is_visible()
    assert page.locator("#fig-one .play-box").count() == 1


def test_a_figure_whose_script_fails_and_an_untagged_cell_stay_pictures(page):
    for place in ("broken", "other"):
        assert page.locator(f"#{place}").inner_text() == "picture"


def test_on_paper_the_picture_is_there_and_the_figure_is_not(page):
    page.emulate_media(media="print")
    try:
        for place in ("captioned", "plain"):
            assert page.locator(f"#{place}").get_by_text("picture", exact=True).is_visible()
        assert not page.locator(".play-box").first.is_visible()
    finally:
        page.emulate_media(media="screen")
