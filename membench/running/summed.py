"""A model's rounds out of those of its parts: the sum of its blocks, where the whole does not fit."""

import statistics
from collections.abc import Mapping
from typing import Any

from membench.json_values import number
from membench.planning.plan import PlannedCase
from membench.results.metrics import worst_error
from membench.results.records import Record, Round

_TOTALS = ("flops", "flops_executed", "bytes_min", "bytes_issued", "bytes_dram_expected", "row_bytes_dram_expected")
SOURCE = "sum of blocks"


def summed_rounds(whole: PlannedCase, rounds: Mapping[str, list[Round]]) -> list[Round]:
    """A round of the whole for each in which every part was measured.

    Its one sample is the sum of the parts' medians, each as often as the model has the part. A part that failed makes
    the whole fail, for its reason.

    Args:
        whole: the model, which says how many it has of each part.
        rounds: of each part, by id.
    """
    parts = whole.parts
    by_number = {id_: {r.number: r for r in rounds[id_]} for id_ in parts}
    shared = set.intersection(*(set(found) for found in by_number.values())) if by_number else set()
    of_round = {n: [(by_number[id_][n], count) for id_, count in parts.items()] for n in sorted(shared)}
    return [_summed(n, whole, found) for n, found in of_round.items()]


def _summed(number_: int, whole: PlannedCase, parts: list[tuple[Round, int]]) -> Round:
    started = min(part.started for part, _ in parts)
    if failed := next((part for part, _ in parts if part.status != "ok" or not part.samples_s), None):
        return Round(number=number_, started=started, status=failed.status, reason=failed.reason)
    largest, _ = max(parts, key=lambda each: statistics.median(each[0].samples_s) * each[1])
    return Round(
        number=number_,
        started=started,
        status="ok",
        samples_s=[sum(count * statistics.median(part.samples_s) for part, count in parts)],
        ceilings=_ceilings(parts),
        implementation=largest.implementation,
        reference=_worst(parts),
        cost={"source": SOURCE, **{name: _sum(parts, name) for name in _TOTALS}},
        memory=_memory(whole, parts),
        threads=largest.threads,
        ran=largest.ran,
    )


def _sum(parts: list[tuple[Round, int]], name: str) -> float:
    return sum(count * (number(part.cost, name) or 0.0) for part, count in parts)


def _ceilings(parts: list[tuple[Round, int]]) -> dict[str, Any]:
    """Those of the part that reads rows, which has one more; the machine's are the same for all of a round."""
    return max((part.ceilings for part, _ in parts), key=lambda found: bool(found.get("random_row_bytes_per_s")))


def _memory(whole: PlannedCase, parts: list[tuple[Round, int]]) -> dict[str, int | None]:
    """What all parts hold together; empty where memory was not measured. A process's peak is no sum of peaks.

    Weights and the optimizer's state are as counted: a table that several blocks read is in each of these parts.
    """
    if not all(part.memory for part, _ in parts):
        return {}
    counted = whole.memory_bytes or {}
    sizes = {f"{name}_bytes": counted.get(name) for name in ("weights", "optimizer")}
    for name in ("gradient_bytes", "saved_activation_bytes", "kv_cache_bytes"):
        sizes[name] = sum(count * (part.memory.get(name) or 0) for part, count in parts)
    return {name: None if size is None else round(size) for name, size in sizes.items()}


def _worst(parts: list[tuple[Round, int]]) -> dict[str, Any] | None:
    """The check of the part with the largest error; None where one was not checked."""
    checks = [(worst_error(part), part.reference) for part, _ in parts]
    known = [(error, reference) for error, reference in checks if error is not None]
    return max(known, key=lambda each: each[0])[1] if len(known) == len(checks) else None


def with_flags_of_parts(records: list[Record]) -> list[Record]:
    """The records; what to distrust of a part, to distrust of the models that it is in."""
    known = {record.id: record for record in records}
    return [_with_flags(record, [known[id_] for id_ in record.planned["parts"] if id_ in known]) for record in records]


def _with_flags(record: Record, parts: list[Record]) -> Record:
    told = [f"{part.case.arm}: {flag}" for part in parts for flag in part.flags]
    return record.model_copy(update={"flags": [*record.flags, *told]}) if told else record
