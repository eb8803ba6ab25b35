"""Check the Python that `make` was given, then let environment.py make .venv with it.

The code here stays valid in every Python since 2.7, so that an old one can say which Python is needed.
"""

import os
import platform
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 14)
PROGRAM = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
THERE = os.path.join(ROOT, ".venv", PROGRAM[0], PROGRAM[1])


def on_path():
    """List the accepted Pythons that the search path offers, newest first."""
    names = ["python3.%d" % minor for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    folders = os.environ.get("PATH", "").split(os.pathsep)
    return [name for name in names if any(runs(os.path.join(folder, name)) for folder in folders)]


def runs(program):
    """Whether a program is there and starts: pyenv leaves commands that only print an error."""
    if not os.access(program, os.X_OK):
        return False
    try:
        asked = subprocess.Popen([program, "-c", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        return False
    asked.communicate()
    return asked.returncode == 0


def refusal(version, implementation, wide):
    """Say why this Python will not do; empty when it will. `wide`: whether it is a 64-bit one."""
    bounds = tuple("%d.%d" % bound for bound in (OLDEST, NEWEST))
    is_ = None
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        is_ = "Python %d.%d" % tuple(version[:2])
    elif implementation != "CPython":
        is_ = implementation
    elif not wide:
        is_ = "a 32-bit Python"
    if is_ is None:
        return ""
    found = on_path()
    return "%s is %s; the 64-bit CPython %s to %s is needed. Name one: make PYTHON=%s book\n%s" % (
        sys.executable,
        is_,
        bounds[0],
        bounds[1],
        found[0] if found else "python" + bounds[1],
        "Found on this machine: %s." % ", ".join(found)
        if found
        else "None was found on this machine: see https://www.python.org/downloads/",
    )


def main():
    """Refuse or go on."""
    why = refusal(sys.version_info, platform.python_implementation(), sys.maxsize > 2**32)
    if why and "--named" not in sys.argv and sys.executable != THERE and runs(THERE):
        # Made earlier by a Python that was named then: it can stay.
        return subprocess.call([THERE] + sys.argv)
    if why:
        sys.stderr.write(why + "\n")
        return 1
    import environment

    return environment.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
