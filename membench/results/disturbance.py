"""What a round says of its disturbance, in words: which of its samples others disturbed, who, and by how much."""

from dataclasses import dataclass
from typing import Any

from membench.json_values import mapping, number, value_at
from membench.results.records import Record, Round
from membench.words import how_many

_WORDS = {
    "waiting": "other processes",
    "other_processes": "other processes",
    "hypervisor": "the hypervisor",
    "throttled": "throttled by a CPU quota",
    "gpu_throttled": "the GPU's clocks were throttled",
    "gpu_others": "other processes on the GPU",
}

_STATES = {_WORDS[name] for name in ("gpu_throttled", "gpu_others")}  # there or not: what they took is not known


@dataclass(frozen=True, slots=True)
class Disturbed:
    """Samples that count although they are disturbed, of one round or of several.

    ``kept`` of ``samples``; ``shares`` is how much of the time others had the processors, a mean a round.
    """

    rounds: tuple[int, ...]
    kept: int
    samples: int
    shares: tuple[float, ...]
    causes: tuple[str, ...]

    @property
    def words(self) -> str:
        """As in ``5 of 30 samples for 41 % of their time (other processes)``; of a GPU's state there is no share."""
        low, high = f"{100 * min(self.shares):.0f}", f"{100 * max(self.shares):.0f}"
        lost = f" for {low if low == high else f'{low} to {high}'} % of their time"
        if self.causes and set(self.causes) <= _STATES:
            lost = ""
        causes = f" ({', '.join(self.causes)})" if self.causes else ""
        return f"{self.kept} of {how_many(self.samples, 'sample')}{lost}{causes}"

    @property
    def flag(self) -> str:
        """With the rounds, counted from 1."""
        numbers = [str(number + 1) for number in self.rounds]
        return f"disturbed in {'round' if len(numbers) == 1 else 'rounds'} {', '.join(numbers)}: {self.words}"


def disturbed(round_: Round) -> Disturbed | None:
    """What stayed disturbed in a round that was measured; None where nothing did, or a file does not tell."""
    sampled = (
        (round_.disturbance, round_.samples_s),
        (mapping(round_.disturbance, "hot"), round_.hot_samples_s or []),
    )
    for says, samples in sampled:
        kept, share = number(says, "kept_samples"), number(says, "kept_share")
        if kept is None or share is None or round_.status != "ok":
            continue
        if kept.is_integer() and 0 < kept <= len(samples) and 0 <= share <= 1:
            causes = _causes(value_at(says, "kept_by"))
            return Disturbed((round_.number,), int(kept), len(samples), (share,), causes)
    return None


def _causes(names: Any) -> tuple[str, ...]:
    """In words, each once; without what is no name of a signal."""
    known = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
    return tuple(dict.fromkeys(_WORDS[name] for name in known if name in _WORDS))


def disturbed_rounds(record: Record) -> Disturbed | None:
    """The same of all rounds of a case together."""
    found = [each for round_ in record.rounds if (each := disturbed(round_))]
    if not found:
        return None
    return Disturbed(
        tuple(number for each in found for number in each.rounds),
        sum(each.kept for each in found),
        sum(each.samples for each in found),
        tuple(share for each in found for share in each.shares),
        tuple(dict.fromkeys(cause for each in found for cause in each.causes)),
    )


def touched_rounds(record: Record) -> list[int]:
    """The rounds with disturbed samples among those that count, or with fewer samples than they might have had."""
    return [r.number for r in record.rounds if disturbed(r) or r.sampling.get("stopped_by") == "disturbance"]
