from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocklora.core import resources
from blocklora.core.errors import ConfigError
from blocklora.core.resources import (
    CgroupLimits,
    Resources,
    available_resources,
    cgroup_limits,
    format_bytes,
)

MB = 10**6
NONE_V1 = "9223372036854771712\n"


def write(folder: Path, **files: str) -> None:
    """Write the files of a control group; ``__`` in a name stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="ascii")


def test_version_2(tmp_path: Path) -> None:
    stat = f"anon 5\nfile 700\ninactive_file {100 * MB}\nactive_file 7\n"
    write(
        tmp_path / "user" / "job", cpu__max="150000 100000\n", memory__max=f"{800 * MB}\n",
        memory__current=f"{300 * MB}\n", memory__stat=stat,
    )  # fmt: skip
    assert cgroup_limits("0::/user/job\n", tmp_path) == CgroupLimits(1.5, 600 * MB)


def test_version_2_without_limits(tmp_path: Path) -> None:
    write(tmp_path / "job", cpu__max="max 100000\n", memory__max="max\n", memory__current="300\n")
    assert cgroup_limits("0::/job\n", tmp_path) == CgroupLimits()


def test_the_groups_above_count_too(tmp_path: Path) -> None:
    write(tmp_path / "a", cpu__max="200000 100000", memory__max=f"{500 * MB}", memory__current=f"{450 * MB}")
    write(tmp_path / "a" / "b", cpu__max="400000 100000", memory__max=f"{300 * MB}", memory__current="0")
    assert cgroup_limits("0::/a/b", tmp_path) == CgroupLimits(2.0, 50 * MB)


def test_version_1(tmp_path: Path) -> None:
    write(
        tmp_path / "cpu,cpuacct" / "docker" / "x",
        **{"cpu__cfs_quota_us": "50000\n", "cpu__cfs_period_us": "100000\n"},
    )
    write(
        tmp_path / "memory" / "docker" / "x", memory__limit_in_bytes=f"{900 * MB}\n",
        memory__usage_in_bytes=f"{400 * MB}\n", memory__stat=f"inactive_file 1\ntotal_inactive_file {50 * MB}\n",
    )  # fmt: skip
    write(tmp_path / "memory", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes="7\n")
    membership = "5:cpuset:/\n4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n0::/\n"
    assert cgroup_limits(membership, tmp_path) == CgroupLimits(0.5, 550 * MB)


def test_version_1_without_limits(tmp_path: Path) -> None:
    write(tmp_path / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    write(tmp_path / "memory", memory__limit_in_bytes=NONE_V1, memory__usage_in_bytes="7\n")
    assert cgroup_limits("4:memory:/\n3:cpu:/\n", tmp_path) == CgroupLimits()


def test_a_container_sees_its_own_group_at_the_mount(tmp_path: Path) -> None:
    """The membership names a path of the host, the mount begins at the group itself."""
    write(tmp_path / "memory", memory__limit_in_bytes=f"{100 * MB}", memory__usage_in_bytes=f"{120 * MB}")
    assert cgroup_limits("4:memory:/docker/abc\n", tmp_path) == CgroupLimits(None, 0)
    write(tmp_path, cpu__max="300000 100000")
    assert cgroup_limits("0::/../../x\n", tmp_path) == CgroupLimits(3.0, None)


@pytest.mark.parametrize("text", ["", "nonsense", "::", "0::", ":cpu:", "4:memory", "x:memory:/a:b\n\n0::/c"])
def test_odd_memberships_mean_no_limit(text: str, tmp_path: Path) -> None:
    assert cgroup_limits(text, tmp_path) == CgroupLimits()
    assert cgroup_limits(text, tmp_path / "nowhere") == CgroupLimits()


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_the_files_hold(quota: str, period: str) -> None:
    found = resources._ratio(quota, period)
    assert found is None or found > 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine of eight cores and 10 GB free, and where its control groups are."""
    monkeypatch.setattr(resources, "_MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(resources, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(resources, "_usable_cores", lambda: 8)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000 * MB))
    return tmp_path


def test_without_groups_the_machine_counts(machine: Path) -> None:
    assert available_resources() == Resources(8, 10_000 * MB)
    assert available_resources(0.25) == Resources(2, 2_500 * MB)
    assert available_resources(0.01) == Resources(1, 100 * MB)


def test_the_smallest_limit_counts(machine: Path) -> None:
    (machine / "membership").write_text("0::/\n", encoding="ascii")
    write(
        machine / "groups",
        cpu__max="250000 100000",
        memory__max=f"{4000 * MB}",
        memory__current=f"{1000 * MB}",
    )
    assert available_resources() == Resources(3, 3_000 * MB)  # part of a core is a thread's worth of work
    assert available_resources(1 / 3) == Resources(1, 1_000 * MB)
    write(machine / "groups", cpu__max="1600000 100000", memory__max=f"{40_000 * MB}", memory__current="0")
    assert available_resources() == Resources(8, 10_000 * MB)


@given(st.integers(1, 256))
def test_shares_of_all_workers_are_whole_cores(workers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resources, "_usable_cores", lambda: 3 * workers)
        patch.setattr(resources, "_MEMBERSHIP", Path("nowhere"))
        assert available_resources(1 / workers).cores == 3


@pytest.mark.parametrize("share", [0, -1, 1.01, float("nan")])
def test_what_is_no_share(share: float) -> None:
    with pytest.raises(ConfigError, match="expected a number above 0 and at most 1"):
        available_resources(share)


def test_cores_of_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3}, raising=False)
    assert resources._usable_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0, 1, 2]))
    assert resources._usable_cores() == 3  # Windows
    monkeypatch.setattr(psutil, "Process", SimpleNamespace)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert resources._usable_cores() == 1  # macOS, where nothing is known


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (1234, "1.23 kB"), (12_345, "12.3 kB"), (999_499, "999 kB"),
        (999_500, "1.00 MB"), (7_654_321, "7.65 MB"), (512e6, "512 MB"), (1.5e9, "1.50 GB"), (24e9, "24.0 GB"),
        (99.95e9, "100 GB"), (1234e9, "1,234 GB"),
    ],
)  # fmt: skip
def test_format_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


@given(st.floats(1, 1e13))
def test_three_digits_are_kept(count: float) -> None:
    amount, unit = format_bytes(count).replace(",", "").split()
    assert float(amount) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit] == pytest.approx(
        count, rel=0.0051, abs=0.5
    )
