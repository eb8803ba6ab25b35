"""Resolve the pinned set anew: ``python tools/lock.py [--upgrade]``, or ``make lock``.

Three files are written, or none: constraints.txt, requirements.lock (the same pins with a hash for each file)
and requirements.json. The last one notes what each pinned distribution requires, so that a test can prove
without a network that the lock is whole on every supported Python and platform, not only on this machine's.
"""

import hashlib
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.parser import Parser
from functools import cache
from pathlib import Path

import environment
import install
from packaging import tags
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = environment.ROOT
PYTHONS = [(3, minor) for minor in range(install.OLDEST[1], install.NEWEST[1] + 1)]
PLATFORMS = {"linux": ("x86_64", "aarch64"), "darwin": ("arm64",)}
TARGETS = [
    (python, system, machine)
    for python, (system, machines) in itertools.product(PYTHONS, PLATFORMS.items())
    for machine in machines
]
LISTING = "application/vnd.pypi.simple.v1+json"
Target = tuple[tuple[int, int], str, str]


@dataclass(frozen=True)
class Pin:
    """One entry of requirements.lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]

    @property
    def key(self) -> str:
        """How requirements.json calls it."""
        return f"{self.name}=={self.version}"

    @property
    def digest(self) -> str:
        """A hash of all its files' hashes."""
        return hashlib.sha256(" ".join(sorted(self.hashes)).encode()).hexdigest()

    def applies(self, environment: dict[str, str]) -> bool:
        """Whether it is installed in an environment of markers."""
        return self.marker is None or self.marker.evaluate(environment)


def read(lock: str) -> list[Pin]:
    """Read the entries of requirements.lock."""
    pins = []
    for line in lock.replace("\\\n", " ").splitlines():
        if line.startswith("#") or not line.strip():
            continue
        text, *hashes = line.split(" --hash=")
        requirement = Requirement(text)
        (exact,) = requirement.specifier
        if exact.operator != "==" or not hashes:
            raise ValueError(f"no exact version with a hash: {line}")
        for value in hashes:
            if not re.fullmatch("sha256:[0-9a-f]{64}", value.strip()):
                raise ValueError(f"no SHA-256: {value.strip()} of {text.strip()}")
        name = canonicalize_name(requirement.name)
        pins.append(
            Pin(name, exact.version, requirement.marker, frozenset(value.strip() for value in hashes))
        )
    return pins


def markers(target: Target, patch: int) -> dict[str, str]:
    """The environment of markers of CPython's release `patch` on a target."""
    (major, minor), system, machine = target
    return {
        "implementation_name": "cpython",
        "implementation_version": f"{major}.{minor}.{patch}",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": system.capitalize(),
        "platform_version": "",
        "python_full_version": f"{major}.{minor}.{patch}",
        "python_version": f"{major}.{minor}",
        "sys_platform": system,
    }


@cache
def parsed(text: str) -> Requirement:
    """Read a requirement; each text once, as most occur in every environment."""
    return Requirement(text)


@dataclass
class Walk:
    """What an environment gets from the lock: the pins reached, and the requirements that no pin meets."""

    reached: set[str] = field(default_factory=set)
    unmet: set[str] = field(default_factory=set)


def walk(
    roots: Iterable[str], pins: Iterable[Pin], requires: dict[str, list[str]], values: dict[str, str]
) -> Walk:
    """Follow requirements through the lock, extras and markers included.

    Args:
        roots: The project's own requirements.
        pins: The lock.
        requires: Requirements by `Pin.key`.
        values: The environment of markers.
    """
    there = {pin.name: pin for pin in pins if pin.applies(values)}
    result, seen = Walk(), set()
    queue = [("the project", text, "") for text in roots]
    while queue:
        by, text, extra = queue.pop()
        if (by, text, extra) in seen:
            continue
        seen.add((by, text, extra))
        requirement = parsed(text)
        if requirement.marker and not requirement.marker.evaluate(values | {"extra": extra}):
            continue
        pin = there.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin.version, prereleases=True):
            result.unmet.add(f"{by} requires {text}; the lock has {pin.key if pin else 'no pin of it'}")
            continue
        result.reached.add(pin.key)
        for part in ["", *sorted(requirement.extras)]:
            queue += [(pin.key, line, part) for line in requires[pin.key]]
    return result


# What the index says


class Remote(io.RawIOBase):
    """A file on a web server, read in parts: the list of a wheel and its METADATA are its last few kB."""

    def __init__(self, address: str, size: int):
        self.address, self.size, self.position = address, size, 0

    def seekable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to another place."""
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer from the server."""
        if not len(buffer) or self.position >= self.size:
            return 0
        last = min(self.position + len(buffer), self.size) - 1
        request = urllib.request.Request(self.address, headers={"Range": f"bytes={self.position}-{last}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:
                raise OSError(f"{self.address}: no partial answer, but status {answer.status}")
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def files_of(name: str) -> list[dict]:
    """What the index lists of a project: each file with its name, address, size and hashes."""
    request = urllib.request.Request(f"{environment.PYPI}/{name}/", headers={"Accept": LISTING})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["files"]


def required_by(wheel: dict) -> list[str]:
    """The Requires-Dist of a wheel."""
    with zipfile.ZipFile(io.BufferedReader(Remote(wheel["url"], wheel["size"]), 1 << 16)) as archive:
        (path,) = (path for path in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", path))
        text = archive.read(path).decode()
    return sorted(Parser().parsestr(text, headersonly=True).get_all("Requires-Dist", []))


@cache
def ranks(target: Target) -> dict[tags.Tag, int]:
    """The tags of the wheels that a target takes, each with its rank, 0 the best."""
    python, system, machine = target
    if system == "darwin":
        platforms = list(tags.mac_platforms(environment.MACOS, machine))
    else:
        newest = environment.GLIBC[1]
        platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(newest, 4, -1)]
        platforms += [f"manylinux{year}_{machine}" for year in ("2014", "2010", "1")]
        platforms += [f"linux_{machine}"]
    special = tags.cpython_tags(python, platforms=platforms)
    general = tags.compatible_tags(python, f"cp{python[0]}{python[1]}", platforms)
    found: dict[tags.Tag, int] = {}
    for tag in itertools.chain(special, general):
        found.setdefault(tag, len(found))
    return found


def chosen_wheels(pin: Pin, listed: list[dict]) -> list[dict]:
    """One wheel for each target that gets a pin; an error where there is none."""
    wheels = [
        (parse_wheel_filename(entry["filename"])[3], entry)
        for entry in listed
        if entry["filename"].endswith(".whl") and f"sha256:{entry['hashes']['sha256']}" in pin.hashes
    ]
    chosen = {}
    for target in TARGETS:
        if not any(pin.applies(markers(target, patch)) for patch in (0, 99)):
            continue
        rank = ranks(target)
        fits = [
            (min(rank[tag] for tag in own if tag in rank), entry["filename"], entry)
            for own, entry in wheels
            if any(tag in rank for tag in own)
        ]
        if not fits:
            raise ValueError(f"no wheel of {pin.key} for {target}, glibc 2.{environment.GLIBC[1]}")
        # Two Pythons of one platform get the same requirements; platforms may differ.
        chosen[target[1:]] = min(fits, key=lambda fit: fit[:2])[2]
    return list({entry["filename"]: entry for entry in chosen.values()}.values())


def metadata_of(pins: list[Pin], threads: int = 8) -> dict[str, list[str]]:
    """What each pin requires, as its wheels say."""
    names = sorted({pin.name for pin in pins})
    with ThreadPoolExecutor(threads) as pool:
        listings = dict(zip(names, pool.map(files_of, names), strict=True))
        wheels = [(pin.key, wheel) for pin in pins for wheel in chosen_wheels(pin, listings[pin.name])]
        found = pool.map(required_by, [wheel for _, wheel in wheels])
        requires: dict[str, set[str]] = {pin.key: set() for pin in pins}
        for (key, _), lines in zip(wheels, found, strict=True):
            requires[key].update(lines)
    return {key: sorted(lines) for key, lines in requires.items()}


def without_idle_extras(requires: dict[str, list[str]], roots: Iterable[str]) -> dict[str, list[str]]:
    """Leave out the requirements of extras that nobody asks for."""
    asked: set[tuple[str, str]] = set()
    for text in itertools.chain(roots, *requires.values()):
        requirement = Requirement(text)
        asked |= {(canonicalize_name(requirement.name), extra) for extra in requirement.extras}

    def counts(name: str, text: str) -> bool:
        marker = str(Requirement(text).marker or "")
        extras = re.findall(r'extra == "([^"]+)"', marker)
        return not extras or any((name, extra) in asked for extra in extras)

    return {
        key: [text for text in lines if counts(key.split("==")[0], text)] for key, lines in requires.items()
    }


def record(pins: list[Pin], requires: dict[str, list[str]]) -> str:
    """The text of requirements.json."""
    lines = [
        f"  {json.dumps(pin.key)}: {json.dumps({'files': pin.digest, 'requires': requires[pin.key]})}"
        for pin in pins
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


# The command


def project_requirements(project: dict) -> list[str]:
    """What the project requires with all its extras; `project`: the table of pyproject.toml."""
    return [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]


def compile_lock(folder: Path, *options: str) -> None:
    """Let uv write constraints.txt and requirements.lock into a folder that holds the old ones."""
    from uv import find_uv_bin

    command = [find_uv_bin(), "pip", "compile", "--quiet", "--universal", "--all-extras", "--no-annotate"]
    command += ["--python-version", "{}.{}".format(*install.OLDEST), "--no-config"]
    command += ["--custom-compile-command", "make lock", str(ROOT / "pyproject.toml")]
    pins, lock = folder / "constraints.txt", folder / "requirements.lock"
    subprocess.run([*command, *options, "-o", pins], check=True)
    subprocess.run([*command, "--generate-hashes", "-c", pins, "-o", lock], check=True)


def main(arguments: list[str]) -> None:
    """Write the three files."""
    from setuptools.config.pyprojecttoml import read_configuration

    roots = project_requirements(read_configuration(ROOT / "pyproject.toml", expand=False)["project"])
    names = ["constraints.txt", "requirements.lock", "requirements.json"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in names[:2]:
            shutil.copy(ROOT / name, folder)
        compile_lock(folder, *arguments)
        pins = read((folder / "requirements.lock").read_text(encoding="utf-8"))
        requires = without_idle_extras(metadata_of(pins), roots)
        for target in TARGETS:
            for patch in (0, 99):
                if unmet := walk(roots, pins, requires, markers(target, patch)).unmet:
                    raise SystemExit(f"the lock is not whole on {target}:\n" + "\n".join(sorted(unmet)))
        (folder / "requirements.json").write_text(record(pins, requires), encoding="utf-8")
        for name in names:
            shutil.copy(folder / name, ROOT / name)


if __name__ == "__main__":
    main(sys.argv[1:])
