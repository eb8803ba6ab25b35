"""What the chapters show with: source and animations as outputs of a cell."""

import ast
import base64
import html
import inspect
import io
import json
import re
import textwrap

import pytest
import torch
from PIL import Image

from dcganlib import losses
from dcganlib.models import Layer
from dcganlib.train import StepMetrics
from dcganlib.viz import notebook
from dcganlib.viz.notebook import play_data, show_animation, show_slider, show_source, show_table
from dcganlib.viz.plot import animate


@pytest.mark.parametrize("item", [losses.generator_loss, Layer, StepMetrics, notebook])
def test_show_source_is_the_code_of_the_file_without_docstrings_in_a_fence(item):
    shown = show_source(item).data
    assert shown.startswith("```python\n")
    assert shown.endswith("\n```")
    code = ast.parse(shown.removeprefix("```python\n").removesuffix("\n```"))
    expected = ast.parse(textwrap.dedent(inspect.getsource(item)))
    for node in ast.walk(expected):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Expr(ast.Constant(...))]
    assert ast.dump(code) == ast.dump(expected)


def test_show_source_keeps_comments():
    assert "  # -log D(x)" in show_source(losses.discriminator_loss).data


def test_show_source_runs_to_the_last_line_of_the_function():
    assert "return softplus(-_checked(fake_logits" in show_source(losses.generator_loss).data
    assert "minimax" not in show_source(losses.generator_loss).data


def test_show_source_is_markdown_to_a_notebook():
    assert "_repr_markdown_" in dir(show_source(Layer))


def test_what_has_no_source_is_refused():
    with pytest.raises(TypeError):
        show_source(len)


@pytest.fixture
def animation(tmp_path):
    def make(suffix):
        return animate([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], tmp_path / f"animation{suffix}")

    return make


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_show_animation_carries_the_animation_in_itself(animation, suffix, tmp_path):
    path = animation(suffix)
    shown = show_animation(str(path), 'a "animation" & more', width=200)._repr_html_()
    kind, content = re.search(r'src="data:image/(\w+);base64,([^"]+)"', shown).groups()
    assert kind == suffix[1:]
    assert base64.b64decode(content) == path.read_bytes()
    assert 'alt="a &quot;animation&quot; &amp; more"' in shown
    assert 'width="200"' in shown
    with Image.open(path) as picture:
        assert picture.n_frames == 2


def test_an_animation_needs_a_description_and_the_right_kind(animation, tmp_path):
    path = animation(".gif")
    with pytest.raises(ValueError, match="alt"):
        show_animation(path, "  ")
    with pytest.raises(ValueError, match=r"'animation\.mp4'"):
        show_animation(tmp_path / "animation.mp4", "an animation")
    with pytest.raises(FileNotFoundError):
        show_animation(tmp_path / "none.gif", "an animation")


def greys(*levels):
    return [torch.full((1, 1, 32, 16), level, dtype=torch.uint8) for level in levels]


def test_show_slider_carries_all_frames_side_by_side_in_their_order():
    shown = show_slider(greys(60, 120, 180), ["a", "b", "c"], "three greys")._repr_html_()
    content = re.search(r'src="data:image/webp;base64,([^"]+)"', shown)[1]
    with Image.open(io.BytesIO(base64.b64decode(content))) as strip:
        assert strip.size == (48, 32)
        found = [strip.convert("L").getpixel((x, 16)) for x in (8, 24, 40)]
    assert found == pytest.approx([60, 120, 180], abs=4)
    assert "width: 300%" in shown


def test_a_slider_begins_in_the_middle_or_where_it_is_told():
    for start, (value, shift, text) in {
        None: (2, "50.0", "2"),
        0: (0, "0.0", "0"),
        3: (3, "75.0", "3"),
    }.items():
        shown = show_slider(greys(1, 2, 3, 4), list("0123"), "four greys", start=start)._repr_html_()
        assert f'min="0" max="3" value="{value}" aria-valuetext="{text}"' in shown
        assert f"translateX(-{shift}%)" in shown
        assert f"<output>{text}</output>" in shown


def test_a_slider_keeps_what_it_says_apart_from_its_markup():
    texts = ["<b>", 'it\'s "2" & more']
    shown = show_slider(greys(1, 2), texts, 'a "grey" & <i>', label="<u>")._repr_html_()
    assert json.loads(html.unescape(re.search(r'data-texts="([^"]*)"', shown)[1])) == texts
    assert 'alt="a &quot;grey&quot; &amp; &lt;i&gt;"' in shown
    assert "<span>&lt;u&gt;</span>" in shown
    assert not {"<b>", "<i>", "<u>"} & set(re.findall(r"<[^>]*>", shown))


def test_a_slider_takes_colour_and_finished_pictures():
    pictures = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    shown = show_slider(pictures, ["red", "blue"], "two colours")._repr_html_()
    content = base64.b64decode(re.search(r"base64,([^\"]+)", shown)[1])
    with Image.open(io.BytesIO(content)) as strip:
        red, blue = strip.getpixel((8, 8)), strip.getpixel((24, 8))
    assert red == pytest.approx((255, 0, 0), abs=6)
    assert blue == pytest.approx((0, 0, 255), abs=6)


@pytest.mark.parametrize(
    ("frames", "texts", "alt", "options", "message"),
    [
        (greys(1), ["a"], "a grey", {}, "at least 2 frames .* got 1 and 1"),
        (greys(1, 2), ["a"], "two greys", {}, "got 2 and 1"),
        (greys(1, 2), ["a", "b"], " ", {}, "alt"),
        (greys(1, 2), ["a", "b"], "two greys", {"start": 2}, "from 0 to 1, got 2"),
        (greys(1, 2), ["a", "b"], "two greys", {"start": -1}, "got -1"),
        ([*greys(1), torch.zeros(2, 1, 32, 16)], ["a", "b"], "a pair", {}, r"\(16, 32\), \(34, 32\)"),
        (greys(1) * 1024, ["a"] * 1024, "a grey", {}, "1024 frames of 16 pixels are wider than 16383"),
    ],
)
def test_a_slider_refuses_what_it_cannot_show(frames, texts, alt, options, message):
    with pytest.raises(ValueError, match=message):
        show_slider(frames, texts, alt, **options)


def test_show_table_names_rows_and_columns_and_aligns_numbers():
    shown = show_table(
        ["", "time", "way"], [["a & b", "-3.5 s", "plain"], ["c", 12, "3 rounds"]]
    )._repr_html_()
    assert re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', shown) == ["time", "way"]
    assert re.findall(r'<th scope="row">([^<]*)</th>', shown) == ["a &amp; b", "c"]
    right = re.findall(r'<td style="text-align: right">([^<]*)</td>', shown)
    assert right == ["-3.5 s", "plain", "12", "3 rounds"]  # a column with a number in it is one of numbers
    words = show_table(["name", "where"], [["a", "here"]])._repr_html_()
    assert "<td>here</td>" in words


def test_a_row_that_does_not_fit_its_head_is_refused():
    with pytest.raises(ValueError, match=r"2 cells.*\['a'\]"):
        show_table(["name", "value"], [["a"]])


def test_a_table_shows_a_picture_and_describes_it():
    picture = Image.new("L", (12, 6), 255)
    shown = show_table(["name", "samples", "score"], [["a & b", picture, 3]]).data
    alt, content = re.search(r'<td><img [^>]*alt="([^"]*)"[^>]*base64,([^"]+)"></td>', shown).groups()
    assert html.unescape(alt) == "samples in the row: a & b"
    with Image.open(io.BytesIO(base64.b64decode(content))) as again:
        assert (again.format, again.size) == ("WEBP", (12, 6))


def test_play_data_is_json_that_no_page_shows_and_no_text_ends():
    options = {"times": [1.5, 2], "name": "5 × 5 </script><b>"}
    left = play_data("roofline", options)
    name, content = re.fullmatch(
        r'<script type="application/json" class="play-data" data-for="(\w+)">(.*)</script>',
        left._repr_html_(),
    ).groups()
    assert name == "roofline"
    assert json.loads(content) == options
    assert "<" not in content
    assert repr(left) == ""


def test_play_data_refuses_what_json_cannot_say():
    with pytest.raises(ValueError, match="JSON"):
        play_data("roofline", {"peak": float("nan")})
    with pytest.raises(TypeError, match="Tensor"):
        play_data("roofline", {"peak": torch.zeros(1)})
