"""The files of a comparison: read, grouped by device and scenario, each group with its baseline."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from membench.errors import UsageError
from membench.gate.baselines import FILE_NAME, baseline_path, read_baselines
from membench.loose import text
from membench.records import BenchmarkFile, ResultFile, read_result


@dataclass(frozen=True, slots=True)
class LoadedResult:
    """A result file and where it is from."""

    path: Path
    result: ResultFile

    @property
    def fingerprint(self) -> str:
        return text(self.result.environment, "fingerprint") or ""

    @property
    def device(self) -> str:
        return text(self.result.environment, "device", "name") or "an unknown device"

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one device and scenario, in the order of their runs.

    ``baseline`` is None where there is only one file. ``advisory`` is None, or why timings
    cannot fail a build.
    """

    scenario: str
    device: str
    baseline: LoadedResult | None
    judged: list[LoadedResult]
    advisory: str | None = None


def read_results(paths: Sequence[str]) -> list[LoadedResult]:
    """Result files, each once, in the order of their runs. What else lies among them by right is passed over.

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
        except BenchmarkFile as passed_over:
            print(f"membench: {passed_over}; passed over", file=sys.stderr)
    if not found:
        raise UsageError("none of the files given is a result of membench run")
    return sorted(found.values(), key=lambda each: each.result.run.started)


def group_results(results: list[LoadedResult], baseline: str | None, *, every: bool) -> list[Group]:
    """Groups by device and scenario.

    The baseline is the one named, else the one set in the folder's ``baselines.yaml``, else of
    two files the older, else the oldest, against which timings are advisory. Judged is the
    newest other file, or with ``every`` each.

    Raises:
        UsageError: a baseline cannot be read.
    """
    if baseline is not None:
        return _against_one(results, LoadedResult(Path(baseline), read_result(baseline)), every=every)
    files: dict[tuple[str, str, str | None], list[LoadedResult]] = {}
    for each in results:
        run = each.result.run  # the sides of an ab were timed in turn, which is slower than alone: they are a group
        files.setdefault((each.fingerprint, run.scenario, run.pair), []).append(each)
    return [_group(members, every=every) for members in files.values()]


def _against_one(results: list[LoadedResult], base: LoadedResult, *, every: bool) -> list[Group]:
    """All files of the baseline's scenario against it; the others are listed."""
    scenario = base.result.run.scenario
    rest = [each for each in results if each.path.resolve() != base.path.resolve()]
    judged = [each for each in rest if each.result.run.scenario == scenario]
    others = [each for each in rest if each.result.run.scenario != scenario]
    group = Group(scenario, base.device, base if judged else None, _newest(judged, every=every) or [base])
    return [group, *(Group(each.result.run.scenario, each.device, None, [each]) for each in others)]


def _group(members: list[LoadedResult], *, every: bool) -> Group:
    first = members[0]
    scenario, advisory = first.result.run.scenario, None
    base = _set_baseline(members)
    if base is None:
        base = first
        if len(members) > 2:
            advisory = f"no baseline is set, so the oldest file is it; set one with: membench baseline set {first.path}"
    judged = [each for each in members if each.path.resolve() != base.path.resolve()]
    if not judged:
        return Group(scenario, first.device, None, members)
    return Group(scenario, first.device, base, _newest(judged, every=every), advisory)


def _set_baseline(members: list[LoadedResult]) -> LoadedResult | None:
    """The baseline that a folder of these files has set for them; it need not be among them."""
    first = members[0]
    if first.result.run.pair is not None:
        return None
    for folder in dict.fromkeys(each.path.parent for each in members):
        found = read_baselines(folder).find(first.fingerprint, first.result.run.scenario)
        if found:
            path = baseline_path(folder, found)
            known = next((each for each in members if each.path.resolve() == path.resolve()), None)
            return known or LoadedResult(path, read_result(path))
    return None


def _newest(results: list[LoadedResult], *, every: bool) -> list[LoadedResult]:
    return results if every else results[-1:]
