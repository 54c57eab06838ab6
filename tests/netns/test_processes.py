"""fastns.netns used by many processes and threads at a time."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import threading

import pytest
from conftest import discard, new_name
from faults import here
from isolation import RUN_DIR
from rundir import ip, ip_names, mounts_on, unshare_run_directory

from fastns import netns as ns


def side_by_side(seed: int, names: list[str], own: str) -> None:
    rng = random.Random(seed)
    for _ in range(12):
        name = rng.choice(names)
        try:
            rng.choice([ns.create, ns.remove])(name)
        except (FileExistsError, FileNotFoundError):
            pass
        command = rng.choice(["add", "del"])
        subprocess.run(["ip", "netns", command, rng.choice(names)], check=False, capture_output=True)
        ns.create(own)
        before = ns.info(own).inode
        assert own in ns.listnetns()
        ip("netns", "exec", own, "true")
        assert ns.info(own).inode == before
        rng.choice([ns.remove, lambda name: ip("netns", "del", name)])(own)
        assert not ns.exists(own)


def run_processes(targets) -> None:
    """Each (function, arguments) in a process of its own, started at the same moment."""
    context = multiprocessing.get_context("fork")
    reader, writer = os.pipe()

    def run(function, arguments):
        os.close(writer)
        os.read(reader, 1)
        function(*arguments)

    processes = [context.Process(target=run, args=target) for target in targets]
    for process in processes:
        process.start()
    os.close(reader)
    os.close(writer)
    for process in processes:
        process.join()
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.close()
    assert codes == [0] * len(codes)


@pytest.mark.root
def test_eight_processes_and_ip_netns(rng):
    shared = [new_name() for _ in range(3)]
    own = [new_name() for _ in range(8)]
    try:
        run_processes([(side_by_side, (rng.random(), shared, name)) for name in own])
    finally:
        for name in shared + own:
            discard(name)
    assert len(mounts_on(RUN_DIR)) <= 1


@pytest.mark.root
def test_first_mount_by_eight_processes():
    names = [new_name() for _ in range(8)]
    unshare_run_directory()
    try:
        run_processes([(ns.create, (name,)) for name in names])
        assert set(names) <= ip_names()
        assert all(ns.info(name).alive for name in names)
        assert len(mounts_on(RUN_DIR)) == 1
    finally:
        for name in names:
            discard(name)


def same_name(name: str, inodes) -> None:
    fd = ns.getnsfd(name, os.O_CREAT)
    inodes.put(os.fstat(fd).st_ino)


@pytest.mark.root
def test_same_name_by_eight_processes(nsname):
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        inodes = context.SimpleQueue()
        run_processes([(same_name, (nsname, inodes))] * 8)
        assert len({inodes.get() for _ in range(8)}) == 1
        inodes.close()
        ns.remove(nsname)


@pytest.mark.root
def test_threads(netns_pair):
    names = [new_name() for _ in range(8)]
    errors = []

    def work(name):
        try:
            for _ in range(10):
                ns.create(name)
                with ns.entered(name):
                    assert here() == f"net:[{ns.info(name).inode}]"
                ns.remove(name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in names:
        discard(name)
    assert not errors
