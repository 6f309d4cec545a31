"""The axes of a scenario: which keys take which values, and which combinations are left out."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from membench.errors import UsageError, shown, suggestion
from membench.layers.spec.quantities import parse_num_keys
from membench.yaml_files.reader import MAX_DEPTH

# What an axis may vary: what makes a Case. How it is measured or fitted is one for all.
SWEPT_SECTIONS = ("model_dim", "dtype", "model", "budgets", "every_arm", "arms", "workload", "task", "training")
CASE_KEYS = ("arm", "mode", "optimizer")
_FORMS = "a list, {range: [first, last, step]} or {pow2: [first, last]}"
_MANY = 2.0**62  # values, far more than any limit on cases
_ABSENT = object()


@dataclass(frozen=True)
class Axis:
    """One key and its values, counted without being expanded."""

    key: str
    first: float
    step: float
    length: int
    form: str  # "list", "range" or "pow2"
    listed: tuple[Any, ...] = ()

    def values(self) -> Iterator[Any]:
        for index in range(self.length):
            if self.form == "list":
                yield self.listed[index]
            elif self.form == "pow2":
                yield int(self.first) << index
            else:
                value = self.first + index * self.step
                yield value if isinstance(value, int) else float(f"{value:.12g}")


@dataclass(frozen=True)
class Axes:
    """Groups of axes that step together; the product over groups is what is measured."""

    groups: tuple[tuple[Axis, ...], ...] = ()
    exclude: tuple[dict[str, Any], ...] = ()

    @property
    def num_points(self) -> int:
        return math.prod(group[0].length for group in self.groups)

    def points(self) -> Iterator[dict[str, Any]]:
        """Each combination as {key: value}, the last group fastest."""
        stepped = [zip(*(axis.values() for axis in group), strict=True) for group in self.groups]
        keys = [axis.key for group in self.groups for axis in group]
        for values in itertools.product(*stepped):
            yield dict(zip(keys, itertools.chain.from_iterable(values), strict=True))

    def excludes(self, tree: Mapping[str, Any], case: Mapping[str, Any]) -> bool:
        """Whether some exclusion's every pair holds for this point's tree and this case."""
        return any(
            all(
                _same(key, case[key] if key in CASE_KEYS else stated_at(tree, key), want) for key, want in pairs.items()
            )
            for pairs in self.exclude
        )


def axes_from(raw: Any) -> Axes:
    """Axes out of the YAML mapping under ``axes:``.

    Raises:
        UsageError: a key that cannot be swept, values in no known form, or an exclusion
            of a key that no axis has.
    """
    if not isinstance(raw, dict):
        raise UsageError(f"should map keys to values, not {shown(raw)}", key="axes")
    groups = [_group({key: values}, "axes") for key, values in raw.items() if key not in ("zip", "exclude")]
    for index, group in enumerate(_list_of_mappings(raw.get("zip", []), "axes.zip")):
        groups.append(_group(group, f"axes.zip[{index}]"))
    keys = [axis.key for group in groups for axis in group]
    for key in keys:
        if keys.count(key) > 1:
            raise UsageError("is swept twice; keep one", key=f"axes.{key}")
    exclude = _list_of_mappings(raw.get("exclude", []), "axes.exclude")
    for index, pairs in enumerate(exclude):
        for key in pairs:
            if key not in CASE_KEYS and key not in keys:
                known = suggestion(key, [*CASE_KEYS, *keys])
                raise UsageError(f"no axis has this key; {known}", key=f"axes.exclude[{index}].{key}")
    return Axes(tuple(groups), tuple(exclude))


def without_axis(raw: Any, key: str) -> Any:
    """``axes:`` less those over ``key``, over what holds it or over what it holds: --set decides."""
    if not isinstance(raw, dict):
        return raw
    dropped: list[str] = []

    def kept(group: Any) -> Any:
        if not isinstance(group, dict):
            return group
        dropped.extend(axis for axis in group if _overlap(axis, key))
        return {axis: values for axis, values in group.items() if not _overlap(axis, key)}

    axes = kept(raw)
    if isinstance(groups := axes.get("zip"), list):
        axes["zip"] = [group for group in map(kept, groups) if group]
    if isinstance(exclude := axes.get("exclude"), list):
        axes["exclude"] = [
            pairs for pairs in exclude if not (isinstance(pairs, dict) and any(axis in pairs for axis in dropped))
        ]
    return axes


def stated_at(tree: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, or a sentinel equal to nothing where there is none."""
    current: Any = tree
    for part in key.split("."):
        if not isinstance(current, Mapping) or part not in current:
            return _ABSENT
        current = current[part]
    return current


def put_at(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets the value at a dotted key, making the mappings on the way.

    Raises:
        UsageError: something on the way is no mapping, or names no arm.
    """
    parts = key.split(".")
    if not all(parts):
        raise UsageError("is no dotted key such as workload.tokens", key=key)
    if len(parts) > MAX_DEPTH:
        raise UsageError(f"is nested more than {MAX_DEPTH} deep", key=key)
    if parts[0] == "arms" and len(parts) > 2 and isinstance(arms := tree.get("arms"), dict) and parts[1] not in arms:
        raise UsageError(f"there is no arm {parts[1]!r}; {suggestion(parts[1], arms)}", key=key)
    current = tree
    for index, part in enumerate(parts[:-1]):
        current = current.setdefault(part, {})
        if not isinstance(current, dict):
            raise UsageError(f"{'.'.join(parts[: index + 1])} holds a value, no keys", key=key)
    current[parts[-1]] = value


def _axis(key: str, values: Any, where: str) -> Axis:
    section = key.split(".")[0]
    if section not in SWEPT_SECTIONS:
        raise UsageError(f"cannot be swept; {suggestion(section, SWEPT_SECTIONS)}", key=where)
    if isinstance(values, list) and values:
        return Axis(key, 0, 0, len(values), "list", tuple(values))
    if isinstance(values, dict) and len(values) == 1:
        form, bounds = next(iter(values.items()))
        numbers = bounds if isinstance(bounds, list) else []
        if form == "pow2" and len(numbers) == 2 and all(map(_is_power_of_two, numbers)) and numbers[0] <= numbers[1]:
            return Axis(key, numbers[0], 0, (numbers[1] // numbers[0]).bit_length(), form)
        if form == "range" and len(numbers) == 3 and all(map(_is_number, numbers)):
            first, last, step = numbers
            if step > 0 and last >= first:
                steps = min((last - first) / step, _MANY)  # a range may overflow to infinity
                return Axis(key, first, step, int(steps + 1e-9) + 1, form)
        if form in ("pow2", "range"):
            right = "[1, 512], powers of two, rising" if form == "pow2" else "[first, last, step], rising, step above 0"
            raise UsageError(f"should be {right}, not {shown(bounds)}", key=f"{where}.{form}")
    raise UsageError(f"should be {_FORMS}, not {shown(values)}", key=where)


def _group(group: dict[str, Any], where: str) -> tuple[Axis, ...]:
    """Axes that step together."""
    axes = tuple(_axis(key, values, f"{where}.{key}") for key, values in group.items())
    lengths = sorted({axis.length for axis in axes})
    if len(lengths) > 1:
        raise UsageError(f"zipped keys have {lengths} values; give them equally many", key=where)
    return axes


def _overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are the same, or one holds the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_power_of_two(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0 and value.bit_count() == 1


def _list_of_mappings(raw: Any, key: str) -> list[dict[str, Any]]:
    if not isinstance(raw, list) or not all(isinstance(item, dict) and item for item in raw):
        raise UsageError(f"should be a list of mappings, not {shown(raw)}", key=key)
    return raw


def _same(key: str, value: Any, wanted: Any) -> bool:
    if key.endswith("num_keys") and value is not _ABSENT:
        try:
            return parse_num_keys(value) == parse_num_keys(wanted)
        except ValueError:
            return False
    return type(value) is type(wanted) and value == wanted
