"""The stored generators in the pages: what draw.js draws is what PyTorch draws of the same latents."""

import json

import numpy as np
import play_data
import pytest
import torch
from browser import STATIC, require
from flat import spread

from dcganlib import datasets, latents, models, runs, zoo
from dcganlib.evaluation import classifier
from dcganlib.runtime import checkpoint
from dcganlib.viz import web

require()
NAMES = list(play_data.ATTRIBUTES)


class Judge:
    """A classifier that sees an attribute where some pixels, different for each, are bright together."""

    names = tuple(name for name, *_ in play_data.ATTRIBUTES.values())

    def __call__(self, images):
        pixels = images.flatten(1)
        places = torch.randint(
            pixels.shape[1], (len(self.names), 20), generator=torch.Generator().manual_seed(5)
        )
        return pixels[:, places].mean(dim=2) - 0.01


@pytest.fixture(scope="module")
def generator():
    made, _ = zoo.build(
        "dcgan", base_channels=4, latent_dim=100, image_size=16, rng=torch.Generator().manual_seed(0)
    )
    return spread(made, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def extras(generator):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(classifier, "load", lambda name: Judge())
        return play_data.of_faces(generator)


@pytest.fixture(scope="module")
def tab(blank, generator, extras):
    """A page with the scripts and, as its weights, a tiny generator."""
    for path in (*(web.FOLDER / name for name in play_data.SCRIPTS), STATIC / "play" / "draw.js"):
        blank.add_script_tag(path=path)
    for name, values in (("digits", {}), ("faces", extras)):
        script = web.pack(generator, name)
        blank.add_script_tag(content=f"{script} dcgan.packed.{name}.extras = {json.dumps(values)};")
    return blank


@pytest.fixture
def show(tab):
    """Put a figure into the page and press its button: ``show("walk")``."""

    def shown(preset):
        tab.evaluate(
            """(preset) => {
                 const box = document.createElement("div");
                 document.body.replaceChildren(box);
                 box.className = "play-draw";
                 play.made.draw(box, { preset });
               }""",
            preset,
        )
        tab.get_by_role("button").click()
        tab.wait_for_selector("canvas")
        return settle(tab)

    return shown


def settle(tab):
    """Wait until what is drawn at the next frame, and a few images at a time, is there."""
    tab.evaluate(
        """async () => {
             for (let i = 0; i < 3; i++) await new Promise((done) => requestAnimationFrame(done));
             while (document.querySelector("[aria-busy]")) await new Promise((done) => setTimeout(done, 10));
           }"""
    )
    return tab


def images_of(tab, index, size=16):
    """The images of a canvas, (N, size, size), row by row."""
    found = (
        tab.locator("canvas")
        .nth(index)
        .evaluate(
            """(canvas) => JSON.stringify([canvas.height, [...canvas.getContext("2d")
             .getImageData(0, 0, canvas.width, canvas.height).data]])"""
        )
    )
    height, values = json.loads(found)
    pixels = np.array(values).reshape(height, -1, 4)[..., :3]
    step = size + 2
    return np.stack(
        [
            pixels[top : top + size, left : left + size]
            for top in range(0, height, step)
            for left in range(0, pixels.shape[1], step)
        ]
    )


def drawn(generator, z):
    pixels = datasets.to_uint8(models.generate(generator, z)).permute(0, 2, 3, 1).numpy().astype(int)
    return np.broadcast_to(pixels, (*pixels.shape[:3], 3))


def assert_drawn(found, generator, z):
    expected = drawn(generator, z)
    assert expected.std() > 5
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def sampled(n, seed=0):
    return latents.sample_z(n, 100, rng=torch.Generator().manual_seed(seed))


def on_shell(z):
    return 10 * torch.nn.functional.normalize(z, dim=-1)


@pytest.mark.parametrize("preset", ["digits", "faces"])
def test_samples_are_those_of_the_library(show, generator, preset):
    tab = show(preset)
    assert_drawn(images_of(tab, 0), generator, sampled(64))
    assert_drawn(images_of(tab, 1), generator, sampled(64)[:1])


def test_faces_move_along_directions_with_a_name(show, generator, extras):
    tab = show("faces")
    assert [way["name"] for way in extras["ways"]] == ["Open mouth", "Smile", "Long hair", "Blond hair"]
    tab.get_by_role("slider", name="Smile").fill("3")
    settle(tab)
    z = sampled(64)[0]
    moved = z + 3 * torch.tensor(extras["ways"][1]["vector"])
    assert_drawn(images_of(tab, 1), generator, (z.norm() / moved.norm() * moved)[None])


def test_a_walk_goes_straight_and_along_the_arc(show, generator):
    tab = show("walk")
    a, b = sampled(2)
    for index, path in enumerate((latents.lerp, latents.slerp)):
        assert_drawn(images_of(tab, index), generator, path(a, b, torch.linspace(0, 1, 9)))
        assert_drawn(images_of(tab, 2 + index), generator, path(a, b, 0.5)[None])
    norms = [f"Norm {path(a, b, 0.5).norm():.1f}" for path in (latents.lerp, latents.slerp)]
    assert [text.split(",")[0] for text in tab.locator(".draw-pair output").all_inner_texts()] == norms
    tab.get_by_role("spinbutton", name="Seed").fill("5")
    tab.get_by_role("spinbutton", name="Seed").press("Enter")
    tab.get_by_role("slider", name="Position").fill("0.25")
    settle(tab)
    assert_drawn(images_of(tab, 3), generator, latents.slerp(*sampled(2, 5), 0.25)[None])


@pytest.mark.parametrize("n", [1, 3, 10])
def test_a_sum_is_that_of_the_means_of_the_examples_it_shows(show, generator, extras, n):
    tab = show("arithmetic")
    tab.get_by_role("combobox", name="To be gained").select_option("smile")
    tab.get_by_role("combobox", name="Examples").select_option(str(n))
    tab.get_by_role("button", name="Other examples").click()
    settle(tab)
    bank = sampled(play_data.BANK, play_data.SEED)
    chosen = [
        tab.evaluate("(given) => play.draw.chosen(...given)", [pool, n, 3 + index])
        for index, pool in enumerate(extras["tasks"][1]["examples"])
    ]
    means = []
    for index, (numbers, pool) in enumerate(zip(chosen, extras["tasks"][1]["examples"], strict=True)):
        assert len(set(numbers)) == n
        assert set(numbers) <= set(pool)
        means.append(bank[numbers].mean(dim=0))
        assert_drawn(images_of(tab, index), generator, torch.cat([bank[numbers], on_shell(means[-1])[None]]))
    a, b, c = means
    assert_drawn(images_of(tab, 3), generator, on_shell(a - b + c)[None])
    assert tab.get_by_text("should be: smile and black hair").is_visible()


def test_directions_and_the_norm_move_four_faces(show, generator, extras):
    tab = show("directions")
    assert_drawn(images_of(tab, 0), generator, on_shell(sampled(4)))
    tab.get_by_role("slider", name="Long hair").fill("-4")
    tab.get_by_role("slider", name="Norm").fill("5")
    settle(tab)
    moved = on_shell(sampled(4) - 4 * torch.tensor(extras["ways"][2]["vector"])) / 2
    assert_drawn(images_of(tab, 0), generator, moved)
    assert "Long hair -4.0" in tab.locator("canvas").get_attribute("aria-label")
    tab.get_by_role("button", name="Reset").click()
    settle(tab)
    assert_drawn(images_of(tab, 0), generator, on_shell(sampled(4)))


def test_nothing_is_loaded_before_the_reader_asks_and_the_focus_is_kept(tab):
    tab.evaluate(
        """() => {
             document.body.replaceChildren(document.createElement("div"));
             play.loaded = [];
             play.load = async (path) => void play.loaded.push(path);
             play.made.draw(document.body.firstChild, { preset: "digits" });
           }"""
    )
    assert tab.evaluate("play.loaded") == []
    tab.get_by_role("button").press("Enter")
    tab.wait_for_selector("canvas")
    assert tab.evaluate("document.activeElement.tagName") == "INPUT"


# The data


def test_directions_and_examples_are_those_of_the_labels(generator, extras):
    """Against loops over the faces one by one."""
    bank = sampled(play_data.BANK, play_data.SEED)
    seen = torch.cat([Judge()(models.generate(generator, part)) for part in bank.split(250)])
    smile = NAMES.index("smile")
    sides = [
        [z for z, row in zip(bank, seen, strict=True) if (row[smile] > 0) == side] for side in (True, False)
    ]
    assert min(map(len, sides)) > 50
    way = torch.stack(sides[0]).mean(dim=0) - torch.stack(sides[1]).mean(dim=0)
    torch.testing.assert_close(torch.tensor(extras["ways"][1]["vector"]), way / way.norm(), rtol=0, atol=1e-4)
    task = extras["tasks"][0]
    assert task["name"] == "open mouth"
    assert task["terms"] == [
        "open mouth and blond hair",
        "closed mouth and blond hair",
        "closed mouth and black hair",
        "open mouth and black hair",
    ]
    mouth, blond = NAMES.index("mouth"), NAMES.index("blond")
    certain = {index: min(-row[mouth], row[blond]) for index, row in enumerate(seen.tolist())}
    assert task["examples"][1] == sorted(certain, key=certain.get, reverse=True)[: play_data.EXAMPLES]


def test_the_stored_generators_are_small_enough_for_a_page(tmp_path):
    for name in play_data.RUNS.values():
        run = runs.read(name)
        drawing = run.ema_generator or run.generator
        assert 2 * sum(values.numel() for values in drawing.parameters()) <= 2**20


def test_weights_are_written_once_and_too_large_ones_are_refused(
    generator, extras, tmp_path, monkeypatch, replace_run
):
    replace_run(generator)
    play_data.write(tmp_path)
    first = tmp_path / "generator-digits.js"
    assert (tmp_path / "viewer.js").read_bytes() == (web.FOLDER / "viewer.js").read_bytes()
    assert 'dcgan.packed["digits"].extras = {}' in first.read_text(encoding="utf-8")
    monkeypatch.setattr(web, "pack", lambda *given, **options: pytest.fail("it is there already"))
    play_data.write(tmp_path)
    monkeypatch.undo()
    replace_run(zoo.build("dcgan-28", base_channels=32)[0])
    with pytest.raises(ValueError, match=r"digits takes 1,\d{3},\d{3} bytes of a page, at most 1,048,576"):
        play_data.write(tmp_path)


@pytest.fixture
def replace_run(tmp_path_factory, monkeypatch):
    """Have another generator stored as the one run of the pages."""

    def replace(made):
        folder = tmp_path_factory.mktemp("stored")
        checkpoint.save_generator(folder / "generator.safetensors", made)
        found = runs.Run(folder, runs.read_config("mnist"), [], made)
        monkeypatch.setattr(runs, "read", lambda name: found)
        monkeypatch.setattr(runs, "find", lambda name: folder)
        monkeypatch.setattr(play_data, "RUNS", {"digits": "digits"})

    return replace
