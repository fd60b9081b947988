#!/usr/bin/env python3
"""Draws the JSON of `make bench` as SVG: throughput and CPU per call, by load and server.

    benches/plot.py target/bench/compare.json docs/performance.svg
"""

import json
import sys
from xml.sax.saxutils import escape

COLOURS = {
    "noop": "#9e9e9e",
    "noop-gathered": "#616161",
    "tenantd": "#1565c0",
    "tenantd-stream": "#42a5f5",
    "redis": "#c62828",
    "python": "#f9a825",
    "node": "#2e7d32",
}
PANELS = (("calls_per_second", "calls per second", 0), ("cpu_us_per_call", "CPU per call, us", 1))
LOADS = ("1x1", "1x32", "8x4", "64x1")
WIDTH, HEIGHT, LEFT, TOP = 900, 250, 60, 46


def panel(rows, key, title, digits, top):
    rows = [row for row in rows if row["load"] in LOADS]
    # The slow ones would press the others flat: bars are cut, and say what they are.
    values = sorted(row[key] for row in rows)
    most = max(value for value in values if value <= 6 * values[len(values) // 2])
    parts = [f'<text x="{LEFT}" y="{top - 12}" class="title">{escape(title)}</text>']
    group = (WIDTH - LEFT - 20) / len(LOADS)
    for at, load in enumerate(LOADS):
        here = [row for row in rows if row["load"] == load]
        here.sort(key=lambda row: list(COLOURS).index(row["server"]))
        bar = (group - 24) / max(len(here), 1)
        left = LEFT + at * group
        for number, row in enumerate(here):
            share = min(row[key] / most, 1.0)
            height = share * (HEIGHT - 70)
            x, y = left + number * bar, top + HEIGHT - 60 - height
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{bar - 3:.1f}" height="{height:.1f}" '
                f'fill="{COLOURS[row["server"]]}"><title>{escape(row["server"])}</title></rect>'
                f'<text x="{x + bar / 2 - 1:.1f}" y="{y - 4:.1f}" class="value">'
                f"{row[key]:,.{digits}f}</text>"
            )
        parts.append(
            f'<text x="{left + group / 2 - 12:.1f}" y="{top + HEIGHT - 42}" class="load">{load}</text>'
        )
    return parts


def main(source, target):
    with open(source, encoding="utf-8") as file:
        rows = json.load(file)
    parts = []
    for at, (key, title, digits) in enumerate(PANELS):
        parts += panel(rows, key, title, digits, TOP + at * HEIGHT)
    names = [name for name in COLOURS if any(row["server"] == name for row in rows)]
    bottom = TOP + len(PANELS) * HEIGHT
    for at, name in enumerate(names):
        x = LEFT + at * 118
        parts.append(
            f'<rect x="{x}" y="{bottom - 20}" width="12" height="12" fill="{COLOURS[name]}"/>'
            f'<text x="{x + 17}" y="{bottom - 10}" class="load">{name}</text>'
        )
    style = (
        "text{font-family:sans-serif;fill:#222}.title{font-size:15px;font-weight:bold}"
        ".value{font-size:9px;text-anchor:middle}.load{font-size:12px}"
    )
    text = "\n".join(parts)
    with open(target, "w", encoding="utf-8") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 10}">'
            f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n{text}\n</svg>\n'
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
