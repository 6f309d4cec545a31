"""The group of processes that a case's model is trained by."""

import torch.distributed as dist

from membench.case import Case
from membench.training.group import Group, Together


def group_of(case: Case, device: str) -> Group:
    """This process alone; or with all of torch.distributed, as the case says that they share its model.

    Tables and experts are cut as its layout says, all else is whole on each rank; or, where the layout gathers matrices
    for each use, that is cut.

    Raises:
        ValueError: the case is of ranks that are not here.
    """
    layout = case.layout
    if layout is None:
        return Group()
    here = dist.get_world_size() if dist.is_initialized() else 1
    if here != case.ranks:
        raise ValueError(f"{case.ranks} ranks train this model, and {here} are here: run it with --nproc {case.ranks}")
    from membench.layers.parallel.distributed import connect

    exchange = connect(layout.row_shards, replicas=layout.replicas)
    return Together(exchange, exchange.mesh(device) if layout.gathers else None)
