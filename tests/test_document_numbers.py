"""Each number in README and docs that comes from a measurement is in the result file that it names."""

import re
from functools import cache
from pathlib import Path

import pytest
from document_numbers import Figures, claims, figures_of, unquoted
from test_docs import DOCUMENTS, ROOT

from benchmarks.documents.marked import parts_of
from membench.results.ranking import mode_name, step_ms
from membench.results.records import read_result
from membench.tables.numbers import percent, three

# Written as a whole by benchmarks.documents, and held against it in tests/test_documents.py.
CHECKED = [path for path in DOCUMENTS if path.name != "results.md"]
# Numbers near a quoted file that are definitions, not measurements.
EXEMPT = {
    "method.md": [
        "its factor of 1.1, and also with 1.03",
    ],
}
# Times and rates that are no measurements: limits, definitions, what was asked.
NO_MEASUREMENT = {
    "kernels.md": ["10 s to print its version, 120 s to compile"],
    "method.md": [
        "smaller than the metric's floor (1 µs)",
        "as many as fit into 20 ms where samples are shorter",
        "less 50 µs each time that it got a core",
        "half of `max_seconds`, but at least 1.5 s and at most 10 s, if the scenario does not say",
        "A tick is 10 ms, so a window of 20 ms cannot be judged by ticks",
    ],
}
CAUGHT = 0.9  # of wrong digits; the others happen to be another figure of the file


@cache
def figures(file: str) -> Figures:
    return figures_of(ROOT / "results" / file)


def claims_of(path: Path):
    return list(claims(path.read_text(), EXEMPT.get(path.name, [])))


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_a_number_that_is_quoted_is_in_the_file(path):
    text = path.read_text()
    wrong = [
        f"line {text.count(chr(10), 0, claim.at) + 1}: {claim.number} is no figure of {claim.file}"
        for claim in claims_of(path)
        if not claim.holds(figures(claim.file))
    ]
    assert not wrong, "\n".join(wrong)


def test_documents_quote_numbers():
    counts = {path.name: len(claims_of(path)) for path in CHECKED}
    assert counts["kernels.md"] > 50
    assert counts["method.md"] > 50


@pytest.mark.parametrize("name", ["kernels.md", "method.md"])
def test_a_wrong_digit_is_found(name):
    """Every digit of every claim, exchanged for each of the nine others."""
    planted = missed = 0
    for claim in claims_of(ROOT / "docs" / name):
        for at, digit in enumerate(claim.number):
            for other in "0123456789" if digit.isdigit() else "":
                if other != digit:
                    planted += 1
                    missed += claim.holds(figures(claim.file), claim.number[:at] + other + claim.number[at + 1 :])
    assert missed <= (1 - CAUGHT) * planted, f"{missed} of {planted} wrong digits would pass"


def test_exempt_phrases_are_there():
    for name, phrases in (EXEMPT | NO_MEASUREMENT).items():
        text = next(path for path in DOCUMENTS if path.name == name).read_text()
        assert all(" ".join(phrase.split()) in " ".join(text.split()) for phrase in phrases), name


@pytest.mark.parametrize("path", CHECKED, ids=lambda path: path.name)
def test_a_measured_time_names_its_file(path):
    found = list(unquoted(path.read_text(), NO_MEASUREMENT.get(path.name, [])))
    assert not found, "link to the result file that holds it; if it is a definition, add its phrase to NO_MEASUREMENT"


def test_a_document_that_names_no_file_is_found():
    assert list(unquoted("# A\n\nIt takes 13.3 ms, `not 2 ms`.\n\n    or 3 ms\n", [])) == ["13.3 ms"]
    quoted = "# A\n\nIt takes 13.3 ms ([x](results/x.json)).\n\nAnd 4 GB/s.\n"
    assert list(unquoted(quoted, [])) == ["4 GB/s"]
    assert list(unquoted(quoted, ["And 4 GB/s"])) == []


def test_claims_are_numbers_and_no_names():
    text = "[x](results/x.json): 1M keys of `bf16 7`, p90, 4096², int8; 3.5 % of 1,024:\n\n| a 5 | 6 |\n\n-0.7\n"
    assert [claim.number for claim in claims(text, [])] == ["1M", "3.5", "1,024", "6", "-0.7"]


def test_a_file_is_quoted_beyond_its_paragraph_only_after_a_colon():
    for end, numbers in ((":", ["1", "2"]), (".", ["1"])):
        text = f"[x](results/x.json): 1{end}\n\nAnd 2 rows.\n\n# B\n\nAnd 3 rows.\n"
        assert [claim.number for claim in claims(text, [])] == numbers


def test_the_readme_s_tables_are_the_file_s():
    """Cell by cell, without the code that writes them."""
    part = parts_of((ROOT / "README.md").read_text())["main-comparison"]
    (file,) = re.findall(r"\]\(results/([^)]+)\)", part)
    result = read_result(ROOT / "results" / file)
    seen = 0
    for mode, table in re.findall(r"^\*\*(\w+)\*\*\n\n((?:\|.*\n)+)", part, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        for row in rows:
            cells = dict(zip(head, row, strict=True))
            record = next(r for r in result.cases if (r.case.arm, mode_name(r)) == (cells["arm"], mode))
            assert cells["step ms"] == three(step_ms(record))
            assert cells["MFU"] == percent(record.metrics["mfu"])
            assert cells["MBU"] == percent(record.metrics["mbu"])
            seen += 1
    assert seen == sum(record.status == "ok" for record in result.cases)
