"""The YAML reader: plain data in, one-line errors out."""

import os
from pathlib import Path

import pytest

from membench.errors import UsageError
from membench.yaml_files.reader import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES, parse_mapping, parse_value, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-12", -12),
        ("16_384", 16384),
        ("1e3", 1000.0),
        ("2.5", 2.5),
        (".5", 0.5),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("yes", "yes"),  # YAML 1.1 would guess True
        ("010", "010"),  # … 8
        ("1:30", "1:30"),  # … 90
        ("2024-01-01", "2024-01-01"),  # … a date
        ("0x10", "0x10"),
        ("16M", "16M"),
        ("4096^2", "4096^2"),
        ('"1"', "1"),
        ("'true'", "true"),
        ("[1, [2, x], {a: 1}]", [1, [2, "x"], {"a": 1}]),
        ("{a: {b: []}, c: }", {"a": {"b": []}, "c": None}),
        ("- a\n- b: 1\n  c: 2\n", ["a", {"b": 1, "c": 2}]),
    ],
)
def test_plain_values(text, value):
    result = parse_value(text, "s.yaml")
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "s.yaml:3: duplicate key 'a'"),
        ("a: {b: 1, b: 2}\n", "duplicate key 'b'"),
        ("a: &x [1]\nb: *x\n", "s.yaml:1: anchors and aliases (&x)"),
        ("a: *x\n", "anchors and aliases (&x)"),
        ("a: !!python/object/apply:os.system [ls]\n", "tags (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("a: !!str 1\n", "tags"),
        ("a: !mine {b: 1}\n", "tags (!mine)"),
        ("1: 2\n", "key 1 is no text"),
        ("null: 2\n", "key None is no text"),
        ("? [a, b]\n: 2\n", "is no text"),
        ("a: .nan\n", ".nan is no usable number"),
        ("a: -.INF\n", "-.INF is no usable number"),
        ("a: 1e999\n", "too large a number"),
        ("a: " + "9" * 5000, "too large a number"),
        ("a: 9223372036854775808", "too large a number"),
        ("a: 1\n---\nb: 2\n", "several documents"),
        ("a: b: c", "is no YAML"),
        ("a: [1, 2", "is no YAML"),
        ("\t- x", "is no YAML"),
        ("[" * 100_000, "nested more than"),
        ("- " * 50_000, "nested more than"),
        ("{a: " * 50_000, "nested more than"),
        ("[\n" * 50_000, "s.yaml:21: is nested more than"),
        ("a: [" + "1," * (MAX_NODES + 1) + "1]", "holds more than"),
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("- a\n", "should hold keys and values"),
        ("text", "should hold keys and values"),
    ],
)
def test_refused(text, said):
    with pytest.raises(UsageError) as caught:
        parse_mapping(text, "s.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("s.yaml")
    assert "\n" not in str(caught.value)


def test_an_alias_bomb_is_refused_before_it_grows():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    with pytest.raises(UsageError, match="anchors and aliases"):
        parse_mapping("\n".join(lines), "bomb.yaml")


def test_the_deepest_allowed_is_read():
    parse_value("[" * MAX_DEPTH + "]" * MAX_DEPTH, "s.yaml")
    with pytest.raises(UsageError):
        parse_value("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "s.yaml")


def test_files(tmp_path):
    good = tmp_path / "good.yaml"
    good.write_bytes("\ufeffa: é\n".encode())
    assert parse_mapping(read_text(good), "good.yaml") == {"a": "é"}

    for name, content, said in [
        ("empty.yaml", b"", "is empty"),
        ("blank.yaml", b" \n\n", "is empty"),
        ("binary.yaml", bytes(range(256)), "is no text file"),
        ("latin.yaml", "name: é".encode("latin-1"), "is no text file"),
        ("zeros.yaml", b"a: \0\0", "is no text file"),
        ("big.yaml", b"#" * (MAX_FILE_BYTES + 1), "is over 256 KiB"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            read_text(path)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)

    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="is empty"):
        read_text(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="is over 256 KiB"):
        read_text(Path("/dev/zero"))
    with pytest.raises(UsageError, match="no such file"):
        read_text(tmp_path / "missing.yaml")
    with pytest.raises(UsageError, match="is a directory"):
        read_text(tmp_path)
