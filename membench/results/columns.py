"""The columns that users see, each said once: tables, Markdown, CSV, the report's page and the gate read them here.

A column is a quantity under the name that records have. What an output adds of its own is beside it: a table may show
the column only where there is room (``priority``), a plot writes its ``axis`` out in words.
"""

from dataclasses import dataclass
from typing import Literal

# How a number is written: to three digits, with a suffix (K M B T), in billions, in percent, as from … to, …
Written = Literal[
    "number", "quantity", "billions", "bytes", "percent", "multiple", "error", "share", "interval", "shares", "places"
]
Better = Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity.

    Attributes:
        name: in records and in CSV; it ends with the unit where there is one.
        heading: above a column of a table, with the unit that is shown there.
        written: how its values are written.
        better: which way is better; None: neither.
        priority: 1 is always shown; in a narrow terminal the highest go first.
        axis: the words on a plot's axis.
    """

    name: str
    heading: str
    written: Written
    better: Better | None = None
    priority: int = 1
    axis: str = ""


def _by_name(*quantities: Quantity) -> dict[str, Quantity]:
    return {quantity.name: quantity for quantity in quantities}


# In the order in which a row of a frame, and of CSV, has them; there also where nothing was measured.
COUNTS = _by_name(
    Quantity("params", "params", "quantity", "lower", axis="parameters"),
    Quantity("active_params", "active", "quantity", "lower", 3),
    Quantity("rank_params", "of this rank", "quantity", "lower", 4),
    Quantity("stored_bytes", "stored GB", "billions", "lower", 2, "stored, GB"),
    Quantity("flops", "FLOPs", "quantity", "lower", 4),
    Quantity("flops_executed", "FLOPs executed", "quantity", "lower", 5),
    Quantity("bytes_min", "bytes, least", "bytes", "lower", 5),
    Quantity("bytes_issued", "bytes issued", "bytes", "lower", 5),
    Quantity("bytes_dram_expected", "DRAM bytes", "bytes", "lower", 4),
)
METRICS = _by_name(
    Quantity("latency_ms_p50", "latency ms", "number", "lower", 3),
    Quantity("latency_ms_p90", "p90 ms", "number", "lower", 4),
    Quantity("latency_ms_p99", "p99 ms", "number", "lower", 5),
    Quantity("latency_ms_iqr", "IQR ms", "number", "lower", 4),
    Quantity("latency_ms_hot_p50", "hot ms", "number", "lower", 5),
    Quantity("communication_ms_predicted", "comm ms predicted", "number", "lower", 4),
    Quantity("communication_ms", "comm ms", "number", "lower", 1, "communication, ms"),
    Quantity("compute_ms", "compute ms", "number", "lower", 1, "computation, ms"),
    Quantity("waiting_ms", "waiting ms", "number", "lower", 3),
    Quantity("sent_bytes", "sent", "bytes", "lower", 2, "bytes that a rank sends"),
    Quantity("rank_spread", "ranks differ", "percent", "lower", 4),
    Quantity("step_ms", "step ms", "number", "lower", 1, "step, ms"),
    Quantity("step_ms_low", "step ms from", "number", "lower", 6),
    Quantity("step_ms_high", "step ms to", "number", "lower", 6),
    Quantity("ttft_ms", "TTFT ms", "number", "lower", 6, "time to first token, ms"),
    Quantity("tpot_ms_p50", "TPOT ms", "number", "lower", 6, "time per output token, ms"),
    Quantity("tpot_ms_p90", "TPOT p90 ms", "number", "lower", 6),
    Quantity("tpot_ms_p99", "TPOT p99 ms", "number", "lower", 6),
    Quantity("tokens_per_s", "tokens/s", "quantity", "higher", 5, "tokens a second"),
    Quantity("flops_per_s", "FLOP/s", "quantity", "higher", 5, "FLOP/s"),
    Quantity("dram_bytes_per_s", "GB/s", "billions", "higher", 5),
    Quantity("mfu", "MFU", "percent", "higher", 3),
    Quantity("mbu", "MBU", "percent", "higher", 3),
    Quantity("floor_ms", "floor ms", "number", None, 3),
    Quantity("over_floor", "over floor", "multiple", "lower", 2, "time over floor"),
    Quantity("mfu_datasheet", "MFU of datasheet", "percent", "higher", 6),
    Quantity("mbu_datasheet", "MBU of datasheet", "percent", "higher", 6),
    Quantity("unique_per_lookup", "U/L", "number", None, 5),
    Quantity("expert_load_max_over_mean", "load max/mean", "number", "lower", 6),
    Quantity("dropped_tokens", "dropped tokens", "number", "lower", 6),
    Quantity("energy_j_per_token", "J/token", "number", "lower", 4, "joules a token"),
    Quantity("peak_process_bytes", "process GB", "billions", "lower", 6),
    Quantity("peak_allocated_bytes", "allocated GB", "billions", "lower", 6),
    Quantity("weights_bytes", "weights GB", "billions", "lower", 4),
    Quantity("gradient_bytes", "gradients GB", "billions", "lower", 5),
    Quantity("optimizer_bytes", "optimizer GB", "billions", "lower", 5),
    Quantity("saved_activation_bytes", "activations GB", "billions", "lower", 5),
    Quantity("kv_cache_bytes", "KV cache GB", "billions", "lower", 5),
    Quantity("reference_error", "ref error", "error", "lower", 6),
)
# What is shown, and is no column of a case's row: sizes of a plan, stages of a profile, traffic, comparisons.
SHOWN = _by_name(
    Quantity("flops_per_token", "FLOPs/token", "quantity", "lower", 1, "FLOPs a token"),
    Quantity("params_asked", "params asked", "quantity", None, 5),
    Quantity("flops_per_token_asked", "FLOPs asked", "quantity", None, 5),
    Quantity("sequences", "sequences a step", "quantity", None, 4),
    Quantity("steps", "updates", "quantity", None, 2),
    Quantity("steps_trained", "updates done", "quantity", None, 4),
    Quantity("tokens_trained", "tokens trained", "quantity", None, 3, "tokens trained on"),
    Quantity("training_flops", "training FLOPs", "quantity", None, 1, "training FLOPs"),
    Quantity("training_seconds", "seconds trained", "number", "lower", 2, "seconds of training"),
    Quantity("rows_used_share", "rows used", "share", None, 4),
    Quantity("rows_kl_nats", "KL of rows", "number", None, 5),
    Quantity("expert_load_entropy", "load entropy", "number", None, 5),
    Quantity("dropped_token_share", "dropped", "share", "lower", 6),
    Quantity("peak_memory_bytes", "peak GB", "billions", "lower", 4),
    Quantity("answer_nll", "answer NLL", "number", "lower", 1, "answer NLL, nats a token"),
    Quantity("answer_nll_interval", "95 %", "interval", "lower", 2),
    Quantity("em", "EM", "percent", "higher", 1, "exact match"),
    Quantity("em_interval", "EM, 95 %", "shares", "higher", 3),
    Quantity("f1", "F1", "percent", "higher", 2, "F1"),
    Quantity("loss", "loss", "number", "lower", 3, "training loss, nats a token"),
    Quantity("bits_per_fact", "bits a fact", "number", "higher", 2, "bits a fact"),
    Quantity("bits_learnt", "bits learnt", "quantity", "higher", 3, "bits learnt"),
    Quantity("bits_per_param", "bits a param", "number", "higher", 2, "bits a parameter"),
    Quantity("learning_rate", "rate", "number", None, 3),
    Quantity("table_learning_rate", "table rate", "number", None, 3),
    Quantity("balance_weight", "balance", "number", None, 4),
    Quantity("flops_of_step", "GFLOP", "billions", "lower", 2),
    Quantity("dram_bytes_of_step", "DRAM GB", "billions", "lower", 3),
    Quantity("host_bytes", "host GB", "billions", "lower", 5),
    Quantity("predicted_ms", "compute ms", "number", "lower", 3),
    Quantity("predicted_step_ms", "sum ms", "number", "lower"),
    Quantity("peak_bytes", "peak GB", "billions", "lower", 5, "peak memory, GB"),
    Quantity("vs_yardstick", "vs", "multiple", "lower", 2),
    Quantity("vs_lowest", "vs lowest", "multiple", "lower"),
    Quantity("flops_per_dram_byte", "FLOPs/byte", "number", None, 5, "FLOPs a byte expected from DRAM"),
    Quantity("lookups", "lookups", "quantity"),
    Quantity("unique_rows", "unique rows", "quantity"),
    Quantity("active_experts", "active experts", "number"),
    Quantity("expert_load_entropy_bits", "load entropy, bits", "number"),
    Quantity("matmul_flops_per_s", "matmul GFLOP/s", "billions", "higher", 2),
    Quantity("stream_bytes_per_s", "stream GB/s", "billions", "higher", 2),
    Quantity("random_row_bytes_per_s", "random rows GB/s", "billions", "higher", 2),
    Quantity("time_ms", "time ms", "number", "lower"),
    Quantity("share", "share", "share", None, 2),
    Quantity("stage_bytes_per_s", "GB/s", "billions", "higher", 5),
    Quantity("stage_flops_per_s", "GFLOP/s", "billions", "higher", 5),
    Quantity("of_ceiling", "of its ceiling", "percent", "higher", 2),
    Quantity("times_floor", "time/floor", "multiple", "lower"),
    Quantity("excess_ms", "above floor ms", "number", "lower"),
    Quantity("kernel_launches", "launches", "number", "lower"),
    Quantity("moved_bytes", "moved", "bytes", "lower", 2),
    Quantity("device_ms", "predicted ms", "number", "lower"),
    Quantity("calls", "calls a step", "number", None, 2),
    Quantity("instructions_per_call", "instructions", "quantity", "lower"),
    Quantity("times_first", "ratio", "multiple"),
    Quantity("reference_ms", "reference ms", "number", None, 3),
    Quantity("step_ms_interval", "95 %", "interval", "lower", 2),
    Quantity("place", "place", "places", "lower"),
    Quantity("times_reference", "takes", "multiple", "lower"),
)
QUANTITIES = {**COUNTS, **METRICS, **SHOWN}
