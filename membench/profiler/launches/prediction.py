"""A plan's cases with what their steps are predicted to take on a GPU, from the launches of each."""

from collections.abc import Iterable, Iterator

from membench.case import Case
from membench.errors import UsageError
from membench.layers.spec import Cost, StageCost
from membench.machine.datasheet import Entry, Hardware
from membench.planning.plan import Plan, PlannedCase
from membench.planning.predicted_hardware import OPTION
from membench.planning.predicted_step import PredictedKernel, PredictedStage, PredictedStep
from membench.planning.roofline import stage_ms
from membench.profiler.launches.gpu_time import Predicted, host_ms, predict
from membench.profiler.launches.steps import launches_of_step
from membench.profiler.launches.tracing import HostWaits, Launched
from membench.results.floors import covered
from membench.results.profile import StageKey


def with_kernels(plan: Plan, hardware: Hardware) -> Plan:
    """The plan with ``kernels`` in every case that runs.

    Raises:
        UsageError: the plan is of something that is not traced.
    """
    if plan.ranks > 1:
        problem = f"predicts a whole layer on one GPU, not a share of P = {plan.ranks} ranks ({plan.ranks_reason})"
        raise UsageError(f"{problem}; --set fit.ranks=1 --set fit.policy=skip", source=OPTION)
    cases = [each if each.skipped else _with_kernels(each, hardware.entry) for each in plan.cases]
    return plan.model_copy(update={"cases": cases})


def _with_kernels(planned: PlannedCase, entry: Entry) -> PlannedCase:
    case = planned.case
    _check(case)
    try:
        zipf_exponent = case.routing.zipf_exponent if case.routing.kind == "zipf" else 0.0
        launches = launches_of_step(case.layer, case.mode, case.tokens, case.optimizer, zipf_exponent=zipf_exponent)
    except HostWaits as error:
        problem = f"{case.arm} {case.mode} {case.optimizer or ''}: the host waits for the GPU, which is not predicted"
        raise UsageError(f"{problem}; leave the case out with axes.exclude", source=OPTION) from error
    cost = case.layer.cost(case.step(zipf_exponent=zipf_exponent, cache_bytes=entry.cache_bytes or 0))
    step = PredictedStep(stages=list(_stages(launches, cost, case.layer.dtype, entry)), host_ms=host_ms(launches))
    return planned.model_copy(update={"kernels": step})


def _check(case: Case) -> None:
    """Refuses what is not traced."""
    key = f"arms.{case.arm}"
    if case.level != "layer":
        raise UsageError(f"predicts level layer, this is {case.level}", source=OPTION, key="level")
    if not case.layer.COUNTED:
        raise UsageError("predicts no layer from outside: leave the arm out", source=OPTION, key=key)
    if getattr(case.layer, "table_on", "device") == "host":
        raise UsageError("predicts tables on the GPU: leave out table_on host, or the arm", source=OPTION, key=key)
    if case.optimizer == "adamw" and case.layer.num_tables:
        problem = "predicts no adamw on tables, for which the host waits: take row_adam or another row optimizer"
        raise UsageError(problem, source=OPTION, key="workload.optimizers")


def _stages(launches: list[Launched], cost: Cost, dtype: str, entry: Entry) -> Iterator[PredictedStage]:
    """In the order in which they begin; last those that are counted and launch nothing."""
    by_stage: dict[StageKey, list[tuple[Launched, Predicted]]] = {}
    for each in launches:
        by_stage.setdefault(StageKey(each.stage, each.backward), []).append((each, predict(each, entry)))
    left = list(cost.stages)
    for key, found in by_stage.items():
        costs = covered(key, list(by_stage), cost.stages)
        left = [each for each in left if each not in costs]
        yield _stage(key, found, costs, dtype, entry)
    for each in left:
        yield _stage(StageKey(each.name, each.backward), [], [each], dtype, entry)


def _stage(
    key: StageKey, found: list[tuple[Launched, Predicted]], costs: list[StageCost], dtype: str, entry: Entry
) -> PredictedStage:
    kernels = list(_kernels(found))
    return PredictedStage(
        name=key.name,
        backward=key.backward,
        launches=sum(each.launches for each in kernels),
        moved_bytes=sum(each.moved_bytes for each in kernels),
        flops=sum(each.flops for each in kernels),
        predicted_ms=sum(each.predicted_ms for each in kernels),
        floor_ms=sum(stage_ms(each, dtype, entry) for each in costs) if costs else None,
        kernels=kernels,
    )


def _kernels(found: Iterable[tuple[Launched, Predicted]]) -> Iterator[PredictedKernel]:
    """By name, the longest first."""
    by_name: dict[str, list[tuple[Launched, Predicted]]] = {}
    for launched, predicted in found:
        by_name.setdefault(launched.name, []).append((launched, predicted))
    summed = [
        PredictedKernel(
            name=name,
            launches=len(each),
            moved_bytes=sum(launched.work.moved_bytes for launched, _ in each),
            flops=sum(launched.work.flops for launched, _ in each),
            predicted_ms=sum(predicted.ms for _, predicted in each),
            limit=max(each, key=lambda one: one[1].ms)[1].limit,
        )
        for name, each in by_name.items()
    ]
    yield from sorted(summed, key=lambda kernel: -kernel.predicted_ms)
