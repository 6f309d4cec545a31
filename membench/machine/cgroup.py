"""What the control groups of this process allow it: memory, processor time. Linux; elsewhere nothing is limited.

``/proc/self/cgroup`` names this process's group in each hierarchy, ``/proc/self/mountinfo`` where hierarchies are
mounted: version 1 a hierarchy a controller, version 2 one for all, both at once on a hybrid system. A limit of any
group on the way up to the root binds, so the least counts. ``root`` is the folder that holds ``proc``.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from membench.files import read_text

ROOT = Path("/")
_NO_LIMIT = 2**62  # version 1 says 2^63 less a page where there is none
_THROTTLED = re.compile(r"^throttled_(usec|time) (\d+)$", re.MULTILINE)  # version 2, version 1
_CACHED = re.compile(r"^(?:total_)?inactive_file (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted hierarchy: which folder of it, and where. Version 2 names no controllers: it has them all."""

    root: PurePosixPath
    point: Path
    controllers: frozenset[str]


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The least memory limit of the groups that hold this process; None where there is none. Swap is not counted."""
    return min(filter(None, (_limit_bytes(group) for group in _groups("memory", root))), default=None)


def memory_room_bytes(root: Path = ROOT) -> int | None:
    """What the groups leave to this process: the least of limit less use. None where nothing is limited.

    A group counts the page cache as used; its inactive part would be given up.
    """
    rooms = []
    for group in _groups("memory", root):
        if limit := _limit_bytes(group):
            used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
            rooms.append(max(0, limit - max(0, used - _cached_bytes(group))))
    return min(rooms, default=None)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processor time over time that the groups allow, in cores; None where it is not limited.

    A group that has used up its quota sleeps to the end of its period, some tens of milliseconds.
    """
    return min(filter(None, (_quota(group) for group in _groups("cpu", root))), default=None)


def throttle_counters(root: Path = ROOT) -> list[Path]:
    """The files that count how long the groups of this process were throttled; see ``throttled_seconds``."""
    files = (group / "cpu.stat" for group in _groups("cpu", root))
    return [file for file in files if throttled_seconds(file) is not None]


def throttled_seconds(counter: Path) -> float | None:
    """How long a group's quota has kept it from running, summed over processors; None where it is not counted."""
    found = _THROTTLED.search(read_text(counter) or "")
    return None if found is None else int(found[2]) / (1e6 if found[1] == "usec" else 1e9)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the groups that hold this process, its own first, up to the root of each mount.

    A folder that is not there (a group that another name space has named) limits nothing, those above it do.
    """
    own = dict(_own_groups(root))
    for mount in _mounts(root):
        if controller not in mount.controllers and mount.controllers:
            continue
        path = own.get(controller if mount.controllers else "")
        inside = None if path is None else _inside(path, mount.root)
        if inside is None:
            continue
        for group in (inside, *inside.parents):
            yield mount.point / group


def _own_groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """This process's group by controller; that of version 2 by ''."""
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number.isdigit() and path.startswith("/"):
            for name in controllers.split(","):
                yield name, PurePosixPath(path)


def _mounts(root: Path) -> list[Mount]:
    """Every mounted hierarchy of control groups; of two at one place the later, which hides the other."""
    found: dict[str, Mount] = {}
    for line in (read_text(root / "proc/self/mountinfo") or "").splitlines():
        mount, _, filesystem = line.partition(" - ")
        fields, kind = mount.split(), filesystem.split()
        if len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        names = frozenset(kind[2].split(",")) if kind[0] == "cgroup" else frozenset()
        place = _unescaped(fields[4])
        found[place] = Mount(PurePosixPath(_unescaped(fields[3])), root / place.lstrip("/"), names)
    return list(found.values())


def _inside(path: PurePosixPath, mounted: PurePosixPath) -> PurePosixPath | None:
    """A group's path below what is mounted, itself '.'; None where that is no part of it.

    Both are told from the root of this process's name space. What is above it is ``/..``, ``/../..``: a mount of
    that holds this process somewhere below, in a group that cannot be named, so that its own root is what is known.
    """
    with suppress(ValueError):
        below = path.relative_to(mounted)
        return None if ".." in below.parts else below
    above = len(mounted.parts) > 1 and set(mounted.parts[1:]) == {".."}
    return PurePosixPath() if above and ".." not in path.parts else None


def _limit_bytes(group: Path) -> int | None:
    """Version 2 slows a group down above ``memory.high`` and ends it at ``memory.max``: neither can be measured at."""
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")
    return min(filter(None, (_number(group / name) for name in names)), default=None)


def _cached_bytes(group: Path) -> int:
    """Page cache that would be given up; version 1 tells it with the groups below as ``total_``."""
    found = [int(number) for number in _CACHED.findall(read_text(group / "memory.stat") or "")]
    return max(found, default=0)


def _quota(group: Path) -> float | None:
    words = (read_text(group / "cpu.max") or "").split()
    if len(words) != 2:
        words = [read_text(group / name) or "" for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    quota, period = words
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _number(path: Path) -> int | None:
    """A limit or a count; None for ``max``, and for what is none."""
    text = read_text(path) or ""
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None


def _unescaped(field: str) -> str:
    """mountinfo writes a space as \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), field)
