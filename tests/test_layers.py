"""Rules of the package as a whole, read off its syntax trees."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dcganlib

# A module imports only from those before it.
ORDER = [
    "config",
    "runtime",
    "runtime.checks",
    "sizes",
    "losses",
    "latents",
    "augmentation",
    *("runtime.cpu_layers", "runtime.files", "runtime.memory", "runtime.interrupts"),
    *("runtime.distributed", "runtime.device", "runtime.randomness", "runtime.optimizer"),
    *("datasets.messages", "datasets.image_dataset", "datasets.registry", "datasets.image_files"),
    *("datasets.contact_sheet", "datasets.image_decoding", "datasets.decode_cache", "datasets.download"),
    *("datasets.loader", "datasets.image_folder", "datasets.mnist", "datasets.landscapes"),
    "datasets.synthetic_faces",
    *("datasets.celeba", "datasets.face_files", "datasets.face_datasets", "datasets"),
    "layers",
    "models",
    "zoo",
    *("runtime.ema", "runtime.step_metrics", "runtime.train_checks"),
    "train",
    "runtime.checkpoint",
    *("evaluation", "evaluation.classifier", "evaluation.metrics", "evaluation.modes", "evaluation.probes"),
    "evaluation.diagnosis",
    *("viz", "viz.plot", "viz.training_figure", "viz.notebook", "viz.web"),
    *("runs.history", "runs.context", "runs.config_file", "runs.model_card"),
    *("runs.folder", "runs.preflight"),
    *("runs.monitor", "runs.report", "runs.sampling", "runs.web_page", "runs.onnx_export"),
    *("runs.session", "runs.measurements", "runs.report_page", "runs"),
    "evaluation.evaluate",
    "doctor",
    "cli",
    "__main__",
]
CORE = ("sizes", "losses", "latents", "models", "train")  # what the chapters show and explain
CORE_FILE_LINES, CORE_LINES = 300, 1200
MOST_ARGUMENTS = 6
PACKAGE = Path(dcganlib.__file__).parent


def module_name(path):
    """A module's name within the package, such as "datasets.mnist"; a package's own file has its name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


TREES = {
    module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))
}

in_every_module = pytest.mark.parametrize("name", TREES)


def imported(tree):
    """Modules of the package that a syntax tree imports, at the top or inside a function."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.split(".")[0] == "dcganlib"):
            within = (node.module or "").removeprefix("dcganlib").strip(".")
            for alias in node.names:  # a module, or something that a module has
                name = f"{within}.{alias.name}".strip(".")
                found.add(name if name in TREES else within)
        if isinstance(node, ast.Import):
            names = [alias.name.split(".", 1) for alias in node.names]
            found |= {name[1] for name in names if name[0] == "dcganlib" and len(name) > 1}
    return found - {""}


def packages(nodes):
    """Top-level packages that the import statements among some nodes name."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def definitions(tree):
    """Public functions, classes and methods, not those inside functions: (name, node)."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue  # one of the signatures of the definition that follows
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef) and not inner.name.startswith("_"):
                        yield f"{node.name}.{inner.name}", inner


def functions(tree):
    return [(name, node) for name, node in definitions(tree) if isinstance(node, ast.FunctionDef)]


def parameters(function):
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named += [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]
    return [argument for argument in named if argument.arg not in ("self", "cls")]


def test_the_list_names_every_module():
    assert set(TREES) == {"__init__", *ORDER}


@pytest.mark.parametrize("name", [name for name in ORDER if name in TREES])
def test_a_module_imports_only_from_those_before_it(name):
    later = imported(TREES[name]) - set(ORDER[: ORDER.index(name)])
    assert not later, f"{name} imports {later}"


def test_the_package_itself_imports_nothing():
    assert not [
        node for node in ast.walk(TREES["__init__"]) if isinstance(node, (ast.Import, ast.ImportFrom))
    ]


def test_the_order_is_not_idle():
    """The rule above would pass on modules that it cannot read."""
    assert {"config", "datasets", "latents", "losses", "models", "runtime.device"} <= imported(TREES["train"])
    assert "viz.plot" in imported(TREES["viz.notebook"])


def test_the_core_can_be_read_in_one_sitting():
    lines = {name: len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in CORE}
    assert {name: count for name, count in lines.items() if count >= CORE_FILE_LINES} == {}
    assert sum(lines.values()) < CORE_LINES


def test_the_settings_and_the_top_of_the_command_import_no_torch():
    """Worker processes and ``--help`` start without it."""
    everywhere, top = ast.walk(TREES["config"]), TREES["cli"].body
    assert "torch" not in packages(everywhere) | packages(top)


def test_the_rule_on_torch_sees_each_way_to_import_it():
    for line in (
        "import torch",
        "import os, torch.nn as nn",
        "from torch import Tensor",
        "from torch.nn import Module",
    ):
        assert "torch" in packages(ast.parse(line).body), line
    assert "torch" not in packages(ast.parse("from dcganlib.torch import x").body)


def output_of(code, folder):
    """What a new Python process prints when it runs some code, which must not fail."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_and_asking_for_help_imports_no_torch(tmp_path):
    code = (
        "import sys, dcganlib\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'PIL'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from dcganlib.__main__ import main\n"
        "for words in (['--help'], ['train', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as stopped: assert stopped.code == 0\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    assert "mnist-mini" in output_of(code, tmp_path)


def test_no_module_imports_what_only_some_functions_need_and_stored_runs_do_without(tmp_path):
    """Torchvision, Matplotlib and torch's compiler take seconds to import."""
    code = (
        "import sys, importlib\n"
        "heavy = {'torchvision', 'matplotlib.pyplot', 'torchmetrics', 'sklearn', 'sympy', 'torch._dynamo'}\n"
        f"for name in {ORDER}: importlib.import_module(f'dcganlib.{{name}}')\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from dcganlib import latents, models, runs\n"
        "models.generate(runs.read('mnist').generator, latents.sample_z(2))\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    output_of(code, tmp_path)


@pytest.mark.pinned  # torch 2.6 imports it for a network on meta
def test_the_shapes_of_a_network_are_known_without_torchs_compiler(tmp_path):
    code = (
        "import sys\n"
        "from dcganlib import zoo\n"
        "for name in zoo.ARCHITECTURES: zoo.build(name, device='meta')\n"
        "assert not {'sympy', 'torch._dynamo'} & set(sys.modules)\n"
    )
    output_of(code, tmp_path)


@in_every_module
def test_only_the_command_line_prints(name):
    if name != "cli":
        assert not [ast.unparse(call) for function, call in calls(TREES[name]) if function == "print"]


@in_every_module
def test_no_pickle_is_trusted(name):
    for function, call in calls(TREES[name]):
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("weights_only") != "False"
        if function == "torch.load":
            assert options.get("weights_only") == "True"
    assert "pickle" not in {
        alias.name
        for node in ast.walk(TREES[name])
        for alias in getattr(node, "names", [])
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }


def test_the_rule_on_pickles_sees_the_one_place_that_loads():
    assert sum(function == "torch.load" for tree in TREES.values() for function, _ in calls(tree)) == 1


@in_every_module
def test_no_error_is_swallowed(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"
            assert not all(isinstance(line, ast.Pass) for line in node.body), f"except: pass at {node.lineno}"


def without_encoding(tree):
    """Lines on which a file is read or written as text in whatever encoding the system prefers."""
    found = []
    for function, call in calls(tree):
        on, _, called = function.rpartition(".")
        options = {keyword.arg for keyword in call.keywords}
        if called == "read_text":
            unsaid = not call.args
        elif called == "write_text":
            unsaid = bool(on) and on != "files" and len(call.args) < 2  # `files.write_text` writes UTF-8
        elif function in ("open", "io.open", "os.fdopen") or (called == "open" and on.endswith(")")):
            modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
            unsaid = not any(
                "b" in str(mode.value) for mode in literals(modes[0 if on.endswith(")") else 1 :])
            )
        else:
            continue
        if unsaid and "encoding" not in options:
            found.append(call.lineno)
    return found


def literals(nodes):
    return [node for root in nodes for node in ast.walk(root) if isinstance(node, ast.Constant)]


SOURCES = [
    path
    for folder in ("dcganlib", "tools", "benchmarks", "tests")
    for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
]


in_every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")


def too_many_arguments(tree):
    """Functions, public or not, with more arguments than anyone can keep in mind."""
    return [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and len({id(argument) for argument in parameters(node)} - {id(node.args.vararg), id(node.args.kwarg)})
        > MOST_ARGUMENTS
    ]


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.parent.name != "tests"],
    ids=lambda path: str(path.relative_to(PACKAGE.parent)),
)
def test_no_function_takes_more_than_six_arguments(path):
    assert too_many_arguments(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_rule_on_arguments_counts_each_kind_and_not_self():
    six, seven = "a, b, /, c, *d, e, f, g, **h", "a, b, /, c, *d, e, f, g, i, **h"
    code = f"def p({six}): pass\ndef q({seven}): pass\n"
    code += f"class C:\n def r(self, {six}): pass\n def s(self, {seven}): pass\n"
    assert too_many_arguments(ast.parse(code)) == ["q", "s"]


@in_every_source
def test_no_text_is_read_or_written_in_the_encoding_of_the_system(path):
    """Windows has another than UTF-8."""
    assert without_encoding(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_rule_on_encodings_sees_each_way_to_read_and_write_text():
    unsaid = [
        "open(path)",
        "open(path, 'w')",
        "open(path, mode='a', newline='')",
        "os.fdopen(1, 'w')",
        "Path(name).open()",
        "path.read_text()",
        "Path(name).read_text(errors='replace')",
        "path.write_text(text)",
    ]
    said = [
        "open(path, encoding='utf-8')",
        "open(path, 'rb')",
        "open(path, 'r+b' if there else 'wb')",
        "Path(name).open('rb')",
        "path.read_text('utf-8')",
        "path.write_text(text, encoding='utf-8')",
        "files.write_text(path, text)",
        "write_text(path, text)",
        "Image.open(path)",
        "os.open(path, os.O_RDWR)",
    ]
    assert [line for line in unsaid + said if without_encoding(ast.parse(line))] == unsaid


@in_every_module
def test_input_is_never_checked_by_assert(name):
    assert not [node.lineno for node in ast.walk(TREES[name]) if isinstance(node, ast.Assert)]


@in_every_module
def test_whatever_is_public_has_a_docstring(name):
    assert ast.get_docstring(TREES[name]), name
    missing = [label for label, node in definitions(TREES[name]) if not ast.get_docstring(node)]
    assert not missing


RAISES_UNSAID = {"check_overwrite", "to_float", "to_uint8", "Generator.forward", "Discriminator.check_images"}


@in_every_module
def test_a_function_that_raises_says_so(name):
    silent = [
        label
        for label, node in functions(TREES[name])
        if any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        and "Raises:" not in ast.get_docstring(node)
    ]
    assert not set(silent) - RAISES_UNSAID


@in_every_module
def test_a_docstring_lists_the_arguments_that_there_are(name):
    for label, node in functions(TREES[name]):
        section = re.search(r"^Args:\n((?: .*\n|\n)*)", ast.get_docstring(node) + "\n", re.MULTILINE)
        if section:
            listed = re.findall(r"^    ([\w, ]+):", section[1], re.MULTILINE)
            names = [word.strip() for words in listed for word in words.split(",")]
            assert names == [parameter.arg for parameter in parameters(node)], label


@in_every_module
def test_public_functions_are_typed_throughout(name):
    for label, node in functions(TREES[name]):
        assert node.returns is not None, label
        assert all(parameter.annotation is not None for parameter in parameters(node)), label
