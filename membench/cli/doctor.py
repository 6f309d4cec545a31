"""``membench doctor``: what this machine is, what it can do, and what cannot be measured on it."""

from typing import Any

from membench.cli.options import AsJson, Device


def doctor(device: Device = "auto", as_json: AsJson = False) -> None:
    """Show the device, its measured ceilings and its noise, and which results will be null here and why.

    This takes about half a minute.
    """
    import sys

    from membench.cli.device_option import checked_device
    from membench.machine.provenance import ask_process
    from membench.results.records import strict_json
    from membench.tables.render import print_tables

    checked_device(device)
    print("measuring ceilings and noise, about half a minute", file=sys.stderr)
    found = ask_process("membench.measuring.diagnosis", device)
    if as_json:
        print(strict_json(found))
        return
    print_tables(_tables(found))


def _tables(found: dict[str, Any]) -> list[Any]:
    from membench.machine.datasheet import lookup
    from membench.tables.render import Column, Table
    from membench.words import how_many

    environment, ceilings, noise = found["environment"], found["ceilings"], found["noise"]
    device = environment["device"]
    sheet = lookup(device["name"]) if device["type"] == "cuda" else None
    facts = [
        ["device", f"{device['name']}, {how_many(device['cores'], 'core')}"],
        ["memory", _giga(device["memory_bytes"], "GB")],
        ["last-level cache", f"{device['cache_bytes'] / 2**20:.0f} MiB" if device["cache_bytes"] else "-"],
        ["huge pages", environment["host"]["huge_pages"]],
        ["virtual machine", "yes" if environment["virtual"] else "no"],
        *_conditions(environment["conditions"]),
        ["fingerprint", environment["fingerprint"]],
        *([name, version] for name, version in environment["packages"].items()),
        ["python", environment["python"]],
        *([name, value] for name, value in found["clocks"].items()),
    ]
    rates = [
        ["copy, read plus written", _giga(ceilings["copy_bytes_per_s"], "GB/s"), _sheet_bytes(sheet)],
        ["read", _giga(ceilings["read_bytes_per_s"], "GB/s"), _sheet_bytes(sheet)],
        *(
            [f"random rows of {row['row_bytes']} bytes", _giga(row["bytes_per_s"], "GB/s"), _sheet_bytes(sheet)]
            for row in ceilings["random_rows"]
        ),
        *(
            [f"matrix product {name}", _giga(rate, "GFLOP/s"), _giga(sheet and sheet.flops_per_s.get(name), "GFLOP/s")]
            for name, rate in ceilings["matmul_flops_per_s"].items()
        ),
    ]
    spread = [
        ["interquartile range over median", f"{100 * noise['iqr_over_median']:.1f} %"],
        ["slowest over median", f"{noise['max_over_median']:.2f}x"],
        ["second half over first", f"{100 * (noise['second_half_over_first'] - 1):+.1f} %"],
    ]
    left, right = Column("", right=False), Column("")
    return [
        Table("This machine", "", [left, Column("", right=False)], facts),
        Table("Ceilings, measured now", "", [left, Column("measured"), Column("datasheet", priority=2)], rates),
        Table("Noise of one unchanged product", "", [left, right], spread),
        Table("Null here, and why", "", [left, Column("", right=False)], [list(row) for row in found["null"].items()]),
    ]


def _conditions(ran: dict[str, Any]) -> list[list[Any]]:
    """What influences times, apart from the machine."""
    sets, quota = ran["kernels_instruction_sets"], ran["cpu_quota_cores"]
    unusual = [f"{name}={value}" for kind in ("settings", "variables") for name, value in ran[kind].items()]
    return [
        ["path of operators", f"{ran['path']} ({ran['fallback']})" if ran["fallback"] else ran["path"]],
        ["C++ compiler", ran["compiler"]],
        ["its instruction sets", " ".join(sets) if sets else None],
        ["torch's instruction set", ran["torch_instruction_set"]],
        ["threads", ran["threads"]],
        ["CPU quota", "none" if quota is None else f"{quota:g} cores"],
        ["memory limit", _giga(ran["memory_limit_bytes"], "GB") if ran["memory_limit_bytes"] else "none"],
        ["settings and variables", ", ".join(unusual) or "as usual"],
    ]


def _giga(value: float | None, unit: str) -> str:
    return "-" if not value else f"{value / 1e9:.4g} {unit}"


def _sheet_bytes(sheet: Any) -> str:
    return _giga(sheet.memory_bytes_per_s if sheet else None, "GB/s")
