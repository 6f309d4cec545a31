"""Many small products at the same time: each thread computes one expert, instead of all threads the same one.

A product of 64 rows takes a tenth of a millisecond. Threads that share it spend much of that time waiting for each
other. Torch releases the interpreter lock inside its operators, so plain Python threads, each with one intra-op
thread, can run them at the same time.

An OpenMP thread that waits for its next region spins, and so takes a core from these threads for some
milliseconds. ``OMP_WAIT_POLICY=passive`` makes it sleep instead.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")


def for_each(function: Callable[[Item], None], items: list[Item]) -> None:
    """Call a function of tensor operators, without autograd, on every item, on as many threads as torch uses.

    A thread takes the next item when it has finished one, so put the longest items first.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()  # applies only to this thread
    queue = iter(items)

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            for item in queue:  # the iterator gives each item to only one thread
                function(item)

    if threads == 1 or len(items) < 2:
        work()
    else:
        for future in [_pool(threads).submit(work) for _ in range(threads)]:
            future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    cores, started = _cores_of_this_process(), Barrier(threads)

    def become_single_threaded() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        torch.get_num_threads()  # makes torch initialize this thread, which later would undo the next line
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "expert", become_single_threaded)
    for future in [pool.submit(lambda: None) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)  # the workers have also changed the number that new threads start with
    return pool


def _cores_of_this_process() -> set[int]:
    """The cores that any of its threads may use; empty where that cannot be known.

    ``OMP_PROC_BIND`` ties this thread to one core, and workers would inherit that one.
    """
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        return set()
    torch.ones(2**20).add_(1)  # OpenMP's other threads are there, and bound, from its first region on
    return set().union(*(os.sched_getaffinity(int(thread.name)) for thread in threads.iterdir()))
