"""What happens when a layer does not fit: one P for the whole scenario, or one smaller scale, or a reason.

``rank`` measures one rank's share of a P-way parallel layer; ``shrink`` scales the
parameters of the whole comparison; ``skip`` leaves out what does not fit and says so.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from membench.errors import UsageError
from membench.layers.spec import Collective, Cost, Layout, Mode, Optimizer, SharedBy, Step
from membench.planning.check_size import CHECK_WORKSPACE_BYTES, check_bytes
from membench.planning.solved_arms import SolvedArm, planned_zipf_exponent
from membench.scenario.arms import Level
from membench.scenario.scenario import Point
from membench.scenario.settings import MAX_RANKS, Fit

PROCESS_BYTES = 1.2e9  # the interpreter with torch loaded, inputs, buffers of the ceilings
_SMALLEST_SCALE = 2.0**-20


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that a process may take of its device, and of the host; None is unknown and refuses nothing.

    Without ``apart`` the device is the host's processor: it has one memory for both.
    """

    device_bytes: float | None
    host_bytes: float | None = None
    apart: bool = False


@dataclass(frozen=True)
class Work:
    """One arm of one point in one mode, before P is known.

    ``level`` is at which it is measured; ``in_parts``: as the sum of its parts, where it has any, though it fits.
    ``shared_by``: real ranks share it so; None: one rank's share is measured alone.
    """

    point: Point
    arm: SolvedArm
    mode: Mode
    optimizer: Optimizer | None = None
    level: Level = "layer"
    in_parts: bool = False
    shared_by: SharedBy | None = None

    def layout(self, ranks: int) -> Layout | None:
        """How real ranks share it; None where there are none."""
        return None if self.shared_by is None else self.arm.spec.shared_by(self.shared_by, ranks)

    def split_error(self, ranks: int) -> str | None:
        """Why so many ranks cannot share it, or None."""
        layout = self.layout(ranks)
        return self.arm.spec.split_error(ranks) if layout is None else layout.error(self.arm.spec, ranks)

    @property
    def new_tokens(self) -> int:
        """Of each sequence."""
        return self.point.workload.step_of(self.mode)["tokens"] // self.sequences

    @property
    def sequences(self) -> int:
        """That the step's tokens are of."""
        return self.point.workload.step_of(self.mode)["sequences"]

    def cost(self, ranks: int, cache_bytes: float = 0.0) -> Cost:
        """One rank's cost; ``split_error`` must be None."""
        return self.exchanging(ranks, cache_bytes)[0]

    def exchanging(self, ranks: int, cache_bytes: float = 0.0) -> tuple[Cost, list[Collective]]:
        """One rank's cost, and the collectives that a step takes part in."""
        layout = self.layout(ranks) or Layout("")
        return layout.cost(self.arm.spec, self.step(ranks, cache_bytes))

    def step(self, ranks: int, cache_bytes: float = 0.0) -> Step:
        """One rank's step, with what its routing is expected to touch."""
        workload = self.point.workload
        sizes: dict[str, Any] = workload.step_of(self.mode)
        return Step(
            **sizes,
            mode=self.mode,
            optimizer=self.optimizer,
            ranks=ranks,
            zipf_exponent=planned_zipf_exponent(workload),
            cache_bytes=cache_bytes,
        )


def parts_of(work: Work) -> list[tuple[Work, int]]:
    """What a work is the sum of, each as a work of its own, and how many of each there are."""
    return [
        (replace(work, arm=SolvedArm(part.name or f"{work.arm.name} block", part.spec), level=part.level), part.count)
        for part in work.arm.spec.parts
    ]


def why_in_parts(work: Work, ranks: int, room: Room) -> str | None:
    """Why a work is measured as the sum of its parts; None where it is measured whole, and for what has none."""
    if not work.arm.spec.parts or work.level == "training":
        return None
    if work.in_parts:
        return "asked for by fit.in_parts"
    return f"one of P = {ranks} ranks" if ranks > 1 else _shortage_of(work, 1, room)


@dataclass(frozen=True)
class Fitted:
    """The outcome: P and why, the scale of the parameters, the works at that scale."""

    ranks: int
    ranks_reason: str
    scale: float
    works: list[Work]


def need_bytes(work: Work, ranks: int) -> float:
    """Bytes of its device a process needs to measure one case: the layer's, the check's and the process's own."""
    together = ranks if work.shared_by else 1
    checking = check_bytes(work.arm.spec, work.new_tokens, work.sequences, together)
    return work.cost(ranks).memory.total + checking + PROCESS_BYTES


def refusal(work: Work, ranks: int, room: Room) -> str | None:
    """Why a work cannot run as one of ``ranks`` ranks, or None."""
    if error := work.split_error(ranks):
        return f"P = {ranks}: {error}"
    if why := why_in_parts(work, ranks, room):
        if error := work.arm.spec.parts_error(work.mode):
            return f"{why}: {error}"
        refused = ((part, refusal(part, ranks, room)) for part, _ in parts_of(work))
        return next((f"{part.arm.name}: {reason}" for part, reason in refused if reason), None)
    return _shortage_of(work, ranks, room) if work.arm.spec.COUNTED else None


def _shortage_of(work: Work, ranks: int, room: Room) -> str | None:
    """Why one process cannot hold a work."""
    need, on_host = need_bytes(work, ranks), work.cost(ranks).memory.host
    if not room.apart:
        return _shortage(need + on_host, ranks, room.device_bytes, "")
    return _shortage(need, ranks, room.device_bytes, "") or _shortage(on_host, ranks, room.host_bytes, " of the host's")


def _shortage(need: float, ranks: int, available_bytes: float | None, whose: str) -> str | None:
    if available_bytes is None or need <= available_bytes:
        return None
    return f"needs {need / 1e9:.1f} GB{whose} at P = {ranks}, has {available_bytes / 1e9:.1f} GB"


def fit(
    settings: Fit,
    works: list[Work],
    room: Room,
    shrunk: Callable[[float], list[Work]],
    devices: int = 1,
    processes: int | None = None,
) -> Fitted:
    """Chooses P and the scale by the scenario's policy.

    Args:
        settings: the scenario's ``fit:``.
        works: everything that is to be measured.
        room: what one device, and its host, may hold.
        shrunk: the same works with their parameters scaled.
        devices: devices of the named hardware; more than one are the P ranks.
        processes: that share every layer, which are the P ranks; None: one rank's share is measured.

    Raises:
        UsageError: no P, or no scale, makes everything fit.
    """
    splits = settings.policy == "rank" and settings.ranks == "auto" and devices == 1 and processes is None
    alone, available_bytes = PROCESS_BYTES + CHECK_WORKSPACE_BYTES, room.device_bytes
    if available_bytes is not None and available_bytes < alone and (splits or settings.policy == "shrink"):
        raise UsageError(
            f"{available_bytes / 1e9:.1f} GB are available, and a process takes {alone / 1e9:.1f} GB beside the layer: "
            "free or allow more",
            key="fit.memory",
        )
    if splits:
        ranks = _least_ranks(works, room)
        return Fitted(ranks, "least power of two that fits everything", 1.0, works)
    ranks, reason = _stated_ranks(settings, devices) if processes is None else (processes, "as many as share a layer")
    if settings.policy == "shrink":
        return _shrunk_to_fit(works, ranks, reason, room, shrunk)
    return Fitted(ranks, reason, 1.0, works)


def _stated_ranks(settings: Fit, devices: int) -> tuple[int, str]:
    if devices > 1:
        return devices, "as many as the named devices"
    if settings.ranks == "auto":
        return 1, f"policy {settings.policy} splits nothing"
    return int(settings.ranks), "pinned by the scenario"


def _least_ranks(works: list[Work], room: Room) -> int:
    """The least power of two at which nothing is refused."""
    reasons: list[str] = []
    blocker: list[Work] = []  # what was refused last is asked first
    ranks = 1
    while ranks <= MAX_RANKS:
        refusals = ((work, refusal(work, ranks, room)) for work in [*blocker, *works])
        refused = next(((work, reason) for work, reason in refusals if reason), None)
        if refused is None:
            return ranks
        blocker = [refused[0]]
        reasons.append(f"{refused[0].arm.name} {refused[1]}")
        ranks *= 2
    raise UsageError(
        f"no number of ranks makes everything fit ({reasons[0]}; {reasons[-1]}): allow more memory, "
        "pin fit.ranks, or use fit.policy skip",
        key="fit.ranks",
    )


def _shrunk_to_fit(
    works: list[Work],
    ranks: int,
    reason: str,
    room: Room,
    shrunk: Callable[[float], list[Work]],
) -> Fitted:
    """Halves the parameters until nothing is refused."""
    scale = 1.0
    while refused := [f"{work.arm.name} {why}" for work in works if (why := refusal(work, ranks, room))]:
        scale /= 2
        if scale < _SMALLEST_SCALE:
            raise UsageError(f"no scale of the parameters makes everything fit: {refused[0]}", key="fit.policy")
        works = shrunk(scale)
    return Fitted(ranks, reason, scale, works)
