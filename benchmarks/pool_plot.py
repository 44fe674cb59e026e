"""The figures of a run as one picture, a panel for each part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_OURS = "#1b6ca8"
_THEIRS = "#b0b7bf"


def draw(parts: dict[str, dict[str, Any]], file: Path) -> None:
    """Draw what was measured of *parts* into *file*."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    panels = [(name, _PANELS[name]) for name in _PANELS if name in parts]
    figure, axes = pyplot.subplots(len(panels), 1, figsize=(9, 3.6 * len(panels)), squeeze=False)
    for axis, (name, panel) in zip(axes.flat, panels, strict=True):
        panel(axis, parts[name])
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _bars(axis: Any, series: dict[str, dict[str, Any]]) -> None:
    """A horizontal bar for each pool, with its quartiles over the rounds."""
    names = list(series)[::-1]
    medians = [series[name]["median"] for name in names]
    below = [series[name]["median"] - series[name]["quartiles"][0] for name in names]
    above = [series[name]["quartiles"][1] - series[name]["median"] for name in names]
    colours = [_OURS if name.startswith("peewee-web") else _THEIRS for name in names]
    axis.barh(names, medians, xerr=[below, above], color=colours, ecolor="#555555", capsize=3)
    axis.bar_label(axis.containers[-1], labels=[f" {median:,.1f}" for median in medians], padding=6, fontsize=8)


def _single(axis: Any, data: dict[str, Any]) -> None:
    _bars(axis, data)
    axis.set_xscale("log")
    axis.set_title("One thread on loopback: us for a checkout and its check-in (log)")


def _latency(axis: Any, data: dict[str, Any]) -> None:
    _bars(axis, data["operations a second"])
    axis.axvline(data["limit"], color="#c0392b", linestyle="--", linewidth=1)
    axis.set_title("16 threads on 8 connections, 5 ms round trip: operations a second (dashed: the limit)")


def _faults(axis: Any, data: dict[str, Any]) -> None:
    rows = [(f"{fault}: {name}", each) for fault, pools in data.items() for name, each in pools.items()][::-1]
    places = range(len(rows))
    for shift, which, colour in ((0.2, "without", _THEIRS), (-0.2, "with_fault", "#c0392b")):
        values = [each[which]["median"] for _, each in rows]
        axis.barh([place + shift for place in places], values, height=0.4, color=colour, label=which.replace("_", " "))
    axis.set_yticks(list(places), [name for name, _ in rows])
    axis.set_xscale("log")
    axis.legend()
    axis.set_title("A fault under way: p99 of other threads' give and take, ms (log)")


def _waiting(axis: Any, data: dict[str, Any]) -> None:
    _lines(axis, data)
    axis.set_xlabel("waiting threads")
    axis.set_title("us for a checkout and its check-in, of all threads together")


def _connections(axis: Any, data: dict[str, Any]) -> None:
    _lines(axis, data)
    axis.set_xlabel("idle connections")
    axis.set_title("One thread: us for a checkout and its check-in")


def _lines(axis: Any, data: dict[str, dict[str, Any]]) -> None:
    for name, by_number in data.items():
        ours = name.startswith("peewee-web")
        numbers = [int(number) for number in by_number]
        medians = [each["median"] for each in by_number.values()]
        axis.plot(numbers, medians, marker="o", linewidth=2.5 if ours else 1.2, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


def _greenlets(axis: Any, data: dict[str, Any]) -> None:
    worst = {name: max((each["longest wait ms"] or 0) for each in rounds) for name, rounds in data.items()}
    _bars(axis, {name: {"median": value, "quartiles": [value, value]} for name, value in worst.items()})
    axis.set_title("1,000 greenlets on 8 connections: the longest wait, ms (log)")
    axis.set_xscale("log")


_PANELS = {
    "single": _single,
    "latency": _latency,
    "faults": _faults,
    "waiting": _waiting,
    "connections": _connections,
    "greenlets": _greenlets,
}
