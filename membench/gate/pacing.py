"""What two runs whose samples were timed in turn with a pacer allow: the ratio to it is compared, not milliseconds.

A machine that is slower in one of the runs is slower for sample and pacer alike. Each run is divided by its own
pacer, so the pacers must be the same work: the same version and amounts, computed by the same torch.
"""

import math
import statistics
from dataclasses import dataclass
from typing import Any

from membench.gate.metrics import are_times
from membench.json_values import text
from membench.results.records import Record, ResultFile, Round


@dataclass(frozen=True, slots=True)
class Pacing:
    """How the latencies of one case of two runs are compared.

    ``refused``: why not at all; else ``milliseconds``: why as milliseconds though there is a pacer. Where both are
    None and ``paced``, as ratios.
    """

    paced: bool
    refused: str | None = None
    milliseconds: str | None = None


def torch_versions(base: ResultFile, head: ResultFile) -> tuple[str | None, str | None]:
    """Of both runs."""
    before, now = (text(each.environment, "packages", "torch") for each in (base, head))
    return before, now


def pacing(base: Record, head: Record, torch: tuple[str | None, str | None]) -> Pacing:
    """How two cases of separate runs stand to each other."""
    before, now = (_works(record) for record in (base, head))
    if not before and not now:
        return Pacing(paced=False)
    if not before or not now:
        return Pacing(
            paced=False,
            refused=_one_sided(base, "baseline", "new file") if now else _one_sided(head, "new file", "baseline"),
        )
    if len(before) > 1 or len(now) > 1 or before != now:
        return Pacing(paced=False, milliseconds="milliseconds: the two runs' pacers are not the same work, timed alike")
    if torch[0] != torch[1]:
        which = " and ".join(version or "an unknown version" for version in torch)
        return Pacing(paced=False, milliseconds=f"milliseconds: the pacers ran on torch {which}")
    return Pacing(paced=True)


def _one_sided(without: Record, side: str, other: str) -> str:
    """Why a case whose record has no pacer's times is not held against one that has."""
    if any(r.status == "ok" and r.samples_s and r.pacer for r in without.rounds):
        return f"the {side}'s pacer has not one time for each sample: measure it again"
    return f"only the {other} was timed in turn with a pacer, which takes longer than alone: measure both the same way"


def ratios_by_round(record: Record) -> dict[int, float]:
    """Sample over pacer of each round that has both: the median over neighbours, the effect of an in-turn pair."""
    return {r.number: ratio for r in record.rounds if (ratio := _ratio(r)) is not None}


def _works(record: Record) -> list[Any]:
    """The pacers that a case's rounds had, each once: more than one where rounds disagree."""
    found: list[Any] = []
    for round_ in record.rounds:
        work = _work(round_) if _is_paced(round_) else None
        if round_.status == "ok" and work not in found:
            found.append(work)
    return [] if found == [None] else found


def _work(round_: Round) -> tuple[Any, Any, bool]:
    """Version, amounts, and whether the times on the core are known."""
    return round_.pacer.get("version"), round_.pacer.get("amounts"), bool(_on_core(round_))


def _is_paced(round_: Round) -> bool:
    return round_.status == "ok" and bool(_times(round_, "samples_s")) and are_times(round_.samples_s)


def _on_core(round_: Round) -> tuple[list[float], list[float]] | None:
    """The case's and the pacer's times on the core, where both are known."""
    of_case, of_pacer = _times(round_, "case_on_core_s"), _times(round_, "on_core_s")
    return (of_case, of_pacer) if of_case and of_pacer else None


def _times(round_: Round, name: str) -> list[float]:
    """Samples that the round's pacer has under this name, one for each of the case's; empty where they are none."""
    taken = round_.pacer.get(name)
    if not isinstance(taken, list) or not all(isinstance(each, float) for each in taken):
        return []
    return taken if len(taken) == len(round_.samples_s) and are_times(taken) else []


def _ratio(round_: Round) -> float | None:
    """A sample that follows another lies between two of the pacer's: it is divided by their geometric mean.

    Times are those on the core, where they are known: being put off it by others is nothing that a commit can cause.
    """
    if not _is_paced(round_):
        return None
    of_case, of_pacer = _on_core(round_) or (round_.samples_s, _times(round_, "samples_s"))
    paced, taken = [math.log(each) for each in of_pacer], [math.log(each) for each in of_case]
    triples = zip(taken[1:], paced[:-1], paced[1:], _follows(round_, len(taken))[1:], strict=True)
    between = [sample - (before + after) / 2 for sample, before, after, follows in triples if follows]
    if not between:
        between = [sample - after for sample, after in zip(taken, paced, strict=True)]
    return math.exp(statistics.median(between))


def _follows(round_: Round, samples: int) -> list[bool]:
    """For each sample, whether the pair before it was timed directly before: no disturbed one was left out between."""
    said = round_.pacer.get("follows")
    if isinstance(said, list) and len(said) == samples and all(isinstance(each, bool) for each in said):
        return said
    return [True] * samples
