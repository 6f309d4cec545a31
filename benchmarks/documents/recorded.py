"""Which result file answers a scenario: of each device the newest of at least three rounds."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.standings import MIN_ROUNDS
from membench.json_values import text, value_at
from membench.results.records import ForeignFile, ResultFile, read_result

_NO_CHANGE = "measure."  # an override of how long is measured asks the same question


@dataclass(frozen=True, slots=True)
class Recorded:
    """A result file and what it holds."""

    path: Path
    result: ResultFile

    @property
    def device(self) -> str:
        return device_named(self.result.environment)


def device_named(environment: dict) -> str:
    """A machine in a sentence: ``2 cores of AMD EPYC, 24 GiB``, or a GPU's name."""
    name = text(environment, "device", "name") or "an unknown device"
    if text(environment, "device", "type") == "cuda":
        return name
    cores, memory = value_at(environment, "device", "cores"), value_at(environment, "device", "memory_bytes")
    size = f", {memory / 2**30:.0f} GiB" if isinstance(memory, int) else ""
    return f"{cores} cores of {name}{size}" if isinstance(cores, int) else f"{name}{size}"


def read_all(paths: Iterable[Path]) -> list[Recorded]:
    """The runs among files, the oldest first; what benchmarks wrote in a form of their own is passed over."""
    found = []
    for path in paths:
        try:
            found.append(Recorded(path, read_result(path)))
        except ForeignFile:
            continue
    return sorted(found, key=lambda each: (each.result.run.started, each.path.name))


def answers_scenario(result: ResultFile) -> bool:
    """Whether a run asked what the shipped scenario asks, to its end, in enough rounds to tell arms apart."""
    run = result.run
    whole = not run.interrupted and not run.only and run.pair is None
    as_shipped = run.source == run.scenario and all(each.startswith(_NO_CHANGE) for each in run.overrides)
    return whole and as_shipped and run.rounds >= MIN_ROUNDS


def newest_by_device(runs: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    """By scenario: the newest run of each device that answers it, in the order of the devices' names."""
    newest: dict[str, dict[str, Recorded]] = defaultdict(dict)
    for each in runs:
        if answers_scenario(each.result):
            newest[each.result.run.scenario][each.device] = each
    return {scenario: [of[device] for device in sorted(of)] for scenario, of in newest.items()}
