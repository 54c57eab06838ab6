"""For mkdocstrings: what the reference cannot take from the sources as they are.

The stubs have the signatures of the compiled modules and the built modules have the docstrings; special methods that
have no docstring are as one expects them and are left out.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe


class Reference(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.name == "fastns":
            for name in ("_core", "_codec"):
                add_docstrings(pkg[name], importlib.import_module(f"fastns.{name}"))
            drop_special(pkg)


def add_docstrings(stub: Any, built: Any) -> None:
    for name, member in stub.members.items():
        if member.is_alias or not (member.is_class or member.is_function or "property" in member.labels):
            continue
        thing = getattr(built, name, None)  # some are there on a newer Python only
        text = getattr(thing, "__doc__", None)
        if member.docstring is None and text and not name.startswith("__"):
            member.docstring = griffe.Docstring(inspect.cleandoc(text), parent=member)
        if member.is_class:
            add_docstrings(member, thing)


def drop_special(parent: Any) -> None:
    for name, member in list(parent.members.items()):
        if member.is_alias:
            continue
        if parent.is_class and name.startswith("__") and name != "__init__" and member.docstring is None:
            parent.del_member(name)
        elif member.is_class or member.is_module:
            drop_special(member)
