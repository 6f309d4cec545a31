"""``docs/results.md``: each shipped scenario's question with its answer, its times and its picture."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from benchmarks.documents.claims_table import ALIKE_NATS, claims_table
from benchmarks.documents.curve_pictures import curve_picture
from benchmarks.documents.families import REST, families
from benchmarks.documents.filled import filled
from benchmarks.documents.learnt import learnt_parts
from benchmarks.documents.outdated import outdated
from benchmarks.documents.pictures import picture
from benchmarks.documents.recorded import Recorded
from benchmarks.documents.sentences import answer_sentences, named
from benchmarks.documents.tables import sizes_tables, times_tables
from membench.json_values import mapping, number
from membench.machine.provenance import device_slug
from membench.results.disturbance import disturbed_rounds
from membench.results.ranking import arm_name, is_trained
from membench.results.records import ResultFile
from membench.scenario.scenario import list_scenarios, load_scenario
from membench.tables.results import how_measured
from membench.words import how_many

# Questions that no order of arms answers.
_OF_TWO = {
    "gate": "`membench ab` and `membench compare` answer this, of two revisions or runs "
    "([how good the gate is](method.md#how-good-the-gate-is)). These are the times of one run."
}
_HEAD = """\
# Results

`make results-document` writes this page from the files in [`results/`](../results/README.md). Of each scenario and
machine it takes the newest run of at least three [rounds](glossary.md#round) that asked what the scenario asks now, by
the method of now; one without a failed case stands before a newer one with some.

A time is the median of the rounds' medians, with its interval over rounds in brackets ([method.md](method.md)). Arms
that are not told apart share a place; in tables with many columns the fastest, and those not told apart from it, are
bold. In the pictures a mark is today's step, a line its interval, and a dash or a dotted line the
[floor](glossary.md#floor): what the hardware would allow, with the same predicted communication.
"""

_CLAIMS = f"""\
## What is claimed, and what was found

What a layer learns was claimed before; scenarios of level [training](training.md) test it at a scale that two cores can
train. Machines change it by rounding alone, so of each scenario the newest run counts, wherever it was made. A
difference is of answer NLL, the mean over [seeds](training.md#seeds) with its 95 % interval, paired by seed; positive
is as claimed. A verdict needs p below 0.05 after Holm's correction over all comparisons of the table, and of a claim
all its comparisons; *nothing gained* needs the whole interval within {ALIKE_NATS} nats. Models are a thousand times
smaller than those of the papers: what agrees here is no proof there, and what disagrees no refutation.
"""


def results_page(
    questions: Sequence[tuple[str, str]], recorded: Mapping[str, Sequence[Recorded]]
) -> tuple[str, dict[str, bytes]]:
    """The page, and by name the pictures that it shows.

    Args:
        questions: each scenario's name and question.
        recorded: by scenario the runs that answer it, one a device.
    """
    pictures: dict[str, bytes] = {}
    shipped = dict(list_scenarios())
    known = sum(bool(recorded.get(scenario)) for scenario, _ in questions)
    sections = [_HEAD, f"{known} of {len(questions)} shipped scenarios are answered here.\n"]
    sections += _claims(recorded)
    for scenario, question in questions:
        sections.append(f"## {scenario}\n\n{filled(f'*{question}*')}\n")
        runs = recorded.get(scenario, ())
        if not runs:
            nproc = load_scenario(scenario).nproc if scenario in shipped else None
            words = f"{scenario} --nproc {nproc}" if nproc else scenario
            sections.append(f"Not recorded here yet: `membench run {words}` measures it.\n")
        for each, slug in zip(runs, slugs(runs), strict=True):
            sections.append(_device(each, slug, pictures))
    return "\n".join(sections), pictures


def _claims(recorded: Mapping[str, Sequence[Recorded]]) -> list[str]:
    """The section of claims; nothing where none has been tried."""
    table = claims_table(recorded)
    return [] if table is None else [_CLAIMS, f"{table}\n"]


def link(each: Recorded, folder: str) -> str:
    """A link to a result file from a document that reaches the results through ``folder``."""
    return f"[`{each.path.name}`]({folder}{each.path.name})"


def slugs(runs: Sequence[Recorded]) -> list[str]:
    """A name for each run's pictures: its device, with its memory and a number where machines would share a name."""
    names = [device_slug(mapping(each.result.environment, "device")) for each in runs]
    sizes = [_memory(each) for each in runs]
    names = [f"{name}{size}" if names.count(name) > 1 else name for name, size in zip(names, sizes, strict=True)]
    before = [names[:index].count(name) for index, name in enumerate(names)]
    return [f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True)]


def _memory(each: Recorded) -> str:
    memory_bytes = number(each.result.environment, "device", "memory_bytes")
    return "" if memory_bytes is None else f"-{memory_bytes / 2**30:.0f}gib"


def _device(each: Recorded, slug: str, pictures: dict[str, bytes]) -> str:
    run = each.result.run
    told = f"**On {each.device}** ({link(each, '../results/')}). {how_measured(each.result)}{_without_time(each)}"
    parts = [filled(told)]
    if any(map(is_trained, each.result.cases)):
        parts += [*learnt_parts(each.result), *_curves(each.result, slug, pictures), *flagged(each.result)]
        return "\n\n".join(parts) + "\n"
    for family, result in families(each.result).items():
        beside = "public layers of other sizes" if family == REST else f"{family} and public layers"
        heading = [f"### {run.scenario}: {beside}"] if family else []
        answer = _OF_TWO.get(run.scenario)
        parts += [*heading, filled(answer) if answer else answered(result)]
        drawn = picture(result)
        if drawn:
            name = "_".join([run.scenario, *([family] if family else []), f"{slug}.svg"])
            pictures[name] = drawn
            parts.append(f"![{run.scenario}: steps today and their floors]({PurePosixPath('pictures', name)})")
        parts += [*times_tables(result), *sizes_tables(result)]
    parts += [*outdated(each.result), *flagged(each.result)]
    return "\n\n".join(parts) + "\n"


def _curves(result: ResultFile, slug: str, pictures: dict[str, bytes]) -> list[str]:
    drawn = curve_picture(result)
    if drawn is None:
        return []
    name = f"{result.run.scenario}_{slug}.svg"
    pictures[name] = drawn
    return [f"![{result.run.scenario}: answer NLL over tokens]({PurePosixPath('pictures', name)})"]


def answered(result: ResultFile) -> str:
    """The answer as a sentence, or as a list of several."""
    sentences = answer_sentences(result)
    return filled(sentences[0]) if len(sentences) == 1 else "\n".join(filled(each, "* ") for each in sentences)


def flagged(result: ResultFile, disturbed_link: str = "glossary.md#disturbed") -> list[str]:
    """How many cases a reader should distrust; nothing where there are none. Fewer samples alone are no reason.

    Args:
        disturbed_link: from the document to what *disturbed* means.
    """
    measured = [record for record in result.cases if record.status == "ok"]
    flags = [record for record in measured if any(not flag.startswith("stopped by time") for flag in record.flags)]
    if not flags:
        return []
    disturbed = sum(disturbed_rounds(record) is not None for record in flags)
    told = f", {disturbed} of them as [disturbed]({disturbed_link})" if disturbed else ""
    return [f"Flagged: {len(flags)} of {how_many(len(result.cases), 'case')}{told}; `membench report` says why."]


def _without_time(each: Recorded) -> str:
    lost = [record for record in each.result.cases if record.status != "ok"]
    if not lost:
        return ""
    arms: dict[str, dict[str, None]] = defaultdict(dict)
    for record in lost:
        arms[record.reason or record.status][arm_name(record)] = None
    reasons = [f"{named(of)}: {reason}" for reason, of in arms.items()]
    return f" {how_many(len(lost), 'case')} without a time ({'; '.join(reasons)})."
