"""Tables of JATS as rows of cells: a cell that spans rows or columns stands in each of them, so that columns hold.

Spans are read as browsers read them: of rows to the end of the group (`thead`, `tbody`) at most, where 0 means to its
end; nonsense is one. HTML's tables have `colspan` and `rowspan`, those of OASIS `namest`, `nameend` and `morerows`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from pipelines.stages.corpus.readers.jats.meta import local

MAX_COLUMNS = 1000  # that one cell spans, as in browsers
FILLED_CHARACTERS = 1 << 22  # of copies in an article: beyond, a cell is written once, so that no span fills the memory
_GROUPS = frozenset(("thead", "tbody", "tfoot", "tgroup"))
_CELLS = frozenset(("td", "th", "entry"))
_NUMBER = re.compile(r"\s*\+?(\d{1,9})")
_Spans = dict[int, tuple[int, str]]  # by column: the rows that a cell from above spans still, and its text


class TableRows:
    """Reads the tables of one article."""

    def __init__(self) -> None:
        self.budget = FILLED_CHARACTERS

    def rows(self, table: Any, text_of: Callable[[Any], str]) -> Iterator[list[str]]:
        """The cells of the rows of which a cell of their own says something. `text_of` gives a cell's text."""
        for group in _row_groups(table):
            above: _Spans = {}
            columns = _column_numbers(group[0])
            for i, row in enumerate(group):
                own = [(cell, text_of(cell)) for cell in row if local(cell) in _CELLS]
                cells, above = self._filled(own, above, columns, len(group) - i)
                if any(text for _, text in own):
                    yield cells

    def _filled(
        self, own: list[tuple[Any, str]], above: _Spans, columns: dict[str, int], rows_left: int
    ) -> tuple[list[str], _Spans]:
        """A row's cells among those that reach into it from above, and what reaches into the next."""
        cells: list[str] = []
        below: _Spans = {}
        for cell, text in own:
            self._carry(cells, above, below)
            height = min(_height(cell) or rows_left, rows_left)
            for copy in range(_width(cell, columns)):
                if copy and (len(cells) in above or not self._spend(text)):
                    break
                if height > 1:
                    below[len(cells)] = (height - 1, text)
                cells.append(text)
        self._carry(cells, above, below)
        for column in sorted(above):  # beyond columns of which the row has no cell
            if not self._spend(" " * (column - len(cells))):
                break
            cells += [""] * (column - len(cells))
            self._carry(cells, above, below)
        return cells, below

    def _carry(self, cells: list[str], above: _Spans, below: _Spans) -> None:
        while (span := above.pop(len(cells), None)) is not None:
            rows, text = span
            if not self._spend(text):
                above.clear()
                break
            if rows > 1:
                below[len(cells)] = (rows - 1, text)
            cells.append(text)

    def _spend(self, text: str) -> bool:
        self.budget -= len(text) + 3  # and the mark between cells
        return self.budget >= 0


def _row_groups(table: Any) -> Iterator[list[Any]]:
    """The rows of a table, those of a group together; not those of tables within its cells."""
    loose: list[Any] = []
    for child in table:
        if local(child) in ("tr", "row"):
            loose.append(child)
        elif local(child) in _GROUPS:
            if loose:
                yield loose
            loose = []
            yield from _row_groups(child)
    if loose:
        yield loose


def _column_numbers(row: Any) -> dict[str, int]:
    """The numbers of an OASIS table's columns by their names."""
    numbers: dict[str, int] = {}
    for holder in (row.getparent(), row.getparent().getparent()):
        specs = [child for child in ([] if holder is None else holder) if local(child) == "colspec"]
        for i, spec in enumerate(specs, 1):
            numbers.setdefault(spec.get("colname", ""), _number(spec.get("colnum"), i))
    return numbers


def _height(cell: Any) -> int:
    return _number(cell.get("rowspan"), _number(cell.get("morerows"), 0) + 1)


def _width(cell: Any, columns: dict[str, int]) -> int:
    first, last = (columns.get(cell.get(name, ""), 0) for name in ("namest", "nameend"))
    named = last - first + 1 if first and last else 1
    return max(1, min(_number(cell.get("colspan"), named), MAX_COLUMNS))


def _number(value: str | None, default: int) -> int:
    found = _NUMBER.match(value or "")
    return int(found[1]) if found else default
