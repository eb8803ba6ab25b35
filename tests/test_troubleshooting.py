"""The page of messages says what the code says: every message is there, and nothing else."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORTEST = 6  # letters that tell a message from another
QUOTED = 48  # letters of its longest part that the page must quote; what follows may be cut

PROGRAMMER = "only a caller's own code can cause it: a tensor or an argument of the wrong kind"
LEFT_OUT = {  # not on the page: each message, and why
    "an architecture has no …; it has …": PROGRAMMER,
    "module dcganlib.datasets has no attribute …": PROGRAMMER,
    "expected uint8 images, got …": PROGRAMMER,
    "images must be a tensor of shape (N, C, H, W), got …: …": PROGRAMMER,
    "expected an ImageDataset from datasets.load, got …": PROGRAMMER,
    "draw must be a function that returns images, such as lambda: generate(generator, z), got …": PROGRAMMER,
    "expected floating-point images in [-1, 1], got …": PROGRAMMER,
    "images must be uint8 of shape (N, C, H, W), got … of shape …": PROGRAMMER,
    "images must have shape (N, 1 or 3, H, W) with N of at least 1, got …": PROGRAMMER,
    "images must have shape (N, …), got …": PROGRAMMER,
    "z must have shape (N, …), got …": PROGRAMMER,
    "images must have shape (N, 3, H, W), got …": PROGRAMMER,
    "features must have shape (N, D) and labels (N,), got … and …": PROGRAMMER,
    "draw must return … samples, got …": PROGRAMMER,
    "labels must be int64 of shape (…,), got …": PROGRAMMER,
    "labels must be int64, one for each of the … images, got … of shape …": PROGRAMMER,
    "this network is not conditional, and was given … labels": PROGRAMMER,
    "the generator has … classes, the discriminator …": PROGRAMMER,
    "the networks are conditional on … classes: pass labels to make_loader": PROGRAMMER,
    "the networks have … classes, the loader's labels go from … to …": PROGRAMMER,
    "a and b must have one shape, got … and …": PROGRAMMER,
    "t must be a number or a 1-D tensor of positions, got shape …": PROGRAMMER,
    "… is empty: expected at least one logit, got shape …": PROGRAMMER,
    "reduction must be 'mean' or 'sum', got …": PROGRAMMER,
    "a paired loss needs as many real as fake logits, got …": PROGRAMMER,
    "expected an int or a (height, width) pair, got …": PROGRAMMER,
    "names must be different, and at least one, got …": PROGRAMMER,
    "the classifier has attributes, not classes": PROGRAMMER,
    "the strips must add up to … x … pixels": PROGRAMMER,
    "alt must describe the animation, it is empty": PROGRAMMER,
    "alt must describe the pictures, it is empty": PROGRAMMER,
    "alt must describe the films, it is empty": PROGRAMMER,
    "there must be a film, and steps that rise, got … films, steps …": PROGRAMMER,
    "the film has … frames for … steps": PROGRAMMER,
    "… frames of … x … pixels do not fit into a picture of … pixels on a side: use fewer": PROGRAMMER,
    "a slider needs at least 2 frames and a text for each, got … and …": PROGRAMMER,
    "frames must have the same size, got …": PROGRAMMER,
    "each row must have … cells, one per column, got …": PROGRAMMER,
    "… frames of … pixels are wider than … together: use fewer": PROGRAMMER,
    "start must be from 0 to …, got …": PROGRAMMER,
    "drop_last must be True in a group of processes: the last batch, of … images, would weigh as much as the "
    "others": PROGRAMMER,
}


def plain(text: str) -> str:
    """A message with … for each value and each word in capitals, and single spaces."""
    return " ".join(re.sub(r"\b[A-Z]{2,}\b", "…", text).split())


def longest(text: str) -> str:
    """The longest part between two values."""
    return max(map(str.strip, text.split("…")), key=len)


def said(node: ast.AST, module) -> list[str]:
    """What a piece of code says: its strings of some length, with the module's constants filled in."""
    if isinstance(node, ast.Constant):
        parts = [node]
    elif isinstance(node, ast.JoinedStr):
        parts = node.values
    else:
        return [text for child in ast.iter_child_nodes(node) for text in said(child, module)]
    words = [getattr(module, ast.unparse(p.value), 0) if hasattr(p, "conversion") else p.value for p in parts]
    text = plain("".join(word if isinstance(word, str) else "…" for word in words))
    return [text] if " " in text and len(longest(text)) >= SHORTEST else []


def modules() -> Iterator[tuple[ast.Module, object]]:
    """The package's modules: the syntax tree of each, and itself."""
    for path in (ROOT / "dcganlib").rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield ast.parse(path.read_text(encoding="utf-8")), importlib.import_module(name)


@pytest.fixture(scope="module")
def messages() -> set[str]:
    """What the package says when something is wrong: the words of its exceptions and warnings."""
    found = set()
    for tree, module in modules():
        for node in ast.walk(tree):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name.endswith(("Error", "warnings.warn")) or (isinstance(node, ast.Raise) and node.exc):
                found.update(said(node, module))
    return found


@pytest.fixture(scope="module")
def texts() -> set[str]:
    """All that the package can say: every text in its code but the docstrings."""
    found = set()
    for tree, module in modules():
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                del body[: ast.get_docstring(node) is not None]
        found.update(said(tree, module))
    return found


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The page's messages: code that fills a line, but for a mark of the list and a line break at the end."""
    page = (ROOT / "book/troubleshooting.md").read_text(encoding="utf-8")
    return [plain(line) for _, line in re.findall(r"^(?:- |  )(`+)(.+)\1(?: \\)?$", page, re.M)]


def shows(line: str, message: str) -> bool:
    """Whether a line has the message's longest part, and no word that the message has not."""
    words = ".*".join(re.escape(part.strip()) for part in line.split("…"))
    return longest(message)[:QUOTED] in line and re.search(words, message) is not None


def test_every_message_of_the_package_is_on_the_page(messages, lines):
    missing = {message for message in messages if not any(shows(line, message) for line in lines)}
    assert missing == set(LEFT_OUT)


def test_every_message_on_the_page_is_one_of_the_package(texts, lines):
    assert len(lines) > 100
    assert [line for line in lines if not any(shows(line, text) for text in texts)] == []


def test_a_message_that_no_code_says_is_found(texts):
    for line in ("the disk is on fire", "batch_size … is more than the … images"):
        assert not any(shows(line, text) for text in texts)
