"""Threads that compute an expert each: where they run."""

import json
import os
import subprocess
import sys

import pytest

from layers.kernels import paths
from membench.machine.device import usable_cores

# A worker's first parallel region is where OpenMP would tie it to a core; the second item shows where it then is.
PROGRAM = """
import json, os, threading, time, torch
from membench.layers.kernels.native import few_rows
from membench.layers.kernels.workers import for_each
torch.set_num_threads(2)
x, weight, found = torch.randn(2, 64), torch.randn(64, 64), []
few_rows.linear(x, weight, torch.float32)
def item(number):
    found.append((threading.get_ident(), sorted(os.sched_getaffinity(0))))
    few_rows.linear(x, weight, torch.float32)
    time.sleep(0.02)  # so that the other takes some, too
for_each(item, list(range(8)))
print(json.dumps(found))
"""


@pytest.mark.skipif(not paths.has_native(), reason="no C++ compiler")
@pytest.mark.skipif(len(usable_cores()) < 2, reason="one core")
@pytest.mark.parametrize("binding", ["close", "false"])
def test_each_has_a_core_of_its_own_where_threads_are_bound(binding):
    environment = {**os.environ, "OMP_PROC_BIND": binding, "OMP_PLACES": "cores"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cores: dict[int, set[tuple[int, ...]]] = {}
    for thread, allowed in json.loads(done.stdout):
        cores.setdefault(thread, set()).add(tuple(allowed))
    assert len(cores) == 2
    if binding == "false":
        assert all(len(allowed) > 1 for each in cores.values() for allowed in each)
    else:
        (first,), (second,) = cores.values()
        assert len(first) == len(second) == 1 and first != second
