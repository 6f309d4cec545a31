"""What a process that measures is started with: how it allocates, and how its threads wait.

These have to be set before the process begins, so whoever starts one asks here.
"""

import os

from membench.processes.working_folder import without_working_folder

# glibc's malloc keeps freed blocks, on huge pages, instead of returning them, as the CUDA allocator
# does: else every backward pays page faults for gradients that the last one had already paid for.
_MALLOC = f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={2**40}:glibc.malloc.hugetlb=1"


def measuring_environment(threads: int | None = None) -> dict[str, str]:
    """This process's environment with what measuring needs; what the user has set for malloc stays.

    Threads are bound to cores. While they wait they spin for some ten microseconds and then
    give their core away: spinning on takes it from a mixture's own threads, and not spinning
    at all makes the many short operators of a memory layer wait to be woken.
    """
    environment = {**os.environ, "OMP_PROC_BIND": "close", "OMP_PLACES": "cores", "GOMP_SPINCOUNT": "20000"}
    environment["GLIBC_TUNABLES"] = ":".join(filter(None, [_MALLOC, os.environ.get("GLIBC_TUNABLES")]))
    if path := environment.pop("PYTHONPATH", ""):  # Python would start with what lies in the working folder
        environment["PYTHONPATH"] = os.pathsep.join(without_working_folder(path.split(os.pathsep)))
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment
