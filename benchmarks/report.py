"""Tables and pictures from the JSON that pytest-benchmark stored.

`python benchmarks/report.py FILE.json` prints one table; with `--write` the numbers go between the marks in README.md
and docs/benchmarks.md, the pictures into docs/img/ and what they are made from into benchmarks/results.json.

Medians over all rounds of all passes; the spread is half the distance between the quartiles, in percent of the median.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent

TITLES = {
    "open_close": "open + close a handle in a namespace",
    "link_get": "`link('get', index=1)`, parsed",
    "dump_routes": "dump {size} routes, 3 fields read from each",
    "dump_columns": "dump {routes} routes into columns",
    "dump_links": "dump {size} links, 3 fields read from each",
    "add_routes": "add routes one by one, acknowledged (per route)",
    "add_routes_batch": "add routes in a batch, each accounted for (per route)",
    "batch_some_fail": "add routes in a batch, 1 % of them failing (per route)",
    "batch_all_fail": "add routes in a batch, all of them failing (per route)",
    "event": "add a route and have its event",
    "create_remove": "create + remove a namespace",
    "spawn": "run `true` in a namespace and wait",
    "many": "open + `get_links` in each of {size} namespaces, all held open",
    "each": "get the links of {namespaces} namespaces, by open handles",
    "ndb": "pyroute2's NDB with {namespaces} namespaces as sources, until loaded",
    "storm": "{events} route events at full speed: received, with default settings",
    "storm_asleep": "{events} route events, read when the storm is over: received",
    "hold_routes": "memory of a dump of {routes} routes held as objects",
    "hold_handles": "memory of {namespaces} open handles, their processes included",
}
SUMMARY = (
    "open_close", "link_get", "dump_routes", "dump_columns", "dump_links", "add_routes", "add_routes_batch", "event",
    "many", "create_remove", "spawn", "storm", "hold_routes", "hold_handles",
)  # fmt: skip
GROWTH = {  # measured with many numbers of items, by seconds per item
    "dump_routes": ("Dump routes, read 3 fields from each", "routes"),
    "dump_links": ("Dump links, read 3 fields from each", "links"),
    "many": ("Open a handle in each namespace and dump its links", "namespaces"),
}
COUNTS = ("storm", "storm_asleep")  # their "seconds" are a number, more is better
MEMORY = ("hold_routes", "hold_handles")  # their "seconds" are bytes
COLOURS = {
    "floor": "#222222",
    "fastns direct": "#0072b2",
    "fastns relay": "#56b4e9",
    "pyroute2": "#d55e00",
    "pyroute2 0.7": "#e69f00",
    "iproute2": "#009e73",
    "subprocess": "#999999",
}
OURS = ("fastns direct", "fastns relay")
PEERS = ("pyroute2", "pyroute2 0.7", "iproute2")


class Figure(NamedTuple):
    """Of one library, for one operation and size: seconds per item, events, or bytes."""

    median: float
    low: float
    high: float
    rounds: int


class Case(NamedTuple):
    """What is compared."""

    operation: str
    size: int
    title: str

    @property
    def items(self) -> int:
        return self.size if self.operation in GROWTH else 1

    def shown(self, value: float) -> str:
        if self.operation in MEMORY:
            return f"{value / (1 << 20):.3g} MiB"
        return f"{value:,.0f}" if self.operation in COUNTS else duration(value * self.items)

    def better(self, one: float, other: float) -> bool:
        return one > other if self.operation in COUNTS else one < other


Results = dict[Case, dict[str, Figure]]


def collect(stored: dict[str, Any]) -> Results:
    data: dict[Case, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for bench in stored["benchmarks"]:
        info = bench["extra_info"]
        numbers = {key: f"{value:,}" for key, value in info.items() if isinstance(value, int)}
        title = TITLES[bench["group"]].format_map(numbers)
        case = Case(bench["group"], info.get("size", 1), title)
        data[case][info["impl"]] += bench["stats"]["data"]
    found: Results = {}
    for case in sorted(data, key=lambda case: (list(TITLES).index(case.operation), case.size)):
        found[case] = {impl: figure(data[case][impl]) for impl in COLOURS if impl in data[case]}
    return found


def figure(rounds: list[float]) -> Figure:
    low, high = rounds[0], rounds[0]
    if len(rounds) > 1:
        low, _, high = statistics.quantiles(rounds, n=4, method="inclusive")
    return Figure(statistics.median(rounds), low, high, len(rounds))


def duration(seconds: float) -> str:
    steps = [(1, "s"), (1e3, "ms"), (1e6, "µs")]
    factor, unit = next((step for step in steps if seconds * step[0] >= 1), steps[-1])
    value = seconds * factor
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def ratio(value: float) -> str:
    return f"{value:.3g} x" if value < 100 else f"{value:,.0f} x"


def principal(results: Results) -> list[Case]:
    """Of each operation one case: of several sizes the largest that pyroute2 was measured with."""
    chosen: dict[str, Case] = {}
    for case, figures in results.items():
        if case.operation not in chosen or "pyroute2" in figures:
            chosen[case.operation] = case
    return list(chosen.values())


HEAD = ["work", "library", "median", "spread", "rounds", "of the floor's time", "faster than pyroute2"]


def in_full(results: Results) -> list[list[str]]:
    """A row for each library."""
    table = []
    for case in principal(results):
        figures, title = results[case], case.title
        for impl, (median, low, high, rounds) in figures.items():
            spread = f"± {100 * (high - low) / 2 / (median or 1):.0f} %" if rounds > 1 else ""
            floor, pyroute2 = figures.get("floor"), figures.get("pyroute2")
            against = [
                ratio(median / floor.median) if floor else "",
                ratio(pyroute2.median / median) if pyroute2 and case.operation not in COUNTS else "",
            ]
            table.append([title, impl, case.shown(median), spread, str(rounds), *against])
            title = ""
    return table


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


def markdown(head: list[str], table: list[list[str]], words: int = 1) -> str:
    """`words`: how many columns are of words."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * words + "--:|" * (len(head) - words)]
    lines += ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join(lines)


def label(impl: str, machine: dict[str, Any]) -> str:
    versions = {"floor": "C floor", "pyroute2": f"pyroute2 {machine['pyroute2']}"}
    return {**versions, "pyroute2 0.7": f"pyroute2 {machine['pyroute2_old']}"}.get(impl, impl)


def side_by_side(cases: list[Case], results: Results, machine: dict[str, Any]) -> str:
    """A row for each case, a column for each library that offers any of them."""
    impls = [i for i in COLOURS if i != "subprocess" and any(i in results[case] for case in cases)]
    table = [
        [case.title, *(case.shown(results[case][i].median) if i in results[case] else "" for i in impls)]
        for case in cases
    ]
    return markdown(["", *(label(impl, machine) for impl in impls)], table)


def growth(operation: str, results: Results, machine: dict[str, Any]) -> str:
    cases = [case for case in results if case.operation == operation]
    impls = [i for i in COLOURS if any(i in results[case] for case in cases)]
    table = [
        [f"{c.size:,}", *(duration(results[c][i].median) if i in results[c] else "" for i in impls)]
        for c in cases
    ]
    return markdown([GROWTH[operation][1], *(label(impl, machine) for impl in impls)], table, words=0)


def losses(results: Results, machine: dict[str, Any]) -> str:
    """Each case in which a library is better than fastns, by either transport."""
    table = []
    for case, figures in results.items():
        ours = [figures[impl] for impl in OURS if impl in figures]
        for peer in PEERS:
            if peer in figures and any(case.better(figures[peer].median, our.median) for our in ours):
                shown = [case.shown(figures[i].median) if i in figures else "" for i in (peer, *OURS)]
                table.append([case.title, label(peer, machine), *shown])
    if not table:
        return "In none of the cases."
    return markdown(["work", "library", "its median", *OURS], table, words=2)


def environment(stored: dict[str, Any]) -> str:
    machine = stored["machine_info"]
    cpu = machine.get("cpu", {}).get("brand_raw", machine.get("processor") or "unknown processor")
    return (
        f"{stored['datetime'][:10]}; Linux {machine['kernel']}; {cpu}, {machine['cpus']} CPUs, {machine['memory']}; "
        f"CPython {machine['python']}; fastns {machine['fastns']}, pyroute2 {machine['pyroute2']} and "
        f"{machine['pyroute2_old']}, {machine['iproute2']}; passes: {machine['passes']}."
    )


def for_readme(stored: dict[str, Any], results: Results) -> str:
    machine = stored["machine_info"]
    cases = [case for case in principal(results) if case.operation in SUMMARY]
    picture = f"![{GROWTH['dump_routes'][0]}: time per route](docs/img/dump_routes.svg)"
    return "\n\n".join((side_by_side(cases, results, machine), environment(stored), picture))


def for_docs(stored: dict[str, Any], results: Results) -> str:
    machine = stored["machine_info"]
    parts = [environment(stored), "### Where another is faster", losses(results, machine)]
    parts += ["### Everything", markdown(HEAD, in_full(results), words=2), "### Growth"]
    parts += ["Time per item against the number of items; the shade is from quartile to quartile."]
    for operation, (title, unit) in GROWTH.items():
        if any(case.operation == operation for case in results):
            parts += [
                f"![{title}: time per {unit[:-1]}](img/{operation}.svg)",
                growth(operation, results, machine),
            ]
    return "\n\n".join(parts)


def update(file: Path, text: str) -> None:
    old = file.read_text(encoding="utf-8")
    before, begin, rest = old.partition("<!-- numbers -->\n")
    _, end, after = rest.partition("<!-- end of numbers -->\n")
    if not end:
        raise SystemExit(f"{file} has no marks for the numbers")
    file.write_text(before + begin + "\n" + text + "\n\n" + end + after, encoding="utf-8")


def plots(results: Results, machine: dict[str, Any], folder: Path) -> None:
    """One picture for each operation that was measured with several sizes: time per item against their number."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "fastns"
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    folder.mkdir(parents=True, exist_ok=True)
    for operation, (title, unit) in GROWTH.items():
        points: dict[str, list[tuple[int, Figure]]] = defaultdict(list)
        for case, figures in results.items():
            if case.operation == operation:
                for impl, figure in figures.items():
                    points[impl].append((case.size, figure))
        if not points:
            continue
        picture, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        for impl in sorted(points, key=lambda impl: -points[impl][-1][1].median):
            sizes, figures = zip(*points[impl])
            axes.plot(
                sizes,
                [figure.median for figure in figures],
                label=label(impl, machine),
                color=COLOURS[impl],
                linestyle="--" if impl == "floor" else "-",
                marker="" if impl == "floor" else "o",
                markersize=4,
            )
            lows, highs = [figure.low for figure in figures], [figure.high for figure in figures]
            axes.fill_between(sizes, lows, highs, color=COLOURS[impl], alpha=0.15, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=f"time per {unit[:-1]}")
        axes.set_title(title, loc="left")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: tick(value)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, which="major", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        picture.legend(loc="outside right upper", frameon=False, fontsize="small")
        for kind in ("svg", "png"):
            metadata = {"Date": None} if kind == "svg" else None
            picture.savefig(folder / f"{operation}.{kind}", dpi=150, metadata=metadata)
        pyplot.close(picture)


def tick(seconds: float) -> str:
    return duration(seconds) if seconds >= 1e-6 else f"{seconds * 1e9:.3g} ns"


def summary(stored: dict[str, Any], results: Results) -> dict[str, Any]:
    """What the tables and pictures show, to be read by a program."""
    rows = [
        {
            "operation": case.operation,
            "title": case.title,
            "items": case.items,
            "library": impl,
            **figure._asdict(),
        }
        for case, figures in results.items()
        for impl, figure in figures.items()
    ]
    units = {"*": "seconds per item", **dict.fromkeys(COUNTS, "events"), **dict.fromkeys(MEMORY, "bytes")}
    return {"environment": environment(stored), "units": units, "rows": rows}


def write(stored: dict[str, Any], root: Path) -> None:
    results = collect(stored)
    plots(results, stored["machine_info"], root / "docs/img")
    update(root / "README.md", for_readme(stored, results))
    update(root / "docs/benchmarks.md", for_docs(stored, results))
    text = json.dumps(summary(stored, results), indent=1, ensure_ascii=False)
    (root / "benchmarks/results.json").write_text(text + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", help="what --benchmark-json wrote")
    parser.add_argument(
        "--write",
        nargs="?",
        const=ROOT,
        type=Path,
        metavar="TREE",
        help="put the numbers into the documents of the tree, by default this one (needs matplotlib)",
    )
    args = parser.parse_args()
    stored = json.loads(Path(args.file).read_text(encoding="utf-8"))
    print(environment(stored) + "\n")
    print(plain(in_full(collect(stored))))
    if args.write:
        write(stored, args.write)


if __name__ == "__main__":
    main()
