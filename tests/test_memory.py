"""How much memory there is, read off trees of files as Linux has them."""

from pathlib import Path

import pytest
import torch

from dcganlib.runtime import memory
from dcganlib.runtime.memory import available_memory

MEMINFO = "MemTotal:       8000 kB\nMemAvailable:   5000 kB\n"


@pytest.fixture
def make(tmp_path):
    """Write such trees, and read them: ``make("0::/job", {"job": (limit, used, cached)})``."""

    def write(cgroup, groups, version=2, meminfo=MEMINFO):
        proc, root = tmp_path / "proc", tmp_path / "cgroup"
        (proc / "self").mkdir(parents=True)
        (proc / "meminfo").write_text(meminfo, encoding="utf-8")
        (proc / "self" / "cgroup").write_text(cgroup, encoding="utf-8")
        top = root if version == 2 else root / "memory"
        names = ("memory.max", "memory.current", "inactive_file")
        if version == 1:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        for name, (limit, used, cached) in groups.items():
            folder = top / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / names[0]).write_text(f"{limit}\n", encoding="utf-8")
            (folder / names[1]).write_text(f"{used}\n", encoding="utf-8")
            (folder / "memory.stat").write_text(f"anon 7\n{names[2]} {cached}\n", encoding="utf-8")
        return available_memory(proc, root)

    return write


def test_without_limits_it_is_what_linux_calls_available(make):
    assert make("0::/\n", {"": ("max", 100, 0)}) == 5000 * 1024


def test_a_group_leaves_its_limit_less_its_use_and_cached_files_can_be_dropped(make):
    assert make("0::/job\n", {"job": (3_000_000, 2_000_000, 500_000)}) == 1_500_000


def test_a_group_above_counts_too(make):
    groups = {"a": (2_000_000, 1_900_000, 0), "a/b": ("max", 1_000, 0)}
    assert make("0::/a/b\n", groups) == 100_000


def test_a_group_of_the_first_version_counts_also_where_its_path_is_that_of_the_host(make):
    cgroup = "4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n"
    assert make(cgroup, {"": (4_000_000, 1_000_000, 0)}, version=1) == 3_000_000


def test_a_limit_beyond_the_machine_is_none(make):
    assert make("0::/\n", {"": (2**63 - 4096, 100, 0)}) == 5000 * 1024


def test_a_group_that_is_over_its_limit_leaves_nothing(make):
    assert make("0::/\n", {"": (1_000, 2_000, 0)}) == 0


def test_it_is_not_known_where_linux_does_not_tell(make, tmp_path):
    assert available_memory(tmp_path / "none", tmp_path) is None
    assert make("0::/\n", {}, meminfo="MemTotal: 8000 kB\n") is None


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells")
def test_this_machine_has_some_and_no_more_than_is_built_in():
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines())
    assert 10_000_000 < available_memory() <= 1024 * int(lines["MemTotal"].split()[0])


def test_each_kind_of_device_is_asked_in_its_own_way(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 + device.index, 99))
    assert [memory.free_memory(device) for device in ("cpu", "cuda:1", "mps")] == [7, 11, None]


@pytest.mark.parametrize("free", [1000, None])
def test_what_fits_is_known_also_where_the_system_tells_nothing(free, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: free)
    assert memory.fits(1000)
    assert not memory.fits(2**62)
    assert not memory.fits(10**30)
    assert memory.fits(1001) is (free is None)
