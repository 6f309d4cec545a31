"""A process of its own: builds one layer and profiles its modes. Spoken to like ``membench.worker``.

``{"event": "progress" | "built" | "case_started" | "case" | "done", …}``; a case's ``found`` has the raw
facts of a mode, which the parent makes a ``ModeProfile`` of.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from membench.case import Case
from membench.conditions import ran
from membench.worker import Events, classify, prepare_process, serve

if TYPE_CHECKING:
    from membench.measure.time import Step
    from membench.measurement import CaseMeasurement
    from membench.profiler.follower import StageFollower

_KERNEL_CALLS = 3


class ProfileJob(BaseModel):
    """What one process is asked to profile: cases that share one build, and where their traces go."""

    device: str
    threads: int | None = None
    cases: list[Case]
    trace: str | None = None


def run(job: ProfileJob, events: Events) -> None:
    """Profile every case of the job."""
    threads = prepare_process(job.threads)
    from membench.built import build_with_ceilings
    from membench.measurement import CaseMeasurement

    def progress(doing: str) -> None:
        events.send("progress", doing=doing)

    built = build_with_ceilings(job.cases[0], job.device, progress)
    events.send("built", ceilings=built.ceilings.as_json(), threads=threads, huge_pages=built.huge_pages)
    measurement = CaseMeasurement(built.layer, built.clock, built.cache_bytes, progress)
    for case in job.cases:
        events.send("case_started", id=case.id)
        try:
            found = _profiled(case, measurement, job.trace)
            events.send("case", id=case.id, status="ok", reason=None, found=found)
        except Exception as error:  # whatever a layer from outside raises is the reason that is told
            status, reason = classify(error)
            events.send("case", id=case.id, status=status, reason=reason, found=None)
            built.layer.zero_gradients()
    events.send("done")


def _profiled(case: Case, measurement: "CaseMeasurement", trace: str | None) -> dict[str, Any]:
    """One mode: checked, timed by stage, then its kernels and its trace."""
    from dataclasses import asdict

    from membench.measurement import make_step, reference_json
    from membench.profiler.kernels import NamedRanges, kernels_by_time, write_trace
    from membench.profiler.stage_clock import StageClock
    from membench.profiler.stage_times import Budget, followed, observed, time_stages

    layer, clock, progress = measurement.layer, measurement.clock, measurement.progress
    prepared = measurement.prepare(case, ["eager"])
    upstream = measurement.preparation.upstream(case)

    def told_to(follower: "StageFollower") -> "Step":
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
        "reference": reference_json(prepared.verification),
        "ran": ran(clock.device),
        "traces": [str(path) for path in traces],
    }


if __name__ == "__main__":
    sys.exit(serve(ProfileJob, run))
