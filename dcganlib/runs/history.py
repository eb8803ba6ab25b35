"""The tables of a run: CSV files that grow at their end.

``history.csv`` has one row for each step, ``metrics.csv`` one for each measurement while training.

A checkpoint holds neither. Its step says which rows belong to it: rows are on the disk before the checkpoint
that counts them, and rows beyond a checkpoint's step are cut when the run is resumed from it.
So a checkpoint costs the same after a million steps as after a thousand.
"""

from __future__ import annotations

import csv
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from dcganlib.runtime import files

COLUMNS = ("step", "epoch", "d_loss", "g_loss", "d_real", "d_fake")
METRICS = ("step", "frechet_distance", "precision", "recall", "diversity")
POINTS = 2000  # at most twice as many points are kept for drawing the losses

Row = dict[str, float]


class History:
    """A run's rows, written to a file; memory holds means over several steps if the run is long.

    Attributes:
        path: The file.
        stride: Steps in each point of ``points``, a power of 2.
    """

    def __init__(self, path: Path, rows: Iterable[Row] = ()) -> None:
        self.path, self.stride = path, 1
        self._points: list[Row] = []
        self._open: list[Row] = []  # rows of the point that is not full yet
        for row in rows:
            self._add(row)

    @property
    def points(self) -> list[Row]:
        """The rows to draw: means over ``stride`` steps each, the last one over the steps so far."""
        return [*self._points, _mean(self._open)] if self._open else list(self._points)

    def append(self, rows: Sequence[Row]) -> None:
        """Write rows at the end of the file and flush them to the disk.

        Raises:
            OSError: They cannot be written; the file is as long as before.
        """
        if not rows:
            return
        lines = [_line(row.values()) for row in rows]
        if self.path.exists():
            _append(self.path, "".join(lines).encode())
        else:
            files.write_text(self.path, "".join([",".join(rows[0]) + "\n", *lines]))
        for row, line in zip(rows, lines, strict=True):
            # As the file has them, so that a resumed run draws the same picture.
            self._add(dict(zip(row, map(float, line.split(",")), strict=True)))

    def _add(self, row: Row) -> None:
        self._open.append(row)
        if len(self._open) == self.stride:
            self._points.append(_mean(self._open))
            self._open = []
        if len(self._points) == 2 * POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_mean(pair) for pair in pairs]
            self.stride *= 2


def read(path: Path, columns: Sequence[str] = COLUMNS) -> list[Row]:
    """Read a ``history.csv``, or a ``metrics.csv``.

    Args:
        path: The file.
        columns: ``COLUMNS`` or ``METRICS``, which it must have.

    Returns:
        A row for each step, or for each measurement.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} has no {path.name}")
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # as spreadsheets save it
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        lost = [name for name in columns if rows and name not in rows[0]]
        if lost:
            raise ValueError(f"it has no column {lost[0]}")
    except (ValueError, TypeError, csv.Error) as error:  # not a number, a row too short or too long, not text
        raise ValueError(f"{path} is damaged: {error}") from error
    if not rows:
        raise ValueError(f"{path} is damaged: it has no rows")
    return rows


def resume(
    path: Path, step: int, kept: Sequence[Row] = (), columns: Sequence[str] = COLUMNS, every: int = 1
) -> History:
    """Bring a ``history.csv`` or ``metrics.csv`` to the step of a checkpoint: cut the rows beyond it.

    If rows are missing or damaged, those that can be read are kept, with a warning, and the file is set
    aside as ``history-damaged.csv`` or ``metrics-damaged.csv``.

    Args:
        path: The file.
        step: Step of the checkpoint.
        kept: The rows of a checkpoint that holds its history, as those of earlier versions do.
        columns: ``COLUMNS`` or ``METRICS``.
        every: Steps between two rows.

    Returns:
        The history, ready for the next row.
    """
    if len(kept) == step:  # also at step 0, with no row at all
        lines, damaged = [_line(row.values()) for row in kept], False
    else:
        lines, damaged = _sound_lines(path, step, columns, every)
    if len(lines) < step // every:
        warnings.warn(
            f"{path} has {len(lines)} rows for the {step} steps so far; the others are lost. Going on",
            stacklevel=2,
        )
    if damaged:
        os.replace(path, path.with_name(f"{path.stem}-damaged.csv"))
    text = "".join([",".join(columns) + "\n", *lines]) if lines else ""
    before = path.read_bytes() if path.is_file() else b""
    if text and text.encode() != before:
        files.write_text(path, text)
    elif not text:
        path.unlink(missing_ok=True)
    rows = (dict(zip(columns, map(float, line.split(",")), strict=True)) for line in lines)
    return History(path, rows)


def _sound_lines(path: Path, step: int, columns: Sequence[str], every: int) -> tuple[list[str], bool]:
    """The lines of a file up to a step, in order, and whether anything other than later rows was left out."""
    if not path.is_file():
        return [], False
    content = path.read_bytes().decode("utf-8-sig", errors="replace").splitlines()
    damaged = not content or content[0] != ",".join(columns)
    lines: list[str] = []
    last = 0.0
    for line in [] if damaged else content[1:]:
        try:
            number = dict(zip(columns, map(float, line.split(",")), strict=True))["step"]
        except ValueError:
            number = math.nan
        if number.is_integer() and last < number <= step:
            last = number
            lines.append(line + "\n")
        elif not (number.is_integer() and number > step):
            damaged |= last <= step - every or number <= step  # else a crash left it at the end
    return lines, damaged


def _append(path: Path, content: bytes) -> None:
    """Write at the end of an existing file, all or nothing."""
    # Not "ab", which would make a file that is gone; unbuffered, so that nothing is left to write on closing.
    with open(path, "rb+", buffering=0) as file:
        end, left = file.seek(0, os.SEEK_END), memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError as error:
            os.truncate(path, end)
            if error.errno in files.FULL:
                raise files.no_room(path, f"{len(content):,}", error.errno) from error
            raise


def _line(values: Iterable[float]) -> str:
    """A row of the file: integers in full, other numbers with six digits."""
    return ",".join(str(value) if isinstance(value, int) else f"{value:.6g}" for value in values) + "\n"


def _mean(rows: Sequence[Row]) -> Row:
    return rows[0] if len(rows) == 1 else {name: sum(r[name] for r in rows) / len(rows) for name in rows[0]}
