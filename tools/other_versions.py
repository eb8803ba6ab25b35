"""Test with other versions than the pinned ones: ``python tools/other_versions.py lowest|colab``.

Each uses its own environment in _build. Its packages are resolved anew each time, as for everyone who
installs the package without the lock, so this finds problems that the lock hides.
"""

import os
import subprocess
import sys
from pathlib import Path

from environment import ROOT, program_of
from uv import find_uv_bin

# torch 2.6 and numpy 1.26, the lowest that the package takes, have wheels for no newer Python than 3.12.
LOWEST_PYTHON, COLAB_PYTHON = ">=3.10,<3.13", "3.13"


def fresh(folder: Path, python: str) -> Path:
    """Make an empty environment with a Python found here or fetched by uv; its Python's path."""
    command = [find_uv_bin(), "venv", "--quiet", "--clear", "--python", python, folder]
    if subprocess.run(command).returncode:
        raise SystemExit(f"no environment with Python {python}: put one on the PATH, or let uv fetch it")
    return program_of(folder, "python")


def install(python: Path, *arguments: str | Path) -> None:
    """Install into an environment."""
    command = [find_uv_bin(), "pip", "install", "--quiet", "--python", python, *arguments]
    subprocess.run(command, check=True, cwd=ROOT)


def lowest() -> int:
    """Run all unit tests with the lowest versions of what the project names."""
    folder = ROOT / "_build" / "lowest"
    python, pins = fresh(folder, LOWEST_PYTHON), folder / "lowest.txt"
    command = [find_uv_bin(), "pip", "compile", "--quiet", "--resolution", "lowest-direct", "--all-extras"]
    subprocess.run([*command, "--python", python, "-o", pins, "pyproject.toml"], check=True, cwd=ROOT)
    install(python, "-r", pins)
    install(python, "--no-deps", "--no-build-isolation", "-e", ".")
    # Old versions warn of the newer ones of what they use themselves.
    options = ["--quiet", "-n", "auto", "-m", "not pinned", "-o", "filterwarnings=default"]
    return subprocess.run([python, "-m", "pytest", *options], cwd=ROOT).returncode


def colab() -> int:
    """Run the quickest chapter with Colab's versions, alone in an empty folder."""
    python = fresh(ROOT / "_build" / "colab", COLAB_PYTHON)
    install(python, "-r", "tools/colab.txt")
    tests = [sys.executable, "-m", "pytest", "--quiet", "tests/test_colab.py"]
    return subprocess.run(tests, cwd=ROOT, env=os.environ | {"COLAB_PYTHON": str(python)}).returncode


if __name__ == "__main__":
    if sys.argv[1:] not in (["lowest"], ["colab"]):
        raise SystemExit(f"which? lowest or colab, not {sys.argv[1:]}")
    sys.exit(lowest() if sys.argv[1] == "lowest" else colab())
