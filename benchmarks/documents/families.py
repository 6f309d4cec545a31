"""Runs beside public layers, family by family: a layer of ours with the public ones that were asked for its sizes.

What fits into none is a part of its own.
"""

from typing import Any

from membench.json_values import mapping
from membench.layers.spec.quantities import parse_num_keys
from membench.results.records import Record, ResultFile

REST = "other"


def families(result: ResultFile) -> dict[str, ResultFile]:
    """By the arm of ours the part of a run that is about it; the whole run under no name where there is one family.

    Arms of no family are together under ``REST``.
    """
    own = {record.case.arm: record for record in result.cases if record.case.layer.kind != "external"}
    public: dict[str, set[str]] = {arm: set() for arm in own}
    for record in result.cases:
        if record.case.layer.kind == "external":
            alike = next((arm for arm, ours in own.items() if _same_sizes(record, ours)), None)
            if alike is not None:
                public[alike].add(record.case.arm)
    if sum(1 for arms in public.values() if arms) < 2:
        return {"": result}
    found = {arm: {arm, *arms} for arm, arms in public.items() if arms}
    rest = {record.case.arm for record in result.cases}.difference(*found.values())
    if rest:
        found[REST] = rest
    return {name: _of_arms(result, arms) for name, arms in found.items()}


def _of_arms(result: ResultFile, arms: set[str]) -> ResultFile:
    """A part of a run, without the answers that were kept, which are about all arms."""
    return result.model_copy(update={"cases": [r for r in result.cases if r.case.arm in arms], "answers": []})


def _same_sizes(public: Record, ours: Record) -> bool:
    """Whether a layer of ours has every size that the public one was asked for."""
    sizes = ours.case.layer.model_dump()
    asked = mapping(public.case.layer.model_dump(), "options")
    known = {name: value for name, value in asked.items() if name in sizes}
    return bool(known) and all(_size(name, value) == sizes[name] for name, value in known.items())


def _size(name: str, value: Any) -> Any:
    return parse_num_keys(value) if name == "num_keys" else value
