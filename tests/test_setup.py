"""Making .venv: what is checked first, what is said, when it is made again. Nothing is installed here."""

import ast
import errno
import http.server
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import environment
import install
import pytest

LOCK = (environment.ROOT / "requirements.lock").read_text(encoding="utf-8")
HERE = "{}.{}".format(*sys.version_info)


# The Python that make was given


@pytest.mark.parametrize("version", [(2, 7), (3, 6), (3, 9), (3, 15), (4, 0)])
def test_another_python_is_refused_with_what_is_accepted_and_how_to_name_one(version, monkeypatch):
    monkeypatch.setattr(install, "on_path", lambda: ["python3.12"])
    said = install.refusal(version, "CPython", True)
    assert f"is Python {version[0]}.{version[1]};" in said
    assert "3.10 to 3.14" in said
    assert "make PYTHON=python3.12" in said


@pytest.mark.parametrize("minor", range(10, 15))
def test_an_accepted_python_is_not_refused(minor):
    assert install.refusal((3, minor, 0), "CPython", True) == ""


def test_pypy_and_32_bits_are_refused(monkeypatch):
    monkeypatch.setattr(install, "on_path", list)
    assert "is PyPy;" in install.refusal((3, 11), "PyPy", True)
    assert "is a 32-bit Python;" in install.refusal((3, 11), "CPython", False)
    assert "None was found" in install.refusal((3, 9), "CPython", True)


def test_the_first_script_is_valid_in_old_pythons():
    """No syntax later than Python 2.7's: the nodes of each later feature are absent."""
    source = (environment.ROOT / "tools" / "install.py").read_text(encoding="utf-8")
    source.encode("ascii")
    tree = ast.parse(source)
    later = (
        ast.JoinedStr,
        ast.AnnAssign,
        ast.NamedExpr,
        ast.AsyncFunctionDef,
        ast.Nonlocal,
        ast.Match,
        ast.Starred,
    )
    for node in ast.walk(tree):
        assert not isinstance(node, later), ast.dump(node)
        if isinstance(node, ast.FunctionDef):
            assert node.returns is None
            assert not node.args.kwonlyargs
            assert all(argument.annotation is None for argument in node.args.args)
    # The rest may use new syntax: it is imported after the check alone.
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in top for alias in node.names} == {"os", "platform", "subprocess", "sys"}


@pytest.mark.posix("a script is no program")
def test_only_pythons_that_start_are_offered(tmp_path, monkeypatch):
    for name, code in [("python3.12", 0), ("python3.11", 127)]:
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "python3.10").write_text("not a program", encoding="utf-8")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.on_path() == ["python3.12"]


# Checks before anything is downloaded


def test_a_python_without_venv_or_ensurepip_is_told_the_package():
    said = environment.missing_modules("3.11", lambda name: name != "ensurepip")
    assert "no module ensurepip" in said
    assert "apt install python3.11-venv" in said
    assert environment.missing_modules("3.11", lambda name: True) == ""


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        (("Linux", "x86_64", (2, 28)), ""),
        (("Linux", "aarch64", (2, 39)), ""),
        (("Darwin", "arm64", (14, 0)), ""),
        (("Linux", "x86_64", (2, 27)), "glibc 2.28 or newer; this machine has glibc 2.27"),
        (("Linux", "x86_64", (1, 2), "musl"), "has musl 1.2"),
        (("Linux", "riscv64", (2, 39)), "no wheels"),
        (("Darwin", "x86_64", (14, 0)), "Intel"),
        (("Darwin", "arm64", (13, 6)), "macOS 14"),
        (("Windows", "AMD64", ()), ""),
        (("Windows", "ARM64", ()), "no wheels"),
        (("FreeBSD", "amd64", ()), "no wheels for FreeBSD"),
    ],
)
def test_a_machine_without_wheels_is_told(machine, said):
    found = environment.unsupported(*machine)
    assert said in found
    assert bool(said) == bool(found)


def test_this_machine_is_supported():
    assert environment.this_machine() == ""


def test_a_disk_that_is_too_full_is_told_with_both_sizes(monkeypatch, tmp_path):
    usage = shutil._ntuple_diskusage(10e9, 4.3e9, 5.7e9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda folder: usage)
    said = environment.too_full(tmp_path, 6)
    assert "5.7 GB free" in said
    assert "up to 6 GB" in said
    assert "FREE_GB=0" in said
    assert environment.too_full(tmp_path, 5.5) == ""


@pytest.fixture
def port():
    """A port of this machine at which somebody listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        yield server.server_port


@pytest.fixture
def closed_port():
    """A port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield unused.getsockname()[1]


def test_no_network_is_told_with_the_address_that_was_tried(port, closed_port):
    assert environment.unreachable(f"http://127.0.0.1:{port}/simple") == ""
    said = environment.unreachable(f"https://127.0.0.1:{closed_port}/simple")
    assert f"127.0.0.1, port {closed_port}" in said
    assert "UV_DEFAULT_INDEX" in said
    assert environment.unreachable("file:///srv/simple") == ""


def test_behind_a_proxy_the_proxy_is_what_has_to_answer(port, closed_port):
    index = f"https://127.0.0.1:{closed_port}/simple"
    assert environment.unreachable(index, f"http://127.0.0.1:{port}") == ""
    assert environment.unreachable(index, f"127.0.0.1:{port}") == ""
    assert "the proxy" in environment.unreachable(
        f"http://127.0.0.1:{port}", f"http://127.0.0.1:{closed_port}"
    )


def test_a_network_that_never_answers_is_not_waited_for(monkeypatch):
    stop = threading.Event()

    def never(*_, timeout):
        stop.wait(30)
        raise OSError("timed out")

    monkeypatch.setattr(environment.socket, "create_connection", never)
    begin = time.monotonic()
    said = environment.unreachable("https://example.org/simple", seconds=0.05)
    stop.set()
    assert "no answer in 0.05 seconds" in said
    assert time.monotonic() - begin < 20  # the 30 seconds of the connection were not waited for


# The settings of the person


def test_settings_that_would_change_what_is_installed_are_dropped():
    others = {
        "PIP_CONSTRAINT": "/x", "PIP_USER": "1", "PIP_TARGET": "/x", "PIP_REQUIRE_VIRTUALENV": "1",
        "PIP_NO_INDEX": "1", "UV_CONSTRAINT": "/x", "UV_EXCLUDE_NEWER": "2020-01-01", "UV_OFFLINE": "1",
        "UV_SYSTEM_PYTHON": "1", "UV_RESOLUTION": "lowest", "UV_PROJECT_ENVIRONMENT": "/x",
        "UV_NO_BINARY": "1", "UV_NO_CACHE": "1", "PYTHONPATH": "/x", "PYTHONHOME": "/x",
        "VIRTUAL_ENV": "/x", "CONDA_PREFIX": "/x",
    }  # fmt: skip
    found = environment.settings(others | {"PATH": "/bin", "HTTPS_PROXY": "http://p:1"}, {"constraint": "/x"})
    assert not set(others) & set(found)
    assert found["PATH"] == "/bin"
    assert found["HTTPS_PROXY"] == "http://p:1"
    assert (found["PIP_CONFIG_FILE"], found["UV_NO_CONFIG"]) == (os.devnull, "1")
    assert found["UV_DEFAULT_INDEX"] == found["PIP_INDEX_URL"] == "https://pypi.org/simple"


def test_a_mirror_a_certificate_and_a_proxy_of_pip_serve_uv_as_well():
    pip = {
        "index-url": "https://mirror/simple",
        "cert": "/ca.pem",
        "proxy": "http://p:1",
        "trusted-host": "mirror",
    }
    found = environment.settings({}, pip)
    assert found["UV_DEFAULT_INDEX"] == found["PIP_INDEX_URL"] == "https://mirror/simple"
    assert (found["PIP_CERT"], found["SSL_CERT_FILE"]) == ("/ca.pem", "/ca.pem")
    assert (found["PIP_PROXY"], found["ALL_PROXY"]) == ("http://p:1", "http://p:1")
    assert found["UV_INSECURE_HOST"] == "mirror"
    own = environment.settings({"UV_DEFAULT_INDEX": "https://own/simple", "SSL_CERT_FILE": "/own.pem"}, pip)
    assert own["PIP_INDEX_URL"] == "https://own/simple"
    assert own["SSL_CERT_FILE"] == "/own.pem"


def test_pips_list_of_settings_is_read_in_pips_order():
    listed = "global.index-url='https://a/simple'\ninstall.index-url='https://b/simple'\n:env:.cert='/ca'\nfreeze.x='1'\n"
    assert environment.pip_settings(listed) == {"index-url": "https://b/simple", "cert": "/ca"}
    assert environment.pip_settings(listed + ":env:.index-url='https://c'\n")["index-url"] == "https://c"
    assert environment.pip_settings("") == {}


def test_the_proxy_is_that_of_the_indexs_scheme_unless_it_is_passed_by(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    assert environment.proxy_of("https://pypi.org/simple", {}) == "http://p:1"
    monkeypatch.setenv("NO_PROXY", "pypi.org")
    assert environment.proxy_of("https://pypi.org/simple", {}) is None


def test_uv_is_taken_from_the_lock_with_its_hashes():
    entry = environment.locked_entry(LOCK, "uv")
    assert entry.startswith("uv==")
    assert entry.count("--hash=sha256:") > 10
    assert "wcwidth" not in entry
    for text in ("", "uv==1 \\\n    --hash=sha256:0\nuv==2 \\\n    --hash=sha256:1\n"):
        with pytest.raises(environment.SetupError, match="pins uv . times"):
            environment.locked_entry(text, "uv")


# When .venv is made again


@pytest.fixture
def made(tmp_path):
    """A folder as a finished set-up leaves it, and its record."""
    venv = tmp_path / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n", encoding="utf-8")
    record = {"python": "3.12", "folder": str(venv.resolve()), "lock": "1", "package": "2"}
    (venv / ".installed").write_text(json.dumps(record), encoding="utf-8")
    return venv, record


@pytest.mark.parametrize(
    ("change", "version", "wanted", "said"),
    [
        ({}, "3.12", None, ""),
        ({}, "3.12", "3.12", ""),
        ({}, "3.12", "3.11", "it has Python 3.12, and 3.11 was asked for"),
        ({}, "3.13", None, "its Python was 3.12 and is 3.13 now"),
        ({}, "", None, "its Python does not start any more"),
        ({"folder": "/elsewhere/.venv"}, "3.12", None, "it was moved here from /elsewhere/.venv"),
        (None, "3.12", None, "its set-up was not finished"),
    ],
)
def test_an_environment_is_made_again_for_a_reason(made, change, version, wanted, said):
    venv, record = made
    record = {} if change is None else record | change
    assert environment.reason_to_remake(venv, record, version, wanted) == said


@pytest.mark.parametrize("text", ["", "begun", '{"python": "3.1', "[]", "\x00"])
def test_a_note_that_was_cut_off_counts_as_not_finished(text):
    assert environment.read_record(text) == {}


@pytest.mark.posix("links need a privilege")
def test_the_version_of_an_environment_is_what_its_python_says(made, tmp_path):
    venv, _ = made
    assert environment.version_of(venv) == ""
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    assert environment.version_of(venv) == ""
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to(sys.executable)
    assert environment.version_of(venv) == HERE


@pytest.mark.posix("links need a privilege")
def test_clearing_leaves_the_note_and_what_links_point_to(made, tmp_path):
    venv, _ = made
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (venv / "lib64").symlink_to(outside)
    environment.clear(venv, ".installed")
    assert [path.name for path in venv.iterdir()] == [".installed"]
    assert (outside / "file").exists()


def test_a_folder_that_is_no_environment_is_not_emptied(steps, tmp_path, capsys):
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "thesis.txt").touch()
    assert steps() == (1, [])
    assert "no virtual environment" in capsys.readouterr().err
    assert (tmp_path / ".venv" / "thesis.txt").exists()
    (tmp_path / ".venv" / ".installed").write_text("begun", encoding="utf-8")  # emptied half-way
    assert steps()[0] == 0
    assert not (tmp_path / ".venv" / "thesis.txt").exists()


# The steps, with the programs replaced by a record of what was asked


@pytest.fixture
def steps(tmp_path, monkeypatch):
    """A checkout without network whose programs only note their commands; call it to set up."""
    if sys.platform == "win32":
        pytest.skip("Windows: links need a privilege, and the folder of programs has another name")
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(environment.ROOT / name, tmp_path)
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "unreachable", lambda *_: "")
    monkeypatch.setattr(environment, "too_full", lambda *_: "")
    monkeypatch.setattr(environment, "fetch_uv", lambda *_: True)
    monkeypatch.setattr(environment, "prepare_cache", lambda *_: None)
    monkeypatch.setattr(environment.subprocess, "run", real_but_pip(environment.subprocess.run))
    asked = []

    def run(command, environment=None):
        command = [str(part) for part in command]
        asked.append(command)
        if "venv" in command:
            venv = Path(command[-1])
            (venv / "bin").mkdir(exist_ok=True)
            (venv / "pyvenv.cfg").touch()
            (venv / "bin" / "python").symlink_to(sys.executable)
            (venv / "bin" / "uv").touch()

    monkeypatch.setattr(environment, "run", run)

    def set_up(*options):
        asked.clear()
        flags = ["--no-deps", "--require-hashes", "-r", "requirements.lock"]
        return environment.main([*options, "--", *flags]), list(asked)

    return set_up


def real_but_pip(run):
    """`subprocess.run` without the pip that the environment of these tests lacks."""

    def replaced(command, *arguments, **options):
        if "pip" in command:
            return subprocess.CompletedProcess(command, 0, "", "")
        return run(command, *arguments, **options)

    return replaced


def test_a_fresh_set_up_makes_installs_and_is_silent_afterwards(steps, tmp_path, capsys):
    code, asked = steps()
    assert code == 0
    assert [("venv" in c, "--exact" in c, "-e" in c) for c in asked] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert asked[1][-4:] == ["--no-deps", "--require-hashes", "-r", "requirements.lock"]
    assert asked[2][-5:] == ["--no-deps", "--no-build-isolation", "--no-index", "-e", "."]
    assert "Installing the pinned set" in capsys.readouterr().out
    assert steps("--named") == (0, [])
    assert capsys.readouterr().out == ""


def test_a_changed_lock_is_installed_in_place_and_a_changed_project_without_network(
    steps, tmp_path, monkeypatch
):
    steps()
    with open(tmp_path / "requirements.lock", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    _, asked = steps()
    assert ["--exact" in command for command in asked] == [True, False]
    monkeypatch.setattr(environment, "unreachable", lambda *_: "no network")
    with open(tmp_path / "pyproject.toml", "a", encoding="utf-8") as file:
        file.write("# changed\n")
    code, asked = steps()
    assert code == 0
    assert ["--exact" in command for command in asked] == [False]


def test_what_was_interrupted_begins_again_by_itself(steps, tmp_path, monkeypatch, capsys):
    run = environment.run

    def killed(command, settings=None):
        if "--exact" in command:
            raise KeyboardInterrupt
        run(command)

    monkeypatch.setattr(environment, "run", killed)
    assert steps()[0] == 130
    assert "begins again" in capsys.readouterr().err
    monkeypatch.setattr(environment, "run", run)
    code, asked = steps()
    assert code == 0
    assert "venv" in asked[0]
    assert "made again: its set-up was not finished" in capsys.readouterr().out
    assert steps() == (0, [])


def test_a_moved_checkout_is_made_again(steps, tmp_path, monkeypatch, capsys):
    steps()
    moved = tmp_path / "moved with a space"
    moved.mkdir()
    for name in ("pyproject.toml", "requirements.lock", ".venv"):
        (tmp_path / name).rename(moved / name)
    monkeypatch.setattr(environment, "ROOT", moved)
    _, asked = steps()
    assert asked[0][-1] == str(moved / ".venv")
    assert f"moved here from {tmp_path.resolve()}" in capsys.readouterr().out


@pytest.mark.parametrize("check", ["unreachable", "too_full", "missing_modules", "this_machine"])
def test_a_check_that_fails_ends_it_before_the_download(check, steps, monkeypatch, capsys):
    monkeypatch.setattr(environment, check, lambda *_: f"{check} says no")
    code, asked = steps()
    assert code == 1
    assert capsys.readouterr().err == f"{check} says no\n"
    assert not any("--exact" in command for command in asked)


def test_pip_installs_the_same_where_there_is_no_uv(steps, monkeypatch, capsys):
    monkeypatch.setattr(environment, "fetch_uv", lambda *_: False)
    _, asked = steps()
    assert asked[1][1:] == [
        "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes", "-r", "requirements.lock",
    ]  # fmt: skip
    assert "There is no uv for this machine" in capsys.readouterr().out


def test_a_failed_step_is_not_taken_for_done(steps, monkeypatch, capsys):
    def failing(command, settings=None):
        raise environment.SetupError("this failed")

    good = environment.run
    monkeypatch.setattr(environment, "run", failing)
    assert steps()[0] == 1
    monkeypatch.setattr(environment, "run", good)
    assert steps()[1]


@pytest.mark.posix("a lock belongs to a process")
def test_two_set_ups_at_once_wait_for_each_other_even_for_what_a_killed_one_left_running(tmp_path, capsys):
    """A program that is started holds the lock after its parent is gone."""
    path = tmp_path / "note"
    with environment.alone(path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    done = threading.Event()

    def second():
        with environment.alone(path):
            done.set()

    thread = threading.Thread(target=second)
    thread.start()
    assert not done.wait(0.2)
    child.communicate(b"\n")
    assert done.wait(20)
    thread.join()
    assert "waiting for it" in capsys.readouterr().out


def test_on_windows_a_byte_that_nobody_reads_is_locked(tmp_path, monkeypatch):
    asked, answers = [], [PermissionError(errno.EACCES, "held")] * 2

    def locking(descriptor, mode, length):
        asked.append((os.lseek(descriptor, 0, os.SEEK_CUR), mode, length))
        if answers:
            raise answers.pop()

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(environment.time, "sleep", lambda seconds: None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(LK_NBLCK=2, locking=locking))
    with open(tmp_path / "note", "w+b") as file:
        with pytest.raises(PermissionError):
            environment.hold(file.fileno(), wait=False)
        environment.hold(file.fileno(), wait=True)
    assert asked == [(2**20, 2, 1)] * 3


def test_on_windows_programs_lie_in_another_folder(monkeypatch):
    assert environment.program_of(Path("v"), "uv") == Path("v", "bin", "uv")
    monkeypatch.setattr(sys, "platform", "win32")
    assert environment.program_of(Path("v"), "uv") == Path("v", "Scripts", "uv.exe")


def test_a_cache_that_cannot_be_written_is_replaced_by_one_of_our_own(tmp_path, monkeypatch):
    def run(command, **_):
        return subprocess.CompletedProcess(command, 0, f"{blocker}/cache\n", "")

    blocker = tmp_path / "file"
    blocker.touch()  # a folder inside a file cannot be made, not even by root
    monkeypatch.setattr(environment.subprocess, "run", run)
    values = {}
    environment.prepare_cache(tmp_path, values, 6)
    assert values == {"UV_CACHE_DIR": str(tmp_path / ".cache")}
