"""What every chapter and page keeps to, so that what is read is what was run."""

import ast
import re
from pathlib import Path

import chapters
import nbformat
import pytest
import yaml

from dcganlib.viz.notebook import play_data

ROOT = chapters.ROOT
BOOK = chapters.BOOK
NOTEBOOKS = chapters.chapters()
CHAPTERS = [md for md in NOTEBOOKS if md.name[0].isdigit()]  # the others are appendices
PAGES = sorted(path for path in BOOK.glob("*.md") if path not in NOTEBOOKS)
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
LISTED = [entry["file"] for part in TOC["parts"] for entry in part["chapters"]]
BANNED = r"\b(simply|obviously|trivially|of course|needless to say|as you can see|revolutionary)\b"
FOLDED = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
EXERCISE = r"(Warm-up|Standard|Challenge) · \d+ minutes"  # then, if it has one, its title
SHOWS = {"print", "show_source", "show_animation", "show_slider", "show_table", "show_training", "display"}

every_chapter = pytest.mark.parametrize("md", CHAPTERS, ids=lambda md: md.stem)
every_notebook = pytest.mark.parametrize("md", NOTEBOOKS, ids=lambda md: md.stem)
every_text = pytest.mark.parametrize("md", [*NOTEBOOKS, *PAGES], ids=lambda md: md.stem)


def parsed(cell) -> ast.Module:
    """The code of a cell, its IPython magics left out."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M))


def name_of(call: ast.AST) -> str:
    """The name of what a call calls, without its module."""
    if not isinstance(call, ast.Call):
        return ""
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def code_of(md: Path):
    """The executed code cells of a chapter but the Colab cell."""
    return [c for c in chapters.code_cells(chapters.stored(md)) if "colab" not in chapters.tags(c)]


def pictures(cell) -> list[str]:
    """A cell's stored pictures: "" for an image output, the tag for an image in an HTML output."""
    found = []
    for mime, content in (item for output in cell.outputs for item in output.get("data", {}).items()):
        found += [""] if mime.startswith("image/") else []
        found += re.findall(r"<img [^>]*>", "".join(content)) if mime == "text/html" else []
    return found


def prose_of(md: Path) -> str:
    """The text of a page without its header, code, formulas and literal names."""
    text = re.sub(r"\A---\n.*?^---$", "", md.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return re.sub(r"\$\$.*?\$\$|`[^`]*`|\$[^$]*\$", "", text, flags=re.S)


@every_notebook
def test_the_pair_is_in_step(md):
    assert chapters.problems(md) == []


def test_addresses_follow_from_one_place():
    address = chapters.configured()
    assert chapters.stamped() == address
    for name in ("README.md", "CITATION.cff", "book/index.md"):
        assert address["repository"] in (ROOT / name).read_text(encoding="utf-8"), name
    slug = address["repository"].removeprefix("https://github.com/")
    allowed = {path for pattern in chapters.STAMPED for path in ROOT.glob(pattern)}
    allowed |= {md.with_suffix(".ipynb") for md in NOTEBOOKS} | {ROOT / "_config.yml"}
    sources = [*ROOT.glob("*.*"), *BOOK.glob("*.*"), *ROOT.glob("dcganlib/*.py"), *ROOT.glob("tools/*.py")]
    strays = [
        p.name
        for p in sources
        if p.is_file() and p not in allowed and slug in p.read_text(encoding="utf-8", errors="ignore")
    ]
    assert strays == []


def test_a_new_address_reaches_every_place(tmp_path, monkeypatch):
    """`make stamp` after a change in _config.yml, on a copy of what it touches."""
    old = chapters.configured()["repository"].removeprefix("https://github.com/")
    for pattern in (*chapters.STAMPED, "_config.yml"):
        for path in ROOT.glob(pattern):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(chapters, "ROOT", tmp_path)
    monkeypatch.setattr(chapters, "BOOK", tmp_path / "book")
    config = tmp_path / "_config.yml"
    config.write_text(
        config.read_text(encoding="utf-8")
        .replace(old, "someone/fork")
        .replace("branch: main", "branch: trunk"),
        encoding="utf-8",
    )
    chapters.stamp()
    text = "".join(path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.*") if path.is_file())
    owner, name = old.split("/")
    assert old not in text
    assert f"{owner}.github.io/{name}" not in text
    assert "colab.research.google.com/github/someone/fork/blob/trunk/book/" in text
    assert "https://someone.github.io/fork" in text
    for md in chapters.chapters():
        assert chapters.with_stamp(md, md.read_text(encoding="utf-8")) == md.read_text(encoding="utf-8")


@every_notebook
def test_cells_that_show_something_have_their_output(md):
    for cell in code_of(md):
        *_, last = parsed(cell).body
        calls = {name_of(node.value) for node in parsed(cell).body if isinstance(node, ast.Expr)}
        value = isinstance(last, ast.Expr) and not isinstance(last.value, (ast.Call, ast.Constant))
        if calls & SHOWS or value:
            assert cell.outputs, cell.source
        if calls & {"show"}:
            assert pictures(cell), cell.source


@every_notebook
def test_every_figure_has_alt_text_a_caption_and_a_name(md):
    for cell in filter(pictures, code_of(md)):
        options = cell.metadata.get("mystnb", {})
        for picture in pictures(cell):
            described = options.get("image", {}).get("alt", "")
            if picture:
                described = "".join(re.findall(r' alt="([^"]*)"', picture))
            assert len(described) >= 20, f"no alt text: {cell.source}"
        assert len(options.get("figure", {}).get("caption", "")) >= 20, f"no caption: {cell.source}"
        assert options["figure"].get("name", "").startswith("fig-"), f"no name: {cell.source}"


@every_chapter
def test_a_chapter_that_draws_charts_draws_them_in_the_books_style(md):
    called = [
        name_of(node)
        for cell in chapters.code_cells(chapters.from_source(md))
        for node in ast.walk(parsed(cell))
    ]
    assert "use_style" in called or not {"subplots", "show_grid", "plot_history"} & set(called)


@every_text
def test_every_picture_in_the_text_has_alt_text(md):
    text = md.read_text(encoding="utf-8")
    assert not re.search(r"!\[\s*\]", text)
    for figure in re.findall(r"^:::\{(?:figure|image)\}.*?^:::$", text, re.M | re.S):
        assert re.search(r"^:alt: .{20}", figure, re.M), figure


@every_chapter
def test_a_chapter_opens_with_its_question_and_closes_with_its_sources(md):
    text = md.read_text(encoding="utf-8")
    assert len(re.findall(r"^# ", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)) == 1
    opening = re.search(r"^# .*?(?=^## )", text, re.M | re.S)[0]
    assert re.search(r"^\*\*Question\.\*\* [^*]*\?$", opening, re.M), "no question"
    for start in ("You need", "You will be able to"):
        assert re.search(rf"^\*\*{start}\.\*\* \S", opening, re.M), f"no '{start}'"
    assert re.search(r"^\*\*Run time\.\*\* Under .* measured on \d+ CPU cores?\.$", opening, re.M)
    assert re.findall(r"^## (.*)$", text, re.M)[-3:] == ["Summary", "Exercises", "Sources"]
    assert "{cite:" in text.split("\n## Sources\n")[1]


@every_chapter
def test_every_exercise_has_a_solution_to_fold_out(md):
    text = md.read_text(encoding="utf-8")
    exercises = re.findall(r"^:::+\{exercise(?:-start)?\}.*\n(?::.*\n)*?:label: (\S+)$", text, re.M)
    solutions = re.findall(r"^:::+\{solution(?:-start)?\} (\S+)\n(?::.*\n)*?:class: dropdown$", text, re.M)
    assert len(exercises) >= 6
    titles = re.findall(r"^:::+\{exercise(?:-start)?\} (.*)$", text, re.M)
    assert [title for title in titles if not re.match(EXERCISE, title)] == []
    assert exercises == solutions


def asserts(cell) -> bool:
    """Whether a code cell checks something that it has computed: a condition with no name in it is none."""

    def has_name(node):
        return any(isinstance(part, ast.Name) for part in ast.walk(node))

    nodes = list(ast.walk(parsed(cell)))
    return any(isinstance(n, ast.Assert) and has_name(n.test) for n in nodes) or any(
        name_of(n).startswith("assert_") for n in nodes
    )


@every_notebook
def test_an_output_that_is_not_compared_is_checked_further_down_its_section(md):
    sections = [[]]
    for cell in chapters.stored(md).cells:
        if cell.cell_type == "markdown":
            sections += [[] for _ in re.findall(r"^## |^:::+\{solution-start", cell.source, re.M)]
        elif "colab" not in chapters.tags(cell):
            sections[-1].append(cell)
    assert sum(map(len, sections)) == len(code_of(md))
    for cells in sections:
        for index, cell in enumerate(cells):
            if "nbval-ignore-output" in chapters.tags(cell):
                assert any(map(asserts, cells[index + 1 :])), f"nothing checks: {cell.source}"


@every_notebook
def test_cells_are_short(md):
    for cell in code_of(md):
        assert len([line for line in cell.source.splitlines() if line.strip()]) <= 20, cell.source


@every_chapter
def test_a_chapter_can_be_read_in_one_sitting(md):
    text, _, _ = md.read_text(encoding="utf-8").partition("\n## Exercises\n")
    assert len(text.split()) <= 6000
    cells = re.findall(r"^```\{code-cell\}.*?^```$", text, re.M | re.S)
    assert len([cell for cell in cells if not any(re.search(rf"\b{tag}\b", cell) for tag in FOLDED)]) <= 40


@every_text
def test_the_prose_talks_down_to_nobody(md):
    assert re.findall(BANNED, prose_of(md), re.I) == []


def test_the_contents_list_every_chapter_in_order_and_no_empty_one():
    assert [name for name in LISTED if re.match(r"book/(\d\d|[A-Z]\d*)_", name)] == [
        f"book/{md.stem}" for md in NOTEBOOKS
    ]
    for name in [TOC["root"], *LISTED]:
        source = ROOT / f"{name}.md"
        assert source.exists(), name
        if source in CHAPTERS:  # a short appendix is a good one
            assert len(prose_of(source)) > 2000, f"{name} is empty"


def test_the_reference_covers_every_module():
    text = (BOOK / "api.md").read_text(encoding="utf-8")
    documented = re.findall(r"automodule:: dcganlib\.([\w.]+)", text)
    paths = [path.relative_to(ROOT / "dcganlib") for path in (ROOT / "dcganlib").rglob("[a-z]*.py")]
    modules = {".".join(path.with_suffix("").parts) for path in paths} - {
        "cli"
    }  # the command documents itself
    assert sorted(documented) == sorted(modules | {"runs", "viz.web"})  # packages with contents of their own


def test_run_times_are_rounded_up_so_that_they_stay():
    assert chapters.rounded(3) == "10 seconds"
    assert chapters.rounded(41) == "50 seconds"
    assert chapters.rounded(60) == "60 seconds"
    assert chapters.rounded(61) == "1.5 minutes"
    assert chapters.rounded(170) == "3 minutes"


def test_a_run_time_names_the_kinds_of_processor_that_were_measured(monkeypatch):
    monkeypatch.setattr(chapters.os, "cpu_count", lambda: 2)
    assert chapters.run_time({"AVX2": 61, "AVX-512": 41}) == (
        "Under 50 seconds with AVX-512 and bfloat16, under 1.5 minutes with instructions limited to AVX2, "
        "measured on 2 CPU cores."
    )
    assert chapters.run_time({"AVX2": 61}) == (
        "Under 1.5 minutes with instructions limited to AVX2, measured on 2 CPU cores."
    )


def small_notebook(*sources):
    """A notebook of code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_a_run_has_its_instructions_limited_and_waits_without_spinning():
    names = [*chapters.LIMITS, "OMP_WAIT_POLICY"]
    notebook = small_notebook(f"import os\nprint(*(os.environ.get(name) for name in {names}))")
    assert chapters.run(notebook, chapters.LIMITS) < 60
    assert chapters.printed(notebook.cells[0]) == "avx2 AVX2 AVX2 PASSIVE\n"


def test_what_prints_otherwise_on_the_other_kind_of_processor_is_found():
    one, other = (small_notebook("a", "b", "c") for _ in range(2))
    for notebook, texts in ((one, ("1 at 0xf0", "2", "3")), (other, ("1 at 0x0f", "2.5", "3.5"))):
        notebook.cells[2].metadata.tags = ["nbval-ignore-output"]
        for cell, text in zip(notebook.cells, texts, strict=True):
            cell.outputs = [nbformat.v4.new_output("stream", text=f"{text}\n")]
    (difference,) = chapters.different(one, other)
    assert difference.endswith(":\n2\n---\n2.5\n")


def test_what_a_cell_measured_for_a_figure_to_play_with_is_not_what_it_prints():
    one, other = (small_notebook("play_data(...)") for _ in range(2))
    for notebook, seconds, text in ((one, 1.5, "5 layers"), (other, 1.6, "5 layers")):
        left = play_data("roofline", {"seconds": seconds})._repr_html_()
        notebook.cells[0].outputs = [
            nbformat.v4.new_output("stream", text=text),
            nbformat.v4.new_output("execute_result", {"text/html": left, "text/plain": ""}),
        ]
    assert chapters.different(one, other) == []
    other.cells[0].outputs[0].text = "6 layers"
    assert len(chapters.different(one, other)) == 1


def test_an_earlier_run_time_counts_as_long_as_the_code_is_the_same(tmp_path):
    md, notebook = tmp_path / "01_small.md", small_notebook("print(1)")
    assert chapters.earlier_times(md, notebook) == {}
    notebook.metadata.executed = {"code": chapters.code_hash(notebook), "seconds": {"AVX2": 7}}
    chapters.write(md, notebook)
    assert chapters.earlier_times(md, notebook) == {"AVX2": 7}
    assert chapters.earlier_times(md, small_notebook("print(2)")) == {}


@every_notebook
def test_the_run_time_in_the_text_is_the_measured_one(md):
    executed = chapters.stored(md).metadata.executed
    if isinstance(executed.seconds, dict):
        assert chapters.run_time(executed.seconds).split(", measured")[0] in md.read_text(encoding="utf-8")
