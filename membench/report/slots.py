"""The plots of one run: which there are, at which comparable points, and what the reader may choose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from membench.report.evidence import Evidence, ceilings_of
from membench.report.plots.curves import curve_figures
from membench.report.plots.floors import floor_figures
from membench.report.plots.frame import Figure
from membench.report.plots.memory import memory_figure
from membench.report.plots.pareto import pareto_figures
from membench.report.plots.roofline import roofline
from membench.report.plots.samples import samples_figure
from membench.report.plots.trends import KEYS, LATENCY, THROUGHPUT, TOKENS, Along, trend_figures
from membench.report.plots.utilization import utilization_figure

Choices = dict[str, Figure]  # by the words that the reader chooses between


@dataclass(frozen=True, slots=True)
class Slot:
    """A place on the page for one plot at a time.

    ``by_group`` holds the choices at each comparable point, in the order of the points; ``always``
    those that do not depend on it. A slot has one or the other.
    """

    name: str
    title: str
    caption: str
    by_group: Sequence[Choices] = ()
    always: Choices | None = None

    @property
    def empty(self) -> bool:
        return not self.always and not any(self.by_group)


def learnt_slots(groups: Mapping[str, Sequence[Evidence]]) -> list[Slot]:
    """The plots of a run of level training."""
    caption = (
        "A line is the mean over seeds, its band the 95 % interval over seeds (none with fewer than three). Over "
        "tokens all arms have seen the same; over FLOPs and seconds each has paid the same."
    )
    return [Slot("curves", "Training curves", caption, [curve_figures(members) for members in groups.values()])]


def slots(cases: Sequence[Evidence], groups: Mapping[str, Sequence[Evidence]]) -> list[Slot]:
    """Every plot of a run that has something to show."""
    found = [
        Slot(
            "pareto",
            "What each arm costs",
            "Lower left is better. Ringed arms on the dotted line are beaten by no other on both costs.",
            [pareto_figures(members) for members in groups.values()],
        ),
        Slot(
            "samples",
            "Every sample",
            "A dot is one sample, a lane one round (a fresh process), a bar the round's median, a diamond the step "
            "with its predicted communication. The number is the step. Which arms are told apart is decided by the "
            "medians of rounds, not by these dots.",
            _one(groups, samples_figure),
        ),
        Slot(
            "floors",
            "Today and the floor",
            "A full mark is the step as measured today, an open one its floor: what the same work would take at the "
            "measured ceilings, with the same predicted communication. The order of the full marks is made by "
            "today's kernels, the order of the open ones by the hardware. An arm that is slow but has a low floor "
            "waits for better kernels.",
            [floor_figures(members) for members in groups.values()],
        ),
        _trend(cases, "tokens", "Over tokens", TOKENS),
        _trend(cases, "keys", "Over keys", KEYS),
        Slot(
            "utilization",
            "Use of the machine",
            "MFU: FLOPs over the matrix product's ceiling. MBU: the time that the expected memory traffic would take "
            "at the ceilings. Above 100 % a number is not to be believed; the notes say why.",
            _one(groups, utilization_figure),
        ),
        Slot(
            "roofline",
            "Roofline",
            "Bytes are those expected from memory. Ceilings are medians of what the rounds measured; that of "
            "random rows differs with an arm's row size.",
            _one(groups, _roofline),
        ),
        Slot(
            "memory",
            "Memory of one rank",
            "What the layer holds, part by part, and the peak while it runs: the CUDA allocator's, on a CPU the whole "
            "process's with all of torch.",
            _one(groups, memory_figure),
        ),
    ]
    return [slot for slot in found if not slot.empty]


def _one(
    groups: Mapping[str, Sequence[Evidence]], plot: Callable[[Sequence[Evidence]], Figure | None]
) -> list[Choices]:
    return [{"": made} if (made := plot(members)) is not None else {} for members in groups.values()]


def _trend(cases: Sequence[Evidence], name: str, title: str, along: Along) -> Slot:
    choices = {
        f"{measure.title}: {where}": made
        for measure in (LATENCY, THROUGHPUT)
        for where, made in trend_figures(cases, along, measure).items()
    }
    caption = (
        "A mark is a median over rounds, its upright bar the 95 % interval over rounds (none with fewer than three); "
        "dashed is an arm without this dimension."
    )
    return Slot(name, title, caption, always=choices)


def _roofline(cases: Sequence[Evidence]) -> Figure | None:
    points = {case.name: (point, case.style) for case in cases if case.measured and (point := case.roofline_point)}
    if not points:
        return None
    styles = {name: style for name, (_, style) in points.items()}
    return roofline([point for point, _ in points.values()], ceilings_of(cases), styles)
