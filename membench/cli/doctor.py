"""``membench doctor``: what this machine is fit for now, what it is and can do, and what cannot be measured on it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from membench.cli.options import AsJson, Device, Output

_MOST_RANKS = 256
Ranks = Annotated[
    int | None,
    typer.Option("--nproc", metavar="N", help="Time collectives of N processes instead, and keep what predicts them."),
]


def doctor(
    device: Device = "auto", nproc: Ranks = None, output: Output = Path("results"), as_json: AsJson = False
) -> None:
    """Show whether this machine is fit for measuring now, and why; its ceilings, its noise, what others do to it, and
    which results will be null here.

    This takes about half a minute. Fit: its times can be kept and compared. Fit for ab only: compare commits with
    membench ab, which times both in turn.

    With --nproc, N processes of this machine time their collectives (gloo, or NCCL with a GPU each). What a scenario's
    fit.network can name is kept in the folder for result files.
    """
    import sys

    from membench.cli.device_option import checked_device
    from membench.machine.provenance import ask_process
    from membench.results.records import strict_json
    from membench.tables.render import print_tables

    checked_device(device)
    if nproc is not None:
        _of_ranks(device, nproc, output, as_json=as_json)
        return
    print("measuring ceilings and noise, about half a minute", file=sys.stderr)
    found = ask_process("membench.measuring.diagnosis", device)
    if as_json:
        print(strict_json(found))
        return
    print_tables(_tables(found))


def _of_ranks(device: str, ranks: int, output: Path, *, as_json: bool) -> None:
    """Measures what connects processes here, keeps it, and shows it.

    Raises:
        UsageError: a number of processes that is none, or what was measured cannot be kept.
    """
    import sys

    from membench.cli.output_option import checked_folder
    from membench.errors import UsageError
    from membench.files import blaming_output, write_whole
    from membench.git.commit import running_commit
    from membench.machine.provenance import probe_environment, result_stem, utc_now
    from membench.measuring.network import measured_network
    from membench.planning.network_file import FORM
    from membench.results.records import strict_json
    from membench.tables.network import network_tables
    from membench.tables.render import print_tables

    if not 2 <= ranks <= _MOST_RANKS:
        raise UsageError(f"{ranks} processes: from 2 to {_MOST_RANKS} can exchange something", source="--nproc")
    folder, started, commit = checked_folder(output), utc_now(), running_commit()
    environment = probe_environment(device)
    print(f"timing collectives of {ranks} processes, about half a minute", file=sys.stderr)
    kind = environment["device"]["type"]
    threads = max(1, environment["device"]["cores"] // ranks) if kind == "cpu" else 1
    found = {
        "benchmark": FORM,
        "started": started,
        "command": f"membench doctor --nproc {ranks}",
        "git_sha": commit.sha,
        "git_dirty": commit.dirty,
        "environment": environment,
        **measured_network(kind, ranks, threads),
    }
    path = folder / f"{result_stem(FORM, environment['device'], started, commit.sha)}.json"
    with blaming_output(path, "--output"):
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, (strict_json(found) + "\n").encode())
    print(f"kept in {path}", file=sys.stderr)
    if as_json:
        print(strict_json(found))
        return
    print_tables(network_tables(found))


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
