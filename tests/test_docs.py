"""What documents tell a reader to copy."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from repositories import commits, git

from membench.gate.verdicts import Verdict
from membench.layers.spec import KINDS, MODES, ROUTINGS
from membench.scenario.budgets import Budgets

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WORKFLOWS = [
    (path.name, block)
    for path in DOCUMENTS
    for block in re.findall(r"^```ya?ml\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
    if re.search("^jobs:", block, re.MULTILINE)
]


GLOSSARY = (ROOT / "docs/glossary.md").read_text()
TERMS = re.findall("^### (.*)", GLOSSARY, re.MULTILINE)


def anchor(heading):
    """What GitHub makes of a heading: small letters, without punctuation, - for a space."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def steps(workflow):
    found = [step for job in yaml.safe_load(workflow)["jobs"].values() for step in job["steps"]]
    assert all(len({"run", "uses"} & step.keys()) == 1 for step in found)
    return found


def test_there_is_a_workflow():
    assert [name for name, _ in WORKFLOWS].count("ci.md") == 1


@pytest.mark.parametrize("workflow", [block for _, block in WORKFLOWS], ids=[name for name, _ in WORKFLOWS])
def test_a_workflow_puts_no_expression_into_a_shell_line(workflow):
    scripts = [step["run"] for step in steps(workflow) if "run" in step]
    assert scripts
    assert not [script for script in scripts if "${{" in script]


@pytest.mark.parametrize("branch", ["main", '"; touch taken; "', "$(touch taken)", "a b; touch taken"])
def test_a_branch_that_is_named_like_a_command_is_only_a_name(tmp_path, branch):
    commits(tmp_path / "origin", "1", "2")
    git(tmp_path, "clone", str(tmp_path / "origin"), "clone")
    (tmp_path / "membench").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "membench").chmod(0o755)
    step = next(step for _, block in WORKFLOWS for step in steps(block) if "membench ab" in step.get("run", ""))
    assert step["env"] == {"BASE": "${{ github.base_ref }}"}
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        cwd=tmp_path / "clone",
        capture_output=True,
        text=True,
        env={**os.environ, "BASE": branch, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
    )
    assert not (tmp_path / "clone/taken").exists()
    known = git(tmp_path / "origin", "rev-parse", "HEAD") if branch == "main" else ""
    assert done.stdout.splitlines()[:3] == ["ab", known, "HEAD"]


def test_the_glossary_has_the_words_that_documents_use():
    wanted = """arm|budget|companion|rank and p|interval|place|floor|over floor|ceiling|round|sample|routing|case|id
        |level|mode|lookup|row|u and l|u/l|disturbed|utilization (mfu and mbu)
        |bytes_min, bytes_issued, bytes_dram_expected|gate|baseline|verdicts|path"""
    assert {word.strip() for word in wanted.split("|")} <= {term.lower() for term in TERMS}
    assert len({anchor(term) for term in TERMS}) == len(TERMS)


def test_the_glossary_says_what_the_code_has():
    assert re.findall(r"^\| ([A-Z]+) \|", GLOSSARY, re.MULTILINE) == list(Verdict)
    entries = dict(zip(TERMS, re.split("^### .*", GLOSSARY, flags=re.MULTILINE)[1:], strict=True))
    budgets = Budgets.model_fields
    for term, names in {"Budget": budgets, "Mode": MODES, "Routing": ROUTINGS, "Kind": sorted(KINDS)}.items():
        assert all(f"`{name}`" in entries[term] for name in names if name != "external"), term


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_a_link_into_the_glossary_leads_to_a_word(document):
    links = re.findall(r"\]\((?:docs/)?glossary\.md(?:#([^)]*))?\)", document.read_text())
    assert links or document.name == "glossary.md"
    assert {link for link in links if link} <= {anchor(term) for term in TERMS}


def test_a_document_s_links_to_files_lead_somewhere():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / link).exists(), (document.name, link)


def test_what_the_readme_shows_in_python_runs_as_it_is():
    section = re.search(r"^From Python:$(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    shown = textwrap.dedent("".join(re.findall(r"^    .*\n", section[1], re.MULTILINE)))
    assert "optimizer.step()" in shown
    names = {}
    exec(shown.replace('"1M"', '"1K"'), names)  # the same with a table that takes no time
    assert names["layer"].spec.num_keys == 1024
