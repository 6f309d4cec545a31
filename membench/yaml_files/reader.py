"""YAML read as plain data, strictly: the subset that a scenario needs, and nothing that surprises.

Built on the parser's events, so that size and depth are limited before anything is
expanded; and on the parser written in Python: libyaml's limits and words differ by version,
and a page takes 10 ms. Left out on purpose: anchors and aliases, tags, several documents,
duplicate or non-text keys, NaN and infinity, and YAML 1.1's guesses (``yes`` is text,
``010`` is text, ``1:30`` is text, a date is text).
"""

import math
import re
from pathlib import Path
from typing import Any

import yaml

from membench.errors import UsageError, shown
from membench.files import read_file
from membench.yaml_files.problem import yaml_problem

MAX_FILE_BYTES = 256 * 1024
MAX_NODES = 20_000
MAX_DEPTH = 20
MAX_INTEGER = 2**63 - 1

_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|nan)", re.IGNORECASE)
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_MISSING = object()


_SCENARIO_NEEDS = "a scenario needs at least name and arms"


def read_text(path: Path, needs: str = _SCENARIO_NEEDS) -> str:
    """The text of a file; ``needs`` says what should be in an empty one.

    Raises:
        UsageError: it is missing, a directory, unreadable, too big, empty, or no UTF-8 text.
    """
    text = read_file(path, MAX_FILE_BYTES, "a YAML file of a page")
    if not text.strip():
        raise UsageError(f"is empty; {needs}", source=str(path))
    return text


def parse_mapping(text: str, source: str, needs: str = _SCENARIO_NEEDS) -> dict[str, Any]:
    """A YAML document whose top is a mapping, as dicts, lists and plain values.

    Raises:
        UsageError: it is no YAML, uses what is left out, or its top is something else.
    """
    value = parse_value(text, source)
    if value is None:
        raise UsageError(f"is empty; {needs}", source=source)
    if not isinstance(value, dict):
        raise UsageError(f"should hold keys and values (name: …), not {shown(value)}", source=source)
    return value


def parse_value(text: str, source: str) -> Any:
    """Any YAML value, as dicts, lists and plain values; see ``parse_mapping``."""
    builder = _Builder(source, has_lines="\n" in text)
    try:
        text.encode()
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            builder.take(event)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = f"is no YAML: {yaml_problem(text, error)}"
        raise UsageError(problem, source=builder.place(mark)) from None
    except UnicodeEncodeError:  # bytes of the command line that are no UTF-8
        raise UsageError("is no text (UTF-8)", source=source) from None
    return None if builder.result is _MISSING else builder.result


class _Builder:
    """Turns parse events into data, with the open collections on a stack of its own."""

    def __init__(self, source: str, has_lines: bool) -> None:
        self.source, self.has_lines = source, has_lines
        self.result: Any = _MISSING
        self.stack: list[dict[str, Any] | list[Any]] = []
        self.keys: list[Any] = []  # per open collection: the key that waits for its value
        self.nodes = 0

    def place(self, mark: Any) -> str:
        """The source, and the line where there are several."""
        return f"{self.source}:{mark.line + 1}" if mark and self.has_lines else self.source

    def fail(self, event: Any, problem: str) -> UsageError:
        return UsageError(problem, source=self.place(event.start_mark))

    def take(self, event: Any) -> None:
        """Adds what an event opens, holds or closes; raises UsageError for what scenarios may not hold."""
        if isinstance(event, (yaml.AliasEvent, yaml.NodeEvent)) and event.anchor is not None:
            raise self.fail(event, f"anchors and aliases (&{event.anchor}) are not read; write the value out")
        if isinstance(event, yaml.NodeEvent):
            if (tag := getattr(event, "tag", None)) is not None:
                raise self.fail(event, f"tags ({tag}) are not read; write a plain value")
            self.nodes += 1
            if self.nodes > MAX_NODES:
                raise self.fail(event, f"holds more than {MAX_NODES} values; a scenario is a page of text")
        if isinstance(event, yaml.DocumentStartEvent) and self.result is not _MISSING:
            raise self.fail(event, "holds several documents; a scenario is one")
        if isinstance(event, yaml.ScalarEvent):
            self.add(event, self.scalar(event))
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            opened: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self.add(event, opened)
            self.stack.append(opened)
            self.keys.append(_MISSING)
            if len(self.stack) > MAX_DEPTH:
                raise self.fail(event, f"is nested more than {MAX_DEPTH} deep")
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self.stack.pop()
            self.keys.pop()

    def add(self, event: Any, value: Any) -> None:
        """Puts a value where the document says: the top, a list, or a mapping's key or value."""
        if not self.stack:
            self.result = value
            return
        parent = self.stack[-1]
        if isinstance(parent, list):
            parent.append(value)
        elif self.keys[-1] is _MISSING:
            if not isinstance(value, str):
                raise self.fail(event, f"key {shown(value)} is no text; put quotes around it")
            if value in parent:
                raise self.fail(event, f"duplicate key {value!r}; keep one of the two")
            self.keys[-1] = value
        else:
            parent[self.keys[-1]] = value
            self.keys[-1] = _MISSING

    def scalar(self, event: Any) -> Any:
        """A plain scalar's null, bool, int or float; text otherwise, and always when quoted."""
        text = event.value
        if not event.implicit[0]:
            return text
        if text in ("", "~") or text in (word for key in _WORDS for word in (key, key.title(), key.upper())):
            return _WORDS[text.lower()]
        if _NOT_FINITE.fullmatch(text):
            raise self.fail(event, f"{text} is no usable number; write a finite one")
        if _INTEGER.fullmatch(text):
            digits = text.replace("_", "")
            if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
                raise self.fail(event, f"{shown(text)} is too large a number; at most 2^63 - 1")
            return int(digits)
        if _FLOAT.fullmatch(text):
            number = float(text.replace("_", ""))
            if not math.isfinite(number):
                raise self.fail(event, f"{shown(text)} is too large a number; write a finite one")
            return number
        return text
