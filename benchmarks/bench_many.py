"""A handle and a dump in each of many namespaces, all held open; the same by a pool's handles, and by pyroute2's NDB."""

import pytest


# pyroute2 0.7 has a process for each handle.
@pytest.mark.operation("many", sizes="namespaces", bounds={"pyroute2 0.7": 100})
@pytest.mark.timeout(300)
def bench_many_namespaces(measure, impl, size, many):
    prefix, _ = many
    assert set(measure(lambda: impl.many(prefix, size), items=size)) == {size}


@pytest.mark.operation("each")
@pytest.mark.timeout(300)
def bench_pool_each(measure, benchmark, impl, many):
    prefix, count = many
    benchmark.extra_info["namespaces"] = count
    assert set(measure(lambda: impl.each(prefix, count))) == {count}


@pytest.mark.operation("ndb")
@pytest.mark.timeout(300)
def bench_ndb_sources(measure, benchmark, impl, many):
    prefix, count = many
    count = min(count, 50)  # 1,000 take pyroute2 a minute
    benchmark.extra_info["namespaces"] = count
    assert set(measure(lambda: impl.ndb(prefix, count), warm=False)) == {count}
