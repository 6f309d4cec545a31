"""The result schema: what a run leaves behind, how it is written, read and migrated.

Strict JSON: no NaN, unknown is null. A file is written whole or not at all.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from membench.case import Case, Status
from membench.errors import UsageError
from membench.files import read_file, write_whole
from membench.json_values import mapping
from membench.learning.curve import Point
from membench.results.following import following
from membench.words import how_many

SCHEMA_VERSION = 1
MAX_RESULT_BYTES = 2**28


class ForeignFile(UsageError):
    """JSON of another make: it may lie among results, and holds no run.

    What says that it is a result, or cannot be read at all, is none of these: to pass it over might hide a failure.
    """


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Round(_Strict):
    """One fresh process's measurement of a case; of level training one seed, which is its number."""

    number: int
    started: str = Field(description="UTC, ISO 8601")
    status: Status
    reason: str | None = None
    samples_s: list[float] = Field(default_factory=list, description="raw seconds a call, in order")
    hot_samples_s: list[float] | None = Field(default=None, description="CUDA: the same with a warm L2")
    disturbed_samples_s: list[float] = Field(
        default_factory=list, description="the same, kept apart: others used the processors while they were taken"
    )
    disturbed_hot_samples_s: list[float] = Field(default_factory=list, description="CUDA: the same with a warm L2")
    disturbance: dict[str, Any] = Field(default_factory=dict, description="what others did while it was sampled")
    sampling: dict[str, Any] = Field(default_factory=dict, description="calls a sample, what stopped it, warm-up")
    pacer: dict[str, Any] = Field(
        default_factory=dict, description="version, amounts, calls a sample, samples_s: the i-th after the i-th sample"
    )
    counters: dict[str, float | None] = Field(default_factory=dict, description="instructions_per_call")
    ceilings: dict[str, Any] = Field(
        default_factory=dict, description="random rows measured in the same process, the others as ceilings_from says"
    )
    ceilings_from: str | None = Field(
        default=None, description="the arm in whose process of this round the others were measured; null: in this one"
    )
    clocks: list[dict[str, Any]] = Field(default_factory=list, description="before and after")
    implementation: dict[str, Any] = Field(default_factory=dict)
    reference: dict[str, Any] | None = Field(
        default=None,
        description="errors against float64; null: unchecked. bit_equal_to_round: found there, of the same answer",
    )
    answer_digest: str | None = Field(default=None, description="of the answer to the first input, with its gradients")
    traffic: dict[str, Any] = Field(default_factory=dict)
    cost: dict[str, Any] = Field(default_factory=dict)
    memory: dict[str, int | None] = Field(default_factory=dict, description="measured in the first round alone")
    energy: dict[str, Any] = Field(default_factory=dict)
    threads: int | None = None
    ran: dict[str, Any] = Field(
        default_factory=dict, description="what decided times: the path of each operator, compiler, settings …"
    )
    huge_pages: bool | None = None
    inputs: int | None = None
    notes: list[str] = Field(default_factory=list, description="what the layer says of itself: versions, known faults")
    seconds: dict[str, float] = Field(default_factory=dict, description="where this process's time went")
    curve: list[Point] = Field(default_factory=list, description="level training: after each evaluation")
    final: dict[str, float | None] = Field(default_factory=dict, description="level training: what came of this seed")
    ranks: list[dict[str, Any]] = Field(
        default_factory=list,
        description="of a layer that ranks share: each one's host, samples_s, answer, errors",
    )
    communication: dict[str, Any] = Field(
        default_factory=dict,
        description="of the same: by_kind of collective calls, sent_bytes and ms of a step; ms of all; waiting_ms",
    )
    rates: dict[str, float] = Field(default_factory=dict, description="level training: those it was trained with")
    data: dict[str, Any] = Field(default_factory=dict, description="level training: what was learnt, with an example")


class Trial(_Strict):
    """Rates that were tried for a case of level training, on a seed that its result does not use."""

    rates: dict[str, float]
    seed: int
    status: Status
    reason: str | None = None
    final: dict[str, float | None] = Field(default_factory=dict, description="what came of it")


class Record(_Strict):
    """Everything known of one case."""

    id: str
    case: Case
    status: Status
    reason: str | None = None
    labels: list[str] = Field(default_factory=list)
    asked: dict[str, float] = Field(default_factory=dict, description="budgets")
    achieved: dict[str, float] = Field(default_factory=dict)
    planned: dict[str, Any] = Field(default_factory=dict, description="expected counts, memory need, predicted time")
    rounds: list[Round] = Field(default_factory=list)
    metrics: dict[str, float | None] = Field(default_factory=dict)
    flags: list[str] = Field(default_factory=list, description="what a reader should distrust")
    trials: list[Trial] = Field(default_factory=list, description="level training: by which its rates were chosen")
    _following: frozenset[str] = PrivateAttr(frozenset())

    @property
    def following(self) -> frozenset[str]:
        """Those of its point's keys that are its arm's alone and follow the others, among all cases of its file."""
        return self._following

    @property
    def point(self) -> dict[str, Any]:
        """The swept keys' values."""
        return mapping(self.planned, "point")


class Standing(_Strict):
    """An arm among those that it is compared with."""

    arm: str
    id: str = Field(description="of its case")
    step_ms: float = Field(description="median over rounds")
    step_ms_low: float | None = Field(default=None, description="95 % interval over rounds; null: fewer than three")
    step_ms_high: float | None = None
    place_low: int | None = Field(default=None, description="1 + how many are surely faster; null: no order is known")
    place_high: int | None = Field(default=None, description="how many there are, less those that are surely slower")
    times_lowest: float = Field(description="the step over the lowest median")

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """From where to where the step lies; None where the rounds do not say."""
        return None if self.step_ms_low is None or self.step_ms_high is None else (self.step_ms_low, self.step_ms_high)

    @property
    def places(self) -> tuple[int, int] | None:
        """The first and the last place; None where no order is known."""
        return None if self.place_low is None or self.place_high is None else (self.place_low, self.place_high)


class Answer(_Strict):
    """What is known of the order of arms that may be compared."""

    compared_at: str
    no_order: str | None = Field(default=None, description="why no order is known, as in: one round")
    standings: list[Standing] = Field(description="the measured arms by their medians; places say what is known")
    fastest: list[str] = Field(description="arms than which none is surely faster; empty: no order is known")
    dense: str | None = Field(default=None, description="the dense arm")
    at_dense_flops: list[str] = Field(
        default_factory=list, description="the fastest of the arms with the dense arm's FLOPs a token"
    )
    failed: list[str] = Field(default_factory=list, description="arms that were not measured")

    def standing(self, id_: str) -> Standing | None:
        """That of a case; None where it was not measured."""
        return next((each for each in self.standings if each.id == id_), None)


class Difference(_Strict):
    """Two arms of level training, paired by their seeds: by how much the other's metric is above the first's."""

    compared_at: str
    metric: str
    arm: str
    other: str
    seeds: int = Field(description="that both were trained on")
    mean: float
    low: float | None = Field(default=None, description="95 % interval, Student's; null: fewer than three seeds")
    high: float | None = None
    p: float | None = Field(default=None, description="Holm's, over all differences of the file in this metric")
    told_apart: bool = Field(default=False, description="p is below 0.05")


class Pair(_Strict):
    """One side of an ab. Equal ``id`` and ``phase``: the samples of both were taken in turn, round by round."""

    id: str
    side: Literal["base", "head"]
    phase: Literal["first", "confirm"]
    planned_rounds: int = Field(description="more were added where these did not decide")


class Run(_Strict):
    """What made a result file."""

    scenario: str
    description: str
    scenario_text: str
    scenario_hash: str
    source: str
    overrides: list[str]
    command: str
    started: str
    finished: str | None = None
    interrupted: bool = False
    resumed: str | None = Field(default=None, description="when it went on, the last time, after it was interrupted")
    membench_version: str
    method_version: int
    git_sha: str | None = None
    git_dirty: bool | None = None
    git_note: str | None = Field(default=None, description="where the commit is from, or why none is known")
    device: str
    ranks: int
    ranks_reason: str
    rounds: int
    link_gb_s: float | None = None
    network: str | None = Field(default=None, description="what communication is predicted for, where P is above 1")
    only: list[str] = Field(default_factory=list, description="--case: other cases were not asked for")
    pair: Pair | None = Field(default=None, description="of an ab: whose samples were taken in turn with another's")


class ResultFile(_Strict):
    """One run."""

    schema_version: int = SCHEMA_VERSION
    run: Run
    environment: dict[str, Any]
    cases: list[Record]
    answers: list[Answer] = Field(default_factory=list, description="at each comparable point")
    differences: list[Difference] = Field(default_factory=list, description="level training: between its arms")

    @model_validator(mode="after")
    def _tell_what_follows(self) -> Self:
        points: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for record in self.cases:
            points[record.case.arm].append(record.point)
        found = {arm: following(arm, of_arm) for arm, of_arm in points.items()}
        for record in self.cases:
            record._following = found[record.case.arm]
        return self


def strict_json(value: Any) -> str:
    """JSON text that any parser accepts; NaN and infinity are refused, not written."""
    return json.dumps(value, allow_nan=False, indent=1)


def write_result(result: ResultFile, path: Path) -> None:
    """Write whole or not at all.

    Raises:
        OSError: the folder cannot be written or the disk is full; ``path`` is untouched.
    """
    write_whole(path, (strict_json(result.model_dump(mode="json")) + "\n").encode())


def read_result(path: str | Path) -> ResultFile:
    """A result file.

    Raises:
        UsageError: it is missing, no strict JSON, or of another schema; the message says which.
        ForeignFile: it is JSON, and nothing in it says that it is a result.
    """
    text = read_file(path, MAX_RESULT_BYTES, "a result file of membench run")
    constants: list[str] = []  # NaN and infinity, which another's file may well hold
    try:
        content = json.loads(text, parse_constant=constants.append)
    except (ValueError, RecursionError) as error:
        what = error if text.strip() else "it is empty"
        raise UsageError(f"{path}: no strict JSON ({what}); a result file of membench run is wanted") from error
    if not _says_that_it_is_a_result(content):
        raise ForeignFile(f"{path}: {_make(content)}; a result file of membench run is wanted")
    if not isinstance(content.get("schema_version"), int):
        raise UsageError(f"{path}: schema_version is missing; a result file of membench run is wanted")
    if constants:
        problem = f"no strict JSON ({constants[0]} is not JSON)"
        raise UsageError(f"{path}: {problem}; a result file of membench run is wanted")
    if content["schema_version"] != SCHEMA_VERSION:
        found = content["schema_version"]
        why = ", it is of a newer one: update it" if found > SCHEMA_VERSION else ""
        raise UsageError(f"{path}: schema_version {found} is not supported; this membench reads {SCHEMA_VERSION}{why}")
    try:
        result = ResultFile.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(
            f"{path}: {where}: {first['msg']} ({how_many(error.error_count(), 'fault')} in all)"
        ) from error
    ids = [record.id for record in result.cases]
    if twice := next((id_ for id_ in ids if ids.count(id_) > 1), None) if len(set(ids)) < len(ids) else None:
        raise UsageError(f"{path}: cases: id {twice!r} is there twice; each case has an id of its own")
    return result


def _says_that_it_is_a_result(content: Any) -> bool:
    if not isinstance(content, dict) or not content.keys() & {"schema_version", "run", "cases"}:
        return False
    return "schema_version" in content or not isinstance(content.get("benchmark"), str)  # benchmarks have cases too


def _make(content: Any) -> str:
    """Whose a JSON is, as far as that can be told."""
    known = content if isinstance(content, dict) else {}
    if isinstance(known.get("benchmark"), str):
        return f"is what benchmarks.{known['benchmark']} wrote, no run of membench"
    if "nbformat" in known:
        return "is a notebook: schema_version is missing"
    if isinstance(known.get("results"), list) or "profile" in known:
        return "is what membench printed with --json: schema_version is missing"
    return "is no result of ours: schema_version is missing"


def result_schema() -> dict[str, Any]:
    """The JSON Schema of a result file."""
    return ResultFile.model_json_schema()
