"""Runs the tests of programs that live on pyroute2, with it alone and with fastns behind its names, and compares each test.

    consumers.py [NAME…] [--write]

Each program has an environment under build/consumers with its newest release, pytest and this tree; one that is there is
used again. Every run has a network and a mount namespace of its own, with the namespace's own /sys. `--write` puts the
table into docs/consumers.md, which takes all programs. Needs root, PyPI, and some minutes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import isolation

TREE = Path(__file__).resolve().parent.parent
WORK = TREE / "build" / "consumers"
PAGE = TREE / "docs" / "consumers.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
SECONDS = 1200  # for one run of one row

WHAT_TESTS_IMPORT = ("ddt", "oslotest", "requests-mock", "testscenarios", "webtest")  # and their packages do not require


class Row(NamedTuple):
    """Tests of a program: `tests` are packages and modules of the installed one, `without` files to leave out."""

    program: str
    text: str
    tests: tuple[str, ...]
    without: tuple[str, ...] = ()


def neutron(kind: str, *names: str) -> tuple[str, ...]:
    return tuple(f"neutron.tests.{kind}.{name}" for name in names)


ROWS = [
    Row("pyroute2", "`tests/test_unit` of its source package[^1]", ("test_unit",), ("test_frozen",)),
    Row("neutron", "unit: `privileged/agent/linux`, `agent/linux/test_nl_dispatcher`",
        neutron("unit", "privileged.agent.linux", "agent.linux.test_nl_dispatcher")),
    Row("neutron", "unit: `agent/linux/test_ip_lib`, `test_tc_lib`",
        neutron("unit", "agent.linux.test_ip_lib", "agent.linux.test_tc_lib")),
    Row("neutron",
        "unit: `agent/linux` (interface, bridge_lib, utils, devlink, dhcp), `agent/l3` (namespace_manager, router_info), "
        "`cmd/test_netns_cleanup`, `tests/common/test_net_helpers`",
        neutron("unit", "agent.linux.test_interface", "agent.linux.test_bridge_lib", "agent.linux.test_utils",
                "agent.linux.test_devlink", "agent.linux.test_dhcp", "agent.l3.test_namespace_manager",
                "agent.l3.test_router_info", "cmd.test_netns_cleanup", "tests.common.test_net_helpers")),
    Row("neutron", "functional: `privileged/agent/linux/test_ip_lib`",
        neutron("functional", "privileged.agent.linux.test_ip_lib")),
    Row("neutron", "functional: `privileged/agent/linux/test_tc_lib`",
        neutron("functional", "privileged.agent.linux.test_tc_lib")),
    Row("neutron", "functional: `agent/linux/test_ip_lib`", neutron("functional", "agent.linux.test_ip_lib")),
    Row("neutron", "functional: `agent/linux/test_bridge_lib`, `test_tc_lib`, `privileged/agent/linux/test_utils`",
        neutron("functional", "agent.linux.test_bridge_lib", "agent.linux.test_tc_lib",
                "privileged.agent.linux.test_utils")),
    Row("octavia", "unit: `amphorae`", ("octavia.tests.unit.amphorae",)),
    Row("octavia", "functional: `amphorae`", ("octavia.tests.functional.amphorae",)),
    Row("os-vif", "unit: all", ("os_vif.tests.unit", "vif_plug_noop.tests.unit", "vif_plug_ovs.tests.unit")),
    Row("os-vif", "functional: `internal/command/ip/test_impl_pyroute2`",
        ("os_vif.tests.functional.internal.command.ip.test_impl_pyroute2",)),
    Row("kuryr-lib", "unit: `binding`[^2]", ("kuryr.tests.unit.binding",), ("drivers/test_utils",)),
]  # fmt: skip

# A privileged function is called here, not in a daemon that would have pyroute2's names.
PLUGIN = """
try:
    from oslo_privsep.priv_context import PrivContext
except ImportError:
    pass
else:
    def here(self, *args, _init=PrivContext.__init__, **kwarg):
        _init(self, *args, **kwarg)
        self.set_client_mode(False)

    PrivContext.__init__ = here
"""


def outcomes(report: str) -> dict[str, str]:
    """From pytest's JUnit file: each test and whether it "passed", "failed" (an error of its set-up too) or was "skipped"."""
    found: dict[str, str] = {}
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        tags = {child.tag for child in case}
        outcome = "failed" if tags & {"failure", "error"} else "skipped" if "skipped" in tags else "passed"
        if found.get(name) != "failed":  # a test that fails and whose end does, too, is there twice
            found[name] = outcome
    return found


def in_words(found: dict[str, str]) -> str:
    counts = [(list(found.values()).count(what), what) for what in ("passed", "failed", "skipped")]
    return ", ".join(f"{number} {what}" for number, what in counts if number) or "none"


def compared(alone: dict[str, str], behind: dict[str, str]) -> str:
    """What is to be said of the run with fastns."""
    if alone == behind:
        return in_words(behind) if set(behind.values()) == {"passed"} else "the same ones"
    other = sorted(name for name in alone.keys() | behind.keys() if alone.get(name) != behind.get(name))
    return f"{in_words(behind)}; other than alone: {', '.join(f'`{name}`' for name in other)}"


def table(rows: list[tuple[str, str, str]], about: str) -> str:
    lines = ["| tests | pyroute2 alone | with fastns |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(["", *lines, "", about, "", ""])


def put(page: str, text: str) -> str:
    """The page with another table."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {BEGIN.strip()} … {END.strip()}")
    return before + BEGIN + text + END + after


class Environment:
    """A program installed, and this tree with it."""

    def __init__(self, program: str, wheel: Path) -> None:
        self.folder = WORK / program
        self.python = self.folder / "bin" / "python"
        if not self.python.exists():
            subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        self.pip("install", program, "pyroute2", "pytest", "pytest-timeout", *WHAT_TESTS_IMPORT)
        self.pip("install", "--force-reinstall", "--no-deps", wheel)
        listed = subprocess.run([self.python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
        self.versions = {item["name"].lower().replace("_", "-"): item["version"] for item in json.loads(listed.stdout)}
        self.name = f"{program} {self.versions[program]}"
        self.source = self.folder
        if program == "pyroute2":
            self.source = self.unpacked()

    def pip(self, *args: object) -> None:
        subprocess.run([self.python, "-m", "pip", "--disable-pip-version-check", "-q", *map(str, args)], check=True)

    def unpacked(self) -> Path:
        """pyroute2's source package, which has its tests."""
        source = self.folder / "source"
        shutil.rmtree(source, ignore_errors=True)
        self.pip("download", "--no-deps", "--no-binary", "pyroute2", "-d", source, f"pyroute2=={self.versions['pyroute2']}")
        (archive,) = source.glob("*.tar.gz")
        with tarfile.open(archive) as file:
            file.extractall(source, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (unpacked,) = (path for path in source.iterdir() if path.is_dir())
        return unpacked / "tests"

    def run(self, row: Row, *, fastns: bool) -> dict[str, str]:
        """The outcome of each test."""
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            (place / "privileged_here.py").write_text(PLUGIN)
            (place / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
            (place / "sudo").chmod(0o755)
            report = place / "report.xml"
            argv = [str(self.python), *(["-m", "fastns.dropin"] if fastns else []), "-m", "pytest"]
            argv += ["-q", "-c", os.devnull, "--rootdir", folder, "-p", "no:cacheprovider", "-p", "privileged_here", "-W", "ignore", f"--junitxml={report}"]
            argv += [f"--ignore-glob=*/{name}.py" for name in row.without]
            argv += list(row.tests) if row.program == "pyroute2" else ["--pyargs", *row.tests]
            env = {
                **os.environ,
                "PYTHONPATH": folder,
                "PATH": f"{folder}:{self.folder}/bin:{os.environ['PATH']}",
                "OS_SUDO_TESTING": "1",  # or Neutron skips its functional tests
            }
            done = subprocess.run(
                argv, cwd=self.source, env=env, preexec_fn=isolated, timeout=SECONDS, check=False, capture_output=True, text=True
            )
            if done.returncode not in (0, 1):  # not what its tests say
                sys.exit(f"{row.program}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
            return outcomes(report.read_text())


def isolated() -> None:
    """A process that has just been forked: a network namespace of its own, and what shows it."""
    os.setsid()
    rights = isolation.Privilege()
    rights.acquire()
    if rights.reason:
        raise PermissionError(rights.reason)
    isolation.mount("none", "/sys", "sysfs")


def build() -> Path:
    """A wheel of this tree."""
    folder = WORK / "wheel"
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(TREE)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def main() -> None:
    programs = list(dict.fromkeys(row.program for row in ROWS))
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(programs))
    parser.add_argument("--write", action="store_true", help="put the table into docs/consumers.md")
    args = parser.parse_args()
    if not set(args.names) <= set(programs):
        parser.error(f"a NAME is one of {', '.join(programs)}")
    if args.write and args.names:
        parser.error("--write takes all of them")
    wheel = build()
    rows = []
    versions: dict[str, str] = {}
    for program in args.names or programs:
        environment = Environment(program, wheel)
        versions |= {name: environment.versions[name] for name in ("fastns", "pyroute2")}
        for row in ROWS:
            if row.program == program:
                alone, behind = environment.run(row, fastns=False), environment.run(row, fastns=True)
                rows.append((f"{environment.name}, {row.text}", in_words(alone), compared(alone, behind)))
                print(" | ".join(rows[-1]), flush=True)
    about = (
        f"{datetime.date.today()}; Linux {platform.release()}; CPython {platform.python_version()}; "
        f"fastns {versions['fastns']}, pyroute2 {versions['pyroute2']}."
    )
    if args.write:
        PAGE.write_text(put(PAGE.read_text(), table(rows, about)))


if __name__ == "__main__":
    main()
