"""The table of `make consumers`: what it makes of pytest's reports."""

from __future__ import annotations

import consumers
import pytest

REPORT = """<?xml version="1.0"?><testsuites><testsuite>
<testcase classname="a.T" name="test_good"/>
<testcase classname="a.T" name="test_bad"><failure message="x">…</failure></testcase>
<testcase classname="a.T" name="test_bad"><error message="at its end"/></testcase>
<testcase classname="a.T" name="test_end"><error message="at its end"/></testcase>
<testcase classname="a.T" name="test_end"/>
<testcase classname="a.T" name="test_not"><skipped message="y"/></testcase>
</testsuite></testsuites>"""
FOUND = {"a.T.test_good": "passed", "a.T.test_bad": "failed", "a.T.test_end": "failed", "a.T.test_not": "skipped"}


def test_outcomes() -> None:
    assert consumers.outcomes(REPORT) == FOUND
    assert consumers.in_words(FOUND) == "1 passed, 2 failed, 1 skipped"
    assert consumers.in_words({}) == "none"


def test_difference_is_named() -> None:
    good = {"a.one": "passed", "a.two": "passed"}
    assert consumers.compared(good, dict(good)) == "2 passed"
    assert consumers.compared(FOUND, dict(FOUND)) == "the same ones"
    assert consumers.compared({}, {}) == "the same ones"
    assert consumers.compared(good, {"a.one": "failed", "a.two": "passed"}) == "1 passed, 1 failed; other than alone: `a.one`"
    assert consumers.compared(good, {"a.one": "passed"}) == "1 passed; other than alone: `a.two`"


def test_table_takes_the_place_of_the_last() -> None:
    page = f"before\n{consumers.BEGIN}old\n{consumers.END}after\n"
    text = consumers.table([("x 1.0, unit", "2 passed", "2 passed")], "2026-01-01; Linux.")
    once = consumers.put(page, text)
    assert "| x 1.0, unit | 2 passed | 2 passed |\n" in once
    assert "old" not in once
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert consumers.put(once, text) == once
    with pytest.raises(ValueError, match="table"):
        consumers.put("a page without", text)


def test_page_has_a_place_and_its_footnotes() -> None:
    page = consumers.PAGE.read_text()
    consumers.put(page, "")
    for row in consumers.ROWS:
        note = row.text.partition("[")[2]
        assert f"[{note}:" in page or not note
