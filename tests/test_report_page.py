"""A run as one web page: what is in it, what it asks for, and whose file it replaces."""

import base64
import html
import io
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import axe_playwright_python
import pytest
import torch
from PIL import Image

from dcganlib import cli, datasets, runs
from dcganlib.config import TrainConfig
from dcganlib.evaluation import diagnosis
from dcganlib.runs import measurements, model_card, report_page

CONFIG = TrainConfig(batch_size=4, ema=0.9)


@pytest.fixture(scope="module")
def finished(train_discs, quick_curves):
    """A run of 8 steps that was measured while it trained, with averaged weights and the best ones."""
    return train_discs(steps=8, evaluate_every=4, keep_best=True)


@pytest.fixture(scope="module")
def written(finished, tmp_path_factory):
    """Its report, and the text of the page."""
    path = runs.save_report(finished, tmp_path_factory.mktemp("report") / "page.html")
    return path, path.read_text(encoding="utf-8")


def pictures(page, pattern=r'src="'):
    """The embedded pictures whose addresses follow a pattern."""
    found = re.findall(pattern + r"data:image/\w+;base64,([^\"]+)\"", page)
    return [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in found]


def options_of(page):
    (run,) = json.loads(html.unescape(re.search(r'data-options="([^"]+)"', page)[1]))["runs"]
    return run


def test_the_page_asks_for_nothing_and_runs_only_what_it_holds(written):
    page = written[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    content = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    addresses = re.findall(r'(?:src|href|data-frames)="([^"]*)"', content)
    assert len(addresses) > 10
    assert [one for one in addresses if not one.startswith(("data:image/", "#"))] == []
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert len(scripts) == 2
    assert page.count("</script") == 2  # none within a script, which it would end


def test_the_curves_are_the_history_and_the_measures_of_the_run(written, finished):
    charts = options_of(written[1])["charts"]
    rows = runs.read(finished).history
    curves = {series["name"]: series["values"] for chart in charts for series in chart["series"]}
    for name, column in (("D's loss", "d_loss"), ("G's loss", "g_loss"), ("D(G(z))", "d_fake")):
        assert curves[name] == pytest.approx([row[column] for row in rows], rel=1e-3)
    measured = [
        line.split(",") for line in (finished / "metrics.csv").read_text(encoding="utf-8").split()[1:]
    ]
    assert curves["Fréchet distance"] == pytest.approx([float(row[1]) for row in measured], rel=1e-3)
    assert [chart["steps"] for chart in charts] == [list(range(1, 9))] * 2 + [[4, 8]] * 2


def test_the_films_are_the_grids_of_both_weights_and_the_steps_are_theirs(written, finished):
    page = written[1]
    steps = options_of(page)["steps"]
    assert steps == [0, 2, 4, 6, 8]
    for name, kind in (("last weights", "samples"), ("averaged weights", "ema")):
        marks = re.search(rf'data-generated="{name}" data-frames="[^"]*" data-columns="(\d+)"', page)
        (sheet,) = pictures(page, rf'data-generated="{name}" data-frames="')
        for index, step in enumerate(steps):
            with Image.open(finished / kind / f"step_{step:06}.png") as grid:
                left, top = (index % int(marks[1])) * grid.width, index // int(marks[1]) * grid.height
                shown = sheet.crop((left, top, left + grid.width, top + grid.height))
                expected = torch.tensor(list(grid.convert("RGB").tobytes())).float()
            difference = (torch.tensor(list(shown.tobytes())).float() - expected).abs().mean()
            assert difference < 6, (name, step)  # lossy


def test_a_long_film_has_an_even_choice_of_frames_with_both_ends():
    assert report_page._evenly([0, 2, 4]) == [0, 2, 4]
    assert report_page._evenly([7]) == [7]
    found = report_page._evenly(list(range(0, 1001, 5)))
    assert len(found) == 40
    assert found[0] == 0
    assert found[-1] == 1000
    assert {later - earlier for earlier, later in pairwise(found)} <= {25, 30}


def test_below_each_sample_is_the_nearest_training_image(finished):
    material = report_page._material(finished, None, None)
    fake = datasets.to_uint8(report_page._drawn(material))
    grid = re.search(r'src="(data:[^"]+)"', report_page._nearest(material))[0]
    (shown,) = pictures(grid)
    images = material.images.images
    distances = torch.cdist(fake.flatten(1).double(), images.flatten(1).double())
    expected = images[distances.argmin(1)]
    assert len(fake) == 16
    for index in range(16):
        left, top = 18 * (index % 8), 18 * (1 + 2 * (index // 8))
        tile = shown.crop((left, top, left + 16, top + 16)).convert("L")
        difference = torch.tensor(list(tile.tobytes())).float() - expected[index].flatten().float()
        assert difference.abs().mean() < 12, index
    assert "of the 20 training images" in report_page._nearest(material)


def test_samples_are_those_that_the_command_draws(written, finished):
    shown = [one for one in pictures(written[1]) if one.size == (142, 142)]
    expected = runs.sample(finished).convert("RGB")
    assert min(distance(one, expected) for one in shown) < 6
    assert "weights that measured best" in written[1]


def distance(one, other):
    pairs = [torch.tensor(list(picture.tobytes())).float() for picture in (one, other)]
    return (pairs[0] - pairs[1]).abs().mean().item()


def test_the_findings_the_settings_and_the_licence_are_on_the_page(written, finished):
    page = written[1]
    for finding in diagnosis.judge(measurements.measure(finished)):
        assert f"<strong>{finding.name}</strong>, {finding.certainty}" in page
    assert html.escape(model_card.train_command(runs.read_config(finished))) in page
    assert '<th scope="row">ema</th><td>0.9</td>' in page
    assert '<th scope="row">licence</th><td>unknown</td>' in page
    assert "Not evaluated yet" in page


def test_what_evaluate_stored_is_shown(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    content = {
        "command": "dcganlib evaluate x",
        "samples": 10,
        "seeds": [0, 1],
        "generator": "ema",
        "network": "<none>",
        "measures": {
            "recall": {
                "values": [0.25, 0.75],
                "real": [1, 1],
                "mean": 0.5,
                "real_mean": 1.0,
                "ideal": "as real",
            }
        },
    }
    (folder / "evaluation.json").write_text(json.dumps(content), encoding="utf-8")
    page = runs.save_report(folder).read_text(encoding="utf-8")
    row = '<th scope="row">recall</th><td>0.5</td><td>0.25 to 0.75</td><td>1</td><td>as real</td>'
    assert row in page
    assert "features: &lt;none&gt;." in page
    assert "Not evaluated yet" not in page


def test_a_run_without_its_data_has_a_report_without_neighbours(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["data"]["data"] = str(tmp_path / "gone")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "real.png").unlink()
    page = runs.save_report(folder).read_text(encoding="utf-8")
    assert 'id="nearest"' not in page
    assert "data-real" not in page.partition("<script>")[0]
    moved = runs.save_report(folder, data=runs.read_config(finished).data.data).read_text(encoding="utf-8")
    assert 'id="nearest"' in moved


def test_a_report_leaves_the_run_as_it_is(finished, written):
    assert not [path.name for path in finished.iterdir() if "report" in path.name]
    assert model_card.is_own(finished / "README.md")


def test_the_command_writes_into_the_run_and_replaces_only_reports(finished, tmp_path, capsys, monkeypatch):
    folder = shutil.copytree(finished, tmp_path / "run")
    assert cli.main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"wrote {folder / 'report.html'}\n"
    assert report_page.is_own(folder / "report.html")
    assert cli.main(["report", str(folder)]) == 0
    mine = "<!DOCTYPE html><p>mine</p>"
    (folder / "report.html").write_text(mine, encoding="utf-8")
    capsys.readouterr()
    assert cli.main(["report", str(folder)]) == 2
    assert "use --force to replace it, or --out to name another file" in capsys.readouterr().err
    assert (folder / "report.html").read_text(encoding="utf-8") == mine
    assert cli.main(["report", str(folder), "--force"]) == 0
    assert report_page.is_own(folder / "report.html")


def test_the_report_of_a_stored_run_is_written_here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert str(report_page.report_file("mnist")) == "report-mnist.html"
    assert report_page.report_file("mnist", "~/a.html").is_absolute()
    with pytest.raises(FileNotFoundError, match="there is no run"):
        report_page.report_file("no-such-run")


def test_names_and_texts_are_no_markup(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "a&<b>")
    page = runs.save_report(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<title>a&amp;&lt;b&gt;: dcgan on" in page
    assert "<b>" not in page


def test_the_page_works_offline_by_keyboard_and_axe_finds_nothing(written, chromium):
    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    for width, scheme in ((320, "light"), (1280, "dark")):
        context = chromium.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, bypass_csp=False
        )
        tab = context.new_page()
        errors = []
        tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        tab.on("console", lambda said, errors=errors: errors.append(said.text))
        tab.goto(written[0].as_uri())
        slider = tab.get_by_role("slider", name="step")
        slider.press("Home")
        assert tab.locator("output").first.inner_text() == "0 of 8"
        slider.press("ArrowRight")
        assert slider.get_attribute("aria-valuetext").startswith("step 2 of 8: D's loss")
        assert tab.get_by_role("checkbox", name="averaged weights").is_checked()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert errors == []
        tab.evaluate(axe)
        found = tab.evaluate("axe.run({resultTypes: ['violations']})")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found["violations"]] == []
        context.close()


def test_without_scripts_the_page_shows_pictures(written, chromium):
    context = chromium.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(written[0].as_uri())
    images = tab.locator("img")
    assert images.count() >= 6
    assert all(images.nth(index).is_visible() for index in range(images.count()))
    context.close()
