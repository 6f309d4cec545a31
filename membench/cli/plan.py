"""``membench plan``: what a run would do. Nothing is measured and torch is not imported."""

import json
from typing import Annotated

import typer

from membench.datasheet import Hardware, local_gpu, parse_hardware
from membench.device import last_level_cache_bytes
from membench.plan import Plan, make_plan
from membench.scenario import load_scenario
from membench.tables.plan import plan_tables
from membench.tables.render import print_tables

Scenarios = Annotated[list[str], typer.Argument(metavar="SCENARIO…", help="A YAML file, or a shipped scenario's name.")]
HardwareName = Annotated[
    str | None, typer.Option("--hardware", help="Plan for hardware you do not have: h100, or h100x8 for 8 ranks.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set workload.tokens=64.")
]
Device = Annotated[str | None, typer.Option("--device", help="Override the device: auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def plan(
    scenarios: Scenarios,
    hardware: HardwareName = None,
    overrides: Overrides = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Show every case's exact counts, memory, fit and predicted time; measure nothing."""
    named = parse_hardware(hardware) if hardware is not None else None
    changes = [*(overrides or []), *([f"device={device}"] if device is not None else [])]
    plans = [_plan(scenario, changes, named) for scenario in scenarios]
    if as_json:
        typer.echo(json.dumps({"plans": [each.model_dump(mode="json") for each in plans]}, allow_nan=False))
        return
    for each in plans:
        print_tables(plan_tables(each))


def _plan(name_or_path: str, changes: list[str], hardware: Hardware | None) -> Plan:
    """The plan on the named hardware, else on this machine's GPU where the driver names a known one."""
    scenario = load_scenario(name_or_path, changes)
    if hardware is None and scenario.device != "cpu" and (entry := local_gpu()):
        return make_plan(scenario, hardware=Hardware(entry), available_bytes=int(entry.memory_bytes))
    local = hardware is None and scenario.device != "cuda"
    return make_plan(scenario, hardware=hardware, cache_bytes=(last_level_cache_bytes() or 0) if local else 0)
