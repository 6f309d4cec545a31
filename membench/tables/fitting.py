"""Which columns of a table fit a width, and how wide each is. Widths are cells of a terminal, not characters.

Nothing is lost as long as that can be: first headers and text go over several lines, broken between words;
then the columns that matter least are left out, to be named below; only then are names broken after a ``_`` or
the like, and at last cut in the middle. A number is never broken or cut: rather is a line too long.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from membench.tables.table import Table

ELLIPSIS = "…"
_TEXT_CELLS = 16  # what text gets before a column is left out
_CUT_CELLS = 8  # what a word is cut to at the least
_BESIDE = 3  # cells between two columns: a blank on each side, and the line between them
_EDGES = 1
# A number and its unit are one word, and so is a name with the number that it is given.
_UNIT = r"(?:%|ms|s|[KMGT]?i?B(?:/s)?|[kMGT]?FLOP/s|J|bytes|x)"
_GLUED = (rf"\S*\d\S* {_UNIT}(?![\w/])\S*", r"\S+ [=<>] \S+", r"\w+ [\d.]+[²KMGBTx]?(?:,|$)", r"\S+")
_WORD = re.compile("|".join(_GLUED))
_PIECE = re.compile(r"[^_\-./]+[_\-./]*|[_\-./]+")  # of a name


@dataclass(frozen=True, slots=True)
class Fitted:
    """The columns that are shown, by their place in the table, with the lines of their headers and cells.

    ``width`` is that of the whole; it is above what was asked for only where numbers alone are wider.
    """

    kept: list[int]
    left_out: list[str]
    header: list[list[str]]
    rows: list[list[list[str]]]
    width: int


def fitted(table: Table, width: int | None, shown: Callable[[str], str] = str) -> Fitted:
    """The table in a width; None: as wide as all of its columns need.

    Args:
        width: in cells.
        shown: every text as the output can hold it.
    """
    headers = [shown(header) for header in table.headers()]
    cells = [[shown(cell) for cell in row] for row in table.cells()]
    needs = [_need(table, headers, cells, index) for index in range(len(headers))]
    kept = list(range(len(headers)))
    while width is not None and _total([needs[i].least for i in kept]) > width:
        goes = max(kept, key=lambda i: (table.columns[i].priority, i), default=None)
        if goes is None or table.columns[goes].priority == 1:
            break
        kept.remove(goes)
    least = _total([needs[i].least for i in kept])
    widths = _widths([needs[i] for i in kept], least if width is None else width)
    columns = list(zip(kept, widths, strict=True))
    return Fitted(
        kept,
        [header for i, header in enumerate(headers) if i not in kept],
        [wrapped(headers[i], columns_width) for i, columns_width in columns],
        [[wrapped(row[i], cells_) if needs[i].text else [row[i]] for i, cells_ in columns] for row in cells],
        _total(widths),
    )


@dataclass(frozen=True, slots=True)
class _Need:
    """Cells that a column takes: all on one line, no word broken, no piece of a name cut, and at the least."""

    natural: int
    least: int
    pieces: int
    cut: int
    text: bool


def _need(table: Table, headers: Sequence[str], cells: Sequence[Sequence[str]], index: int) -> _Need:
    text = not table.columns[index].right
    natural = max(cell_len(row[index]) for row in cells) if cells else 0
    header = cell_len(headers[index])
    if not text:
        least = max(natural, _longest(_words(headers[index])))
        return _Need(max(natural, header), least, least, least, text)
    words = [word for cell in (headers[index], *(row[index] for row in cells)) for word in _words(cell)]
    least = max(_longest(words), min(natural, _TEXT_CELLS))
    pieces = _longest([piece for word in words for piece in _PIECE.findall(word)])
    return _Need(max(natural, header), least, min(least, max(pieces, _CUT_CELLS)), min(least, _CUT_CELLS), text)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _longest(texts: Sequence[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _BESIDE * len(widths) + _EDGES


def _widths(needs: Sequence[_Need], width: int) -> list[int]:
    """Each column's cells: what is left over goes to the text that is furthest from one line, then to headers."""
    widths = [need.least for need in needs]
    for floors in ([need.pieces for need in needs], [need.cut for need in needs]):
        while _total(widths) > width and any(map(int.__gt__, widths, floors)):
            widths[max(range(len(needs)), key=lambda i: widths[i] - floors[i])] -= 1
    text = [i for i, need in enumerate(needs) if need.text]
    while _total(widths) < width and any(widths[i] < needs[i].natural for i in text):
        widths[max(text, key=lambda i: needs[i].natural / max(1, widths[i]))] += 1
    for i, need in enumerate(needs):
        if _total(widths) + need.natural - widths[i] <= width:
            widths[i] = max(widths[i], need.natural)
    return widths


def wrapped(text: str, width: int, *, fold: bool = False) -> list[str]:
    """A text as lines of at most so many cells, broken between words; what is longer by itself in pieces of a name.

    A piece that is still too long is cut, or with ``fold`` broken.
    """
    lines: list[str] = []
    for word in _words(text):
        if cell_len(word) <= width:
            _add(lines, word, width, " ")
            continue
        lines.append("")
        for piece in _PIECE.findall(word):
            for part in _folded(piece, width) if fold else [cut(piece, width)]:
                _add(lines, part, width, "")
    return lines or [""]


def _add(lines: list[str], part: str, width: int, between: str) -> None:
    """Puts a part at the end of the last line, or where it does not fit there on a line of its own."""
    if lines and cell_len(lines[-1]) + len(between) + cell_len(part) <= width:
        lines[-1] += between + part if lines[-1] else part
    else:
        lines.append(part)


def cut(text: str, width: int) -> str:
    """A text of at most so many cells, without its middle where it is longer."""
    if cell_len(text) <= width:
        return text
    tail = _first_cells(text[::-1], (width - 1) // 2)[::-1]
    return f"{_first_cells(text, width - 1 - cell_len(tail))}{ELLIPSIS}{tail}"


def _first_cells(text: str, width: int) -> str:
    kept = ""
    for character in text:
        if cell_len(kept + character) > width:
            break
        kept += character
    return kept


def _folded(word: str, width: int) -> list[str]:
    lines = []
    while cell_len(word) > width > 1:
        lines.append(_first_cells(word, width))
        word = word[len(lines[-1]) :]
    return [*lines, word]
