"""Reads pickles without running them: every global stays a name, every call a record.

A pickle is a program for a small stack machine; the standard machine imports and calls whatever it names. This one
knows the same instructions and calls nothing. Imports the standard library only.
"""

from __future__ import annotations

import pickletools
import struct
from dataclasses import dataclass, field
from typing import Any

from sim2sky.errors import AgentError

__all__ = ["Global", "Pickle", "Record", "decode", "is_trusted", "scan_stream"]


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function a pickle names, e.g. `numpy.dtype`. It is never looked up."""

    name: str


@dataclass(slots=True, eq=False)
class Record:
    """What a pickle would have made by calling `function(*args, **kwargs)` and then filling the result in.

    Attributes:
        function: a `Global`, or another `Record` where the pickle calls what a call returned.
        state: what `__setstate__` would have been given.
        items: what would have been appended or added.
        pairs: what would have been set by key.
    """

    function: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[Any, Any] = field(default_factory=dict[Any, Any])
    state: Any = None
    items: list[Any] = field(default_factory=list[Any])
    pairs: list[tuple[Any, Any]] = field(default_factory=list[tuple[Any, Any]])

    @property
    def name(self) -> str:
        """Name of the class or function called; empty where it is computed."""
        return self.function.name if isinstance(self.function, Global) else ""


@dataclass(frozen=True, slots=True)
class Pickle:
    """A decoded pickle: its value, the globals it names, and the bytes it took."""

    value: Any
    names: frozenset[str]
    length: int


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What no agent needs and an attacker does. A module stands for everything below it.
_DANGEROUS_MODULES = _words(
    "os posix nt posixpath ntpath subprocess _posixsubprocess sys shutil socket _socket importlib _frozen_importlib "
    "imp runpy ctypes _ctypes cffi _cffi_backend pty webbrowser popen2 code codeop pdb bdb timeit cProfile profile "
    "trace doctest pydoc unittest pytest pip setuptools distutils ensurepip venv urllib urllib2 httplib http ftplib "
    "smtplib telnetlib xmlrpc poplib imaplib nntplib requests asyncio multiprocessing concurrent threading _thread "
    "signal faulthandler gc inspect types.FunctionType types.CodeType marshal pickle _pickle cPickle dill joblib "
    "shelve dbm sqlite3 zipimport pkgutil tempfile glob fileinput io _io linecache logging.config antigravity "
    "tkinter turtle idlelib platform.popen mmap fcntl atexit numpy.load numpy.save numpy.savez numpy.savetxt "
    "numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap numpy.testing numpy.distutils numpy.f2py "
    "numpy.lib.npyio numpy.DataSource numpy.ctypeslib torch.load torch.save torch.hub torch.jit torch.package "
    "torch.classes torch.ops torch.utils.cpp_extension torch.distributed torch.multiprocessing torch.serialization "
    "torch._inductor cloudpickle.load cloudpickle.loads cloudpickle.cloudpickle.load cloudpickle.cloudpickle.loads "
    "stable_baselines3.common.save_util operator.attrgetter operator.methodcaller _operator.attrgetter "
    "_operator.methodcaller operator.call _operator.call"
)
_DANGEROUS_BUILTINS = _words(
    "eval exec execfile compile open file input raw_input __import__ breakpoint globals locals vars setattr delattr "
    "exit quit help memoryview reload apply"
)
_BUILTINS = ("builtins.", "__builtin__.", "__builtins__.")
# A call of what one of these returns would run code that the file itself brings along.
_FUNCTION_MAKERS = ("_make_function", "_fill_function", "_make_skel_func", "getattr", "partial", "FunctionType")
_IMPORTERS = ("subimport", "dynamic_subimport", "_import_module")

# Roots of the names that appear in the fields that are read.
_TRUSTED_ROOTS = ("numpy", "gym", "gymnasium", "stable_baselines3", "sb3_contrib", "torch", "collections", "copyreg")
_TRUSTED_NAMES = _words(
    "_codecs.encode copy_reg._reconstructor builtins.bytearray builtins.bytes builtins.dict builtins.list "
    "builtins.tuple builtins.set builtins.frozenset builtins.object builtins.int builtins.float builtins.bool "
    "builtins.str builtins.slice builtins.range builtins.complex __builtin__.object __builtin__.set "
    "__builtin__.bytearray random.Random"
)


def is_trusted(name: str) -> bool:
    """Whether a name belongs to the libraries whose objects are understood (spaces, arrays, normalisers)."""
    return name.split(".", 1)[0] in _TRUSTED_ROOTS or name in _TRUSTED_NAMES


def _is_dangerous(name: str) -> bool:
    for prefix in _BUILTINS:
        if name.startswith(prefix):
            return name[len(prefix) :].split(".", 1)[0] in _DANGEROUS_BUILTINS
    parts = name.split(".")
    return any(".".join(parts[:i]) in _DANGEROUS_MODULES for i in range(1, len(parts) + 1))


def _check_key(value: Any, depth: int = 3) -> None:
    """Hashing tuples of shared tuples takes exponential time: refuse what no agent has."""
    if isinstance(value, tuple):
        if depth == 0 or len(value) > 64:
            raise ValueError("a key that is nested too deeply")
        for item in value:
            _check_key(item, depth - 1)


class _Mark:
    """The stack machine's mark."""


_MARK = _Mark()
_PUSH = _words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
    "BYTEARRAY8 UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 FLOAT BINFLOAT"
)
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def decode(data: bytes, where: str, *, storages: bool = False) -> Pickle:
    """Decode one pickle; nothing is imported, looked up or called.

    Args:
        data: the pickle; bytes after its end are ignored.
        where: what it is, for messages: `field 'lr_schedule'`.
        storages: allow persistent identifiers, by which torch files name their tensors' storages.

    Raises:
        AgentError: it names something no agent needs (`os.system`), or it is damaged.
    """
    machine = _Machine(where, storages)
    try:
        for opcode, arg, position in pickletools.genops(data):
            if opcode.name == "STOP":
                return Pickle(machine.pop(), frozenset(machine.names), (position or 0) + 1)
            machine.step(opcode.name, arg)
    except AgentError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        OverflowError,
        struct.error,
    ) as error:
        raise AgentError(f"{where} is damaged: {error!r}"[:300]) from error
    raise AgentError(f"{where} is damaged: it ends too early")


def scan_stream(data: bytes, where: str) -> None:
    """Decode the pickles that follow each other in a torch file of the format before zip (1.6).

    Raises:
        AgentError: one of them names something no agent needs, or is damaged.
    """
    for _ in range(5):  # magic number, version, system, tensors, storage keys; then raw storages
        data = data[decode(data, where, storages=True).length :]
        if not data:
            return


class _Machine:
    def __init__(self, where: str, storages: bool) -> None:
        self.where = where
        self.storages = storages
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("unexpected mark")
        return value

    def pop_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("no mark")
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values

    def refuse(self, name: str) -> AgentError:
        return AgentError(
            f"{self.where} refers to '{name}', which could run code; the file is refused and nothing of it was run",
            hint="get the agent from a source you trust, or save it again from your own training",
        )

    def find(self, module: str, name: str) -> Global:
        full = f"{module}.{name}"
        self.names.add(full)
        if _is_dangerous(full):
            raise self.refuse(full)
        return Global(full)

    def call(self, function: Any, args: Any, kwargs: Any = None) -> Record:
        if not isinstance(function, Global | Record) or not isinstance(args, tuple):
            raise TypeError(f"a {type(function).__name__} is called")
        if isinstance(function, Record):
            maker = function.name.rsplit(".", 1)[-1]
            if isinstance(function.function, Record) or maker in _FUNCTION_MAKERS:
                raise self.refuse(f"a call of what {maker or 'a call'}(...) returns")
        elif function.name == "torch.storage._load_from_bytes" and args and isinstance(args[0], bytes | bytearray):
            scan_stream(bytes(args[0]), self.where)  # a pickle inside the pickle: tensors among the training state
        elif (
            function.name.rsplit(".", 1)[-1] in _IMPORTERS
            and args
            and isinstance(args[0], str)
            and _is_dangerous(args[0])
        ):
            raise self.refuse(args[0])
        return Record(function, args, kwargs if isinstance(kwargs, dict) else {})

    def step(self, op: str, arg: Any) -> None:
        stack = self.stack
        if op in _PUSH:
            stack.append(arg)
        elif op in _CONSTANTS:
            stack.append(_CONSTANTS[op])
        elif op in ("PROTO", "FRAME"):
            pass
        elif op in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[arg])
        elif op in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[arg] = stack[-1]
        elif op == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif op == "MARK":
            stack.append(_MARK)
        elif op == "POP":
            stack.pop()
        elif op == "POP_MARK":
            self.pop_mark()
        elif op == "DUP":
            stack.append(stack[-1])
        elif op == "GLOBAL":
            module, _, name = arg.partition(" ")
            stack.append(self.find(module, name))
        elif op == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise TypeError("a global's name is not a text")
            stack.append(self.find(module, name))
        elif op in ("BINPERSID", "PERSID") and self.storages:
            stack.append(Record(Global("storage"), (self.pop() if op == "BINPERSID" else arg,)))
        elif op in _CONTAINERS:
            _CONTAINERS[op](self)
        elif op in _CALLS:
            _CALLS[op](self, arg)
        else:
            raise ValueError(f"instruction {op} has no place in an agent's file")

    def tuple_of(self, n: int) -> None:
        values = tuple(self.pop() for _ in range(n))
        self.stack.append(values[::-1])

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif isinstance(target, set):
            for value in values:
                _check_key(value)
            target.update(values)
        elif isinstance(target, Record):
            target.items.extend(values)
        else:
            raise TypeError(f"a {type(target).__name__} is appended to")

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        pairs = list(zip(values[::2], values[1::2], strict=True))
        if isinstance(target, dict):
            for key, _ in pairs:
                _check_key(key)
            target.update(pairs)
        elif isinstance(target, Record):
            target.pairs.extend(pairs)
        else:
            raise TypeError(f"a {type(target).__name__} is set by key")

    def dict_of(self, values: list[Any]) -> None:
        self.stack.append({})
        self.set_items(values)

    def frozen_set(self, values: list[Any]) -> None:
        for value in values:
            _check_key(value)
        self.stack.append(frozenset(values))

    def reduce(self) -> None:
        args = self.pop()
        self.stack.append(self.call(self.pop(), args))

    def new_with_keywords(self) -> None:
        kwargs, args = self.pop(), self.pop()
        self.stack.append(self.call(self.pop(), args, kwargs))

    def build(self) -> None:
        state = self.pop()
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state
        elif not isinstance(self.stack[-1], Global):
            raise TypeError(f"a {type(self.stack[-1]).__name__} is given a state")

    def instance(self, arg: str | None) -> None:
        args = self.pop_mark()
        if arg is None:  # OBJ: the class lies first on the stack
            self.stack.append(self.call(args[0], tuple(args[1:])))
        else:
            module, _, name = arg.partition(" ")
            self.stack.append(self.call(self.find(module, name), tuple(args)))


_CONTAINERS: dict[str, Any] = {
    "EMPTY_LIST": lambda m: m.stack.append([]),
    "EMPTY_DICT": lambda m: m.stack.append({}),
    "EMPTY_SET": lambda m: m.stack.append(set()),
    "LIST": lambda m: m.stack.append(m.pop_mark()),
    "TUPLE": lambda m: m.stack.append(tuple(m.pop_mark())),
    "FROZENSET": lambda m: m.frozen_set(m.pop_mark()),
    "DICT": lambda m: m.dict_of(m.pop_mark()),
    "TUPLE1": lambda m: m.tuple_of(1),
    "TUPLE2": lambda m: m.tuple_of(2),
    "TUPLE3": lambda m: m.tuple_of(3),
    "APPEND": lambda m: m.append([m.pop()]),
    "APPENDS": lambda m: m.append(m.pop_mark()),
    "ADDITEMS": lambda m: m.append(m.pop_mark()),
    "SETITEM": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    "SETITEMS": lambda m: m.set_items(m.pop_mark()),
}
_CALLS: dict[str, Any] = {
    "REDUCE": lambda m, _: m.reduce(),
    "NEWOBJ": lambda m, _: m.reduce(),
    "NEWOBJ_EX": lambda m, _: m.new_with_keywords(),
    "BUILD": lambda m, _: m.build(),
    "OBJ": lambda m, _: m.instance(None),
    "INST": lambda m, arg: m.instance(arg),
}
