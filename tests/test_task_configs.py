"""What a task's keys refuse, in a line that says what would be right; and what a plan knows of its data."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter
from test_docs import ROOT

from membench.errors import UsageError, usage_error
from membench.learning.extent import Extent, extent_of
from membench.learning.tasks import (
    TASKS,
    AnyTask,
    Arithmetic,
    Copy,
    Facts,
    InContextRecall,
    LongForm,
    QAFiles,
    Text,
    TwoHop,
)


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("facts", {"value_pool": 300}, "value_pool 300 should be at most value_symbols 256"),
        ("facts", {"facts": 65, "name_symbols": 4}, "facts 65 should be at most 64: as many as names"),
        (
            "facts",
            {"facts": 129, "name_symbols": 4, "attributes": 2, "form": "sentences"},
            "facts 129 should be at most 128: as many as names, and attributes of each",
        ),
        ("facts", {"attributes": 2}, "attributes 2 should be 1 in form bare; form sentences has several"),
        ("facts", {"fact": 3}, "fact: unknown key; did you mean 'facts'?"),
        ("facts", {"form": "words"}, "form: should be 'bare' or 'sentences', not 'words'"),
        ("facts", {"phrasings": 65}, "phrasings: should be less than or equal to 64, not 65"),
        ("two_hop", {"taught_share": 1.0}, "taught_share: should be less than 1, not 1.0"),
        ("arithmetic", {"digits": 10}, "digits: should be less than or equal to 9, not 10"),
        ("in_context_recall", {"pairs": 17}, "length 64 should be at least four times pairs 17"),
        ("in_context_recall", {"symbols": 16, "pairs": 9}, "symbols 16 should be at least twice pairs 9"),
        ("long_form", {"names": 65, "name_symbols": 4}, "names 65 should be at most 64"),
        ("qa_files", {}, "train: is missing"),
        ("qa_files", {"train": ()}, "train: should not be empty"),
    ],
)
def test_a_key_that_makes_no_sense_is_one_line(kind, keys, said):
    with pytest.raises(UsageError) as found:
        try:
            TASKS[kind](**keys)
        except ValueError as error:
            raise usage_error(error, TASKS[kind]) from None
    assert said in str(found.value)


def test_a_task_is_told_by_its_kind():
    assert TypeAdapter(AnyTask).validate_python({"kind": "copy", "length": 3}) == Copy(length=3)
    assert set(TASKS) == {kind.model_fields["kind"].default for kind in TASKS.values()}


@pytest.mark.parametrize(
    ("config", "extent"),
    [
        (Facts(), Extent(3 * 64 + 256, 4)),
        (Facts(name_tokens=1, value_tokens=1, name_symbols=2, facts=2, value_pool=1), Extent(2 + 256, 1)),
        (TwoHop(entities=10, relations=2), Extent(13, 3)),
        (Arithmetic(digits=2), Extent(12, 8)),
        (InContextRecall(symbols=16, length=20, pairs=2), Extent(17, 19)),
        (Copy(symbols=3, length=5), Extent(4, 10)),
        (Text(length=9), Extent(256, 9)),
        (Text(files=("no.bin",), vocab_size=77, length=9), Extent(77, 9)),
        (QAFiles(train=("no.json",), length=9), Extent(258, 8)),
    ],
)
def test_a_plan_knows_the_extent_without_any_data(config, extent):
    assert extent_of(config) == extent


def test_sentences_have_one_vocabulary_whatever_a_task_takes_of_them():
    few = [Facts(form="sentences", phrasings=1), LongForm(phrasings=1, attributes=1)]
    many = [Facts(form="sentences", phrasings=64, attributes=16), LongForm(phrasings=64, attributes=64)]
    for one, all_of_it in zip(few, many, strict=True):
        assert extent_of(one).vocab_size == extent_of(all_of_it).vocab_size
        assert extent_of(one).length < extent_of(all_of_it).length


def test_an_extent_is_known_without_torch_and_numpy():
    code = (
        "import sys\nfrom membench.learning.extent import extent_of\nfrom membench.learning.tasks import LongForm\n"
        "extent_of(LongForm())\nassert not {'torch', 'numpy', 'tokenizers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
