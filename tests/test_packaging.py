"""The requirements, the pinned set, the conda environment, the workflow and the commands agree."""

import ast
import itertools
import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from setuptools.config.pyprojecttoml import read_configuration

import dcganlib

ROOT = Path(__file__).resolve().parent.parent
PROJECT = read_configuration(ROOT / "pyproject.toml", expand=False)["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [Requirement(line) for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
MATRIX = WORKFLOW["jobs"]["test"]["strategy"]["matrix"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
PLATFORMS = {"ubuntu-latest": ("linux", "x86_64"), "macos-latest": ("darwin", "arm64")}


def pins(python: str, system: str) -> dict[str, str]:
    """What constraints.txt pins on one Python and one system: name to version."""
    platform, machine = PLATFORMS[system]
    minor = python.split(".")[1]
    environment = {
        "python_version": python,
        "python_full_version": f"3.{minor}.9",
        "sys_platform": platform,
        "platform_machine": machine,
        "implementation_name": "cpython",
        "os_name": "posix",
    }
    found: dict[str, str] = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (exact,) = requirement.specifier
            assert exact.operator == "==", line
            assert canonicalize_name(requirement.name) not in found, f"pinned twice: {line}"
            found[canonicalize_name(requirement.name)] = exact.version
    return found


@pytest.mark.pinned
def test_the_pinned_set_is_the_one_under_test():
    python = ".".join(map(str, sys.version_info[:2]))
    system = "macos-latest" if sys.platform == "darwin" else "ubuntu-latest"
    pinned = pins(python, system)
    installed = {r.name: metadata.version(r.name).split("+")[0] for r in DIRECT}
    assert installed == {r.name: pinned[canonicalize_name(r.name)] for r in DIRECT}


def test_the_book_is_pinned_to_the_generation_that_reads_its_configuration():
    for python in MATRIX["python"]:
        assert pins(python, "ubuntu-latest")["jupyter-book"].startswith("1.")


def make(*words: str) -> str:
    """What make prints, not as a part of the make that may run these tests."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(["make", *words], cwd=ROOT, env=own, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_windows_where_there_is_no_make_installs_what_make_installs():
    (step,) = (step for step in WORKFLOW["jobs"]["windows"]["steps"] if "install" in step.get("run", ""))
    on_windows = shlex.split(step["run"])
    with_make = shlex.split(make("--dry-run", ".venv/.installed"))
    assert on_windows[1] == with_make[1] == "tools/install.py"
    options = with_make[with_make.index("--") :]
    assert options == on_windows[on_windows.index("--") :]
    assert {"--no-deps", "--require-hashes", "requirements.lock"} <= set(options)


def test_every_make_command_that_is_written_anywhere_is_one_that_make_has():
    targets = set(re.findall(r"^  make ([a-z]+)", make("help"), re.M))
    pages = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md")]
    written = {name for page in pages for name in re.findall(r"`make ([a-z]+)", page.read_text("utf-8"))}
    commands = [step["run"] for workflow in WORKFLOWS.values() for step in steps(workflow) if "run" in step]
    commands += (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    run = {name for command in commands for name in re.findall(r"\bmake ([a-z]+)", command)}
    run |= {
        entry["target"] for entry in WORKFLOWS["weekly"]["jobs"]["versions"]["strategy"]["matrix"]["include"]
    }
    assert {"test", "links", "lowest", "colab"} <= run
    assert written | run <= targets


def test_requirements_have_a_lower_bound_and_no_upper_one():
    for requirement in DIRECT:
        assert {s.operator for s in requirement.specifier} == {">="}, requirement


def test_the_pinned_set_names_no_index_and_no_local_file():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"^\s*-|://|file:|@", text, re.M)


def test_conda_installs_the_same_set():
    (through_pip,) = (part["pip"] for part in CONDA if isinstance(part, dict))
    assert through_pip == ["-c constraints.txt", "-e .[book,faces,onnx,test]"]
    assert set(EXTRAS) == {"book", "faces", "onnx", "test"}


def test_conda_the_workflow_and_the_package_agree_on_python():
    (python,) = (part for part in CONDA if isinstance(part, str) and part.startswith("python"))
    conda, required = Requirement(python).specifier, SpecifierSet(PROJECT["requires-python"])
    oldest, newest = MATRIX["python"][0], MATRIX["python"][-1]
    beyond = f"3.{int(newest.split('.')[1]) + 1}"
    for python in (oldest, newest):
        assert python in conda
        assert python in required
    assert "3.9" not in conda
    assert "3.9" not in required
    assert beyond not in conda


def test_the_workflow_tests_the_systems_that_the_pinned_set_is_checked_for():
    assert set(MATRIX["os"]) == set(PLATFORMS)


def test_the_version_stands_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == dcganlib.__version__ == str(citation["version"])


WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_every_action_is_pinned_to_a_commit_and_to_one_commit_everywhere():
    pinned = {}
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for line in re.findall(r"uses: (.+)", path.read_text(encoding="utf-8")):
            action, commit, version = re.fullmatch(
                r"([\w/-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line
            ).groups()
            assert pinned.setdefault(action, (commit, version)) == (commit, version), path
    assert "actions/checkout" in pinned


def test_workflows_may_read_only_except_the_jobs_that_publish():
    for name, workflow in WORKFLOWS.items():
        assert workflow["permissions"] == {"contents": "read"}, name
    more = {job for w in WORKFLOWS.values() for job, body in w["jobs"].items() if "permissions" in body}
    assert more == {"publish", "release"}


def test_a_publication_is_never_cancelled_half_way():
    ci = WORKFLOWS["ci"]
    assert ci["concurrency"]["cancel-in-progress"] == "${{ github.event_name == 'pull_request' }}"
    assert ci["jobs"]["publish"]["concurrency"]["cancel-in-progress"] is False
    assert ci["jobs"]["publish"]["if"] == "github.ref == 'refs/heads/main'"


# What each part of the project may import: the package's own requirements, and those of which extras.
MAY_IMPORT = {
    "dcganlib/*.py": ["faces", "onnx"],
    "book/[0-9]*.ipynb": ["faces", "book"],
    "benchmarks/*.py": ["faces", "book", "test"],
    "tests/*.py": ["faces", "onnx", "book", "test"],
    "tools/*.py": ["faces", "book", "test"],
}
OWN = {"dcganlib"} | {
    path.stem for part in ("benchmarks", "tests", "tools") for path in (ROOT / part).glob("*.py")
}
BEHIND_A_CHECK = {"google", "torch_fidelity"}  # asked for with `find_spec`, never required


def imported(source: str) -> set[str]:
    """The top-level modules that a source imports anywhere, by statement or by name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
        elif (
            isinstance(node, ast.Call)
            and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "importorskip")
            and isinstance(node.args[0], ast.Constant)
        ):
            found.add(node.args[0].value)
    return {name.split(".")[0] for name in found}


def sources(path: Path) -> list[str]:
    """The Python of a file: itself, or the code cells of a notebook without IPython's magic lines."""
    if path.suffix == ".py":
        return [path.read_text(encoding="utf-8")]
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return [re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.M) for cell in cells]


@cache
def modules_here() -> dict[str, list[str]]:
    """Which distributions each importable module belongs to."""
    return dict(metadata.packages_distributions())


def undeclared(modules: set[str], extras: list[str]) -> set[str]:
    """The modules whose distribution is named neither by the package nor by the extras."""
    lines = [*PROJECT["dependencies"], *itertools.chain(*(EXTRAS[extra] for extra in extras))]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    here = modules_here()
    outside = modules - OWN - BEHIND_A_CHECK - set(sys.stdlib_module_names)
    return {name for name in outside if not {canonicalize_name(by) for by in here.get(name, [])} & declared}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_everything_imported_is_declared(part):
    paths = sorted(ROOT.glob(part))
    assert paths
    for path in paths:
        modules = set().union(*(imported(source) for source in sources(path)))
        missing = undeclared(modules, MAY_IMPORT[part])
        assert not missing, f"{path.relative_to(ROOT)} imports {sorted(missing)}: name it in pyproject.toml"


def test_the_package_requires_nothing_that_it_does_not_import():
    modules = set().union(
        *(imported(source) for path in ROOT.glob("dcganlib/**/*.py") for source in sources(path))
    )
    used = {canonicalize_name(by) for name in modules for by in modules_here().get(name, [])}
    for line in PROJECT["dependencies"]:
        assert canonicalize_name(Requirement(line).name) in used, line


def test_an_import_that_is_not_declared_is_found_wherever_it_stands():
    inside = "def f():\n    try:\n        import scipy.stats as s\n    except ImportError:\n        pass\n"
    for source in (
        inside,
        "from scipy import stats",
        "import importlib\nimportlib.import_module('scipy.stats')",
    ):
        assert undeclared(imported(source), ["faces", "book", "test"]) == {"scipy"}
    assert undeclared(imported("import nothing_of_this_name"), ["test"]) == {"nothing_of_this_name"}
    assert undeclared({"yaml"}, ["faces"]) == {"yaml"}  # declared, but not for the package
    assert undeclared({"yaml", "json", "dcganlib", "PIL"}, ["book"]) == set()


IMPORT = """
import pkgutil, sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
import dcganlib
names = [module.name for module in pkgutil.walk_packages(dcganlib.__path__, "dcganlib.")]
for name in names:
    __import__(name)
print("imported", *names)
"""


def test_importing_every_module_reaches_for_no_network():
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"dcganlib.train", "dcganlib.datasets.download"} <= set(done.stdout.split())
    reached = IMPORT + "import socket; socket.create_connection(('127.0.0.1', 9))"
    assert subprocess.run([sys.executable, "-c", reached], capture_output=True).returncode == 1


def test_only_the_module_that_downloads_uses_the_network():
    """So nothing is reported to anybody: every request is for a dataset that the user asked for."""
    clients = re.compile(r"^\s*(?:import|from) (requests|urllib|http|socket|pooch|aiohttp|httpx)\b", re.M)
    library = ROOT / "dcganlib"
    found = {
        path.relative_to(library).as_posix(): set(clients.findall(path.read_text(encoding="utf-8")))
        for path in library.rglob("*.py")
    }
    users = {name for name, modules in found.items() if modules}
    assert users == {"datasets/download.py", "runtime/files.py"}
    assert found["runtime/files.py"] == {"socket"}  # for the machine's name in a lock
    calls = re.findall(r"socket\.(\w+)", (library / "runtime" / "files.py").read_text(encoding="utf-8"))
    assert set(calls) == {"gethostname"}
