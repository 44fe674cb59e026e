"""The runs as tables of text: a row for each run, and a row for each bar that was missed."""

from __future__ import annotations

from benchmarks.faults_acts import FAULTS
from benchmarks.faults_run import Run
from benchmarks.pool_figures import table

_HEADER = (
    "",
    "requests",
    "reads failed",
    "writes failed",
    "not in flight",
    "longest",
    "recovery",
    "lost",
    "doubled",
    "page p99 calm",
    "fault",
    "bars met",
)


def row(run: Run) -> tuple[str, ...]:
    figures = run.figures
    return (
        f"{run.case.app}, {run.case.database}: {run.case.variant}",
        str(figures.requests),
        _statuses(figures.reads_failed),
        _statuses(figures.writes_failed),
        str(figures.writes_not_in_flight),
        _seconds(figures.longest),
        _seconds(figures.recovery),
        str(figures.lost),
        str(figures.doubled),
        _milliseconds(figures.page_calm_p99),
        _milliseconds(figures.page_fault_p99),
        f"{sum(bar.met for bar in run.bars)} of {len(run.bars)}",
    )


def of_fault(name: str, runs: list[Run]) -> str:
    """The runs of one fault, and then each of its bars: who met it."""
    lines = [FAULTS[name].text, table(_HEADER, [row(run) for run in runs]), ""]
    lines.append(table(("bar", *(_short(run) for run in runs)), _bars(runs)))
    return "\n".join(lines)


def _bars(runs: list[Run]) -> list[tuple[str, ...]]:
    rows = []
    for number, bar in enumerate(runs[0].bars):
        cells = (_cell(run.bars[number].figure, run.bars[number].met) for run in runs)
        # A bar may depend on the run's own calm; then the figures say what was allowed.
        same = {run.bars[number].bar for run in runs} == {bar.bar}
        rows.append((f"{bar.what} ({bar.bar})" if same else bar.what, *cells))
    return rows


def _cell(figure: str, met: bool) -> str:
    return figure if met else f"{figure} !"


def _short(run: Run) -> str:
    return f"{run.case.app[:6]} {run.case.database[:2]} {run.case.variant}"


def _statuses(counts: dict[str, int]) -> str:
    """Such as "12 (500: 9, no answer: 3)"."""
    if not counts:
        return "0"
    return f"{sum(counts.values())} ({', '.join(f'{status}: {count}' for status, count in counts.items())})"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.0f} ms"


def line(run: Run) -> str:
    """One run in one line, for who watches."""
    figures = run.figures
    missed = [bar.what for bar in run.bars if not bar.met]
    failed = f"failed: reads {_statuses(figures.reads_failed)}, writes {_statuses(figures.writes_failed)}"
    return f"{run.case}: {figures.requests} requests, {failed}; missed: {', '.join(missed) or 'nothing'}"
