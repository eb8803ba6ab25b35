"""Make .venv and install the pinned set there; tools/install.py has checked the Python that runs this.

Nothing is resolved: what requirements.lock lists is installed, each file checked against its hash, and
nothing else. uv installs, itself fetched by its hash in the lock; where uv has no wheel for the machine,
pip installs with the same flags. Your settings of pip and uv say where files come from (index, proxy,
certificates), never what is installed.
"""

import argparse
import ast
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYPI = "https://pypi.org/simple"
GLIBC, MACOS = (
    (2, 28),
    (14, 0),
)  # what torch's wheels ask for; tools/lock.py checks that the lock asks for no more
OWN_PROJECT = ["--no-deps", "--no-build-isolation", "--no-index", "-e", "."]

LOCKED_BYTE = 2**20  # of the note, on Windows; beyond its end

# What you may set for uv: where files come from and how they travel.
UV_KEPT = {
    "UV_CACHE_DIR", "UV_CONCURRENT_DOWNLOADS", "UV_CONCURRENT_INSTALLS", "UV_DEFAULT_INDEX",
    "UV_HTTP_TIMEOUT", "UV_INDEX_URL", "UV_INSECURE_HOST", "UV_KEYRING_PROVIDER", "UV_LINK_MODE",
    "UV_NATIVE_TLS", "UV_SYSTEM_CERTS",
}  # fmt: skip
# pip's name of such a setting, and the variables that carry it to pip and to uv.
PIP_KEPT = {
    "cert": ("PIP_CERT", "SSL_CERT_FILE"),
    "client-cert": ("PIP_CLIENT_CERT", "SSL_CLIENT_CERT"),
    "proxy": ("PIP_PROXY", "ALL_PROXY"),
    "trusted-host": ("PIP_TRUSTED_HOST", "UV_INSECURE_HOST"),
}


class SetupError(Exception):
    """Why .venv cannot be made, and what to do about it."""


# Checks that need no network and take no time


def missing_modules(python: str, has: Callable[[str], object] = importlib.util.find_spec) -> str:
    """Say how to get what this Python lacks to make an environment; empty when it lacks nothing."""
    absent = [name for name in ("venv", "ensurepip") if not has(name)]
    if not absent:
        return ""
    return (
        f"{sys.executable} has no module {' and no '.join(absent)}, which makes .venv. "
        f"On Debian and Ubuntu: sudo apt install python{python}-venv"
    )


def unsupported(system: str, machine: str, release: tuple[int, ...], libc: str = "glibc") -> str:
    """Say why there are no wheels for a machine; `release`: of the C library on Linux, of macOS there."""
    version = ".".join(map(str, release))
    if system == "Linux":
        if machine not in ("x86_64", "aarch64"):
            return f"Linux on {machine} has no wheels of torch; x86_64 and aarch64 have."
        if libc != "glibc" or release < GLIBC:
            return (
                f"torch needs glibc 2.28 or newer; this machine has {libc or 'another C library'} {version}."
            )
        return ""
    if system == "Darwin":
        if machine != "arm64":
            return (
                "torch has no wheels for Intel Macs. On Apple silicon, name an arm64 Python: make PYTHON=..."
            )
        return "" if release >= MACOS else f"torch needs macOS 14 or newer; this is {version}."
    if system == "Windows":
        return "" if machine == "AMD64" else f"Windows on {machine} has no wheels of torch; AMD64 has."
    return f"torch has no wheels for {system}."


def this_machine() -> str:
    """Say why this machine has no wheels; empty when it has."""
    system = platform.system()
    libc, version = platform.libc_ver() if system == "Linux" else ("", platform.mac_ver()[0])
    release = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return f"{sys.executable} is a free-threaded build; the usual build is needed."
    return unsupported(system, platform.machine(), release, libc)


def too_full(folder: Path, needed_gb: float) -> str:
    """Say that a folder's disk has too little room; empty when it has enough."""
    free = shutil.disk_usage(folder).free / 1e9
    if free >= needed_gb:
        return ""
    return (
        f"{folder} has {free:.1f} GB free; the pinned set takes up to {needed_gb:g} GB. "
        "To try all the same (files in uv's cache are not copied): make FREE_GB=0"
    )


def unreachable(index: str, proxy: str | None = None, seconds: float = 15) -> str:
    """Say that no connection to the index, or to the proxy before it, can be opened; empty when one can."""
    address = urllib.parse.urlsplit(proxy if not proxy or "//" in proxy else f"//{proxy}") if proxy else None
    target = address or urllib.parse.urlsplit(index)
    if target.scheme == "file" or not target.hostname:
        return ""
    port = target.port or (80 if target.scheme == "http" else 443)
    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection((target.hostname, port), timeout=seconds).close()
            outcome.append("")
        except OSError as error:
            outcome.append(str(error))

    # In a thread: a search for a name may take minutes and has no time limit of its own.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(seconds)
    why = outcome[0] if outcome else f"no answer in {seconds:g} seconds"
    if not why:
        return ""
    through = "the proxy " if proxy else ""
    return (
        f"No connection to {through}{target.hostname}, port {port}: {why}. "
        "The pinned set is downloaded once; connect and try again. To use a mirror: make UV_DEFAULT_INDEX=https://..."
    )


# Settings


def pip_settings(listed: str) -> dict[str, str]:
    """Read what `pip config list` prints, such as ``global.index-url='...'``, in pip's order."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.strip().partition(".")
        if section in found and value:
            found[section][key.replace("_", "-")] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


def settings(environ: Mapping[str, str], pip: Mapping[str, str]) -> dict[str, str]:
    """The environment of pip and uv: where files come from is kept, what changes an install is dropped."""
    dropped = ("PIP_", "UV_", "PYTHON", "CONDA_", "VIRTUAL_ENV")
    kept = {name: value for name, value in environ.items() if name in UV_KEPT or not name.startswith(dropped)}
    index = kept.get("UV_DEFAULT_INDEX") or kept.get("UV_INDEX_URL") or pip.get("index-url") or PYPI
    kept |= {"UV_DEFAULT_INDEX": index, "PIP_INDEX_URL": index}
    kept.pop("UV_INDEX_URL", None)
    for key, (for_pip, for_uv) in PIP_KEPT.items():
        if key in pip:
            kept[for_pip] = pip[key]
            kept.setdefault(for_uv, pip[key])
    return kept | {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PYTHONNOUSERSITE": "1",
        "UV_NO_CONFIG": "1",
        "UV_PYTHON_DOWNLOADS": "never",
    }


def proxy_of(index: str, environment: Mapping[str, str]) -> str | None:
    """The proxy on the way to an index, if there is one."""
    address = urllib.parse.urlsplit(index)
    if urllib.request.proxy_bypass(address.hostname or ""):
        return None
    system = urllib.request.getproxies()
    return environment.get("PIP_PROXY") or system.get(address.scheme) or system.get("all")


def locked_entry(lock: str, name: str) -> str:
    """The lines of a lock that pin one distribution, its hashes included."""
    entries = [entry for entry in re.split(r"\n(?=[\w#])", lock) if entry.startswith(f"{name}==")]
    if len(entries) != 1:
        raise SetupError(f"requirements.lock pins {name} {len(entries)} times, not once; run: make lock")
    return entries[0] + "\n"


# The state of .venv


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def version_of(venv: Path) -> str:
    """The version of the environment's Python, such as 3.12; empty when it does not start."""
    command = [program_of(venv, "python"), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def read_record(text: str) -> dict[str, str]:
    """What the last set-up noted when it was done; empty when it did not get so far."""
    try:
        record = json.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def reason_to_remake(venv: Path, record: Mapping[str, str], version: str, wanted: str | None) -> str:
    """Say why the environment has to be made again; empty when it can stay.

    Args:
        venv: Its folder, which exists.
        record: What the last set-up noted.
        version: What its Python says now; empty when it does not start.
        wanted: The Python that was asked for; None when any accepted one will do.
    """
    if not record:
        return "its set-up was not finished"
    if not version:
        return "its Python does not start any more"
    if version != record.get("python"):
        return f"its Python was {record.get('python')} and is {version} now"
    if wanted and version != wanted:
        return f"it has Python {version}, and {wanted} was asked for"
    if record.get("folder") != str(venv.resolve()):
        return f"it was moved here from {record.get('folder')}"
    return ""


def is_foreign(venv: Path, stamp: Path) -> bool:
    """Whether a folder is neither an environment nor one that a set-up has begun to fill or to empty."""
    return not (venv / "pyvenv.cfg").is_file() and not stamp.stat().st_size


def clear(venv: Path, keep: str) -> None:
    """Empty an environment's folder, except one file."""
    for path in [path for path in venv.iterdir() if path.name != keep]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def program_of(venv: Path, name: str) -> Path:
    """Where an environment has a program, which may not be there yet."""
    return venv / "Scripts" / f"{name}.exe" if sys.platform == "win32" else venv / "bin" / name


def hold(descriptor: int, wait: bool) -> None:
    """Take an open file's lock.

    Raises:
        OSError: Another process holds it, and ``wait`` is not set.
    """
    if sys.platform != "win32":
        import fcntl  # here, because Windows has none

        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return
    import msvcrt

    while True:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)  # others cannot read what is locked: not the note
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            return
        except OSError:
            if not wait:
                raise
        time.sleep(0.5)


@contextmanager
def alone(path: Path) -> Iterator[int]:
    """Hold a file's lock, so that two set-ups do not mix; gives its descriptor.

    Every program that is started inherits the descriptor: when this process is killed while uv is at work,
    the lock is held until uv has ended as well. On Windows, where a lock belongs to a process, it is not.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
    os.set_inheritable(descriptor, True)
    try:
        try:
            hold(descriptor, wait=False)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            say("Another set-up is at work in .venv: waiting for it.")
            hold(descriptor, wait=True)
        yield descriptor
    finally:
        os.close(descriptor)


# Installing


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def run(command: list[str | os.PathLike[str]], environment: Mapping[str, str] | None = None) -> None:
    """Run a command; its output goes to the screen."""
    done = subprocess.run(command, env=environment, cwd=ROOT, close_fds=False)
    if done.returncode:
        raise SetupError(f"this failed, see above: {' '.join(map(str, command))}")


def fetch_uv(venv: Path, lock: Path, environment: Mapping[str, str]) -> bool:
    """Install the locked uv with pip; False when there is no wheel of it for this machine."""
    entry = venv / "uv.txt"
    entry.write_text(locked_entry(lock.read_text(encoding="utf-8"), "uv"), encoding="utf-8")
    flags = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--retries=1", "--timeout=15"]
    command = [program_of(venv, "python"), "-m", "pip", "install", *flags, "-r", entry]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, close_fds=False, stderr=subprocess.PIPE, text=True
    )
    entry.unlink()
    # pip says that there is no such distribution when it got no answer, too.
    if done.returncode and ("No matching distribution" not in done.stderr or "Retrying" in done.stderr):
        raise SetupError(f"pip could not fetch uv:\n{done.stderr.strip()}")
    return not done.returncode


def prepare_cache(venv: Path, environment: dict[str, str], needed_gb: float) -> None:
    """Choose a cache for uv that can be written, and links or copies from there."""
    asked = subprocess.run(
        [program_of(venv, "uv"), "cache", "dir"], env=environment, capture_output=True, text=True
    )
    folder = Path(asked.stdout.strip() or venv / ".cache")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:  # no home folder, or one that cannot be written
        folder = venv / ".cache"
        folder.mkdir(exist_ok=True)
        environment["UV_CACHE_DIR"] = str(folder)
    if folder.stat().st_dev != venv.stat().st_dev:
        environment.setdefault("UV_LINK_MODE", "copy")
        if why := too_full(folder, needed_gb):
            raise SetupError(why)


def install(venv: Path, options: argparse.Namespace, environment: dict[str, str], locked: bool) -> None:
    """Install the pinned set, unless `locked` says that it is there, and the package itself."""
    uv = program_of(venv, "uv")
    with_uv = options.installer == "uv" and (
        uv.exists() if locked else fetch_uv(venv, options.lock, environment)
    )
    if options.installer == "uv" and not with_uv:
        say("There is no uv for this machine: pip installs, which takes longer.")
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    if with_uv:
        prepare_cache(venv, environment, options.free_gb)
        program, exact = [uv, "pip", "install", *quiet, "--python", program_of(venv, "python")], ["--exact"]
    else:
        program, exact = [program_of(venv, "python"), "-m", "pip", "install", "--quiet"], []
    if not locked:
        run([*program, *exact, *options.flags], environment)
    run([*program, *OWN_PROJECT], environment)
    shutil.rmtree(venv / ".cache", ignore_errors=True)


def settings_of_pip(python: Path) -> dict[str, str] | None:
    """The environment of pip and uv with what is set for the pip of a Python; None when it has no pip."""
    command = [python, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, capture_output=True, text=True)
    return None if listed.returncode else settings(os.environ, pip_settings(listed.stdout))


def offline(environment: Mapping[str, str]) -> str:
    """Say that the index of an environment cannot be reached; empty when it can."""
    index = environment["UV_DEFAULT_INDEX"]
    return unreachable(index, proxy_of(index, environment))


def set_up(venv: Path, options: argparse.Namespace, stamp: int) -> None:
    """Bring .venv to what the lock says; `stamp`: the open file that notes when it is done."""
    wanted = "{}.{}".format(*sys.version_info)
    os.lseek(stamp, 0, os.SEEK_SET)
    record = read_record(os.read(stamp, 65536).decode(errors="replace"))
    target = {
        "folder": str(venv.resolve()),
        "lock": digest(options.lock),
        "package": digest(ROOT / "pyproject.toml"),
    }
    fresh = not any(path.name != options.stamp.name for path in venv.iterdir())
    version = "" if fresh else version_of(venv)
    why = "" if fresh else reason_to_remake(venv, record, version, wanted if options.named else None)
    if not fresh and not why and target.items() <= record.items():
        return
    remake = fresh or bool(why)
    if remake and (problem := missing_modules(wanted) or this_machine()):
        raise SetupError(problem)
    python = Path(getattr(sys, "_base_executable", None) or sys.executable)
    locked = not remake and record.get("lock") == target["lock"]
    environment = settings_of_pip(python if remake else program_of(venv, "python"))
    if not locked and environment and (problem := offline(environment)):
        raise SetupError(problem)
    if why and is_foreign(venv, options.stamp):
        raise SetupError(f"{venv} holds files but is no virtual environment; move it away")
    if why:
        write(stamp, "begun")
        say(f".venv is made again: {why}.")
        clear(venv, options.stamp.name)
    if remake and (problem := too_full(venv, options.free_gb)):
        raise SetupError(problem)
    if remake:
        say(f"Installing the pinned set into .venv, with {python}: a few minutes and up to 6 GB, once.")
        write(stamp, "begun")
        run([python, "-I", "-m", "venv", venv], settings(os.environ, {}))
    if environment is None:  # the Python has no pip of its own: now there is one to ask
        environment = settings_of_pip(program_of(venv, "python")) or settings(os.environ, {})
        if problem := offline(environment):
            raise SetupError(problem)
    write(stamp, "begun")
    install(venv, options, environment, locked)
    write(stamp, json.dumps(target | {"python": version_of(venv)}))


def write(descriptor: int, text: str) -> None:
    """Replace what an open file holds."""
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, text.encode())


def main(arguments: list[str]) -> int:
    """Make or mend .venv; quick and silent when nothing is to be done."""
    parser = argparse.ArgumentParser(prog="install.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--named", action="store_true", help="the person chose this Python: .venv must have it"
    )
    parser.add_argument("--installer", choices=["uv", "pip"], default="uv")
    parser.add_argument("--free-gb", type=float, default=6 if sys.platform == "linux" else 2)
    parser.add_argument("flags", nargs="+", help="after --: how the lock is installed, the lock last")
    options = parser.parse_args(arguments)
    options.lock = ROOT / options.flags[-1]
    venv = ROOT / ".venv"
    options.stamp = venv / ".installed"
    try:
        venv.mkdir(exist_ok=True)
        with alone(options.stamp) as stamp:
            set_up(venv, options, stamp)
    except (SetupError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted: the next make begins again.", file=sys.stderr)
        return 130
    return 0
