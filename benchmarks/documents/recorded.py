"""Which result file answers a scenario: of each machine the newest of at least three rounds."""

import json
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.standings import MIN_ROUNDS
from membench.case import METHOD_VERSION
from membench.errors import UsageError
from membench.files import read_file
from membench.gate.result_set import LoadedResult
from membench.json_values import mapping, text, value_at
from membench.results.intervals import medians_s
from membench.results.learnt import ANSWER, of_seeds
from membench.results.ranking import is_trained
from membench.results.records import MAX_RESULT_BYTES, ForeignFile, Record, ResultFile, read_result
from membench.scenario.scenario import Scenario
from membench.yaml_files.reader import parse_mapping

# Overrides that ask the same question: how long is measured, and a size that only a GPU can show.
_NO_CHANGE = ("measure.", "scale=gpu")
_NO_QUESTION = ("measure", "description")


class Recorded(LoadedResult):
    """A result file as documents name it: by its machine, cores and memory with it."""

    @property
    def device(self) -> str:
        return device_named(self.result.environment)

    @property
    def failed(self) -> bool:
        """Whether a case has no time that could have one."""
        return any(record.status not in ("ok", "skipped") for record in self.result.cases)

    def beside(self, other: "Recorded") -> bool:
        """Whether both were measured on one machine."""
        return self.machine.difference(other.machine) is None


def device_named(environment: dict) -> str:
    """A machine in a sentence: ``2 cores of AMD EPYC, 24 GiB``, or a GPU's name."""
    name = text(environment, "device", "name") or "an unknown device"
    if text(environment, "device", "type") == "cuda":
        return name
    cores, memory = value_at(environment, "device", "cores"), value_at(environment, "device", "memory_bytes")
    size = f", {memory / 2**30:.0f} GiB" if isinstance(memory, int) else ""
    return f"{cores} cores of {name}{size}" if isinstance(cores, int) else f"{name}{size}"


def read_all(paths: Iterable[Path]) -> list[Recorded]:
    """The runs among files, the oldest first; what benchmarks wrote in a form of their own is passed over.

    Raises:
        UsageError: one cannot be read, or is of another schema; the message names it.
    """
    found = []
    for path in paths:
        with suppress(ForeignFile):
            found.append(Recorded(path, read_result(path)))
    return sorted(found, key=lambda each: (each.result.run.started, each.path.name))


def own_form(path: Path) -> dict[str, Any]:
    """What a benchmark, or ``membench profile``, wrote in a form of its own.

    Raises:
        UsageError: it cannot be read, or is no JSON.
    """
    try:
        content = json.loads(read_file(path, MAX_RESULT_BYTES, "what a benchmark wrote"))
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"no JSON ({error}); what a benchmark wrote is wanted", source=str(path)) from None
    content = content if isinstance(content, dict) else {}
    return mapping(content, "profile") or content


def answers_scenario(result: ResultFile, scenario: Scenario) -> bool:
    """Whether a run asked what a shipped scenario asks now, by the method of now, and was measured to its end.

    How long it measured is no part of the question, but there are rounds enough to tell arms apart.
    """
    run = result.run
    whole = not run.interrupted and not run.only and run.pair is None
    as_shipped = run.scenario == scenario.name and all(each.startswith(_NO_CHANGE) for each in run.overrides)
    same = run.method_version == METHOD_VERSION and _question(run.scenario_text) == _question(scenario.text)
    return whole and as_shipped and same and run.rounds >= MIN_ROUNDS and _measured(result)


def newest_by_device(runs: Iterable[Recorded], scenarios: Iterable[Scenario]) -> dict[str, list[Recorded]]:
    """By scenario: of each machine the newest run that answers it, in the order of the devices' names.

    One without a failed case stands before a newer one with some.
    """
    known = {each.name: each for each in scenarios}
    machines: dict[str, list[list[Recorded]]] = defaultdict(list)
    for each in runs:
        scenario = known.get(each.result.run.scenario)
        if scenario is None or not answers_scenario(each.result, scenario):
            continue
        of = machines[scenario.name]
        alike = next((group for group in of if group[-1].beside(each)), None)
        if alike is None:
            of.append([each])
        else:
            alike.append(each)
    return {name: sorted(map(_best, of), key=lambda each: each.device) for name, of in machines.items()}


def _best(runs: list[Recorded]) -> Recorded:
    return max(runs, key=lambda each: (not each.failed, each.result.run.started))


def _measured(result: ResultFile) -> bool:
    """Whether anything has enough rounds that went well."""
    return any(record.status == "ok" and _rounds(record) >= MIN_ROUNDS for record in result.cases)


def _rounds(record: Record) -> int:
    """Those that were timed, or trained."""
    return len(of_seeds(record.rounds, ANSWER) if is_trained(record) else medians_s(record.rounds))


def _question(scenario_text: str) -> dict[str, Any] | None:
    """What a scenario's text asks; None where it is no scenario."""
    try:
        told = parse_mapping(scenario_text, "scenario_text")
    except UsageError:
        return None
    return {key: value for key, value in told.items() if key not in _NO_QUESTION}
