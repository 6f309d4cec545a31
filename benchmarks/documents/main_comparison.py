"""What documents quote of the main comparison: its tables in the README, where its time went in the method."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.documents.filled import filled
from benchmarks.documents.outdated import outdated
from benchmarks.documents.page import answered, flagged
from benchmarks.documents.recorded import Recorded, read_all
from benchmarks.documents.tables import times_tables
from benchmarks.standings import seconds_of
from membench.tables.results import how_measured

SCENARIO = "iso_flop_8b"
_QUOTED = re.compile(r"\]\((?:\.\./)?results/([^)]+\.json)\)")
# Where a process's time goes, in words; what is in none of these starts processes and writes files.
_SECONDS = {
    "sampling": ("sample",),
    "checking": ("check",),
    "building layers and inputs": ("build", "inputs"),
    "measuring ceilings": ("ceilings",),
    "measuring memory and energy": ("memory", "energy"),
}


def quoted(part: str) -> list[str]:
    """The names of the result files that a text links to."""
    return _QUOTED.findall(part)


def chosen(runs: Sequence[Recorded], part: str, folder: Path) -> Recorded | None:
    """The newest of the runs that answer the scenario: on the machine that is quoted now, else on its type of device.

    What is said around the part is of this device. As long as there is no run, the one that is quoted stays.
    """
    paths = [path for path in (folder / name for name in quoted(part)) if path.exists()]
    now = next(reversed(read_all(paths)), None)
    if now is None or not runs:
        return max(runs, key=_started, default=now)
    here = [each for each in runs if each.beside(now)]
    alike = [each for each in runs if each.result.run.device == now.result.run.device]
    return max(here or alike or [now], key=_started)


def readme_part(each: Recorded) -> str:
    """Its tables, and from which file they are."""
    whole_s = seconds_of(each.result.run)
    took = "" if whole_s is None else f", in {whole_s / 60:.1f} minutes"
    intro = (
        f"On {each.device}{took}. {how_measured(each.result)} "
        f"The numbers are in [this result file](results/{each.path.name})."
    )
    warned = [*outdated(each.result, "CHANGELOG.md"), *flagged(each.result, "docs/glossary.md")]
    return "\n\n".join([filled(intro), answered(each.result), *times_tables(each.result), *warned])


def seconds_part(each: Recorded) -> str | None:
    """How long it took and what for; None of a run that was interrupted meanwhile."""
    whole_s = seconds_of(each.result.run)
    if whole_s is None:
        return None
    spent: Counter[str] = Counter()
    for record in each.result.cases:
        for found in record.rounds:
            spent.update(found.seconds)
    shares = {words: sum(spent[name] for name in names) / whole_s for words, names in _SECONDS.items()}
    shares["starting processes and writing files"] = 1 - sum(shares.values())
    told = ", ".join(f"{words} {100 * share:.0f} %" for words, share in shares.items())
    return filled(f"[The committed `{SCENARIO}`](../results/{each.path.name}) took {whole_s:.0f} s: {told}.")


def _started(each: Recorded) -> str:
    return each.result.run.started
