"""Two hosts on one machine: two network namespaces, joined by a cable of the kernel's (a veth pair).

Each has its own addresses, its own loopback and its own host name, so ranks find each other as on two machines: by
torchrun's c10d rendezvous, and over the addresses of the cable. What they measure is held against the same ranks on one
host: the same answers, bit for bit, and the same bytes sent.

    sudo python -m benchmarks.two_hosts scenarios/sharded_memory.yaml --output results
    sudo python -m benchmarks.two_hosts scenarios/sharded_memory.yaml --output results --cut

The second cuts the cable once something is measured, and tells when each host's torchrun ended and that nothing is left
running there.

It wants root and ``ip`` (iproute2), and leaves nothing behind.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from membench.results.records import ResultFile, read_result

_PORT = 29400
_NETWORK = "10.213.{}.{}"  # of 10/8, which is nobody's; the third number is of this process
_HOSTS = ("host-a", "host-b")
_END_SECONDS = 60.0  # within which every process of hosts that cannot reach each other has to end


class CannotBe(Exception):
    """Namespaces cannot be made here; the message says why."""


@contextmanager
def two_hosts() -> Iterator[list[tuple[str, str, str]]]:
    """(namespace, host name, address) of two hosts that reach each other and nobody else.

    Raises:
        CannotBe: not root, no ``ip``, or the kernel refuses.
    """
    if os.name != "posix" or os.geteuid() != 0:
        raise CannotBe("network namespaces are root's to make")
    for program in ("ip", "unshare", "hostname"):
        if shutil.which(program) is None:
            raise CannotBe(f"{program} is not installed")
    part = os.getpid() % 250
    hosts = [
        (f"membench-{os.getpid()}-{number}", name, _NETWORK.format(part, number))
        for number, name in enumerate(_HOSTS, 1)
    ]
    (first, _, _), (second, _, _) = hosts
    try:
        for space, _, _ in hosts:
            _ip("netns", "add", space)
        _ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "name", "cable", "netns", second)
        for space, _, address in hosts:
            _ip("-n", space, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                _ip("-n", space, "link", "set", device, "up")
        yield hosts
    finally:
        for space, _, _ in hosts:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise CannotBe(f"ip {' '.join(words)}: {done.stderr.strip()}")


def inside(space: str, name: str, command: Sequence[str]) -> list[str]:
    """A command as it is run on one of the hosts."""
    named = f"hostname {name} && exec " + '"$@"'
    return ["ip", "netns", "exec", space, "unshare", "--uts", "sh", "-c", named, "sh", *command]


def torchrun(hosts: Sequence[tuple[str, str, str]], number: int, words: Sequence[str]) -> list[str]:
    """What is started on host ``number``: one rank, that meets the other at the first host's address."""
    space, name, address = hosts[number]
    command = [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", str(len(hosts)), "--nproc-per-node", "1", "--max-restarts", "0"),
        *("--rdzv-backend", "c10d", "--rdzv-id", "two-hosts", "--rdzv-endpoint", f"{hosts[0][2]}:{_PORT}"),
        *("--rdzv-conf", f"is_host={int(number == 0)},join_timeout=60", "--local-addr", address),
        *("-m", "membench", *words),
    ]
    return inside(space, name, command)


def on_two_hosts(words: Sequence[str], **how: Any) -> list[int]:
    """The exit codes of ``membench`` with these words on both hosts.

    Raises:
        CannotBe: see ``two_hosts``.
    """
    with two_hosts() as hosts:
        started = [subprocess.Popen(torchrun(hosts, number, words), **how) for number in range(len(hosts))]
        try:
            return [process.wait() for process in started]
        finally:
            for process in started:
                process.kill()


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of a host that the other one cannot reach.

    ``code`` of its torchrun and how many ``seconds`` after the cut it ended (None: not within 60); ``left``: processes
    that are still there.
    """

    host: str
    code: int | None
    seconds: float | None
    left: tuple[int, ...]


def cut_off(words: Sequence[str], folder: Path, begun: Callable[[str], bool]) -> list[Ended]:
    """``membench`` on both hosts; once it has ``begun``, as what rank 0 has printed says, the cable is cut.

    What each host prints is in ``folder``, in a file of its name.

    Raises:
        CannotBe: see ``two_hosts``.
    """
    with two_hosts() as hosts:
        logs = [folder / f"{name}.log" for _, name, _ in hosts]
        started: list[subprocess.Popen[bytes]] = []
        try:
            for number, log in enumerate(logs):
                with log.open("wb") as stream:
                    command = torchrun(hosts, number, words)
                    started.append(subprocess.Popen(command, cwd=folder, stdout=stream, stderr=stream))
            while not begun(logs[0].read_text(encoding="utf-8")) and started[0].poll() is None:
                time.sleep(0.1)
            _ip("-n", hosts[1][0], "link", "set", "cable", "down")
            ended = _ended(started)
            time.sleep(1.0)  # for what ended them to end itself
            return [
                Ended(name, process.poll(), ended.get(number), _inhabitants(space))
                for number, ((space, name, _), process) in enumerate(zip(hosts, started, strict=True))
            ]
        finally:
            for space, _, _ in hosts:
                for process in _inhabitants(space):
                    os.kill(process, signal.SIGKILL)
            for process in started:
                process.wait()


def _ended(started: Sequence[subprocess.Popen[bytes]]) -> dict[int, float]:
    """Of each that ends in time, after how many seconds."""
    begin, ended = time.monotonic(), {}
    while len(ended) < len(started) and time.monotonic() - begin < _END_SECONDS:
        for number, process in enumerate(started):
            if number not in ended and process.poll() is not None:
                ended[number] = time.monotonic() - begin
        time.sleep(0.1)
    return ended


def _inhabitants(space: str) -> tuple[int, ...]:
    """All processes of a namespace."""
    told = subprocess.run(["ip", "netns", "pids", space], check=False, capture_output=True, text=True).stdout
    return tuple(map(int, told.split()))


def same(one: ResultFile, two: ResultFile) -> list[dict[str, Any]]:
    """Case by case: whether every rank gave the same answer, bit for bit, and sent as many bytes of each kind."""
    found = {record.id: record for record in two.cases}
    lines = []
    for record in one.cases:
        rounds = [each.rounds[0] for each in (record, found[record.id]) if each.rounds]
        answers = [[rank["answer_digest"] for rank in each.ranks] for each in rounds]
        sent = [
            {kind: told["sent_bytes"] for kind, told in each.communication.get("by_kind", {}).items()}
            for each in rounds
        ]
        whole = len(rounds) == 2 and all(answers) and all(each.status == "ok" for each in rounds)
        lines.append(
            {
                "case": record.case.name,
                "same_answers": whole and answers[0] == answers[1],
                "same_bytes": whole and sent[0] == sent[1],
                "hosts": sorted({rank["host"] for each in rounds[1:] for rank in each.ranks}),
                "sent_bytes": sent[0] if sent else {},
            }
        )
    return lines


def main() -> int:
    """Both runs, and what they say of each other; 0 where all is the same. Or one that is cut off; 0 where it ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenario")
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--cut", action="store_true", help="cut the cable once a case is measured")
    asked = parser.parse_args()
    changes = [word for override in asked.overrides for word in ("--set", override)]
    try:
        return _cut(asked, changes) if asked.cut else _compared(asked, changes)
    except CannotBe as why:
        print(f"two_hosts: {why}", file=sys.stderr)
        return 2


def _cut(asked: argparse.Namespace, changes: Sequence[str]) -> int:
    folder = asked.output / "cut"
    folder.mkdir(parents=True, exist_ok=True)
    scenario = Path(asked.scenario)
    words = ["run", str(scenario.resolve() if scenario.exists() else scenario), *changes, "--output", "results"]
    hosts = cut_off(words, folder, lambda printed: "[1/" in printed)
    for each in hosts:
        when = "did not end" if each.seconds is None else f"ended after {each.seconds:.0f} s with {each.code}"
        print(f"{each.host}: torchrun {when}; {len(each.left)} processes are left")
        lines = (folder / f"{each.host}.log").read_text(encoding="utf-8").splitlines()
        print(*(f"  {line}" for line in lines if line.startswith("membench:")), sep="\n")
    return 0 if all(each.seconds is not None and each.code and not each.left for each in hosts) else 1


def _compared(asked: argparse.Namespace, changes: Sequence[str]) -> int:
    results = []
    for name, hosts in (("one-host", False), ("two-hosts", True)):
        folder = asked.output / name
        words = ["run", asked.scenario, *changes, "--output", str(folder)]
        before = {*folder.glob("*.json")}
        if hosts:
            codes = on_two_hosts(words)
        else:
            alone = [sys.executable, "-m", "membench", *words, "--nproc", str(len(_HOSTS))]
            codes = [subprocess.run(alone, check=False).returncode]
        new = sorted({*folder.glob("*.json")} - before)
        if any(codes) or len(new) != 1:
            print(f"two_hosts: {name} ended with {codes}", file=sys.stderr)
            return 5
        results.append(read_result(new[0]))
    lines = same(*results)
    for line in lines:
        verdict = "the same" if line["same_answers"] and line["same_bytes"] else "NOT THE SAME"
        told = ", ".join(f"{kind} {count:g}" for kind, count in line["sent_bytes"].items())
        print(f"{line['case']} on {' and '.join(line['hosts'])}: {verdict}; bytes sent: {told}")
    return 0 if all(line["same_answers"] and line["same_bytes"] for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
