"""Everything at random, for as long as asked: namespaces, links, addresses, routes, events, processes, batches, both
transports, threads, forks, signals, proxies killed and stopped; the state checked against `ip -j`, the process's
resources against those at the start.

    python tests/soak.py [--seconds 600] [--seed N] [--resume FILE]

A step's choices follow from seed and number alone. FILE remembers where a run stopped: with it the same seed goes on from
the next step. Fails with the seed and the step; what the step did is the last line printed before.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "relay"))

from guard import leaks, look
from handwritten import ended
from isolation import acquire, privilege

import fastns
from fastns import IPRoute, NetlinkError, NetNS, NSPopen, Proxy, ProxyError
from fastns import netns as netns_module
from fastns import proxy as proxy_module

SPACES = 6
STEPS_PER_CHECK = 150
TRANSPORTS = ("direct", "relay", "auto")
PATIENCE = 60


class Wrong(AssertionError):
    pass


def expect(condition, text):
    if not condition:
        raise Wrong(text)


def ip_json(*arguments):
    done = subprocess.run(["ip", "-j", *arguments], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")


class Space:
    """One namespace and what it should hold."""

    def __init__(self, name):
        self.name = name
        self.links = set()
        self.routes = {}  # destination -> metric
        self.addresses = set()
        self.handles = []


class Soak:
    def __init__(self, seed):
        self.seed = seed
        self.spaces = {}
        self.done = {}

    # -- steps

    def step(self, number):
        rng = random.Random(f"{self.seed} {number}")
        names = [name[3:] for name in dir(self) if name.startswith("do_")]
        weights = [self.WEIGHTS.get(name, 4) for name in names]
        name = rng.choices(names, weights)[0]
        self.last = f"step {number}: {name}"
        self.done[name] = self.done.get(name, 0) + 1
        getattr(self, "do_" + name)(rng)

    WEIGHTS = {"kill_shared": 1, "stop_shared": 1, "fork": 1, "popen": 2, "routes_batch": 3, "threads": 1}

    def space(self, rng):
        if not self.spaces:
            return self.new_space()
        return self.spaces[rng.choice(sorted(self.spaces))]

    def new_space(self):
        name = f"soak-{secrets.token_hex(4)}"
        netns_module.create(name)
        space = self.spaces[name] = Space(name)
        with NetNS(name, flags=0, transport="direct") as ns:
            ns.link("set", index=1, state="up")
        return space

    def handle(self, rng, space):
        """A handle of the space, kept open or new; dead ones are left."""
        if space.handles and rng.random() < 0.6:
            return rng.choice(space.handles)
        ns = NetNS(space.name, flags=0, transport=rng.choice(TRANSPORTS))
        space.handles.append(ns)
        if len(space.handles) > 4:
            space.handles.pop(0).close()
        return ns

    def use(self, rng, space, work):
        """work(handle), once more with a new handle when the proxy was killed under the old one."""
        for _ in range(8):  # more than a space keeps: they may all have had the same proxy
            ns = self.handle(rng, space)
            try:
                return work(ns)
            except ProxyError:
                space.handles.remove(ns)
                ns.close()
        raise Wrong("every handle lost its proxy")

    def do_create(self, rng):
        if len(self.spaces) < SPACES:
            self.new_space()

    def do_remove(self, rng):
        if len(self.spaces) > 2:
            space = self.space(rng)
            if rng.random() < 0.5:
                for ns in space.handles:
                    ns.close()
                space.handles.clear()
            netns_module.remove(space.name)
            for ns in space.handles:
                ns.close()
            del self.spaces[space.name]

    def do_link_add(self, rng):
        space = self.space(rng)
        if len(space.links) < 12:
            name = f"v{rng.randrange(1 << 24):06x}"
            peer = f"w{name[1:]}"
            if name in space.links:
                return

            def work(ns):
                try:
                    ns.link("add", ifname=name, kind="veth", peer=peer)
                except NetlinkError as error:
                    if error.code != errno.EEXIST:  # done, and the answer died with its proxy
                        raise

            self.use(rng, space, work)
            space.links |= {name, peer}

    def do_link_del(self, rng):
        space = self.space(rng)
        if space.links:
            name = rng.choice(sorted(space.links))

            def work(ns):
                try:
                    found = ns.link_lookup(ifname=name)
                    if found:
                        ns.link("del", index=found[0])
                except NetlinkError as error:
                    if error.code != errno.ENODEV:
                        raise

            self.use(rng, space, work)
            space.links -= {"v" + name[1:], "w" + name[1:]}

    def do_link_move(self, rng):
        """One end of a pair into another namespace, by name."""
        space, other = self.space(rng), self.space(rng)
        if space is other or not space.links:
            return
        name = rng.choice(sorted(space.links))
        if name in other.links:
            return

        def work(ns):
            found = ns.link_lookup(ifname=name)
            if found:
                ns.link("set", index=found[0], net_ns_fd=other.name)

        self.use(rng, space, work)
        # from here on the pair spans two: take it out of the books and out of the world
        with NetNS(other.name, flags=0, transport="direct") as ns:
            found = ns.link_lookup(ifname=name)
            expect(len(found) == 1, f"{name} is not in {other.name}")
            ns.link("del", index=found[0])
        space.links -= {"v" + name[1:], "w" + name[1:]}

    def do_address(self, rng):
        space = self.space(rng)
        address = f"10.{rng.randrange(200, 255)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        command = "del" if address in space.addresses or (space.addresses and rng.random() < 0.4) else "add"
        if command == "del" and address not in space.addresses:
            address = rng.choice(sorted(space.addresses))

        def work(ns):
            try:
                ns.addr(command, index=1, address=address, prefixlen=32)
            except NetlinkError as error:
                if error.code not in (errno.EEXIST, errno.EADDRNOTAVAIL):
                    raise

        self.use(rng, space, work)
        (space.addresses.add if command == "add" else space.addresses.discard)(address)

    def do_route(self, rng):
        space = self.space(rng)
        destination = f"172.{rng.randrange(16, 32)}.{rng.randrange(256)}.0/24"
        command = "del" if destination in space.routes else "add"

        def work(ns):
            try:
                ns.route(command, dst=destination, oif=1, priority=space.routes.get(destination, 7))
            except NetlinkError as error:
                if error.code not in (errno.EEXIST, errno.ESRCH):
                    raise

        self.use(rng, space, work)
        if command == "add":
            space.routes[destination] = 7
        else:
            del space.routes[destination]

    def do_routes_batch(self, rng):
        space = self.space(rng)
        second = rng.randrange(32, 200)
        count = rng.choice((10, 300, 2000))
        destinations = [f"172.{second}.{n >> 8}.{n & 255}/32" for n in range(count)]

        def work(command):
            def run(ns):
                with ns.batch(errors="collect") as batch:
                    for destination in destinations:
                        batch.route(command, dst=destination, oif=1)

            return run

        self.use(rng, space, work("add"))
        if rng.random() < 0.5:
            self.use(rng, space, lambda ns: len(tuple(ns.get_routes())))
        self.use(rng, space, work("del"))

    def do_dump(self, rng):
        space = self.space(rng)
        names = self.use(rng, space, lambda ns: {link.get("ifname") for link in ns.get_links()})
        expect(names - {"lo"} == space.links, f"links {names} and not {space.links}")

    def do_error(self, rng):
        space = self.space(rng)

        def work(ns):
            try:
                ns.link("get", index=0x7FFFFFF)
            except NetlinkError as error:
                expect(error.code == errno.ENODEV, f"error {error}")
            else:
                raise Wrong("no error")

        self.use(rng, space, work)

    def do_events(self, rng):
        space = self.space(rng)

        def work(_):
            with NetNS(space.name, flags=0, transport=rng.choice(TRANSPORTS)) as listener:
                listener.bind()
                with NetNS(space.name, flags=0, transport="direct") as writer:
                    for number in range(20):
                        writer.route("add", dst=f"192.168.{number}.0/24", oif=1)
                    for number in range(20):
                        writer.route("del", dst=f"192.168.{number}.0/24", oif=1)
                seen = 0
                end = time.monotonic() + PATIENCE
                while seen < 40 and time.monotonic() < end:
                    seen += sum(
                        1
                        for message in listener.get()
                        if message.get("event") in ("RTM_NEWROUTE", "RTM_DELROUTE")
                        and str(message.get("dst")).startswith("192.168.")
                    )
                expect(seen == 40, f"{seen} of 40 events")

        self.use(rng, space, work)

    def do_popen(self, rng):
        space = self.space(rng)
        with NSPopen(space.name, ["cat", "/proc/net/dev"], stdout=subprocess.PIPE, text=True) as process:
            text = process.communicate(timeout=PATIENCE)[0]
        names = {line.split(":")[0].strip() for line in text.splitlines()[2:]}
        expect(names - {"lo"} == space.links, f"/proc/net/dev {names} and not {space.links}")

    def do_threads(self, rng):
        """Threads on one handle, each with questions of its own."""
        space = self.space(rng)

        def run(ns):
            errors = []

            def ask():
                try:
                    for _ in range(30):
                        expect(ns.link("get", index=1)[0].get("ifname") == "lo", "not lo")
                        tuple(ns.get_addr(index=1))
                except Exception as error:
                    errors.append(error)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE)
            if errors:
                raise errors[0]

        self.use(rng, space, run)

    def do_fork(self, rng):
        """A child leaves our handles alone and works with its own."""
        space = self.space(rng)
        ours = self.handle(rng, space)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                try:
                    ours.link("get", index=1)
                except OSError as error:
                    if error.errno == errno.EBADF or isinstance(error, ProxyError):
                        with NetNS(space.name, flags=0, transport="relay") as ns:
                            ns.link("get", index=1)
                        proxy_module.close_shared()
                        status = 0
            finally:
                os._exit(status)
        status = os.waitpid(pid, 0)[1]
        expect(status == 0, f"the child ended with {status}")

    def do_interrupts(self, rng):
        """A storm of signals over whatever comes next."""
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for step in (self.do_dump, self.do_address, self.do_error):
                step(rng)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def do_kill_shared(self, rng):
        pid = proxy_module.shared().pid
        os.kill(pid, signal.SIGKILL)
        ended(pid)

    def do_stop_shared(self, rng):
        pid = proxy_module.shared().pid
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(rng.random() / 20, os.kill, (pid, signal.SIGCONT))
        timer.start()
        try:
            self.do_dump(rng)
        finally:
            timer.join()

    def do_policy(self, rng):
        space, other = self.space(rng), self.space(rng)
        with Proxy(netns=[space.name], read_only=rng.random() < 0.5) as proxy:
            with NetNS(space.name, flags=0, proxy=proxy) as ns:
                ns.link("get", index=1)
            if other is not space:
                try:
                    NetNS(other.name, flags=0, proxy=proxy).close()
                except PermissionError:
                    pass
                else:
                    raise Wrong("the policy let another namespace in")

    def do_host(self, rng):
        with IPRoute(transport=rng.choice(TRANSPORTS)) as ip:
            expect(ip.link("get", index=1)[0].get("ifname") == "lo", "not lo")

    # -- checks

    def check(self):
        expect(set(self.spaces) == set(netns_module.listnetns()), "names in the run directory")
        for space in self.spaces.values():
            links = {link["ifname"] for link in ip_json("-n", space.name, "link", "show")}
            expect(links - {"lo"} == space.links, f"{space.name}: links {links}, not {space.links}")
            addresses = {
                a["local"]
                for link in ip_json("-n", space.name, "-4", "addr", "show", "dev", "lo")
                for a in link.get("addr_info", ())
                if a["local"] != "127.0.0.1"
            }
            expect(
                addresses == space.addresses, f"{space.name}: addresses {addresses}, not {space.addresses}"
            )
            routes = {
                r["dst"]
                for r in ip_json("-n", space.name, "-4", "route", "show")
                if r["dst"].startswith("172.")
            }
            expect(routes == set(space.routes), f"{space.name}: routes {routes}, not {set(space.routes)}")

    def finish(self):
        for space in self.spaces.values():
            for ns in space.handles:
                ns.close()
            netns_module.remove(space.name)
        self.spaces.clear()
        proxy_module.close_shared()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--resume", type=Path, metavar="FILE")
    options = parser.parse_args()
    acquire()
    if privilege.reason:
        sys.exit(f"soak: {privilege.reason}")
    saved = {}
    if options.resume and options.resume.exists():
        saved = json.loads(options.resume.read_text())
    seed = options.seed if options.seed is not None else saved.get("seed", secrets.randbits(32))
    number = saved.get("step", 0) if saved.get("seed") == seed else 0
    print(
        f"soak: fastns {fastns.__version__}, seed {seed}, from step {number}, {options.seconds:g} s",
        flush=True,
    )
    end = time.monotonic() + options.seconds
    warm = Soak(seed)  # what Python and libc keep once and for all is there before the first look
    for name in sorted(name for name in dir(warm) if name.startswith("do_")):
        getattr(warm, name)(random.Random(name))
    warm.finish()
    before = look()
    done = {}
    rounds = 0
    while time.monotonic() < end:
        soak = Soak(seed)
        try:
            for _ in range(STEPS_PER_CHECK):
                soak.step(number)
                number += 1
                if time.monotonic() >= end:
                    break
            soak.last += ", then the check"
            soak.check()
        except BaseException:
            print(f"soak: seed {seed}, {soak.last}", flush=True)
            raise
        finally:
            soak.finish()
        found = leaks(before)
        if found:
            sys.exit(f"soak: seed {seed}, before step {number}, left behind:\n  " + "\n  ".join(found))
        for name, count in soak.done.items():
            done[name] = done.get(name, 0) + count
        rounds += 1
        if options.resume:
            options.resume.write_text(json.dumps({"seed": seed, "step": number}))
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20
    print(
        f"soak: {rounds} rounds, {number} steps, {resident} MB resident: " + json.dumps(done, sort_keys=True)
    )


if __name__ == "__main__":
    main()
