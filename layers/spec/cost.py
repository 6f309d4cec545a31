"""What a layer costs, by stage: pure arithmetic, no torch.

A multiply-add is two FLOPs. Bias, norm and elementwise work is omitted from FLOPs.
Three byte counts are kept apart because they answer different questions:

* ``bytes_min``: every tensor once, a table's U unique rows once;
* ``bytes_issued``: what the kernels ask for, every one of the L lookups;
* ``bytes_dram_expected``: the lookups that the caches cannot be expected to serve.
"""

from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["forward", "forward_backward", "train_step", "prefill", "decode"]
Optimizer = Literal["sgd", "adamw", "row_adagrad", "row_adam", "lazy_adam"]

MODES: tuple[Mode, ...] = ("forward", "forward_backward", "train_step", "prefill", "decode")
OPTIMIZERS: tuple[Optimizer, ...] = ("sgd", "adamw", "row_adagrad", "row_adam", "lazy_adam")


def has_backward(mode: Mode) -> bool:
    """Whether a mode computes gradients."""
    return mode in ("forward_backward", "train_step")


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one of P ranks that share a layer: what its cost is asked for.

    Counts are of one step. ``unique_rows`` to ``assignments`` depend on the data: what is None is expected, under
    ``zipf_exponent``, and the cost says that it is an expectation.

    Attributes:
        tokens: b, tokens of this rank; the ranks together have P·b.
        sequences: that these tokens belong to, as many to each; of account only to attention.
        context: tokens of each sequence that came before and lie in its KV cache.
        mode: what is computed; ``prefill`` and ``decode`` are forward passes.
        optimizer: counted in mode ``train_step``, which needs one; its state is held in any.
        ranks: P.
        unique_rows: U, distinct rows of each table that the P·b tokens read.
        active_experts: distinct experts of this rank that get a token.
        assignments: (token, expert) pairs that this rank computes.
        zipf_exponent: skew of what is expected; 0: every row and expert is as likely.
        cache_bytes: of the last-level cache, for ``bytes_dram_expected``.
        row_shards: R of the P ranks' shards of a table are of its rows, P / R of its columns.
        fused: the backward pass updates the rows that it reads, where the optimizer can; False: another layer does.
    """

    tokens: int
    mode: Mode = "forward"
    optimizer: Optimizer | None = None
    ranks: int = 1
    unique_rows: float | None = None
    active_experts: float | None = None
    assignments: float | None = None
    zipf_exponent: float = 0.0
    cache_bytes: float = 0.0
    fused: bool = True
    sequences: int = 1
    context: int = 0
    row_shards: int = 1

    @property
    def column_shards(self) -> int:
        """C, where the ranks share a table."""
        return self.ranks // self.row_shards

    @property
    def new_tokens(self) -> int:
        """Tokens of each sequence."""
        return self.tokens // self.sequences

    @property
    def group_tokens(self) -> int:
        """P·b."""
        return self.ranks * self.tokens

    def of_row_shard(self, count: int) -> int:
        """What the fullest of the R row shards has of so many, evenly spread."""
        return -(-count // self.row_shards)

    @property
    def has_backward(self) -> bool:
        """Whether gradients are computed."""
        return has_backward(self.mode)

    @property
    def update(self) -> Optimizer | None:
        """The optimizer whose update is part of the step, if one is."""
        return self.optimizer if self.mode == "train_step" else None


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage of a layer, in one mode.

    ``stream_bytes`` are read or written in order; the ``row_bytes_*`` are reads of
    table rows at random addresses, which a device serves at another rate. ``backward``
    marks what a stage does in the backward pass, which is counted by itself.
    """

    name: str
    flops: float = 0.0
    flops_executed: float = 0.0
    stream_bytes: float = 0.0
    row_bytes_unique: float = 0.0
    row_bytes_issued: float = 0.0
    row_bytes_dram_expected: float = 0.0
    backward: bool = False

    @property
    def bytes_min(self) -> float:
        return self.stream_bytes + self.row_bytes_unique

    @property
    def bytes_issued(self) -> float:
        return self.stream_bytes + self.row_bytes_issued

    @property
    def bytes_dram_expected(self) -> float:
        return self.stream_bytes + self.row_bytes_dram_expected


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes one rank must hold on its device, by part, and ``host`` bytes in the host's memory, whatever the device."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    host: float = 0.0
    kv_cache: float = 0.0

    @property
    def total(self) -> float:
        """On the device."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.kv_cache


@dataclass(frozen=True, slots=True)
class Cost:
    """The exact cost of one step of one rank.

    ``params`` and ``stored_bytes`` are the whole layer's; ``rank_params`` what one of P
    ranks holds; everything else is one rank's work on its own tokens.
    ``communication_bytes`` names what one rank sends, by collective.
    ``is_expectation`` is true where U or the active experts were not given but expected.
    """

    params: int
    active_params: int
    rank_params: int
    stored_bytes: int
    stages: tuple[StageCost, ...]
    memory: MemoryNeed
    communication_bytes: dict[str, float] = field(default_factory=dict)
    lookups: int = 0
    unique_rows: float | None = None
    active_experts: float | None = None
    is_expectation: bool = False

    @property
    def flops(self) -> float:
        return sum(stage.flops for stage in self.stages)

    @property
    def flops_executed(self) -> float:
        return sum(stage.flops_executed for stage in self.stages)

    @property
    def bytes_min(self) -> float:
        return sum(stage.bytes_min for stage in self.stages)

    @property
    def bytes_issued(self) -> float:
        return sum(stage.bytes_issued for stage in self.stages)

    @property
    def bytes_dram_expected(self) -> float:
        return sum(stage.bytes_dram_expected for stage in self.stages)

    @property
    def row_bytes_dram_expected(self) -> float:
        return sum(stage.row_bytes_dram_expected for stage in self.stages)

    @property
    def communication_total_bytes(self) -> float:
        return sum(self.communication_bytes.values())
