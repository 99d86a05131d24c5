"""How many cores and how much memory this process may use: affinity, cgroup limits, and a share of both."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from blocklora.core.errors import ConfigError

__all__ = ["CgroupLimits", "Resources", "available_resources", "cgroup_limits", "format_bytes"]

_MEMBERSHIP, _CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60  # cgroup v1 writes a huge number where there is no limit
_ROUNDING = 1e-9  # 98 cores * (1 / 49) are 2


@dataclass(frozen=True)
class Resources:
    """What one process may use.

    Attributes:
        cores: Logical cores, at least 1.
        memory_bytes: Host memory that is free for this process, beside what it holds already.
    """

    cores: int
    memory_bytes: int


@dataclass(frozen=True)
class CgroupLimits:
    """The limits of a control group and of all groups above it.

    Attributes:
        cores: Cores' worth of time; None where there is no limit.
        memory_bytes: Bytes that may still be taken; None where there is no limit.
    """

    cores: float | None = None
    memory_bytes: int | None = None


def available_resources(share: float = 1.0) -> Resources:
    """Return what this process may use now.

    Args:
        share: Its share of the cores and of the free memory, in (0, 1]: 1 / n for each of n processes side by side.

    Raises:
        ConfigError: The share is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share {share}: expected a number above 0 and at most 1.")
    limits = cgroup_limits(_read(_MEMBERSHIP) or "", _CGROUPS)
    cores, free = _usable_cores(), int(psutil.virtual_memory().available)
    if limits.cores is not None:
        cores = min(cores, math.ceil(limits.cores))
    if limits.memory_bytes is not None:
        free = min(free, limits.memory_bytes)
    return Resources(max(1, math.floor(cores * share + _ROUNDING)), int(free * share))


def cgroup_limits(membership: str, root: Path) -> CgroupLimits:
    """Read the limits of a control group, of version 1 or 2.

    Args:
        membership: The text of ``/proc/self/cgroup``: lines of ``ID:CONTROLLERS:PATH``, no controllers in version 2.
        root: Where the groups are mounted, ``/sys/fs/cgroup``. Inside a container the mount often begins at the
            process's own group; so folders that are not there are passed over, and ``root`` itself always counts.
    """
    cores: list[float | None] = []
    free: list[int | None] = []
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        names = controllers.split(",")
        if not controllers:
            for folder in _upwards(root, path):
                cores.append(_cores_v2(folder))
                free.append(_free_v2(folder))
        if "cpu" in names:
            cores += [
                _cores_v1(folder) for name in {controllers, "cpu"} for folder in _upwards(root / name, path)
            ]
        if "memory" in names:
            free += [_free_v1(folder) for folder in _upwards(root / "memory", path)]
    return CgroupLimits(
        min((one for one in cores if one is not None), default=None),
        min((one for one in free if one is not None), default=None),
    )


def format_bytes(count: float) -> str:
    """Write an amount of memory in the unit that suits it, with three digits or so: "512 B", "3.4 MB", "12.5 GB"."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        amount = count / size
        if abs(amount) >= 0.9995:  # from here on three digits are written as 1.00
            digits = 2 if abs(amount) < 9.995 else 1 if abs(amount) < 99.95 else 0
            return f"{amount:,.{digits}f} {unit}"
    return f"{count:.0f} B"


def _usable_cores() -> int:
    """Return the logical cores that the scheduler lets this process run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # Windows
        return len(process.cpu_affinity())
    return os.cpu_count() or 1


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folder of a group and of every group above it, the mount last."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _cores_v2(folder: Path) -> float | None:
    """Read ``cpu.max``: "QUOTA PERIOD" in microseconds, or "max PERIOD"."""
    quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
    return _ratio(quota, period)


def _cores_v1(folder: Path) -> float | None:
    """Read the quota, -1 where there is none, and its period."""
    return _ratio(_read(folder / "cpu.cfs_quota_us") or "", _read(folder / "cpu.cfs_period_us") or "")


def _free_v2(folder: Path) -> int | None:
    return _left(folder, "memory.max", "memory.current", "inactive_file")


def _free_v1(folder: Path) -> int | None:
    return _left(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(folder: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """Return a group's limit less its usage; files cached but not in use are given back when memory is asked for."""
    most, used = _number(_read(folder / limit)), _number(_read(folder / usage))
    if most is None or used is None or most >= _UNLIMITED:
        return None
    rows = (line.split() for line in (_read(folder / "memory.stat") or "").splitlines())
    cached = next((_number(row[1]) for row in rows if len(row) == 2 and row[0] == reclaimable), 0)
    return max(0, most - max(0, used - (cached or 0)))


def _ratio(quota: str, period: str) -> float | None:
    """Return quota / period where both are positive numbers."""
    above, below = _number(quota), _number(period)
    return above / below if above and below else None


def _number(text: str | None) -> int | None:
    """Read digits; anything else, such as "max" or "-1", is no number."""
    stripped = (text or "").strip()
    return int(stripped) if stripped.isascii() and stripped.isdecimal() else None


def _read(path: Path) -> str | None:
    """Return a small file's text, or None where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None
