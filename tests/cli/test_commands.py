"""The `fastns` command, run as a user runs it."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any, Iterator

import pytest
from commands import COMMAND, ENV, run, wait_for
from handwritten import forced_buffers
from isolation import RUN_DIR, need_tool

import fastns

# The shell between: setpriv itself still finds files with root's rights when it starts its program.
ORDINARY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "sh", "-c", 'exec "$@"', "sh"]

pytest.importorskip("click", reason="python: click is not installed")
pytest.importorskip("rich", reason="python: rich is not installed")


def entries() -> set[str]:
    return set(os.listdir(RUN_DIR)) if os.path.isdir(RUN_DIR) else set()


@pytest.fixture
def ordinary() -> list[str]:
    """What to put before a command to run it as an ordinary user."""
    if os.geteuid() != 0 or subprocess.run([*ORDINARY, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("kernel: only one user here")
    probe = [*ORDINARY, *COMMAND, "--version"]
    if subprocess.run(probe, check=False, capture_output=True, env=ENV, cwd="/").returncode != 0:
        pytest.skip("python: this interpreter, or this checkout, is not readable for others")
    if subprocess.run([*ORDINARY, "unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("kernel: no user namespaces for ordinary users")
    return ORDINARY


@pytest.fixture(params=["as we are", "ordinary user"])
def rootless(request: pytest.FixtureRequest) -> list[str]:
    """The same for both users that can use `fastns rootless`."""
    if request.param == "ordinary user":
        return request.getfixturevalue("ordinary")
    need_tool("unshare")
    if subprocess.run(["unshare", "-Ur", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("kernel: no user namespaces")
    return []


# Use and misuse


def test_help_names_every_command() -> None:
    text = run("--help").stdout
    for name in (
        "add", "bench", "completion", "del", "demo", "doctor", "exec", "list", "load", "map", "monitor", "rootless", "top"
    ):  # fmt: skip
        assert re.search(rf"^  {name}\b", text, re.M)
        assert "Usage:" in run(name, "--help").stdout


def test_version() -> None:
    assert run("--version").stdout == f"fastns {fastns.__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [["nonsense"], ["add"], ["del"], ["exec"], ["exec", "x"], ["list", "--nonsense"], ["demo", "--routes", "0"],
     ["demo", "--routes", "x"], ["add", "a\tb/.."], ["add", ""], ["add", ".."], ["add", "x" * 256]],
)  # fmt: skip
def test_wrong_use_is_2(argv: list[str]) -> None:
    done = run(*argv, code=2)
    assert done.stderr
    assert not done.stdout


def test_start_imports_only_what_is_used() -> None:
    """pyroute2 takes a tenth of a second: not for --version, help or the shell's completion."""
    code = (
        "import sys; from fastns.cli import main\ntry: main()\n"
        "finally: print(*{'pyroute2', 'rich', 'asyncio'} & set(sys.modules), file=sys.stderr)"
    )
    for argv in (["--version"], ["doctor", "--help"], ["rootless", "--help"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=ENV, check=True
        )
        assert done.stderr == "\n"


@pytest.mark.root
def test_names_cannot_write_to_the_terminal() -> None:
    name = "fns-\x1b[31m\n\u202e"
    try:
        run("add", name)
        assert run("add", name, code=1).stderr.startswith(r"fastns: fns-\x1b[31m\n\u202e: ")
        (line,) = [line for line in run("list").stdout.splitlines() if "fns-" in line]
        assert r"fns-\x1b[31m\n\u202e" in line
        assert name in [item["name"] for item in json.loads(run("list", "--json").stdout)]
    finally:
        run("del", name)


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_missing_extra_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from fastns.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list"], capture_output=True, text=True, env=ENV, check=False
    )
    assert done.returncode == 1
    assert missing in done.stderr and "pip install 'fastns[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# add, del, list


@pytest.mark.root
def test_add_and_del(nsname: str) -> None:
    assert run("add", nsname).stdout == ""
    assert nsname in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    again = run("add", nsname, code=1)
    assert nsname in again.stderr and "exists" in again.stderr
    run("del", nsname)
    assert nsname not in entries()
    assert nsname in run("del", nsname, code=1).stderr


@pytest.mark.root
def test_add_and_del_go_on_after_a_failure(netns: str, nsname: str) -> None:
    other = f"{netns}-2"
    try:
        assert netns in run("add", netns, other, code=1).stderr
        assert other in entries()
    finally:
        assert "nonexistent" in run("del", "fns-nonexistent", other, code=1).stderr
    assert other not in entries()


@pytest.mark.root
def test_del_leaves_what_is_no_namespace(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    run("del", str(file), code=1)
    assert file.read_text() == "kept"


@pytest.mark.root
def test_list(netns_pair: tuple[str, str], nsname: str) -> None:
    first, second = netns_pair
    subprocess.run(["ip", "-n", first, "link", "add", "fnsa", "type", "veth", "peer", "fnsb"], check=True)
    subprocess.run(["ip", "netns", "set", first, "77"], check=True)
    open(os.path.join(RUN_DIR, nsname), "w").close()
    child = subprocess.Popen(["ip", "netns", "exec", second, "sleep", "600"])
    try:
        wait_for(lambda: os.path.realpath(f"/proc/{child.pid}/exe").endswith(("sleep", "coreutils", "busybox")))
        shown = {item["name"]: item for item in json.loads(run("list", "--json").stdout)}
        text = run("list").stdout
    finally:
        child.kill()
        child.wait()
    assert shown[first] == {
        "name": first,
        "state": "alive",
        "inode": os.stat(os.path.join(RUN_DIR, first)).st_ino,
        "nsid": 77,
        "links": ["lo", "fnsb", "fnsa"],
        "pids": [],
    }
    assert shown[second]["pids"] == [child.pid]
    assert shown[second]["links"] == ["lo"]
    assert (shown[nsname]["state"], shown[nsname]["links"], shown[nsname]["inode"]) == ("dead", None, None)
    assert re.search(rf"^{first} +77 +lo fnsb fnsa +alive$", text, re.M)
    assert re.search(rf"^{second} +lo +{child.pid} +alive$", text, re.M)
    assert re.search(rf"^{nsname} .*dead$", text, re.M)
    run("del", nsname)
    assert nsname not in entries()


@pytest.mark.root
def test_list_of_what_is_no_namespace(nsname: str) -> None:
    path = pathlib.Path(RUN_DIR) / nsname
    path.symlink_to("/nonexistent")
    assert [item["state"] for item in json.loads(run("list", "--json").stdout) if item["name"] == nsname] == ["dead"]
    path.unlink()
    path.write_text("something else")
    (state,) = (item["state"] for item in json.loads(run("list", "--json").stdout) if item["name"] == nsname)
    assert "not a network namespace" in state
    run("del", nsname, code=1)
    assert path.read_text() == "something else"


@pytest.mark.root
def test_list_into_a_closed_pipe(netns: str) -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    try:
        done = run("list", code=1, capture_output=False, stdout=write_fd, stderr=subprocess.PIPE)
    finally:
        os.close(write_fd)
    assert done.stderr == ""


def test_without_privilege_the_way_out_is_named() -> None:
    need_tool("setpriv")
    if os.geteuid() == 0:
        prefix = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
    else:
        prefix = []
    done = run("add", "fns-refused", code=1, prefix=prefix)
    assert "fns-refused" in done.stderr
    assert "fastns rootless" in done.stderr


# exec


@pytest.mark.root
def test_exec_is_in_place(netns: str) -> None:
    argv = [*COMMAND, "exec", netns, "sh", "-c", "echo $$; readlink /proc/self/ns/net; ls /sys/class/net; exit 7"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENV)
    out, _ = child.communicate()
    inode = os.stat(os.path.join(RUN_DIR, netns)).st_ino
    assert out.split() == [str(child.pid), f"net:[{inode}]", "lo"]
    assert child.returncode == 7


@pytest.mark.root
def test_exec_passes_arguments_and_input(netns: str) -> None:
    done = run("exec", netns, "printf", "%s,", "--json", "-h", "--help", "--", "a b")
    assert done.stdout == "--json,-h,--help,--,a b,"
    assert run("exec", netns, "cat", input="through").stdout == "through"
    assert run("exec", os.path.join(RUN_DIR, netns), "echo", "by path").stdout == "by path\n"
    assert run("exec", "--", netns, "echo", "x").stdout == "x\n"


@pytest.mark.root
def test_exec_ends_as_the_program_does(netns: str) -> None:
    assert run("exec", netns, "sh", "-c", "kill -TERM $$", code=None).returncode == -signal.SIGTERM
    assert "program not found" in run("exec", netns, "/nonexistent/program", code=127).stderr
    assert "ermission denied" in run("exec", netns, "/etc/passwd", code=126).stderr
    assert "fns-nonexistent" in run("exec", "fns-nonexistent", "true", code=125).stderr
    assert run("exec", "..", "true", code=125).stderr
    # Python ignores SIGPIPE; a program it starts must not
    status = run("exec", netns, "grep", "SigIgn", "/proc/self/status").stdout
    assert int(status.split()[1], 16) & (1 << (signal.SIGPIPE - 1)) == 0


@pytest.mark.root
def test_exec_equals_ip_netns_exec(netns: str) -> None:
    for argv in (["sh", "-c", "grep ' /sys' /proc/self/mounts"], ["ls", "/sys", "/sys/class/net"],
                 ["readlink", "/proc/self/ns/net"], ["sh", "-c", "ls /proc/self/fd | wc -l"]):  # fmt: skip
        real = subprocess.run(["ip", "netns", "exec", netns, *argv], capture_output=True, text=True, check=False)
        if real.returncode != 0:
            pytest.skip(f"kernel: ip netns exec does not work here: {real.stderr.strip()}")
        assert run("exec", netns, *argv).stdout == real.stdout


# rootless


def test_rootless_is_root_of_its_own(rootless: list[str]) -> None:
    before = entries()
    script = """
        id -u; id -g
        ip netns add one; "$@" add two; "$@" list --json; ip netns list
        ip link show lo
        ip netns exec two ls /sys/class/net; "$@" exec one ls /sys/class/net
        ls /sys/class/net
    """
    done = run("rootless", "--", "sh", "-ec", script, "sh", *COMMAND, prefix=rootless, cwd="/")
    uid, gid, rest = done.stdout.split("\n", 2)
    assert (uid, gid) == ("0", "0")
    document, _, rest = rest.partition("\n]\n")
    shown = json.loads(document + "]")
    assert [(item["name"], item["state"], item["links"]) for item in shown] == [
        ("one", "alive", ["lo"]),
        ("two", "alive", ["lo"]),
    ]
    lines = rest.splitlines()
    assert {line.split()[0] for line in lines[:2]} == {"one", "two"}
    assert "LOWER_UP" in lines[2]
    assert lines[-3:] == ["lo"] * 3
    assert entries() == before


def test_rootless_keeps_the_rest_of_run(rootless: list[str]) -> None:
    """What programs keep in /run stays in sight; only the namespaces do not."""
    mine = sorted(name for name in os.listdir("/run") if name != "netns")
    seen = run("rootless", "--", "ls", "/run", prefix=rootless, cwd="/").stdout.split()
    assert "netns" in seen
    assert set(seen) - {"netns"} <= set(mine)
    assert sorted(set(seen) - {"netns"}) == mine


def test_rootless_ends_as_the_program_does(rootless: list[str]) -> None:
    assert run("rootless", "sh", "-c", "exit 9", code=9, prefix=rootless, cwd="/").stdout == ""
    assert "not found" in run("rootless", "--", "/nonexistent/x", code=127, prefix=rootless, cwd="/").stderr
    env = {**ENV, "SHELL": "/bin/pwd"}
    assert run("rootless", prefix=rootless, cwd="/", env=env).stdout == "/\n"


def test_rootless_inside_rootless(rootless: list[str]) -> None:
    argv = [*COMMAND, "rootless", "--", *COMMAND, "add", "inner"]
    run("rootless", "--", *argv, prefix=rootless, cwd="/")


def test_rootless_where_it_is_refused(rootless: list[str]) -> None:
    script = 'echo 0 > /proc/sys/user/max_user_namespaces || exit 3; "$@" rootless -- true'
    done = run("rootless", "--", "sh", "-c", script, "sh", *COMMAND, prefix=rootless, cwd="/", code=None)
    if done.returncode == 3:
        pytest.skip("kernel: /proc/sys is not writable here")
    assert done.returncode == 125
    assert "user.max_user_namespaces = 0" in done.stderr


def test_rootless_makes_no_zombie_mounts(rootless: list[str]) -> None:
    with open("/proc/self/mountinfo") as file:
        before = file.read()
    run("rootless", "--", *COMMAND, "add", "one", prefix=rootless, cwd="/")
    with open("/proc/self/mountinfo") as file:
        assert file.read() == before


# doctor


@pytest.mark.root
def test_doctor_as_root() -> None:
    report = json.loads(run("doctor", "--json").stdout)
    assert report["ready"] is True
    assert report["privilege"]["create and enter a namespace"] is True
    assert report["use"]["namespaces"] == "this machine's"
    assert report["use"]["way into a namespace"] == "the calling thread, there and back"
    assert report["features"]["NETLINK_EXT_ACK"] is True
    assert report["system"]["fastns"] == fastns.__version__
    assert set(report) == {"system", "privilege", "features", "limits", "tools", "use", "problems", "ready"}
    text = run("doctor").stdout
    for word in ("rmem_max", "CAP_NET_ADMIN", "SO_RCVBUFFORCE", "calling thread"):
        assert word in text


def test_doctor_without_privilege(ordinary: list[str]) -> None:
    report = json.loads(run("doctor", "--json", prefix=ordinary, cwd="/").stdout)
    assert report["privilege"]["CAP_SYS_ADMIN"] is False
    assert report["privilege"]["create and enter a namespace"] is False
    assert report["privilege"]["user namespaces (fastns rootless)"] is True
    assert report["ready"] is True
    assert "rootless" in report["use"]["namespaces"]


def test_doctor_without_own_network_namespace(rootless: list[str]) -> None:
    """root in a user namespace, network of the parent: the way back does not work."""
    report = json.loads(run("doctor", "--json", prefix=[*rootless, "unshare", "-Ur"], cwd="/", code=None).stdout)
    assert report["use"]["way into a namespace"] == "a throw-away thread"


# demo


@pytest.fixture
def empty_handed() -> Iterator[None]:
    before = entries()
    yield
    assert entries() == before


def check_demo(report: dict[str, Any], routes: int) -> None:
    assert report["removed"] is True
    assert report["load"]["routes"] == routes
    assert report["dump"]["routes"] == routes
    # a proxy that gets no turn loses some where no large buffer may be forced, and says so
    assert (report["events"]["received"] == routes) == (report["events"]["lost_records"] == 0)
    assert len(report["comparison"]) == 7
    for row in report["comparison"]:
        assert row["pyroute2_s"] > 0 and row["fastns_s"] > 0 and row["ratio"] > 0


@pytest.mark.root
def test_demo_as_root(empty_handed: None) -> None:
    report = json.loads(run("demo", "--routes", "3000", "--json").stdout)
    check_demo(report, 3000)
    assert report["events"]["lost_records"] == 0 or not forced_buffers()
    assert report["rootless"] is bool(os.environ.get("FASTNS_ROOTLESS"))


def test_demo_as_an_ordinary_user(ordinary: list[str], empty_handed: None) -> None:
    report = json.loads(run("demo", "--routes", "1000", "--json", prefix=ordinary, cwd="/").stdout)
    check_demo(report, 1000)
    assert report["rootless"] is True


WORKS = 7


@pytest.mark.root
def test_bench(empty_handed: None) -> None:
    report = json.loads(run("bench", "--json").stdout)
    rows = report["comparison"]
    assert len(rows) == WORKS
    for row in rows:
        assert {"fastns direct", "pyroute2"} <= set(row["seconds"]) <= {"fastns direct", "fastns relay", "pyroute2", "ip"}
        assert all(seconds > 0 for seconds in row["seconds"].values())
    assert sum("ip" in row["seconds"] for row in rows) == WORKS - 1
    assert sum("fastns relay" in row["seconds"] for row in rows) == WORKS - 2


def test_bench_as_an_ordinary_user(ordinary: list[str], empty_handed: None) -> None:
    text = run("bench", prefix=ordinary, cwd="/").stdout
    for word in ("work", "fastns direct", "fastns relay", "pyroute2", "ip", "route('add', …)", "(x "):
        assert word in text
    assert len(text.splitlines()) == WORKS + 3


@pytest.mark.root
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_bench_interrupted(number: signal.Signals, code: int, empty_handed: None) -> None:
    before = entries()
    argv = [*COMMAND, "bench"]
    child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV, start_new_session=True)
    try:
        wait_for(lambda: child.poll() is not None or any("-bench" in name for name in entries() - before))
        os.killpg(child.pid, number) if number == signal.SIGINT else child.send_signal(number)
        _, err = child.communicate(timeout=100)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == code, err
    assert b"Traceback" not in err
    wait_for(lambda: not session_members(child.pid))


@pytest.mark.root
def test_demo_for_people(empty_handed: None) -> None:
    text = run("demo", "--routes", "1000").stdout
    for word in ("created", "cabled", "pinged", "loaded", "received", "dumped", "removed", "pyroute2", "times"):
        assert word in text


@pytest.mark.root
@pytest.mark.parametrize(
    ("number", "code", "stage"),
    [
        (signal.SIGINT, 130, "at once"),
        (signal.SIGINT, 130, "loading"),
        (signal.SIGINT, 130, "opening"),
        (signal.SIGINT, 130, "comparing"),
        (signal.SIGTERM, 143, "loading"),
        (signal.SIGHUP, 129, "opening"),
    ],
)
def test_demo_interrupted(number: signal.Signals, code: int, stage: str, empty_handed: None) -> None:
    """Ctrl-C goes to the whole foreground process group, helpers included; the others to the demo alone."""
    before = entries()
    argv = [*COMMAND, "demo", "--routes", "5000000" if stage == "loading" else "100"]
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, start_new_session=True
    )

    def reached(part: str) -> str:
        """The name of the demo's namespace that has `part` in it, once there."""
        wait_for(lambda: child.poll() is not None or any(part in name for name in entries() - before))
        return next((name for name in entries() - before if part in name), "")

    try:
        if stage == "at once":
            reached("fastns-")
        elif stage == "loading":
            left = reached("-left")
            wait_for(lambda: routes_in(left) > 100 or child.poll() is not None)
        elif stage == "opening":
            reached("-more")
        else:
            reached("-again")
        if number == signal.SIGINT:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
        _, err = child.communicate(timeout=100)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == code, err
    assert "Traceback" not in err
    assert entries() == before
    wait_for(lambda: not session_members(child.pid))


def session_members(session: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session:
                found.append(int(name))
    return found


def routes_in(name: str) -> int:
    argv = ["ip", "-n", name, "route", "show", "10.0.0.0/24"]
    argv[-1:] = ["root", "10.0.0.0/24"]
    return len(subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines())
