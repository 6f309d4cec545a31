"""Every process that collects the tests finds the same ones: they are handed out to several by their names."""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
MANY = 1000


def collected(hash_seed, marks):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", "-m", marks, str(TESTS)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=TESTS.parent,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    return [line.removeprefix("tests/") for line in done.stdout.splitlines() if "::" in line]


def test_names_of_tests_hold_no_time_and_no_order_of_a_set(request):
    """Where this process has collected all of them, at another time and with other hashes, its own are held against."""
    first, marks = [f"{item.path.name}::{item.name}" for item in request.session.items], request.config.option.markexpr
    if len(first) < MANY:
        first = collected("1", marks)
    second = collected("2", marks)
    assert len(second) > MANY
    asked_for = set(first)
    assert first == [name for name in second if name in asked_for]
