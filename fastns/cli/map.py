"""`fastns map`: namespaces, their links, and what they are connected with, as text or drawn by Graphviz."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastns.cli.base import complete_names, console, fail, printable
from fastns.cli.topology import World, look

if TYPE_CHECKING:
    from fastns.cli.topology import Link, Namespace

FORMATS = ("text", "json", "dot", "svg", "png")
INSTALL = (
    "drawing needs the program `dot` of Graphviz, which is not installed: "
    "apt-get install graphviz, dnf install graphviz or apk add graphviz font-dejavu "
    "(text, json and dot need nothing)"
)


@click.command("map")
@click.argument("names", nargs=-1, metavar="[NS]…", shell_complete=complete_names)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="A file; its ending is the format."
)
@click.option("-f", "--format", "form", type=click.Choice(FORMATS), help="text, or what the file's ending says.")
@click.option("--loopback", is_flag=True, help="With the loopback devices.")
def map_command(names: tuple[str, ...], output: Path | None, form: str | None, loopback: bool) -> None:
    """Show namespaces (names, paths, . for this one), their links, bridges and who is connected with whom.

    Without names these are all in the run directory, and this one. A picture is drawn by Graphviz: -o map.svg, -o map.png.
    """
    form = form or ending(output)
    if form == "png" and output is None and sys.stdout.isatty():
        raise click.UsageError("a PNG picture is nothing for a terminal: -o FILE")
    if form in ("svg", "png") and shutil.which("dot") is None:
        fail(INSTALL)
    world = look(names)
    if form == "text" and output is None:
        console(highlight=False).print(tree(world, loopback), soft_wrap=True)
        return
    if form == "text":
        data = as_text(world, loopback).encode()
    elif form == "json":
        data = (json.dumps(world.plain(), indent=2) + "\n").encode()
    else:
        data = dot(world, loopback).encode()
        if form != "dot":
            data = draw(data, form)
    if output is not None:
        output.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def ending(output: Path | None) -> str:
    if output is None:
        return "text"
    form = {".txt": "text", ".gv": "dot"}.get(output.suffix.lower(), output.suffix[1:].lower())
    if form not in FORMATS:
        raise click.UsageError(f"{output}: the ending is none of .txt .json .dot .gv .svg .png, give --format")
    return form


def draw(source: bytes, form: str) -> bytes:
    done = subprocess.run(["dot", f"-T{form}"], input=source, capture_output=True, check=False)
    if done.returncode != 0:
        fail(f"dot: {done.stderr.decode(errors='replace').strip() or f'exit code {done.returncode}'}")
    return done.stdout


def shown(namespace: Namespace, loopback: bool) -> list[Link]:
    """Its links; the loopback when it is asked for, or has an address that others may use."""
    return [link for link in namespace.links if loopback or not link.loopback or link.has_outside_address]


def telling(link: Link) -> list[str]:
    """Its addresses without the one every link makes for itself."""
    return [address for address in link.addresses if not address.startswith("fe80:")]


def details(link: Link) -> str:
    what = [link.kind or ("loopback" if link.loopback else "device")]
    if not link.up:
        what.append("down")
    elif not link.carrier:
        what.append("no carrier")
    return ", ".join(what)


def other_end(link: Link) -> str:
    """Where the other end is, in words."""
    if link.peer is not None:
        namespace, other = link.peer
        return other.name if namespace is link.namespace else f"{namespace.name}:{other.name}"
    if link.unknown_nsid is not None:
        return f"a namespace that is not shown (nsid {link.unknown_nsid})"
    return ""


# Text


def as_text(world: World, loopback: bool) -> str:
    from rich.console import Console

    out = io.StringIO()
    Console(width=100_000, color_system=None, file=out, legacy_windows=False).print(tree(world, loopback))
    return re.sub(r" +$", "", out.getvalue(), flags=re.M)


def tree(world: World, loopback: bool) -> Any:
    from rich.console import Group
    from rich.text import Text
    from rich.tree import Tree

    trees = []
    for namespace in world.namespaces:
        label = Text.assemble((printable(namespace.name), "bold magenta"), (note(namespace), "dim"))
        root = Tree(label, guide_style="dim")
        links = shown(namespace, loopback)
        ports: dict[int, list[Link]] = {}
        for link in links:
            if link.master is not None:
                ports.setdefault(link.master, []).append(link)
        present = {link.index for link in links}

        def grow(branch: Any, link: Link, ports: dict[int, list[Link]] = ports) -> None:
            leaf = branch.add(line(link))
            for port in ports.pop(link.index, ()):
                grow(leaf, port)

        for link in links:
            if link.master is None or link.master not in present:
                grow(root, link)
        trees.append(root)
    return Group(*trees)


def note(namespace: Namespace) -> str:
    if namespace.error:
        return f"  {printable(namespace.error)}"
    count = namespace.processes
    parts = ["this namespace"] if namespace.name == "." else []
    parts += [f"{count} process{'es' if count != 1 else ''}"] if count else []
    return f"  {', '.join(parts)}" if parts else ""


def line(link: Link) -> Any:
    from rich.text import Text

    end = other_end(link)
    arrow = "<->" if link.kind == "veth" else "on"
    parts = [
        (printable(link.name), "bold cyan"),
        (f" ({printable(details(link))})", "" if link.up else "red"),
        ("".join(f" {address}" for address in telling(link)), ""),
        (f"  {arrow} {printable(end)}" if end else "", "green"),
        (f"  {printable(link.alias)}" if link.alias else "", "dim"),
    ]
    return Text.assemble(*parts)


# Graphviz


def quoted(*lines: str) -> str:
    """A string of DOT; what a name has in it means nothing there."""
    escaped = (printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in lines if line)
    return '"' + "\\n".join(escaped) + '"'


FILL = {"bridge": "#fde2b9", "veth": "#d7e8fa", "vxlan": "#e4d9f5", "macvlan": "#dff1e2", "ipvlan": "#dff1e2"}


def dot(world: World, loopback: bool) -> str:
    """The picture as Graphviz's language has it: a cluster for each namespace, a node for each link."""
    out = [
        "graph fastns {",
        '  graph [rankdir=LR, fontname="DejaVu Sans", bgcolor=white, nodesep=0.25, ranksep=1.0];',
        '  node [shape=box, style="rounded,filled", fontname="DejaVu Sans", fontsize=10, fillcolor="#eeeeee", '
        'color="#666666", margin="0.12,0.06"];',
        '  edge [color="#444444"];',
    ]
    edges = []
    for number, namespace in enumerate(world.namespaces):
        title = quoted("" if namespace.name == "." else namespace.name, note(namespace).strip())
        out.append(f"  subgraph cluster_{number} {{")
        out.append(f'    label={title}; labeljust=l; fontsize=13; style="rounded,filled"; color="#999999"; fillcolor="#fafafa";')
        links = shown(namespace, loopback)
        if not links:
            out.append(f'    empty_{number} [label="no links", shape=plaintext, style="", fontcolor="#888888"];')
        for link in links:
            label = quoted(link.name, "" if link.kind == "veth" and link.up else details(link), *telling(link))
            look = "rounded,filled" if link.up else "rounded,filled,dashed"
            color = FILL.get(link.kind or "", "#eeeeee")
            shape = ", penwidth=2" if link.kind == "bridge" else ""
            out.append(f'    {node(link)} [label={label}, style="{look}", fillcolor="{color}"{shape}];')
        out.append("  }")
        present = {link.index for link in links}
        for link in links:
            if link.master in present:
                edges.append(f"  {node(namespace.by_index[link.master])} -- {node(link)} [color=\"#c07a1a\"];")
            if link.peer is not None:
                other = link.peer[1]
                if link.kind != "veth":
                    edges.append(f"  {node(other)} -- {node(link)} [style=dotted, constraint={inside(link)}];")
                elif id(link) < id(other) or other.peer is None:
                    edges.append(f"  {node(link)} -- {node(other)} [penwidth=1.6, constraint={outside(link)}];")
            elif link.unknown_nsid is not None:
                away = f"away_{number}_{link.unknown_nsid}"
                edges.append(f'  {away} [label="not shown\\nnsid {link.unknown_nsid}", style=dashed];')
                edges.append(f"  {node(link)} -- {away} [style=dashed];")
    return "\n".join([*out, *dict.fromkeys(edges), "}", ""])


def node(link: Link) -> str:
    return f"n{link.namespace.number}_{link.index}"


def outside(link: Link) -> str:
    """For an edge: whether its ends stand in namespaces beside each other."""
    return "true" if link.peer is not None and link.peer[0] is not link.namespace else "false"


def inside(link: Link) -> str:
    return "false" if outside(link) == "true" else "true"
