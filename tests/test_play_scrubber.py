"""The scrubber: its arithmetic, and what it shows when a reader uses it, in a browser."""

import base64
import io
import json
import re
from pathlib import Path

import axe_playwright_python
import numpy as np
import pytest
import torch
from browser import STATIC, require
from finish_pages import with_frame_sheets
from PIL import Image

from dcganlib.viz import plot, training_figure
from dcganlib.viz.notebook import show_training

require()

SCRIPT = STATIC.parents[1] / "dcganlib" / "viz" / "web" / "scrubber.js"
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
STEPS = [0, 10, 20, 40, 80, 100]
HISTORY = [
    {"step": step, "d_loss": 1 / step, "g_loss": step / 50, "d_real": 0.5, "d_fake": step / 100}
    for step in range(1, 101)
]


def grey(index, size=(24, 16)):
    """A frame of one grey value, which tells its number also after lossy compression."""
    return Image.new("RGB", size, (40 * index,) * 3)


def figure_of(tmp_path, films=("last weights",), real=True):
    """The figure of six frames a film, as a finished page has it."""
    shift = dict(zip(films, (0, 1), strict=False))
    frames = {name: [grey(index + shift[name]) for index in range(6)] for name in films}
    options = {"real": torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), "columns": 2} if real else {}
    html = show_training(frames, STEPS, HISTORY, "Six grey pictures, one after another.", **options).data
    return html, with_frame_sheets(html, tmp_path, tmp_path.as_uri())


@pytest.fixture
def page(chromium, tmp_path):
    """Open a figure: ``page(html)`` makes the scrubber of it and returns the tab."""
    context = chromium.new_context(viewport={"width": 800, "height": 900}, reduced_motion="reduce")
    tab = context.new_page()
    tab.set_default_timeout(10_000)

    def opened(html):
        path = tmp_path / "page.html"
        text = (
            f"<!doctype html><html lang=en><title>t</title><main>{html}<div id=box role=group></div></main>"
        )
        path.write_text(text, encoding="utf-8")
        tab.goto(path.as_uri())
        tab.add_script_tag(path=SCRIPT)
        tab.evaluate(
            """() => { const still = document.querySelector("[data-play]");
                       scrubber.make(window.box, JSON.parse(still.dataset.options), still);
                       still.hidden = true; }"""
        )
        return tab

    yield opened
    context.close()


def pixel(tab, kind="generated"):
    """The colour in the middle of the picture that is seen, by a screenshot: files taint a canvas."""
    tab.wait_for_timeout(150)
    boxes = tab.locator(f".scrubber-{kind} canvas")
    (shown,) = [boxes.nth(i) for i in range(boxes.count()) if boxes.nth(i).is_visible()]
    with Image.open(io.BytesIO(shown.screenshot())) as picture:
        return picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))[0]


@pytest.fixture(scope="module")
def arithmetic(blank):
    blank.add_script_tag(path=SCRIPT)
    return lambda call, *arguments: blank.evaluate(
        f"(arguments) => scrubber.{call}(...arguments)", list(arguments)
    )


def test_the_nearest_frame_is_that_of_the_smallest_distance(arithmetic):
    steps = np.array([0, 10, 20, 40, 80, 100])
    for step in (-5, 0, 4.9, 5, 5.1, 14, 29, 31, 60, 61, 99, 100, 1000):
        assert arithmetic("nearest", STEPS, step) == int(np.abs(steps - step).argmin())
        expected = max(0, int(np.searchsorted(steps, step, side="right")) - 1)
        assert arithmetic("lastUpTo", STEPS, step) == expected
    assert arithmetic("nearest", [7], 100) == 0


def test_ticks_are_round_and_within_the_axis(arithmetic):
    assert arithmetic("ticks", 0, 11_700, 4) == [0, 5000, 10_000]
    assert arithmetic("ticks", -0.02, 1.02, 4) == [0, 0.5, 1]
    assert arithmetic("ticks", 0, 3, 4) == [0, 1, 2, 3]
    assert arithmetic("ticks", 0.1, 0.34, 4) == [0.1, 0.2, 0.3]
    assert arithmetic("ticks", 5, 5, 4) == [5]


def test_a_line_is_broken_where_a_value_is_missing(arithmetic):
    assert arithmetic("path", [0, 1, 2, 3, 4], [0, 1, None, 3, 4]) == "M0.0 0.0L1.0 1.0M3.0 3.0L4.0 4.0"
    assert arithmetic("extent", [{"values": [None, None]}]) == [0, 1]
    assert arithmetic("extent", [{"values": [0, None, 10]}]) == [0, 10.5]


def test_equal_frames_in_a_row_share_a_place(arithmetic, tmp_path):
    assert arithmetic("spread", "1 3 2", 6) == [0, 1, 1, 1, 2, 2]
    assert arithmetic("spread", None, 3) == [0, 1, 2]
    levels = [0, 0, 1, 2, 2, 2]  # what a failing generator draws may not change
    path = plot.animate([grey(level) for level in levels], tmp_path / "film.webp")
    with Image.open(path) as film:
        assert plot.frame_counts(film) == [2, 1, 3]
    assert training_figure.film_marks(path.read_bytes(), 6) == {"counts": "2 1 3"}
    html = show_training({"a": path}, STEPS, HISTORY, "Six grey pictures, some of them equal.").data
    assert 'data-counts="2 1 3"' in with_frame_sheets(html, tmp_path, "x")
    flat = plot.animate([grey(1)] * 6, tmp_path / "flat.webp")
    assert training_figure.film_marks(flat.read_bytes(), 6) == {"counts": "6"}


def test_equal_frames_are_shown_at_each_of_their_steps(page, tmp_path):
    frames = [grey(level) for level in (0, 0, 1, 2, 2, 2)]
    html = show_training({"a": frames}, STEPS, HISTORY, "Six grey pictures, some of them equal.").data
    tab = page(with_frame_sheets(html, tmp_path, tmp_path.as_uri()))
    tab.get_by_role("slider").press("Home")
    for level in (0, 0, 1, 2, 2, 2):
        assert abs(pixel(tab) - 40 * level) < 6
        tab.get_by_role("slider").press("ArrowRight")


def test_no_value_is_told_from_before_the_first_step(arithmetic):
    assert arithmetic("valueAt", [50, 60, 70], [1, 2, 3], 0) is None
    assert arithmetic("valueAt", [50, 60, 70], [1, 2, 3], 40) == 1
    assert arithmetic("valueAt", [50, 60, 70], [1, 2, 3], 66) == 3


def test_thinned_curves_are_means_of_equal_windows():
    rows = training_figure.thin(HISTORY, 30)
    assert len(rows) == 25
    assert [row["step"] for row in rows] == [2.5 + 4 * i for i in range(25)]
    assert rows[1]["d_loss"] == pytest.approx(np.mean([1 / 5, 1 / 6, 1 / 7, 1 / 8]))
    assert training_figure.thin(HISTORY[:3], 30) == HISTORY[:3]
    assert [len(training_figure.thin(HISTORY, count)) for count in (1, 99, 100)] == [1, 50, 100]


def test_a_sheet_has_the_frames_row_by_row(arithmetic):
    content, columns = training_figure.frame_sheet([grey(index) for index in range(6)])
    with Image.open(io.BytesIO(content)) as sheet:
        for index in range(6):
            x, y = arithmetic("place", index, columns, 24, 16)
            assert abs(sheet.convert("RGB").getpixel((x + 12, y + 8))[0] - 40 * index) < 4
    with pytest.raises(ValueError, match="same size"):
        training_figure.frame_sheet([grey(0), grey(1, (8, 8))])
    with pytest.raises(ValueError, match="do not fit"):
        training_figure.frame_sheet([grey(0, (9000, 9000))] * 4)


def test_the_notebook_embeds_the_film_and_the_page_stores_its_frames(tmp_path):
    notebook, page = figure_of(tmp_path)
    film = base64.b64decode(re.search(r'data-generated="last weights"[^>]*base64,([^"]+)"', notebook)[1])
    with Image.open(io.BytesIO(film)) as opened:
        assert opened.n_frames == 6
    assert "base64" not in re.search(r"<img [^>]*data-generated[^>]*>", page)[0]
    assert page.count("data-frames=") == 1  # not of the real images
    assert {path.suffix for path in tmp_path.iterdir()} == {".webp"}


def test_a_film_needs_a_frame_for_each_step():
    with pytest.raises(ValueError, match="6 frames for 5 steps"):
        show_training({"a": [grey(i) for i in range(6)]}, STEPS[:5], HISTORY, "alt")
    for films, steps in (({}, STEPS), ({"a": [grey(0), grey(1)]}, [1, 1])):
        with pytest.raises(ValueError, match="steps that rise"):
            show_training(films, steps, HISTORY, "alt")
    with pytest.raises(ValueError, match="alt must describe"):
        show_training({"a": [grey(0)]}, [1], HISTORY, " ")


def test_the_slider_shows_the_frame_of_its_step_and_the_values_of_the_curves(page, tmp_path):
    tab = page(figure_of(tmp_path)[1])
    assert abs(pixel(tab) - 200) < 6  # the last frame, before anything is used
    assert pixel(tab, "real") > 250
    slider = tab.get_by_role("slider", name="step")
    for key, index in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("End", 5), ("ArrowLeft", 4)):
        slider.press(key)
        assert abs(pixel(tab) - 40 * index) < 6, index
        assert tab.locator("output").inner_text() == f"{STEPS[index]} of 100"
    text = slider.get_attribute("aria-valuetext")
    assert text == "step 80 of 100: D's loss 0.0125, G's loss 1.60, D(x) 0.500, D(G(z)) 0.800"
    assert "G's loss 1.60" in " ".join(tab.locator(".scrubber-legend").first.inner_text().split())
    assert tab.get_by_role("img", name="last weights at step 80").count() == 1


def test_the_frames_are_loaded_when_they_are_first_needed(page, tmp_path):
    html = figure_of(tmp_path)[1]
    tab = page(html)
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.wait_for_timeout(100)
    assert not [url for url in asked if "-frames" in url]
    tab.get_by_role("slider").press("ArrowLeft")
    pixel(tab)
    tab.get_by_role("slider").press("ArrowLeft")
    assert len([url for url in asked if "-frames" in url]) == 1


def test_a_touch_on_a_curve_goes_to_the_nearest_frame(page, tmp_path):
    tab = page(figure_of(tmp_path)[1])
    box = tab.locator("svg.scrubber-chart").first.bounding_box()
    width = box["width"] - 44 - 10
    tab.mouse.move(box["x"] + 44 + 0.37 * width, box["y"] + 60)
    tab.mouse.down()
    assert tab.locator("output").inner_text() == "40 of 100"
    tab.mouse.move(box["x"] + 44 + 0.13 * width, box["y"] + 60)
    assert tab.locator("output").inner_text() == "10 of 100"
    tab.mouse.up()
    tab.mouse.move(box["x"] + 44 + 0.9 * width, box["y"] + 60)
    assert tab.locator("output").inner_text() == "10 of 100"
    now = tab.locator(".now").first
    assert float(now.get_attribute("x1")) == pytest.approx(44 + 0.1 * width, abs=1)


def test_the_box_switches_between_the_weights(page, tmp_path):
    tab = page(figure_of(tmp_path, ("last weights", "averaged weights"))[1])
    box = tab.get_by_role("checkbox", name="averaged weights")
    assert box.is_checked()
    tab.get_by_role("slider").press("Home")
    tab.get_by_role("slider").press("ArrowRight")
    assert abs(pixel(tab) - 80) < 6  # the averaged film is one grey level of 40 ahead
    box.press("Space")
    assert abs(pixel(tab) - 40) < 6
    tab.get_by_role("slider").press("End")
    assert abs(pixel(tab) - 200) < 6


def test_one_film_has_no_box(page, tmp_path):
    tab = page(figure_of(tmp_path, real=False)[1])
    assert not tab.get_by_role("checkbox").is_visible()
    assert tab.locator(".scrubber-real").count() == 0


def test_it_stands_still_until_it_is_played_and_then_runs_to_its_end(page, tmp_path):
    tab = page(figure_of(tmp_path)[1])
    tab.wait_for_timeout(300)
    assert tab.locator("output").inner_text() == "100 of 100"
    button = tab.get_by_role("button")
    button.press("Enter")
    assert button.inner_text() == "Pause"
    tab.wait_for_function("document.querySelector('#box output').value === '40 of 100'")
    button.press("Enter")
    held = tab.locator("output").inner_text()
    tab.wait_for_timeout(300)
    assert tab.locator("output").inner_text() == held
    assert button.inner_text() == "Play"
    button.press("Enter")
    tab.wait_for_function("document.querySelector('#box button').textContent === 'Play'")
    assert tab.locator("output").inner_text() == "100 of 100"


def test_several_runs_are_chosen_from_a_list_and_stand_side_by_side(page, tmp_path):
    uri = training_figure.data_uri
    pictures = []
    for run, shift in enumerate((0, 1)):
        frames = [grey(index + shift) for index in range(3)]
        sheet, columns = training_figure.frame_sheet(frames)
        for name in ("failed", "cured"):
            marks = {"generated": name, "run": run, "frames": uri(sheet), "columns": columns}
            last = uri(training_figure.webp(frames[-1]))
            pictures.append(training_figure.picture_html(last, "a grey picture", name, marks))
    runs = [
        {"name": name, "beside": True, "steps": [0, 5, 9], "charts": training_figure.charts(HISTORY[:9])}
        for name in ("first", "second")
    ]
    tab = page(training_figure.figure_html(runs, pictures))
    assert tab.locator(".scrubber-generated canvas").count() == 2
    assert all(tab.locator(".scrubber-generated canvas").nth(i).is_visible() for i in (0, 1))
    text = tab.get_by_role("slider").get_attribute("aria-valuetext")
    assert text.startswith("step 9 of 9: D's loss 0.111")
    tab.get_by_role("combobox").select_option(label="second")
    tab.get_by_role("slider").press("Home")
    tab.wait_for_timeout(150)
    with Image.open(io.BytesIO(tab.locator(".scrubber-generated canvas").first.screenshot())) as shown:
        assert abs(shown.convert("RGB").getpixel((9, 9))[0] - 40) < 6


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_page_and_axe_finds_nothing(page, tmp_path, width):
    tab = page(figure_of(tmp_path, ("last weights", "averaged weights"))[1])
    tab.set_viewport_size({"width": width, "height": 800})
    tab.wait_for_timeout(100)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for control in tab.locator("#box :is(input, button, select)").all():
        if control.is_visible():
            size = control.bounding_box()
            assert size["height"] >= 24
            assert size["width"] >= 24
    tab.evaluate(AXE)
    found = tab.evaluate("axe.run('#box', {resultTypes: ['violations']})")
    assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_a_pair_is_named_by_the_loss_and_by_the_training(page):
    table = {"step": [10, 20], "d_loss": [0.5, 0.25], "g_loss": [1, 2]}
    cured = {"step": [10, 20], "d_loss": [0.75, float("nan")], "g_loss": [3, 4]}
    pair = training_figure.pair("name", [0, 10, 20], {"failed": table, "cured": cured})
    assert [chart["steps"] for chart in pair["charts"]] == [[10, 20]] * 2
    last = training_figure.data_uri(training_figure.webp(grey(2)))
    tab = page(
        training_figure.figure_html(
            [pair], [training_figure.picture_html(last, "a", "b", {"generated": "c"})]
        )
    )
    text = tab.get_by_role("slider").get_attribute("aria-valuetext")
    assert text == (
        "step 20 of 20: D's loss (nats), failed 0.250, G's loss (nats), failed 2, G's loss (nats), cured 4"
    )


def test_values_that_are_no_numbers_leave_a_gap_and_valid_json():
    rows = [*HISTORY[:3], {**HISTORY[3], "d_loss": float("nan"), "g_loss": float("inf")}]
    text = json.dumps(training_figure.charts(rows), allow_nan=False)
    assert json.loads(text)[0]["series"][0]["values"][3] is None


def test_the_script_stays_small_and_asks_for_nothing():
    text = SCRIPT.read_text(encoding="utf-8")
    assert len(text.encode()) < 60_000
    assert not re.search(r"fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/2000/svg)|^import ", text, re.M)
