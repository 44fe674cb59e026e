"""What a report is made of: figures with their spread, parts, bars to be met, and the machine's noise."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


def progress(text: str) -> None:
    print(f"  … {text}", file=sys.stderr, flush=True)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round((len(ordered) - 1) * share))]


class Series:
    """The same figure from several rounds."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values.append(value)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """A quarter of the rounds is below it."""
        return percentile(self.values, 0.25)

    @property
    def high(self) -> float:
        """A quarter of the rounds is above it."""
        return percentile(self.values, 0.75)

    def over(self, other: Series) -> Series:
        """This divided by the *other*, round by round: what slowed the machine in one round slowed both."""
        ratios = Series()
        ratios.values = [mine / its for mine, its in zip(self.values, other.values, strict=True)]
        return ratios

    def text(self, digits: int = 1) -> str:
        """Such as "3.9 (3.7-4.4)": the median and the quartiles."""
        if not self.values:
            return "-"
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f}-{self.high:,.{digits}f})"

    def data(self) -> dict[str, Any]:
        return {"median": self.median, "quartiles": [self.low, self.high], "rounds": self.values}


@dataclass(frozen=True)
class Bar:
    """What a figure has to be."""

    what: str
    figure: str
    bar: str
    met: bool

    @classmethod
    def at_least(cls, what: str, figure: float, bar: float, digits: int = 2) -> Bar:
        return cls(what, f"{figure:,.{digits}f}", f">= {bar:g}", figure >= bar)

    @classmethod
    def at_most(cls, what: str, figure: float, bar: float, digits: int = 2) -> Bar:
        return cls(what, f"{figure:,.{digits}f}", f"<= {bar:g}", figure <= bar)


@dataclass
class Part:
    """One question, its answers as a table, and all that was measured."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        return "\n".join([self.title, table(self.header, self.rows), *self.notes])


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """The first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(row: tuple[str, ...]) -> str:
        return "  " + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )

    return "\n".join([line(header), "  " + "  ".join("-" * width for width in widths), *map(line, rows)])


class Noise:
    """How much the machine itself varies: the same loop, timed again and again between the measurements."""

    def __init__(self) -> None:
        self.milliseconds = Series()

    def tick(self) -> None:
        for _ in range(5):
            begun = time.perf_counter()
            sum(range(200_000))
            self.milliseconds.add((time.perf_counter() - begun) * 1e3)

    def text(self) -> str:
        series = self.milliseconds
        low, high = percentile(series.values, 0.05), percentile(series.values, 0.95)
        return (
            f"noise: the same loop took {series.median:.1f} ms in the median, {low:.1f} to {high:.1f} in 90 % of "
            f"{len(series.values)} times, {max(series.values):.1f} at most; {os.cpu_count()} cores, load average "
            f"{os.getloadavg()[0]:.1f}"
        )

    def data(self) -> dict[str, Any]:
        return {"cores": os.cpu_count(), "load average": os.getloadavg()[0], "loop ms": self.milliseconds.data()}
