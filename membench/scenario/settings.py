"""The parts of a scenario that are plain settings: workload, fit, measure, limits."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from membench.case import RoutingConfig
from membench.errors import UsageError, shown_path
from membench.layers.spec import Mode, Optimizer, has_backward
from membench.scenario.budgets import Strict, parse_bytes
from membench.scenario.traces import form_problem

MAX_RANKS = 2**16
MOST_SEEDS = 1000  # of an arm in training
TRIAL_SEEDS = 10**6  # from which on seeds are those of trials, which no result uses
Implementation = Literal["eager", "compiled", "cuda_graph"]
_RETAKE_SECONDS = (1.5, 10.0)  # at least three of the half seconds that a disturbance takes to be out of sight


_OF_SEQUENCES = {"sequences": 1, "prompt": 512, "context": 0}  # and what they are if left out


def _number_or_auto(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: value if value == "auto" else parse(value))


def _ranks(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_RANKS:
        raise ValueError(f"should be auto or a whole number from 1 to {MAX_RANKS}, not {value!r}")
    return value


def _is_file(path: str) -> bool:
    with suppress(OSError):  # a name too long for the file system is no file
        return Path(path).is_file()
    return False


class Workload(Strict):
    """What is computed, the same for every arm."""

    tokens: PositiveInt = Field(default=32, le=2**24, description="b, tokens of one rank, of a layer or an operator")
    sequences: PositiveInt | None = Field(
        default=None, le=2**20, description="the batch of a block or a model, which has no tokens; 1 if left out"
    )
    prompt: PositiveInt | None = Field(
        default=None,
        le=2**20,
        description="new tokens of a sequence in all modes but decode, which has one; 512 if left out",
    )
    context: NonNegativeInt | None = Field(
        default=None,
        le=2**20,
        description="tokens of a sequence before a prefill or decode step, in its KV cache; 0 if left out",
    )
    modes: list[Mode] = Field(
        default=["forward"], min_length=1, description="what a step computes; each is a case of every arm"
    )
    routing: RoutingConfig = Field(
        default=RoutingConfig(), description="where the choices of sparse arms come from; a model's layers choose"
    )
    optimizers: list[Optimizer] = Field(
        default=["adamw", "row_adagrad"], min_length=1, description="each is a case of mode train_step"
    )
    seed: NonNegativeInt = Field(default=0, le=2**63 - 1, description="of weights, inputs and drawn routing")

    def at_level(self, *, whole: bool) -> Self:
        """The workload of a block or a model, in sequences; or of a layer or an operator, in tokens.

        Raises:
            UsageError: it states what belongs to the other.
        """
        sequences = {name: default for name, default in _OF_SEQUENCES.items() if getattr(self, name) is None}
        if whole:
            self._check_of_sequences()
            return self.model_copy(update=sequences)
        if stated := _OF_SEQUENCES.keys() - sequences.keys():
            raise UsageError("is for levels block and model: a layer has tokens", key=f"workload.{min(stated)}")
        return self

    def _check_of_sequences(self) -> None:
        if "tokens" in self.model_fields_set:
            raise UsageError("is for layers: a block or a model has sequences and prompt", key="workload.tokens")
        if "forward" in self.modes:
            problem = "a block or a model has no mode forward: take mode prefill or decode, which keep a KV cache"
            raise UsageError(problem, key=f"workload.modes[{self.modes.index('forward')}]")
        if self.context and all(map(has_backward, self.modes)):
            problem = f"{self.context} is of no use: only prefill and decode have a KV cache; leave it out"
            raise UsageError(problem, key="workload.context")

    def of_training(self, sequences: int, length: int) -> Self:
        """The workload of a training step: so many sequences, each so long.

        Raises:
            UsageError: it states what the task and the training say.
        """
        for name in sorted(self.model_fields_set - {"seed"}):
            raise UsageError(
                "is not for level training: its steps are training.sequences of the task", key=f"workload.{name}"
            )
        if self.seed + MOST_SEEDS > TRIAL_SEEDS:
            raise UsageError(
                f"should be at most {TRIAL_SEEDS - MOST_SEEDS}: trials have the seeds above", key="workload.seed"
            )
        return self.model_copy(update={"sequences": sequences, "prompt": length, "modes": ["train_step"]})

    def divided(self, ranks: int) -> Self:
        """The share of each of so many ranks that take a training step together."""
        assert self.sequences is not None
        return self.model_copy(update={"sequences": self.sequences // ranks})

    def tokens_of(self, mode: Mode) -> int:
        """b, tokens of one rank in a step of a mode."""
        if self.sequences is None:
            return self.tokens
        return self.sequences * (1 if mode == "decode" else self.prompt or 1)

    def step_of(self, mode: Mode) -> dict[str, int]:
        """What a step of a mode says of tokens: how many, of how many sequences, and what came before."""
        context = 0 if has_backward(mode) else self.context or 0
        return {"tokens": self.tokens_of(mode), "sequences": self.sequences or 1, "context": context}

    @model_validator(mode="after")
    def _check_routing(self) -> Self:
        if self.routing.kind == "trace":
            trace = self.routing.trace
            if trace is None:
                raise ValueError("routing of kind trace needs routing.trace, an .npy file of recorded indices")
            if not _is_file(trace):
                raise ValueError(f"routing.trace {shown_path(trace)} is no file; name an .npy file of recorded indices")
            try:
                problem = form_problem(trace)
            except OSError as error:
                problem = f"cannot be read ({error.strerror})"
            if problem:
                raise ValueError(f"routing.trace {shown_path(trace)} {problem}")
        return self


class Fit(Strict):
    """What happens when a layer does not fit on the device."""

    policy: Literal["rank", "shrink", "skip"] = Field(
        default="rank",
        description="rank: one rank's share of a parallel layer, a model in parts; shrink: all arms get fewer "
        "parameters (level layer); skip: the case is left out and says why",
    )
    ranks: Annotated[int | Literal["auto"], _number_or_auto(_ranks)] = Field(
        default="auto",
        description="P, the same for all arms; auto: the fewest with which everything fits. --nproc goes before it",
    )
    memory: Annotated[float | Literal["auto"], _number_or_auto(parse_bytes)] = Field(
        default="auto", description="bytes that the run may use, such as 18GB; auto: what the device has"
    )
    in_parts: bool = Field(default=False, description="models are measured as sums of their parts, even where they fit")
    link_gb_s: float | None = Field(
        default=None, gt=1e-6, le=1e9, description="10^9 bytes a second that a rank sends; the datasheet's if left out"
    )
    network: str | None = Field(
        default=None,
        description="a file of `membench doctor --nproc`, whose measured collectives predict those of the ranks",
    )

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        if self.network is not None and self.link_gb_s is not None:
            raise ValueError("network and link_gb_s both say what connects ranks: leave one out")
        return self

    @property
    def memory_limit_bytes(self) -> float | None:
        return None if isinstance(self.memory, str) else self.memory


class Measure(Strict):
    """How much is measured. A sample is one call of the layer."""

    rounds: PositiveInt = Field(default=1, le=1000, description="fresh processes a case is measured in")
    min_samples: PositiveInt = Field(default=30, le=100_000, description="samples a round stops at")
    floor_samples: PositiveInt = Field(default=5, le=100_000, description="samples taken even past max_seconds")
    max_seconds: PositiveFloat = Field(default=10, le=86_400, description="of sampling, a case and round")
    retake_seconds: NonNegativeFloat | None = Field(
        default=None,
        le=86_400,
        description="more, to take disturbed samples again; half of max_seconds if left out, from 1.5 to 10",
    )
    warmup_seconds: NonNegativeFloat = Field(default=0.5, le=3600, description="of calls before the first sample")
    timeout_seconds: PositiveFloat = Field(
        default=300, le=86_400, description="of silence, after which a process is ended"
    )
    implementations: list[Implementation] = Field(
        default=["eager"], min_length=1, description="what is tried of each arm; the fastest counts"
    )
    pacer: bool = Field(
        default=False, description="time a fixed mix of the case's own needs in turn with its samples, for compare"
    )
    threads: PositiveInt | None = Field(
        default=None, le=4096, description="CPU threads; all cores if left out, one for small models in training"
    )
    at_once: PositiveInt | None = Field(
        default=None, le=4096, description="level training: runs beside each other; as cores allow if left out"
    )

    @property
    def retake_budget_seconds(self) -> float:
        """``retake_seconds``, or what they are where the scenario leaves them out: within what the timeout allows."""
        if self.retake_seconds is not None:
            return self.retake_seconds
        low, high = _RETAKE_SECONDS
        room = self.timeout_seconds - self.max_seconds - self.warmup_seconds
        return min(max(low, self.max_seconds / 2), high, max(0.0, room / 2))

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.floor_samples > self.min_samples:
            raise ValueError(f"floor_samples {self.floor_samples} should be at most min_samples {self.min_samples}")
        longest = self.max_seconds + self.warmup_seconds + self.retake_budget_seconds
        if self.timeout_seconds <= longest:
            raise ValueError(
                f"timeout_seconds {self.timeout_seconds:g} should be above max_seconds, warmup_seconds and "
                f"retake_seconds, {longest:g} together: nothing is heard of a case while it is sampled"
            )
        return self


class Limits(Strict):
    """What stops a scenario from growing by accident."""

    max_cases: PositiveInt = Field(default=200, le=10_000, description="more are refused; counted before exclusions")
