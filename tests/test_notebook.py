"""What the chapters show with: source and films as outputs of a cell."""

import base64
import inspect
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from dcganlib import losses, notebook
from dcganlib.models import Layer
from dcganlib.notebook import show_animation, show_source
from dcganlib.plot import animate


@pytest.mark.parametrize("item", [losses.generator_loss, Layer, notebook])
def test_show_source_is_the_text_of_the_file_in_a_fence(item):
    shown = show_source(item).data
    assert shown.startswith("```python\n")
    assert shown.endswith("\n```")
    body = shown.removeprefix("```python\n").removesuffix("\n```")
    text = Path(inspect.getfile(item)).read_text()
    assert body in text
    assert body == body.strip()
    assert body.startswith(('"""', "def ", "@dataclass"))


def test_show_source_runs_to_the_last_line_of_the_function():
    assert "return softplus(-_checked(fake_logits" in show_source(losses.generator_loss).data
    assert "minimax" not in show_source(losses.generator_loss).data


def test_show_source_is_markdown_to_a_notebook():
    assert "_repr_markdown_" in dir(show_source(Layer))


def test_what_has_no_source_is_refused():
    with pytest.raises(TypeError):
        show_source(len)


@pytest.fixture
def film(tmp_path):
    def make(suffix):
        return animate([torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)], tmp_path / f"film{suffix}")

    return make


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_show_animation_carries_the_film_in_itself(film, suffix, tmp_path):
    path = film(suffix)
    shown = show_animation(str(path), 'a "film" & more', width=200)._repr_html_()
    kind, content = re.search(r'src="data:image/(\w+);base64,([^"]+)"', shown).groups()
    assert kind == suffix[1:]
    assert base64.b64decode(content) == path.read_bytes()
    assert 'alt="a &quot;film&quot; &amp; more"' in shown
    assert 'width="200"' in shown
    with Image.open(path) as picture:
        assert picture.n_frames == 2


def test_a_film_needs_a_description_and_the_right_kind(film, tmp_path):
    path = film(".gif")
    with pytest.raises(ValueError, match="alt"):
        show_animation(path, "  ")
    with pytest.raises(ValueError, match=r"'film\.mp4'"):
        show_animation(tmp_path / "film.mp4", "a film")
    with pytest.raises(FileNotFoundError):
        show_animation(tmp_path / "none.gif", "a film")
