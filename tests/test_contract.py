"""The public names, their signatures, their documentation, their stubs."""

from __future__ import annotations

import ast
import inspect
import subprocess
from pathlib import Path

import pyroute2
import pyroute2.netns
import pytest

import fastns
import fastns._codec
import fastns._core
import fastns.netns

NETNS = {
    "attach create create_socket dropns getnsfd listnetns ns_pids pid_to_ns popns pushns remove setns",
    "entered exists info run_in sysctl watch",
}
NETNS_NAMES = sorted(name for line in NETNS for name in line.split())
PUBLIC = [
    "IPRoute",
    "NSPopen",
    "NetNS",
    "NetlinkDumpInterrupted",
    "NetlinkError",
    "Proxy",
    "ProxyError",
    "netns",
]


@pytest.mark.parametrize("name", PUBLIC)
def test_package_offers(name):
    assert name in fastns.__all__
    getattr(fastns, name)


@pytest.mark.parametrize("name", NETNS_NAMES)
def test_netns_offers(name):
    assert name in fastns.netns.__all__
    assert callable(getattr(fastns.netns, name))


@pytest.mark.parametrize("name", ["_create", "_get_netnspath"])
def test_netns_has_what_openstack_calls(name):
    assert callable(getattr(fastns.netns, name))


@pytest.mark.parametrize(
    "name", sorted(set(NETNS_NAMES) & set(dir(pyroute2.netns)) | {"_create", "_get_netnspath"})
)
def test_netns_takes_what_pyroute2_takes(name):
    theirs = inspect.signature(undecorated(getattr(pyroute2.netns, name))).parameters
    ours = inspect.signature(getattr(fastns.netns, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    for parameter in theirs:
        assert ours[parameter].kind == theirs[parameter].kind, parameter
        had_default = theirs[parameter].default is not inspect.Parameter.empty
        assert (ours[parameter].default is not inspect.Parameter.empty) == had_default, parameter


def undecorated(function):
    """pyroute2's functions are wrapped in a closure that takes anything, next to the mock used for testing."""
    while list(inspect.signature(function).parameters) == ["argv", "kwarg"]:
        inner = [cell.cell_contents for cell in function.__closure__ if inspect.isfunction(cell.cell_contents)]
        function = next(f for f in inner if "mock" not in f.__name__ and "mock" not in f.__module__)
    return function


def test_netns_signature_of_handle():
    parameters = inspect.signature(fastns.NetNS).parameters
    assert list(parameters)[:5] == ["netns", "flags", "target", "libc", "groups"]
    assert {"transport", "proxy", "pid"} <= set(parameters)
    assert parameters["transport"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("name", sorted(n for n in dir(pyroute2.IPRoute) if not n.startswith("_")))
def test_iproute_has_pyroute2s_attribute(name):
    assert hasattr(fastns.IPRoute, name)


@pytest.mark.root
def test_nspopen_has_all_of_popen_and_of_pyroute2s(netns):
    with fastns.NSPopen(netns, ["true"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.communicate()
        has = set(dir(process))
    names = {name for name in [*dir(subprocess.Popen), *dir(pyroute2.NSPopen)] if not name.startswith("_")}
    assert names - has == set()


def public_objects():
    for module in (fastns, fastns.netns):
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if callable(thing) and getattr(thing, "__module__", "").startswith("fastns"):
                yield pytest.param(thing, id=f"{module.__name__}.{name}")


@pytest.mark.parametrize("thing", list(public_objects()))
def test_public_thing_is_documented(thing):
    assert (inspect.getdoc(thing) or "").strip()
    assert thing.__doc__ is not None, "inherited only"


# Plans of the codec and what hangs on them: made and read inside the module only.
INTERNAL = {"Attr", "Context", "EncodedSlot", "Lookup"}


def stub_names(module):
    stub = Path(module.__file__).parent / f"{module.__name__.split('.')[-1]}.pyi"
    found = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            found.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("module", [fastns._core, fastns._codec], ids=["_core", "_codec"])
def test_stub_and_module_agree(module):
    """Names only; that the signatures agree is stubtest's part."""
    real = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }
    named = stub_names(module)
    assert {name for name in named if not hasattr(module, name)} == set()
    assert real - named - INTERNAL == set()
