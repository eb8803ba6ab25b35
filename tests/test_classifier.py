"""Classifiers: the network against plain formulas, its training, and the three that come along."""

import os
import re
import shlex
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from dcganlib import datasets, models
from dcganlib.cli import main, parse
from dcganlib.evaluation import classifier
from dcganlib.evaluation.classifier import (
    CONFIGS,
    NAMES,
    Classifier,
    ClassifierConfig,
    accuracy,
    build,
    fit,
    load,
    predict,
    save,
)
from dcganlib.runtime import checkpoint, cpu_layers

LIMIT = 1_000_000  # bytes of a stored classifier
PROMISED = {"mnist": 0.993, "fashion-mnist": 0.92, "faces": 0.99}  # share right on the test images


@pytest.fixture(scope="module")
def stripes(rng):
    """96 grey 8-pixel images with noise: stripes that stand are class 0, stripes that lie class 1."""
    source = rng(5)
    lying = torch.rand(96, generator=source) < 0.5
    bars = torch.tensor([200, 200, 20, 20] * 2).expand(8, 8)
    images = torch.where(lying[:, None, None], bars.T, bars) + torch.randint(55, (96, 8, 8), generator=source)
    images, labels = images.to(torch.uint8)[:, None], lying.long()
    return datasets.ImageDataset(images, labels, "stripes", "a test", "none", ("standing", "lying"))


@pytest.fixture(scope="module")
def marks(stripes):
    """The same images with two attributes, whether they are lying and whether they are not."""
    lying = stripes.labels == 1
    attributes = torch.stack([lying, ~lying], 1)
    return replace(
        stripes, labels=None, class_names=(), attributes=attributes, attribute_names=("Lying", "Up")
    )


@pytest.fixture
def small(stripes, rng):
    return build(stripes, widths=(4, 8), rng=rng())


def learn(network, image_set, **options):
    return list(fit(network, image_set, ClassifierConfig(**({"epochs": 1, "batch_size": 16} | options))))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# The network


@pytest.mark.parametrize(
    ("size", "channels", "widths"), [(28, 1, (32, 64, 64)), (9, 3, (2, 3)), (4, 1, (5,))]
)
def test_features_and_logits_are_those_of_plain_formulas(rng, size, channels, widths):
    network = models.init_weights(Classifier(size, channels, "abc", widths=widths), rng())
    network(torch.randn(16, channels, size, size, generator=rng(1)))  # moves the statistics
    images = torch.rand(3, channels, size, size, generator=rng(2)) * 2 - 1
    told, maps = network.eval().state_dict(), images
    for layer in range(2 * len(widths) - 1):
        weight, halving = told[f"blocks.{3 * layer}.weight"], layer == 0 or layer % 2 == 1
        maps = F.conv2d(maps, weight, stride=1 + halving, padding=1 if layer else 2)
        gain, offset, mean, spread = (
            told[f"blocks.{3 * layer + 1}.{name}"][:, None, None]
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        maps = ((maps - mean) / (spread + 1e-5).sqrt() * gain + offset).clamp(min=0)
    features = network.features(images)
    assert features.shape == (3, widths[-1])
    assert features.min() >= 0
    assert features.std() > 0
    torch.testing.assert_close(features, maps.sum((2, 3)) / maps[0, 0].numel(), rtol=1e-4, atol=1e-6)
    logits = features @ told["head.weight"].T + told["head.bias"]
    torch.testing.assert_close(network(images), logits, rtol=1e-4, atol=1e-6)
    assert logits.shape == (3, network.outputs) == (3, 3)


def test_a_classifier_learns_the_classes_of_a_set_or_its_attributes(stripes, marks):
    of_classes, of_attributes = build(stripes), build(marks)
    assert (of_classes.names, of_classes.multilabel) == (("standing", "lying"), False)
    assert (of_attributes.names, of_attributes.multilabel) == (("Lying", "Up"), True)
    assert of_classes.about == {}
    assert (of_classes.image_size, of_classes.channels, of_classes.widths) == (8, 1, (32, 64, 64))


def test_weights_come_from_the_source_that_is_given(stripes, rng):
    assert same(build(stripes, rng=rng(3)), build(stripes, rng=rng(3)))
    assert not same(build(stripes, rng=rng(3)), build(stripes, rng=rng(4)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1, got 0"),
        ({"channels": -1}, "channels must be at least 1, got -1"),
        ({"widths": ()}, "widths must be at least 1, got 0"),
        ({"widths": (4, 0)}, "widths must be at least 1, got 0"),
        ({"names": ()}, r"names must be different, and at least one, got \(\)"),
        ({"names": ("a", "b", "a")}, r"names must be different, and at least one, got \('a', 'b', 'a'\)"),
    ],
)
def test_a_network_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Classifier(**({"image_size": 8, "channels": 1, "names": ("a", "b")} | arguments))


@pytest.mark.parametrize("shape", [(2, 1, 8, 9), (2, 3, 8, 8), (1, 8, 8), (2, 1, 7, 7)])
def test_images_of_another_shape_are_refused(small, shape):
    for look in (small, small.features, lambda images: predict(small, images)):
        with pytest.raises(ValueError, match=r"images must have shape \(N, 1, 8, 8\), got \("):
            look(torch.zeros(shape))


def test_bytes_are_no_floats_to_the_network(small):
    with pytest.raises(ValueError, match=r"expected floating-point images .*uint8"):
        small(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


# Answers


def test_answers_do_not_depend_on_type_batch_or_mode_and_the_mode_is_restored(small, stripes):
    learn(small, stripes)
    expected = small(datasets.to_float(stripes.images)).argmax(1)
    for training in (True, False):
        small.train(training)
        assert torch.equal(predict(small, stripes.images), expected)
        assert torch.equal(predict(small, datasets.to_float(stripes.images), batch_size=7), expected)
        assert small.training == training
    assert expected.dtype == torch.int64
    assert not predict(small, stripes.images[:0]).numel()


def test_an_attribute_holds_where_its_logit_is_above_0(marks, rng):
    network = build(marks, widths=(4,), rng=rng()).eval()
    network.head.bias.data = torch.tensor([0.0, -100.0])
    network.head.weight.data[0] = 1 - 2 * (torch.arange(4) % 2)  # of both signs
    found = predict(network, marks.images)
    assert found.dtype == torch.bool
    assert torch.equal(found, network(datasets.to_float(marks.images)) > 0)
    assert not found[:, 1].any()
    shares = accuracy(network, marks)
    assert shares.shape == (2,)
    assert shares[1] == marks.attributes[:, 1].logical_not().float().mean()


def test_accuracy_counts_right_answers(small, stripes):
    small.head.weight.data.zero_()
    small.head.bias.data = torch.tensor([0.0, 1.0])  # always says 1
    assert accuracy(small, stripes) == pytest.approx(stripes.labels.sum().item() / 96, abs=1e-6)
    assert accuracy(small, replace(stripes, labels=torch.ones_like(stripes.labels)), batch_size=5) == 1


def test_answers_take_no_gradients(small, stripes):
    assert small.features(datasets.to_float(stripes.images)).requires_grad
    assert not predict(small, datasets.to_float(stripes.images).requires_grad_()).requires_grad


# Training


@pytest.mark.parametrize("options", [{}, {"mirror": True, "precision": "bfloat16"}])
def test_a_set_that_can_be_told_apart_is_learnt(small, stripes, options):
    records = learn(small, stripes, epochs=4, lr=0.03, shift=1, **options)
    assert [record.epoch for record in records] == [1, 2, 3, 4]
    assert 0 < records[-1].loss < 0.5 * records[0].loss
    assert records[-1].accuracy > 0.95
    assert accuracy(small, stripes) > 0.95
    assert not small.training


@pytest.mark.parametrize(
    ("precision", "has_bfloat16", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, torch.float32),
        ("float32", True, torch.float32),
        ("bfloat16", False, torch.bfloat16),
        ("float16", True, torch.float16),
    ],
)
def test_convolutions_run_in_the_precision_asked_for_and_auto_is_that_of_training(
    small, stripes, monkeypatch, precision, has_bfloat16, expected
):
    monkeypatch.setattr(cpu_layers, "has_bfloat16", lambda: has_bfloat16)
    seen = set()
    small.blocks[0].register_forward_hook(lambda module, given, maps: seen.add(maps.dtype))
    learn(small, stripes, precision=precision)
    assert seen == {expected}
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float32}


def test_small_gradients_are_not_lost_in_float16(stripes, rng):
    moved = []
    for precision in ("float32", "float16"):
        network = build(stripes, widths=(4, 8), rng=rng())
        network.head.weight.data.mul_(1e-5)  # so that the gradients below it are of this size, over 96 images
        before = network.blocks[0].weight.detach().clone()
        learn(network, stripes, batch_size=96, shift=0, precision=precision)
        moved.append((network.blocks[0].weight - before).abs().mean().item())
    assert moved[1] == pytest.approx(moved[0], rel=0.2)


# torch 2.6 itself makes the step count of an AdamW on the default device.
@pytest.mark.parametrize(
    "place",
    [pytest.param("meta", marks=pytest.mark.pinned), "float64", "inference", "no_grad", "deterministic"],
)
def test_training_and_files_do_not_depend_on_what_the_caller_has_set(stripes, rng, tmp_path, place):
    around = {"meta": torch.device("meta"), "inference": torch.inference_mode(), "no_grad": torch.no_grad()}

    def everything():
        network = build(stripes, widths=(4, 8), rng=rng())
        records = learn(network, stripes, epochs=2, mirror=True)
        save(tmp_path / "c.safetensors", network)
        again = load(tmp_path / "c.safetensors")
        return network, records, predict(again, stripes.images).tolist()

    expected = everything()
    try:
        if place == "float64":
            torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(place == "deterministic")
        with around.get(place, nullcontext()):
            found = everything()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.use_deterministic_algorithms(False)
    assert found[1:] == expected[1:]
    assert same(found[0], expected[0])
    learn(found[0], stripes)  # what was made under inference mode can be trained outside of it


def test_what_is_no_set_is_refused_by_its_kind(small, stripes):
    loader = datasets.make_loader(stripes.images, 16)
    for use in (build, lambda given: accuracy(small, given), lambda given: learn(small, given)):
        for given, kind in ((loader, "Loader"), (stripes.images, "Tensor")):
            with pytest.raises(ValueError, match=f"expected an ImageDataset from datasets.load, got {kind}"):
                use(given)
    with pytest.raises(ValueError, match="got ImageDataset: pass the ImageDataset's .images"):
        predict(small, stripes)


def test_attributes_are_learnt(marks, rng):
    network = build(marks, widths=(4, 8), rng=rng())
    records = learn(network, marks, epochs=4, lr=0.03, shift=1)
    assert records[-1].loss < 0.5 * records[0].loss
    assert 0.5 * accuracy(network, marks).sum() > 0.95


def test_the_same_seed_gives_the_same_network_and_torchs_own_source_is_left_alone(stripes, rng):
    trained = [(build(stripes, widths=(4, 8), rng=rng()), seed) for seed in (1, 1, 2)]
    before = torch.get_rng_state()
    trained = [
        (learn(network, stripes, epochs=2, seed=seed, mirror=True), network) for network, seed in trained
    ]
    assert torch.equal(before, torch.get_rng_state())
    assert trained[0][0] == trained[1][0] != trained[2][0]
    assert same(trained[0][1], trained[1][1])
    assert not same(trained[0][1], trained[2][1])


def test_the_record_tells_the_loss_before_the_update(small, stripes):
    images = datasets.to_float(stripes.images)
    logits = small.train()(images)
    expected = -logits.log_softmax(1)[torch.arange(96), stripes.labels].mean().item()
    right = (logits.argmax(1) == stripes.labels).float().mean().item()
    (record,) = learn(small, stripes, batch_size=96, shift=0)
    assert record.loss == pytest.approx(expected, rel=1e-4)
    assert record.accuracy == pytest.approx(right, abs=1e-6)


def test_the_loss_of_attributes_is_the_mean_over_images_and_attributes(marks, rng):
    network = build(marks, widths=(4, 8), rng=rng())
    p = network.train()(datasets.to_float(marks.images)).sigmoid()
    expected = -torch.where(marks.attributes, p, 1 - p).log().mean().item()
    (record,) = learn(network, marks, batch_size=500, shift=0)  # one batch, smaller than asked for
    assert record.loss == pytest.approx(expected, rel=1e-4)


def test_the_learning_rate_rises_for_a_fifth_of_the_steps_and_falls_to_0(small, stripes, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def noted(self):
        rates.append(self.param_groups[0]["lr"])
        step(self)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    learn(small, stripes, epochs=5, batch_size=24, lr=0.02)  # 20 steps, at 1/40, 3/40, ... of the way
    expected = [0.0025, 0.0075, 0.0125, 0.0175] + [0.02 * (39 - 2 * k) / 32 for k in range(4, 20)]
    assert rates == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_each_image_is_moved_on_its_own_and_its_edge_repeated(rng, mirror):
    images = torch.randint(256, (4, 3, 6, 6), dtype=torch.uint8, generator=rng())
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    chosen = torch.tensor([3, 0] * 300)
    moved = classifier._augmented(images, chosen, ClassifierConfig(shift=2, mirror=mirror), rng(1))
    assert (moved.shape, moved.dtype) == ((600, 3, 6, 6), torch.uint8)
    seen = set()
    for image, index in zip(moved, chosen.tolist(), strict=True):
        for y in range(5):
            for x in range(5):
                window = padded[index, :, y : y + 6, x : x + 6]
                if torch.equal(image, window):
                    seen.add((index, y, x, False))
                elif mirror and torch.equal(image, window.flip(2)):
                    seen.add((index, y, x, True))
    assert len(seen) == 2 * 25 * (1 + mirror)


def test_no_shift_and_no_mirror_leave_the_images_as_they_are(stripes, rng):
    chosen = torch.randperm(96, generator=rng())
    still = ClassifierConfig(shift=0, mirror=False)
    assert torch.equal(classifier._augmented(stripes.images, chosen, still, rng()), stripes.images[chosen])


def test_a_loaded_classifier_can_be_trained_on(small, stripes, tmp_path):
    save(tmp_path / "c.safetensors", small)
    again = load(tmp_path / "c.safetensors")
    before = again.head.weight.clone()
    learn(again, stripes)
    assert not torch.equal(again.head.weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"shift": -1}, "shift must be at least 0, got -1"),
        ({"lr": 0.0}, "lr must be above 0 and finite, got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0 and finite, got nan"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"seed": 2**62}, r"seed must be from 0 to below 2\*\*62, got 4611686018427387904"),
        ({"mirror": 1}, "mirror must be True or False, got 1"),
        ({"precision": "half"}, "precision must be one of .*, got 'half'"),
    ],
)
def test_training_refuses_numbers_out_of_range_before_any_work(small, stripes, options, message):
    before = {name: value.clone() for name, value in small.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        learn(small, stripes, **options)
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


@pytest.mark.parametrize("ask", [lambda network, found: next(fit(network, found)), accuracy])
def test_a_set_that_does_not_fit_is_refused(small, stripes, marks, ask):
    told = "the classifier predicts the classes standing, lying; stripes has "
    unlike = {
        told + "none": replace(stripes, labels=None),
        told + "cat, dog": replace(stripes, class_names=("cat", "dog")),
        told + "lying, standing": replace(stripes, class_names=("lying", "standing")),
        "there are no images": replace(stripes, images=stripes.images[:0], labels=stripes.labels[:0]),
        r"images must have shape \(N, 1, 8, 8\), got \(96, 1, 8, 7\)": replace(
            stripes, images=stripes.images[..., 1:]
        ),
    }
    for message, found in unlike.items():
        with pytest.raises(ValueError, match=message):
            ask(small, found)
    with pytest.raises(ValueError, match="predicts the attributes Lying, Up; stripes has none"):
        ask(build(marks), stripes)


def test_a_set_that_teaches_nothing_is_refused(stripes):
    with pytest.raises(ValueError, match="stripes has neither classes nor attributes to learn"):
        build(replace(stripes, labels=None))
    with pytest.raises(ValueError, match="takes square images, stripes has 8 x 7 pixels"):
        build(replace(stripes, images=stripes.images[..., 1:]))


def test_a_loss_that_is_no_number_stops_the_training(small, stripes):
    small.head.bias.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the classifier's loss is nan in epoch 1: use a smaller lr"):
        learn(small, stripes)


# Files


def test_a_classifier_comes_back_in_16_bits_with_what_was_said_about_it(small, stripes, tmp_path):
    learn(small, stripes)
    small.half().float()
    save(tmp_path / "c.safetensors", small, seed=3, note="stripes")
    again = load(str(tmp_path / "c.safetensors"))
    assert again.about == {"seed": 3, "note": "stripes"}
    assert (again.names, again.multilabel, again.widths) == (small.names, False, (4, 8))
    assert same(again, small)
    images = datasets.to_float(stripes.images)
    torch.testing.assert_close(again(images), small(images), rtol=1e-5, atol=1e-6)
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert not again.features(images).requires_grad


def test_a_classifier_is_no_generator_nor_the_reverse(small, tiny_pair, tmp_path):
    save(tmp_path / "c.safetensors", small)
    checkpoint.save_generator(tmp_path / "g.safetensors", tiny_pair()[0])
    with pytest.raises(ValueError, match=r"g\.safetensors holds another kind of network, not a classifier"):
        load(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=r"c\.safetensors holds another kind of network, not a generator"):
        checkpoint.load_generator(tmp_path / "c.safetensors")


def test_an_unknown_name_is_refused(tmp_path):
    for name in ("mnst", tmp_path / "none.safetensors"):
        with pytest.raises(
            ValueError, match=r"no classifier .*the stored ones are mnist, fashion-mnist, faces"
        ):
            load(name)


# Those that come with the package


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_classifier_is_small_and_says_how_it_was_made(name):
    found, recipe = load(name), CONFIGS[name]
    assert os.path.getsize(classifier.FOLDER / f"{name}.safetensors") <= LIMIT
    told = found.about
    assert found.widths == recipe.widths
    assert found.features(torch.zeros(2, found.channels, found.image_size, found.image_size)).shape == (2, 64)
    channels, size = datasets.image_shape(name)
    assert (found.channels, found.image_size, found.multilabel) == (channels, size, name == "faces")
    command, *words = shlex.split(told["command"])
    options = parse(words)
    assert command == "dcganlib"
    assert (options.name, options.seed, options.epochs) == (name, told["seed"], told["epochs"])
    assert told["epochs"] == recipe.epochs
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["version"])  # of the package that trained it
    assert PROMISED[name] <= told["test_accuracy"] < 1
    assert name in told["description"]


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_of_a_stored_classifier_is_found(name, tmp_path):
    content = (classifier.FOLDER / f"{name}.safetensors").read_bytes()
    path = tmp_path / "c.safetensors"
    for place in [*range(100, len(content), len(content) // 40), len(content) - 1]:
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=r"c\.safetensors"):
            load(path)
    with pytest.raises(checkpoint.DamagedError, match="does not match its checksum"):
        load(path)


def test_the_stored_classifier_of_digits_tells_the_bundled_digits(mnist_mini):
    found = load("mnist")
    assert found.names == datasets.find_entry("mnist").class_names
    answers = predict(found, mnist_mini.images)
    right = (answers == mnist_mini.labels).float().mean().item()
    assert right == pytest.approx(
        0.9976, abs=0.001
    )  # a little higher than on test images: all are of training
    assert 0 < right - found.about["test_accuracy"] < 0.005
    assert ((torch.bincount(answers, minlength=10) - 500).abs() < 10).all()


def test_the_stored_classifier_of_faces_tells_their_attributes(face_set):
    drawn = datasets.load("faces", root=face_set.parent, max_images=40, split="all")
    found = load("faces")
    assert found.names == drawn.attribute_names
    shares = accuracy(found, drawn)
    assert shares.shape == (19,)
    assert shares.mean().item() == pytest.approx(found.about["test_accuracy"], abs=0.02)
    told = found.about["test_accuracies"]
    assert tuple(told) == drawn.attribute_names
    assert sum(told.values()) / 19 == pytest.approx(found.about["test_accuracy"], abs=1e-6)


def test_the_stored_classifier_of_clothes_knows_their_names():
    assert load("fashion-mnist").names == datasets.find_entry("fashion-mnist").class_names


# The command


@pytest.fixture
def prepared(stripes, marks, monkeypatch):
    """Let the command find the small sets, and note what it asks for."""
    asked = []

    def find(name, *, root, split):
        asked.append((name, root, split))
        return marks if name == "faces" else stripes

    monkeypatch.setattr(datasets, "load", find)
    monkeypatch.setitem(CONFIGS, "mnist", ClassifierConfig((4, 8), epochs=3, shift=1, mirror=True))
    monkeypatch.setitem(CONFIGS, "faces", ClassifierConfig((4, 8), epochs=2))
    return asked


def test_the_command_trains_and_says_how_good_the_file_is(prepared, stripes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["classifier", "mnist", "--device", "cpu", "--seed", "4", "--root", "here"]) == 0
    assert prepared == [("mnist", Path("here"), "train"), ("mnist", Path("here"), "test")]
    said = capsys.readouterr()
    found = load("classifier-mnist.safetensors")
    told = found.about["test_accuracy"]
    assert accuracy(found, stripes) == pytest.approx(told, abs=1e-9)
    assert said.out == (f"wrote classifier-mnist.safetensors: right on {told:.2%} of the 96 test images\n")
    assert [f"epoch {n}: loss" in said.err for n in range(5)] == [False, True, True, True, False]
    assert found.about["command"] == "dcganlib classifier mnist --epochs 3 --seed 4"
    before = (tmp_path / "classifier-mnist.safetensors").read_bytes()
    assert main(["classifier", "mnist"]) == 2
    assert "already exists; use --force to replace it, or --out" in capsys.readouterr().err
    assert before == (tmp_path / "classifier-mnist.safetensors").read_bytes()
    again = ["classifier", "mnist", "--seed", "4", "--device", "cpu", "--out", "b.safetensors"]
    assert main(again) == 0
    assert before == (tmp_path / "b.safetensors").read_bytes()


def test_the_command_lists_each_attribute(prepared, marks, tmp_path, capsys):
    out = tmp_path / "c.safetensors"
    assert main(["classifier", "faces", "--device", "cpu", "--epochs", "1", "--out", str(out)]) == 0
    shares = accuracy(load(out), marks)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [
        [f"{shares[0]:.2%}", "Lying"],
        [f"{shares[1]:.2%}", "Up"],
    ]
    assert f"right on {shares.mean():.2%} of the 96" in lines[2]
    assert load(out).about["epochs"] == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["mnst"], "there is no classifier mnst; the stored ones are mnist, fashion-mnist, faces"),
        (["mnist", "--out", "none/c.safetensors"], "the folder none is not there"),
        (["mnist", "--epochs", "0"], "epochs must be at least 1, got 0"),
        (["mnist", "--seed", "-1"], "seed must be at least 0, got -1"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(prepared, tmp_path, monkeypatch, capsys, words, complaint):
    monkeypatch.chdir(tmp_path)
    assert main(["classifier", *words]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
