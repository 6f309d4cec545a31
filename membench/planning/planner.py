"""Scenario -> Plan: budgets solved, P chosen, every case counted. Nothing is measured."""

from membench.errors import UsageError, blaming
from membench.machine.datasheet import Hardware
from membench.machine.device import available_memory_bytes
from membench.planning.case_planner import CasePlanner
from membench.planning.fit import Room, Work, fit
from membench.planning.layouts import planned_layouts
from membench.planning.nccl import nccl_network
from membench.planning.network import Network, plain_network
from membench.planning.network_file import read_network
from membench.planning.plan import Plan
from membench.planning.solved_arms import SolvedArm, solve_points, solve_shrunk
from membench.planning.works import pinned_ranks, sharing_ranks, works_of
from membench.scenario.scenario import Scenario
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
        pinned = sharing or pinned_ranks(scenario)
        whole = solve_points(scenario.points, pinned) if solved is None else solved

        def shrunk(scale: float) -> list[Work]:
            return list(works_of(scenario, solve_shrunk(scenario.points, whole, scale, pinned), sharing))

        works = list(works_of(scenario, whole, sharing))
        if not works:
            raise UsageError("leaves out every case; exclude less", key="axes.exclude")
        for work in works:
            trace_for(work.arm.spec, work.point.workload.routing)
        fitted = fit(_fit_of(scenario), works, room, shrunk, devices, sharing)
        network = _network(scenario, hardware)
    planner = CasePlanner(
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
        solved = solve_points(scenario.points, sharing_ranks(scenario, 1, processes) or pinned_ranks(scenario))
        for point, arms in zip(scenario.points, solved, strict=True):
            for arm in arms.values():
                trace_for(arm.spec, point.workload.routing)
    return solved


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
