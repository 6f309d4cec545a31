"""What documents quote of the main comparison: its tables in the README, where its time went in the method."""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks.documents.filled import filled
from benchmarks.documents.page import answered, flagged
from benchmarks.documents.recorded import Recorded, read_all
from benchmarks.documents.tables import times_tables
from membench.results.records import ResultFile
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
    """The newest of the runs that answer the scenario; as long as there is none, the one that is quoted now."""
    if runs:
        return max(runs, key=lambda each: each.result.run.started)
    return next(iter(read_all(folder / name for name in quoted(part))), None)


def readme_part(each: Recorded) -> str:
    """Its tables, and from which file they are."""
    intro = (
        f"On {each.device}, in {_seconds(each.result) / 60:.1f} minutes. {how_measured(each.result)} "
        f"The numbers are in [this result file](results/{each.path.name})."
    )
    warned = flagged(each.result, "docs/glossary.md")
    return "\n\n".join([filled(intro), answered(each.result), *times_tables(each.result), *warned])


def seconds_part(each: Recorded) -> str:
    """How long it took and what for."""
    whole_s = _seconds(each.result)
    spent: Counter[str] = Counter()
    for record in each.result.cases:
        for found in record.rounds:
            spent.update(found.seconds)
    shares = {words: sum(spent[name] for name in names) / whole_s for words, names in _SECONDS.items()}
    shares["starting processes and writing files"] = 1 - sum(shares.values())
    told = ", ".join(f"{words} {100 * share:.0f} %" for words, share in shares.items())
    return filled(f"[The committed `{SCENARIO}`](../results/{each.path.name}) took {whole_s:.0f} s: {told}.")


def _seconds(result: ResultFile) -> float:
    run = result.run
    assert run.finished is not None
    return (datetime.fromisoformat(run.finished) - datetime.fromisoformat(run.started)).total_seconds()
