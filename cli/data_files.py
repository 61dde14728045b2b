"""Rows of CSV and Parquet files, with their line numbers: what a file holds, checked cell by cell."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.errors import Misuse, Problem

_MOST_NAMED = 20
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}

Cell = str | float | int | bool | None
"""What stands in one place of a file: the text of a CSV file, the value of a Parquet file; None or "" if nothing."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file with named columns. `rows` reads it anew each time: pairs of a line's number and its cells.

    `line` is what a row is called in messages: the `line` of a CSV file, counted from 1 with the header, or the `row`
    of a Parquet file, counted from 1 without one.
    """

    path: Path
    columns: tuple[str, ...]
    line: str
    rows: Callable[[], Iterator[tuple[int, Sequence[Cell]]]]

    def position(self, column: str) -> int:
        """Where a column stands. Raises `Problem` if the file lacks it."""
        if column not in self.columns:
            alike = next((name for name in self.columns if name.strip().lower() == column.lower()), None)
            hint = (
                f"{alike} is written otherwise, make it the same" if alike else f"the columns are {named(self.columns)}"
            )
            raise Problem(f"{self.path}: there is no column {column}; {hint}")
        return self.columns.index(column)

    def where(self, number: int) -> str:
        """A row in messages."""
        return f"{self.path}, {self.line} {number}"


def open_data(path: Path) -> DataFile:
    """The file, its header read. Raises `Misuse` for what is no CSV or Parquet file, `Problem` for a bad one."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise Misuse(f"{path} is neither a .csv nor a .parquet file; give one of these")
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise Misuse(f"{path} {what}; give a .csv or .parquet file")
    return _csv(path) if suffix == ".csv" else _parquet(path)


def named(columns: Sequence[str]) -> str:
    """The columns in messages; of many the first."""
    more = f" and {len(columns) - _MOST_NAMED} more" if len(columns) > _MOST_NAMED else ""
    return ", ".join(columns[:_MOST_NAMED]) + more


def is_number(cell: Cell) -> bool:
    """Whether a cell holds a number, infinite ones included."""
    return _parsed(cell) is not None


def number(cell: Cell, where: str, column: str) -> float:
    """The finite number in a cell. Raises `Problem` for anything else."""
    value = _parsed(cell)
    if value is None or not math.isfinite(value):
        decimal = isinstance(cell, str) and _parsed(cell.replace(",", ".", 1)) is not None and "," in cell
        hint = "; write decimals with a point" if decimal else ""
        raise Problem(f"{where}: {column} is {shown(cell)}, which is no finite number{hint}")
    return value


def is_empty(cell: Cell) -> bool:
    """Whether nothing stands there."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def shown(cell: Cell) -> str:
    """A cell in messages."""
    if is_empty(cell):
        return "empty"
    text = str(cell).strip()
    return repr(text if len(text) <= 40 else f"{text[:40]}…")


def _parsed(cell: Cell) -> float | None:
    if cell is None:
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    # Python reads 1_000, no other program does: a typing error more likely than a number.
    if math.isnan(value) or (isinstance(cell, str) and "_" in cell):
        return None
    return value


def _checked_header(path: Path, columns: Sequence[str]) -> tuple[str, ...]:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise Problem(f"{path}: the column {twice[0]!r} stands there twice; rename or remove one")
    if "" in columns:
        raise Problem(f"{path}: column {columns.index('') + 1} has no name; name every column in the first line")
    return tuple(columns)


def _csv(path: Path) -> DataFile:
    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file, strict=True)
                for cells in reader:
                    if cells:
                        yield reader.line_num, cells
        except UnicodeDecodeError as error:
            raise Problem(f"{path} is not text in UTF-8; save it as CSV in UTF-8") from error
        except csv.Error as error:
            raise Problem(f"{path}, line {reader.line_num}: this is no CSV ({error}); repair the line") from error
        except OSError as error:
            raise Problem(f"{path} cannot be read ({error.strerror or error}); give another file") from error

    header = next(lines(), None)
    if header is None:
        raise Problem(f"{path} is empty; its first line must name the columns")
    columns = _checked_header(path, [name.strip() for name in header[1]])
    if len(columns) == 1:
        for separator, words in _SEPARATORS.items():
            if separator in columns[0]:
                raise Problem(f"{path}: {words} part its columns; save it with commas, and decimals with points")

    def rows() -> Iterator[tuple[int, list[str]]]:
        every = lines()
        next(every, None)
        for line, cells in every:
            if len(cells) != len(columns):
                cell_word = "cell" if len(cells) == 1 else "cells"
                hint = "a cell with a comma in it needs quotes" if len(cells) > len(columns) else "repair the line"
                raise Problem(f"{path}, line {line}: {len(cells)} {cell_word} under {len(columns)} columns; {hint}")
            yield line, cells

    return DataFile(path, columns, "line", rows)


def _parquet(path: Path) -> DataFile:
    try:
        # Nothing else of afrctl needs it, and it is large.
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Problem(
            f"reading {path} needs pyarrow: install it with `pip install 'afr-robustness[parquet]'`, or give a CSV file"
        ) from None
    try:
        columns = _checked_header(path, list(pyarrow.parquet.read_schema(path).names))
    except (pyarrow.ArrowException, OSError) as error:
        raise Problem(f"{path} is no Parquet file that can be read ({str(error).splitlines()[0]})") from error

    def rows() -> Iterator[tuple[int, Sequence[Cell]]]:
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                row = 0
                for batch in file.iter_batches():
                    for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                        row += 1
                        yield row, tuple(_plain(cell) for cell in cells)
        except (pyarrow.ArrowException, OSError) as error:
            raise Problem(f"{path} cannot be read to its end ({str(error).splitlines()[0]})") from error

    return DataFile(path, columns, "row", rows)


def _plain(cell: object) -> Cell:
    return cell if cell is None or isinstance(cell, str | float | int) else str(cell)
