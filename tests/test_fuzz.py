"""The fuzzer finds what it should, and nothing in what the package promises."""

import os
import signal
import time

import pytest
import torch

from dcganlib.datasets import image_files
from dcganlib.runtime import checkpoint

fuzz = pytest.importorskip("fuzz", reason="resource, which it limits memory with, is not on Windows")

in_every_case = pytest.mark.parametrize("name", fuzz.CASES)


@in_every_case
def test_some_damaged_inputs_of_each_kind_are_read_or_refused(name, tmp_path):
    outcomes = {fuzz.try_case(0, number, [name], tmp_path)[1:] for number in range(4)}
    assert outcomes <= {("read", ""), ("refused", ""), ("not made", "")}
    assert not any(tmp_path.iterdir())


@in_every_case
def test_a_case_is_made_again_from_its_seed_and_number(name, tmp_path, monkeypatch):
    made = []

    def keep(folder, chance):
        case(folder, chance)
        files = [path for path in folder.rglob("*") if path.is_file() and ".dcganlib" not in path.parts]
        made.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
        return "read"

    case = fuzz.CASES[name]
    monkeypatch.setitem(fuzz.CASES, name, keep)
    for seed in (5, 5, 6, 7):
        assert fuzz.try_case(seed, 3, [name])[1] == "read"
    assert made[0] == made[1]
    assert made[0] != made[2] or made[0] != made[3]


def broken(folder, chance):
    (folder / "input").write_bytes(b"x")
    raise KeyError("oops")


def left(folder, chance):
    (folder / ".a.tmp").write_bytes(b"x")
    return "read"


@pytest.mark.parametrize(
    ("case", "said"), [(broken, "KeyError: 'oops'"), (left, "FindingError: left behind")]
)
def test_another_exception_and_a_file_left_behind_are_findings(case, said, tmp_path, monkeypatch):
    monkeypatch.setitem(fuzz.CASES, "case", case)
    name, outcome, words = fuzz.try_case(0, 7, ["case"], tmp_path)
    assert (name, outcome) == ("case", "FINDING")
    assert words.startswith(said)
    assert len(list((tmp_path / "0-7").iterdir())) == 1


def crash(folder, chance):
    os.kill(os.getpid(), signal.SIGSEGV)


def wait(folder, chance):
    time.sleep(60)


def circle(folder, chance):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pass


def devour(folder, chance):
    return str(len(bytearray(2 * fuzz.MEMORY)))


@pytest.mark.posix("no fork")
@pytest.mark.parametrize(
    ("case", "said"), [(crash, "SIGSEGV"), (wait, "hangs"), (circle, "hangs"), (devour, "MemoryError")]
)
def test_a_crash_a_hang_and_a_need_for_much_memory_are_findings(case, said, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    monkeypatch.setattr(fuzz, "WAIT", 2)
    monkeypatch.setitem(fuzz.CASES, "case", case)
    (done,) = fuzz.in_a_child(0, range(3, 4), ["case"], tmp_path)
    assert (done[0], done[1], done[3]) == ("case", "FINDING", 3)
    assert said in done[2]


def test_weights_that_differ_and_a_message_without_a_file_are_findings(tmp_path):
    content = fuzz.networks()[1]
    generator, _ = checkpoint.load_generator(fuzz.OLD / "generator.safetensors")
    path = tmp_path / "generator.safetensors"
    with torch.no_grad():
        generator.blocks[0][0].weight[0, 0, 0, 0] += 1
    checkpoint.save_generator(path, generator)
    with pytest.raises(fuzz.FindingError, match="the weights differ"):
        fuzz.read_weights(path, path.read_bytes(), content)
    with pytest.raises(fuzz.FindingError, match="the message names no file: ValueError: x is broken"):
        fuzz.refused(path, ValueError("x is broken"))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"a/1.png": 20, "b/2.png": 60}, "the pictures are"),
        ({"a/1.png": 20, "b/2.png": 40, "b/3.png": None}, "2 were taken and 0 left out of 3"),
        ({"1.png": 20, "b/2.png": 40}, "there are classes"),
        ({"a/1.png": 20, "c/2.png": 40}, "the classes are"),
    ],
)
def test_a_tree_read_otherwise_than_it_was_made_is_a_finding(made, said, tmp_path):
    for name, value in {"a/1.png": 20, "b/2.png": 40}.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(fuzz.dot(value, "png"))
    chance = fuzz.random.Random(0)
    chance.choice, chance.random = lambda values: values[0], lambda: 0.9  # all pictures, not strict, no cache
    assert fuzz.read_tree(tmp_path, {"a/1.png": 20, "b/2.png": 40}, chance) == "read"
    with pytest.raises(fuzz.FindingError, match=said):
        fuzz.read_tree(tmp_path, made, chance)


def test_other_pixels_and_a_refusal_of_whole_ones_are_findings():
    content, pixels = fuzz.plain()["png"]
    assert fuzz.read_picture(content, [255 - pixels, pixels]) == "read"
    with pytest.raises(fuzz.FindingError, match="the pixels differ"):
        fuzz.read_picture(content, [255 - pixels, pixels[::-1]])
    with pytest.raises(fuzz.FindingError, match="a whole picture was refused: is not an image"):
        fuzz.read_picture(b"x", [pixels])


def test_lists_read_otherwise_than_they_were_written_are_a_finding():
    names = tuple(f"{number:06}.png" for number in (1, 4, 7))
    source = image_files.Source("", names)
    right = fuzz.celeba.Listing(source, None, (), None, fuzz.np.array([0, 3, 6]))
    fuzz.check_listing(right, "train", None)
    for split, identities in (("valid", [0, 3, 6]), ("train", [0, 3, 5]), (None, [0, 3])):
        wrong = fuzz.celeba.Listing(source, None, (), None, fuzz.np.array(identities))
        with pytest.raises(fuzz.FindingError):
            fuzz.check_listing(wrong, split, None)


def test_a_history_that_loses_rows_is_a_finding(tmp_path, monkeypatch):
    sound = fuzz.history._sound_lines
    monkeypatch.setattr(fuzz.history, "_sound_lines", lambda *asked: (sound(*asked)[0][1:], False))
    outcomes = [fuzz.try_case(0, number, ["history_file"])[1:] for number in range(20)]
    assert [said for outcome, said in outcomes if outcome == "FINDING"]
    assert all("rows these are left" in said or "line is lost" in said for _, said in outcomes if said)


def test_settings_of_another_kind_are_a_finding():
    settings = fuzz.run_settings()
    object.__setattr__(settings, "steps", "3")  # past the check where settings are made
    with pytest.raises(fuzz.FindingError, match="steps is '3'"):
        fuzz.check_settings(settings)
