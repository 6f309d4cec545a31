"""Whether two measurements were made under the same conditions: the paths, threads and settings that decide times.

What the code chose is not among them: where a commit makes an operator leave its fast path, that is a slowdown to
be found. What the machine could not offer is: a compiler, a core, an instruction set.
"""

from collections.abc import Callable
from typing import Any

from membench.json_values import mapping, number, text, value_at
from membench.machine.conditions import binding_quota, what_is_slow
from membench.results.records import Record, Round

_FASTEST = ("native", "triton", "torch")  # an operator took one of these; a loop over experts is the same everywhere


def conditions_differ(base: Record, head: Record) -> str | None:
    """What decides times and differs between two cases' rounds, in words; None where nothing known does.

    A file from before this was recorded does not know it, which is like anything but what was slowed down.
    """
    before, now = ([r for r in each.rounds if r.status == "ok"] for each in (base, head))
    when = ("in the baseline", "now")
    says_before, says_now = (any(r.ran for r in rounds) for rounds in (before, now))
    if says_before and says_now:
        names = set(_CONDITIONS) if _operators(before) or _operators(now) else set(_CONDITIONS) - _OF_OPERATORS
        return _difference(before, now, when, names)
    if difference := _difference(before, now, when, {"threads"}):
        return difference
    if not says_before and not says_now:
        return None
    rounds, place = (before, "baseline") if says_before else (now, "new file")
    slowed = next((line for r in rounds for line in what_is_slow(r.ran, r.threads)), None)
    return slowed and f"{slowed} in the {place}, and the other does not say"


def same_software(base: Record, head: Record) -> bool:
    """Whether two cases are known to have run by one compiler and the same instruction sets, under the same conditions.

    Another build of torch, or another compiler, needs other instructions for the same work.
    """
    before, now = ([r.ran.get("compiler") for r in each.rounds if r.status == "ok"] for each in (base, head))
    return bool(before and now) and len({*map(str, before), *map(str, now)}) == 1 and not conditions_differ(base, head)


def other_conditions(base: Any, head: dict[str, Any]) -> str | None:
    """The same of two runs' environments, whatever operators they measure."""
    known = (each if isinstance(each, dict) else {} for each in (base, head))
    one, other = (Round(number=0, started="", status="ok", ran=each) for each in known)
    return _difference([one], [other], ("then", "now"), set(_CONDITIONS))


def _difference(before: list[Round], now: list[Round], when: tuple[str, str], names: set[str]) -> str | None:
    for name, value in _CONDITIONS.items():
        if name not in names:
            continue
        one, other = (sorted({str(v) for r in rounds if (v := value(r)) is not None}) for rounds in (before, now))
        if one and other and one != other:
            sides = (
                f"{' or '.join(found)} {word}{_why(rounds) if value is _path else ''}"
                for found, word, rounds in ((one, when[0], before), (other, when[1], now))
            )
            return f"{name}: {', '.join(sides)}"
    return None


def _why(rounds: list[Round]) -> str:
    return next((f" ({why})" for r in rounds if (why := text(r.ran, "fallback"))), "")


def _operators(rounds: list[Round]) -> bool:
    """Whether operators ran that have more than one path."""
    ways = (str(way).split("+") for r in rounds for way in mapping(r.ran, "paths").values())
    return any(way in _FASTEST for found in ways for way in found)


def _path(r: Round) -> Any:
    return text(r.ran, "path")


def _threads(r: Round) -> Any:
    in_effect = number(r.ran, "threads")
    return r.threads if in_effect is None else int(in_effect)


def _quota(r: Round) -> Any:
    quota = binding_quota(r.ran, r.threads)
    return None if not r.ran else "none that binds" if quota is None else f"{quota:g} cores"


def _setting(key: str) -> Callable[[Round], Any]:
    def of(r: Round) -> Any:
        found = value_at(r.ran, key)
        return ", ".join(f"{k}={v}" for k, v in found.items()) or "none" if isinstance(found, dict) else None

    return of


def _instruction_sets(r: Round) -> Any:
    found = value_at(r.ran, "kernels_instruction_sets")
    return " ".join(map(str, found)) if isinstance(found, list) else None


_OF_OPERATORS = {"path of operators", "instruction sets of the C++ kernels"}
_CONDITIONS: dict[str, Callable[[Round], Any]] = {
    "path of operators": _path,
    "threads": _threads,
    "CPU quota": _quota,
    "instruction set of torch": lambda r: value_at(r.ran, "torch_instruction_set"),
    "instruction sets of the C++ kernels": _instruction_sets,
    "settings of torch": _setting("settings"),
    "variables": _setting("variables"),
}
