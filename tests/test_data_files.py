"""Files of the user's: what is read of them, and one clear line for each that cannot be."""

import builtins
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_task import settings_of, spec_of
from task_oracle import CPU, guessing, knowing

from membench.errors import UsageError
from membench.learning.extent import extent_of
from membench.learning.tasks import Facts, QAFiles, Text
from membench.training.data_files.check import check_files
from membench.training.data_files.documents import documents_of
from membench.training.data_files.questions import Question, questions_of
from membench.training.task import Batch
from membench.training.tasks import task_data
from membench.training.train import train

pd = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")
LONG = "Some words that go on for a while, line after line.\n" * 40


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    with open(name, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def refused(config):
    with pytest.raises(UsageError) as found:
        task_data(config, 0)
    line = str(found.value)
    assert "\n" not in line
    return line


def a_tokenizer(path="tokenizer.json", words=("some", "words", "line")):
    tokenizers = pytest.importorskip("tokenizers")
    known = {word: token for token, word in enumerate(["[unk]", *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[unk]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(5)
    made.enable_padding(length=7)
    made.save(path)
    return path


BAD_TEXT = [
    ("a.txt", b"", {}, "a.txt: is empty"),
    ("a.txt", b"good\nna\xefve\n", {}, "a.txt: line 2: is no UTF-8 text: byte 0xef at column 3"),
    ("a.txt", b"\xff\xfeh\0", {}, "a.txt: line 1: is no UTF-8 text: byte 0xff at column 1, it is UTF-16"),
    ("a.txt", b"\x1f\x8b\x08", {}, "it is compressed (gzip)"),
    ("a.txt", b"short", {}, "a.txt: is too short with 7 tokens: asked_share 0.1 should leave 129 and more"),
    ("a.jsonl", b"", {}, "a.jsonl: is empty"),
    ("a.jsonl", b"\n \n", {}, "a.jsonl: holds no line but empty ones"),
    ("a.jsonl", b'{"text": "x"}\n{"text": "y"\n', {}, "a.jsonl: line 2: is no JSON: Expecting ',' delimiter at column"),
    ("a.jsonl", b"[" * 200_000, {}, "a.jsonl: line 1: is no JSON that can be read: nested too deeply"),
    ("a.jsonl", b'\n[1]\n', {}, "a.jsonl: line 2: should be an object of columns and values"),
    ("a.jsonl", b'{"body": "x", "id": 1}', {}, "line 1: there is no column 'text'; columns are 'body', 'id'"),
    ("a.jsonl", b'{"text": 5}', {}, "a.jsonl: line 1: text: should be text, not 5"),
    ("a.jsonl", b'{"text": null}', {}, "a.jsonl: line 1: text: should be text, not None"),
    ("a.jsonl", b'{"text": "\xff"}', {}, "a.jsonl: line 1: is no UTF-8 text: byte 0xff at column 11"),
    ("a.parquet", b"", {}, "a.parquet: is empty"),
    ("a.parquet", b"PAR1 and what is no footer", {}, "a.parquet: is no Parquet file that can be read: "),
    ("a.bin", b"", {"vocab_size": 9}, "a.bin: is empty"),
    ("a.bin", b"abc", {"vocab_size": 9}, "a.bin: has 3 bytes, and each token of uint16 2: no whole number"),
    ("a.bin", b"\1\0\1\0\x0a\0\1\0", {"vocab_size": 10}, "token 10 at place 2: is past the vocabulary of 10 tokens"),
    ("a.bin", b"\1\0\0\1\1\0\0\0", {"vocab_size": 9, "bin_dtype": "uint32"}, "token 16777217 at place 0: is past"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "changes", "said"), BAD_TEXT)
def test_a_text_that_cannot_be_read_is_one_line(name, content, changes, said):
    write(name, content)
    assert said in refused(Text(files=(name,), **changes))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".parquet", ".bin"])
def test_a_file_that_is_none_is_said(suffix, folder):
    changes = {"vocab_size": 9} if suffix == ".bin" else {}
    assert refused(Text(files=(f"no{suffix}",), **changes)) == f"no{suffix}: there is no such file"
    (folder / f"f{suffix}").mkdir()
    assert refused(Text(files=(f"f{suffix}",), **changes)) == f"f{suffix}: is a folder; name a file"
    os.mkfifo(f"p{suffix}")
    assert refused(Text(files=(f"p{suffix}",), **changes)) == f"p{suffix}: is a device or pipe; name a file"
    assert "cannot be read" in refused(Text(files=(f"a\0b{suffix}",), **changes))


def test_a_file_that_may_not_be_read_is_said(monkeypatch):
    write("a.txt", LONG)
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr("pathlib.Path.open", Mock(side_effect=denied))  # root may read all
    assert refused(Text(files=("a.txt",))) == "a.txt: cannot be read: Permission denied"


def test_a_parquet_s_columns_and_rows_are_named():
    pd.DataFrame({"body": ["x"], "n": [1]}).to_parquet("a.parquet")
    said = refused(Text(files=("a.parquet",)))
    assert said == "a.parquet: there is no column 'text'; columns are 'body', 'n'"
    assert "row 1: n: should be text, not 1" in refused(Text(files=("a.parquet",), column="n"))
    pd.DataFrame({"text": ["x", None]}).to_parquet("b.parquet")
    assert "row 2: text: should be text, not None" in refused(Text(files=("b.parquet",)))
    pd.DataFrame({"text": []}).to_parquet("c.parquet")
    assert refused(Text(files=("c.parquet",))) == "c.parquet: holds no row"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"files": ("a.csv",)}, "'a.csv' should end in .txt or .jsonl or .parquet or .bin"),
        ({"files": ("a.txt", "b.bin"), "vocab_size": 9}, "files should all be .bin, of tokens, or all be text"),
        ({"files": ("a.bin",)}, "vocab_size is missing: nothing says which tokens files in .bin may have"),
        ({"files": ("a.bin",), "vocab_size": 9, "tokenizer": "t.json"}, "vocab_size is for files in .bin without"),
        ({"files": ("a.txt",), "vocab_size": 9}, "vocab_size is for files in .bin without a tokenizer"),
    ],
)
def test_what_no_text_can_be_is_said_before_a_file_is_looked_at(changes, said):
    with pytest.raises(ValidationError, match=said.replace(".", r"\.")):
        Text(**changes)


def test_a_tokenizer_that_is_none_is_one_line():
    write("a.txt", LONG)
    pytest.importorskip("tokenizers")
    for content, said in [
        ("{}", "t.json: is no tokenizer.json of Hugging Face: "),
        ("no JSON", "t.json: is no tokenizer.json of Hugging Face: "),
        (b"\xff\xff", "t.json: is no text file (UTF-8)"),
    ]:
        write("t.json", content)
        assert said in refused(Text(files=("a.txt",), tokenizer="t.json"))
    assert refused(Text(files=("a.txt",), tokenizer="no.json")) == "no.json: there is no such file"
    a_tokenizer("empty.json", ())
    assert extent_of(Text(tokenizer="empty.json")).vocab_size == 1


def test_a_package_that_is_not_installed_is_said_with_how_to_install_it(monkeypatch):
    write("a.txt", LONG)
    write("a.parquet", b"PAR1")
    importing = builtins.__import__

    def without(name, *others):
        if name.split(".")[0] in ("tokenizers", "pyarrow"):
            raise ImportError(f"No module named {name!r}")
        return importing(name, *others)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install tokenizers" in refused(Text(files=("a.txt",), tokenizer="t.json"))
    assert "pip install 'membench[parquet]'" in refused(Text(files=("a.parquet",)))


def test_all_forms_of_one_text_are_read_alike():
    texts = ["One naïve text,\nof two lines.", "And – another.", ""]
    write("a.jsonl", b"\xef\xbb\xbf" + "\n".join(json.dumps({"text": each, "n": 1}) for each in texts).encode())
    pd.DataFrame({"n": [1, 2, 3], "text": texts}).to_parquet("a.parquet")
    write("a.txt", "\n\n".join(texts))
    read = {"".join(documents_of((name,), "text")) for name in ("a.jsonl", "a.parquet", "a.txt")}
    assert read == {"\n\n".join(texts) + "\n\n"}
    assert "".join(documents_of(("a.txt", "a.jsonl"), "text")) == 2 * read.pop()


def test_long_text_comes_in_parts_that_end_with_a_line():
    write("a.txt", LONG * 20)
    parts = list(documents_of(("a.txt",), "text"))
    assert len(parts) > 3
    assert all(part.endswith("line.\n") for part in parts[:-1])
    assert "".join(parts) == LONG * 20 + "\n\n"


def test_text_as_bytes_is_its_bytes():
    write("a.txt", LONG + "naïve")
    data = task_data(Text(files=("a.txt",), length=16), 0)
    assert data.vocab_size == 256
    raw = (LONG + "naïve\n\n").encode()
    assert bytes(data._tokens) == raw
    assert data.description["bytes"] == data.description["tokens"] == len(raw)
    assert data._tokens.dtype == np.uint8
    again = task_data(Text(files=("a.txt",), length=16), 5).description
    assert again["sha256"] == data.description["sha256"]
    write("a.txt", LONG + "naive")
    assert task_data(Text(files=("a.txt",), length=16), 0).description["sha256"] != data.description["sha256"]


def test_a_tokenizer_reads_the_whole_text_whatever_its_file_says_of_length():
    write("a.txt", "some words and some line\n" * 30)
    data = task_data(Text(files=("a.txt",), length=8, tokenizer=a_tokenizer()), 0)
    assert data.vocab_size == 4
    assert data._tokens.tolist() == [1, 2, 0, 1, 3] * 30
    assert "tokenizer.json, sha256 " in data.description["tokenizer"]


def test_tokens_of_files_are_read_where_they_lie_and_joined():
    np.arange(500, dtype="<u4").tofile("a.bin")
    np.arange(500, 1000, dtype="<u4").tofile("b.bin")
    one = task_data(Text(files=("a.bin",), vocab_size=500, bin_dtype="uint32", length=8), 0)
    assert isinstance(one._tokens, np.memmap)
    both = task_data(Text(files=("a.bin", "b.bin"), vocab_size=1000, bin_dtype="uint32", length=8), 0)
    assert both._tokens.tolist() == list(range(1000))
    write("t.bin", bytes([1, 0]) * 300)
    assert task_data(Text(files=("t.bin",), tokenizer=a_tokenizer(), length=8), 0).vocab_size == 4
    write("t.bin", bytes([4, 0]) * 300)
    said = refused(Text(files=("t.bin",), tokenizer="tokenizer.json"))
    assert "token 4 at place 0: is past the vocabulary of 4 tokens" in said


def test_python_s_own_text_is_read_where_no_file_is_named():
    data = task_data(Text(), 0)
    (name,) = data.description["files"]
    assert name.startswith("pydoc_data.topics of Python 3.")
    assert data.description["bytes"] > 300_000
    assert len(data.description["sha256"]) == 64


TRIVIA = {
    "Data": [
        {
            "Question": "Which city is the capital of France?",
            "QuestionId": "x_1",
            "Answer": {
                "Value": "Paris",
                "Aliases": ["Paris", "City of Light"],
                "NormalizedAliases": ["paris", "city of light"],
                "NormalizedValue": "paris",
                "Type": "WikipediaEntity",
            },
            "EntityPages": [],
        },
        {"Question": "Who painted it? ", "Answer": {"Value": "Monet", "Aliases": [], "HumanAnswers": ["Claude Monet"]}},
    ],
    "Version": 1.0,
}
READ = [
    Question("Which city is the capital of France?", ("Paris", "City of Light", "paris", "city of light")),
    Question("Who painted it?", ("Monet", "Claude Monet")),
]


def test_trivia_qa_is_read_with_all_its_aliases():
    write("a.json", json.dumps(TRIVIA))
    assert questions_of("a.json") == READ


def test_natural_questions_and_plain_ones_are_read():
    write(
        "nq.jsonl",
        '{"question": "who sang it", "answer": ["Ann", "Ann B"]}\n\n{"question": "when", "answer": ["1999"]}\n',
    )
    assert questions_of("nq.jsonl") == [Question("who sang it", ("Ann", "Ann B")), Question("when", ("1999",))]
    write("a.jsonl", '{"question": "q", "answer": "x"}\n{"question": "r", "answers": ["y", "z"], "id": 4}')
    plain = [Question("q", ("x",)), Question("r", ("y", "z"))]
    assert questions_of("a.jsonl") == plain
    write("b.json", '[{"question": "q", "answer": "x"}, {"question": "r", "answers": ["y", "z"]}]')
    assert questions_of("b.json") == plain


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "", "a.json: is empty"),
        ("a.json", "[]", "a.json: holds no question; wanted are TriviaQA's"),
        ("a.json", '{"Data": []}', "a.json: holds no question"),
        ("a.json", "{}", "a.json: wanted are TriviaQA's"),
        (
            "a.json",
            "[\n{,}]",
            "a.json: is no JSON: Expecting property name enclosed in double quotes at line 2, column 2",
        ),
        ("a.json", "[3]", "a.json: [0]: should be an object, not 3"),
        (
            "a.json",
            '{"Data": [{"Question": "x"}]}',
            "a.json: Data[0]: there is no Answer, as in the files that TriviaQA is",
        ),
        (
            "a.json",
            '{"Data": [{"Question": "x", "Answer": {"Value": 3}}]}',
            "Data[0].Answer: Value: should be text, not 3",
        ),
        (
            "a.json",
            '{"Data": [{"Question": "x", "Answer": {"Value": "y", "Aliases": "z"}}]}',
            "Data[0].Answer.Aliases: should be a list of texts, not 'z'",
        ),
        (
            "a.json",
            '{"Data": [{"question": "x", "Answer": {"Value": "y"}}]}',
            "there is no column 'Question'; columns are",
        ),
        (
            "a.jsonl",
            '{"question": "x", "answer": ["y"]}\nno',
            "a.jsonl: line 2: is no JSON: Expecting value at column 1",
        ),
        (
            "a.jsonl",
            '{"question": "x", "reply": "y"}',
            "line 1: there is no column 'answer'; columns are 'question', 'reply'",
        ),
        ("a.jsonl", '{"question": "x", "answer": []}', "line 1: has an empty question or no answer"),
        ("a.jsonl", '{"question": " ", "answer": "y"}', "line 1: has an empty question or no answer"),
        ("a.jsonl", '{"question": "x", "answer": [1]}', "line 1: answer: should be a list of texts, not [1]"),
        ("a.jsonl", '{"question": 1, "answer": "y"}', "line 1: question: should be text, not 1"),
        ("a.jsonl", b'{"question": "\xe9", "answer": "y"}', "line 1: is no UTF-8 text: byte 0xe9 at column 15"),
        ("a.jsonl", '{"question": "x", "answer": "%s"}' % ("y" * 99), "a.jsonl: no answer is short enough; length 128"),
    ],
)
def test_questions_that_cannot_be_read_are_one_line(name, content, said):
    write(name, content)
    assert said in refused(QAFiles(train=(name,)))


def test_a_file_of_questions_of_another_make_is_said_at_once():
    with pytest.raises(ValidationError, match=r"'a\.csv' should end in \.json or \.jsonl"):
        QAFiles(train=("a.csv",))


def test_an_answer_by_any_of_its_names_is_right():
    write("a.json", json.dumps(TRIVIA))
    data = task_data(QAFiles(train=("a.json",), length=64), 0)
    said = {"capital": "The City of light!", "painted": "Monet, Claude"}
    rows = []
    for word, answer in said.items():
        row = next(row for row in data.batch(0, 2).tokens.tolist() if word in data.text(row))
        prompt = row[: row.index(256) + 1]
        rows.append(prompt + list(answer.encode()) + [257])
    width = max(map(len, rows))
    tokens = torch.tensor([row + [257] * (width - len(row)) for row in rows])
    seen = Batch(tokens, torch.ones(len(rows), width - 1, dtype=torch.bool))
    metrics = data.score(knowing([seen], data.vocab_size), 2, CPU).metrics
    # what is longer than the longest trained answer is cut: "The C" and "Monet"
    assert metrics["em"] == 0.5
    assert metrics["f1"] == pytest.approx((0.0 + 1.0) / 2)


def test_long_answers_are_left_out_and_long_questions_lose_their_beginning():
    rows = [("x" * 50 + " where?", "here"), ("who?", "y" * 40), ("when?", "now")]
    write("a.jsonl", "\n".join(json.dumps({"question": q, "answer": a}) for q, a in rows))
    data = task_data(QAFiles(train=("a.jsonl",), length=32), 0)
    counts = data.description["trained"]
    assert (counts["questions"], counts["answers_too_long"], counts["questions_cut"]) == (3, 1, 1)
    texts = sorted(data.text(row[: row.index(257)]) for row in data.batch(0, 2).tokens.tolist())
    assert texts == ["when? <answer> now", "x" * 19 + " where? <answer> here"]
    assert data.question_count == 2


def test_asked_are_the_files_that_say_so_and_what_both_have_is_counted():
    write("a.jsonl", '{"question": "q", "answer": "x"}\n{"question": "r", "answer": "y"}')
    write("b.jsonl", '{"question": "r", "answer": "y"}\n{"question": "s", "answer": "z"}')
    data = task_data(QAFiles(train=("a.jsonl",), asked=("b.jsonl",), length=16), 0)
    assert data.description["asked_that_are_trained"] == 1
    (batch,) = data.questions(9)
    assert [data.text(row[:3]) for row in batch.tokens.tolist()] == ["r <answer> y", "s <answer> z"]
    assert {data.text(row[:3]) for row in data.batch(0, 8).tokens.tolist()} == {"q <answer> x", "r <answer> y"}
    metrics = data.score(guessing(range(256), 258), 9, CPU).metrics
    assert metrics["em"] == 0.0
    assert data.description["asked"]["sha256"] == hashlib.sha256(Path("b.jsonl").read_bytes()).hexdigest()


def test_a_run_goes_on_only_with_the_text_that_it_began_with():
    spec = spec_of("dense", vocab_size=256)
    config, settings = Text(files=("a.txt",), length=8), settings_of(2)
    write("a.txt", LONG)
    train(spec, config, settings, 0, device="cpu", folder=Path("run"), report=lambda *_: None)
    write("a.txt", LONG.upper())
    with pytest.raises(UsageError, match="is of another model, task, training, seed or data"):
        train(spec, config, settings, 0, device="cpu", folder=Path("run"), report=lambda *_: None)


def test_files_are_read_once_before_anything_is_trained():
    write("good.jsonl", '{"question": "q", "answer": "x"}')
    write("bad.jsonl", '{"question": "q"}')
    write("a.txt", LONG)
    check_files([Facts(), Text(files=("a.txt",), length=8), QAFiles(train=("good.jsonl",))])
    for bad, said in (
        (Text(files=("a.txt",), length=4000), "a.txt: is too short"),
        (QAFiles(train=("good.jsonl",), asked=("bad.jsonl",)), "bad.jsonl: line 1: there is no column 'answer'"),
    ):
        with pytest.raises(UsageError, match=said):
            check_files([Facts(), bad])


def test_files_are_read_before_a_run_without_torch():
    """Whoever measures keeps its own process small."""
    write("a.txt", LONG)
    code = (
        "import sys\nfrom membench.learning.tasks import Text\n"
        "from membench.training.data_files.check import check_files\n"
        "check_files([Text(files=('a.txt',), length=8)])\nassert 'torch' not in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
