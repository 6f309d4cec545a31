"""The files of a comparison: read, grouped by device and scenario, each group with its baseline."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from membench.errors import UsageError
from membench.gate.baselines import FILE_NAME, baseline_path, read_baselines
from membench.json_values import text
from membench.machine.identity import Machine
from membench.results.records import ForeignFile, ResultFile, read_result


@dataclass(frozen=True, slots=True)
class LoadedResult:
    """A result file and where it is from."""

    path: Path
    result: ResultFile

    @property
    def machine(self) -> Machine:
        return Machine.of(self.result.environment)

    @property
    def device(self) -> str:
        return text(self.result.environment, "device", "name") or "an unknown device"

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Group:
    """Files that may be held against each other.

    ``baseline`` is None where nothing is compared; ``judged`` are then the files that are listed,
    and ``why`` says why. ``advisory`` is None, or why timings cannot fail a build.
    ``confirmation``: base and head of an ab's second look.
    """

    scenario: str
    device: str
    baseline: LoadedResult | None
    judged: list[LoadedResult]
    advisory: str | None = None
    confirmation: tuple[LoadedResult, LoadedResult] | None = None
    why: str = ""


def load_results(paths: Sequence[str]) -> list[LoadedResult]:
    """Result files, each once, in the order of their runs. JSON of another make among them is passed over, and named.

    Raises:
        UsageError: a file cannot be read as a result, or none is left.
    """
    found: dict[Path, LoadedResult] = {}
    for given in paths:
        path = Path(given)
        if path.name == FILE_NAME or path.resolve() in found:
            continue
        try:
            found[path.resolve()] = LoadedResult(path, read_result(path))
        except ForeignFile as passed_over:
            if len(paths) == 1:
                raise
            print(f"membench: {passed_over}; passed over", file=sys.stderr)
    if not found:
        raise UsageError("none of the files given is a result of membench run")
    return sorted(found.values(), key=lambda each: each.result.run.started)


def group_results(results: list[LoadedResult], baseline: str | None, *, every: bool) -> list[Group]:
    """Groups by device and scenario, each with its baseline and what is judged.

    The baseline is the one named, else the one set in the folder's ``baselines.yaml``, else of
    two files the older, else the oldest, against which timings are advisory. Judged is the
    newest other file, or with ``every`` each. The files of an ab are judged only where nothing
    else was given: each ab had its verdict when it ran.

    Raises:
        UsageError: a baseline cannot be read.
    """
    if baseline is not None:
        return _against_one(results, LoadedResult(Path(baseline), read_result(baseline)), every=every)
    runs = [each for each in results if each.result.run.pair is None]
    sides: dict[str, list[LoadedResult]] = {}
    for each in results:
        if each.result.run.pair:
            sides.setdefault(each.result.run.pair.id, []).append(each)
    files: dict[str, list[LoadedResult]] = {}
    for each in runs:
        files.setdefault(each.result.run.scenario, []).append(each)
    if not runs:
        return [_ab_group(members) for members in sides.values()]
    why = "a side of an ab, which was judged when it ran; name its files alone to see it again"
    listed = [_listed(each, why) for members in sides.values() for each in members]
    of_one_device = (members for of in files.values() for members in _by_machine(of))
    return [*(_group(members, every=every) for members in of_one_device), *listed]


def _by_machine(results: list[LoadedResult]) -> list[list[LoadedResult]]:
    """Files of one machine together: each with those whose first is of the same one; the unknown ones together too."""
    found: list[list[LoadedResult]] = []
    for each in results:
        machine = each.machine
        for members in found:
            first = members[0].machine
            if first.difference(machine) is None or not (first.known or machine.known):
                members.append(each)
                break
        else:
            found.append([each])
    return found


def _listed(each: LoadedResult, why: str) -> Group:
    return Group(each.result.run.scenario, each.device, None, [each], why=why)


def _ab_group(members: list[LoadedResult]) -> Group:
    """The sides of one ab, its second look with them."""
    by_place = {(pair.phase, pair.side): each for each in members if (pair := each.result.run.pair)}
    base, head = by_place.get(("first", "base")), by_place.get(("first", "head"))
    if base is None or head is None:
        return Group(members[0].result.run.scenario, members[0].device, None, members, why="a side of an ab, alone")
    again = by_place.get(("confirm", "base")), by_place.get(("confirm", "head"))
    confirmation = (again[0], again[1]) if again[0] and again[1] else None
    advisory = None if confirmation else "no second look is among the files, and one look is no proof"
    return Group(head.result.run.scenario, head.device, base, [head], advisory, confirmation)


def _against_one(results: list[LoadedResult], base: LoadedResult, *, every: bool) -> list[Group]:
    """The newest file of each device (or every file) of the baseline's scenario against it; the others are listed."""
    scenario = base.result.run.scenario
    rest = [each for each in results if each.path.resolve() != base.path.resolve()]
    judged = _by_machine([each for each in rest if each.result.run.scenario == scenario])
    groups = [Group(scenario, of[0].device, base, of if every else of[-1:]) for of in judged]
    others = [_listed(each, "of another scenario") for each in rest if each.result.run.scenario != scenario]
    return [*groups, *others] or [_listed(base, "the baseline itself")]


def _group(members: list[LoadedResult], *, every: bool) -> Group:
    first = members[0]
    scenario, advisory = first.result.run.scenario, None
    base = _set_baseline(members)
    judged = members
    if base is not None:  # what was measured before it is history
        judged = [each for each in members if each.result.run.started > base.result.run.started]
    else:
        base, judged = first, members[1:]
        if len(members) > 2:
            advisory = f"no baseline is set, so the oldest file is it; set one with: membench baseline set {first.path}"
    if not judged:
        alone = len(members) == 1 and base is first
        why = "the only file of its device and scenario" if alone else "nothing newer than the baseline"
        return Group(scenario, first.device, None, members, why=why)
    return Group(scenario, first.device, base, judged if every else judged[-1:], advisory)


def _set_baseline(members: list[LoadedResult]) -> LoadedResult | None:
    """The baseline that a folder of these files has set for them; it need not be among them."""
    first = members[0]
    for folder in dict.fromkeys(each.path.parent for each in members):
        found = read_baselines(folder).find(first.machine, first.result.run.scenario, folder)
        if found:
            path = baseline_path(folder, found)
            known = next((each for each in members if each.path.resolve() == path.resolve()), None)
            return known or LoadedResult(path, read_result(path))
    return None
