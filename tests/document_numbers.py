"""Which numbers of a document come from a result file, and which figures that file holds.

A paragraph, list or table that links to a file in ``results/`` quotes it. Where it ends with a colon, what follows
quotes the same file, up to the next heading or the next such link. Every number there is a claim. It holds if a figure
of the file, rounded as it is shown, is that number. What stands in a row of a table, or beside the name of an arm or a
rule, is looked for among the figures of that name alone. Code, links and what ``benchmarks.documents`` writes are no
claims: tests hold those as a whole.
"""

import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.documents.families import families
from benchmarks.standings import points_of
from membench.results.records import ResultFile, read_result

LINK = re.compile(r"\]\((?:\.\./)?results/([^)]+\.json)\)")
_MADE = re.compile(r"<!-- made by benchmarks\.documents: .*?<!-- end of [\w-]+ -->", re.DOTALL)
_NO_CLAIM = [
    re.compile(r"```.*?```", re.DOTALL),
    re.compile(r"^    .*$", re.MULTILINE),
    re.compile(r"\]\([^)]*\)"),
    re.compile(r"<!--.*?-->", re.DOTALL),
    re.compile(r"^\|[ :|-]+\|$", re.MULTILINE),
]
_CODE = re.compile(r"`[^`]*`")
_NUMBER = re.compile(r"(?<![\w.^²/-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:[KMB](?![\w]))?(?![\w.,]*[\w])")
_MEASURED = re.compile(r"\d[\d.]*\s(?:ms|µs|s|minutes|times|[GT]B/s|[GT]FLOP/s)(?![\w²])")
_SUFFIX = {"K": (1e3, 2**10), "M": (1e6, 2**20), "B": (1e9,)}
ROWS = "|"
_LONG = 20  # a list of more numbers is raw data


@dataclass
class Figures:
    """Numbers as a document shows them, by the name of what they are about.

    Under no name stand those of the whole file; under ``ROWS`` those that rows may hold whose label names nothing here.
    """

    of: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def among(self, text: str, *, row: bool) -> list[float]:
        """Those that a text with these names in it may quote."""
        text, values = text.replace("`", ""), []
        for name in sorted(filter(None, self.of), key=len, reverse=True):  # a longer name may hold a shorter one
            text, count = re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", " ", text)
            if count:
                values += self.of[name]
        if row:
            return values or self.of.get(ROWS) or self.of[""]
        return values + self.of[""]


@dataclass(frozen=True)
class Claim:
    """A number in a document. ``about``: its row's label, or its passage; ``at``: where in the document."""

    number: str
    about: str
    row: bool
    file: str
    at: int

    def holds(self, figures: Figures, number: str | None = None) -> bool:
        """Whether a figure, rounded as the number is shown, is this number (or another in its place)."""
        shown = number or self.number
        digits, suffix = shown.rstrip("KMB").replace(",", ""), shown[-1] if shown[-1] in _SUFFIX else ""
        half = 0.5 * 10.0 ** -len(digits.partition(".")[2])
        return any(
            abs(value / scale - float(digits)) <= half * (1 + 1e-9)
            for value in figures.among(self.about, row=self.row)
            for scale in _SUFFIX.get(suffix, (1,))
        )


def claims(document: str, exempt: list[str]) -> Iterator[Claim]:
    """Every number that a document quotes from a result file, but for exempt phrases."""
    for block, start, file in _blocks(document, exempt):
        if file is not None:
            yield from _claims_of(block, file, start)


def unquoted(document: str, exempt: list[str]) -> Iterator[str]:
    """Times and rates where no file is quoted, but for exempt phrases."""
    for block, _, file in _blocks(document, exempt):
        if file is None:
            yield from (found[0] for found in _MEASURED.finditer(_CODE.sub(" ", block)))


def _blocks(document: str, exempt: list[str]) -> Iterator[tuple[str, int, str | None]]:
    """Paragraphs, lists and tables without what makes no claim, where they begin, and the file that they quote."""
    hidden = document
    for pattern in (_MADE, *_NO_CLAIM[:2], *map(_phrase, exempt)):
        hidden = pattern.sub(lambda found: _blank(found[0]), hidden)
    announced = None
    for found in re.finditer(r"(?:^.*\S.*\n?)+", hidden, re.MULTILINE):
        block = found[0]
        linked = next(iter(LINK.findall(block)), None)
        if linked or block.startswith("#"):
            announced = linked if block.rstrip().endswith(":") else None
        file = linked or announced
        for pattern in _NO_CLAIM[2:]:
            block = pattern.sub(lambda found: _blank(found[0]), block)
        yield block, found.start(), file


def _phrase(words: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(map(re.escape, words.split())))


def _claims_of(block: str, file: str, start: int) -> Iterator[Claim]:
    table = block.startswith("|")
    passage = " ".join(block.split())
    offset = start
    for line in block.splitlines(keepends=True):
        plain = _CODE.sub(lambda found: _blank(found[0]), line)
        label = line.split("|")[1] if table and "|" in line else ""  # a row's name makes no claim
        for number in _NUMBER.finditer(plain, len(label) + 1 if label else 0):
            yield Claim(number[0], label or passage, bool(label), file, offset + number.start())
        offset += len(line)


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def figures_of(path: Path) -> Figures:
    """What may be quoted of a file."""
    content = json.loads(path.read_text())
    make = _FORMS.get(content.get("benchmark", "run"))
    found = Figures()
    memory = content.get("environment", {}).get("device", {}).get("memory_bytes")
    found.of[""] += [] if memory is None else [memory / 2**30]
    if make is None:
        found.of[""] += _leaves(content)
    else:
        make(content, found, path)
    return found


def _leaves(content: Any) -> Iterator[float]:
    """Every number of a form that is not known here but raw data, as it is and in percent."""
    if isinstance(content, bool) or content is None:
        return
    if isinstance(content, int | float):
        yield from (content, 100 * content)
    elif isinstance(content, dict):
        for name, value in content.items():
            if name != "environment":
                yield from _leaves(value)
    elif isinstance(content, list) and len(content) <= _LONG:
        for value in content:
            yield from _leaves(value)


def _clock_check(content: dict, found: Figures, path: Path) -> None:
    found.of[""].append(100 * max(abs(case["ratio"] - 1) for case in content["cases"]))


def _gate_quality(content: dict, found: Figures, path: Path) -> None:
    for name in content["series"]:
        series = json.loads((path.parent / name).read_text())
        found.of[""] += [len(series["samples_ns"])]
    for condition, variants in content["conditions"].items():
        for variant in variants.values():
            changes = variant["true_change"].values()
            about = f"whole {condition} recording"
            found.of[about] += [100 * min(changes), 100 * max(changes)]
            found.of[""].append(100 * variant["asked"])
            for rule, shares in variant["rules"].items():
                found.of[""].append(shares["comparisons"])
                found.of[rule] += [100 * shares["slow"], 100 * shares["inconclusive"]]


def _stored_runs(content: dict, found: Figures, path: Path) -> None:
    for variant, shares in content["verdicts"].items():
        asked = 100 * content["slowdowns_asked"][variant]
        found.of[""].append(asked)
        for of in shares.values():
            found.of[""].append(of["comparisons"])
            found.of[_what(asked)].append(100 * of["slow"])
        for when, each in content["slow_by_margin"][variant].items():
            found.of[""] += [100 * float(margin) for margin in each["slow"]]
            found.of[f"{_what(asked)}, {when}"] += [
                each["comparisons"],
                *(100 * slow for slow in each["slow"].values()),
            ]


def _what(asked: float) -> str:
    return f"{asked:g} % more work" if asked else "the same code"


def _decode_peers(content: dict, found: Figures, path: Path) -> None:
    found.of[""] += [content["read_bytes_per_s"] / 1e9]
    found.of[""] += [content[name] for name in ("prompt_tokens", "tokens", "rounds", "threads")]
    for each in content["engines"]:
        times = [each["warm_token_ms"], each["cold_token_ms"]]
        found.of[each["engine"]] += [*times, each["bytes"] / 1e6, 100 * each["cold_of_read_ceiling"]]


def _memory_step(content: dict, found: Figures, path: Path) -> None:
    found.of[""] += [value for value in content["sizes"].values() if isinstance(value, int)]
    found.of[""] += content["sizes"]["key_counts"]
    for answer in content["answers"]:
        found.of[""] += [answer["value"], *answer["milliseconds"].values()]
        found.of[ROWS].append(answer["value"])
    for size in content["facts"].get("growth", {}).values():
        found.of[""] += [*size["stages_ms"].values(), size["unique_rows"] / 1e3]
    if largest := content["facts"].get("largest"):
        spec = content["sizes"]
        found.of[""] += [largest["peak_process_bytes"] / 1e9, 2 * spec["num_keys"] * spec["model_dim"] / 1e9]
        passes = 6
        each = len(largest["losses"]) // passes
        found.of[""] += [largest["losses"][0], statistics.fmean(largest["losses"][-each:])]


def _row_optimizers(content: dict, found: Figures, path: Path) -> None:
    setup = content["setup"]
    found.of[""] += [value for value in setup.values() if isinstance(value, int)] + [len(setup["seeds"])]
    dense = content["rules"]["dense_adam"]["final_loss"]
    for rule, of in content["rules"].items():
        words = {"no table": "no training of the table"}.get(rule, rule.replace("_adam", " Adam", rule[:5] == "dense"))
        name = words.replace(", beta1 0", " without momentum")
        found.of[name] += [of["final_loss"], of["final_loss_deviation"], of["final_loss"] - dense]


def _run(content: dict, found: Figures, path: Path) -> None:
    result = read_result(path)
    run = result.run
    begin, end = (datetime.fromisoformat(time) for time in (run.started, run.finished or run.started))
    whole_s = (end - begin).total_seconds()
    found.of[""] += [whole_s, whole_s / 60, run.rounds, run.ranks, run.link_gb_s or run.ranks]
    found.of[""].append(len(result.cases))
    for record in result.cases:
        sizes = record.case.layer.model_dump().values()
        found.of[""] += [value for value in sizes if isinstance(value, int)] + [record.case.tokens]
        metrics = {name: value for name, value in record.metrics.items() if value is not None}
        found.of[record.case.arm] += [*metrics.values(), *(100 * metrics[n] for n in ("mfu", "mbu") if n in metrics)]
    _public_over_ours(result, found)


def _public_over_ours(result: ResultFile, found: Figures) -> None:
    """The time of the fastest public layer of each family over ours, at each point; by a word of the family's name."""
    words = {"memory": "memory layer", "peer": "PEER", "moe": "MoE"}
    for family, of in families(result).items():
        for point in points_of(of):
            steps = {each.record.case.arm: each.step_ms for each in point.standings}
            others = [step for arm, step in steps.items() if arm != family]
            if family in steps and others:
                found.of[words.get(family, family)].append(min(others) / steps[family])
            if "embedding_bag_sparse" in steps and family in steps:
                found.of["EmbeddingBag"].append(steps["embedding_bag_sparse"] / steps[family])


def _sum_of_blocks(content: dict, found: Figures, path: Path) -> None:
    found.of[""] += [content["runs"], 100 * content["furthest_from_one"]]
    for case, ratio in content["sum_over_whole"].items():
        found.of[case.split()[0]].append(ratio)


def _block_over_parts(content: dict, found: Figures, path: Path) -> None:
    found.of[""] += [size for size in content["sizes"].values() if isinstance(size, int)]
    found.of[""].append(100 * (max(of["block_over_parts"] for of in content["layers"].values()) - 1))
    for kind, of in content["layers"].items():
        found.of[kind] += of.values()


_FORMS = {
    "sum_of_blocks": _sum_of_blocks,
    "block_over_parts": _block_over_parts,
    "run": _run,
    "clock_check": _clock_check,
    "decode_peers": _decode_peers,
    "gate_quality": _gate_quality,
    "memory_step": _memory_step,
    "row_optimizers": _row_optimizers,
    "stored_runs": _stored_runs,
}
