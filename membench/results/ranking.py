"""Which records may be ranked against each other, what they are called, and what is shown of each."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from membench.json_values import number, positive, text, value_at
from membench.layers.spec import Spec
from membench.results.following import own_key
from membench.results.records import Record
from membench.words import how_many


def comparable_groups(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records that may be ranked against each other: the same mode, optimizer, tokens, routing and swept keys.

    Where training steps ran with several optimizers there is one group more, of each arm at its best.
    """
    records = [record for record in records if not is_part(record) and not is_trained(record)]
    routings = sorted({routing_name(r) for r in records if routing_name(r)})
    groups: dict[str, list[Record]] = defaultdict(list)
    best: dict[str, dict[str, Record]] = defaultdict(dict)
    for record in records:
        # dense layers are not routed: they belong beside every routing of the others
        for routing in [routing_name(record)] if routing_name(record) else routings or [""]:
            where = ", ".join(part for part in (tokens_name(record), routing, swept(record)) if part)
            groups[f"{step_name(record)}, {where}"].append(record)
            if record.case.optimizer is not None:
                arms = best[f"{mode_name(record)}, each arm's best optimizer, {where}"]
                if arm_name(record) not in arms or rank_key(record) < rank_key(arms[arm_name(record)]):
                    arms[arm_name(record)] = record
    several = len({r.case.optimizer for r in records if r.case.optimizer}) > 1
    return {**groups, **({title: list(arms.values()) for title, arms in best.items()} if several else {})}


def trained_groups(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Records of level training that may be compared: of the same task, budget and swept keys."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in filter(is_trained, records):
        groups[trained_name(record)].append(record)
    return dict(groups)


def is_trained(record: Record) -> bool:
    """Whether it is of level training: it has learnt something, and no time of a step."""
    return record.case.training is not None


def trained_name(record: Record) -> str:
    """The task, the budget, and what was swept of what all arms share."""
    case = record.case
    assert case.task is not None
    assert case.training is not None
    shared = swept(record, but="training.stop")
    told = ", ".join(part for part in shared.split(", ") if part and not part.startswith(("task ", "training.stop")))
    return ", ".join(part for part in (case.task.kind, case.training.stop.in_words, told) if part)


def is_part(record: Record) -> bool:
    """Whether it is a block, or the ends, of models that were measured in parts: it is compared with nothing."""
    return bool(record.planned.get("part_of"))


def is_summed(record: Record) -> bool:
    """Whether it is a model whose time is the sum of its parts'."""
    return bool(record.planned.get("parts"))


def ranked(records: Iterable[Record]) -> list[Record]:
    """Those that were measured, the fastest step first."""
    return sorted((r for r in records if step_ms(r)), key=rank_key)


def rank_key(record: Record) -> float:
    """What records are ordered by: the step's time; failed ones last."""
    return step_ms(record) or float("inf")


def step_ms(record: Record) -> float | None:
    """Compute and communication, compute alone where the link is unknown; None for a case that failed."""
    if record.status != "ok":
        return None
    return positive(record.metrics, "step_ms") or positive(record.metrics, "latency_ms_p50")


def added_ms(record: Record) -> float:
    """The communication that comes on top of what was measured, where it is known: of one rank's share alone.

    Ranks that measure together have it in their times.
    """
    together = record.case.shared_by is not None
    return 0.0 if together else positive(record.metrics, "communication_ms_predicted") or 0.0


def arm_name(record: Record, but: str = "") -> str:
    """The arm, with the values of the keys that were swept on it alone; without key ``but``, where that is an axis.

    Nor with keys that follow what all arms share, as where each preset of a model has its own number of experts.
    """
    arm, point = record.case.arm, record.point
    own = {own_key(arm, key): value for key, value in point.items() if key not in record.following}
    return " ".join([arm, *(f"{key} {_swept_value(value)}" for key, value in own.items() if key not in (None, but))])


def own_sizes(record: Record) -> dict[str, Any]:
    """Dimensions of the layer that its arm is about: of a block its FFN's, of a model those of what replaces FFNs."""
    sizes = record.case.layer.model_dump()
    return sizes.get("layer") or sizes.get("ffn") or sizes


def swept(record: Record, but: str = "") -> str:
    """Swept keys that every arm shares, without key ``but``; tokens and routing are told by themselves."""
    own = ("arms.", *(f"workload.{name}" for name in ("tokens", "sequences", "prompt", "context", "routing")))
    shared = {k: v for k, v in record.point.items() if not k.startswith(own)}
    named = {key.removeprefix("every_arm."): value for key, value in shared.items()}
    return ", ".join(f"{key} {_swept_value(value)}" for key, value in named.items() if key != but)


def _swept_value(value: Any) -> Any:
    """A value of an axis in few words: of a task its kind."""
    if not isinstance(value, dict):
        return value
    return value["kind"] if "kind" in value else " ".join(f"{key} {of_key}" for key, of_key in value.items())


def step_name(record: Record) -> str:
    """The mode, with the optimizer where there is one."""
    mode, optimizer = mode_name(record), record.case.optimizer
    return mode if optimizer is None else f"{mode} with {optimizer}"


def tokens_name(record: Record) -> str:
    """b, with what it is a count of; of a block or a model the sequences, their new tokens and what came before."""
    case = record.case
    if case.level in ("layer", "op"):
        return f"{how_many(case.tokens, 'token')} a rank"
    new = "" if case.mode == "decode" else f" of {how_many(case.tokens // case.sequences, 'token')}"
    after = f" after {case.context}" if case.context else ""
    return f"{how_many(case.sequences, 'sequence')}{new}{after}"


def mode_name(record: Record) -> str:
    """The mode; of an operator its name too, for it is compared with no other."""
    case = record.case
    return f"{case.layer.kind} {case.mode}" if case.level == "op" else case.mode


def yardstick(records: Iterable[Record]) -> tuple[str, float | None]:
    """What others are held against and its step, None where it was not measured: dense, or torch's own calls."""
    records = list(records)
    named = next((record.case.layer.YARDSTICK for record in records), Spec.YARDSTICK)
    return named, next((step for r in records if r.case.layer.is_yardstick and (step := step_ms(r))), None)


def routing_name(record: Record) -> str:
    """Where lookups or assignments come from; empty for a layer that routes nothing."""
    case = record.case
    if not case.layer.routed:
        return ""
    return (
        f"routing zipf {case.routing.zipf_exponent:g}"
        if case.routing.kind == "zipf"
        else f"routing {case.routing.kind}"
    )


def counted(record: Record, name: str) -> float | None:
    """A count of the plan, else what a round counted: an outside layer's is known only when built."""
    planned = number(record.planned, name)
    return planned or next((number(r.cost, name) for r in record.rounds if r.cost), None)


def peak_bytes(record: Record) -> float | None:
    """What the CUDA allocator held at most, else the process."""
    return number(record.metrics, "peak_allocated_bytes") or number(record.metrics, "peak_process_bytes")


def chosen_implementation(record: Record) -> Any:
    """What was timed (eager, compiled, cuda_graph; of an operator with its path), None where nothing was."""
    ran = next((r.implementation for r in record.rounds if r.implementation), {})
    chosen, path = value_at(ran, "chosen"), text(ran, "path")
    return f"{chosen}, {path}" if path else chosen
