"""What IPDB is made of: transactions, and the record that all of its objects are."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from fastns.ipdb.values import Fields, LinkedSet, NextHopSet, plain_data

log = logging.getLogger("fastns.ipdb")


class Database(Protocol):
    """What every record needs of the database it is in."""

    nl: Any
    mode: str
    _cond: threading.Condition
    _stop: bool

    def _check(self) -> None: ...
    def _ask(self, method: str, *args: Any, **kwarg: Any) -> Any: ...
    def _barrier(self) -> bool: ...
    def _apply(self, pairs: list[tuple[Any, Any]]) -> None: ...
    def _settle(self, done: Callable[[], bool], reread: Callable[[], Any]) -> None: ...


class Transaction(Fields):
    """What one thread wants changed in one record, and nothing else.

    The keys are the new values; reading a key that is not changed gives the record's value. `partial` makes a
    commit go on over failed steps; they are collected in `errors`.
    """

    def __init__(self, record: Record) -> None:
        super().__init__()
        self._record = record
        self._in: dict[str, dict[Any, Any]] = {name: {} for name in record._sets}
        self._out: dict[str, dict[Any, Any]] = {name: {} for name in record._sets}
        self._later: list[tuple[str, Any]] = []
        self.uid = uuid.uuid4()
        self.partial = bool(record.partial)
        self.errors: list[Exception] = []

    def __missing__(self, key: str) -> Any:
        record = self._record
        if key in record._sets:
            return self._effective(key)
        return record[key]

    def __setattr__(self, key: str, value: Any) -> None:
        if key in ("uid", "partial", "errors") or key.startswith("_"):
            object.__setattr__(self, key, value)
        else:
            self[key] = value

    def _effective(self, name: str) -> Any:
        base = dict.get(self._record, name)
        result: Any = type(base)(base)  # type: ignore[misc]
        for key, raw in self._in[name].items():
            result.add(key, raw)
        for key in self._out[name]:
            result.discard(key)
        return result

    def _include(self, name: str, key: Any, raw: Any = None) -> None:
        self._out[name].pop(key, None)
        if key not in dict.get(self._record, name, ()) or raw:
            self._in[name][key] = raw

    def _exclude(self, name: str, key: Any) -> None:
        self._in[name].pop(key, None)
        if key in dict.get(self._record, name, ()):
            self._out[name][key] = None

    def _changes(self) -> dict[str, Any]:
        """The new values that are not what the record has already."""
        record = self._record
        return {
            key: value
            for key, value in self.items()
            if not (key in record and record._equal(key, dict.get(record, key), value))
        }

    def _run(self, func: Callable[..., Any], *args: Any, **kwarg: Any) -> Any:
        """Do one step; with `partial`, an error is kept instead of raised and None is returned."""
        try:
            return func(*args, **kwarg)
        except Exception as error:
            self._fail(error)
            return None

    def _fail(self, error: Exception) -> None:
        if not self.partial:
            raise error
        self.errors.append(error)


class UndoLog:
    """How to take back what has been done so far."""

    def __init__(self) -> None:
        self._undo: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def push(self, func: Callable[..., Any], *args: Any, **kwarg: Any) -> None:
        self._undo.append((func, args, kwarg))

    def unwind(self) -> list[Exception]:
        errors = []
        while self._undo:
            func, args, kwarg = self._undo.pop()
            try:
                func(*args, **kwarg)
            except Exception as error:
                errors.append(error)
        return errors


class Record(Fields):
    """One object of the database: an interface, a route, a rule. Reading gives what the kernel has; writing
    goes to a transaction, which `commit()` applies.
    """

    _known: frozenset[str] = frozenset()
    _sets: tuple[str, ...] = ()
    _nested: tuple[str, ...] = ()

    def __init__(self, ipdb: Database, mode: str | None = None) -> None:
        super().__init__()
        self._ipdb = ipdb
        self._mode = mode or ipdb.mode
        self._thread = threading.local()
        self._write_lock = threading.RLock()
        self._commit_hooks: list[Callable[..., Any]] = []
        self._snapshots: dict[Any, Record] = {}
        self._partial = False
        self._last_error: Exception | None = None
        self.global_tx: dict[Any, Transaction] = {}
        for name in self._sets:
            dict.__setitem__(self, name, self._new_set(name))
        self._set_scope("system")
        dict.__setitem__(self, "ipdb_priority", 0)

    def _new_set(self, name: str) -> Any:
        return LinkedSet(changed=self._ipdb._cond)

    # reading

    @property
    def ipdb(self) -> Any:
        """The database this object belongs to."""
        return self._ipdb

    @property
    def nl(self) -> Any:
        """The handle the database rides on."""
        return self._ipdb.nl

    @property
    def last_error(self) -> Exception | None:
        """What the last failed commit of a `with` statement raised."""
        return self._last_error

    @property
    def partial(self) -> bool:
        """Whether transactions begun from now on go on over failed steps."""
        return self._partial

    def __missing__(self, key: Any) -> Any:
        if key in self._known:
            return None
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or key in self._known

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._known]

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __repr__(self) -> str:
        return repr({key: value for key, value in self.items() if value is not None})

    def __setattr__(self, key: str, value: Any) -> None:
        if key == "partial":
            object.__setattr__(self, "_partial", bool(value))
        elif key in ("global_tx", "current_tx") or key.startswith("_"):
            object.__setattr__(self, key, value)
        else:
            super().__setattr__(key, value)

    def _equal(self, key: str, seen: Any, wanted: Any) -> bool:
        """Whether the kernel's value is the one wanted, spelling aside."""
        if seen == wanted:
            return True
        if isinstance(seen, str) and isinstance(wanted, str):
            return seen.lower() == wanted.lower()
        return False

    def dump(self, not_none: bool = True) -> dict[str, Any]:
        """The object as a plain dictionary; sets become tuples."""
        result: dict[str, Any] = {}
        for key, value in tuple(self.items()):
            if value is None and not_none:
                continue
            if isinstance(value, LinkedSet):
                result[key] = tuple(value)
            else:
                result[key] = plain_data(value)
        return result

    def pick(self, detached: bool = True, readonly: bool = False) -> Any:
        """A copy. With `detached=False` its sets are the record's own and follow the system."""
        with self._ipdb._cond:
            copy = type(self)(self._ipdb, mode="readonly" if readonly else "snapshot")
            for key, value in self.items():
                own = value
                if isinstance(value, LinkedSet) and detached:
                    own = type(value)(value)
                elif isinstance(value, NestedFields):
                    own = NestedFields(copy, key, value)
                dict.__setitem__(copy, key, own)
            return copy

    @property
    def ro(self) -> Any:
        """A read-only view: starts no transaction, RuntimeError on every change."""
        return self.pick(detached=False, readonly=True)

    # writing

    def _change(self, func: Callable[[Transaction], Any]) -> Any:
        """Let `func` make a change in the transaction that the mode asks for."""
        if self._mode == "readonly":
            raise RuntimeError("can not change readonly object")
        if self._mode == "direct":
            return self._at_once(func)
        if self._mode == "implicit":
            if self.current_tx is None:
                self.begin()
        elif self._mode == "explicit":
            if self.current_tx is None:
                raise TypeError("start a transaction first")
        else:
            raise TypeError("transaction mode not supported")
        func(self.current_tx)
        return self

    def _at_once(self, func: Callable[[Transaction], Any] | None = None) -> Any:
        """Make a change and commit it."""
        tx = self.global_tx[self._begin()]
        try:
            if func is not None:
                func(tx)
            self.commit(tid=tx.uid)
        finally:
            if tx.uid in self.global_tx:
                self.drop(tx.uid)
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        if self._mode == "snapshot":
            dict.__setitem__(self, key, value)
        else:
            self._change(lambda tx: dict.__setitem__(tx, key, self._normal(key, value)))

    def __delitem__(self, key: Any) -> None:
        if self._mode == "snapshot":
            dict.__delitem__(self, key)
        else:
            self._change(lambda tx: tx.pop(key, None))

    def _normal(self, key: str, value: Any) -> Any:
        return value

    def _set_scope(self, scope: str) -> None:
        """Change the view itself, past all transactions."""
        dict.__setitem__(self, "ipdb_scope", scope)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Meanwhile nothing is taken over of what the kernel says of the object: it is being deleted."""
        with self._ipdb._cond:
            self._set_scope("locked")
        try:
            yield
        except Exception:
            with self._ipdb._cond:
                self._set_scope("system")
            raise

    def _add(self, enter: Callable[[], Any]) -> Any:
        """Enter the database as an object that a commit has yet to make."""
        ipdb = self._ipdb
        self._set_scope("create")
        self._mode = ipdb.mode
        with ipdb._cond:
            enter()
        if ipdb.mode == "direct":
            self._at_once()
        else:
            self.begin()
        return self

    def set(self, key: str, value: Any) -> Any:
        """Set one value; returns the object."""
        self[key] = value
        return self

    option = set

    def unset(self, key: str) -> Any:
        """Take a pending value back; returns the object."""
        del self[key]
        return self

    def load(self, data: dict[str, Any]) -> Any:
        """Put the values of a dictionary into the transaction."""
        for key, value in data.items():
            if value is not None:
                self[key] = value
        return self

    def remove(self) -> Any:
        """Mark the object for removal by the next commit."""
        self["ipdb_scope"] = "remove"
        return self

    def shadow(self) -> Any:
        """Mark the object for removal from the system; it stays in the database and can be committed again."""
        self["ipdb_scope"] = "shadow"
        return self

    # transactions

    @property
    def local_tx(self) -> dict[Any, Transaction]:
        """The transactions begun by this thread."""
        try:
            return self._thread.tx  # type: ignore[no-any-return]
        except AttributeError:
            self._thread.tx = {}
            return self._thread.tx  # type: ignore[no-any-return]

    @property
    def current_tx(self) -> Any:
        """This thread's current transaction, or None."""
        return getattr(self._thread, "current", None)

    def _begin(self) -> Any:
        if self._ipdb._stop:
            raise RuntimeError("Can't start transaction on released IPDB")
        tx = Transaction(self)
        self.local_tx[tx.uid] = self.global_tx[tx.uid] = tx
        return tx.uid

    def begin(self) -> Any:
        """Start a transaction; returns its identifier. The first open one of a thread is the current one."""
        uid = self._begin()
        if self.current_tx is None:
            self._thread.current = self.global_tx[uid]
        return uid

    def last(self) -> Transaction:
        """The current transaction. Raises TypeError when there is none."""
        tx: Transaction | None = self.current_tx
        if tx is None:
            raise TypeError("start a transaction first")
        return tx

    def drop(self, tid: Any = None) -> None:
        """Forget a transaction, the current one by default. Raises TypeError when there is none."""
        tx = self.current_tx if tid is None else self.global_tx[tid]
        if tx is None:
            raise TypeError("no transaction")
        if self.current_tx is tx:
            self._thread.current = None
        self.local_tx.pop(tx.uid, None)
        self.global_tx.pop(tx.uid, None)

    def review(self, tid: Any = None) -> dict[str, Any]:
        """What the transaction would change: new values, and '+name'/'-name' for each set.

        Raises TypeError when there is no transaction.
        """
        tx = self.last() if tid is None else self.global_tx[tid]
        if self["ipdb_scope"] == "create":
            result = {key: value for key, value in self.items() if value is not None and key not in self._sets}
            result.update(tx)
            for name in self._sets:
                wanted = tx._effective(name)
                result["+" + name] = wanted if isinstance(wanted, NextHopSet) else set(wanted)
        else:
            result = dict(tx._changes())
            for name in self._sets:
                base = dict.get(self, name, ())
                result["-" + name] = {key for key in tx._out[name] if key in base}
                result["+" + name] = {key for key in tx._in[name] if key not in base}
        for sign_name, item in tx._later:
            result.setdefault(sign_name, set()).add(f"*{item}")
        return result

    def snapshot(self, sid: Any = None) -> Any:
        """Keep a copy of the present state; returns its identifier, for `revert()`."""
        if self._ipdb._stop:
            raise RuntimeError("Can't create snapshots on released IPDB")
        sid = sid or uuid.uuid4()
        self._snapshots[sid] = self.pick()
        return sid

    def last_snapshot_id(self) -> Any:
        """The identifier of the last snapshot."""
        return next(reversed(self._snapshots))

    def last_snapshot(self) -> Any:
        """The last snapshot. Raises TypeError when there is none."""
        if not self._snapshots:
            raise TypeError("create a snapshot first")
        return self._snapshots[self.last_snapshot_id()]

    def revert(self, sid: Any) -> Any:
        """Make a transaction that leads back to a snapshot; `commit()` applies it."""
        tx = self.global_tx[self._begin()]
        self._aim(tx, self._snapshots.pop(sid))
        self._thread.current = tx
        return self

    def _aim(self, tx: Transaction, target: Record) -> None:
        """Fill `tx` with what leads from here to `target`."""
        for key in self._restorable(target):
            value = target[key]
            if value != self[key]:
                dict.__setitem__(tx, key, dict(value) if isinstance(value, NestedFields) else value)
        for name in self._sets:
            for key in target[name]:
                tx._include(name, key, target[name][key] if not isinstance(target[name], NextHopSet) else None)
            for key in self[name]:
                if key not in target[name]:
                    tx._exclude(name, key)

    def _restorable(self, target: Record) -> Iterable[str]:
        return [key for key in target if key not in self._sets and key not in ("ipdb_scope", "ipdb_priority")]

    def register_commit_hook(self, hook: Callable[[dict[str, Any], dict[str, Any], dict[str, Any]], Any]) -> None:
        """Call `hook(now, before, transaction)` at the end of each commit; its exception rolls the commit back."""
        self._commit_hooks.append(hook)

    def unregister_commit_hook(self, hook: Callable[..., Any]) -> None:
        """Remove a hook."""
        self._commit_hooks = [item for item in self._commit_hooks if item != hook]

    def __enter__(self) -> Any:
        if self._mode == "readonly":
            return self
        if self._mode not in ("implicit", "explicit"):
            raise TypeError("context managers require a transactional mode")
        self._thread.opened = self.begin() if self.current_tx is None else None
        return self

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        if self._mode == "readonly":
            return
        opened, self._thread.opened = self._thread.opened, None
        if kind is not None:
            # the statement has failed: what it wanted is not to be applied by the next one
            if opened in self.global_tx:
                self.drop(opened)
            return
        try:
            self.commit()
        except Exception as error:
            self._last_error = error
            raise

    def commit(self, tid: Any = None, transaction: Transaction | None = None) -> Any:
        """Apply a transaction, the current one by default; returns the object.

        On return the views show the result. If a step fails, all that was done is taken back and an exception is
        raised that is a `CommitException` and of the class of what went wrong; the transaction stays open (see
        `IPDB.txdrop`), to be changed and committed again or dropped. `debug` of the exception has the review and
        the errors of the rollback.

        Raises: CommitException; CreateException (a CommitException too) when a new object could not be made;
        PartialCommitException; TypeError in explicit mode without a transaction.
        """
        ipdb = self._ipdb
        if self._mode == "invalid":
            raise RuntimeError("the object is not in the database")
        tx = transaction or (self.global_tx[tid] if tid is not None else self.current_tx)
        if tx is None:
            if self._mode == "explicit":
                raise TypeError("start a transaction first")
            if self["ipdb_scope"] != "create":
                return self
            tx = self.global_tx[self.begin()]
        ipdb._check()
        ipdb._apply([(self, tx)])
        return self

    # what each kind of record does

    def _apply(self, tx: Transaction, undo: UndoLog) -> None:
        raise NotImplementedError

    def _reread(self) -> None:
        raise NotImplementedError

    def _leave(self) -> None:
        """Take the record out of the mapping it is in; the lock is held."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Take the record out of the database."""
        with self._ipdb._cond:
            self._leave()
            self._set_scope("detached")


class NestedFields(Fields):
    """A dictionary inside a record: changing it is a change of the record."""

    def __init__(self, parent: Record, name: str, values: Any = ()) -> None:
        super().__init__(values)
        self._parent = parent
        self._name = name

    def __missing__(self, key: Any) -> Any:
        return None

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):
            object.__setattr__(self, key, value)
        else:
            self[key] = value

    def __setitem__(self, key: Any, value: Any) -> None:
        def put(tx: Transaction) -> None:
            pending = dict(tx.get(self._name, None) or self)
            pending[key] = value
            dict.__setitem__(tx, self._name, pending)

        self._parent._change(put)

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)
