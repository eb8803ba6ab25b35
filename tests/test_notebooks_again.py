"""Chapters run again, after a try that failed, and where nothing may be written."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys

import chapters
import jupytext
import pytest

WRITERS = {
    *(
        "animate",
        "dump",
        "download",
        "fetch",
        "imsave",
        "makedirs",
        "mkdir",
        "mkstemp",
        "open",
        "resume",
        "run",
    ),
    *(
        "save",
        "save_generator",
        "save_network",
        "savefig",
        "savez",
        "to_csv",
        "touch",
        "write_bytes",
        "write_text",
    ),
}
READERS = {"Image.open"}
ELSEWHERE = re.compile(r"tempfile\.|\b(temporary|folder|buffer)\b")  # what such a call mentions
ALLOWED = re.compile(r"\b(TemporaryDirectory|mkdtemp)\(\)|BytesIO\(\)")  # what those names stand for

RUN = """
import json, os, sys
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
path, rounds = sys.argv[1], json.loads(sys.argv[2])
assert not os.access(".", os.W_OK)
notebook = nbformat.read(path, as_version=4)
cells = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
client = NotebookClient(notebook, kernel_name="python3", timeout=1800, extra_arguments=["--log-level=ERROR"])
steady = [cell for _, cell in cells if "nbval-ignore-output" not in cell.metadata.get("tags", ())]
def said():
    return ["".join(out.text for out in cell.outputs if out.get("name") == "stdout") for cell in steady]
stored = said()
with client.setup_kernel():
    for count in rounds:
        for i, cell in cells[: None if count is None else int(count * len(cells))]:
            client.execute_cell(cell, i)
        if count is not None:
            try:
                client.execute_cell(nbformat.v4.new_code_cell("raise MemoryError('the first try')"), 0)
            except (CellExecutionError, IndexError):
                pass
other = [(a, b) for a, b in zip(stored, said()) if a != b]
print(json.dumps({"cells": sum(map(bool, stored)), "other": other}))
"""


def code(md):
    """The syntax tree of each code cell of a chapter."""
    for cell in jupytext.read(md).cells:
        if cell.cell_type == "code" and not re.search(r"^\s*[%!]", cell.source, re.M):
            yield ast.parse(cell.source)


def calls(tree, switched=False):
    """All calls of a syntax tree but for those under a switch that is off, such as ``if FULL``."""
    for node in ast.iter_child_nodes(tree):
        off = isinstance(node, ast.If) and any(
            isinstance(name, ast.Name) and name.id.isupper() for name in ast.walk(node.test)
        )
        if isinstance(node, ast.Call) and not switched:
            yield node
        yield from calls(node, switched or off)


@pytest.mark.parametrize("md", chapters.chapters(), ids=lambda md: md.stem)
def test_a_chapter_writes_into_temporary_folders_alone(md):
    for tree in code(md):
        source = ast.unparse(tree)
        for call in calls(tree):
            name = ast.unparse(call.func)
            method = isinstance(call.func, ast.Attribute) or name == "open"  # a cell's own `run` is none
            if method and name.split(".")[-1] in WRITERS and name not in READERS:
                assert ELSEWHERE.search(ast.unparse(call)), f"{md.name} writes: {ast.unparse(call)}"
                assert ALLOWED.search(source), f"{md.name}: where does this write? {ast.unparse(call)}"


READ_ONLY = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro none . && cd "$PWD" && exec "$@"', "sh"]


def run_again(notebook, tmp_path, rounds):
    """Run a notebook's cells in rounds, in one kernel, in an empty folder that nobody may write into."""
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    home.mkdir()
    command = [sys.executable, "-c", RUN, str(notebook), json.dumps(rounds)]
    if os.geteuid() == 0:  # who may write anywhere but here
        command = [*READ_ONLY, *command]
    here.chmod(0o555)
    environment = os.environ | {"MPLCONFIGDIR": str(home), "PYTHONPATH": str(chapters.ROOT)}
    environment |= {"MPLBACKEND": "template"}  # the figures are made and not drawn: what is printed counts
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True)
    here.chmod(0o755)
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(here.iterdir()) == []
    return json.loads(done.stdout.splitlines()[-1])


def root_can_be_kept_from_writing(folder) -> bool:
    if os.geteuid() != 0:
        return True
    probe = [*READ_ONLY, "test", "!", "-w", "."]
    return (
        bool(shutil.which("unshare"))
        and subprocess.run(probe, cwd=folder, capture_output=True).returncode == 0
    )


@pytest.mark.posix("no folder is read-only")
def test_the_chapter_on_sizes_says_the_same_after_a_failed_try_where_nothing_can_be_written(tmp_path):
    if not root_can_be_kept_from_writing(tmp_path):
        pytest.skip("root may write everywhere, and nothing can be mounted here")
    told = run_again(chapters.BOOK / "02_size_arithmetic.ipynb", tmp_path, [0.5, None])
    assert told["other"] == []
    assert told["cells"] > 20
