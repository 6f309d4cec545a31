"""Many small products at once: one expert a thread, instead of all threads on each expert.

A product of 64 rows is over in a tenth of a millisecond, and the threads that share one spend
much of it waiting for each other. Torch frees the interpreter lock inside its operators, so
plain Python threads, each with one intra-op thread, run them side by side.

An OpenMP thread that spins while it waits for its next region takes a core from them for some
milliseconds; ``OMP_WAIT_POLICY=passive`` makes it sleep.
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

    A thread takes the next item when done with one, so put the longest first.
    """
    threads = torch.get_num_threads()
    inference = torch.is_inference_mode_enabled()  # a property of this thread alone
    queue = iter(items)

    def work() -> None:
        with torch.inference_mode(inference), torch.no_grad():
            for item in queue:  # a list's iterator gives each item to one thread only
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
