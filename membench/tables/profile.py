"""A profile as tables: each layer's modes by stage and by kernel, two layers side by side, and what to do next."""

from dataclasses import astuple, fields

from membench.layers.spec.quantities import format_quantity
from membench.results.ceilings import Ceilings
from membench.results.profile import REST, LayerProfile, ModeProfile, Profile, StageRow
from membench.tables.numbers import short
from membench.tables.plan import dimensions
from membench.tables.quantity import quantity
from membench.tables.table import Column, Table
from membench.words import how_many

_SHOWN_REST = 0.005  # of the step, below which the rest is no row
_SHOWN_KERNELS = 10


def profile_tables(profile: Profile) -> list[Table]:
    """The layers, then for each mode its stages and its kernels; last, where there are two, the two side by side."""
    tables = [_layers_table(profile)]
    for layer in profile.layers:
        for mode in layer.measured:
            tables += [_stages_table(layer, mode), _kernels_table(profile, layer, mode)]
    if len(profile.layers) > 1:
        tables.append(_against_table(profile))
    return tables


def next_steps(profile: Profile) -> list[str]:
    """What to do next, a line for each mode; and what could not be profiled."""
    lines = []
    for layer in profile.layers:
        for mode in layer.modes:
            if mode.status != "ok":
                lines.append(f"Not profiled: {layer.arm} {mode.mode}: {mode.status}: {mode.reason}")
            elif (row := mode.next_stage) is not None:
                lines.append(f"Next, {layer.arm} {mode.mode}: {_advice(row)}")
    return lines


def _advice(row: StageRow) -> str:
    if row.floor_ms is None:
        return f"{row.label} takes {short(row.time_ms)} ms, for which no FLOPs or bytes are counted"
    limit = {"compute": "its FLOPs", "memory": "its memory traffic", None: "nothing"}[row.limit]
    return (
        f"{row.label} is {short(row.excess_ms)} ms above its floor ({short(row.time_ms)} ms, of which {limit} "
        f"would take {short(row.floor_ms)} ms at the measured ceiling)"
    )


def _layers_table(profile: Profile) -> Table:
    device = profile.environment["device"]
    columns = [
        Column("layer", right=False),
        Column("dimensions", right=False, priority=3),
        Column("dtype", right=False, priority=4),
        *(quantity(name) for name in ("params", "rank_params", "flops_per_token")),
        Column("tokens", priority=2),
        *(quantity(field.name) for field in fields(Ceilings)),
    ]
    rows = []
    for layer in profile.layers:
        rows.append(
            [
                ", ".join([layer.arm, *layer.labels]),
                f"d {layer.layer['model_dim']}, {dimensions(layer.layer)}",
                layer.layer["dtype"],
                layer.params,
                layer.rank_params,
                layer.flops_per_token,
                layer.tokens,
                *astuple(Ceilings.of(layer.ceilings)),
            ]
        )
    return Table(f"Profile on {device['name']} ({how_many(device['cores'], 'core')})", _share(profile), columns, rows)


def _share(profile: Profile) -> str:
    if profile.ranks == 1:
        return "The whole layer on one device. Ceilings are measured in the process that is profiled."
    return (
        f"One rank's share of a {profile.ranks}-way parallel layer (P {profile.ranks_reason}): of a table, "
        f"1/{profile.ranks} of the columns, read for the tokens of all ranks. "
        "Communication is no part of it. Ceilings are measured in the process that is profiled."
    )


def _stages_table(layer: LayerProfile, mode: ModeProfile) -> Table:
    columns = [
        Column("stage", right=False),
        *(quantity(name) for name in ("time_ms", "share", "flops", "bytes_dram_expected")),
        *(quantity(name) for name in ("stage_flops_per_s", "stage_bytes_per_s")),
        Column("limit", right=False, priority=3),
        quantity("of_ceiling"),
        quantity("floor_ms", priority=2),
        *(quantity(name) for name in ("times_floor", "excess_ms")),
    ]
    rows = [
        [
            row.label,
            row.time_ms,
            row.share,
            row.flops,
            row.bytes_dram_expected,
            row.flops_per_s,
            row.bytes_per_s,
            row.limit,
            row.of_ceiling,
            row.floor_ms,
            row.times_floor,
            row.excess_ms,
        ]
        for row in mode.stages
        if row.name != REST.name or row.share > _SHOWN_REST
    ]
    optimizer = f" with {mode.optimizer}" if mode.optimizer else ""
    return Table(f"{layer.arm} {mode.mode}{optimizer}, by stage", _stages_caption(mode), columns, rows)


def _stages_caption(mode: ModeProfile) -> str:
    rest = next((row for row in mode.stages if row.name == REST.name), None)
    left = f" and the rest ({100 * rest.share:.1f} %)" if rest else ""
    overhead = "unknown" if mode.overhead is None else f"{100 * mode.overhead:+.1f} %"
    unsteady = "" if mode.steady else " Not steady after warm-up."
    return (
        f"Stages{left} add up to {short(mode.observed_ms)} ms; a step that nobody observes takes "
        f"{short(mode.step_ms)} ms ({overhead}), over {how_many(mode.calls, 'call')} of each. DRAM bytes are those "
        "that the last-level cache cannot be expected to serve. Above 100 % of a ceiling caches served more, or the "
        f"machine was slower while the ceiling was measured.{unsteady}"
    )


def _kernels_table(profile: Profile, layer: LayerProfile, mode: ModeProfile) -> Table:
    cuda = profile.environment["device"]["type"] == "cuda"
    columns = [
        Column("kernel" if cuda else "operator", right=False),
        quantity("calls"),
        quantity("time_ms"),
        quantity("share", priority=1),
    ]
    rows = [[row.name, row.calls, row.time_ms, row.share] for row in mode.kernels[:_SHOWN_KERNELS]]
    threads = "all threads" if mode.kernels_see_all_threads else "the main thread (others are not seen)"
    seen = "" if cuda else f" Summed over {threads}; what an operator calls is not in its own time."
    longest = "The longest" if len(rows) == 1 else f"The {len(rows)} longest"
    caption = f"{longest}, by torch.profiler in a pass of its own, which slows what it watches.{seen}"
    return Table(f"{layer.arm} {mode.mode}, by {'kernel' if cuda else 'operator'}", caption, columns, rows)


def _against_table(profile: Profile) -> Table:
    first, second = profile.layers[:2]
    columns = [
        Column("mode", right=False),
        Column("layer", right=False),
        *(quantity(name) for name in ("time_ms", "times_first")),
        *(quantity(name, priority=2) for name in ("floor_ms", "excess_ms")),
        Column("longest stages", right=False, priority=3),
    ]
    rows, told = [], []
    for mode in first.measured:
        other = next((each for each in second.measured if each.mode == mode.mode), None)
        if other is None or not mode.observed_ms:
            continue
        for layer, found in ((first, mode), (second, other)):
            times = (found.observed_ms or 0.0) / mode.observed_ms
            above = None if found.floor_ms is None or found.observed_ms is None else found.observed_ms - found.floor_ms
            rows.append([mode.mode, layer.arm, found.observed_ms, times, found.floor_ms, above, _longest(found)])
        told.append(_difference(first, mode, second, other))
    flops = f"{format_quantity(first.flops_per_token)} and {format_quantity(second.flops_per_token)} FLOPs a token."
    return Table(f"{first.arm} against {second.arm}", " ".join([flops, *told]), columns, rows)


def _difference(first: LayerProfile, mode: ModeProfile, second: LayerProfile, other: ModeProfile) -> str:
    """Where the difference between two steps lies: in what they need, or in how near they come to it."""
    if mode.floor_ms is None or other.floor_ms is None or mode.observed_ms is None or other.observed_ms is None:
        return ""
    longer, shorter = ((first, mode), (second, other))
    if mode.observed_ms < other.observed_ms:
        longer, shorter = shorter, longer
    apart = (longer[1].observed_ms or 0.0) - (shorter[1].observed_ms or 0.0)
    needed = (longer[1].floor_ms or 0.0) - (shorter[1].floor_ms or 0.0)
    return (
        f"{mode.mode}: {longer[0].arm} takes {short(apart)} ms longer, of which {short(needed)} ms are a higher floor "
        f"and {short(apart - needed)} ms more time above it."
    )


def _longest(mode: ModeProfile) -> str:
    longest = sorted(mode.stages, key=lambda row: -row.time_ms)[:3]
    return ", ".join(f"{row.label} {short(row.time_ms)}" for row in longest)
