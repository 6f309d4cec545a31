"""Records as rows of named cells: one a case, or one a round. Names are those of the records; no pandas here.

A row is groups of cells that stay together whatever other rows have. What lies in a group of the record has the
group before its name (``sampling.steady``), but for the layer's dimensions, the counts and the metrics, which are
there also where nothing was counted or measured.
"""

import json
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from membench.case import METHOD_VERSION, Case
from membench.json_values import number, text
from membench.layers.spec import DenseSpec
from membench.learning.curve import Point
from membench.results.columns import COUNTS, METRICS
from membench.results.learnt import ANSWER
from membench.results.metrics import worst_error
from membench.results.ranking import chosen_implementation, counted
from membench.results.records import Record, ResultFile, Round, Run

Cells = dict[str, Any]  # by column; None is unknown, or does not belong to this row

_RUN_OF_A_SAMPLE = ("id", "file", "scenario", "device", "started", "git_sha", "pair.id", "pair.side", "pair.phase")
_OF_PACER = ("version", "calls_per_sample", "amounts")  # its samples are the gate's
_DEEPEST = 4  # groups in groups that any record has


class FiledRecord(NamedTuple):
    """A record, the result that it is in, and the file that this was read from; None where it is in none.

    ``place`` is the first and the last that it may have, None where no order is known.
    """

    file: str | None
    result: ResultFile
    record: Record
    place: tuple[int, int] | None = None


def nothing() -> FiledRecord:
    """A record that is none: the columns of its rows are those of a table without rows."""
    texts = dict.fromkeys(("scenario", "device", "started", "membench_version"), "")
    run = Run.model_construct(None, method_version=METHOD_VERSION, **texts)
    case = Case(arm="", mode="forward", layer=DenseSpec(model_dim=1, ffn_hidden=1), tokens=1)
    result = ResultFile.model_construct(run=run, environment={})
    return FiledRecord(None, result, Record(id="", case=case, status="skipped"))


def case_row(of: FiledRecord) -> tuple[Cells, ...]:
    """A case: its config, what came of it, where it was swept, its layer, counts, budgets, metrics, and its run."""
    record = of.record
    return (
        {**_config(record), "status": record.status, "reason": record.reason},
        {"implementation": _cell(chosen_implementation(record)), "rounds": len(record.rounds)},
        dict(_flat(record.point, "point")),
        {name: _cell(value) for name, value in record.case.layer.model_dump(mode="json").items() if name != "kind"},
        {name: counted(record, name) for name in COUNTS},
        {"flops_per_token": record.achieved.get("flops_per_token")},
        {f"{name}_asked": asked for name, asked in record.asked.items()},
        {f"{name}_achieved": record.achieved.get(name) for name in record.asked},
        {name: _cell(value) for name, value in {**dict.fromkeys(METRICS), **record.metrics}.items()},
        dict(zip(("place_low", "place_high"), of.place or (None, None), strict=True)),
        {"labels": _joined(record.labels), "flags": _joined(record.flags)},
        _run(of),
    )


def round_row(of: FiledRecord, found: Round) -> tuple[Cells, ...]:
    """A round: its case, what came of it, its medians, and all that its process recorded.

    Errors against the reference have a name a tensor; their worst, as the metric is, says how far off the round was.
    """
    known = found.model_dump(mode="json")
    groups = (
        "sampling",
        "disturbance",
        "ceilings",
        "traffic",
        "cost",
        "memory",
        "energy",
        "counters",
        "implementation",
        "ran",
        "communication",
        "seconds",
        "final",
        "rates",
    )
    checked = {name: value for name, value in (found.reference or {}).items() if name != "errors"}
    return (
        _config(of.record),
        {"round": found.number, "round_started": found.started, "status": found.status, "reason": found.reason},
        {"samples": len(found.samples_s), "disturbed_samples": len(found.disturbed_samples_s)},
        {"latency_ms_p50": _median_ms(found.samples_s), "latency_ms_hot_p50": _median_ms(found.hot_samples_s)},
        {"reference_error": _cell(worst_error(found))},
        {name: known[name] for name in ("threads", "huge_pages", "inputs", "ceilings_from", "answer_digest")},
        *(dict(_flat(known[group], group)) for group in groups),
        dict(_flat({name: found.pacer[name] for name in _OF_PACER if name in found.pacer}, "pacer")),
        dict(_flat(dict(zip(("before", "after"), found.clocks, strict=False)), "clocks")),
        dict(_flat(checked, "reference")),
        {"notes": _joined(found.notes)},
        _run(of),
    )


def sample_row(of: FiledRecord, found: Round, cache: str | None) -> tuple[Cells, ...]:
    """What every sample of a round says of where it is from; the rest is in the round's row.

    Args:
        cache: what the caches held before each sample: ``rotating`` inputs, ``cold`` or ``hot``.
    """
    config, run = _config(of.record), _run(of)
    return (
        {name: config[name] for name in ("arm", "kind", "mode", "optimizer", "tokens")},
        {"round": found.number, "status": found.status, "cache": cache},
        {"in_turn": found.sampling.get("in_turn") is True},
        {name: run[name] for name in _RUN_OF_A_SAMPLE},
    )


def point_row(of: FiledRecord, found: Round, point: Point) -> tuple[Cells, ...]:
    """A place of a seed's curve: where it is, what was spent by then, and what the model answered."""
    config, run, case = _config(of.record), _run(of), of.record.case
    known = point.model_dump(mode="json")
    return (
        {name: config[name] for name in ("arm", "kind")},
        {"task": case.task and case.task.kind, "seed": found.number, "status": found.status},
        dict(_flat(of.record.point, "point")),
        {name: value for name, value in known.items() if name != "metrics"},
        {name: _cell(value) for name, value in {ANSWER: None, **known["metrics"]}.items()},
        {"params": counted(of.record, "params"), **{name: run[name] for name in _RUN_OF_A_SAMPLE}},
    )


def _config(record: Record) -> Cells:
    case = record.case
    routing = case.routing if case.layer.routed else None
    return {
        "arm": case.arm,
        "kind": case.layer.kind,
        "level": case.level,
        "mode": case.mode,
        "optimizer": case.optimizer,
        "tokens": case.tokens,
        "sequences": case.sequences,
        "context": case.context,
        "ranks": case.ranks,
        "shared_by": case.shared_by,
        "routing": routing and routing.kind,
        "zipf_exponent": routing.zipf_exponent if routing and routing.kind == "zipf" else None,
        "threads": case.threads,
    }


def _run(of: FiledRecord) -> Cells:
    run, environment = of.result.run, of.result.environment
    pair = run.pair
    return {
        "id": of.record.id,
        "file": of.file,
        "scenario": run.scenario,
        "device": text(environment, "device", "name"),
        "device_type": text(environment, "device", "type") or run.device,
        "fingerprint": text(environment, "fingerprint"),
        "started": run.started,
        "finished": run.finished,
        "interrupted": run.interrupted,
        "git_sha": run.git_sha,
        "git_dirty": run.git_dirty,
        "membench_version": run.membench_version,
        "method_version": run.method_version,
        "torch_version": text(environment, "packages", "torch"),
        "pair.id": pair and pair.id,
        "pair.side": pair and pair.side,
        "pair.phase": pair and pair.phase,
    }


def _flat(source: Mapping[Any, Any], prefix: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Groups in groups as cells with dotted names. Tables in a record (``cost.stages``) are rows of another kind."""
    for key, value in source.items():
        name = f"{prefix}.{key}"
        if isinstance(value, dict):
            if depth < _DEEPEST:
                yield from _flat(value, name, depth + 1)
        elif not (isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value)):
            yield name, _cell(value)


def _cell(value: Any) -> Any:
    """A value that is one cell: of a list its items, of a mapping its JSON, of a number that none could be nothing."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return _joined(value)
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value if number({"value": value}, "value") is not None else None
    return value


def _joined(texts: list[str]) -> str | None:
    return "; ".join(texts) or None


def _median_ms(samples_s: list[float] | None) -> float | None:
    return 1e3 * statistics.median(samples_s) if samples_s else None
