"""From a case's rounds to its metrics: medians, rates, utilizations. Pure arithmetic.

A replicate is a round (a fresh process), so the latency is the median of the rounds'
medians; the tail quantiles pool all samples.
"""

import json
import statistics
from typing import Any

from membench.case import Case
from membench.json_values import mapping, number
from membench.machine.conditions import what_is_slow
from membench.results.ceilings import Ceilings
from membench.results.disturbance import disturbed_rounds
from membench.results.intervals import latency_interval_ms
from membench.results.learnt import learnt_flags
from membench.results.records import Record, Round
from membench.words import how_many

_OF_RANKS = ("communication_ms", "compute_ms", "waiting_ms", "sent_bytes", "rank_spread")
FLAG_ABOVE = 1.05  # a utilization above this says the ceiling or the count is wrong
_ABOVE_ONE = {
    "mfu": "the machine was slower while its matmul ceiling was measured",
    "mbu": "caches served what was counted as memory traffic",
}


def quantile(values: list[float], q: float) -> float:
    """The q-quantile by linear interpolation between order statistics."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _median_of_rounds(rounds: list[Round], value: Any) -> float | None:
    known = [v for v in (value(r) for r in rounds) if v is not None]
    return statistics.median(known) if known else None


def _mfu(r: Round) -> float | None:
    flops = r.cost["flops"]  # 0 of an operator that multiplies nothing: it has no MFU
    return _share(Ceilings.of(r.ceilings).compute_s(flops), r) if flops else None


def _mbu(r: Round) -> float | None:
    return _share(Ceilings.of(r.ceilings).memory_s(r.cost["bytes_dram_expected"], r.cost["row_bytes_dram_expected"]), r)


def _share(least_s: float | None, r: Round) -> float | None:
    """The least time over the time that was taken."""
    return None if least_s is None else least_s / statistics.median(r.samples_s)


def floors_of(done: list[Round]) -> dict[str, float | None]:
    """The floor of a step in milliseconds, and how many times that it took: medians over rounds, by their ceilings."""
    return {
        "floor_ms": _median_of_rounds(done, _floor_ms),
        "over_floor": _median_of_rounds(done, _over_floor),
    }


def _floor_ms(r: Round) -> float | None:
    needed = [number(r.cost, name) for name in ("flops", "bytes_dram_expected", "row_bytes_dram_expected")]
    flops, dram_bytes, row_bytes = needed
    if flops is None or dram_bytes is None or row_bytes is None:
        return None
    floor_s, _ = Ceilings.of(r.ceilings).floor(flops, dram_bytes, row_bytes)
    return None if floor_s is None else 1e3 * floor_s


def _over_floor(r: Round) -> float | None:
    floor_ms = _floor_ms(r)
    return 1e3 * statistics.median(r.samples_s) / floor_ms if floor_ms else None


def step_interval(
    done: list[Round], communication_ms: float | None, run_spread: float | None
) -> dict[str, float | None]:
    """The 95 % interval of a step over its rounds; None with fewer than three, or where no link speed is known."""
    latency_ms = None if communication_ms is None else latency_interval_ms(done, run_spread)
    low, high = (None, None) if latency_ms is None else latency_ms
    return {
        "step_ms_low": None if low is None else low + (communication_ms or 0.0),
        "step_ms_high": None if high is None else high + (communication_ms or 0.0),
    }


def metrics_of(
    case: Case,
    rounds: list[Round],
    *,
    communication_ms: float | None,
    run_spread: float | None = None,
    peak_flops_per_s: float | None = None,
    peak_bytes_per_s: float | None = None,
    inside: bool = False,
) -> dict[str, float | None]:
    """Metrics of the finished rounds; units are in the names. Empty where nothing finished.

    Args:
        communication_ms: predicted for the step; 0 on one rank, None where no link speed is known.
        run_spread: of rounds, pooled over the cases of the run, where it has several.
        peak_flops_per_s, peak_bytes_per_s: the datasheet's, where the device has one.
        inside: ranks measured it together: communication is a part of the latency, and nothing comes on top.
    """
    done = [r for r in rounds if r.status == "ok" and r.samples_s]
    if not done:
        return {}
    medians = [statistics.median(r.samples_s) for r in done]
    pooled = [s for r in done for s in r.samples_s]
    latency_s = statistics.median(medians)
    joules = _median_of_rounds(done, lambda r: r.energy.get("joules_per_call"))
    hot = [statistics.median(r.hot_samples_s) for r in done if r.hot_samples_s]
    cost, traffic = done[-1].cost, done[-1].traffic
    memory = next((r.memory for r in reversed(done) if r.memory), {})
    latency_ms = 1e3 * latency_s
    predicted_ms, communication_ms = communication_ms, 0.0 if inside else communication_ms
    return {
        "latency_ms_p50": latency_ms,
        "latency_ms_p90": _tail_ms(pooled, 0.9),
        "latency_ms_p99": _tail_ms(pooled, 0.99),
        "latency_ms_iqr": 1e3 * (quantile(pooled, 0.75) - quantile(pooled, 0.25)),
        "latency_ms_hot_p50": 1e3 * statistics.median(hot) if hot else None,
        "communication_ms_predicted": predicted_ms,
        **(_together(done, latency_ms) if inside else dict.fromkeys(_OF_RANKS)),
        "step_ms": latency_ms + communication_ms if communication_ms is not None else None,
        **step_interval(done, communication_ms, run_spread),
        **generation_ms(case, done, latency_ms),
        "tokens_per_s": case.tokens / (latency_s + (communication_ms or 0.0) / 1e3),
        "flops_per_s": cost["flops"] / latency_s,
        "dram_bytes_per_s": cost["bytes_dram_expected"] / latency_s,
        "mfu": _median_of_rounds(done, _mfu),
        "mbu": _median_of_rounds(done, _mbu),
        **floors_of(done),
        "mfu_datasheet": cost["flops"] / latency_s / peak_flops_per_s if peak_flops_per_s else None,
        "mbu_datasheet": cost["bytes_dram_expected"] / latency_s / peak_bytes_per_s if peak_bytes_per_s else None,
        "unique_per_lookup": traffic.get("unique_per_lookup"),
        "expert_load_max_over_mean": traffic.get("expert_load_max_over_mean"),
        "dropped_tokens": traffic.get("dropped_tokens"),
        "energy_j_per_token": joules / case.tokens if joules is not None else None,
        "peak_process_bytes": _peak(done, "peak_process_bytes"),
        "peak_allocated_bytes": _peak(done, "peak_allocated_bytes"),
        "weights_bytes": memory.get("weights_bytes"),
        "gradient_bytes": memory.get("gradient_bytes"),
        "optimizer_bytes": memory.get("optimizer_bytes"),
        "saved_activation_bytes": memory.get("saved_activation_bytes"),
        "kv_cache_bytes": memory.get("kv_cache_bytes"),
        "reference_error": _median_of_rounds(done, worst_error),
    }


def _together(done: list[Round], latency_ms: float) -> dict[str, float | None]:
    """Of ranks that measured together: what a step spends on talking, and how far they lie apart."""
    communication_ms = _median_of_rounds(done, lambda r: number(r.communication, "ms"))
    return {
        "communication_ms": communication_ms,
        "compute_ms": None if communication_ms is None else max(0.0, latency_ms - communication_ms),
        "waiting_ms": _median_of_rounds(done, lambda r: number(r.communication, "waiting_ms")),
        "sent_bytes": _median_of_rounds(done, lambda r: number(r.communication, "sent_bytes")),
        "rank_spread": _median_of_rounds(done, _rank_spread),
    }


def _rank_spread(r: Round) -> float | None:
    """By how much the slowest rank's median is above the fastest one's."""
    medians = [statistics.median(samples) for rank in r.ranks if (samples := rank.get("samples_s"))]
    return max(medians) / min(medians) - 1 if medians and min(medians) > 0 else None


def generation_ms(case: Case, done: list[Round], latency_ms: float) -> dict[str, float | None]:
    """What serving calls the times of a model's prefill and decode step; None in other modes and of what is no model.

    The quantiles are of single steps: where a sample is a mean over several, only the median is known.
    """
    prefills, decodes = (case.level == "model" and case.mode == mode for mode in ("prefill", "decode"))
    single = all(r.sampling.get("calls_per_sample") == 1 for r in done)
    steps = [seconds for r in done for seconds in r.samples_s] if decodes and single else []
    return {
        "ttft_ms": latency_ms if prefills else None,
        "tpot_ms_p50": latency_ms if decodes else None,
        "tpot_ms_p90": _tail_ms(steps, 0.9),
        "tpot_ms_p99": _tail_ms(steps, 0.99),
    }


def _tail_ms(seconds: list[float], q: float) -> float | None:
    """A tail quantile; None with fewer than 1 / (1 - q) samples, where it would be the largest of them."""
    return 1e3 * quantile(seconds, q) if len(seconds) * (1 - q) >= 0.999 else None


def _peak(rounds: list[Round], name: str) -> float | None:
    return max((v for r in rounds if (v := r.memory.get(name)) is not None), default=None)


def worst_error(r: Round) -> float | None:
    """The largest error against the reference, of the output and every gradient; None where nothing was checked."""
    errors = mapping(r.reference or {}, "errors")
    return max((error for name in errors if (error := number(errors, name)) is not None), default=None)


def flags_of(record: Record) -> list[str]:
    """What a reader should distrust: utilizations above one, unsteady or unchecked measurements."""
    if record.case.training is not None:
        return learnt_flags(record)
    flags = ["sum of measured blocks"] if record.planned.get("parts") else []
    for name, why in _ABOVE_ONE.items():
        value = record.metrics.get(name)
        if value is not None and value > FLAG_ABOVE:
            flags.append(f"{name} {value:.2f} is above {FLAG_ABOVE}: {why}")
    done = [r for r in record.rounds if r.status == "ok"]
    if any(not r.sampling.get("steady", True) for r in done):
        flags.append("not steady after warm-up")
    for cause in ("time", "disturbance"):
        if any(r.sampling.get("stopped_by") == cause for r in done):
            *before, last = (len(r.samples_s) for r in done)
            flags.append(f"stopped by {cause}: " + ", ".join([*map(str, before), how_many(last, "sample")]))
    if found := disturbed_rounds(record):
        flags.append(found.flag)
    flags += dict.fromkeys(line for r in done for line in what_is_slow(r.ran, r.threads))
    if len({json.dumps(r.ran.get("paths"), sort_keys=True) for r in done if r.ran}) > 1:
        flags.append("not every round took the same path")
    if done and any(r.reference is None for r in done):
        flags.append("unchecked: this layer has no reference")
    return flags
