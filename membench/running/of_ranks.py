"""The answers of ranks that share a layer, as one: the slowest counts, and what each said is kept."""

import hashlib
import statistics
from typing import Any

from membench.processes.channel import Message
from membench.running.protocol import Found


def joined_answer(answers: list[Any]) -> Message:
    """One answer of those of all ranks, in their order."""
    if isinstance(answers[0], Found):
        return Found(found=found_of_all([answer.found for answer in answers]))
    return answers[0]


def found_of_all(founds: list[dict[str, Any]]) -> dict[str, Any]:
    """What a round says of a case that ranks measured together.

    Samples are the slowest rank's already. Errors and bytes held are the largest of any rank; what a step costs is told
    of the rank that computes most.
    """
    busiest = max(founds, key=lambda found: found["cost"]["flops"])
    digests = [found["answer_digest"] for found in founds]
    ranks = [
        {
            **found["rank"],
            "answer_digest": found["answer_digest"],
            "reference": found["reference"],
            "traffic": found["traffic"],
            "memory": found["memory"],
        }
        for found in founds
    ]
    main = {name: value for name, value in founds[0].items() if name not in ("rank", "collectives")}
    return {
        **main,
        "traffic": busiest["traffic"],
        "cost": busiest["cost"],
        "memory": {name: _largest([found["memory"].get(name) for found in founds]) for name in founds[0]["memory"]},
        "reference": _worst([found["reference"] for found in founds]),
        "answer_digest": hashlib.sha256(" ".join(digests).encode()).hexdigest()[:32],
        "ranks": ranks,
        "communication": communication_of([found["collectives"] for found in founds]),
    }


def communication_of(calls: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """What collectives take and send in a step, by kind.

    A call takes as long as the rank that waits least in it: what others spend is waiting for that one, whose work came
    later. Bytes are those of the rank that sends most.

    Args:
        calls: each rank's, in their order; each with its seconds in every one of some steps.
    """
    together = list(zip(*calls, strict=False))
    by_kind: dict[str, dict[str, Any]] = {}
    for kind in dict.fromkeys(of_ranks[0]["kind"] for of_ranks in together):
        of_kind = [of_ranks for of_ranks in together if of_ranks[0]["kind"] == kind]
        by_kind[kind] = {
            "calls": len(of_kind),
            "sent_bytes": max(sum(each) for each in zip(*([c["sent_bytes"] for c in o] for o in of_kind), strict=True)),
            "ms": 1e3 * statistics.median(map(sum, zip(*map(_least_s, of_kind), strict=True))),
        }
    if not together:
        return {"by_kind": {}, "ms": 0.0, "waiting_ms": 0.0, "sent_bytes": 0.0}
    least = [sum(each) for each in zip(*map(_least_s, together), strict=True)]
    spent = [sum(each) for each in zip(*map(_mean_s, together), strict=True)]
    return {
        "by_kind": by_kind,
        "ms": 1e3 * statistics.median(least),
        "waiting_ms": 1e3 * statistics.median(s - c for s, c in zip(spent, least, strict=True)),
        "sent_bytes": sum(each["sent_bytes"] for each in by_kind.values()),
    }


def _least_s(of_ranks: tuple[dict[str, Any], ...]) -> list[float]:
    return [min(each) for each in zip(*(call["seconds"] for call in of_ranks), strict=True)]


def _mean_s(of_ranks: tuple[dict[str, Any], ...]) -> list[float]:
    return [statistics.fmean(each) for each in zip(*(call["seconds"] for call in of_ranks), strict=True)]


def _largest(values: list[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _worst(references: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The errors that any rank found, the largest of each."""
    known = [reference for reference in references if reference is not None]
    if len(known) < len(references) or not known:
        return None
    names = dict.fromkeys(name for reference in known for name in reference["errors"])
    shortfalls = [reference["selection_shortfall"] for reference in known]
    return {
        **known[0],
        "errors": {name: max(r["errors"][name] for r in known if name in r["errors"]) for name in names},
        "selection_shortfall": max((each for each in shortfalls if each is not None), default=None),
    }
