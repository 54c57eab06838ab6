"""A handle and a dump in each of many namespaces, all held open."""

import pytest
from impls import SLOW


@pytest.mark.operation("many")
@pytest.mark.timeout(300)
def bench_many_namespaces(measure, benchmark, impl, many):
    prefix, count = many
    benchmark.extra_info["namespaces"] = count
    slow = impl.name in (*SLOW, "iproute2")
    assert set(measure(lambda: impl.many(prefix, count), rounds=1 if slow else 5)) == {count}


@pytest.mark.operation("ndb")
@pytest.mark.timeout(300)
def bench_ndb_sources(measure, benchmark, impl, many):
    prefix, count = many
    count = min(count, 50)
    benchmark.extra_info["namespaces"] = count
    assert set(measure(lambda: impl.ndb(prefix, count), rounds=3)) == {count}


@pytest.mark.operation("each")
@pytest.mark.timeout(300)
def bench_pool_each(measure, benchmark, impl, many):
    prefix, count = many
    benchmark.extra_info["namespaces"] = count
    assert set(measure(lambda: impl.each(prefix, count), rounds=5)) == {count}
