"""Ids that must not change, and what they depend on, in ``data/ids.json``: every case of every shipped scenario.

``python -m tests.recorded_ids`` adds scenarios and fields that are new, and changes nothing that is recorded.
``python -m tests.recorded_ids NAME…`` records these scenarios again, whose cases were changed on purpose.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from membench.case import HASHED_ALWAYS, Case
from membench.planning.planner import make_plan
from membench.scenario.scenario import load_scenario
from membench.scenario.shipped import list_scenarios

FILE = Path(__file__).parent / "data" / "ids.json"
# Cases that depend on no machine: layers and models whole, on a device that holds them all, and models' parts too.
EVERYWHERE = ["fit={policy: skip, ranks: 1, in_parts: true}"]
AMPLE_BYTES = 10**15


def recorded() -> dict[str, Any]:
    return json.loads(FILE.read_text())


def ids_of(scenario: str) -> dict[str, str]:
    """Every case of a shipped scenario, by what tells it apart there."""
    cases = make_plan(load_scenario(scenario, EVERYWHERE), available_bytes=AMPLE_BYTES).cases
    return {" ".join([case.case.name, *(f"{k}={v}" for k, v in case.point.items())]): case.id for case in cases}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The config classes that a field's type names."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from models_in(part)


def configs(root: type[BaseModel] = Case) -> dict[str, type[BaseModel]]:
    """The classes that a case is made of, by name."""
    inner = [kind for field in root.model_fields.values() for kind in models_in(field.annotation)]
    return {root.__name__: root} | {name: kind for each in inner for name, kind in configs(each).items()}


def defaults(config: type[BaseModel]) -> dict[str, Any]:
    """The fields that may be left out, each with what it is then; of a config, what it has that is not default."""
    found = {
        name: field.get_default(call_default_factory=True, validated_data={})
        for name, field in config.model_fields.items()
        if not field.is_required()
    }
    return {
        name: value.model_dump(mode="json", exclude_defaults=True)
        if isinstance(value, BaseModel)
        else to_jsonable_python(value)
        for name, value in found.items()
    }


def hashed_always() -> dict[str, list[str]]:
    return {config.__name__: sorted(names) for config, names in HASHED_ALWAYS.items()}


def record(again: list[str]) -> None:
    known = recorded() if FILE.exists() else {"hashed_always": hashed_always(), "defaults": {}, "scenarios": {}}
    for name, config in configs().items():
        known["defaults"][name] = defaults(config) | known["defaults"].get(name, {})
    for name, _ in list_scenarios():
        if name in again or name not in known["scenarios"]:
            known["scenarios"][name] = ids_of(name)
    FILE.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    record(sys.argv[1:])
