"""Work -> planned case: its id, its counts, what they predict, and why it is skipped."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from membench.case import Case, RoutingConfig
from membench.layers.spec import Collective, Cost, sent_by_kind
from membench.machine.datasheet import Entry
from membench.planning.fit import Room, Work, parts_of, refusal, why_in_parts
from membench.planning.learning import planned_learning
from membench.planning.network import Network, total_ms
from membench.planning.plan import PlannedCase
from membench.planning.roofline import predicted_ms
from membench.scenario.traces import trace_for


def _impossible(work: Work) -> str | None:
    """Why this layer cannot run in this mode, or the workload's routing cannot be forced upon it; or None."""
    spec, routing = work.arm.spec, work.point.workload.routing
    return spec.mode_error(work.mode, work.optimizer) or spec.routing_error(routing.kind)


def _routing(work: Work) -> RoutingConfig:
    """The workload's routing less what has no effect, so that equal measurements get equal ids."""
    if not work.arm.spec.routed:
        return RoutingConfig()
    routing = work.point.workload.routing
    if trace := trace_for(work.arm.spec, routing):
        routing = routing.model_copy(update={"trace_sha256": trace.sha256})
    unused = {name: None for name in ("trace",) if routing.kind != "trace"}
    if routing.kind != "zipf":
        return routing.model_copy(update={**unused, "zipf_exponent": RoutingConfig().zipf_exponent})
    return routing.model_copy(update=unused)


def _at_both(earlier: PlannedCase, work: Work) -> PlannedCase:
    """A case of one point that is another's, too: without what tells them apart."""
    same = {key: value for key, value in earlier.point.items() if work.point.values[key] == value}
    return earlier.model_copy(update={"point": same})


def _same_layer(case: Case) -> str:
    """Equal for cases of one layer, shared alike, and trained alike where it is trained."""
    return case.model_dump_json(include={"layer", "shared_by", "training"})


@dataclass(frozen=True)
class CasePlanner:
    """What is the same for every case of a plan."""

    ranks: int
    room: Room
    entry: Entry | None
    network: Network | None
    cache_bytes: int
    threads: int | None

    def plan(self, works: list[Work]) -> list[PlannedCase]:
        """A planned case for each work; one that several points have is planned once, without what tells them apart."""
        planned: dict[str, PlannedCase] = {}
        first_arm: dict[tuple[int, str], str] = {}
        for work in works:
            if not self.skipped(work) and (why := why_in_parts(work, self.ranks, self.room)):
                self.plan_parts(work, why, planned)
                continue
            case = self.case(work)
            twin = first_arm.setdefault((id(work.point), _same_layer(case)), work.arm.name)
            if earlier := planned.get(case.id):
                planned[case.id] = _at_both(earlier, work)
            else:
                planned[case.id] = self.planned(work, case, twin)
        return list(planned.values())

    def plan_parts(self, work: Work, why: str, planned: dict[str, PlannedCase]) -> None:
        """Adds a model to what is planned as the sum of its parts, and the parts that are not there yet."""
        counts: dict[str, int] = {}
        for part, count in parts_of(work):
            case = self.case(part)
            earlier = planned.get(case.id)
            known = _at_both(earlier, part) if earlier else self.planned(part, case, part.arm.name)
            arms = [*dict.fromkeys([*known.part_of, work.arm.name])]
            planned[case.id] = known.model_copy(update={"part_of": arms})
            counts[case.id] = counts.get(case.id, 0) + count
        case = self.case(work)
        whole = self.planned(work, case, work.arm.name)
        note = f"sum of measured blocks: {why}"
        planned[case.id] = whole.model_copy(update={"parts": counts, "notes": [*whole.notes, note]})

    def skipped(self, work: Work) -> str | None:
        """Why a work cannot run at all, or None."""
        return refusal(work, self.ranks, self.room) or _impossible(work)

    def case(self, work: Work) -> Case:
        """The case of a work, with what has an effect on it."""
        step = work.point.workload.step_of(work.mode)
        if not work.arm.spec.attends:  # the same after any context
            step = {**step, "context": 0}
        training = work.point.arms[work.arm.name].training if work.level == "training" else None
        return Case(
            arm=work.arm.name,
            level=work.level,
            mode=work.mode,
            layer=work.arm.spec,  # type: ignore[arg-type]
            **step,
            ranks=self.ranks,
            shared_by=work.shared_by,
            optimizer=work.optimizer,
            routing=_routing(work),
            seed=0 if training else work.point.workload.seed,  # whose rounds are seeds
            threads=self.threads,
            task=work.point.task,
            training=training,
        )

    def planned(self, work: Work, case: Case, twin: str) -> PlannedCase:
        """A case with its counts, skipped where it cannot run; ``twin`` is the first arm of the same layer."""
        spec = work.arm.spec
        skipped = self.skipped(work)
        if twin != work.arm.name:
            skipped = f"the same layer as arm {twin} here"
        known = self.counts(work) if spec.COUNTED and not work.split_error(self.ranks) else {}
        return PlannedCase(
            case=case,
            point=work.point.values,
            skipped=skipped,
            labels=list(work.arm.labels),
            notes=list(work.arm.notes),
            companion=spec.has_companion,
            asked=work.arm.asked,
            achieved=work.arm.achieved,
            learning=None if case.training is None else planned_learning(work, case, case.training),
            **known,
        )

    def by_kind(self, exchanged: list[Collective]) -> dict[str, float] | None:
        """Predicted milliseconds of all collectives of each kind; None where the network is unknown."""
        found: dict[str, float] = {}
        for kind in sent_by_kind(exchanged):
            ms = total_ms(self.network, [each for each in exchanged if each.kind == kind])
            if ms is None:
                return None
            found[kind] = ms
        return found

    def counts(self, work: Work) -> dict[str, Any]:
        """The cost of one rank, and what it predicts."""
        cost, exchanged = work.exchanging(self.ranks, self.cache_bytes)
        same_names = PlannedCase.model_fields.keys() & {field.name for field in fields(Cost)}
        derived = ("flops", "flops_executed", "bytes_min", "bytes_issued", "bytes_dram_expected")
        sent: dict[str, Any] = {}
        if work.shared_by:
            sent = {"communication_bytes": sent_by_kind(exchanged), "communication_ms_by_kind": self.by_kind(exchanged)}
        return {
            **{name: getattr(cost, name) for name in (*same_names, *derived)},
            **sent,
            "memory_bytes": asdict(cost.memory),
            "communication_ms": total_ms(self.network, exchanged),
            "predicted_ms": predicted_ms(cost, work.arm.spec.dtype, self.entry),
        }
