"""The lock is whole: what it pins meets every requirement, on every Python and platform that it is for."""

import dataclasses
import http.server
import io
import json
import re
import sys
import threading
import zipfile
from importlib import metadata

import lock
import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.config.pyprojecttoml import read_configuration

PINS = lock.read((lock.ROOT / "requirements.lock").read_text(encoding="utf-8"))
NOTED = json.loads((lock.ROOT / "requirements.json").read_text(encoding="utf-8"))
REQUIRES = {key: entry["requires"] for key, entry in NOTED.items()}
ROOTS = lock.project_requirements(read_configuration(lock.ROOT / "pyproject.toml", expand=False)["project"])
LINUX = ((3, 12), "linux", "x86_64")
# Some pins change at a patch release, such as 3.11.5: both sides of each, the first and a late release.
PATCHES = sorted(
    {0, 99}
    | {
        int(patch) - before
        for pin in PINS
        for patch in re.findall(r"'3\.\d+\.(\d+)'", str(pin.marker).replace('"', "'"))
        for before in (0, 1)
    }
)


def unmet(pins=PINS, requires=REQUIRES, roots=ROOTS, target=LINUX) -> set[str]:
    return lock.walk(roots, pins, requires, lock.markers(target, 99)).unmet


def test_the_lock_is_for_all_that_the_project_supports():
    assert [f"{major}.{minor}" for major, minor in lock.PYTHONS] == ["3.10", "3.11", "3.12", "3.13", "3.14"]
    assert {target[1:] for target in lock.TARGETS} == {
        ("linux", "x86_64"),
        ("linux", "aarch64"),
        ("darwin", "arm64"),
    }


@pytest.mark.parametrize("target", lock.TARGETS, ids=lambda target: f"{target[0][1]}-{target[2]}")
def test_every_requirement_of_every_pinned_distribution_is_met_and_no_pin_is_idle(target):
    for patch in PATCHES:
        values = lock.markers(target, patch)
        found = lock.walk(ROOTS, PINS, REQUIRES, values)
        assert not found.unmet, "run `make lock`: " + "; ".join(sorted(found.unmet))
        here = [pin.key for pin in PINS if pin.applies(values)]
        assert found.reached == set(here)
        names = [key.split("==")[0] for key in here]
        assert len(names) == len(set(names)), "a name is pinned twice"


def test_the_notes_are_those_of_the_lock_down_to_each_hash():
    assert {pin.key: pin.digest for pin in PINS} == {key: entry["files"] for key, entry in NOTED.items()}


def test_conda_and_make_install_the_same_pins():
    lines = (lock.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [(f"{canonicalize_name(r.name)}{r.specifier}", str(r.marker or "")) for r in pinned] == [
        (pin.key, str(pin.marker or "")) for pin in PINS
    ]


@pytest.mark.pinned
def test_the_notes_agree_with_what_is_installed_here():
    """The oracle is the metadata that pip and uv put beside each installed distribution."""
    machine = "arm64" if sys.platform == "darwin" else "x86_64"
    values = lock.markers((sys.version_info[:2], sys.platform, machine), sys.version_info[2])
    checked = 0
    for pin in PINS:
        if not pin.applies(values):
            continue
        distribution = metadata.distribution(pin.name)
        assert distribution.version.split("+")[0] == pin.version, f"{pin.key} is pinned: run make"

        def applying(lines):
            parsed = [Requirement(line) for line in lines]
            return {
                (canonicalize_name(r.name), frozenset(r.extras), r.specifier)
                for r in parsed
                if not r.marker or r.marker.evaluate(values | {"extra": ""})
            }

        assert applying(REQUIRES[pin.key]) == applying(distribution.requires or []), pin.key
        checked += 1
    assert checked > 150


def test_a_pin_that_is_removed_is_missed():
    values = lock.markers(LINUX, 99)
    here = [pin for pin in PINS if pin.applies(values)]
    for gone in here[::4]:
        without = [pin for pin in here if pin is not gone]
        assert any("the lock has no pin of it" in line for line in unmet(without)), gone.key


def test_a_pin_behind_an_extra_is_followed():
    requires = {"pytest-cov==7": ["coverage[toml]>=7.10.6"], "coverage==7.17": ['tomli; extra == "toml"']}
    pins = [
        lock.Pin(name, version, None, frozenset())
        for name, version in [("pytest-cov", "7"), ("coverage", "7.17")]
    ]
    (line,) = unmet(pins, requires, ["pytest-cov"])
    assert line == 'coverage==7.17 requires tomli; extra == "toml"; the lock has no pin of it'
    assert not unmet(pins, requires, ["coverage"])


def test_a_pin_that_is_too_old_or_for_another_platform_is_not_enough():
    old = [dataclasses.replace(pin, version="1.0") if pin.name == "torch" else pin for pin in PINS]
    assert any("torch" in line for line in unmet(old, REQUIRES | {"torch==1.0": []}))
    mac = Marker("sys_platform == 'darwin'")
    away = [dataclasses.replace(pin, marker=mac) if pin.name == "jinja2" else pin for pin in PINS]
    assert any(line.endswith("requires jinja2; the lock has no pin of it") for line in unmet(away))


def test_a_requirement_that_the_lock_does_not_know_is_missed():
    assert unmet(roots=[*ROOTS, "never-locked>=1"]) == {
        "the project requires never-locked>=1; the lock has no pin of it"
    }
    assert any("torch>=99" in line for line in unmet(roots=[*ROOTS, "torch>=99"]))


def test_a_hash_that_changed_or_is_gone_is_noticed():
    text = (lock.ROOT / "requirements.lock").read_text(encoding="utf-8")
    entry = re.search(r"numpy==\S+ [^\n]*\\\n    --hash=sha256:(\w{64})", text)
    changed = text.replace(entry[1], entry[1][::-1])
    gone = text.replace(f"    --hash=sha256:{entry[1]} \\\n", "")
    for broken in (changed, gone):
        assert broken != text
        differ = [pin.key for pin in lock.read(broken) if pin.digest != NOTED[pin.key]["files"]]
        assert len(differ) == 1
        assert differ[0].startswith("numpy==")


@pytest.mark.parametrize(
    "line",
    ["numpy==2.0", "numpy>=2.0 --hash=sha256:" + "0" * 64, "numpy==2.0 --hash=md5:" + "0" * 32],
)
def test_an_entry_that_is_not_exact_or_has_no_hash_is_refused(line):
    with pytest.raises(ValueError, match="no exact version with a hash|no SHA-256|unpack"):
        lock.read(line)


# Making the lock


def wheel(name: str, digest: str) -> dict:
    return {"filename": name, "hashes": {"sha256": digest * 64}}


def test_a_wheel_is_chosen_for_each_platform_and_only_from_the_locked_files():
    pin = lock.Pin("thing", "1.0", None, frozenset(f"sha256:{digit * 64}" for digit in "123"))
    listed = [
        wheel("thing-1.0-cp310-abi3-manylinux_2_17_x86_64.whl", "1"),
        wheel("thing-1.0-cp310-abi3-manylinux_2_28_aarch64.whl", "2"),
        wheel("thing-1.0-cp310-abi3-macosx_11_0_arm64.whl", "3"),
        wheel("thing-1.0.tar.gz", "1"),
    ]
    chosen = {entry["filename"] for entry in lock.chosen_wheels(pin, listed)}
    assert chosen == {entry["filename"] for entry in listed[:3]}
    other = dataclasses.replace(pin, hashes=frozenset({f"sha256:{'1' * 64}"}))
    with pytest.raises(ValueError, match=r"no wheel of thing==1.0 for .*aarch64"):
        lock.chosen_wheels(other, listed)


@pytest.mark.parametrize(
    "name", ["manylinux_2_35_x86_64", "musllinux_1_2_x86_64", "win_amd64", "macosx_15_0_arm64"]
)
def test_a_wheel_for_a_newer_or_another_system_does_not_count(name):
    listed = [wheel(f"thing-1.0-py3-none-{name}.whl", "1")]
    with pytest.raises(ValueError, match="no wheel"):
        lock.chosen_wheels(lock.Pin("thing", "1.0", None, frozenset({f"sha256:{'1' * 64}"})), listed)


def test_requirements_are_read_from_the_end_of_a_wheel_without_the_rest():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("thing/data", bytes(300_000))
        archive.writestr(
            "thing-1.0.dist-info/METADATA", "Name: thing\nRequires-Dist: b>1\nRequires-Dist: a\n\nText"
        )
    content, sent = buffer.getvalue(), []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            part = content[first : last + 1]
            sent.append(len(part))
            self.send_response(206)
            self.end_headers()
            self.wfile.write(part)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/thing.whl"
        assert lock.required_by({"url": address, "size": len(content)}) == ["a", "b>1"]
        server.shutdown()
    assert sum(sent) < len(content) * 0.6


def test_only_the_extras_that_somebody_asks_for_are_noted():
    requires = {"a==1": ['x; extra == "used"', 'y; extra == "idle"', "z"], "b==1": ["a[used]"]}
    assert lock.without_idle_extras(requires, ["b"]) == {
        "a==1": ['x; extra == "used"', "z"],
        "b==1": ["a[used]"],
    }


def test_what_is_written_can_be_read_again():
    text = lock.record(PINS, REQUIRES)
    assert text == (lock.ROOT / "requirements.json").read_text(encoding="utf-8")
