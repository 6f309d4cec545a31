"""``membench plan``: what a run would do. It measures nothing and does not import torch."""

from typing import Annotated

import typer

from membench.cli.options import AsJson, Device, Overrides, Scenarios

HardwareName = Annotated[
    str | None,
    typer.Option("--hardware", metavar="NAME", help="Plan for hardware you do not have: h100, or h100x8 for 8 ranks."),
]


def plan(
    scenarios: Scenarios,
    hardware: HardwareName = None,
    overrides: Overrides = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Show every case's exact counts, memory, whether it fits, and its predicted time. Nothing is measured.

    Without --hardware the plan is for this machine: for its GPU, if the driver names one that membench
    knows and --device is not cpu; otherwise for its processor.

    Exit codes: 0 planned, 2 bad input.
    """
    import json

    from membench.cli.device_option import checked_device
    from membench.machine.datasheet import Hardware, local_gpu, parse_hardware
    from membench.machine.device import available_memory_bytes, last_level_cache_bytes
    from membench.planning.planner import make_plan
    from membench.scenario.scenario import load_scenario
    from membench.tables.plan import plan_tables
    from membench.tables.render import print_tables

    named = parse_hardware(hardware) if hardware is not None else None
    changes = [*(overrides or ()), *([f"device={checked_device(device)}"] if device != "auto" else [])]
    plans = []
    for name in scenarios:
        scenario = load_scenario(name, changes)
        local = local_gpu() if named is None and scenario.device != "cpu" else None
        if local:
            own = {"available_bytes": int(local.memory_bytes), "host_bytes": available_memory_bytes()}
            plans.append(make_plan(scenario, hardware=Hardware(local), **own))
        else:
            cache_bytes = last_level_cache_bytes() if named is None and scenario.device != "cuda" else None
            plans.append(make_plan(scenario, hardware=named, cache_bytes=cache_bytes or 0))
    if as_json:
        typer.echo(json.dumps({"plans": [each.model_dump(mode="json") for each in plans]}, allow_nan=False))
        return
    for each in plans:
        print_tables(plan_tables(each))
