"""A notebook as Colab runs it: alone in an empty folder; its first cell fetches the package.

Usually with the packages of the Python that runs the tests, and no network. `make colab` names another one in
COLAB_PYTHON, whose packages have Colab's versions; the first cell fetches what they lack from the index.
"""

import os
import shutil
import subprocess
import sys

import chapters
import nbformat
import pytest

from dcganlib import runs

PREINSTALLED = ("torch", "torchvision", "numpy", "ipywidgets", "matplotlib", "pillow", "mlxtend")
OUTER = os.environ.get("COLAB_PYTHON", sys.executable)
FETCHED = {
    "torchmetrics",
    "lightning_utilities",
    "dicebear_core",
    "dicebear_schema",
    "dicebear_styles",
    "resvg_py",
}
RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, kernel_name="python3", timeout=300, extra_arguments=["--log-level=ERROR"]).execute()
nbformat.write(notebook, "executed.ipynb")
"""


def cheapest() -> list[str]:
    """The stem of the chapter that takes the least time, in a list; empty while there is none."""
    ready = [md for md in chapters.chapters() if md.with_suffix(".ipynb").exists()]
    seconds = {md.stem: max(chapters.stored(md).metadata.executed.seconds.values()) for md in ready}
    return sorted(seconds, key=seconds.get)[:1]


def git(*arguments: str, cwd) -> None:
    """Run git, with an author of its own."""
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *author, *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def public_repository(tmp_path):
    """A git repository of the package as it is now."""
    repository = tmp_path / "public"
    repository.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(chapters.ROOT / name, repository)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(chapters.ROOT / "dcganlib", repository / "dcganlib", ignore=ignored)
    git("init", "--quiet", cwd=repository)
    git("add", "--all", cwd=repository)
    git("commit", "--quiet", "--message", "now", cwd=repository)
    return repository


@pytest.fixture
def colab(tmp_path, public_repository):
    """A Python with all packages of OUTER but dcganlib, and `google.colab`; its path and environment."""
    subprocess.run([OUTER, "-m", "venv", "--without-pip", tmp_path / "colab"], check=True)
    python = tmp_path / "colab" / "bin" / "python"
    query = ["-c", "import site; print(site.getsitepackages()[0])"]
    packages, outside = (
        subprocess.run([one, *query], check=True, capture_output=True, text=True).stdout.strip()
        for one in (python, OUTER)
    )
    # A path in a .pth file makes packages importable, but reads no .pth of theirs: no editable install.
    with open(os.path.join(packages, "outer.pth"), "w", encoding="utf-8") as outer:
        outer.write(outside + "\n")
    os.makedirs(os.path.join(packages, "google", "colab"))
    open(os.path.join(packages, "google", "colab", "__init__.py"), "w", encoding="utf-8").close()
    address = chapters.configured()["repository"]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))
    }
    environment |= {
        # The package is built with the setuptools that is here ("0": no isolation),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        # and git takes the local repository for the public one.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{public_repository.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
    }
    if sys.executable == OUTER:
        environment["PIP_NO_INDEX"] = "1"  # no network
    return python, environment


@pytest.mark.skipif(sys.platform == "win32", reason="Colab is Linux")
@pytest.mark.parametrize("name", cheapest())
def test_a_notebook_runs_alone_as_on_colab(name, colab, tmp_path):
    python, environment = colab
    alone = tmp_path / "content"
    alone.mkdir()
    shutil.copy(chapters.BOOK / f"{name}.ipynb", alone)

    def ask(code: str, by=python) -> str:
        asked = [by, "-c", code]
        return subprocess.run(
            asked, check=True, capture_output=True, text=True, cwd=alone, env=environment
        ).stdout.strip()

    missing = "from importlib.util import find_spec; print(find_spec('dcganlib') is None)"
    versions = f"from importlib.metadata import version; print([version(name) for name in {PREINSTALLED}])"
    assert ask(missing) == "True"
    before = ask(versions, by=OUTER)
    assert ask(versions) == before

    run = [python, "-c", RUN, f"{name}.ipynb"]
    done = subprocess.run(run, cwd=alone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]

    cells = chapters.code_cells(nbformat.read(alone / "executed.ipynb", as_version=4))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert ask(versions) == before
    installed = ask("import dcganlib; print(dcganlib.__file__)")
    assert installed.startswith(str(tmp_path / "colab"))
    assert ask("from dcganlib import runs; print(runs.pretrained())") == str(runs.pretrained())
    added = {path.name for path in (tmp_path / "colab").glob("lib/python*/site-packages/*.dist-info")}
    fetched = {name.split("-")[0] for name in added} - {"dcganlib"}
    assert fetched == (set() if sys.executable == OUTER else FETCHED)
