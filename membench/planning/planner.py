"""Scenario -> Plan: budgets solved, P chosen, every case counted. Nothing is measured."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from membench.case import Case, RoutingConfig
from membench.errors import UsageError, blaming
from membench.layers.spec import Collective, Cost, Mode, Optimizer, sent_by_kind
from membench.learning.shared import check_shared
from membench.machine.datasheet import Entry, Hardware
from membench.machine.device import available_memory_bytes
from membench.planning.fit import Room, Work, fit, parts_of, refusal, why_in_parts
from membench.planning.layouts import planned_layouts
from membench.planning.learning import planned_learning
from membench.planning.nccl import nccl_network
from membench.planning.network import Network, plain_network, total_ms
from membench.planning.network_file import read_network
from membench.planning.plan import Plan, PlannedCase
from membench.planning.roofline import predicted_ms
from membench.planning.solved_arms import SolvedArm, solve_points, solve_shrunk
from membench.scenario.arms import SHARED_LEVELS
from membench.scenario.scenario import Point, Scenario
from membench.scenario.settings import Fit
from membench.scenario.traces import trace_for


def make_plan(
    scenario: Scenario,
    *,
    solved: list[dict[str, SolvedArm]] | None = None,
    hardware: Hardware | None = None,
    available_bytes: int | None = None,
    host_bytes: int | None = None,
    cache_bytes: int = 0,
    processes: int | None = None,
) -> Plan:
    """The plan of a scenario on the named hardware, or on this machine.

    Args:
        scenario: as loaded.
        solved: its arms, where ``solve_budgets`` has solved them already.
        hardware: named devices; several are the ranks of the parallel layer.
        available_bytes: what the device has; else the named hardware's, else this host's,
            else (device cuda) unknown. The scenario's ``fit.memory`` caps all but the
            named hardware's.
        host_bytes: what the host has beside the device's own memory; else unknown, or the same memory.
        cache_bytes: last-level cache; else the named hardware's, else taken as none.
        processes: that share every layer. None where it was not said: then a scenario whose arms are shared is planned
            for the ranks that it pins.

    Raises:
        UsageError: budgets cannot be met, a trace does not fit its layer, or nothing fits in the way the scenario asks.
    """
    with blaming(scenario.source):
        available = _available_bytes(scenario, hardware, available_bytes)
        apart = hardware is not None or host_bytes is not None or scenario.device == "cuda"
        room = Room(available, host_bytes, apart)
        devices = hardware.devices if hardware else 1
        sharing = sharing_ranks(scenario, devices, processes)
        pinned = sharing or _pinned_ranks(scenario)
        whole = solve_points(scenario.points, pinned) if solved is None else solved

        def shrunk(scale: float) -> list[Work]:
            return list(_works(scenario, solve_shrunk(scenario.points, whole, scale, pinned), sharing))

        works = list(_works(scenario, whole, sharing))
        if not works:
            raise UsageError("leaves out every case; exclude less", key="axes.exclude")
        for work in works:
            trace_for(work.arm.spec, work.point.workload.routing)
        fitted = fit(_fit_of(scenario), works, room, shrunk, devices, sharing)
        network = _network(scenario, hardware)
    planner = _Planner(
        ranks=fitted.ranks,
        room=room,
        entry=hardware.entry if hardware else None,
        network=network,
        cache_bytes=cache_bytes or (hardware.entry.cache_bytes if hardware else None) or 0,
        threads=scenario.measure.threads,
    )
    cases = planner.plan(fitted.works)
    layouts = []
    if hardware is not None and network is not None and hardware.devices > 1:
        layouts = planned_layouts(fitted.works, planner.case, hardware, network, room, planner.cache_bytes)
    return Plan(
        scenario=scenario.name,
        description=scenario.description,
        hardware=hardware.name if hardware else None,
        available_bytes=available,
        ranks=fitted.ranks,
        ranks_reason=fitted.ranks_reason,
        scale=fitted.scale,
        link_gb_s=_link_gb_s(scenario, hardware),
        network=network.description if network else None,
        cases=cases,
        layouts=layouts,
    )


def solve_budgets(scenario: Scenario, processes: int | None = None) -> list[dict[str, SolvedArm]]:
    """The arms of every point, whatever the device; the traces that they are routed by are looked at too.

    Args:
        processes: as for ``make_plan``.

    Raises:
        UsageError: a budget cannot be met, or a trace does not fit.
    """
    with blaming(scenario.source):
        solved = solve_points(scenario.points, sharing_ranks(scenario, 1, processes) or _pinned_ranks(scenario))
        for point, arms in zip(scenario.points, solved, strict=True):
            for arm in arms.values():
                trace_for(arm.spec, point.workload.routing)
    return solved


def sharing_ranks(scenario: Scenario, devices: int, processes: int | None) -> int | None:
    """How many ranks share every layer of a scenario; None where none is shared.

    Raises:
        UsageError: it is not said, or what the scenario measures is not shared.
    """
    stated = [name for point in scenario.points for name, arm in point.arms.items() if arm.shared_by]
    if processes is None and not stated:
        return None
    if scenario.level not in SHARED_LEVELS:
        what = "only layers, and models that are trained, are shared by processes"
        raise UsageError(f"{what}, this is {scenario.level}: leave out --nproc, or torchrun", key="level")
    ranks = processes or (devices if devices > 1 else scenario.fit.ranks)
    if not isinstance(ranks, int):
        key = f"arms.{stated[0]}.shared_by"
        raise UsageError("ranks share this layer: say how many with --nproc P, or in fit.ranks for a plan", key=key)
    if scenario.level == "training":
        _check_trained_together(scenario, ranks)
    return ranks


def _check_trained_together(scenario: Scenario, ranks: int) -> None:
    """Refuses what so many processes that train one model cannot do."""
    if (scenario.measure.at_once or 1) > 1:
        problem = f"should be 1, not {scenario.measure.at_once}: {ranks} processes train one model after the other"
        raise UsageError(problem, key="measure.at_once")
    for point in scenario.points:
        for arm in point.arms.values():
            if arm.training is not None:
                check_shared(arm.training, ranks)


def _pinned_ranks(scenario: Scenario) -> int:
    """The ranks that cases have which a latency budget reads; P is not known yet where it is chosen by what fits."""
    return scenario.fit.ranks if isinstance(scenario.fit.ranks, int) else 1


def _available_bytes(scenario: Scenario, hardware: Hardware | None, available_bytes: int | None) -> float | None:
    known: float | None = available_bytes
    if known is None and hardware is not None:
        return hardware.entry.memory_bytes
    if known is None and scenario.device != "cuda":
        known = available_memory_bytes()
    limits = [limit for limit in (known, scenario.fit.memory_limit_bytes) if limit is not None]
    return min(limits, default=None)


def _network(scenario: Scenario, hardware: Hardware | None) -> Network | None:
    """The named group's own; else the scenario's; else the datasheet's of one device.

    Raises:
        UsageError: the scenario names a file of none.
    """
    if hardware is None or hardware.devices == 1:
        if scenario.fit.network is not None:
            return read_network(scenario.fit.network)
        if scenario.fit.link_gb_s is not None:
            return plain_network(scenario.fit.link_gb_s)
    return nccl_network(hardware) if hardware else None


def _link_gb_s(scenario: Scenario, hardware: Hardware | None) -> float | None:
    """Of the same; None where a file has measured more than that."""
    published = hardware.entry.link.bytes_per_s / 1e9 if hardware else None
    if hardware and hardware.devices > 1:
        return published
    if scenario.fit.network is not None:
        return None
    return scenario.fit.link_gb_s if scenario.fit.link_gb_s is not None else published


def _fit_of(scenario: Scenario) -> Fit:
    """The scenario's ``fit:``; a model that is trained is whole, or it is skipped."""
    return scenario.fit.model_copy(update={"policy": "skip"}) if scenario.level == "training" else scenario.fit


def _works(scenario: Scenario, solved: list[dict[str, SolvedArm]], sharing: int | None) -> Iterator[Work]:
    """Every arm of every point in every mode, less what the scenario excludes; ``sharing`` ranks share each layer."""
    for whole, arms in zip(scenario.points, solved, strict=True):
        point = whole
        if sharing is not None and scenario.level == "training":
            point = replace(whole, workload=whole.workload.divided(sharing))
        for arm in arms.values():
            shared_by = None if sharing is None else _shared_by(point, arm, sharing)
            for mode in point.workload.modes:
                for optimizer in _optimizers(point, arm.name, mode):
                    if not scenario.excludes(point, arm=arm.name, mode=mode, optimizer=optimizer):
                        yield Work(point, arm, mode, optimizer, scenario.level, scenario.fit.in_parts, shared_by)


def _shared_by(point: Point, arm: SolvedArm, ranks: int) -> Any:
    """How so many ranks share an arm's layer: as it says, else in the way that is its kind's default.

    Raises:
        UsageError: there is no such way, or the layer is from outside.
    """
    key = f"arms.{arm.name}.shared_by"
    if not arm.spec.COUNTED:
        raise UsageError("a layer from outside is not shared by ranks: leave the arm out", key=key)
    try:
        return arm.spec.shared_by(point.arms[arm.name].shared_by, ranks).name
    except ValueError as error:
        stated = point.arms[arm.name]
        where = "" if stated.whole is None else " in a model"
        raise UsageError(f"a {stated.kind.model_fields['kind'].default} layer{where} {error}", key=key) from None


def _optimizers(point: Point, arm: str, mode: Mode) -> list[Optimizer | None]:
    """Each a case of its own: all of the workload's, or the one that the arm is trained by."""
    if mode != "train_step":
        return [None]
    training = point.arms[arm].training
    return [training.optimizer] if training else [*point.workload.optimizers]


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
class _Planner:
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
