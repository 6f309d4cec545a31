"""Cases that several processes share: measured together, ended together, told in one record."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

import membench
from benchmarks.two_hosts import CannotBe, cut_off, on_two_hosts, same
from membench.cli.ranks_option import checked_ranks
from membench.errors import UsageError
from membench.planning.planner import make_plan
from membench.processes.line import Line, RankLost
from membench.processes.remote import RunOver
from membench.results.records import Run, read_result
from membench.running import follower
from membench.running.follower import follow
from membench.running.hello import Hello, difference
from membench.running.journal import Journal
from membench.running.launched import LaunchedRanks
from membench.running.launched_place import Place, place_of
from membench.running.of_ranks import communication_of
from membench.running.ranks import LocalRanks
from membench.running.runner import Runner
from membench.scenario.scenario import load_scenario, parse_scenario
from membench.tables.results import result_tables

SCENARIO = """schema_version: 1
name: shared
model_dim: 64
dtype: float32
arms:
  columns: {layer: memory, num_keys: 1024, key_dim: 16, top_k: 4, shared_by: columns}
workload: {tokens: 8, modes: [forward_backward]}
fit: {policy: skip}
measure:
  {rounds: 2, min_samples: 5, max_seconds: 0.2, warmup_seconds: 0, retake_seconds: 0, timeout_seconds: 100}
"""
RANKS = 2


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rank_of(rank, words, port, log):
    """One of two ranks of this host, as torchrun starts them."""
    place = {"RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": RANKS}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    variables = {**os.environ, **{name: str(value) for name, value in place.items()}}
    with log.open("w") as stream:
        return subprocess.Popen([sys.executable, "-m", "membench", *words], env=variables, stderr=stream, stdout=stream)


def wait_for(condition, seconds=200):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def stats():
    """(state, parent) of every process by number."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            found[int(path.parent.name)] = state, int(parent)
    return found


def children_of(process):
    return [number for number, (_, parent) in stats().items() if parent == process.pid]


def is_there(number):
    """Whether it runs: one that nobody has waited for yet does not."""
    return stats().get(number, ("Z", 0))[0] != "Z"


def both_workers(*ranks):
    """The one process that each rank measures with, once they are those of the round that is under way."""
    found = []

    def settled():
        before, found[:] = [*found], [child for rank in ranks for child in children_of(rank)]
        time.sleep(0.7)
        return len(found) == len(ranks) and found == before

    wait_for(settled)
    return found


@pytest.fixture(scope="module")
def after_a_kill(tmp_path_factory):
    """What two ranks left of which one was killed in the second round; and the result once they went on."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "shared.yaml").write_text(SCENARIO)
    words = ["run", str(folder / "shared.yaml"), "--output", str(folder / "results")]
    logs, port = [folder / f"{rank}.log" for rank in range(RANKS)], free_port()
    first, second = (rank_of(rank, words, port, log) for rank, log in enumerate(logs))
    wait_for(lambda: "[1/2" in logs[0].read_text() or first.poll() is not None)
    workers = both_workers(first, second)
    second.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    code = first.wait(60)
    left = {
        "code": code,
        "seconds": time.monotonic() - killed_at,
        "log": logs[0].read_text(),
        "journals": [*(folder / "results").glob("*.partial.jsonl")],
        "workers": workers,
    }
    second.wait()
    left["rounds"] = [Journal.read(path)[0].rounds for path in left["journals"]]
    wait_for(lambda: not any(map(is_there, workers)), 10)
    port = free_port()
    again = [rank_of(rank, [*words, "--resume"], port, log) for rank, log in enumerate(logs)]
    assert [process.wait(200) for process in again] == [0, 0], logs[0].read_text()
    (path,) = (folder / "results").glob("*.json")
    return left, read_result(path), path


def test_a_rank_that_is_killed_ends_the_run_in_one_line(after_a_kill):
    left, _, _ = after_a_kill
    assert left["code"] == 5
    assert left["seconds"] < 60
    (line,) = [line for line in left["log"].splitlines() if line.startswith("membench:")]
    assert line.startswith("membench: rank 1 of 2 on ")
    assert "has ended" in line
    assert len(left["workers"]) == RANKS
    assert "Traceback" not in left["log"]


def test_finished_rounds_are_kept_and_the_run_goes_on(after_a_kill):
    left, result, _ = after_a_kill
    (rounds,) = left["rounds"]
    assert [[r.number for r in of_case] for of_case in rounds.values()] == [[0]]
    (record,) = result.cases
    assert record.status == "ok"
    assert [r.number for r in record.rounds] == [0, 1]
    assert record.rounds[0].samples_s == next(iter(rounds.values()))[0].samples_s
    assert record.rounds[1].reference["bit_equal_to_round"] == 0  # of both ranks' answers
    assert result.run.resumed


def test_a_record_tells_of_every_rank(after_a_kill):
    _, result, _ = after_a_kill
    (record,) = result.cases
    for found in record.rounds:
        assert [rank["rank"] for rank in found.ranks] == [0, 1]
        assert len({rank["answer_digest"] for rank in found.ranks}) == RANKS  # each has tokens of its own
        slowest = [max(each) for each in zip(*(rank["samples_s"] for rank in found.ranks), strict=True)]
        assert found.samples_s == slowest
        assert found.threads >= 1
        sent = {k: told["sent_bytes"] for k, told in found.communication["by_kind"].items()}
        assert sent == found.cost["communication_bytes"] == record.planned["communication_bytes"]
        assert found.communication["sent_bytes"] == sum(sent.values())
        assert found.communication["ms"] > 0
        assert set(found.reference["errors"]) > {"output", "x", "table.weight", "query"}
    metrics = record.metrics
    assert metrics["step_ms"] == metrics["latency_ms_p50"]
    assert metrics["compute_ms"] == max(0.0, metrics["latency_ms_p50"] - metrics["communication_ms"])
    assert metrics["rank_spread"] >= 0
    assert record.case.shared_by == "columns"
    assert record.case.ranks == RANKS


def test_tables_frames_and_gates_read_it_as_any_other(after_a_kill, tmp_path):
    _, result, path = after_a_kill
    titles = {table.title: table for table in result_tables(result)}
    assert any("shared by 2 ranks on 1 host" in table.caption for table in titles.values())
    kinds = [row[3] for row in titles["What ranks send each other"].rows]
    assert kinds == ["all-gather", "all-to-all", "reduce-scatter", "all-reduce"]
    frame = membench.read_results([path])
    assert list(frame["shared_by"]) == ["columns"]
    assert list(frame["ranks"]) == [RANKS]
    assert list(frame["sent_bytes"]) == [result.cases[0].metrics["sent_bytes"]]
    whole = [sys.executable, "-m", "membench"]
    again = tmp_path / "again.json"
    again.write_text(path.read_text())
    compared = subprocess.run([*whole, "compare", path, again, "--json"], capture_output=True, text=True, check=False)
    assert result.cases[0].id in compared.stdout
    page = tmp_path / "page.html"
    subprocess.run([*whole, "report", path, "--output", page], check=True, capture_output=True)
    assert "columns" in page.read_text()


def test_two_hosts_measure_the_same(after_a_kill, tmp_path):
    _, result, _ = after_a_kill
    (tmp_path / "shared.yaml").write_text(SCENARIO)
    words = ["run", "shared.yaml", "--output", "results", "--set", "measure.rounds=1"]
    paths = {"PYTHONPATH": str(os.environ.get("PYTHONPATH", ""))}
    try:
        with (tmp_path / "log").open("w") as log:
            how = {"cwd": tmp_path, "stdout": log, "stderr": log, "env": {**os.environ, **paths}}
            codes = on_two_hosts(words, **how)
    except CannotBe as why:
        pytest.skip(str(why))
    assert codes == [0, 0], (tmp_path / "log").read_text()
    (path,) = (tmp_path / "results").glob("*.json")
    (line,) = same(result, read_result(path))
    assert line["same_answers"], line
    assert line["same_bytes"], line
    assert line["hosts"] == ["host-a", "host-b"]


@pytest.mark.slow
def test_hosts_that_cannot_reach_each_other_end_and_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / "shared.yaml").write_text(SCENARIO)
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    try:
        hosts = cut_off(["run", "shared.yaml", "--output", "results"], tmp_path, lambda said: "measurements in" in said)
    except CannotBe as why:
        pytest.skip(str(why))
    for host in hosts:
        assert host.seconds is not None and host.seconds < 60, host
        assert host.code, host
        assert not host.left, host
    said = [
        [line for line in (tmp_path / f"{host.host}.log").read_text().splitlines() if line.startswith("membench:")]
        for host in hosts
    ]
    assert [line for line in said[0] if "rank 1 of 2 on host-b" in line] == said[0] != []
    assert said[1][0].startswith("membench: rank 1 of 2: rank 0 at ") and said[1][0].endswith("; this rank ends too")
    assert said[1][1].endswith(  # its agent asks a store that is out of reach, and hears no signal any more
        "waits for a host that cannot be reached, and was ended"
    )


def test_a_process_that_is_killed_takes_only_its_case_with_it(tmp_path):
    scenario = parse_scenario(SCENARIO, "shared.yaml", ["workload.modes=[forward,prefill]", "measure.rounds=1"])
    plan, ranks = make_plan(scenario, processes=RANKS), LocalRanks(RANKS)
    run = Run.model_construct(scenario="shared")
    journal, team, teams = Journal.create(tmp_path / "shared.partial.jsonl", run, {}), ranks.team, []

    def watched(*given):
        teams.append(team(*given))
        return teams[-1]

    def kill_once(doing):
        if doing == "columns forward: sampling" and len(teams) == 1:
            os.kill(teams[0]._members[1]._process.pid, signal.SIGKILL)

    ranks.team = watched
    Runner(plan, scenario.measure, "cpu", journal, kill_once, lambda *_: None, ranks).run()
    first, second = (journal.latest(planned.id)[0] for planned in plan.cases)
    assert first.status == "oom"
    assert first.reason.startswith("rank 1 of 2: the process was killed")
    assert second.status == "ok"
    assert len(teams) == 2
    assert len(second.ranks) == RANKS
    assert all(member._process.poll() is not None for each in teams for member in each._members)


ALONE = Place(0, RANKS, 0, RANKS, "127.0.0.1", 0)


def met(theirs=None, asked=("same", "same"), there=None, seconds=5.0):
    """What rank 0 raises, and what rank 1 is told, where rank 1 is changed so."""
    place, told = replace(ALONE, port=free_port()), []
    other = replace(place, rank=1, local_rank=1, **(theirs or {}))

    def be_rank_1():
        try:
            told.append(follow(other, asked[1], seconds))
        except (UsageError, RankLost) as error:
            told.append(error)

    thread = threading.Thread(target=be_rank_1)
    if there is None:
        thread.start()
    try:
        with LaunchedRanks(place, asked[0], seconds) as ranks:
            assert set(ranks.lines) == {1}
            raised = None
    except UsageError as error:
        raised = str(error)
    if there is None:
        thread.join(30)
        assert not thread.is_alive()
    return raised, (told or [None])[0]


def test_ranks_that_measure_the_same_meet_and_end_together():
    assert met() == (None, RunOver(code=0))


@pytest.mark.parametrize(
    ("theirs", "asked", "said"),
    [
        ({"ranks": 3}, ("same", "same"), "was started as one of 3 ranks, rank 0 as one of 2"),
        ({}, ("same", "other"), "has another text of the scenario, or other options, than rank 0"),
        ({}, ("same", UsageError("no such key", key="arms.x")), "rank 1 of 2 on"),
    ],
)
def test_ranks_that_differ_end_in_one_line_each(theirs, asked, said):
    raised, told = met(theirs, asked)
    assert said in raised
    if isinstance(told, RunOver):
        assert told == RunOver(code=2, line=raised)
    else:
        assert isinstance(told, UsageError)


def test_another_membench_is_refused(monkeypatch):
    hello = {"token": "", "rank": 0, "ranks": 2, "local_rank": 0, "local_ranks": 1, "host": "a"}
    mine = Hello(**hello, membench="1", torch="2", asked="x")
    assert difference(mine, mine) is None
    for name in ("membench", "torch", "asked"):
        found = difference(mine, mine.model_copy(update={name: "other", "rank": 1, "host": "b"}))
        assert found.startswith("rank 1 on b "), name
    made = follower.hello_of
    monkeypatch.setattr(follower, "hello_of", lambda *given: made(*given).model_copy(update={"membench": "9.9.9"}))
    raised, told = met()
    assert "has membench 9.9.9" in raised
    assert told.line == raised


def test_a_rank_that_does_not_come_ends_the_run():
    begin = time.monotonic()
    raised, _ = met(there=False, seconds=1.0)
    assert raised == "of 2 ranks 1 did not come within 1 s"
    with pytest.raises(UsageError, match=r"127.0.0.1:\d+ cannot be reached within 1 s"):
        follow(replace(ALONE, rank=1, port=free_port()), "same", 1.0)
    assert time.monotonic() - begin < 20


def test_a_host_that_falls_silent_is_lost():
    here, there = socket.create_server(("127.0.0.1", 0)), socket.socket()
    there.connect(here.getsockname())
    end, _ = here.accept()
    line = Line(end, "rank 1 of 2 on b")
    line.silence_seconds = 0.3
    with pytest.raises(RankLost, match=r"rank 1 of 2 on b was not heard of for 0.3 s"):
        while True:
            assert line.said_within(0.05) is None
    there.close()
    with pytest.raises(RankLost, match="has ended"):
        while True:
            line.said_within(0.05)
    line.close()
    here.close()


TORCHRUN = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "a",
    "MASTER_PORT": "29500",
}


def test_the_place_is_what_torchrun_says():
    assert place_of({}) is None
    assert place_of({"MASTER_ADDR": "a"}) is None
    assert place_of(TORCHRUN) == Place(1, 4, 1, 2, "a", 29500)
    for wrong, said in (
        ({"WORLD_SIZE": ""}, "RANK: is set, but not WORLD_SIZE: torchrun sets all"),
        ({"MASTER_PORT": "x"}, "MASTER_PORT: should be a whole number, not 'x'"),
        ({"RANK": "4"}, "RANK: is 4 of WORLD_SIZE 4: ranks count from 0"),
        ({"LOCAL_RANK": "2"}, "LOCAL_RANK: is 2 of LOCAL_WORLD_SIZE 2"),
    ):
        with pytest.raises(UsageError) as error:
            place_of({**TORCHRUN, **wrong})
        assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["arms.columns.shared_by=rowz"], "no layer is shared by 'rowz'; did you mean 'rows'?"),
        (["arms.columns.shared_by=experts"], "a memory layer cannot be shared by experts: columns or rows"),
        (["level=op", "arms={k: {op: key_scores, num_keys: 16, key_dim: 8, shared_by: rows}}"], "this is op"),
        ([], "ranks share this layer: say how many with --nproc P"),
    ],
)
def test_how_a_layer_is_shared_is_said_right(changes, said):
    with pytest.raises(UsageError) as error:
        make_plan(parse_scenario(SCENARIO, "shared.yaml", changes), processes=2 if changes else None)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_shards_that_cannot_be_cut_are_skipped_and_say_why():
    (planned,) = make_plan(parse_scenario(SCENARIO, "shared.yaml"), processes=3).cases
    assert planned.skipped == "P = 3: value rows of 64 columns cannot be cut into 3 equal column shards"
    for ranks in (0, -1, 257):
        with pytest.raises(UsageError, match=r"--nproc: .* from 1 to 256"):
            checked_ranks(ranks)


def test_how_it_is_shared_and_by_how_many_is_part_of_a_case():
    ids = set()
    for ranks in (2, 4):
        for way in ("columns", "rows"):
            scenario = parse_scenario(SCENARIO, "shared.yaml", [f"arms.columns.shared_by={way}"])
            ids.add(make_plan(scenario, processes=ranks).cases[0].id)
    assert len(ids) == 4
    alone = load_scenario("quickstart")
    shared = {planned.case.arm: planned.case for planned in make_plan(alone, processes=2).cases}
    assert {arm: case.shared_by for arm, case in shared.items()} == {
        "dense": "replicas",
        "memory": "columns",
        "memory_companion": "columns",
        "moe_top8": "experts",
        "peer_companion": "columns",
    }


def test_a_call_takes_as_long_as_the_rank_that_waits_least():
    def calls(*seconds):
        kinds = ("all_gather", "all_to_all", "all_reduce")
        return [
            {"kind": kind, "sent_bytes": 100.0 * (number + 1), "seconds": list(each)}
            for number, (kind, each) in enumerate(zip(kinds, seconds, strict=True))
        ]

    found = communication_of([calls([2, 2], [3, 9], [1, 1]), calls([1, 5], [4, 8], [1, 1])])
    assert found["by_kind"]["all_gather"] == {"calls": 1, "sent_bytes": 100.0, "ms": 1500.0}
    assert found["ms"] == 1e3 * (5 + 11) / 2
    assert found["waiting_ms"] == 1e3 * ((6 - 5) + (13 - 11)) / 2
    assert found["sent_bytes"] == 600.0
    assert json.dumps(found)
