"""The page of messages says what the code says: every message is there, and nothing else."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORTEST = 6  # letters that tell a message from another
QUOTED = 48  # letters of its longest part that the page must quote; what follows may be cut

# Functions that put words together away from `raise` and `warn`: all that these say is looked at.
BUILDERS = {
    *("__main__.main", "__main__._warn", "__main__._doctor", "celeba._advice", "checkpoint._fill"),
    *(
        "datasets._warn_skipped",
        "files.no_room",
        "files._no_folder",
        "image_folder.open_zip",
        "runs.__init__",
    ),
    *("train._cause", "train._out_of_memory"),
}

# Raised without words of their own; the words are a builder's, the system's or another library's.
WORDLESS = {
    "_no_folder(path)",
    *("ValueError('; '.join(differences))", "no_room(path, needed, error.errno)"),
    *("error", "zipfile.BadZipFile", "KeyboardInterrupt", "Stopped(stop, out, state.step)"),
    "ValueError(f'{path} {kind}. {about}'.rstrip())",
    *("ValueError(_reason(error))", "_SheetError(SHEET)", "reasons[0]"),
    "DownloadError(f'{error}{kept}. {advice}'.rstrip())",
    "_TryAgainError(f'{type(error).__name__} after {got:,} bytes')",
    "files.no_room(out / 'checkpoint.pt', f'{needed:,}')",
    "files.no_room(path, f'{len(content):,}', error.errno)",
}

PROGRAMMER = "only a caller's own code can cause it: a tensor or an argument of the wrong kind"
LEFT_OUT = {  # not on the page: each message, and why
    "all is well": "nothing is wrong",
    "one step": "the name of a check, which the doctor prints in any case",
    "expected uint8 images, got …": PROGRAMMER,
    "images must be a tensor of shape (N, C, H, W), got …: …": PROGRAMMER,
    "expected an ImageSet, as datasets.load gives it, got …": PROGRAMMER,
    "draw must be a function that returns images, such as lambda: generate(generator, z), got …": PROGRAMMER,
    "expected floating-point images in [-1, 1], got …": PROGRAMMER,
    "images must be uint8 of shape (N, C, H, W), got … of shape …": PROGRAMMER,
    "images must have shape (N, 1 or 3, H, W) with N of at least 1, got …": PROGRAMMER,
    "images must have shape (N, …), got …": PROGRAMMER,
    "z must have shape (N, …), got …": PROGRAMMER,
    "labels must be int64 of shape (…,), got …": PROGRAMMER,
    "labels must be int64, one for each of the … images, got … of shape …": PROGRAMMER,
    "this network knows no classes, and was given … labels": PROGRAMMER,
    "the generator knows … classes, the discriminator …": PROGRAMMER,
    "the networks draw by class, of …: pass labels to make_loader": PROGRAMMER,
    "the networks know … classes, the loader's labels go from … to …": PROGRAMMER,
    "a and b must have one shape, got … and …": PROGRAMMER,
    "t must be a number or a 1-D tensor of positions, got shape …": PROGRAMMER,
    "… is empty: expected at least one logit, got shape …": PROGRAMMER,
    "reduction must be 'mean' or 'sum', got …": PROGRAMMER,
    "expected an int or a (height, width) pair, got …": PROGRAMMER,
    "names must be different, and at least one, got …": PROGRAMMER,
    "the strips must add up to … x … pixels": PROGRAMMER,
    "train must be a TrainConfig, got …": PROGRAMMER,
    "alt must say what the film shows, it is empty": PROGRAMMER,
    "alt must say what the pictures show, it is empty": PROGRAMMER,
    "a slider needs at least 2 frames and a text for each, got … and …": PROGRAMMER,
    "frames must have one size, got …": PROGRAMMER,
    "each row must have … cells, one for each column, got …": PROGRAMMER,
    "… frames of … pixels are wider than … in all: take fewer": PROGRAMMER,
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


@pytest.fixture(scope="module")
def code() -> tuple[set[str], set[str], set[str]]:
    """All that the package says when something is wrong; what it raises without words; the builders found."""
    found, wordless, built = set(), set(), set()
    for path in (ROOT / "dcganlib").glob("*.py"):
        module = importlib.import_module(f"dcganlib.{path.stem}")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = f"{path.stem}.{getattr(node, 'name', '')}"
            if isinstance(node, ast.Raise) and node.exc:
                found.update(said(node, module))
                wordless |= set() if said(node, module) else {ast.unparse(node.exc)}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
                found.update(said(node, module))
            elif isinstance(node, ast.FunctionDef) and name in BUILDERS:
                built.add(name)
                del node.body[: ast.get_docstring(node) is not None]
                for inner in ast.walk(node):
                    if isinstance(inner, (ast.Assign, ast.AugAssign, ast.Return, ast.Expr)):
                        found.update(said(inner, module))
    return found, wordless, built


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The page's messages: code that fills a line, but for a mark of the list and a line break at the end."""
    page = (ROOT / "book/troubleshooting.md").read_text(encoding="utf-8")
    return [plain(line) for _, line in re.findall(r"^(?:- |  )(`+)(.+)\1(?: \\)?$", page, re.M)]


def shows(line: str, message: str) -> bool:
    """Whether a line has the message's longest part, and no word that the message has not."""
    words = ".*".join(re.escape(part.strip()) for part in line.split("…"))
    return longest(message)[:QUOTED] in line and re.search(words, message) is not None


def test_every_message_of_the_package_is_on_the_page(code, lines):
    missing = {message for message in code[0] if not any(shows(line, message) for line in lines)}
    assert missing == set(LEFT_OUT)


def test_every_message_on_the_page_is_one_of_the_package(code, lines):
    assert [line for line in lines if not any(shows(line, message) for message in code[0])] == []


def test_no_message_is_put_together_where_nobody_looks(code):
    assert code[1:] == (WORDLESS, BUILDERS)
