"""One task in a process of its own: open its arguments, call the function, say how it ended, and leave."""

from __future__ import annotations

import atexit
import base64
import contextlib
import gc
import io
import json
import os
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, BinaryIO, Final, NamedTuple, NoReturn, cast

from hpcflow.node.bagdir import BagDirectory, Stored, TaskRow, read_range
from hpcflow.node.files import append_all
from hpcflow.node.preview import of_arguments, of_result
from hpcflow.node.processes import die_with_parent, prefer_for_oom, waited_for_a_core
from hpcflow.node.values import CannotStore, LimitReached, Sink, StoredValue
from hpcflow.sdk.by_value import importable_now, let_import
from hpcflow.sdk.context import enter
from hpcflow.sdk.pickling import dump, dumps, load_with
from hpcflow.sdk.settled import settled

__all__ = [
    "EXIT_STORAGE",
    "REPORTED",
    "Assignment",
    "Outlet",
    "encode",
    "flush_output",
    "load_function",
    "outcome",
    "refusal",
    "reseed",
    "run_task",
    "say_and_leave",
    "settle",
    "write_lines_at_once",
]

#: The task's process could not store its result, though the function returned (EX_TEMPFAIL of sysexits.h).
EXIT_STORAGE: Final = 75

#: What a message says of a task that its `end` record repeats.
REPORTED: Final = ("st", "r", "sub", "exc", "kinds", "msg", "tb", "pv", "up")

#: Values from this size on, in bytes, are not held in memory beside what they are unpickled to.
_LARGE: Final = 1 << 20
_TRACEBACK_LIMIT: Final = 16 * 1024
_SENTENCE_LIMIT: Final = 2000
#: Names of an exception's classes that a record holds.
_KINDS_LIMIT: Final = 20
#: Programs that a function calls by their bare names inside its allocation.
_LAUNCHERS: Final = frozenset({"srun", "mpirun", "mpiexec"})
_EIGHT_WORDS: Final = struct.Struct("8I")


class Outlet(NamedTuple):
    """Where a task's process leaves what it has to say."""

    #: Pipe to the worker. One message of at most ``message_limit`` bytes fits, so that writing never waits.
    pipe: int
    message_limit: int
    #: The worker's data pack, opened for appending, and its name below the bag.
    data: int
    data_name: str


class Assignment(NamedTuple):
    """One task, and all that its process needs beside the bag."""

    task: TaskRow
    #: Results of tasks before this one in its unit, by task index.
    earlier: Mapping[int, Stored]
    outlet: Outlet
    #: Where it runs, with which umask, and the worker that it dies with.
    directory: str
    umask: int
    worker_pid: int
    #: What the function returns is wanted.
    keeps_result: bool = True


def load_function(bag: BagDirectory, fn: int) -> Callable[..., object]:
    function: Callable[..., object] = load_with(bag.blob(fn))
    _modules[id(function)] = importable_now()
    return function


#: What a function that is loaded may import of what travelled, by the function's id: another may bring later versions.
_modules: Final[dict[int, list[ModuleType]]] = {}


def run_task(bag: BagDirectory, assignment: Assignment, function: Callable[..., object] | None) -> NoReturn:
    """Run one task in this process, just forked or started for it, and never return.

    Args:
        function: what the worker has loaded already; ``None``: load it here.
    """
    me = os.getpid()
    try:
        settle(assignment)
        message = outcome(bag, assignment, function, alone=True)
        if os.getpid() == me:
            say_and_leave(assignment.outlet, message, bag.grace_s)
        os._exit(0)  # the function forked and returned in both processes; the first one speaks
    finally:
        os._exit(EXIT_STORAGE)


def say_and_leave(outlet: Outlet, message: Mapping[str, object], grace_s: float) -> NoReturn:
    """Tell the worker how the last task of this process ended, and end as any program does, within ``grace_s``."""
    code = EXIT_STORAGE
    try:
        flush_output()
        append_all(outlet.pipe, encode(message, outlet.message_limit))
        if "fault" not in message:
            _run_exit_functions(grace_s)
            flush_output()
            code = 0 if message["st"] == "ok" else 1
    finally:
        os._exit(code)


def _run_exit_functions(grace_s: float) -> None:
    """Do what any program does at its end, but for threads that still run: they are cut off.

    `multiprocessing` waits there for the processes that a task did not wait for. The result is safe by now, and an
    allocation is not held for them: SIGALRM ends it.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, max(grace_s, 0.1))
    # What `concurrent.futures` shuts its pools down with; without it, their processes are waited for in vain.
    for function in reversed(getattr(sys.modules.get("threading"), "_threading_atexits", [])):
        with contextlib.suppress(Exception):
            function()
    atexit._run_exitfuncs()


def settle(assignment: Assignment) -> None:
    """Turn a process that was just forked or started into one that user code may have."""
    die_with_parent(assignment.worker_pid)
    os.setsid()
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    prefer_for_oom()
    os.umask(assignment.umask)
    gc.enable()
    # Python re-seeds `random` in a forked child, numpy does not: all tasks would draw the same numbers.
    _seed("numpy.random")


def reseed() -> None:
    """Let a further task of this process draw other random numbers, whatever the one before it did to them."""
    _seed("random")
    _seed("numpy.random")


def _seed(module: str) -> None:
    # Not imported here: what `random` registers to run in every forked child costs 0.2 ms.
    if (loaded := sys.modules.get(module)) is not None:
        entropy = os.urandom(_EIGHT_WORDS.size)
        # Without an argument numpy gathers entropy for 170 us.
        loaded.seed(entropy if module == "random" else _EIGHT_WORDS.unpack(entropy))


def outcome(
    bag: BagDirectory, assignment: Assignment, function: Callable[..., object] | None, *, alone: bool = False
) -> dict[str, Any]:  # Any: JSON
    """Run a task and return the message to the worker; ``took`` is the run time in seconds, without waits for a core.

    Args:
        bag: its bag.
        assignment: which one, and what it needs.
        function: what it calls; ``None``: load it here.
        alone: no other task runs in this process, nor any other rank beside it.
    """
    begun, waited = time.monotonic(), waited_for_a_core() if alone else 0.0
    message: dict[str, object] = {"i": assignment.task.number, "n": assignment.task.attempt}
    try:
        message.update(_result_or_error(bag, assignment, function, alone=alone))
    except CannotStore as error:
        message["fault"] = str(error)
    # Of a series nobody looks at it, and to ask would take as long as a short task.
    waited = waited_for_a_core() - waited if alone else 0.0
    message["took"] = round(time.monotonic() - begun - waited, 5)
    return message


def _result_or_error(
    bag: BagDirectory, assignment: Assignment, function: Callable[..., object] | None, *, alone: bool
) -> dict[str, object]:
    task, outlet = assignment.task, assignment.outlet
    message: dict[str, object] = {"st": "ok"}
    builds, leaving = False, dict[str, object]()
    sink = _sink(bag, outlet)  # before the task sets itself limits
    try:
        os.chdir(assignment.directory)
        known = len(sys.modules)

        def hand(key: str, file: BinaryIO) -> None:
            leaving[key] = _laid(bag, outlet, file)

        enter(bag.dispatch, task.number, lambda key, file: bag.pour(task.refs[f"file:{key}"], file), hand)
        call = load_function(bag, task.fn) if function is None else function
        builds = getattr(call, "builds_graph", False) is True
        for module in _modules.get(id(call), ()):
            let_import(module)
        try:
            args, kwargs = _arguments(bag, task, assignment.earlier)
        except Exception as error:
            what = f"The arguments of {task.name} can't be opened on {os.uname().nodename}: {_text(error)}"
            return {**message, **_failure(bag, outlet, error), "msg": what[:_SENTENCE_LIMIT]}
        if len(sys.modules) > known:
            message["mods"] = list(sys.modules)[known:]
        seen: dict[str, object] = {"in": of_arguments(call, args, kwargs)} if assignment.keeps_result else {}
        message["pv"] = seen
        result = settled(call(*args, **kwargs), task.name)
        if not assignment.keeps_result:
            return message
    except BaseException as error:  # SystemExit and KeyboardInterrupt of the user's code are its failure as well
        failure = _failure(bag, outlet, error)
        if builds:
            failure["msg"] = f"The sublattice {task.name} could not be built: {failure['msg']}"[:_SENTENCE_LIMIT]
        return {**message, **failure}
    if builds:
        message["sub"] = 1
    if leaving:
        message["up"] = leaving
    try:
        if builds:
            sink.write(cast(bytes, result))
        else:
            dump(result, sink)
        stored = sink.finished()
        if not builds:
            seen["out"] = of_result(result, alone=alone)
        return {**message, "r": stored}
    except CannotStore:
        raise
    except LimitReached as error:
        sentence = (
            f"The result of {task.name} is too large. {error} is more than its process may write into one file "
            "(ulimit -f, RLIMIT_FSIZE)."
        )
        return {**message, **refusal("ResultTooLarge", sentence)}
    except BaseException as error:  # pickling runs the user's own __reduce__ and __getstate__
        sink.begin_again()
        kind = type(result)
        sentence = (
            f"The result of {task.name} is of type {kind.__module__}.{kind.__qualname__} and can't be pickled: "
            f"{_text(error)}. Return plain values, arrays or objects that pickle can save."
        )
        return {**message, **refusal("ResultNotPicklable", sentence), "tb": _traceback(error)}


def refusal(name: str, sentence: str) -> dict[str, object]:
    """Return a failure of hpcflow's own making, as a message says it."""
    return {"st": "error", "exc": name, "kinds": [name], "msg": sentence}


def _arguments(
    bag: BagDirectory, task: TaskRow, earlier: Mapping[int, Stored]
) -> tuple[Iterable[Any], Mapping[str, Any]]:  # Any: the user's values
    cache: dict[str, object] = {}

    def value(key: str) -> object:
        if key not in cache:
            ref = task.refs[key]
            if isinstance(ref, dict) and "out" in ref:  # what a sublattice returned, with its tasks' results in place
                base = ref["base"]
                cache[key] = load_with(bag.blob(ref["out"]), lambda index: value(f"@{base + index}"))
            else:
                cache[key] = _referenced(bag, ref, key, earlier)
        return cache[key]

    # Tasks of a sublattice have higher numbers than its own: from the top down, no depth of nesting costs recursion.
    for number in sorted((int(key[1:]) for key in task.refs if key.startswith("@")), reverse=True):
        if isinstance(task.refs[f"@{number}"], dict):
            value(f"@{number}")
    loaded: Any = load_with(bag.blob(task.args), lambda index: value(str(index)))
    args, kwargs = loaded
    return args, kwargs


def _referenced(bag: BagDirectory, ref: Any, key: str, earlier: Mapping[int, Stored]) -> object:  # Any: JSON
    """Return the value that a reference names, read as it is unpickled where it is large."""
    if isinstance(ref, int):
        return load_with(bag.blob(ref))
    if isinstance(ref, list):
        path, offset, size, digest = cast("tuple[str, int, int, str]", ref)
    else:
        stored = earlier[int(key) if ref is None else cast("dict[str, int]", ref)["unit"]]
        if "b" in stored:
            return load_with(base64.b64decode(stored["b"]))
        path, offset, size, digest = bag.place(stored["f"])
    if size < _LARGE:
        return load_with(read_range(path, offset, size, digest))
    with io.BufferedReader(StoredValue(path, offset, size, digest), _LARGE) as file:
        return load_with(file)


def _failure(bag: BagDirectory, outlet: Outlet, error: BaseException) -> dict[str, object]:
    report = _traceback(error)
    print(report, file=sys.stderr, end="")
    kinds = [kind.__name__ for kind in type(error).__mro__[:-1]][:_KINDS_LIMIT]
    said = _text(error) + _hint(error) + _notes(error)
    fields: dict[str, object] = {"st": "error", "exc": kinds[0], "kinds": kinds, "msg": said, "tb": report}
    try:
        pickled = dumps(error)
        # An exception whose __init__ takes other arguments than it passes on is saved, yet can't be loaded.
        if isinstance(load_with(pickled), BaseException):
            sink = _sink(bag, outlet)
            sink.write(pickled)
            fields["r"] = sink.finished()
    except CannotStore:
        raise
    except BaseException:  # the text says it all
        pass
    return fields


def _laid(bag: BagDirectory, outlet: Outlet, file: BinaryIO) -> dict[str, object]:
    """Lay a file into the data pack, from where the server brings it away; return where it lies."""
    sink = Sink(outlet, inline_limit=0, sync=bag.sync_s is not None)
    while piece := file.read(_LARGE):
        sink.write(piece)
    return sink.finished()


def _sink(bag: BagDirectory, outlet: Outlet) -> Sink:
    return Sink(outlet, inline_limit=bag.inline_limit, sync=bag.sync_s is not None)


def encode(message: Mapping[str, object], limit: int) -> bytes:
    """Return a message as the pipe takes it, a line, without its longest parts when it would not fit."""
    line = b"\n%s\n" % json.dumps(message, separators=(",", ":")).encode()
    if len(line) <= limit:
        return line
    shorter = {key: text[:_SENTENCE_LIMIT] if isinstance(text, str) else text for key, text in message.items()}
    shorter.pop("mods", None)
    shorter.pop("pv", None)
    return b"\n%s\n" % json.dumps(shorter, separators=(",", ":")).encode()


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_SENTENCE_LIMIT]
    except BaseException as second:  # the user's own __str__
        return f"its text can't be made ({type(second).__name__})"


def _hint(error: BaseException) -> str:
    """Return what to do about an error that says too little."""
    if isinstance(error, FileNotFoundError) and error.filename in _LAUNCHERS:
        return f". It is not on PATH on {os.uname().nodename}: load it in the prologue of clusters.toml."
    return ""


def _notes(error: BaseException) -> str:
    """Return what was noted on an error on its way: the hook that it comes from, or what the user's code adds."""
    notes = getattr(error, "__notes__", ())
    return "".join(f" ({note})" for note in notes if isinstance(note, str))[:_SENTENCE_LIMIT]


def _traceback(error: BaseException) -> str:
    """Return the traceback from the user's first frame on, the middle left out when it is long."""
    try:
        begin = error.__traceback__
        lines = io.StringIO()
        traceback.print_exception(type(error), error, begin.tb_next if begin is not None else None, file=lines)
        text = lines.getvalue()
    except BaseException as second:  # the user's own __str__, or a recursion that is still too deep
        text = f"{type(error).__name__}: its traceback can't be made ({type(second).__name__})\n"
    half = _TRACEBACK_LIMIT // 2
    return text if len(text) <= _TRACEBACK_LIMIT else f"{text[:half]}\n[...]\n{text[-half:]}"


def write_lines_at_once() -> None:
    """Let stdout hold back no whole line: what programs that a task starts print stays in order, and can be watched."""
    with contextlib.suppress(AttributeError, ValueError):  # something else stands in its place
        cast("io.TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)


def flush_output() -> None:
    """Write out what Python still holds back of stdout and stderr."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):  # the task closed or replaced it
            continue
