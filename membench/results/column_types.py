"""What a column of records holds: told by the schema for what the schema types, else by the values there are."""

from collections.abc import Iterable
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from membench.case import Case, RoutingConfig
from membench.layers.spec import AnySpec
from membench.results.records import Record, Round, Run

ColumnType = Literal["text", "count", "number", "flag", "time"]

_HELD: dict[ColumnType, set[type]] = {"text": {str}, "number": {int, float}, "flag": {bool}, "time": {str}}
_LARGEST_INT = 2**63 - 1
_MODELS: tuple[type[BaseModel], ...] = (Run, Record, Round, Case, RoutingConfig, *get_args(AnySpec))


def column_type(name: str, values: Iterable[Any]) -> ColumnType:
    """The type of a column; of one in which nothing is known and that nothing types, a number's.

    A file may hold a value that does not fit its column (a metric called as a setting is): then the values decide.
    """
    known = [value for value in values if value is not None]
    classes = {type(value) for value in known}
    declared = _DECLARED.get(name) or _of_classes(classes)
    if declared == "count":
        return declared if classes <= {int, float} and all(map(_whole, known)) else _of_classes(classes | {float})
    fits = classes <= _HELD[declared]
    return declared if fits else _of_classes(classes)


def _whole(value: float) -> bool:
    return value == int(value) and abs(value) <= _LARGEST_INT


def _of_classes(classes: set[type]) -> ColumnType:
    if classes == {bool}:
        return "flag"
    if classes == {int}:
        return "count"
    return "number" if classes <= {int, float} else "text"


def _classes(annotation: Any) -> set[type]:
    """The classes of which a value may be: int of ``PositiveInt | None``."""
    if get_origin(annotation) is Annotated:
        return _classes(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_classes, get_args(annotation))) - {type(None)}
    return {annotation}


def _by_schema() -> dict[str, ColumnType]:
    """The fields that hold one value; what holds several has columns of its own, or is text."""
    found = {name: _classes(field.annotation) for model in _MODELS for name, field in model.model_fields.items()}
    return {name: _of_classes(classes) for name, classes in found.items() if classes <= {bool, int, float, str}}


_TEXT = ("file", "kind", "device", "device_type", "fingerprint", "torch_version", "routing", "implementation")
_TEXT += ("labels", "flags", "notes", "cache", "pair.id", "pair.side", "pair.phase")
_TEXT += ("task", "energy.source", "ran.path", "ran.fallback", "ran.compiler")
_COUNTS = ("rounds", "round", "samples", "disturbed_samples", "sample", "params", "active_params", "rank_params")
_COUNTS += ("stored_bytes", "place_low", "place_high", "seed", "step")
_DECLARED: dict[str, ColumnType] = {
    **_by_schema(),
    **dict.fromkeys(_TEXT, "text"),
    **dict.fromkeys(_COUNTS, "count"),
    **dict.fromkeys(("in_turn", "sampling.in_turn", "sampling.steady"), "flag"),
    **dict.fromkeys(("started", "finished", "round_started"), "time"),
}
