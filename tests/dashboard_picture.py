"""Draws the dashboard's panels from what a running Prometheus answers, without Grafana: to see that each has something to show.

python tests/dashboard_picture.py http://127.0.0.1:9090 docs/dashboard.png 300

The last number is how many seconds back it looks. Ends with 1 if a panel is empty, but for alerts.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import httpx
import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter
from test_deploy import Manifest, dashboard

STEP_SECONDS: Final = 5
CELL: Final = 0.62  # inches of a cell of the grid


def asked(query: str, seconds: float) -> str:
    values = {"$__rate_interval": "20s", "$__range": f"{seconds:.0f}s", "$instance": ".*", "$model": ".*"}
    for name, value in values.items():
        query = query.replace(name, value)
    return query


def answers(client: httpx.Client, query: str, seconds: float) -> list[Any]:
    now = time.time()
    span: dict[str, str | float] = {"start": now - seconds, "end": now, "step": STEP_SECONDS}
    answer = client.get("/api/v1/query_range", params={"query": asked(query, seconds), **span})
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"]["result"])


def legend(text: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def draw(axes: Any, panel: Manifest, found: list[tuple[str, list[Any]]]) -> bool:
    """One panel: lines over time, or of a table the labels. Says whether there was something."""
    axes.set_title(panel["title"], fontsize=9, loc="left")
    some = False
    lines = []
    for form, series in found:
        for one in series:
            points = [(float(at), float(value)) for at, value in one["values"] if value != "NaN"]
            some = some or bool(points)
            if panel["type"] == "table":
                lines.append(
                    "  ".join(value for name, value in one["metric"].items() if name not in ("__name__", "job"))
                )
            elif panel["type"] == "timeseries":
                axes.plot(
                    *zip(*points, strict=True), linewidth=1, label=legend(form, one["metric"])
                ) if points else None
            elif points:
                lines.append(f"{legend(form, one['metric'])}   {points[-1][1]:g}")
    if panel["type"] == "timeseries":
        axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 1e-9))  # room for the legend
        axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        axes.tick_params(labelsize=7, labelbottom=False)
        axes.legend(fontsize=5, ncols=2, loc="upper left")
    else:
        axes.axis("off")
        axes.text(0, 0.95, "\n".join(lines), fontsize=6, va="top", transform=axes.transAxes)
    return some


def main(address: str, file: str, seconds: str = "300") -> None:
    panels = dashboard()["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(24 * CELL, rows * CELL / 2), layout="constrained")
    grid = figure.add_gridspec(rows, 24)
    empty = []
    with httpx.Client(base_url=address, trust_env=False, timeout=30) as client:
        for panel in panels:
            place = panel["gridPos"]
            axes = figure.add_subplot(grid[place["y"] : place["y"] + place["h"], place["x"] : place["x"] + place["w"]])
            found = [
                (target["legendFormat"], answers(client, target["expr"], float(seconds))) for target in panel["targets"]
            ]
            if not draw(axes, panel, found) and panel["title"] != "Alerts":
                empty.append(panel["title"])
    figure.savefig(file, dpi=110)
    if empty:
        sys.exit(f"Nothing to show: {', '.join(empty)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
