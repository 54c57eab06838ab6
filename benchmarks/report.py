"""One table from the JSON that pytest-benchmark stored: `python benchmarks/report.py FILE.json [--update FILE.md]`.

Medians over all rounds of all passes; the spread is half the distance between the quartiles, in percent of the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

TITLES = {
    "open_close": "open + close a handle in a namespace",
    "link_get": "link('get', index=1), parsed",
    "dump_routes": "dump {routes} routes, 3 fields read from each",
    "dump_columns": "dump {routes} routes into columns",
    "dump_links": "dump {links} links, 3 fields read from each",
    "add_routes": "add routes one by one, acknowledged (per route)",
    "add_routes_batch": "add routes in a batch, each accounted for (per route)",
    "batch_some_fail": "the same, 1 % of them failing (per route)",
    "batch_all_fail": "the same, all of them failing (per route)",
    "event": "add a route and have its event",
    "create_remove": "create + remove a namespace",
    "spawn": "run `true` in a namespace and wait",
    "ndb": "pyroute2's NDB with {namespaces} namespaces as sources, until loaded",
    "many": "open + get_links in each of {namespaces} namespaces, all held open",
    "each": "get the links of {namespaces} namespaces, by open handles",
    "storm": "{events} route events at full speed, received with default settings",
    "storm_asleep": "the same, read when the storm is over",
    "hold_routes": "memory of a dump of {routes} routes held as objects",
    "proxy_memory": "private memory of the proxy process",
}


GROWTH = {
    "growth_routes": ("dump routes", "routes"),
    "growth_links": ("dump links", "links"),
    "growth_namespaces": ("open a handle and dump the links in each namespace", "namespaces"),
}
SIZES = ("events", "routes", "links", "namespaces")
COUNTS = ("storm", "storm_asleep")  # their "seconds" are a number, more is better
MEMORY = ("hold_routes", "proxy_memory")  # their "seconds" are bytes


def collect(stored: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """operation -> library -> seconds per item, every round."""
    rounds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for bench in stored["benchmarks"]:
        if bench["group"] in GROWTH:
            continue
        rounds[bench["group"]][bench["extra_info"]["impl"]] += bench["stats"]["data"]
    return rounds


def quantity(seconds: float) -> str:
    steps = [(1, "s"), (1e3, "ms"), (1e6, "µs")]
    factor, unit = next((step for step in steps if seconds * step[0] >= 1), steps[-1])
    value = seconds * factor
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def size(nbytes: float) -> str:
    return f"{nbytes / (1 << 20):.3g} MiB"


def count(number: float) -> str:
    return f"{number:,.0f}"


def ratio(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def rows(stored: dict[str, Any]) -> list[list[str]]:
    sizes = defaultdict(str)
    for bench in stored["benchmarks"]:
        sizes.update({key: f"{value:,}" for key, value in bench["extra_info"].items() if key in SIZES})
    table = []
    found = collect(stored)
    for operation in sorted(found, key=lambda name: list(TITLES).index(name) if name in TITLES else 99):
        medians = {impl: statistics.median(data) for impl, data in found[operation].items()}
        title = TITLES.get(operation, operation).format_map(sizes)
        shown = size if operation in MEMORY else count if operation in COUNTS else quantity
        for impl, median in medians.items():
            data = found[operation][impl]
            quartiles = statistics.quantiles(data, n=4) if len(data) > 1 else [median] * 3
            spread = 100 * (quartiles[2] - quartiles[0]) / 2 / (median or 1)
            against = [
                f"{ratio(median / medians['floor'])} x" if "floor" in medians else "",
                f"{ratio(medians['pyroute2'] / median)} x"
                if "pyroute2" in medians and operation not in COUNTS
                else "",
            ]
            table.append([title, impl, shown(median), f"± {spread:.0f} %", *against])
            title = ""
    return table


HEAD = ["work", "library", "median", "spread", "of the floor's time", "faster than pyroute2"]


def plain(table: list[list[str]]) -> str:
    widths = [max(len(row[n]) for row in [HEAD, *table]) for n in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(HEAD, widths)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    for row in table:
        if row[0] and len(lines) > 2:
            lines.append("")
        cells = [cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(table: list[list[str]]) -> str:
    lines = ["| " + " | ".join(HEAD) + " |", "|---|---|" + "--:|" * (len(HEAD) - 2)]
    lines += ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join(lines)


def environment(stored: dict[str, Any]) -> str:
    machine = stored["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine.get("processor") or "unknown processor")
    return (
        f"{stored['datetime'][:10]}; Linux {machine['kernel']}; {cpu}, {machine['cpus']} CPUs; CPython {machine['python']}; "
        f"fastns {machine['fastns']}, pyroute2 {machine['pyroute2']}, {machine['iproute2']}"
    )


def update(file: Path, text: str) -> None:
    old = file.read_text(encoding="utf-8")
    before, begin, rest = old.partition("<!-- numbers -->\n")
    _, end, after = rest.partition("<!-- end of numbers -->\n")
    if not end:
        raise SystemExit(f"{file} has no marks for the numbers")
    file.write_text(before + begin + "\n" + text + "\n\n" + end + after, encoding="utf-8")


def plots(stored: dict[str, Any], folder: Path) -> None:
    """One picture for each growth benchmark: median time per item against the number of items."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fastns"
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for group, (title, unit) in GROWTH.items():
        lines: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for bench in stored["benchmarks"]:
            if bench["group"] == group:
                point = bench["extra_info"]["size"], 1e6 * bench["stats"]["median"]
                lines[bench["extra_info"]["impl"]].append(point)
        if not lines:
            continue
        figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
        for impl, points in lines.items():
            style = (
                {"linestyle": "--", "color": "black"} if impl == "floor" else {"marker": "o", "markersize": 4}
            )
            axes.plot(*zip(*sorted(points)), label=impl, **style)
        axes.set(xscale="log", yscale="log", title=title, xlabel=unit, ylabel=f"µs per {unit[:-1]}")
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize="small")
        for kind in ("svg", "png"):
            figure.savefig(
                folder / f"{group}.{kind}", dpi=150, metadata={"Date": None} if kind == "svg" else None
            )
        pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="what --benchmark-json wrote")
    parser.add_argument("--update", metavar="FILE.md", help="put the table between the file's numbers marks")
    parser.add_argument(
        "--plots", metavar="FOLDER", help="write the growth pictures there (needs matplotlib)"
    )
    args = parser.parse_args()
    with open(args.file, encoding="utf-8") as text:
        stored = json.load(text)
    if args.plots:
        plots(stored, Path(args.plots))
    if args.update:
        update(Path(args.update), markdown(rows(stored)) + "\n\n" + environment(stored))
    else:
        print(environment(stored) + "\n")
        print(plain(rows(stored)))


if __name__ == "__main__":
    main()
