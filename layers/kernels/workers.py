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
from threading import Barrier, local
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
                _stay()

    if threads == 1 or len(items) < 2:
        work()
    else:
        for future in [_pool(threads).submit(work) for _ in range(threads)]:
            future.result()


_here = local()  # of a worker: the cores that it may use, none where it is free


def _stay() -> None:
    """OpenMP ties a thread to its first core as the thread begins its first region: every worker to the same one."""
    if cores := getattr(_here, "cores", None):
        os.sched_setaffinity(0, cores)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    places, started = iter(_places(threads)), Barrier(threads)

    def become_single_threaded() -> None:
        _here.cores = next(places)
        _stay()
        torch.get_num_threads()  # makes torch initialize this thread, which later would undo the next line
        torch.set_num_threads(1)
        started.wait()

    pool = ThreadPoolExecutor(threads, "expert", become_single_threaded)
    for future in [pool.submit(lambda: None) for _ in range(threads)]:
        future.result()
    torch.set_num_threads(threads)  # the workers have also changed the number that new threads start with
    return pool


def _places(threads: int) -> list[set[int]]:
    """Where ``OMP_PROC_BIND`` ties this thread to a core, a core for each worker, as OpenMP's threads have one.

    Left free, several begin on the core of who woke them, and are moved only after milliseconds.
    """
    cores = sorted(_cores_of_this_process())
    if not cores or len(os.sched_getaffinity(0)) == len(cores):
        return [set()] * threads
    return [{cores[number % len(cores)]} for number in range(threads)]


def _cores_of_this_process() -> set[int]:
    """The cores that any of its threads may use; empty where that cannot be known."""
    threads = Path("/proc/self/task")
    if not threads.is_dir():
        return set()
    torch.ones(2**20).add_(1)  # OpenMP's other threads are there, and bound, from its first region on
    return set().union(*(os.sched_getaffinity(int(thread.name)) for thread in threads.iterdir()))
