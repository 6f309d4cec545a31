"""Limits of containers: control groups of both versions, nested, in name spaces; and ulimits."""

import resource
import subprocess
import sys

import pytest

from membench.errors import UsageError
from membench.machine import cgroup, device
from membench.running import run as running
from membench.scenario.scenario import load_scenario

GB = 10**9
NO_LIMIT = "9223372036854771712"


@pytest.fixture
def machine(tmp_path):
    """Writes a /proc and the hierarchies it tells of under a root of its own."""

    def make(groups, mounts, files):
        proc = tmp_path / "proc/self"
        proc.mkdir(parents=True)
        (proc / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = [f"{30 + i} 23 0:{i} {mount}" for i, mount in enumerate(mounts)]
        (proc / "mountinfo").write_text(
            "".join(f"{line}\n" for line in ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *lines])
        )
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")
        return tmp_path

    return make


V2 = "/ /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MEMORY = "/ /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
V1_CPU = "/ /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"


def limits(root):
    return cgroup.memory_limit_bytes(root), cgroup.memory_room_bytes(root), cgroup.cpu_quota(root)


def test_version_2_the_least_on_the_way_up(machine):
    """A pod's limit binds a container that has none of its own."""
    root = machine(
        ["0::/pod/box"],
        [V2],
        {
            "sys/fs/cgroup/pod/box/memory.max": "max",
            "sys/fs/cgroup/pod/box/memory.high": "max",
            "sys/fs/cgroup/pod/box/memory.current": GB,
            "sys/fs/cgroup/pod/box/cpu.max": "max 100000",
            "sys/fs/cgroup/pod/memory.max": 3 * GB,
            "sys/fs/cgroup/pod/memory.current": 2 * GB,
            "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {GB // 2}\nactive_file 9",
            "sys/fs/cgroup/pod/cpu.max": "150000 100000",
            "sys/fs/cgroup/other/memory.max": 1,  # not on our way up
        },
    )
    assert limits(root) == (3 * GB, GB + GB // 2, 1.5)


def test_the_least_room_need_not_be_the_least_limit(machine):
    root = machine(
        ["0::/pod/box"],
        [V2],
        {
            "sys/fs/cgroup/pod/box/memory.max": 3 * GB,
            "sys/fs/cgroup/pod/box/memory.current": 0,
            "sys/fs/cgroup/pod/memory.max": 4 * GB,
            "sys/fs/cgroup/pod/memory.current": 3 * GB,
        },
    )
    assert limits(root) == (3 * GB, GB, None)


def test_version_2_is_slowed_down_above_high(machine):
    files = {"sys/fs/cgroup/memory.high": 2 * GB, "sys/fs/cgroup/memory.max": 3 * GB}
    assert limits(machine(["0::/"], [V2], files)) == (2 * GB, 2 * GB, None)


def test_version_1(machine):
    """Page sizes have other words for no limit; quotas too."""
    root = machine(
        ["9:cpu,cpuacct:/box", "4:memory:/box", "1:name=systemd:/box"],
        [V1_MEMORY, V1_CPU],
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": NO_LIMIT,
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": 3 * GB,
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": 2 * GB,
            "sys/fs/cgroup/memory/box/memory.stat": f"inactive_file 1\ntotal_inactive_file {GB}",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": -1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": 100000,
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": 50000,
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": 100000,
        },
    )
    assert limits(root) == (3 * GB, 2 * GB, 0.5)


@pytest.mark.parametrize("none", [NO_LIMIT, "9223372036854710272", "max", "", "-1", "lots"])
def test_no_limit(machine, none):
    files = {"sys/fs/cgroup/memory/memory.limit_in_bytes": none, "sys/fs/cgroup/cpu.max": none}
    assert limits(machine(["4:memory:/", "0::/"], [V2, V1_MEMORY], files)) == (None, None, None)


def test_hybrid(machine):
    """Memory by version 1, processor time by version 2."""
    root = machine(
        ["4:memory:/a/b", "0::/a/b"],
        [V1_MEMORY, "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"],
        {
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes": 3 * GB,
            "sys/fs/cgroup/unified/a/b/cpu.max": "200000 100000",
        },
    )
    assert limits(root) == (3 * GB, 3 * GB, 2.0)


def test_how_long_groups_were_throttled(machine):
    """Version 1 counts nanoseconds, version 2 microseconds; a root may count none."""
    root = machine(
        ["3:cpu,cpuacct:/box", "0::/a/b"],
        [V1_CPU, "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw"],
        {
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.stat": "nr_periods 9\nnr_throttled 3\nthrottled_time 2500000000",
            "sys/fs/cgroup/unified/a/b/cpu.stat": "usage_usec 7\nnr_throttled 1\nthrottled_usec 1500000\nnr_bursts 0",
            "sys/fs/cgroup/unified/a/cpu.stat": "usage_usec 7\nuser_usec 5",
        },
    )
    counters = cgroup.throttle_counters(root)
    assert [cgroup.throttled_seconds(counter) for counter in counters] == [2.5, 1.5]
    counters[0].unlink()
    assert cgroup.throttled_seconds(counters[0]) is None


def test_only_the_own_group_is_mounted(machine):
    """A container without a name space of its own: its group is the mount's root."""
    root = machine(
        ["4:memory:/docker/abc/inner"],
        ["/docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory", "/docker/x /x rw - cgroup cgroup rw,memory"],
        {
            "sys/fs/cgroup/memory/memory.limit_in_bytes": 3 * GB,
            "sys/fs/cgroup/memory/inner/memory.limit_in_bytes": 2 * GB,
            "x/memory.limit_in_bytes": 1,
        },
    )
    assert limits(root)[0] == 2 * GB


def test_a_mount_from_above_the_name_space(machine):
    """Its root is an ancestor; which of its folders is ours cannot be told."""
    mount = "/../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    root = machine(["0::/"], [mount], {"sys/fs/cgroup/memory.max": 3 * GB, "sys/fs/cgroup/cpu.max": "300000 100000"})
    assert limits(root) == (3 * GB, 3 * GB, 3.0)


def test_a_group_beside_the_name_space(machine):
    files = {"sys/fs/cgroup/memory.max": 3 * GB, "sys/fs/other/memory.max": 1, "up/other/memory.max": 2 * GB}
    root = machine(["0::/../other"], [V2, "/.. /up rw - cgroup2 cgroup2 rw"], files)
    assert cgroup.memory_limit_bytes(root) == 2 * GB


def test_a_named_group_that_is_not_there(machine):
    """Another name space's name for it: what is mounted limits all the same."""
    root = machine(["4:memory:/kubepods/x"], [V1_MEMORY], {"sys/fs/cgroup/memory/memory.limit_in_bytes": 3 * GB})
    assert limits(root) == (3 * GB, 3 * GB, None)


def test_a_mount_point_with_a_space_and_one_that_hides_another(machine):
    mounts = [
        "/ /my\\040groups rw - cgroup2 none rw",
        V1_MEMORY,
        "/box /sys/fs/cgroup/memory rw - cgroup none rw,memory",
    ]
    files = {"my groups/memory.max": 4 * GB, "sys/fs/cgroup/memory/memory.limit_in_bytes": 3 * GB}
    assert limits(machine(["0::/", "4:memory:/box"], mounts, files))[0] == 3 * GB


def test_nothing_readable_limits_nothing(machine, tmp_path):
    assert limits(tmp_path / "nowhere") == (None, None, None)
    odd = ["nonsense", "x:y", "", "0:memory", "5:memory:relative"]
    root = machine(odd, ["short", "/ /sys/fs/cgroup rw - cgroup2", V2], {"sys/fs/cgroup/memory.max/file": 1})
    assert limits(root) == (None, None, None)


def test_room_is_never_below_nothing(machine):
    files = {"sys/fs/cgroup/memory.max": GB, "sys/fs/cgroup/memory.current": 2 * GB}
    assert limits(machine(["0::/"], [V2], files))[1] == 0


def test_available_memory_is_the_least_of_all(monkeypatch):
    monkeypatch.setattr(device, "meminfo_bytes", lambda _: 20 * GB)
    for room, ulimit, least in ((None, None, 20), (3, None, 3), (3, 2, 2), (0, 2, 0)):
        monkeypatch.setattr(device, "memory_room_bytes", lambda room=room: room if room is None else room * GB)
        monkeypatch.setattr(device, "_ulimit_bytes", lambda ulimit=ulimit: ulimit if ulimit is None else ulimit * GB)
        assert device.available_memory_bytes() == least * GB


def test_no_room_is_not_unknown(scenario_file, monkeypatch):
    text = "schema_version: 1\nname: small\nmodel_dim: 64\narms: {dense: {layer: dense, ffn_hidden: 64}}\n"
    scenario = load_scenario(scenario_file(text + "workload: {tokens: 8}\n"), ())
    monkeypatch.setattr(running, "available_memory_bytes", lambda: 0)
    with pytest.raises(UsageError, match=r"0\.0 GB are available"):
        running.plan_here(scenario, {"device": {"type": "cpu", "name": "x", "cache_bytes": 0}})


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_ulimit_is_a_limit_of_memory(kind):
    """In a process of its own: a limit cannot be raised again."""
    script = f"""
import resource
from membench.machine.device import available_memory_bytes
resource.setrlimit(resource.{kind}, (3 * 10**9, resource.RLIM_INFINITY))
print(available_memory_bytes())
"""
    found = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    assert 2 * GB < found <= 3 * GB
    assert resource.getrlimit(getattr(resource, kind))  # ours is as it was
