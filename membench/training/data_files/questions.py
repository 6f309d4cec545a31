"""Questions and their right answers: TriviaQA's JSON, Natural Questions' open form, and plain JSON or JSONL alike."""

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any, NamedTuple

from membench.errors import UsageError, shown
from membench.training.data_files.lines import lines, objects, parsed, text_in

_PLAIN = 'lines or a list of {"question": "…", "answer": "…"}'
_WANTED = f'TriviaQA\'s {{"Data": […]}}, or {_PLAIN}'
_ALIASES = ("Aliases", "NormalizedAliases", "HumanAnswers")


class Question(NamedTuple):
    """A question and all that answers it; the first of ``right`` is the one to train."""

    text: str
    right: tuple[str, ...]


def questions_of(path: str) -> list[Question]:
    """The questions of a file, at least one.

    Raises:
        UsageError: it cannot be read, or holds something else; it names the line or the place in the list.
    """
    read = _of_lines if PurePath(path).suffix == ".jsonl" else _of_json
    found = list(read(path))
    if not found:
        raise UsageError(f"holds no question; wanted are {_WANTED}", source=path)
    return found


def _of_lines(path: str) -> Iterator[Question]:
    return (_plain(each, path, place) for place, each in objects(path))


def _of_json(path: str) -> Iterator[Question]:
    held = parsed("".join(line for _, line in lines(path)), path)
    trivia = isinstance(held, dict) and isinstance(held.get("Data"), list)
    key, each_of = ("Data", held["Data"]) if trivia else ("", held)
    if not isinstance(each_of, list):
        raise UsageError(f"wanted are {_WANTED}, not {shown(held)}", source=path)
    for number, each in enumerate(each_of):
        place = f"{key}[{number}]"
        if not isinstance(each, dict):
            raise UsageError(f"should be an object, not {shown(each)}", key=place, source=path)
        yield _trivia(each, path, place) if trivia else _plain(each, path, place)


def _trivia(found: dict[str, Any], path: str, place: str) -> Question:
    answer = found.get("Answer")
    if not isinstance(answer, dict):
        problem = "there is no Answer, as in the files that TriviaQA is tested with; name those to train or develop on"
        raise UsageError(problem, key=place, source=path)
    right = [text_in(answer, "Value", path, f"{place}.Answer")]
    for column in _ALIASES:
        right += _texts(answer.get(column, []), path, f"{place}.Answer.{column}")
    return _question(text_in(found, "Question", path, place), right, path, place)


def _plain(found: dict[str, Any], path: str, place: str) -> Question:
    column = "answers" if "answers" in found else "answer"
    if isinstance(found.get(column), list):
        right = _texts(found[column], path, f"{place}: {column}")
    else:
        right = [text_in(found, column, path, place)]
    return _question(text_in(found, "question", path, place), right, path, place)


def _texts(found: Any, path: str, place: str) -> list[str]:
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise UsageError(f"should be a list of texts, not {shown(found)}", key=place, source=path)
    return found


def _question(text: str, right: list[str], path: str, place: str) -> Question:
    if not text.strip() or not right or not right[0].strip():
        raise UsageError("has an empty question or no answer", key=place, source=path)
    return Question(text.strip(), tuple(dict.fromkeys(each.strip() for each in right)))
