"""The page: what each run says, in the order in which a reader asks, and everything it needs inside it."""

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from membench import __version__
from membench.report.evidence import Evidence
from membench.report.palette import Style, arm_styles, dark_colours
from membench.report.slots import Slot, learnt_slots, slots
from membench.report.tables import decision_table, environment_table, traffic_table
from membench.results.answers import answers_of
from membench.results.derived import with_derived
from membench.results.frame import results_frame
from membench.results.ranking import comparable_groups, is_trained, trained_groups
from membench.results.records import Answer, ResultFile
from membench.tables.cases import raw_table
from membench.tables.learnt import answer_tables, differences_tables, learnt_tables
from membench.tables.numbers import interval, places, ratio, three
from membench.tables.results import arms_table, device_name, equal_latency_tables, how_measured, notes_table
from membench.tables.table import Table
from membench.words import how_many

_DIGITS = 6  # of a number in a plot; a pixel is worth three


@dataclass(frozen=True, slots=True)
class RunView:
    """One result file as the template shows it."""

    file: str
    result: ResultFile
    device: str
    how: str
    statuses: str
    points: list[str]
    answers: list[Answer]
    learnt: list[Table]
    differences: list[Table]
    decisions: list[Table]
    equal_latency: list[Table]
    traffic: list[Table]
    slots: list[Slot]
    arms: Table
    notes: list[Table]
    environment: Table


def run_view(file: str, result: ResultFile, styles: dict[str, Style]) -> RunView:
    """Everything the page says of one result file."""
    result = with_derived(result)
    if any(map(is_trained, result.cases)):
        return _learnt_view(file, result, styles)
    comparable = comparable_groups(result.cases)
    groups = {title: [Evidence.of(record, styles) for record in records] for title, records in comparable.items()}
    cases = [Evidence.of(record, styles) for record in result.cases]
    answers = answers_of(result)
    return RunView(
        file=file,
        result=result,
        device=device_name(result),
        how=how_measured(result),
        statuses=_statuses(result),
        points=[*groups],
        answers=list(answers.values()),
        learnt=[],
        differences=[],
        decisions=[decision_table(members, answers[title]) for title, members in groups.items()],
        equal_latency=equal_latency_tables(comparable),
        traffic=[traffic_table(members) for members in groups.values()],
        slots=slots(cases, groups),
        arms=arms_table(result),
        notes=notes_table(result),
        environment=environment_table(result, cases),
    )


def _learnt_view(file: str, result: ResultFile, styles: dict[str, Style]) -> RunView:
    """The same of level training: what was learnt, in the place of times."""
    groups = {
        title: [Evidence.of(record, styles) for record in records]
        for title, records in trained_groups(result.cases).items()
    }
    return RunView(
        file=file,
        result=result,
        device=device_name(result),
        how=how_measured(result),
        statuses=_statuses(result),
        points=[*groups],
        answers=[],
        learnt=answer_tables(result),
        differences=differences_tables(result),
        decisions=learnt_tables(result),
        equal_latency=[],
        traffic=[],
        slots=learnt_slots(groups),
        arms=arms_table(result),
        notes=notes_table(result),
        environment=environment_table(result, [Evidence.of(record, styles) for record in result.cases]),
    )


def newest_first(results: Sequence[tuple[str, ResultFile]]) -> list[tuple[str, ResultFile]]:
    """Result files with their names, the latest run first."""
    return sorted(results, key=lambda pair: pair[1].run.started, reverse=True)


def run_views(results: Sequence[tuple[str, ResultFile]]) -> list[RunView]:
    """Each result file's view, the newest first; an arm looks the same in all of them."""
    styles = arm_styles(record for _, result in results for record in result.cases)
    return [run_view(file, result, styles) for file, result in newest_first(results)]


def page(views: Sequence[RunView]) -> str:
    """The HTML of one or more runs. It loads nothing: scripts run by their hashes, connections are forbidden."""
    from plotly.offline import get_plotlyjs

    assets = files("membench.report") / "assets"
    scripts = [get_plotlyjs(), (assets / "page.js").read_text("utf-8")]
    styles = arm_styles(record for view in views for record in view.result.cases)
    environment = Environment(
        loader=PackageLoader("membench.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    dark = dark_colours()
    return environment.get_template("page.html.j2").render(
        views=views,
        title=", ".join(dict.fromkeys(view.result.run.scenario for view in views)),
        version=__version__,
        raw=raw_table(results_frame((view.file, view.result) for view in views)),
        css=Markup((assets / "page.css").read_text("utf-8")),
        scripts=[Markup(script) for script in scripts],
        policy=_policy(scripts),
        figures=[embedded({slot.name: _choices(slot) for slot in view.slots}) for view in views],
        dark=embedded(dark),
        colours={arm: (style.colour, dark[style.colour]) for arm, style in styles.items()},
        three=three,
        how_many=how_many,
        ratio=ratio,
        interval=interval,
        places=places,
    )


def embedded(value: Any) -> Markup:
    """JSON that stays inside its ``<script>``: no character of it can end or open a tag."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _plain(value: Any) -> Any:
    """The same with short numbers."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def _choices(slot: Slot) -> dict[str, Any]:
    if slot.always is not None:
        return {"always": list(slot.always.items())}
    return {"by_group": [list(choices.items()) for choices in slot.by_group]}


def _policy(scripts: Sequence[str]) -> str:
    """A Content-Security-Policy under which these scripts run and nothing is ever requested."""
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes}",
            "style-src 'unsafe-inline'",  # plotly sets styles
            "img-src data: blob:",  # and draws the picture that its camera button saves
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _statuses(result: ResultFile) -> str:
    """``26 cases`` or ``24 ok, 2 skipped``."""
    found = [record.status for record in result.cases]
    counts = {status: found.count(status) for status in dict.fromkeys(found)}
    if set(counts) <= {"ok"}:
        return f"{how_many(len(found), 'case')}, all ok"
    return f"{how_many(len(found), 'case')}: " + ", ".join(f"{count} {status}" for status, count in counts.items())
