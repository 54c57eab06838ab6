"""What a failed commit raises: an exception of two classes, one for each way to catch it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2.ipdb import CommitException, CreateException


class PartialCommitException(CommitException):  # type: ignore[misc]
    """Some steps of a transaction with `partial` set have failed; `errors` has them, the others are applied."""

    __module__ = "fastns.ipdb"  # where users import it from; a pickle has this path

    errors: list[Exception]


class CreateFailure(CreateException, CommitException):  # type: ignore[misc]
    """A new object could not be made. pyroute2's two classes know nothing of each other; this is caught as either."""


CreateFailure.__name__ = "CreateException"

classes_of_both: dict[tuple[type, type], type] = {}


def exception_of_both(base: type[Exception], cause: BaseException) -> Exception:
    """`cause` as an exception that is also a `base`."""
    if isinstance(cause, base):
        return cause
    error = new_exception_of_both(base, type(cause), cause.args)
    error.__dict__.update(cause.__dict__)
    error.__cause__ = cause
    return error


def new_exception_of_both(base: type[Exception], kind: type, args: tuple[Any, ...]) -> Exception:
    cls = classes_of_both.get((base, kind))
    if cls is None:
        bases = (base,) if issubclass(base, kind) else (base, kind)

        def reduce(self: Exception) -> tuple[Any, ...]:
            state = {key: value for key, value in self.__dict__.items() if key != "debug"}
            return load_exception_of_both, (base, kind, self.args, state)

        space = {"__reduce__": reduce, "__module__": base.__module__}
        cls = classes_of_both[base, kind] = type(base.__name__, bases, space)
    error = cls.__new__(cls, *args)
    if issubclass(kind, OSError):
        OSError.__init__(error, *args)
    else:
        error.args = args
    return error  # type: ignore[no-any-return]


def load_exception_of_both(base: type[Exception], kind: type, args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = new_exception_of_both(base, kind, args)
    error.__dict__.update(state)
    return error


def create_failure(error: BaseException) -> Exception:
    return exception_of_both(CreateFailure, error)


@contextmanager
def tolerated(code: int) -> Iterator[None]:
    """The kernel may refuse with `code`: what was asked for is so already."""
    try:
        yield
    except Exception as error:
        if getattr(error, "code", None) != code:
            raise
