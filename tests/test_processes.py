"""Processes of ours: their own channel, our code first and the user's last, signals left to the caller."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from talkative_process import Did, Do

from membench.errors import reason_of
from membench.layers.external import load_factory
from membench.processes.channel import Channel, Failed, read_message
from membench.processes.child import ChildProcess
from membench.processes.signals import ended_as_interrupted
from membench.processes.working_folder import search_working_folder_last

HERE = Path(__file__).parent
ROOT = HERE.parent


@pytest.fixture
def start(monkeypatch):
    """Starts the talkative process; all of them are ended."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    started = []

    def starting(**how):
        started.append(ChildProcess("talkative_process", **{"timeout_seconds": 60, **how}))
        return started[-1]

    yield starting
    for process in started:
        process.__exit__()


@pytest.fixture
def sitecustomize_that_prints(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys\nprint('hello')\nprint('{}', file=sys.stderr)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.parametrize("what", ["print", "close"])
def test_standard_output_is_no_wire(what, sitecustomize_that_prints, start):
    process = start()
    for _ in range(2):
        assert isinstance(process.ask(Do(what="print"), Did), Did)
    answer = process.ask(Do(what=what), Did)
    assert isinstance(answer, Did)
    assert "lie" not in answer.found


def test_devices_are_described_under_a_sitecustomize_that_prints(sitecustomize_that_prints):
    from membench.machine.provenance import probe_environment

    assert probe_environment("cpu")["device"]["type"] == "cpu"


def test_a_long_question_does_not_wait_for_one_that_never_listens(start, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text("import time, sys\nif 'talkative_process' in sys.argv: time.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    answer = start(timeout_seconds=1).ask(Do(what="print", padding="x" * 2**22), Did)
    assert isinstance(answer, Failed)
    assert answer.status == "timeout"


def test_a_long_question_is_heard(start):
    assert isinstance(start().ask(Do(what="print", padding="x" * 2**22), Did), Did)


def test_what_is_raised_is_one_line_and_the_process_goes_on(start):
    process = start()
    assert isinstance(process.ask(Do(what="print"), Did), Did)
    assert process.ask(Do(what="raise"), Did) == Failed(status="error", reason="ValueError: asked for it")
    answer = process.ask(Do(what="answer with no number"), Did)
    assert "not JSON compliant" in answer.reason
    assert isinstance(process.ask(Do(what="print"), Did), Did)


@pytest.mark.parametrize("questions", [["raise"], ["print", "cuda"]])
def test_what_stays_with_a_process_is_its_last(questions, start):
    """All other questions build upon the first; an error of CUDA comes back at every call."""
    process = start()
    *_, answer = [process.ask(Do(what=what), Did) for what in questions]
    assert isinstance(answer, Failed)
    assert answer.last
    assert process.ask(Do(what="print"), Did) is answer


@pytest.mark.parametrize("what", ["die", "die and leave a child"])
def test_a_death_is_noticed_at_once(what, start):
    """Also where a process that it started holds its end of the channel open."""
    process, begin = start(timeout_seconds=300), time.monotonic()
    answer = process.ask(Do(what=what), Did)
    assert isinstance(answer, Failed)
    assert "the process ended with exit code" in answer.reason
    assert time.monotonic() - begin < 60
    assert process.ask(Do(what="print"), Did) is process.dead


def test_a_process_that_closes_the_channel_and_goes_on_is_ended(start, monkeypatch):
    monkeypatch.setattr("membench.processes.child._END_SECONDS", 0.5)
    answer = start(timeout_seconds=300).ask(Do(what="close every descriptor"), Did)
    assert answer == Failed(status="error", reason="the process closed the channel that it answers on", last=True)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no files in memory here")
def test_no_folder_for_temporary_files_is_no_failure(start, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.TemporaryFile", nowhere)
    process = start()
    assert isinstance(process.ask(Do(what="print"), Did), Did)
    assert isinstance(process.ask(Do(what="die"), Did), Failed)


@pytest.mark.skipif(not hasattr(signal, "SIGRTMIN"), reason="no real-time signals here")
def test_a_signal_without_a_name_is_a_reason_too(start):
    answer = start().ask(Do(what="die of a real-time signal"), Did)
    assert isinstance(answer, Failed)
    assert answer.reason.startswith("the process ended with signal 40")


def test_a_question_that_is_not_understood_is_said_so(start):
    answer = start().ask(Did(found={}), Did)
    assert isinstance(answer, Failed)
    assert "expected" in answer.reason


def test_nan_is_never_sent():
    here, there = Channel.pair()
    with there:
        with pytest.raises(ValueError, match="not JSON compliant"):
            here.send(Did(found={"loss": float("nan")}))
        here.close()
    with pytest.raises(ValueError, match="is expected"):
        read_message({"message": "Gone"}, [Did])


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """A working folder with files of the names of ours, of our libraries', and of Python's."""
    folder = tmp_path / "mine"
    (folder / "layers").mkdir(parents=True)
    for name in ("torch", "random", "json", "typing", "yaml", "typer", "numpy", "socket", "multiprocessing"):
        (folder / f"{name}.py").write_text("raise RuntimeError('a file of the user')\n")
    (folder / "mine_only.py").write_text("")
    (folder / "layers" / "__init__.py").write_text("")
    (folder / "layers" / "parts.py").write_text(
        "from torch import nn\n"
        "class Square(nn.Module):\n"
        "    def __init__(self, d, dtype):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(d, d, dtype=dtype)\n"
        "    def forward(self, x):\n"
        "        return self.linear(x)\n"
    )
    (folder / "layers" / "dense.py").write_text(
        "from layers.parts import Square\n"
        "def factory(model_dim, dtype):\n"
        "    return Square(model_dim, dtype)\n"
        "def both(model_dim, dtype):\n"
        "    from layers.spec import Cost\n"
    )
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("also_first", [False, True], ids=["", "PYTHONPATH=."])
def test_names_in_the_users_folder_shadow_nothing_of_ours(also_first, users_folder, start, monkeypatch):
    if also_first:
        # A module on it that has another name than ours is still found before the installed ones.
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.environ["PYTHONPATH"], str(users_folder)]))
        (users_folder / "typing.py").unlink()  # Python itself starts with it
        for name in ("socket", "multiprocessing", "json", "random"):
            (users_folder / f"{name}.py").unlink()
    answer = start().ask(Do(what="origins"), Did)
    assert isinstance(answer, Did), answer
    origins = {name: Path(origin or "") for name, origin in answer.found.items()}
    assert origins["membench"] == ROOT / "membench" / "__init__.py"
    assert origins["membench.layers"].resolve() == ROOT / "layers" / "__init__.py"
    assert not origins["torch"].is_relative_to(users_folder)
    assert not origins["random"].is_relative_to(users_folder)
    assert origins["layers"] == users_folder / "layers" / "__init__.py"
    assert origins["mine_only"] == users_folder / "mine_only.py"


def test_a_folder_called_layers_without_code_is_no_package_of_the_users(tmp_path, start, monkeypatch):
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "weights.bin").write_text("")
    monkeypatch.chdir(tmp_path)
    answer = start().ask(Do(what="origins"), Did)
    assert Path(answer.found["layers"]).resolve() == ROOT / "layers" / "__init__.py"


def test_folders_of_a_revision_come_before_installed_packages(tmp_path, start, monkeypatch):
    (tmp_path / "revision").mkdir()
    (tmp_path / "revision" / "torch.py").write_text("raise RuntimeError('a file of the user')")
    (tmp_path / "revision" / "typer.py").write_text("")
    (tmp_path / "mine_only.py").write_text("")
    monkeypatch.chdir(tmp_path)
    answer = start(folders=[str(tmp_path / "revision")]).ask(Do(what="origins"), Did)
    assert answer.found["typer"] == str(tmp_path / "revision" / "typer.py")
    assert not answer.found["torch"].startswith(str(tmp_path))  # what we compute with is the same for both sides
    assert answer.found["mine_only"] is None
    assert not answer.found["random"].startswith(str(tmp_path))


def test_a_working_folder_that_is_gone_is_no_failure(tmp_path, start, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert isinstance(start().ask(Do(what="origins"), Did), Did)
    os.chdir(tmp_path)


def test_the_program_starts_in_such_a_folder(users_folder):
    done = subprocess.run(
        [sys.executable, "-m", "membench", "list", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(["", str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scenarios"]


def test_a_users_own_layers_are_measured_and_both_are_told_apart(users_folder):
    (users_folder / "mine.yaml").write_text(
        "schema_version: 1\nname: mine\nmodel_dim: 16\ndtype: float32\narms:\n"
        "  theirs: {layer: 'layers.dense:factory'}\n  both: {layer: 'layers.dense:both'}\n"
        "workload: {tokens: 8}\n"
        "measure: {min_samples: 2, floor_samples: 1, max_seconds: 0.1, warmup_seconds: 0, retake_seconds: 0}\n"
    )
    command = [sys.executable, "-m", "membench", "run", "mine.yaml", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    theirs, both = json.loads(done.stdout)["results"][0]["result"]["cases"]
    assert theirs["status"] == "ok"
    assert both["status"] == "error"
    assert "No module named 'layers.spec'" in both["reason"]
    assert "membench's own is membench.layers" in both["reason"]
    assert str(users_folder / "layers") in both["reason"]


def test_our_public_layers_keep_their_short_names():
    assert load_factory("layers.public.embedding_bag:build").__module__ == "membench.layers.public.embedding_bag"
    with pytest.raises(ValueError, match=r"cannot be loaded: No module named 'layers\.nothing'"):
        load_factory("layers.nothing:build")


def test_the_working_folder_is_searched_last(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), "elsewhere", str(tmp_path / "."), str(tmp_path / "link")])
    search_working_folder_last()
    assert sys.path == ["elsewhere", str(tmp_path)]


def test_the_working_folder_is_known_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "link")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "link"), "elsewhere"])
    search_working_folder_last()
    assert sys.path == ["elsewhere", str(tmp_path / "real")]


TAKEN = [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def the_caller_has(number, handler):
    """Inside, the caller does this with a signal, whatever the tests are run under."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", TAKEN)
def test_signals_that_the_caller_left_alone_end_a_run(number):
    with the_caller_has(number, signal.SIG_DFL):
        with pytest.raises(KeyboardInterrupt), ended_as_interrupted():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", TAKEN)
def test_what_the_caller_ignores_stays_ignored(number):
    with the_caller_has(number, signal.SIG_IGN):
        with ended_as_interrupted():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN


@pytest.mark.parametrize("number", TAKEN)
def test_what_the_caller_handles_stays_its_own(number):
    heard = []
    with the_caller_has(number, lambda *_: heard.append(1)):
        with ended_as_interrupted():
            signal.raise_signal(number)
        assert heard == [1]


def test_a_run_in_a_thread_takes_no_signals():
    failures = []

    def run():
        try:
            with ended_as_interrupted():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures


def test_a_run_under_nohup_outlives_the_hang_up():
    code = (
        "import os, signal, sys\nfrom membench.processes.signals import ended_as_interrupted\n"
        "if 'plain' in sys.argv:\n    signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "with ended_as_interrupted():\n    os.kill(os.getpid(), signal.SIGHUP)\nprint('finished')"
    )
    command = [sys.executable, "-c", code]
    ignoring = subprocess.run(["nohup", *command], capture_output=True, text=True, cwd=ROOT)
    assert ignoring.stdout == "finished\n"
    plain = subprocess.run([*command, "plain"], capture_output=True, text=True, cwd=ROOT)
    assert "KeyboardInterrupt" in plain.stderr


def test_a_process_whose_parent_is_gone_ends_at_once():
    code = "from membench.processes.serving import live_no_longer_than\nlive_no_longer_than(1)\nprint('still here')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert not done.stdout


def test_files_are_utf8_whatever_the_locale():
    """Python's own warning finds a file that is opened in the encoding of the locale."""
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-m", "membench"]
    done = subprocess.run([*command, "plan", "quickstart"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_a_reason_is_a_line_that_says_why():
    """A compiler's first line only names who raised the next."""
    for text, reason in (
        ("no room\nand more", "no room"),
        ("backend='inductor' raised:\n  CppCompileError: C++ compile error\n\nSet TORCHDYNAMO_VERBOSE=1", None),
        ("", "RuntimeError"),
        ("\n\n", "RuntimeError"),
        ("raised:", "raised:"),
    ):
        wanted = reason or "backend='inductor' raised: CppCompileError: C++ compile error"
        assert reason_of(RuntimeError(text)) == wanted
