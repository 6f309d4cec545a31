"""Checks on several processes of torch.distributed, all of one number of processes in one launch."""

import pickle
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as processes

TIMEOUT_S = 60  # a process that waits for one whose check failed


def found_on(world, checks, folder):
    """For each name of ``checks`` (a dict of functions), what went wrong on each of ``world`` processes, or None."""
    processes.set_forkserver_preload(["torch", "layers.factory"])
    processes.start_processes(_one, (world, checks, str(folder)), world, start_method="forkserver")
    of_ranks = [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(world)]
    return {name: [found.get(name, "not reached") for found in of_ranks] for name in checks}


def _one(rank, world, checks, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=TIMEOUT_S))
    found = {}
    for name, (check, arguments) in checks.items():
        try:
            torch.manual_seed(0)
            found[name] = check(*arguments)
        except Exception:
            found[name] = traceback.format_exc()
            break  # the others may be waiting for this process, and wait for it in each check that follows
    with open(f"{folder}/{rank}.pickle", "wb") as file:
        pickle.dump(found, file)
    dist.destroy_process_group()
