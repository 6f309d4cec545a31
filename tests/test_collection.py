"""Every process that collects the tests finds the same ones: they are handed out to several by their names."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def collected(hash_seed):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", str(TESTS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_names_of_tests_hold_no_time_and_no_order_of_a_set():
    first, second = collected("1"), collected("2")
    assert len(first) > 1000
    assert first == second
