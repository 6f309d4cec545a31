"""``membench plan``: what a run would do. It measures nothing; only for ``--kernels`` does it import torch."""

from typing import TYPE_CHECKING, Annotated

import typer

from membench.cli.options import AsJson, Device, Overrides, Ranks, Scenarios

if TYPE_CHECKING:
    from membench.planning.plan import Plan
    from membench.scenario.scenario import Scenario

HardwareName = Annotated[
    str | None,
    typer.Option("--hardware", metavar="NAME", help="Plan for hardware you do not have: h100, or h100x8 for 8 ranks."),
]
Nodes = Annotated[
    str | None,
    typer.Option("--nodes", metavar="N[,N...]", help="So many hosts of --hardware; several numbers make a curve."),
]
Kernels = Annotated[
    bool,
    typer.Option("--kernels", help="Predict each stage on one Hopper GPU from the kernels that a step launches."),
]


def plan(
    scenarios: Scenarios,
    hardware: HardwareName = None,
    nodes: Nodes = None,
    overrides: Overrides = None,
    device: Device = "auto",
    nproc: Ranks = None,
    kernels: Kernels = False,
    as_json: AsJson = False,
) -> None:
    """Show every case's exact counts, memory, whether it fits, and its predicted time. Nothing is measured.

    Without --hardware the plan is for this machine: for its GPU, if the driver names one that membench
    knows and --device is not cpu; otherwise for its processor.

    Of several devices it also shows every way in which they can share each layer, and with several numbers of
    --nodes how each way's step grows. With --nproc every layer is shared by so many processes of this machine.

    With --kernels and --hardware h100, h100-pcie or h200, layers are traced on tensors without values, and each
    stage's time is predicted from its launches, their bytes and FLOPs, beside its floor. No GPU has confirmed it.

    Exit codes: 0 planned, 2 bad input.
    """
    import json

    from membench.cli.device_option import checked_device
    from membench.cli.ranks_option import checked_ranks
    from membench.errors import UsageError
    from membench.machine.datasheet import parse_hardware, parse_hosts
    from membench.planning.planner import make_plan
    from membench.planning.predicted_hardware import check_hardware
    from membench.scenario.scenario import load_scenario

    if checked_ranks(nproc) is not None and hardware is not None:
        raise UsageError("is for this machine: --hardware h100x8 says how many ranks", source="--nproc")
    named = parse_hosts(None if hardware is None else parse_hardware(hardware), nodes)
    for each in (named or [None]) if kernels else []:
        check_hardware(each)
    changes = [*(overrides or ()), *([f"device={checked_device(device)}"] if device != "auto" else [])]
    plans = []
    for name in scenarios:
        scenario = load_scenario(name, changes)
        plans += [make_plan(scenario, hardware=each) for each in named] or [_plan_here(scenario, nproc)]
    if kernels:
        from membench.profiler.launches.prediction import with_kernels

        plans = [with_kernels(each, named[0]) for each in plans]
    if as_json:
        typer.echo(json.dumps({"plans": [each.model_dump(mode="json") for each in plans]}, allow_nan=False))
        return
    _show(plans, len(named))


def _plan_here(scenario: "Scenario", processes: int | None) -> "Plan":
    """For this machine, as so many of its processes share it."""
    from membench.machine.datasheet import Hardware, local_gpu
    from membench.machine.device import available_memory_bytes, last_level_cache_bytes
    from membench.planning.planner import make_plan

    local = local_gpu() if scenario.device != "cpu" else None
    if local:
        own = {"available_bytes": int(local.memory_bytes), "host_bytes": available_memory_bytes()}
        return make_plan(scenario, hardware=Hardware(local), **own, processes=processes)
    cache_bytes = last_level_cache_bytes() if scenario.device != "cuda" else None
    memory = available_memory_bytes() if processes else None  # which all of them have together
    share = memory // processes if memory and processes else None
    return make_plan(scenario, available_bytes=share, cache_bytes=cache_bytes or 0, processes=processes)


def _show(plans: "list[Plan]", hardware: int) -> None:
    """As tables: of one piece of hardware, or none named, each plan; of several a curve over them for each scenario."""
    from membench.tables.kernels import kernels_tables, next_kernels
    from membench.tables.layouts import curve_table
    from membench.tables.plan import plan_tables
    from membench.tables.render import print_tables

    if hardware > 1:
        print_tables([curve_table(plans[first : first + hardware]) for first in range(0, len(plans), hardware)])
        return
    for each in plans:
        print_tables([*plan_tables(each), *kernels_tables(each)])
        for line in next_kernels(each):
            typer.echo(line)
