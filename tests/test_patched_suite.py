"""The core of the suite in programs patched by eventlet or gevent. FASTNS_PATCHED says how many of its files (all)."""

from __future__ import annotations

import os
import textwrap

import pytest
from patching import PATCH, need, run

pytestmark = pytest.mark.root

# What these libraries do to a program that has nothing of fastns: why a test of the suite cannot pass in it.
DOINGS = {
    "eventlet": """
        import io, os, select, subprocess, sys, pyroute2

        assert not hasattr(select, "poll") and not hasattr(select, "epoll")  # NO_POLL

        child = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE)
        assert not isinstance(child.stdout, io.BufferedReader)  # FILES
        try:
            child.communicate(timeout=0.01)
        except subprocess.SubprocessError:
            raise AssertionError
        except Exception as error:
            assert type(error).__name__ == "TimeoutExpired"  # ERRORS
        child.kill()
        child.wait()

        reading, writing = os.pipe()
        os.close(reading)
        try:
            with eventlet.Timeout(0.1):
                os.write(writing, b"text")
            raise AssertionError
        except eventlet.Timeout:
            pass  # NO_READER

        try:
            pyroute2.NetNS(sys.argv[1])
            raise AssertionError
        except AttributeError:
            pass  # PYROUTE2
    """,
    "gevent": """
        import io, os, select, subprocess, time, warnings

        assert not hasattr(select, "epoll")  # NO_POLL

        child = subprocess.Popen(["sh", "-c", "echo first; exec sleep 60"], stdout=subprocess.PIPE)
        assert not isinstance(child.stdout, io.BufferedReader)  # FILES
        select.select([child.stdout], [], [])
        try:
            child.communicate(timeout=0.01)
            raise AssertionError
        except subprocess.TimeoutExpired as error:
            assert error.output is None  # ERRORS
        child.kill()
        child.wait()

        def fail():
            raise ZeroDivisionError
        try:
            subprocess.Popen(["true"], preexec_fn=fail)
            raise AssertionError
        except ZeroDivisionError:
            pass  # ERRORS

        child = subprocess.Popen(["sleep", "60"])
        pid = child.pid
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            del child
        assert told == []  # REAPED: its hub waits for every child
        os.kill(pid, 9)
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.01)

        reading, writing = os.pipe()
        os.close(writing)
        os.fstat(writing)  # CLOSING: done when the hub runs
    """,
}
NO_POLL = FILES = ERRORS = "eventlet gevent"
NO_READER = PYROUTE2 = "eventlet"
REAPED = CLOSING = "gevent"
OF_OTHERS = "eventlet gevent"  # about other libraries and what pyroute2 does
# Files of the suite, and of them what is not for whom.
CORE = {
    "test_iproute_events.py": {"test_readiness[epoll": NO_POLL, "test_readiness[poll": "eventlet"},
    "netns/test_watch.py": {"test_watch_descriptor_limit": CLOSING},
    "test_pool.py": {},
    "ipdb/test_commit.py": {},
    "test_monitor.py": {},
    "test_nspopen.py": {
        "test_communicate_timeout_and_again": ERRORS,
        "test_files_have_fcntl_methods_and_stay_files": FILES,
        "test_preexec_fn_that_fails": ERRORS,
        "test_release_leaves_a_running_child": REAPED,
        "test_release_with_a_reader_gone": NO_READER,
        "test_text_modes": "gevent",  # FILES
        "test_unreleased_objects_warn": REAPED,
    },
    "test_iproute.py": {"test_results_equal_pyroute2s": PYROUTE2},
    "test_dropin.py": {
        "test_a_module_imported_while_installed_is_restored_too": OF_OTHERS,
        "test_another_protocol_in_a_namespace": PYROUTE2,
        "test_other_sockets_open_without_a_fork": OF_OTHERS,
        "test_what_requests_return": PYROUTE2,
    },
    "test_table.py": {"TestLibraries": OF_OTHERS},
    "test_batch.py": {},
}
FEW = {"FASTNS_EXAMPLES": "5", "FASTNS_STORMS": "2", "FASTNS_LEAK_CYCLES": "100", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
OPTIONS = ["-q", "-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin", "-p", "no:cacheprovider"]
OPTIONS += ["-o", "addopts=--strict-markers --import-mode=importlib -ra"]
OPTIONS += ["-W", "ignore:Using fork:DeprecationWarning"]  # eventlet's opinion
FILES_MAX = int(os.environ.get("FASTNS_PATCHED") or len(CORE))


@pytest.fixture(params=sorted(PATCH))
def library(request):
    return need(request.param)


def test_what_the_libraries_do_by_themselves(library, netns):
    done = run(["-c", PATCH[library] + textwrap.dedent(DOINGS[library]), netns])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", list(CORE)[:FILES_MAX])
def test_core_of_the_suite(library, path):
    path, excluded = f"tests/{path}", CORE[path]
    options = [f"--deselect={path}::{test}" for test, libraries in excluded.items() if library in libraries]
    program = PATCH[library] + "import sys, pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    done = run(["-c", program, *OPTIONS, *options, path], **FEW)
    assert done.returncode == 0, done.stdout
