"""`Executor`: Python's own `concurrent.futures.Executor` over an open dispatch. See ADR 0029.

Calls that are submitted within a moment travel together, and join the workers that are there. One thread sends, one
follows.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Unpack, cast
from weakref import WeakSet

from hpcflow.core.model import HpcflowError, UserError
from hpcflow.core.states import CODES, FINAL, State
from hpcflow.sdk.annotations import ExecutorSettings
from hpcflow.sdk.body import CallEach
from hpcflow.sdk.client import changes, send_part, server_of_ours, summary_of, tell
from hpcflow.sdk.connection import Server, ServerUnreachable
from hpcflow.sdk.functions import name_of
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import ExecutorLike, Options, parse_options
from hpcflow.sdk.plain import plain
from hpcflow.sdk.results import Result
from hpcflow.sdk.terminal import why_paused
from hpcflow.sdk.trace import Trace
from hpcflow.sdk.workflow import Electron, Lattice

if TYPE_CHECKING:
    pass

__all__ = ["Executor", "Future", "TaskFailed"]

P = ParamSpec("P")
T = TypeVar("T")

#: What is submitted within so many seconds, and as long as the last part took to send, travels together.
_WINDOW_S: Final = 0.01
_WINDOW_MOST_S: Final = 1.0
#: Calls that travel together, at most; and tasks whose values are fetched at once.
_PART: Final = 10_000
_FETCHED: Final = 1000
#: How long the end of a program waits until what it submitted is sent.
_LAST_WORD_S: Final = 30.0
_LETTERS: Final = {letter: state for state, letter in CODES.items()}


class TaskFailed(HpcflowError):
    """A task ended without a value and without an exception of its own: it was killed, or could not run."""


class Future(futures.Future[T]):
    """A call that was submitted. `cancel` works for what has not begun."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor
        #: Its task's number in the executor's dispatch; ``None``: it is not sent yet.
        self.task: int | None = None

    def cancel(self) -> bool:
        """Cancel the call unless it has begun or ended; return whether it is cancelled.

        Nobody can know the moment when a worker far away begins: what begins just then runs, and its value is lost.
        """
        return self._executor._cancel([self]) == 1 or self.cancelled()

    def _cancelled_here(self) -> bool:
        """Let those who wait know that it is cancelled; ``False``: it had begun or ended."""
        if super().cancel():
            with suppress(futures.InvalidStateError, RuntimeError):  # it was told before
                if self._state == "CANCELLED":
                    self.set_running_or_notify_cancel()
            return True
        return False


class _Batch:
    """Calls that will travel together."""

    def __init__(self, executor: Executor) -> None:
        self.trace = Trace(executor.name, executor._annotations)
        #: By their calls' numbers in the trace. An interrupt may leave a call without a future, and nobody misses it.
        self.futures: dict[int, Future[Any]] = {}  # Any: whatever calls return


class Executor(futures.Executor):
    """Runs calls as tasks: on a cluster, or in processes of this machine.

    ``with hf.Executor("slurm", cpus=1, memory="2 GB") as ex: list(ex.map(f, xs))``. It is one of Python's own, with
    `submit`, `map` and `shutdown`, and all functions of `concurrent.futures` take its futures. Everything that is
    submitted is one dispatch, `dispatch_id`, whose tasks share workers.
    """

    def __init__(
        self,
        where: str | ExecutorSettings | ExecutorLike | None = None,
        /,
        *,
        name: str = "executor",
        **options: Unpack[Options],
    ) -> None:
        """Describe where calls run, and with what; nothing is sent yet.

        Args:
            where: a cluster's name, or an executor; without it the server's default cluster.
            name: what the dispatch is called.
            options: annotations, as an electron's.
        """
        show_plainly()
        if where is not None:
            options["executor"] = where
        self.name = name
        self._annotations = parse_options(options, "Executor")
        self._lock = threading.RLock()
        # An interrupt may come at any moment of `put`, which is one step; an Event would keep its lock for ever.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._electrons: dict[int, Electron[..., Any]] = {}  # Any: whatever they return
        self._batch: _Batch | None = None
        self._dispatch: str | None = None
        self._running: dict[int, Future[Any]] = {}  # Any: as above
        self._took_s = 0.0
        self._gathering = 0
        self._closed = False
        self._failure: Exception | None = None
        self._sender: threading.Thread | None = None
        self._follower: threading.Thread | None = None
        _OPEN.add(self)

    @property
    def dispatch_id(self) -> str | None:
        """The dispatch whose tasks the calls are; ``None`` before anything was sent."""
        return self._dispatch

    def __repr__(self) -> str:
        return f"<Executor {self.name}, dispatch {self._dispatch or 'not begun'}>"

    # ---- Python's own

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have ``fn(*args, **kwargs)`` called, and return a future of its value.

        What can't be sent, a function or its arguments, is the future's exception.

        Raises:
            RuntimeError: the executor was shut down.
            UserError: it is no function, or a lattice.
        """
        future: Future[T] = Future(self)
        with self._lock:
            self._refuse_closed()
            if self._batch is None:
                self._electrons.clear()  # a batch keeps its own alive
                self._batch = _Batch(self)
            electron = self._electron(fn)
            try:
                call = self._batch.trace.call(electron, args, kwargs)
            except (UserError, TypeError) as error:  # as in Python's own: the future tells
                future.set_exception(error)
                return future
            self._batch.futures[call._hf_task] = future
            if self._sender is None:
                sender = threading.Thread(target=self._send_all, name="hpcflow-sender", daemon=True)
                sender.start()
                self._sender = sender
            full = len(self._batch.futures) >= _PART
        if full or not self._gathering:
            self._wake.put(None)
        return future

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """Return the values of ``fn`` for these arguments, in their order, as Python's own executors do.

        Args:
            fn: called with one item of each iterable, up to the end of the shortest.
            iterables: are read at once, or as values are taken where ``buffersize`` is given.
            timeout: seconds from now after which a value that is not there yet raises `TimeoutError`.
            chunksize: so many calls are one task. Short tasks share workers and processes by themselves.
            buffersize: so many values are on their way at once, and no more.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if buffersize is not None and buffersize < 1:
            raise ValueError("buffersize must be None or > 0")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls = zip(*iterables, strict=False)
        if chunksize == 1:
            return self._mapped(fn, calls, deadline, buffersize)
        chunks = iter(lambda: list(islice(calls, chunksize)), [])
        ahead = None if buffersize is None else max(1, buffersize // chunksize)
        whole = self._mapped(_each(fn), ((chunk,) for chunk in chunks), deadline, ahead)
        return (value for values in whole for value in values)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; what was submitted goes on.

        Args:
            wait: come back when all has ended.
            cancel_futures: cancel what has not begun.
        """
        with self._lock:
            self._closed = True
            waiting = list(self._running.values())
            if self._batch is not None:
                waiting += self._batch.futures.values()
        if cancel_futures:
            self._cancel(waiting)
        self._wake.put(None)
        for thread in (self._sender, self._follower):
            if wait and thread is not None and thread is not threading.current_thread():
                thread.join()

    # ---- what is submitted

    def _mapped(
        self, fn: Callable[..., Any], calls: Iterator[tuple[Any, ...]], deadline: float | None, ahead: int | None
    ) -> Generator[Any]:
        waiting: deque[Future[Any]] = deque()  # Any: whatever calls return
        first = calls if ahead is None else islice(calls, ahead)
        self._gathering += 1  # all of them travel together
        try:
            waiting.extend(self.submit(fn, *call) for call in first)
        except BaseException:
            self._cancel(list(waiting))
            raise
        finally:
            self._gathering -= 1
            self._wake.put(None)

        def values() -> Generator[Any]:
            try:
                while waiting:
                    if ahead is not None and (call := next(calls, None)) is not None:
                        waiting.append(self.submit(fn, *call))
                    left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
                    yield waiting.popleft().result(left_s)
            finally:
                self._cancel(list(waiting))

        return values()

    def _electron(self, fn: Callable[..., Any]) -> Electron[..., Any]:  # Any: whatever it returns
        known = self._electrons.get(id(fn))
        if known is not None and (known is fn or known.function is fn):
            return known
        if isinstance(fn, Lattice) or (isinstance(fn, Electron) and fn.composes):
            raise UserError(f"An Executor calls functions, and {name_of(fn)!r} is a lattice: dispatch it.")
        if not callable(fn):
            raise UserError(f"An Executor calls functions, not {fn!r}.")
        electron = cast("Electron[..., Any]", fn) if isinstance(fn, Electron) else Electron(fn, parse_options({}, ""))
        self._electrons[id(fn)] = electron
        return electron

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self._failure is not None:
            raise self._failure

    def _cancel(self, wanted: Sequence[Future[Any]]) -> int:
        """Cancel those that have not begun, with one request for all; return how many were."""
        asked: dict[int, Future[Any]] = {}
        cancelled = 0
        with self._lock:
            for future in wanted:
                if future.done() or future.running():
                    continue
                if future.task is None:  # not sent: it will be, and cancelled at once
                    cancelled += future._cancelled_here()
                else:
                    asked[future.task] = future
        if asked and self._dispatch is not None:
            cancelled += sum(future._cancelled_here() for future in self._withdraw(asked))
        return cancelled

    def _withdraw(self, asked: Mapping[int, Future[Any]]) -> list[Future[Any]]:
        body = {"tasks": sorted(asked), "begun": False}
        answer = server_of_ours().ask("POST", f"/dispatches/{self._dispatch}/cancel", body=body)
        return [asked[task] for task in answer.get("tasks") or ()]

    # ---- the thread that sends

    def _send_all(self) -> None:
        with self._lock:  # an interrupt of `start` may leave this thread unknown, and have `submit` start another
            if self._sender not in {None, threading.current_thread()}:
                return
            self._sender = threading.current_thread()
        try:
            while True:
                self._wake.get()
                if not self._closed:
                    time.sleep(min(_WINDOW_MOST_S, _WINDOW_S + self._took_s))
                with suppress(Empty):
                    while True:
                        self._wake.get_nowait()
                with self._lock:
                    batch, self._batch = self._batch, None
                    last = self._closed
                if batch is not None and batch.futures:
                    self._send(batch)
                if last and self._batch is None:
                    break
            if self._dispatch is not None:
                send_part(_Batch(self).trace.finished(None, may_be_empty=True), into=self._dispatch, last=True)
        except Exception as error:  # nobody may wait for ever
            if self._dispatch is None or not _is_closed(self._dispatch):
                self._fail(error)

    def _send(self, batch: _Batch) -> None:
        begun = time.monotonic()
        try:
            dispatch, first = send_part(batch.trace.finished(None), into=self._dispatch)
        except Exception as error:  # nobody may wait for ever
            for future in batch.futures.values():
                with suppress(futures.InvalidStateError):  # cancelled
                    future.set_exception(error)
            if isinstance(error, ServerUnreachable) or not isinstance(error, HpcflowError):
                self._fail(error)
            return
        self._took_s = time.monotonic() - begun
        withdrawn: dict[int, Future[Any]] = {}
        with self._lock:
            self._dispatch = dispatch
            for call, future in batch.futures.items():
                future.task = first + call
                if future.cancelled():
                    withdrawn[first + call] = future
                else:
                    self._running[first + call] = future
            if self._follower is None:
                follower = threading.Thread(target=self._follow, name="hpcflow-follower", daemon=True)
                follower.start()
                self._follower = follower
        if withdrawn:
            self._withdraw(withdrawn)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._failure = error
            lost = [*self._running.values(), *(self._batch.futures.values() if self._batch is not None else ())]
            self._running.clear()
            self._batch = None
        for future in lost:
            if not future.done():
                future.set_exception(error)

    # ---- the thread that follows

    def _follow(self) -> None:
        assert self._dispatch is not None  # who starts it has sent something
        try:
            server = server_of_ours()
            told: str | None = None
            for summary in changes(server, summary_of(server, self._dispatch)):
                if summary.paused not in {None, told}:
                    tell(plain(why_paused(summary)))
                told = summary.paused
                self._look(server)
                if self._closed and not self._running and not self._is_sending():
                    return
            self._look(server)
            self._give_up(server)
        except Exception as error:  # nobody may wait for ever
            self._fail(error)

    def _is_sending(self) -> bool:
        return self._sender is not None and self._sender.is_alive()

    def _look(self, server: Server) -> None:
        """Tell futures what became of their tasks."""
        with self._lock:
            running = dict(self._running)
        if not running:
            return
        letters: str = server.ask("GET", f"/dispatches/{self._dispatch}/states")["states"]
        ended: list[int] = []
        for task, future in running.items():
            state = _LETTERS[letters[task]] if task < len(letters) else State.WAITING
            if state in FINAL:
                ended.append(task)
            elif state is State.RUNNING and not future.running() and not future.cancelled():
                with suppress(futures.InvalidStateError, RuntimeError):  # cancelled just now
                    future.set_running_or_notify_cancel()
        for start in range(0, len(ended), _FETCHED):
            self._deliver(server, ended[start : start + _FETCHED], letters)

    def _deliver(self, server: Server, tasks: Sequence[int], letters: str) -> None:
        completed = [task for task in tasks if _LETTERS[letters[task]] is State.COMPLETED]
        lost = [task for task in tasks if _LETTERS[letters[task]] is not State.COMPLETED]
        result = Result(server, summary_of(server, cast(str, self._dispatch)))
        outcome = result.outcomes(completed) | {task: self._why(result, task) for task in lost}
        for task in tasks:
            with self._lock:
                future = self._running.pop(task, None)
            if future is None or future.done():
                continue
            value, error = outcome[task]
            with suppress(futures.InvalidStateError):  # cancelled just now
                if _LETTERS[letters[task]] is State.CANCELLED and future._cancelled_here():
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(value)

    def _why(self, result: Result, task: int) -> tuple[object, BaseException | None]:
        """Return the exception of a task that failed: its own, else one that says why."""
        node = result.get_node_result(task)
        if node.state is State.CANCELLED:
            return None, futures.CancelledError(node.error or "It was cancelled.")
        try:
            error = node.exception
        except HpcflowError:  # its class is not here
            error = None
        error = error or TaskFailed(f"{node.error or 'It failed.'} {node.hint}".rstrip())
        error.add_note(
            f"In task {task} of dispatch {result.dispatch_id}: `hpcflow show {result.dispatch_id} --task {task}`."
        )
        return None, error

    def _give_up(self, server: Server) -> None:
        """Fail what is left of a dispatch that has ended: somebody cancelled it as a whole."""
        if self._closed and not self._running:
            return
        summary = summary_of(server, cast(str, self._dispatch))
        self._fail(TaskFailed(summary.error or f"Dispatch {summary.id} has ended: {summary.status}."))


def _is_closed(dispatch: str) -> bool:
    try:
        return summary_of(server_of_ours(), dispatch).ended
    except HpcflowError:
        return False


def _each(fn: Callable[..., T]) -> Callable[..., list[T]]:
    """Return what calls a function several times in one task; of an electron, one with its annotations."""
    if isinstance(fn, Electron) and not fn.composes:
        return cast("Callable[..., list[T]]", Electron(CallEach(fn.function), fn.annotations))
    return cast("Callable[..., list[T]]", CallEach(fn))


_OPEN: Final[WeakSet[Executor]] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Say that nothing more comes: what was submitted goes on, and its dispatch ends with it."""
    for executor in list(_OPEN):
        executor.shutdown(wait=False)
        if executor._sender is not None:
            executor._sender.join(_LAST_WORD_S)


def _left_behind() -> None:
    """In a fork of a process none of its threads goes on: let what it had refuse at once what it is given."""
    for executor in list(_OPEN):
        executor._lock = threading.RLock()  # a thread that is not here may have it
        executor._failure = RuntimeError(
            f"This hf.Executor belongs to process {os.getppid()}, and this is a fork of it, in which nothing sends "
            "what is submitted: make one in this process."
        )
    _OPEN.clear()


os.register_at_fork(after_in_child=_left_behind)
