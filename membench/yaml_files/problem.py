"""Why a text is no YAML, in words that say what to change; the parser's own name its tokens and change with it."""

from typing import Any

import yaml

from membench.errors import shown

# What the parser has in its words, and what that means to whoever wrote the file.
_MEANINGS = {
    "mapping values are not allowed": "a second ': ' in one value, or a key indented below a value; quote the value",
    "',' or": "a bracket that is not closed, or a comma that is missing",
    "flow": "a bracket that is not closed, or a comma that is missing",
    "quoted scalar": "a quote that is not closed",
    "could not find expected ':'": "neither 'key: value' nor '- item'",
    "escape": "an escape that double quotes do not know; use single quotes",
    "alphabetic or numeric": "a '*' or '&' begins a value; put quotes around it",
    "block mapping": "a line that is indented otherwise than those it belongs to",
    "block collection": "a line that is indented otherwise than those it belongs to",
    "block sequence": "a line that is indented otherwise than those it belongs to",
    "document start": "a line that is indented otherwise than those it belongs to",
    "tag": "a '!' begins a value; put quotes around it",
    "directive": "a '%' begins a line; put quotes around what it begins",
}


def yaml_problem(text: str, error: yaml.YAMLError) -> str:
    """What is wrong with a text that the parser refused, with the column where that is known."""
    if (found := getattr(error, "character", None)) is not None:
        return f"it holds the character {shown(found if isinstance(found, str) else chr(found))}"
    mark: Any = getattr(error, "problem_mark", None)
    if mark is None:
        return "the parser refuses it"
    lines = text.split("\n")
    line = lines[mark.line] if mark.line < len(lines) else ""
    indentation = line[: len(line) - len(line.lstrip())]
    if "\t" in indentation:
        return f"a tab at column {line.index(chr(9)) + 1}; YAML is indented by spaces"
    if line[mark.column : mark.column + 1] == "\t":
        return f"a tab at column {mark.column + 1}; write a space"
    return f"{_meaning(error, line[mark.column : mark.column + 1])} (column {mark.column + 1})"


def _meaning(error: Any, character: str) -> str:
    problem, context = (str(getattr(error, name, None) or "") for name in ("problem", "context"))
    if "cannot start" in problem and character:
        return f"{character!r} begins a value; put quotes around it"
    for words in (problem, context):
        for part, meaning in _MEANINGS.items():
            if part in words:
                return meaning
    return f"{shown(character)} is not understood" if character.strip() else "it ends in the middle of a value"
