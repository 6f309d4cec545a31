"""A process of its own that builds one layer and profiles its modes.

It answers with the raw facts of a mode, which the parent makes a ``ModeProfile`` of.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from membench.case import Case
from membench.machine.conditions import ran
from membench.processes.serving import Answers, Server
from membench.running.protocol import Build, Found, ProfileCase
from membench.running.worker import Worker

if TYPE_CHECKING:
    from membench.measuring.measurement import CaseMeasurement
    from membench.measuring.time import StepCall
    from membench.profiler.follower import StageFollower

_KERNEL_CALLS = 3


class ProfilingWorker(Worker):
    """The modes of one layer."""

    def answers(self) -> Answers:
        return {Build: self.build, ProfileCase: self.profile}

    def profile(self, asked: ProfileCase) -> Found:
        """One mode: checked, timed by stage, then its kernels and its trace."""
        return Found(found=_profiled(self.job.cases[asked.index], self.measurement, asked.trace))


def _profiled(case: Case, measurement: "CaseMeasurement", trace: str | None) -> dict[str, Any]:
    """One mode: checked, timed by stage, then its kernels and its trace."""
    from dataclasses import asdict

    from membench.measuring.as_record import reference_json
    from membench.measuring.step import make_step
    from membench.profiler.kernels import NamedRanges, kernels_by_time, write_trace
    from membench.profiler.stage_clock import StageClock
    from membench.profiler.stage_times import Budget, followed, observed, time_stages

    layer, clock, progress = measurement.layer, measurement.clock, measurement.progress
    prepared = measurement.prepare(case, ["eager"])
    upstream = measurement.preparation.upstream(case)

    def told_to(follower: "StageFollower") -> "StepCall":
        call = followed(layer, follower)
        return observed(make_step(case.mode, call, layer, prepared.inputs, upstream, prepared.optimizer), follower)

    progress("timing stages")
    stages = StageClock(clock.device)
    times = time_stages(clock, prepared.step, told_to(stages), stages, Budget())
    progress("listing kernels")
    kernels, sees_all = kernels_by_time(prepared.step, _KERNEL_CALLS, clock.device)
    traces: list[Path] = []
    if trace:
        progress("tracing")
        traces = write_trace(told_to(NamedRanges()), Path(trace), f"{case.arm}_{case.mode}", clock.device)
    layer.zero_gradients()
    cost, source = measurement.preparation.cost(case, prepared.traffic)
    return {
        "stages_s": [[key.name, key.backward, seconds] for key, seconds in times.stages.items()],
        "observed_ms": 1e3 * times.observed_s,
        "step_ms": 1e3 * times.alone_s,
        "calls": times.calls,
        "steady": times.steady,
        "costs": [asdict(stage) for stage in cost.stages],
        "cost_source": source,
        "kernels": [row.model_dump() for row in kernels],
        "kernels_see_all_threads": sees_all,
        "traffic": prepared.traffic.as_json(),
        "reference": reference_json(prepared.checked.verification),
        "ran": ran(clock.device),
        "traces": [str(path) for path in traces],
    }


if __name__ == "__main__":
    sys.exit(ProfilingWorker(Server()).serve())
