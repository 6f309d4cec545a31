"""The answer at each comparable point: which arms may be the fastest, and the places of all, as far as is known."""

from collections.abc import Sequence

from membench.json_values import number
from membench.results.intervals import FEWEST_ROUNDS, medians_s
from membench.results.places import Places, places
from membench.results.ranking import arm_name, comparable_groups, ranked, step_ms
from membench.results.records import Answer, Record, ResultFile, Standing

_SAME_FLOPS = 0.01  # relative: what a budget may be missed by


def answers_of(result: ResultFile) -> dict[str, Answer]:
    """The answer at every comparable point, by its title, in the order of ``comparable_groups``.

    Taken from the file where it has them; a file from before answers were kept has none. What is kept of other cases
    or of other times than the file holds, as it was edited, is no answer; nor is one that names arms in an older way.
    """
    kept = {each.compared_at: each for each in result.answers}
    found = {}
    for title, records in comparable_groups(result.cases).items():
        known = kept.get(title)
        found[title] = known if known and _is_of(known, records) else answer(title, records)
    return found


def _is_of(kept: Answer, records: Sequence[Record]) -> bool:
    """Whether an answer stands on just these cases' times, and calls them what they are called today."""
    known = {(each.id, each.arm, each.step_ms) for each in kept.standings}
    return known == {(r.id, arm_name(r), step_ms(r)) for r in ranked(records)}


def answer(compared_at: str, records: Sequence[Record]) -> Answer:
    """The answer among cases that may be ranked against each other."""
    order, found = ranked(records), places(records)
    dense = next((r for r in order if r.case.layer.kind == "dense"), None)
    alike = [r for r in order if dense is not None and _same_flops(r, dense)]
    names = {r.id: arm_name(r) for r in order}
    return Answer(
        compared_at=compared_at,
        no_order=found.no_order,
        standings=[_standing(r, order[0], found) for r in order],
        fastest=[names[id_] for id_ in found.first(found.ids)],
        dense=None if dense is None else names[dense.id],
        at_dense_flops=[names[id_] for id_ in found.first(r.id for r in alike)] if len(alike) > 1 else [],
        failed=[arm_name(r) for r in records if step_ms(r) is None],
    )


def how_compared(records: Sequence[Record], found: Answer) -> str:
    """What a figure of these records is, and why they have no order where that is not known."""
    counts = sorted({len(medians_s(record.rounds)) for record in ranked(records)})
    if not counts:
        return ""
    least, most = counts[0], counts[-1]
    rounds = "one round" if most == 1 else f"median of {least}{f' to {most}' if least < most else ''} rounds"
    known_interval = any(each.interval_ms for each in found.standings)
    interval = ", 95 % interval over rounds" if most >= FEWEST_ROUNDS and known_interval else ""
    known = "; arms that share places are not told apart"
    if found.no_order is not None:
        known = f"; {found.no_order}: no order" if interval else ": no order"
    return f"{rounds}{interval}{known if len(found.standings) > 1 else ''}".capitalize() + "."


def places_of(result: ResultFile) -> dict[str, tuple[int, int]]:
    """The first and the last place of each case that has one, by its id.

    A case that is compared at several points (a layer that routes nothing, beside every routing of the others) has one
    where it is the same at all of them. That an arm is also compared at its best optimizer does not count here.
    """
    optimizers = {record.id: record.case.optimizer for record in result.cases}
    found: dict[str, set[tuple[int, int] | None]] = {}
    for each in answers_of(result).values():
        if len({optimizers.get(standing.id) for standing in each.standings}) > 1:
            continue
        for standing in each.standings:
            found.setdefault(standing.id, set()).add(standing.places)
    return {id_: place for id_, held in found.items() if len(held) == 1 for place in held if place is not None}


def _standing(record: Record, lowest: Record, found: Places) -> Standing:
    step = step_ms(record) or 0.0
    low, high = found.of(record.id) or (None, None)
    return Standing(
        arm=arm_name(record),
        id=record.id,
        step_ms=step,
        step_ms_low=number(record.metrics, "step_ms_low"),
        step_ms_high=number(record.metrics, "step_ms_high"),
        place_low=low,
        place_high=high,
        times_lowest=step / (step_ms(lowest) or step),
    )


def _same_flops(one: Record, other: Record) -> bool:
    a, b = number(one.achieved, "flops_per_token"), number(other.achieved, "flops_per_token")
    return a is not None and b is not None and abs(a - b) <= _SAME_FLOPS * abs(b)
