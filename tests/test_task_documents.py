"""What ``docs/tasks.md`` shows of the tasks is what they give."""

import re

import pytest
import yaml
from task_oracle import CPU, SMALL, guessing, task_files
from test_docs import ROOT

from membench.learning.tasks import TASKS
from membench.training.tasks import task_data

DOCUMENT = (ROOT / "docs/tasks.md").read_text()
SHOWN = re.findall(r"^    task: (.*)\n    trained: (.*)\n    asked: (.*)\n", DOCUMENT, re.MULTILINE)


def made(shown):
    config = yaml.safe_load(shown)
    config = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
    return task_data(TASKS[config["kind"]](**config), 0)


@pytest.mark.parametrize(("shown", "trained", "asked"), SHOWN, ids=[shown for shown, _, _ in SHOWN])
def test_an_example_is_what_its_task_gives(shown, trained, asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"^`([a-z.]+)`:\n\n((?:    .*\n)+)", DOCUMENT, re.MULTILINE):
        (tmp_path / name).write_text(re.sub("^    ", "", content, flags=re.MULTILINE))
    description = made(shown).description
    assert (description["trained_example"], description["asked_example"]) == (trained, asked)


def test_every_task_has_a_part_with_an_example():
    assert {yaml.safe_load(shown)["kind"] for shown, _, _ in SHOWN} == set(TASKS)
    assert set(TASKS) <= set(re.findall("^## (.*)", DOCUMENT, re.MULTILINE))


@pytest.mark.parametrize("name", SMALL)
def test_every_metric_is_told(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task_files(tmp_path)
    data = task_data(SMALL[name], 0)
    for metric in data.score(guessing(range(2), data.vocab_size), 3, CPU).metrics:
        told = re.sub("_[0-9]+$", "_0", metric)
        assert f"`{told}`" in DOCUMENT, metric
