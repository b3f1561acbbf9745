"""Executors of users' own: `run` is the body of each task, in its worker's process. The server sees `to_dict` alone."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar, NoReturn, Self, cast

from hpcflow.core.errors import UserError
from hpcflow.sdk.annotations import ExecutorSettings
from hpcflow.sdk.context import get_context
from hpcflow.sdk.options import Retries, parse_options

__all__ = ["AsyncBaseExecutor", "BaseExecutor"]

#: Attributes that say nothing to the user's own `run`.
_JSON: tuple[type, ...] = (str, int, float, bool, type(None))


class BaseExecutor:
    """Derive from it, and write `run`: what it returns is the task's result, what it raises the task's failure.

    ``@hf.electron(executor=MyExecutor(...))`` sends the instance with the task. There, in a process of the task's own
    on ``cluster``, its methods are called in the order `setup`, `run`, `teardown`; `teardown` also after a failure.
    """

    #: Where its tasks run: a cluster's name. By default processes of the server's machine.
    cluster: ClassVar[str] = "local"

    def __init__(
        self,
        log_stdout: str = "",
        log_stderr: str = "",
        *,
        time_limit: float = -1,
        retries: int = 0,
        **attributes: object,
    ) -> None:
        """Keep attributes.

        Args:
            log_stdout: for your own use; what a task prints is in its result in any case.
            log_stderr: likewise.
            time_limit: of one task, in seconds; -1: none.
            retries: further attempts of a task that failed, whatever it raised.
            attributes: for your own use.
        """
        self.log_stdout = log_stdout
        self.log_stderr = log_stderr
        self.time_limit = time_limit
        self.retries = retries
        for name, value in attributes.items():
            setattr(self, name, value)

    # ---- what you write

    def setup(self, task_metadata: dict[str, Any]) -> Any:  # Any: whatever you need
        """Prepare a task; nothing by default."""

    def run(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_metadata: dict[str, Any],
    ) -> Any:  # Any: whatever the function returns
        """Return what the function gives for these arguments.

        Args:
            function: the electron's, with its hooks.
            args: its arguments.
            kwargs: the same by name.
            task_metadata: ``dispatch_id``, ``node_id``, and ``results_dir``, the task's directory.
        """
        raise NotImplementedError(f"{type(self).__name__} has no run(function, args, kwargs, task_metadata).")

    def teardown(self, task_metadata: dict[str, Any]) -> Any:  # Any: whatever you need
        """Tidy up after a task, also after one that failed; nothing by default."""

    def cancel(self, task_metadata: dict[str, Any], job_handle: Any) -> Any:  # Any: what `set_job_handle` was given
        """End what `run` began elsewhere: the task is being cancelled, and its process ends after this."""

    # ---- what you may call

    def set_job_handle(self, handle: Any) -> Any:  # Any: whatever names it
        """Remember what `cancel` needs to end what `run` began elsewhere."""
        self.__dict__["_job_handle"] = handle
        return handle

    def get_cancel_requested(self) -> bool:
        """Return whether the task is being cancelled."""
        return bool(self.__dict__.get("_cancelled"))

    # ---- Covalent's own

    @property
    def attributes(self) -> dict[str, Any]:
        """Its attributes, by name."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def short_name(self) -> str:
        """Return its module's last name."""
        return type(self).__module__.rpartition(".")[2]

    def to_dict(self) -> dict[str, Any]:
        """Return it as ``{"type", "short_name", "attributes"}``: this is all that the server keeps of it."""
        return {"type": type(self).__name__, "short_name": self.short_name(), "attributes": self.attributes}

    def from_dict(self, described: Mapping[str, Any]) -> Self:
        """Take the attributes of what `to_dict` returned; return itself."""
        vars(self).update(described["attributes"])
        return self

    def settings(self) -> ExecutorSettings:
        """Return where its tasks run, and that it runs them."""
        where = type(self).__name__
        own = type(self)
        if own.run in {BaseExecutor.run, AsyncBaseExecutor.run}:
            raise UserError(f"{where} has no run(function, args, kwargs, task_metadata), which is what runs its tasks.")
        options: dict[str, object] = {}
        if self.__dict__.get("retries"):
            options["retries"] = Retries(self.retries, exceptions=True)
        limit_s = self.__dict__.get("time_limit") or -1
        if limit_s > 0:
            options["walltime"] = f"{-int(-limit_s // 1)} s"
        name = parse_options({"executor": self.cluster}, where).cluster
        return ExecutorSettings(name or "local", parse_options(options, where), _Own(self))

    # ---- how it is called

    def _call(self, name: str, *args: Any) -> Any:  # Any: the user's own
        return getattr(self, name)(*args)


class AsyncBaseExecutor(BaseExecutor):
    """The same with ``async def setup``, ``run``, ``teardown`` and ``cancel``."""

    async def setup(self, task_metadata: dict[str, Any]) -> Any:
        """Prepare a task; nothing by default."""

    async def run(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        task_metadata: dict[str, Any],
    ) -> Any:
        """Return what the function gives for these arguments, as `BaseExecutor.run` does."""
        raise NotImplementedError(f"{type(self).__name__} has no async run(function, args, kwargs, task_metadata).")

    async def teardown(self, task_metadata: dict[str, Any]) -> Any:
        """Tidy up after a task, also after one that failed; nothing by default."""

    async def cancel(self, task_metadata: dict[str, Any], job_handle: Any) -> Any:
        """End what `run` began elsewhere."""


@dataclass(frozen=True, eq=False)
class _Own:
    """A user's executor as what calls the functions of its tasks."""

    executor: BaseExecutor

    def call(self, function: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> object:
        here = get_context()
        about = {"dispatch_id": here.dispatch_id, "node_id": here.node_id, "results_dir": os.getcwd()}
        own = self.executor
        with _told_of_cancel(own, about):
            if not isinstance(own, AsyncBaseExecutor):
                own._call("setup", about)
                try:
                    return cast(object, own._call("run", function, list(args), dict(kwargs), about))
                finally:
                    own._call("teardown", about)
            return asyncio.run(_steps(own, function, args, kwargs, about))

    def described(self) -> dict[str, object]:
        return cast("dict[str, object]", _as_json(self.executor.to_dict()))


async def _steps(
    own: AsyncBaseExecutor,
    function: Callable[..., object],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    about: dict[str, Any],  # Any: as `run` has it
) -> object:
    await own.setup(about)
    try:
        result: object = await own.run(function, list(args), dict(kwargs), about)
    finally:
        await own.teardown(about)
    return result


@contextmanager
def _told_of_cancel(own: BaseExecutor, about: dict[str, Any]) -> Generator[None]:  # Any: as `run` has it
    """Call the executor's `cancel` when this process is told to end."""

    def end(_: int, __: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        vars(own)["_cancelled"] = True
        try:
            done = own._call("cancel", about, vars(own).get("_job_handle"))
            if isinstance(done, Coroutine):
                _finish(cast("Coroutine[Any, Any, object]", done))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _finish(work: Coroutine[Any, Any, object]) -> None:  # Any: as coroutines have them
    """Run a coroutine to its end while another loop may be stopped in the middle of a step."""
    from threading import Thread  # only on the way out

    thread = Thread(target=asyncio.run, args=(work,))
    thread.start()
    thread.join()


def _as_json(value: object) -> object:
    """Return a value as JSON; what has no form there as its repr."""
    if isinstance(value, _JSON):
        return value
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in cast("Mapping[object, object]", value).items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_as_json(each) for each in cast("Sequence[object]", value)]
    return repr(value)[:1000]
