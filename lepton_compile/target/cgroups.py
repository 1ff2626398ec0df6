"""The limits that control groups put on a process: how much processor time and memory it may use.

Read as the kernel documents them: Documentation/admin-guide/cgroup-v1 (cpu, memory) and cgroup-v2.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path, PurePosixPath

from lepton_compile.target.system_files import read_text


def processor_limit(root: Path) -> Fraction | None:
    """Seconds of processor time per second that the process may use; None where there is no limit.

    Args:
        root: The root of the file system.
    """
    limits = []
    for folder in _folders(root, "cpu"):
        quota, period = [*read_text(folder / "cpu.max").split(), "", ""][:2]  # version 2
        quota = quota or read_text(folder / "cpu.cfs_quota_us")
        period = period or read_text(folder / "cpu.cfs_period_us")
        # Without a limit, the quota is "max" in version 2 and -1 in version 1.
        if quota.isdigit() and period.isdigit() and int(quota) and int(period):
            limits.append(Fraction(int(quota), int(period)))
    return min(limits, default=None)


def memory_limit(root: Path) -> int | None:
    """Bytes of memory that the process may use; None where there is no limit.

    Args:
        root: The root of the file system.
    """
    files = ("memory.max", "memory.limit_in_bytes")
    texts = [read_text(folder / file) for folder in _folders(root, "memory") for file in files]
    # Version 1 has a number near 2**63 for no limit, which is more than the machine's memory anyway.
    return min((int(text) for text in texts if text.isdigit() and int(text)), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's group and of those around it, which limit it as well."""
    for line in read_text(root / "proc/self/cgroup").splitlines():
        number, controllers, group = line.split(":", 2)
        if number != "0" and controller not in controllers.split(","):
            continue
        for mounted, mount in _mounts(root, controller if number != "0" else ""):
            # A container's mount has the container's group at the top, and the path may or may not begin with it.
            path = PurePosixPath(group)
            inside = path.relative_to(mounted) if path.is_relative_to(mounted) else PurePosixPath()
            folder = mount / inside
            yield folder
            yield from (above for above in folder.parents if above.is_relative_to(mount))


def _mounts(root: Path, controller: str) -> Iterator[tuple[PurePosixPath, Path]]:
    """Where a controller of version 1, or all of version 2 for "", is mounted: the group at the top, and the folder."""
    for line in read_text(root / "proc/self/mountinfo").splitlines():
        # proc(5): ... (4) root, (5) mount point, (6) options, optional fields, a dash, type, source, super options.
        before, _, after = line.partition(" - ")
        fields, system = before.split(), after.split()
        if len(fields) < 5 or len(system) < 3:
            continue
        wanted = system[0] == "cgroup2" if not controller else controller in system[2].split(",")
        if system[0] in ("cgroup", "cgroup2") and wanted:
            yield PurePosixPath(fields[3]), root / fields[4].lstrip("/")
