"""The prepared GPU run: its time boxes, what comes back whatever its parts do, and the wheels that it brings."""

import gzip
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks.gpu import bag_bytes, one_of_each, outputs, parts, processes, session, summary, wheels
from benchmarks.gpu.__main__ import environment_of
from benchmarks.gpu.parts import Part
from benchmarks.gpu.session import Session

ROOT = Path(__file__).parent.parent


def a_part(name, code, seconds=1.0, **given):
    return Part(name, [sys.executable, "-c", code], seconds, **given)


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_S", 0.5)
    monkeypatch.setattr(session, "_PACKING_S", 0.2)
    monkeypatch.setattr(session, "_SHORTEST_S", 0.3)


@pytest.fixture
def started(tmp_path):
    """A session of some seconds, and its OUT."""
    found = []

    def start(seconds=20.0):
        found.append(Session(tmp_path / "out", tmp_path / "scratch", seconds, ROOT, os.environ))
        return found[-1], tmp_path / "out"

    return start


def states(run):
    return {outcome.name: outcome.state for outcome in run.outcomes}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def names_in(archive):
    with tarfile.open(archive) as content:
        return content.getnames()


def test_a_failure_and_a_skip_stop_nothing(started):
    run, out = started()
    found = [
        a_part("fails", "print('no such kernel'); raise SystemExit(3)"),
        a_part("cannot start", ""),
        a_part("left out", "raise SystemExit(9)", skipped=lambda: "no ncu on the PATH"),
        a_part("writes", "print('{\"a\": 1}')", output="it.json"),
    ]
    found[1] = Part("cannot start", ["/no/such/program"], 1.0)
    assert run.run(found, lambda: ["card: none"]) is False
    assert states(run) == {"fails": "failed", "cannot start": "failed", "left out": "skipped", "writes": "passed"}
    page = (out / "SUMMARY.md").read_text()
    assert "1 passed, 2 failed, 0 stopped, 1 skipped" in page
    assert "exit code 3; no such kernel" in page and "no ncu on the PATH" in page and "card: none" in page
    assert names_in(out / "results.tar.gz") == ["it.json"]
    assert "no such kernel" in (out / "log.txt").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["SUMMARY.md", "log.txt", "results.tar.gz"]


def test_all_passed(started):
    run, _ = started()
    assert run.run([a_part("one", ""), a_part("two", "", skipped=lambda: "why")]) is True


HANGS = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, os.getpid(), flush=True)
time.sleep(600)
"""


def test_what_hangs_is_ended_with_all_that_it_started(started):
    run, out = started(seconds=8.2)
    begin = time.monotonic()
    run.run([a_part("hangs", HANGS, 1.0), a_part("next", "print('it ran')", 1.0)])
    assert time.monotonic() - begin < 12
    assert states(run) == {"hangs": "stopped", "next": "passed"}
    pids = (out / "log.txt").read_text().split("time.sleep(600)\n")[-1].split()[:2]
    assert not any(alive(pid) for pid in pids)


def test_what_has_no_time_left_is_not_begun(started):
    run, _ = started(seconds=1.0)
    assert run.run([a_part("long", "import time; time.sleep(60)", 100), a_part("late", "", 0.1)]) is False
    assert states(run) == {"long": "stopped", "late": "stopped"}


def test_the_time_is_shared_among_the_parts_to_come(started, monkeypatch):
    given = []
    monkeypatch.setattr(session, "boxed", lambda command, seconds, *rest: given.append(seconds) or 0)
    run, _ = started(seconds=100.2)
    run.run([a_part("one", "", 30), a_part("two", "", 10), a_part("three", "", 10)])
    assert given == pytest.approx([60, 50, 100], abs=2)  # what one does not need, the others get


def test_a_killed_run_leaves_what_was_finished(tmp_path):
    program = f"""
import os, sys
from pathlib import Path
from benchmarks.gpu.parts import Part
from benchmarks.gpu.session import Session
run = Session(Path({str(tmp_path / "out")!r}), Path({str(tmp_path / "scratch")!r}), 60, Path("."), os.environ)
run.run([Part("one", [sys.executable, "-c", "print(1)"], 50, "one.json"), Part("two", ["sleep", "600"], 50)])
"""
    killed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for line in killed.stdout:
        if " two, " in line:
            break
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "| one | passed |" in (tmp_path / "out/SUMMARY.md").read_text()
    assert names_in(tmp_path / "out/results.tar.gz") == ["one.json"]


def test_a_terminated_run_says_so(started, monkeypatch):
    run, out = started()

    def ended(*given):
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(session, "boxed", ended)
    with pytest.raises(KeyboardInterrupt):
        run.run([a_part("one", "")])
    assert "the run was ended: KeyboardInterrupt SIGTERM" in (out / "SUMMARY.md").read_text()


@pytest.mark.parametrize("words, said", [(["--minutes", "0"], "not between"), (["--minutes", "x"], "--minutes")])
def test_bad_input_is_one_line(words, said, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", str(tmp_path), *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


def test_an_out_that_cannot_be_written_is_said_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", str(tmp_path / "file/out")], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 2 and "file/out: Not a directory" in done.stderr and "Traceback" not in done.stderr


def refuse(path, content):
    raise OSError(30, "Read-only file system")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "replace", refuse)
    with pytest.raises(OSError, match="Read-only"):
        Session(tmp_path, tmp_path / "scratch", 5, ROOT, os.environ)


def test_what_could_not_be_written_did_not_pass(started, monkeypatch):
    run, _ = started()
    monkeypatch.setattr(outputs, "replace", refuse)
    assert run.run([a_part("one", "")]) is False
    assert states(run) == {"one": "passed"}


def test_one_part_without_time_is_enough_to_fail(started):
    run, _ = started(seconds=10.0)
    assert run.run([a_part("first", "", 10), a_part("late", "", 0.01), a_part("last", "", 10)]) is False
    assert states(run) == {"first": "passed", "late": "stopped", "last": "passed"}


def test_parts_leave_no_bytecode_in_the_checkout(tmp_path):
    assert environment_of(tmp_path)["PYTHONDONTWRITEBYTECODE"] == "1"


def test_a_program_for_cuda_is_no_part_of_a_cpu(tmp_path):
    assert "dram counters" not in {part.name for part in parts.parts("cpu", tmp_path, tmp_path)}
    assert "dram counters" in {part.name for part in parts.parts("cuda", tmp_path, tmp_path)}


def test_a_log_too_long_loses_its_middle(tmp_path):
    text = b"begin" + b"x" * 10_000 + b"end"
    (tmp_path / "log").write_bytes(text)
    short = outputs.excerpt(tmp_path / "log", 1000)
    assert len(short) <= 1000 and short.startswith(b"begin") and short.endswith(b"end") and b"left out" in short
    assert outputs.excerpt(tmp_path / "log", 20_000) == text


def test_the_largest_files_stay_where_an_archive_would_be_too_large(tmp_path):
    (tmp_path / "small.json").write_text("1")
    (tmp_path / "large.bin").write_bytes(os.urandom(5000))
    archive, left_out = outputs.Archive(tmp_path, limit=2000).packed()
    assert len(archive) <= 2000 and left_out == ["large.bin"]
    assert outputs.Archive(tmp_path).packed()[1] == []


def test_a_file_too_large_to_try_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(outputs, "_RAW_BYTES", 1000)
    (tmp_path / "zeros.bin").write_bytes(bytes(1001))  # compressed, it would be small
    assert outputs.Archive(tmp_path).packed()[1] == ["zeros.bin"]


def test_only_what_changed_is_compressed_again(tmp_path, monkeypatch):
    names, compress = [], gzip.compress
    monkeypatch.setattr(
        outputs.gzip, "compress", lambda text, **given: names.append(text[:1]) or compress(text, **given)
    )
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two and more")
    archive = outputs.Archive(tmp_path)
    assert archive.packed() == archive.packed()
    assert names == [b"a", b"b"]  # a tar entry begins with its name
    (tmp_path / "b").write_text("three and more")
    packed, _ = archive.packed()
    assert names == [b"a", b"b", b"b"]
    with tarfile.open(fileobj=io.BytesIO(packed)) as content:
        assert {name: content.extractfile(name).read() for name in content.getnames()} == {
            "a": b"one",
            "b": b"three and more",
        }
    (tmp_path / "b").unlink()
    with tarfile.open(fileobj=io.BytesIO(archive.packed()[0])) as content:
        assert content.getnames() == ["a"]


def test_standard_tools_read_the_archive(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / ("long" * 40)).write_bytes(bytes(700))
    (tmp_path / "in/b").write_text("two")
    (tmp_path / "it.tar.gz").write_bytes(outputs.Archive(tmp_path / "in").packed()[0])
    done = subprocess.run(["tar", "tzf", str(tmp_path / "it.tar.gz")], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["b", "long" * 40] and not done.stderr


def test_half_of_a_json_file_does_not_come_back(started):
    run, out = started(seconds=9.0)
    half = "import time; print('{\"a\":', flush=True); time.sleep(60)"
    whole = a_part("whole", "print('{}')", 4.0, output="whole.json")
    lines = a_part("lines", "import time; print('{}', flush=True); time.sleep(60)", 1.0, output="lines.jsonl")
    broken = a_part("broken", "print('{')", 4.0, output="broken.json")
    assert run.run([a_part("half", half, 1.0, output="half.json"), whole, broken, lines]) is False
    assert states(run) == {"half": "stopped", "whole": "passed", "broken": "failed", "lines": "stopped"}
    assert sorted(names_in(out / "results.tar.gz")) == ["lines.jsonl", "whole.json"]
    assert "no half.json: it is not whole" in (out / "SUMMARY.md").read_text()


def test_a_note_names_a_result_file_as_it_comes_back(started):
    run, _ = started()
    run.run([a_part("one", f"print({str(run.results / 'it.json')!r})")])
    assert [outcome.note for outcome in run.outcomes] == ["it.json"]


def test_an_error_outside_a_box_is_a_failed_part(started):
    """The machine's lines, and whether a part can run, are found in this process."""
    run, out = started()

    def breaks():
        raise KeyError("ncu")

    assert run.run([a_part("one", "", skipped=breaks), a_part("two", "")], breaks) is False
    assert states(run) == {"machine": "failed", "one": "failed", "two": "passed"}
    assert "KeyError 'ncu'" in (out / "SUMMARY.md").read_text()


def test_a_broken_scenario_is_found_in_its_own_part(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "ROOT", tmp_path)  # no scenarios, no tests
    monkeypatch.setattr(one_of_each, "ROOT", tmp_path)
    assert parts.parts("cuda", tmp_path, tmp_path)
    with pytest.raises(FileNotFoundError):
        one_of_each.write(tmp_path / "it.yaml")


def test_one_of_each_runs_membench_on_what_it_wrote(tmp_path):
    file = tmp_path / "it.yaml"
    command = [sys.executable, "-m", "benchmarks.gpu.one_of_each", str(file), "plan", str(file), "--hardware", "h100x1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "COLUMNS": "300"})
    assert done.returncode == 0, done.stderr
    cases = [line.split() for line in done.stdout.splitlines() if " forward" in line]
    assert len(cases) == 20 and {words[-1] for words in cases} == {"yes"}  # each fits one card


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_command_at_any_moment(tmp_path, number):
    """Before the first part too: with a line, a summary, no traceback and nothing left behind."""
    program = f"""
import os, signal, sys
from benchmarks.gpu import __main__
signal.signal({int(number)}, signal.SIG_DFL)  # however these tests were started
__main__.machine_lines = lambda: os.kill(os.getpid(), {int(number)})
sys.argv = ["gpu", {str(tmp_path / "out")!r}]
sys.exit(__main__.main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 1 and not done.stderr
    assert f"ended: {number.name}" in done.stdout
    assert number.name in (tmp_path / "out/SUMMARY.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_signal_that_is_ignored_stays_so(tmp_path):
    """Under nohup a closed terminal ends nothing."""
    program = f"""
import os, signal, sys
from benchmarks.gpu import __main__
signal.signal(signal.SIGHUP, signal.SIG_IGN)
__main__.machine_lines = lambda: os.kill(os.getpid(), signal.SIGHUP) or []
__main__.parts = lambda *given: []
sys.argv = ["gpu", {str(tmp_path / "out")!r}]
sys.exit(__main__.main())
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=ROOT).returncode == 0


def test_nothing_stays_where_out_cannot_be_written(tmp_path):
    (tmp_path / "out").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_figures_come_from_what_can_be_read(tmp_path):
    case = {"status": "ok", "case": {"arm": "moe", "mode": "decode", "tokens": 8}, "metrics": {"latency_ms_p50": 2.5}}
    point = {"workload.tokens": 8, "every_arm.num_keys": "64K", "workload.routing": {"kind": "uniform"}}
    cases = [case, {**case, "planned": {"point": point}}, {**case, "status": "oom"}]
    (tmp_path / "decode_2026.json").write_text(json.dumps({"cases": cases}))
    (tmp_path / "half.json").write_text('{"cases": [')
    (tmp_path / "clock_check.json").write_text(json.dumps({"cases": [{"ratio": 0.99}, {"ratio": 1.01}]}))
    assert summary.figures(tmp_path) == [
        "clock over the other clock: 0.990 to 1.010 in 2 cases",
        "decode_2026.json: moe decode 8 tokens: 2.5 ms",
        "decode_2026.json: moe decode 8 tokens (num_keys 64K): 2.5 ms",
        "decode_2026.json: 1 cases not measured",
        "half.json: not readable (JSONDecodeError)",
    ]


def test_figures_of_a_real_result_file(tmp_path):
    shutil.copy(next((ROOT / "results").glob("iso_flop_8b_*.json")), tmp_path)
    found = summary.figures(tmp_path)
    assert any(re.fullmatch(r"iso_flop_8b: dense forward 32 tokens: [\d.]+ ms, mfu .*, mbu .*", line) for line in found)


def test_counters_are_summed_in_bytes():
    text = """==PROF== Connected
"ID","Kernel Name","dram__bytes_read.sum","dram__bytes_write.sum"
"","","Mbyte","Kbyte"
"0","bag","1,000.5","8"
"1","bag","1","8"
"""
    assert summary.counted_bytes(text) == pytest.approx(1001.5e6 + 16e3)
    with pytest.raises(ValueError, match="no DRAM counters"):
        summary.counted_bytes("==ERROR== no permission")


def test_bytes_expected_of_the_bag_are_those_of_the_rows_it_reads():
    spec = bag_bytes.WeightedBagSpec(model_dim=64, num_keys=64**2, dtype="float32")
    routing = bag_bytes.RoutingConfig(kind="uniform")
    case = bag_bytes.Case(arm="bag", level="op", mode="forward", layer=spec, tokens=8, routing=routing)
    layer = bag_bytes.build(spec)
    rows = 8 * 4 * 32 * 64 * 4
    assert (
        0.8 * rows < bag_bytes.expected(case, layer, bag_bytes.make_inputs(layer, case, 2, "cpu"), "cpu") < 1.1 * rows
    )


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_part_has_its_time_and_writes_under_out(device, tmp_path):
    found = parts.parts(device, tmp_path, tmp_path / "site")
    assert len({part.name for part in found}) == len(found)
    assert all(part.seconds > 0 for part in found)
    for part in found:
        if "run" in part.command:
            assert part.command[part.command.index("--output") + 1] == str(tmp_path)


def test_what_it_runs_on_a_gpu_is_a_scenario(tmp_path, monkeypatch):
    """Settings that a scenario refuses would be found on the GPU, where every minute counts."""
    from membench.scenario.scenario import load_scenario

    found = [part.command for part in parts.parts("cuda", tmp_path, tmp_path) if "run" in part.command]
    one_of_each.write(tmp_path / "iso_flop_8b.yaml")
    for command in found:
        settings = [command[at + 1] for at, word in enumerate(command) if word == "--set"]
        assert load_scenario(command[command.index("run") + 1], settings)
    assert len(found) == 7


@pytest.mark.parametrize("name", ["op_bag", "op_top_k", "op_experts", "op_expert_rows"])
def test_an_operators_measurements_fit_a_card_and_a_box_of_seconds(tmp_path, name):
    (part,) = (part for part in parts.parts("cuda", tmp_path, tmp_path) if part.name == name)
    settings = part.command[part.command.index("--set") :]
    command = [sys.executable, "-m", "membench", "plan", name, "--hardware", "h100x1", "--json", *settings]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    (plan,) = json.loads(done.stdout)["plans"]
    assert 12 <= len(plan["cases"]) <= 16
    assert {case["skipped"] for case in plan["cases"]} == {None}


def test_only_files_with_gpu_tests_are_collected():
    found = parts.marked_files()
    assert "tests/test_gpu.py" in found and "tests/test_records.py" not in found


def a_wheel(folder, name, version, *needs):
    path = folder / f"{name}-{version}-py3-none-any.whl"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(lines))
        archive.writestr(f"{name}.py", "")


def test_only_what_this_python_lacks_is_unpacked(tmp_path, monkeypatch):
    folder, target = tmp_path / "gpu-wheels", tmp_path / "site"
    folder.mkdir()
    a_wheel(folder, "needed_one", "2.0", "needed_two>=1", "torch", 'other; extra == "more"')
    a_wheel(folder, "needed_two", "1.0")
    a_wheel(folder, "pytest", "99.0")
    monkeypatch.setattr(wheels, "FOLDER", folder)
    monkeypatch.setattr(wheels, "direct_requirements", lambda: ["needed-one>=1", "pytest>=8", "nowhere>=3"])
    assert wheels.provide(target) == "missing: nowhere>=3; from gpu-wheels/: needed-one, needed-two"
    assert sorted(path.name for path in target.glob("*.py")) == ["needed_one.py", "needed_two.py"]


def test_what_the_machine_should_have_is_told_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "FOLDER", tmp_path)
    here = wheels.metadata.version

    def version(name):
        if name in ("torch", "scipy"):
            raise wheels.metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else here(name)  # too old

    monkeypatch.setattr(wheels.metadata, "version", version)
    told = wheels.provide(tmp_path / "site")
    assert re.fullmatch(r"missing: numpy\S+, scipy\S+, torch\S+; from .*: nothing", told), told


def test_a_broken_wheel_is_missing_and_the_others_are_unpacked(tmp_path, monkeypatch):
    (tmp_path / "needed_two-1.0-py3-none-any.whl").write_text("no zip")
    a_wheel(tmp_path, "needed_one", "2.0", "needed_two")
    monkeypatch.setattr(wheels, "FOLDER", tmp_path)
    monkeypatch.setattr(wheels, "direct_requirements", lambda: ["needed-one", "needed-two>=1"])
    told = wheels.provide(tmp_path / "site")
    assert "(needed_two-1.0-py3-none-any.whl: File is not a zip file); " in told
    assert told.endswith(": needed-one")


def test_requirements_are_read_without_packaging():
    """In a process of its own: pip, once imported, keeps setuptools from what torch's compiler needs of it."""
    code = (
        "import sys; sys.modules['packaging.requirements'] = None\n"
        "from benchmarks.gpu.wheels import _satisfied\n"
        "assert _satisfied('pytest>=1') and not _satisfied('pytest>=99')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=wheels.ROOT)


def test_wheels_follow_from_the_projects_own_files():
    found = wheels.wanted()
    versions = dict(line.split("==") for line in found)
    assert {"pydantic", "pydantic-core", "plotly", "pytest", "jsonschema", "rpds-py"} <= set(versions)
    assert not [name for name in versions if name in ("torch", "triton", "numpy") or name.startswith("nvidia-c")]
    assert all(wheels.pinned()[name] == version for name, version in versions.items())


def test_the_largest_wheel_is_left_out_where_all_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "LIMIT_MIB", 3000 / 2**20)
    for name, size in (("a.whl", 1000), ("b.whl", 2500)):
        (tmp_path / name).write_bytes(bytes(size))
    kept, left_out = wheels.fitting(list(tmp_path.iterdir()))
    assert [path.name for path in kept] == ["a.whl"] and [path.name for path in left_out] == ["b.whl"]
