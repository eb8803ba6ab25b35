"""Measuring a run: what is compared with what, known answers, and what is refused before any work."""

import importlib.util
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from dcganlib import datasets, models, runs, zoo
from dcganlib.config import DataConfig, EvaluationConfig, ModelConfig, ResolvedRunConfig, TrainConfig
from dcganlib.evaluation import classifier, evaluate, metrics
from dcganlib.evaluation.evaluate import IDEAL
from dcganlib.latents import sample_z
from dcganlib.runtime import checkpoint, memory

PIXELS = [
    "precision",
    "recall",
    "1-NN accuracy",
    "1-NN accuracy, real",
    "1-NN accuracy, fake",
    "memorization in pixels, ratio",
    "memorization in pixels, share",
]


@pytest.fixture(scope="module")
def blots(rng):
    """200 grey images of 28 pixels, each a bright square of some size and place; the size is the label."""
    images, labels = torch.zeros(200, 1, 28, 28, dtype=torch.uint8), torch.arange(200) % 10
    places = torch.randint(2, 14, (200, 2), generator=rng(0)).tolist()
    for index, (y, x) in enumerate(places):  # no two of them the same
        side = 3 + index % 10
        images[index, 0, y : y + side, x : x + side] = 255 - index // 2
    return datasets.ImageDataset(images, labels, "mnist-mini", "blots", "none", tuple("0123456789"))


def measure(run, *, out=None, **settings):
    return evaluate.evaluate(run, EvaluationConfig(**settings), out=out, device="cpu")


def serve(monkeypatch, image_set):
    """Let ``datasets.load`` return this dataset, in the size and colours that a run asks for."""

    def load(name, *, image_size, channels, **options):
        images = functional.interpolate(image_set.images.float(), image_size).to(torch.uint8)
        return replace(image_set, images=images.expand(-1, channels, -1, -1).contiguous())

    monkeypatch.setattr(datasets, "load", load)


@pytest.fixture
def _few(blots, monkeypatch):
    """A small dataset in place of the bundled digits, which take a while to read."""
    serve(monkeypatch, blots)


def resolved(data, model, train=None):
    """The configuration of a run of one step."""
    return ResolvedRunConfig(data=data, model=model, train=train or TrainConfig(), steps=1, sample_every=1)


@pytest.fixture
def make_run(tmp_path, rng):
    """Write the folder of a run: ``make_run(ema=True)``."""

    def make(folder=None, *, last=True, ema=False, num_classes=0, channels=1, source="mnist-mini", size=28):
        folder = folder or tmp_path / "run"
        folder.mkdir(parents=True)
        options = {"image_size": size, "channels": channels, "base_channels": 2, "latent_dim": 6}
        name = "dcgan-28" if size == 28 and not num_classes else "dcgan"
        for kept, file, seed in ((last, "generator", 0), (ema, "ema", 1)):
            if kept:
                generator = zoo.build(name, num_classes=num_classes, rng=rng(seed), **options)[0]
                checkpoint.save_generator(folder / f"{file}.safetensors", generator)
        (folder / "history.csv").write_text(
            "step,epoch,d_loss,g_loss,d_real,d_fake\n1,1,0.5,0.5,0.5,0.5\n", encoding="utf-8"
        )
        data = DataConfig(source, size, channels)
        settings = resolved(data, ModelConfig(name, 2), TrainConfig(prior="uniform"))
        (folder / "config.json").write_text(json.dumps(asdict(settings)), encoding="utf-8")
        return folder

    return make


def drawing(monkeypatch, images):
    """Let every generator draw the given images, over and over."""
    state = {"next": 0}

    def generate(generator, z, labels=None):
        chosen = (torch.arange(len(z)) + state["next"]) % len(images)
        state["next"] += len(z)
        return datasets.to_float(images[chosen])

    monkeypatch.setattr(models, "generate", generate)


@pytest.mark.usefixtures("_few")
def test_every_measure_is_reported_with_its_value_for_real_images(make_run):
    folder = make_run()
    found = measure(folder, samples=60)
    assert list(found.measures) == [name for name in IDEAL if name != "FID (Inception)"]
    for name, values in found.measures.items():
        assert len(values.values) == len(values.real) == 3, name
    assert (found.samples, found.real_samples, found.searched) == (60, 60, 60)
    assert (found.train, found.held_out) == (100, 100)
    assert "trained too" in found.held_out_source
    assert found.network.startswith("classifier mnist, 99.")
    assert found.seeds == (0, 1, 2)
    assert found.generator == "last step"
    fresh = found.measures
    assert sum(fresh["Fréchet distance"].values) > 5 * sum(fresh["Fréchet distance"].real) > 0
    assert set(fresh["1-NN accuracy, fake"].values) == {1.0}
    assert max(fresh["precision"].values) < 0.1 < 0.7 < min(fresh["precision"].real)


@pytest.mark.usefixtures("_few")
def test_the_file_and_the_table_say_what_was_measured(make_run):
    folder = make_run()
    found = measure(folder, samples=60, repeats=2, seed=4)
    assert found.file == folder / "evaluation.json"
    content = json.loads(found.file.read_text(encoding="utf-8"))
    assert content == json.loads(json.dumps(found.as_dict()))
    kept = content["measures"]["precision"]
    assert kept["values"] == list(found.measures["precision"].values)
    assert kept["real_mean"] == pytest.approx(sum(kept["real"]) / 2)
    assert content["seeds"] == [4, 5]
    assert [sum(content["classes"][name]["training"][i] for name in "0123456789") for i in (0, 1)] == [60, 60]
    table = found.as_table()
    for text in ("60 of", "classifier mnist", "4, 5", f"{kept['mean']:.4g}", f"{kept['real_mean']:.4g}"):
        assert text in table
    lines = table.split("\n")
    assert [line.split("  ")[0] for line in lines[8:]] == list(found.measures)
    assert "last step; batch norm: the running statistics stored with these weights" in lines[1]
    assert len(list(folder.glob(".*"))) == 0  # nothing half-written


@pytest.mark.usefixtures("_few")
def test_a_seed_gives_the_same_numbers_again_whatever_the_global_one(make_run):
    folder = make_run()
    torch.manual_seed(1)
    first = measure(folder, samples=60)
    torch.manual_seed(2)
    assert measure(folder, samples=60) == first
    other = measure(folder, samples=60, seed=100)
    one, two = (sum(x.measures["Fréchet distance"].values) / 3 for x in (first, other))
    assert one != two
    assert one == pytest.approx(two, rel=0.2)
    assert len(set(first.measures["Fréchet distance"].values)) == 3


@pytest.mark.usefixtures("_few")
def test_a_generator_of_training_images_is_caught_as_memorization(make_run, blots, monkeypatch):
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    drawing(monkeypatch, blots.images[order[100:]])  # those that are not held out
    found = measure(make_run(), samples=100).measures
    for view in ("pixels", "features"):
        assert set(found[f"memorization in {view}, ratio"].values) == {0.0}
        assert set(found[f"memorization in {view}, share"].values) == {1.0}
        assert found[f"memorization in {view}, ratio"].real == pytest.approx([1, 1, 1], abs=0.4)
    assert set(found["1-NN accuracy"].values) == {0.0}
    assert found["1-NN accuracy"].real == pytest.approx([0.5] * 3, abs=0.2)
    assert found["Fréchet distance"].values == pytest.approx([0, 0, 0], abs=1e-3)
    assert set(found["precision"].values) == set(found["recall"].values) == {1.0}
    assert found["classes, chi-squared"].values == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.usefixtures("_few")
def test_a_generator_of_one_image_lacks_classes_and_recall(make_run, blots, monkeypatch):
    drawing(monkeypatch, blots.images[:1])
    found = measure(make_run(), samples=100, repeats=1)
    assert found.measures["recall"].values[0] < 0.1
    assert found.measures["missing classes"].values == (9,)
    seen = [counts.samples[0] for counts in found.classes.values()]
    assert sorted(seen) == [0] * 9 + [100]
    assert found.measures["missing classes"].real[0] < 9


@pytest.mark.usefixtures("_few")
def test_no_more_samples_are_drawn_than_there_are_training_images(make_run):
    found = measure(make_run(), repeats=1)
    assert found.samples == 100
    assert "has only 100 training images" in found.notes[0]
    assert found.notes[0] in found.as_table()


@pytest.mark.usefixtures("_few")
def test_averaged_weights_are_measured_unless_ema_is_false(make_run, tmp_path):
    folder = make_run(ema=True)
    smooth, plain = (measure(folder, samples=20, repeats=1, ema=p) for p in (True, False))
    assert (smooth.generator, plain.generator) == ("ema", "last step")
    assert smooth.measures["Fréchet distance"] != plain.measures["Fréchet distance"]
    alone = make_run(tmp_path / "alone", last=False, ema=True)
    assert measure(alone, samples=20, repeats=1).measures == smooth.measures
    with pytest.raises(ValueError, match="only averaged weights: leave out --no-ema"):
        measure(alone, samples=20, ema=False)


def test_a_conditional_generator_is_told_labels_with_the_classes_shares_and_not_those_of_the_reference(
    make_run, blots, monkeypatch, replace_dataset
):
    skewed = replace(blots, labels=(torch.arange(200) % 4 == 0).long())
    serve(monkeypatch, skewed)
    asked, generate = [], models.generate

    def listen(generator, z, labels=None):
        asked.append(labels)
        return generate(generator, z, labels)

    monkeypatch.setattr(models, "generate", listen)
    folder = make_run(num_classes=10)
    for _ in range(2):
        measure(folder, samples=100, repeats=20)
    ones = torch.cat(asked).view(2, 20, 100).sum(2)  # in each draw
    assert torch.equal(ones[0], ones[1])  # seeded
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    share = skewed.labels[order[100:]].double().mean().item()  # of the half that is the training set
    spread = (share * (1 - share) / 100) ** 0.5  # of independent draws; each reference has `share` itself
    assert (ones[0] / 100).mean().item() == pytest.approx(share, abs=4 * spread / 20**0.5)
    assert 0.5 * spread < (ones[0] / 100).std().item() < 1.6 * spread


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize(
    "around",
    [torch.device("meta"), torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)],
    ids=["meta", "inference", "no_grad", "autocast"],
)
def test_the_measures_do_not_depend_on_what_the_caller_has_set(make_run, around):
    folder = make_run()
    expected = measure(folder, samples=20, repeats=1)
    with around:
        assert measure(folder, samples=20, repeats=1) == expected


@pytest.mark.usefixtures("_few")
def test_samples_that_do_not_fit_into_memory_are_refused_before_any_is_drawn(make_run, monkeypatch):
    monkeypatch.setattr(models, "generate", None)
    monkeypatch.setattr(memory, "available_memory", lambda: 400_000_000)
    words = r"60 samples take 0\.5 GB of memory, 0\.4 GB are free: use fewer --samples"
    with pytest.raises(MemoryError, match=words):
        measure(make_run(), samples=60)


def test_a_generator_without_batch_norm_is_said_to_have_none(rng):
    plain = models.Layer(1, kernel=16, stride=1, padding=0, norm=None, activation="tanh")
    network = models.Generator(latent_dim=3, image_size=16, channels=1, layers=[plain])
    assert evaluate._batch_norm(network) == "none"


@pytest.mark.usefixtures("_few")
def test_the_latents_are_those_of_the_seed_and_the_prior_of_the_run(make_run, monkeypatch):
    seen, generate = [], models.generate
    monkeypatch.setattr(models, "generate", lambda g, z, labels: seen.append(z) or generate(g, z, labels))
    monkeypatch.setattr(evaluate, "DRAW_BATCH_SIZE", 7)
    measure(make_run(), samples=20, repeats=2, seed=3)
    for seed, z in zip((3, 4), torch.cat(seen).split(20), strict=True):
        assert torch.equal(z, sample_z(20, 6, prior="uniform", rng=torch.Generator().manual_seed(seed)))


@pytest.mark.usefixtures("_few")
def test_a_stored_run_is_measured_into_the_current_folder(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "PRETRAINED", tmp_path / "stored")
    monkeypatch.setattr(runs.folder, "PRETRAINED", tmp_path / "stored")
    folder = make_run(tmp_path / "stored" / "small")
    before = sorted(path.name for path in folder.iterdir())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    measure("small", samples=20, repeats=1)
    measure(folder, samples=20, repeats=1, out=tmp_path / "there" / "own.json")
    assert sorted(path.name for path in folder.iterdir()) == before
    kept = [tmp_path / "here" / "evaluation-small.json", tmp_path / "there" / "own.json"]
    one, two = (json.loads(path.read_text(encoding="utf-8")) for path in kept)
    assert one["measures"] == two["measures"]
    assert (one["run"], two["run"]) == ("small", str(folder))


def test_a_folder_is_measured_by_its_pixels_and_says_why(make_run, image_folder):
    found = measure(make_run(source=str(image_folder), size=16), repeats=2)
    assert list(found.measures) == PIXELS
    assert found.samples == 10
    assert found.network == "none, raw pixels"
    assert found.classes == {}
    assert f"there is no classifier for {image_folder}" in found.as_table()


@pytest.mark.usefixtures("_few")
def test_images_of_another_size_than_the_classifier_knows_are_measured_by_their_pixels(make_run):
    found = measure(make_run(size=16), samples=20, repeats=1)
    assert list(found.measures) == PIXELS
    assert "the classifier mnist takes images of 1 x 28 x 28, not 1 x 16 x 16" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "count", "held_out_count"), [("mnist", 50, None), ("celeba", 50, None), ("faces", 50, 50)]
)
def test_a_test_split_is_held_out_where_there_is_one(blots, monkeypatch, name, count, held_out_count):
    asked = []

    def load(name, **options):
        asked.append(
            (name, options.get("split"), options["max_images"], options["image_size"], options["root"])
        )
        return blots

    monkeypatch.setattr(datasets, "load", load)
    settings = resolved(DataConfig(name, 64, 3, max_images=count), ModelConfig("dcgan", 2))
    split = evaluate._split(settings, "place", 0)
    assert asked == [(name, None, count, 64, "place"), (name, "test", held_out_count, 64, "place")]
    assert split.source == "its test split"


def test_a_set_without_a_test_split_is_cut_in_two_halves(blots, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda name, **options: replace(blots, images=blots.images[:151]))
    settings = resolved(DataConfig("mnist-mini", 28, 1), ModelConfig("dcgan-28", 2))
    split = evaluate._split(settings, None, 5)
    assert (len(split.train), len(split.held_out)) == (76, 75)
    both = torch.cat([split.train, split.held_out]).flatten(1).unique(dim=0)
    assert torch.equal(both, blots.images[:151].flatten(1).unique(dim=0))
    squares = (split.train.flatten(1) > 0).sum(1).double().sqrt().long() - 3  # the label, read off the image
    assert split.labels.tolist() == squares.tolist()
    again, other = (evaluate._split(settings, None, seed).train for seed in (5, 6))
    assert torch.equal(again, split.train)
    assert not torch.equal(other, split.train)


def test_attributes_are_counted_with_their_absence():
    network = classifier.Classifier(16, 3, ("Smiling", "Hat", "Eyeglasses"), multilabel=True, widths=(2,))
    labels = torch.tensor([[True, False, False], [True, True, False]])
    assert evaluate._count(network, labels).tolist() == [2, 1, 0, 0, 1, 2]


# --- Inception


class Means(nn.Module):
    """A substitute for Inception: bytes in, the channel means out."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        assert images.dtype == torch.uint8
        return images.float().mean((2, 3)) * self.weight


@pytest.mark.usefixtures("_few")
def test_the_fid_is_the_frechet_distance_of_inception_features(make_run, monkeypatch):
    monkeypatch.setattr(evaluate, "_inception", lambda channels: evaluate._Inception(Means()))
    folder = make_run(channels=3)
    found = measure(folder, samples=50, repeats=1, inception=True)
    assert list(found.measures)[-1] == "FID (Inception)"
    rng = torch.Generator().manual_seed(0)
    z = sample_z(50, 6, prior="uniform", rng=rng)
    train = evaluate._split(runs.read_config(folder), None, 0).train
    fake = datasets.to_uint8(models.generate(runs.read(folder).generator, z))
    real = train[torch.randperm(100, generator=rng)[:50]]
    expected = metrics.frechet_distance(real.float().mean((2, 3)), fake.float().mean((2, 3)))
    assert found.measures["FID (Inception)"].values[0] == pytest.approx(expected, rel=1e-4)


def test_inception_is_refused_at_once_where_it_cannot_be(make_run, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load", None)  # no data are read
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="have 1 channel: leave out --inception"):
        measure(make_run(), inception=True)
    colour = make_run(tmp_path / "colour", channels=3)
    found = None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    with pytest.raises(ModuleNotFoundError, match="pip install torch-fidelity"):
        measure(colour, inception=True)
    found = "there"
    with pytest.raises(
        FileNotFoundError, match=r"hub.checkpoints.weights-inception-.*download it from https"
    ):
        measure(colour, inception=True)


# --- bad input


def test_bad_requests_are_refused_before_any_data_is_read(make_run, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "load", None)
    folder = make_run()
    for options, message in (
        ({"samples": 9}, "samples must be at least 10, got 9"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            measure(folder, **options)
    with pytest.raises(PermissionError, match="cannot be written: name another file with --out"):
        measure(folder, out=tmp_path)
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PermissionError, match="cannot be written"):
        measure(folder, out=tmp_path / "file" / "evaluation.json")
    with pytest.raises(FileNotFoundError, match="there is no run nowhere"):
        measure("nowhere")


@pytest.mark.usefixtures("_few")
def test_a_set_that_is_too_small_is_refused(make_run, monkeypatch, blots):
    monkeypatch.setattr(datasets, "load", lambda name, **options: replace(blots, images=blots.images[:19]))
    with pytest.raises(ValueError, match="too small to measure: 9 images are held out, 10 are needed"):
        measure(make_run())


def test_results_of_this_and_of_older_versions_are_recognised_and_other_files_are_not(tmp_path):
    path = tmp_path / "evaluation.json"
    older = {"version": "0.1.0", "command": "dcganlib evaluate mnist --samples 10000 --repeats 3 --seed 0"}
    older |= {"held_out_are": "its test split", "measures": {"copying in pixels, ratio": {"values": [1.1]}}}
    for content, is_ours in (
        (json.dumps(older), True),
        (json.dumps({"command": "python mine.py"}), False),
        ("[1, 2]", False),
        ("no JSON", False),
    ):
        path.write_text(content, encoding="utf-8")
        assert evaluate.is_our_result(path) is is_ours, content
    assert not evaluate.is_our_result(tmp_path / "missing.json")


@pytest.mark.parametrize("name", ["mnist", "mnist-conditional", "fashion-mnist"])
def test_the_stored_results_have_the_measures_and_ideals_of_this_version(name):
    stored = runs.results(f"evaluation-{name}")["measures"]
    assert {measure: entry["ideal"] for measure, entry in stored.items()} == {
        measure: ideal for measure, ideal in IDEAL.items() if measure != "FID (Inception)"
    }
