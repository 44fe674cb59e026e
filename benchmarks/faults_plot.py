"""A fault as a picture: requests a second by what became of them, ours above the hooks, the fault shaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.faults_accounts import OUTCOMES

_COLOURS = dict(zip(OUTCOMES, ("#1b6ca8", "#e0a030", "#c0392b", "#4a4a4a"), strict=True))


def draw(title: str, runs: list[dict[str, Any]], file: Path) -> None:
    """Draw *runs* of one fault, as `Run.data` has them: a row for each variant, a column for each app and database."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    variants = sorted({run["variant"] for run in runs}, key=("ours", "hooks").index)
    places = list(dict.fromkeys((run["app"], run["database"]) for run in runs))
    size = (max(7.0, 4.2 * len(places)), 1.0 + 2.6 * len(variants))
    figure, axes = pyplot.subplots(len(variants), len(places), figsize=size, squeeze=False, sharex="col", sharey=True)
    for run in runs:
        axis = axes[variants.index(run["variant"])][places.index((run["app"], run["database"]))]
        _panel(axis, run)
    for row, variant in zip(axes, variants, strict=True):
        row[0].set_ylabel(f"{variant}\nrequests a second")
    for axis, (app, database) in zip(axes[0], places, strict=True):
        axis.set_title(f"{app}, {database}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("seconds")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(OUTCOMES), fontsize=8, frameon=False)
    figure.suptitle(f"{title}: requests by when they ended, and how", fontsize=10)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, run: dict[str, Any]) -> None:
    drawn = run["timeline"]
    since = drawn["since"]
    series = [drawn[outcome] for outcome in OUTCOMES]
    axis.stackplot(since, series, labels=OUTCOMES, colors=[_COLOURS[outcome] for outcome in OUTCOMES], step="post")
    axis.axvspan(run["begin"], run["end"], color="#000000", alpha=0.12, linewidth=0)
    for begin, _ in run["strikes"]:
        axis.axvline(begin, color="#000000", alpha=0.4, linewidth=0.8)
    axis.spines[["top", "right"]].set_visible(False)
