"""``membench doctor``: what this machine is fit for now, what it is and can do, and what cannot be measured on it."""

from typing import Any

from membench.cli.options import AsJson, Device


def doctor(device: Device = "auto", as_json: AsJson = False) -> None:
    """Show whether this machine is fit for measuring now, and why; its ceilings, its noise, what others do to it, and
    which results will be null here.

    This takes about half a minute. Fit: its times can be kept and compared. Fit for ab only: compare commits with
    membench ab, which times both in turn.
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
        _verdict(found["verdict"]),
        Table("This machine", "", [left, Column("", right=False)], facts),
        Table("Ceilings, measured now", "", [left, Column("measured"), Column("datasheet", priority=2)], rates),
        Table("Noise of one unchanged product", "", [left, right], spread),
        _disturbance(found["disturbance"]),
        Table("Null here, and why", "", [left, Column("", right=False)], [list(row) for row in found["null"].items()]),
    ]


_MEANS = {
    "fit": "times measured now can be kept and compared",
    "fit for ab only": "membench ab times both sides in turn; times of separate runs do not compare",
    "unfit": "what is measured now says little; doctor tells when it is better",
}
_SIGNALS = {
    "waiting": "its slowest thread waited for a processor",
    "other_processes": "other processes on its cores",
    "hypervisor": "stolen by the hypervisor",
    "throttled": "throttled by a CPU quota",
    "gpu_throttled": "the GPU's clocks were throttled",
    "gpu_others": "other processes on the GPU",
}


def _verdict(verdict: dict[str, Any]) -> Any:
    from membench.tables.render import Column, Table

    fit = verdict["fit"]
    rows = [["means", _MEANS[fit]], *(["why", why] for why in verdict["why"])]
    rows += [["limit", limit] for limit in verdict["limits"]]
    return Table(f"Verdict: {fit}", "", [Column("", right=False), Column("", right=False)], rows)


def _disturbance(found: dict[str, Any]) -> Any:
    """What others did while the product was timed; what is not told is among what is null."""
    from membench.tables.render import Column, Table

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f} %"

    rows: list[list[Any]] = [
        [_SIGNALS[name], percent(share and share["mean"]), percent(share and share["largest"])]
        for name, share in found["shares"].items()
    ]
    rows.append([f"samples disturbed (over {100 * found['limit']:g} %)", percent(found["disturbed_share"]), None])
    switches = found["involuntary_switches_per_sample"]
    rows.append(["involuntary context switches a sample", None if switches is None else f"{switches:.2f}", None])
    title = f"What others did in {found['seconds']:g} seconds"
    return Table(title, "", [Column("", right=False), Column("mean"), Column("largest")], rows)


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
