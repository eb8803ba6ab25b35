"""The rendered pages in a browser, as a reader has them: `make pages`.

They need the rendered book, whose folder the variable RENDERED names, and a browser (browser.py). Without the
first nothing is tested here, and without the second only the workflow on GitHub fails.
"""

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from browser import require
from PIL import Image

if not os.environ.get("RENDERED"):
    pytest.skip("the rendered pages are tested by `make pages`", allow_module_level=True)
BOOK = Path(os.environ["RENDERED"]).resolve()
require()
import axe_playwright_python  # noqa: E402

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
PAGES = sorted(path for path in BOOK.rglob("*.html") if "_static" not in path.parts and path.parent != BOOK)
PAGES += [BOOK / name for name in ("search.html", "genindex.html", "py-modindex.html")]
CHAPTERS = [path for path in PAGES if path.name[:2].isdigit()]
PHONE, TABLET, SMALL, WINDOW, LARGE = (390, 844), (768, 1024), (1024, 768), (1280, 800), (1440, 900)

every_size = pytest.mark.parametrize("size", [PHONE, TABLET, SMALL, LARGE], ids=lambda size: f"{size[0]} px")


@pytest.fixture(scope="module")
def tabs(chromium):
    """Open tabs by their options, so that each is made once."""
    opened = {}
    yield opened
    for tab in opened.values():
        tab.context.close()


def load(tab, path):
    """Open a page and wait until its fonts have come; its formulas are set before it is loaded."""
    tab.goto(path.as_uri())
    tab.evaluate("document.fonts.ready.then(() => true)")
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return tab


@pytest.fixture(scope="module")
def visit(chromium, tabs):
    """Open a page in a window of some size: ``visit(path, (390, 844), color_scheme="dark")``."""

    def visited(path, size=WINDOW, **options):
        key = (size, *sorted(options.items()))
        if key not in tabs:
            width, height = size
            context = chromium.new_context(viewport={"width": width, "height": height}, **options)
            context.set_default_timeout(60_000)
            tabs[key] = context.new_page()
        return load(tabs[key], path)

    return visited


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.stem)
def desk(request, visit):
    """Each page in turn in a window of 1280 pixels, loaded once for all tests that only look at it."""
    return visit(request.param)


@pytest.fixture(scope="module", params=PAGES, ids=lambda path: path.stem)
def phone(request, visit):
    """Each page in turn on a phone."""
    return visit(request.param, PHONE)


def drawer(tab, which):
    """Whether a sidebar can be seen: beside the page or, on a small screen, as a drawer over it."""
    return tab.evaluate(
        """(which) => ["", "-modal"].some((kind) => {
             const box = document.getElementById(`pst-${which}-sidebar${kind}`);
             if (!box) return false;
             const place = box.getBoundingClientRect();
             return box.checkVisibility({visibilityProperty: true, opacityProperty: true})
               && place.width > 100 && place.right > 50 && place.left < innerWidth - 50; })""",
        which,
    )


def until(tab, which, shown):
    """Wait for a sidebar to have come or gone; False if it does not."""
    for _ in range(200):
        if drawer(tab, which) == shown:
            return True
        tab.wait_for_timeout(50)
    return False


@every_size
def test_the_menu_opens_and_closes_by_touch(visit, size):
    tab = visit(BOOK / "book" / "notation.html", size, has_touch=True)
    at_first = drawer(tab, "primary")
    assert at_first == (size[0] >= 992)
    button = tab.locator(".primary-toggle:visible")
    button.tap()
    assert until(tab, "primary", not at_first)
    if at_first:
        button.tap()
    else:
        tab.get_by_role("link", name="6. A walk through the latent space").wait_for()
        tab.locator("dialog[open] .drawer-close").tap()
    assert until(tab, "primary", at_first)
    if not at_first:  # again, and out by a tap beside it
        button.tap()
        assert until(tab, "primary", True)
        tab.touchscreen.tap(size[0] - 10, size[1] // 2)
        assert until(tab, "primary", False)


@every_size
def test_the_menu_and_this_pages_contents_open_and_close_by_keyboard(visit, size):
    tab = visit(BOOK / "book" / "glossary.html" if size == LARGE else BOOK / "book" / "notation.html", size)
    for which in ("primary", "secondary"):
        at_first = drawer(tab, which)
        button = tab.locator(f".{which}-toggle:visible")
        if which == "secondary" and button.count() == 0:
            assert size[0] >= 1200, "no button for the contents"
            continue
        button.focus()
        assert button.evaluate("(box) => getComputedStyle(box).outlineStyle") == "solid"
        tab.keyboard.press("Enter")
        assert until(tab, which, not at_first)
        if at_first:
            button.focus()
        tab.keyboard.press("Enter" if at_first else "Escape")
        assert until(tab, which, at_first)


def test_a_chapter_is_reached_from_a_phone(visit):
    tab = visit(BOOK / "book" / "index.html", PHONE, has_touch=True)
    tab.locator(".primary-toggle:visible").tap()
    tab.get_by_role("link", name="2. Size arithmetic").first.tap()
    tab.wait_for_url("**/02_size_arithmetic.html")
    assert not drawer(tab, "primary")


WIDER = """() => [...document.querySelectorAll(".bd-article *")].filter((box) => {
    const style = getComputedStyle(box);
    return box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0 && style.display !== "inline"
      && box.checkVisibility() && !box.closest("svg, [data-texts]")
      && (!box.closest(".formula") || box.matches("div > .formula"));
  }).filter((box, _, all) => !all.some((other) => other !== box && box.contains(other)))
  .map((box) => [box.tagName, box.closest("[data-scrolls]") !== null,
    (box.closest("[data-scrolls]") || box).tabIndex, box.textContent.trim().slice(0, 40)])"""


def test_nothing_is_wider_than_the_page_at_1280(desk):
    assert desk.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert desk.evaluate(WIDER) == []


def test_what_is_wider_than_a_phone_says_so_and_scrolls(phone):
    assert phone.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    wider = phone.evaluate(WIDER)
    assert [box for box in wider if not box[1] or box[2] != 0] == []
    if wider:
        box = phone.locator("[data-scrolls]:visible").first
        assert box.evaluate("(box) => getComputedStyle(box).maskImage").startswith("linear-gradient")
        box.focus()
        phone.keyboard.press("ArrowRight")
        phone.wait_for_function("(box) => box.scrollLeft > 0", arg=box.element_handle())


def test_only_what_scrolls_among_formulas_and_code_is_a_tab_stop(desk):
    stops = """() => [...document.querySelectorAll(".bd-article :is(.formula, .katex *, pre)")]
        .filter((box) => box.tabIndex >= 0 && box.scrollWidth <= box.clientWidth + 1).length"""
    assert desk.evaluate(stops) == 0


def test_wrapped_source_stays_right_of_its_indent(desk):
    lines = desk.evaluate("""() => [...document.querySelectorAll(".cell_output .hangs")]
        .filter((line) => line.checkVisibility()).map((line) => {
          const range = document.createRange();
          range.selectNodeContents(line);
          const all = [...range.getClientRects()].filter((part) => part.width > 0);
          const text = line.textContent, indent = text.length - text.trimStart().length;
          const column = parseFloat(getComputedStyle(line).paddingLeft) / (indent + 4);
          const left = line.getBoundingClientRect().left, top = Math.min(...all.map((part) => part.top));
          return all.filter((part) => part.top > top + 8).map((part) => (part.left - left) / column - indent);
        })""")
    assert [part for line in lines for part in line if part < 3.5] == []
    assert "/03_" not in desk.url or any(lines)  # the check has something to check


def test_no_printed_table_is_wider_than_the_page(desk):
    wrapped = """() => [...document.querySelectorAll(".cell_output .output.stream .long-source")].map((box) =>
        [...box.querySelectorAll(".hangs")].filter((line) => line.textContent.length > 88).length)"""
    assert [count for count in desk.evaluate(wrapped) if count > 2] == []


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_an_animation_stops_and_starts_by_its_button_and_rests_for_who_wants_no_motion(visit, motion):
    path = next(path for path in PAGES if path.name == "index.html")
    tab = visit(path, reduced_motion=motion)
    animation, button = tab.locator(".animation").first, tab.locator(".animation-button").first
    moving, still = animation.locator(".animation-moving"), animation.locator("img:not(.animation-moving)")
    button.scroll_into_view_if_needed()
    plays = motion == "no-preference"
    for _ in range(2):
        (moving if plays else still).wait_for()
        assert (moving.is_visible(), still.is_visible()) == (plays, not plays)
        assert button.inner_text() == ("Pause" if plays else "Play")
        button.focus()
        tab.keyboard.press("Enter")
        plays = not plays
    tab.emulate_media(media="print")
    assert still.is_visible()
    assert not moving.is_visible()
    tab.emulate_media(media="screen")


def test_on_paper_code_is_unfolded_solutions_are_folded_and_the_dark_is_light(visit):
    path = next(path for path in CHAPTERS if path.name.startswith("01"))
    tab = visit(path, color_scheme="dark")
    closed = ".bd-article details:not([open]):not(.solution *)"
    folded = tab.locator(closed).count()
    assert folded > 0
    tab.emulate_media(media="print")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator(closed).count() == 0
    assert tab.evaluate("document.documentElement.dataset.theme") == "light"
    seen = """(what) => [...document.querySelectorAll(`.bd-article :is(${what})`)]
        .filter((box) => box.checkVisibility({visibilityProperty: true, opacityProperty: true}))
        .map((box) => box.outerHTML.slice(0, 80))"""
    assert len(tab.evaluate(seen, "h1")) == 1
    assert len(tab.evaluate(seen, "details .highlight")) == folded
    assert tab.evaluate(seen, "button") == []
    assert tab.evaluate(seen, ".solution .cell, .solution p:not(.admonition-title)") == []
    assert len(tab.evaluate(seen, ".solution .admonition-title")) >= 6
    cut = """() => [...document.querySelectorAll(".bd-article :is(pre, .formula, table)")]
        .filter((box) => box.checkVisibility() && getComputedStyle(box).overflowX !== "visible")
        .map((box) => box.outerHTML.slice(0, 80))"""
    assert tab.evaluate(cut) == []
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    tab.emulate_media(media="screen")
    assert tab.locator(closed).count() == folded
    assert tab.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_printed_page_shows_every_picture(chromium):
    """Chromium loads for print what was never in view."""
    path = next(path for path in CHAPTERS if path.name.startswith("05"))
    tab = chromium.new_page()
    tab.goto(path.as_uri())
    shown = "document.querySelectorAll('.bd-article img').length"
    loaded = (
        "[...document.querySelectorAll('.bd-article img')].filter((image) => image.naturalWidth > 0).length"
    )
    assert tab.evaluate(loaded) < tab.evaluate(shown)
    printed = tab.pdf(format="A4")
    assert tab.evaluate(loaded) == tab.evaluate(shown)
    assert len(printed) > 1_000_000
    tab.close()


def test_every_formula_is_set(desk):
    unset = """() => [...document.querySelectorAll(".math")]
        .filter((box) => !box.querySelector(".katex-html") || box.querySelector(".katex-error"))
        .map((box) => box.textContent)"""
    assert desk.evaluate(unset) == []


def test_no_moving_picture_is_without_a_button(desk):
    addresses = desk.evaluate("""() => [...document.querySelectorAll(".bd-article img")]
        .filter((image) => /\\.(webp|gif)$/.test(image.src))
        .filter((image) => !image.closest("[data-texts]") && !image.closest(".animation"))
        .map((image) => image.src)""")
    moving = []
    for address in addresses:
        with Image.open(url2pathname(urlsplit(address).path)) as image:
            if getattr(image, "n_frames", 1) > 1:
                moving.append(address)
    assert moving == []
    assert desk.evaluate("""document.querySelectorAll("img[src^='data:']").length""") == 0


# Tens of thousands of tokens and parts of formulas make axe slow and hold nothing that it looks for.
CHECK = """() => {
    document.querySelectorAll(".highlight pre").forEach((code) => { code.textContent = code.textContent; });
    document.querySelectorAll(".katex-html").forEach((formula) => formula.remove());
    return axe.run("body", {
      resultTypes: ["violations"],
      rules: {"label-content-name-mismatch": {enabled: true}},
    }).then((found) => found.violations.filter((one) => ["serious", "critical"].includes(one.impact))
      .map((one) => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)]));
  }"""


def test_axe_finds_nothing_serious(desk):
    """The last of the tests of a page, as it takes the page apart."""
    desk.evaluate(AXE)
    assert desk.evaluate(CHECK) == []


@pytest.mark.parametrize("name", ["index", "notation", "troubleshooting", "references"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_a_phone(visit, name, scheme):
    tab = visit(BOOK / "book" / f"{name}.html", PHONE, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.dataset.theme") == scheme
    tab.evaluate(AXE)
    assert tab.evaluate(CHECK) == []


def test_in_the_dark_charts_are_dark_and_samples_are_as_they_are(visit):
    path = next(path for path in CHAPTERS if path.name.startswith("07"))
    seen = {}
    for scheme in ("light", "dark"):
        tab = visit(path, color_scheme=scheme)
        for kind in ("chart", "samples"):
            picture = tab.locator(
                "#fig-measuring-ring img" if kind == "chart" else "#fig-measuring-sources img"
            )
            picture.scroll_into_view_if_needed()
            picture.evaluate("(image) => image.decode()")
            seen[scheme, kind] = picture.evaluate("(image) => getComputedStyle(image).filter")
    assert seen["light", "chart"] == seen["light", "samples"] == seen["dark", "samples"] == "none"
    assert seen["dark", "chart"].startswith("invert(0.9)")


@pytest.fixture(scope="module")
def address():
    """The book over http on this machine."""
    quiet = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *words: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=str(BOOK)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_search_finds_and_shows_where(chromium, address):
    tab = chromium.new_page()
    tab.goto(f"{address}/book/index.html")
    tab.keyboard.press("Control+k")
    tab.keyboard.type("collapse")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/search.html?q=collapse*")
    tab.locator("#search-results li").nth(4).wait_for()
    tab.locator("#search-results").get_by_role("link", name="8. When training fails").first.wait_for()
    tab.close()


BUDGET = 2_000_000  # bytes of a page, with all that it loads before it is used
REFERENCE_BUDGET = 2_500_000  # of the page that lists all of the package
SEE_ALL = """() => new Promise((done) => {
    const shown = [...document.querySelectorAll(".bd-article :is(img, .animation, [class*='tag_play-'])")];
    const next = () => { const box = shown.shift();
      if (!box) return requestAnimationFrame(done);
      box.scrollIntoView(); requestAnimationFrame(() => requestAnimationFrame(next)); };
    next(); })"""


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_loads_at_most_2_mb_before_it_is_used(chromium, address, path):
    context = chromium.new_context(viewport={"width": WINDOW[0], "height": WINDOW[1]})
    tab = context.new_page()
    wire = context.new_cdp_session(tab)
    wire.send("Network.enable")
    wire.send("Network.setCacheDisabled", {"cacheDisabled": True})
    asked, came = {}, {}
    wire.on("Network.requestWillBeSent", lambda e: asked.update({e["requestId"]: e["request"]["url"]}))
    wire.on("Network.loadingFinished", lambda e: came.update({e["requestId"]: e["encodedDataLength"]}))
    tab.goto(f"{address}/{path.relative_to(BOOK).as_posix()}", wait_until="load")
    tab.evaluate("document.fonts.ready.then(() => true)")
    quiet = 0
    for _ in range(100):  # until half a second has passed in which nothing came
        before = len(came)
        tab.wait_for_timeout(100)
        quiet = quiet + 1 if len(came) == before else 0
        if quiet == 5:
            break
    context.close()
    largest = sorted(((size, asked.get(name)) for name, size in came.items()), reverse=True)[:5]
    assert 100_000 < sum(came.values()) <= (REFERENCE_BUDGET if path.stem == "api" else BUDGET), largest
    formulas = any("katex" in url for url in asked.values())
    assert formulas == ('class="math ' in path.read_text(encoding="utf-8"))
    assert any("searchindex" in url for url in asked.values()) == (path.name == "search.html")


@pytest.mark.parametrize("way", ["file", "http"])
def test_no_page_asks_another_machine_and_no_script_fails(chromium, address, way):
    base = BOOK.as_uri() if way == "file" else address
    asked, failed = [], []
    context = chromium.new_context()
    tab = context.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("pageerror", lambda error: failed.append((tab.url, str(error))))
    tab.on("requestfailed", lambda request: failed.append((request.url, request.failure)))
    for path in [*PAGES, BOOK / "404.html"]:
        tab.goto(f"{base}/{path.relative_to(BOOK).as_posix()}")
        tab.evaluate(SEE_ALL)
        for button in tab.locator(".theme-switch-button:visible, .animation-button:visible").all():
            button.click()
    context.close()
    assert len(asked) > 3 * len(PAGES)
    assert [url for url in asked if not url.startswith((f"{base}/", "data:", "blob:"))] == []
    assert [one for one in failed if one[1] != "net::ERR_ABORTED"] == []  # by the way to the next page
