"""A launcher that cannot end by itself is ended, and nobody else is."""

import os
import signal
import subprocess
import sys
import time

import pytest

from membench.processes import launcher

# what torch's agent does where its store is out of reach: it waits, whatever it is told
AGENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.run([sys.executable, "-I", "-c", sys.argv[1]], check=True)
print("rank ended", flush=True)
for _ in range(int(sys.argv[3])):  # slow, and not stuck
    time.sleep(float(sys.argv[2]))
"""
RANK = f"""
import runpy
end = runpy.run_path({launcher.__file__!r})["end_if_stuck"]
print(end("rank 1 of 2", 1.0), flush=True)
"""


def launched(folder, name, waits, times=1, **environment):
    """What a program of this name does that waits for so long, so many times, after its rank has ended."""
    path = folder / name
    path.write_text(AGENT)
    variables = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_RUN_ID"}
    command = [sys.executable, str(path), RANK, str(waits), str(times)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env={**variables, **environment})


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes are held by descriptors on Linux alone")
def test_an_agent_that_waits_for_ever_is_ended_in_a_line(tmp_path):
    begin = time.monotonic()
    done = launched(tmp_path, "torchrun", 30, TORCHELASTIC_RUN_ID="it")
    assert done.returncode == -signal.SIGKILL and time.monotonic() - begin < 15
    assert done.stdout.split("\n")[:2] == ["True", "rank ended"]
    (line,) = done.stderr.splitlines()
    assert line.startswith("membench: rank 1 of 2: torchrun (")
    assert line.endswith("waits for a host that cannot be reached, and was ended")


@pytest.mark.parametrize(
    ("name", "waits", "times", "environment", "there"),
    [
        ("torchrun", 0.05, 60, {"TORCHELASTIC_RUN_ID": "it"}, "True"),
        ("torchrun", 2.5, 1, {}, "False"),
        ("srun", 2.5, 1, {"TORCHELASTIC_RUN_ID": "it"}, "False"),
    ],
)
def test_who_is_only_slow_or_is_no_agent_is_left_alone(name, waits, times, environment, there, tmp_path):
    done = launched(tmp_path, name, waits, times, **environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [there, "rank ended"]
