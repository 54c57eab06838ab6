"""The benchmark report: from what pytest-benchmark stores to the documents."""

import importlib.util
import json
import subprocess
import sys

import pytest
import report

MACHINE = {
    "kernel": "6.1", "cpus": 2, "memory": "4 GiB", "passes": 3, "python": "3.11.7", "fastns": "0.1.0",
    "pyroute2": "0.9.7", "pyroute2_old": "0.7.12", "iproute2": "ip utility", "processor": "a processor",
}  # fmt: skip


def bench(operation, impl, data, **info):
    return {"group": operation, "extra_info": {"impl": impl, **info}, "stats": {"data": data}}


def stored(*benches):
    return {"datetime": "2026-01-02T03:04:05", "machine_info": MACHINE, "benchmarks": list(benches)}


def test_rounds_of_all_passes_make_one_median():
    run = stored(
        bench("link_get", "pyroute2", [3e-4]),
        bench("link_get", "fastns direct", [1e-5, 3e-5], turn=0),
        bench("link_get", "fastns direct", [2e-5], turn=1),
    )
    assert report.in_full(report.collect(run)) == [
        ["`link('get', index=1)`, parsed", "fastns direct", "20 µs", "± 25 %", "3", "", "15 x"],
        ["", "pyroute2", "300 µs", "", "1", "", "1 x"],
    ]


def test_sizes_are_cases_of_their_own_and_the_table_has_the_largest_of_pyroute2():
    run = stored(
        *(bench("dump_routes", "fastns direct", [1e-6], size=size) for size in (10, 1000, 100_000)),
        *(bench("dump_routes", "pyroute2", [1e-4], size=size) for size in (10, 1000)),
    )
    results = report.collect(run)
    assert [case.size for case in results] == [10, 1000, 100_000]
    (case,) = report.principal(results)
    assert case.title == "dump 1,000 routes, 3 fields read from each"
    assert case.shown(1e-6) == "1 ms"  # of all its items


def test_losses_are_what_either_transport_loses():
    run = stored(
        bench("link_get", "fastns direct", [1e-5]),
        bench("link_get", "fastns relay", [3e-5]),
        bench("link_get", "iproute2", [2e-5]),
        bench("link_get", "pyroute2", [4e-5]),
        bench("storm", "fastns direct", [90.0], events=100),
        bench("storm", "pyroute2 0.7", [95.0], events=100),
        bench("open_close", "fastns direct", [1e-5]),
        bench("open_close", "pyroute2", [1e-2]),
        bench("open_close", "floor", [1e-6]),
    )
    rows = report.losses(report.collect(run), MACHINE).splitlines()[2:]
    assert [row.split(" | ")[1:] for row in rows] == [
        ["iproute2", "20 µs", "10 µs", "30 µs |"],
        ["pyroute2 0.7.12", "95", "90", " |"],
    ]


def test_documents_and_pictures_are_written(tmp_path):
    if not importlib.util.find_spec("matplotlib"):
        pytest.skip("python: no matplotlib")
    run = stored(
        *(
            bench("dump_routes", impl, [1e-6, 2e-6], size=size)
            for impl in ("floor", "fastns direct")
            for size in (10, 100)
        ),
        bench("hold_handles", "fastns relay", [1 << 20], namespaces=100),
    )
    for name in ("docs", "benchmarks"):
        (tmp_path / name).mkdir()
    documents = tmp_path / "README.md", tmp_path / "docs/benchmarks.md"
    for document in documents:
        document.write_text("before\n<!-- numbers -->\nold\n<!-- end of numbers -->\nafter\n")
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run))
    # matplotlib keeps fonts and threads: in a process of its own
    subprocess.run(
        [sys.executable, report.__file__, file, "--write", tmp_path], check=True, capture_output=True
    )
    for document in documents:
        text = document.read_text()
        assert text.startswith("before\n<!-- numbers -->\n")
        assert text.endswith("<!-- end of numbers -->\nafter\n")
        assert "old" not in text
        assert "2026-01-02; Linux 6.1; a processor, 2 CPUs, 4 GiB" in text
        assert "1 MiB" in text
    assert {path.name for path in (tmp_path / "docs/img").iterdir()} == {"dump_routes.svg", "dump_routes.png"}
    rows = json.loads((tmp_path / "benchmarks/results.json").read_text())["rows"]
    assert {row["library"] for row in rows} == {"floor", "fastns direct", "fastns relay"}


def test_document_without_marks_is_refused(tmp_path):
    document = tmp_path / "README.md"
    document.write_text("no marks")
    with pytest.raises(SystemExit, match=r"README\.md has no marks"):
        report.update(document, "numbers")
