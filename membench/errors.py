"""Bad input as one line: the file, the key, the value and what would be right."""

import difflib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

_MAX_VALUE_CHARS = 60
_MAX_PLACE_CHARS = 160
_MAX_LINE_CHARS = 600

_PLAIN_PROBLEMS = {
    "missing": "is missing",
    "model_type": "should be a mapping of keys to values, not {value}",
    "model_attributes_type": "should be a mapping of keys to values, not {value}",
    "dict_type": "should be a mapping of keys to values, not {value}",
    "too_short": "should not be empty",
    "string_pattern_mismatch": "should be made of letters, digits, _, . and -, not {value}",
}


class UsageError(ValueError):
    """What the user gave cannot be used. ``str`` is one line; the command line exits with code 2.

    Args:
        problem: what is wrong with the value and what would be right.
        key: the dotted key as the user wrote it (``arms.memory.num_keys``).
        source: the file, or the option, that holds the key.
    """

    def __init__(self, problem: str, *, key: str = "", source: str = "") -> None:
        places = (_cut(source, _MAX_PLACE_CHARS), _cut(key, _MAX_PLACE_CHARS))
        line = one_line(": ".join(part for part in (*places, problem) if part))
        super().__init__(_cut(line, _MAX_LINE_CHARS))
        self.problem, self.key, self.source = problem, key, source


class Unavailable(RuntimeError):
    """This device cannot run a case in the way that it asks for: it is skipped, for the reason given."""


@contextmanager
def blaming(source: str) -> Iterator[None]:
    """Names ``source`` in every UsageError raised inside that does not name one yet."""
    try:
        yield
    except UsageError as error:
        if error.source:
            raise
        raise UsageError(error.problem, key=error.key, source=source) from None


def one_line(text: str) -> str:
    """A text from a file as a line: white space is a space, and control characters, which steer terminals, are gone."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


def reason_of(error: BaseException) -> str:
    """What an error says, in a line: its first, and the next where the first only says who raised it (a compiler)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def shown(value: object) -> str:
    """A value as an error message quotes it: its repr, cut when long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python converts
        text = "a number too long to print"
    return _cut(text, _MAX_VALUE_CHARS)


def shown_path(path: object) -> str:
    """A path as an error message quotes it: cut where it is long at its beginning, for the name is at its end."""
    text = repr(str(path))
    return text if len(text) <= _MAX_PLACE_CHARS else f"{text[0]}…{text[-_MAX_PLACE_CHARS:]}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def suggestion(word: object, known: Iterable[str]) -> str:
    """``did you mean 'tokens'?`` where one of ``known`` is near, else the known words."""
    words = sorted(known)
    near = difflib.get_close_matches(str(word), words, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(words)}" if words else "none is known here"


def usage_error(
    error: ValidationError, model: type[BaseModel], key: str = "", hidden: Collection[str] = ()
) -> UsageError:
    """The most telling problem of a pydantic error as a UsageError; the others are counted.

    Args:
        error: what validating ``model`` raised.
        model: looked up for the known keys where one is unknown.
        key: dotted key of the part that was validated.
        hidden: fields of ``model`` that are no keys of a scenario.
    """
    # An unknown key first: a key that is missing is often the same key misspelt.
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    location, kind, value = first["loc"], first["type"], shown(first["input"])
    if kind == "extra_forbidden":
        known = [name for name in _known_keys(model, location[:-1]) if name not in hidden]
        word = str(location[-1])
        # A space that is none (from a web page) cannot be seen.
        hidden_in_it = f" {word!r}" if not word.isprintable() or not word.isascii() else ""
        problem = f"unknown key{hidden_in_it}; {suggestion(location[-1], known)}"
    elif kind == "value_error":
        problem = first["msg"].removeprefix("Value error, ").replace(repr(first["input"]), value)
    elif kind in _PLAIN_PROBLEMS:
        problem = _PLAIN_PROBLEMS[kind].format(value=value)
    else:
        problem = f"{first['msg'].removeprefix('Input ')}, not {value}"
    if len(problems) > 1:
        problem = f"{problem} (and {len(problems) - 1} more)"
    return UsageError(problem, key=_dotted(key, location))


def _dotted(prefix: str, location: Sequence[int | str]) -> str:
    key = prefix
    for part in location:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys of the model that sits at ``location`` inside ``model``."""
    current, inside = model, False
    for part in location:
        if inside:  # an index or a key of a list or mapping of models
            inside = False
            continue
        if part not in current.model_fields:
            return []
        annotation = current.model_fields[str(part)].annotation
        found = _model_in(annotation)
        if found is None:
            return []
        current, inside = found, get_origin(annotation) in (list, dict)
    return list(current.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model in ``Model``, ``Model | None``, ``list[Model]`` or ``dict[str, Model]``."""
    if isinstance(annotation, type) and get_origin(annotation) is None and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)
