"""Dispatches lattices and brings their results home."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Final, Literal, ParamSpec, TypedDict, Unpack, overload

from hpcflow.core.bag import stream_parts
from hpcflow.core.model import BY_DEFAULT, UserError, ulid
from hpcflow.core.places import client_settings, places
from hpcflow.sdk.answers import Summary, parse_summary
from hpcflow.sdk.connection import DispatchNotFound, Server, ServerElsewhere, ServerUnreachable, read_record
from hpcflow.sdk.delivery import deliver, expected, note
from hpcflow.sdk.functions import name_of
from hpcflow.sdk.link import read_link
from hpcflow.sdk.manifest import manifest, refuse_brought
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.plans import Plan, parse_plan
from hpcflow.sdk.results import Result, status_of
from hpcflow.sdk.shell import differing, environment_of
from hpcflow.sdk.startup import ServerStartFailed, ensure
from hpcflow.sdk.stored_call import StoredCall, stored_call
from hpcflow.sdk.terminal import progress
from hpcflow.sdk.waits import Waits
from hpcflow.sdk.workflow import Lattice, Traced

__all__ = [
    "Planned",
    "Result",
    "act_on",
    "cancel",
    "changes",
    "dispatch",
    "dispatch_sync",
    "get_result",
    "outgoing",
    "packed",
    "planning",
    "send_part",
    "send_traced",
    "server_of_ours",
    "summary_of",
    "tell",
    "until_ended",
    "whole_id",
]

P = ParamSpec("P")

#: How long the server may hold back the answer of one long poll, in seconds.
LONG_POLL_S: Final = 25
#: How long a waiting client bears a server that is away, as it is during `hpcflow restart`, in seconds.
AWAY_S: Final = 60.0
#: How long it says nothing of that, in seconds: a restart takes less.
AWAY_TOLD_S: Final = 5.0
#: The same for a login node's server: it goes on while a laptop is in a tunnel, or waits for a code from a phone.
AWAY_FAR_S: Final = 86_400.0
#: Bytes of a blob that are compressed at once: a large one needs no second copy of itself.
_SENT_AT_ONCE: Final = 1 << 20
_ULID_LENGTH: Final = 26
_NOT_CACHED: Final = "Calls of {} are not cached: something in them, or before them, can't be told from others like it."


# ---- dispatching


# Lattice[P, Any] below: what the lattice returns comes with the result, not with the id.
@overload
def dispatch(
    lattice: Lattice[P, Any],
    dispatcher_addr: str | None = None,
    *,
    plan: Literal[False] = False,
    disable_run: bool = False,
) -> Callable[P, str]: ...
@overload
def dispatch(
    lattice: Lattice[P, Any], dispatcher_addr: str | None = None, *, plan: Literal[True], disable_run: bool = False
) -> Callable[P, Plan]: ...
def dispatch(
    lattice: Lattice[P, Any], dispatcher_addr: str | None = None, *, plan: bool = False, disable_run: bool = False
) -> Callable[P, str] | Callable[P, Plan]:
    """Return a function that takes the lattice's arguments, dispatches it and returns the dispatch's id.

    Starts a server if none runs, unless ``HPCFLOW_AUTOSTART=0``. A lattice with ``triggers=`` is stored and does not
    run itself: each time that one of them fires, a copy of it does.

    Args:
        lattice: a function decorated with ``@hpcflow.lattice``.
        dispatcher_addr: nothing, said once: Covalent's, where HPCFLOW_HOME tells the server here.
        plan: return what would be submitted instead, as a `Plan`, and submit nothing.
        disable_run: store it, and submit nothing until `resume`.
    """
    show_plainly()
    _check_lattice(lattice)
    if dispatcher_addr is not None:
        _say_that_no_address_counts()

    def plan_it(*args: P.args, **kwargs: P.kwargs) -> Plan:
        return parse_plan(_upload(lattice.build_graph(*args, **kwargs), plan=True))

    def dispatch_it(*args: P.args, **kwargs: P.kwargs) -> str:
        call = None if _planning.get() else stored_call(lattice, args, kwargs)
        traced = lattice.build_graph(*args, **kwargs)
        if not lattice.annotations.triggers:
            return send_traced(traced, call=call, held=disable_run)
        from hpcflow.sdk.trigger import attach, described  # few programs have any

        triggers = described(lattice.annotations.triggers)  # what can't be sent is refused before anything is
        template = send_traced(traced, call=call, held=True)
        attach(template, triggers)
        return template

    return plan_it if plan else dispatch_it


def send_traced(traced: Traced, *, call: StoredCall | None, held: bool = False, earlier: str | None = None) -> str:
    """Dispatch a traced lattice, tell the user what the server says of it, and return the dispatch's id.

    Args:
        traced: the lattice.
        call: what is stored for a later dispatch of it.
        held: submit nothing before `resume`.
        earlier: the dispatch of which it uses results.
    """
    if _planning.get():
        raise Planned(parse_plan(_upload(traced, plan=True)))
    brought = expected(traced)
    answer = _upload(traced, plan=False, held=held, call=call, earlier=earlier)
    note(places(os.environ), str(answer["id"]), brought)
    for module in traced.modules_by_value:
        _tell_once(f"Your module {module} travels with the dispatch, as it is now.")
    for name in traced.not_cached:
        tell(_NOT_CACHED.format(name))
    for sentence in answer["messages"]:
        (_tell_once if sentence.startswith(BY_DEFAULT) else tell)(sentence)
    return str(answer["id"])


def send_part(traced: Traced, *, into: str | None, last: bool = False) -> tuple[str, int]:
    """Send tasks of an open dispatch, which their first part opens; return its id and the number of the first of them.

    Args:
        traced: the tasks, none of which needs another.
        into: the dispatch; ``None``: these open one.
        last: nothing will follow.
    """
    refuse_brought(traced)
    marks = {"open": True} if into is None else {"last": True} if last else {}
    answer = _upload(traced, plan=False, into=into, marks=marks)
    for module in traced.modules_by_value:
        _tell_once(f"Your module {module} travels with the dispatch, as it is now.")
    for name in traced.not_cached:
        _tell_once(_NOT_CACHED.format(name))
    for sentence in answer["messages"]:
        _tell_once(sentence)
    return str(answer["id"]), int(answer.get("first", 0))


def _say_that_no_address_counts() -> None:
    warnings.warn(
        "dispatcher_addr= changes nothing here: the server is that of HPCFLOW_HOME, and `hpcflow connect` leads to one "
        "on a login node.",
        stacklevel=3,
    )


def dispatch_sync(lattice: Lattice[P, Any], dispatcher_addr: str | None = None) -> Callable[P, Result]:
    """Return a function that dispatches the lattice, waits for its end and returns its `Result`.

    ``dispatcher_addr`` is Covalent's, and changes nothing here.
    """
    run = dispatch(lattice)
    if dispatcher_addr is not None:
        _say_that_no_address_counts()
    if lattice.annotations.triggers:
        raise UserError(
            f"The lattice {name_of(lattice.function)!r} has triggers, so its dispatch never ends: it is copied each "
            "time that one fires. Dispatch it with hpcflow.dispatch."
        )

    def dispatch_and_wait(*args: P.args, **kwargs: P.kwargs) -> Result:
        return get_result(run(*args, **kwargs), wait=True)

    return dispatch_and_wait


class Planned(BaseException):
    """Ends a script at its first dispatch, with the plan; no ``except Exception`` of the script may swallow it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__("planned instead of dispatched")
        self.plan = plan


@contextmanager
def planning() -> Generator[None]:
    """Within it, the first dispatch is planned only and raises `Planned`."""
    token = _planning.set(True)
    try:
        yield
    finally:
        _planning.reset(token)


_planning: Final = ContextVar("hpcflow_planning", default=False)


# ---- results


class WhatToFetch(TypedDict, total=False):
    """Options of Covalent's `get_result` that change nothing here."""

    results_dir: str | None
    workflow_output: bool
    intermediate_outputs: bool
    sublattice_results: bool


@overload
def get_result(
    dispatch_id: str, wait: bool = False, *, status_only: Literal[False] = False, **covalent: Unpack[WhatToFetch]
) -> Result: ...
@overload
def get_result(
    dispatch_id: str, wait: bool = False, *, status_only: Literal[True], **covalent: Unpack[WhatToFetch]
) -> dict[str, str]: ...
def get_result(
    dispatch_id: str, wait: bool = False, *, status_only: bool = False, **covalent: Unpack[WhatToFetch]
) -> Result | dict[str, str]:
    """Return what became of a dispatch; values are fetched when they are read.

    Args:
        dispatch_id: as `dispatch` returned it, or its beginning as long as one dispatch alone has it.
        wait: come back only when it has ended, with a progress bar meanwhile. A pause is said, and waited out; what
            tasks left for this machine is brought.
        status_only: return ``{"id": …, "status": …}`` and nothing else.
        covalent: what Covalent's programs say about what to fetch; here values are fetched when they are read.

    Raises:
        DispatchNotFound: the server knows no such dispatch.
        ServerUnreachable: no server answers, and none was to be started.
    """
    for name in covalent.keys() - WhatToFetch.__annotations__.keys():
        raise TypeError(f"get_result() got an unexpected keyword argument {name!r}")
    server = server_of_ours()
    summary = summary_of(server, whole_id(server, dispatch_id))
    if wait and not summary.ended:
        summary = until_ended(server, summary)
    if wait:
        for sentence in deliver(server, summary):
            tell(sentence)
    if status_only:
        return {"id": summary.id, "status": status_of(summary)}
    return Result(server, summary)


def cancel(dispatch_id: str, task_ids: Sequence[int] | None = None) -> str:
    """Cancel a dispatch, or some of its tasks and what depends on them; return what was done, as a sentence.

    Job array tasks that wait leave the queue, running tasks are killed, results that exist are kept. Of an array that
    serves other tasks too, workers are told which tasks nobody wants: none of those begins, and one that runs is ended
    within seconds.
    """
    return act_on(dispatch_id, "cancel", {"tasks": None if task_ids is None else list(task_ids)})


def act_on(dispatch_id: str, verb: str, body: Mapping[str, object] | None = None) -> str:
    """Ask the server to do something with a dispatch; return what it did, as a sentence."""
    server = server_of_ours()
    return str(server.ask("POST", f"/dispatches/{whole_id(server, dispatch_id)}/{verb}", body=body)["message"])


def whole_id(server: Server, beginning: str) -> str:
    """Return the id that begins so.

    Raises:
        DispatchNotFound: no dispatch has such an id.
        UserError: several have.
    """
    if not isinstance(beginning, str):  # pyright: ignore[reportUnnecessaryIsInstance]  # users' variables may be unset
        raise UserError(f"A dispatch is named by its id, the text that hpcflow.dispatch returns, not by {beginning!r}.")
    if not (beginning.isascii() and beginning.isalnum()) or len(beginning) > _ULID_LENGTH:
        raise DispatchNotFound(f"No dispatch {beginning[:40]!r} here: an id has {_ULID_LENGTH} capitals and digits.")
    if len(beginning) == _ULID_LENGTH:
        return beginning.upper()
    match [str(raw["id"]) for raw in server.ask("GET", "/dispatches", query={"prefix": beginning})["dispatches"]]:
        case [only]:
            return only
        case []:
            raise DispatchNotFound(
                f"No dispatch has an id that begins with {beginning!r}; `hpcflow dispatches` lists them."
            )
        case several:
            raise UserError(
                f"Several dispatches have ids that begin with {beginning!r}, {several[0]} among them: give more of it."
            )


# ---- the server


def server_of_ours() -> Server:
    """Return this environment's server, started if it has to be and may be."""
    show_plainly()
    where = places(os.environ)
    if client_settings(os.environ).autostart:
        ensure(where, tell=tell)
    return Server(where)


def _upload(
    traced: Traced,
    *,
    plan: bool,
    held: bool = False,
    call: StoredCall | None = None,
    earlier: str | None = None,
    into: str | None = None,
    marks: Mapping[str, bool] | None = None,
) -> dict[str, Any]:  # Any: JSON
    """Send a traced lattice and return the answer. The id makes it safe to send twice.

    Args:
        traced: what was traced.
        plan: only what would be submitted is asked for.
        held: nothing of it is submitted until somebody resumes it.
        call: of the lattice, to be stored.
        earlier: the dispatch whose results are taken where calls are the same.
        into: an open dispatch of which it is a further part.
        marks: of a dispatch that is "open", or of its "last" part.
    """
    described, blobs = outgoing(traced)
    if held:
        described["held"] = True
    if earlier is not None and traced.reused:
        described["reuse"] = {"dispatch": earlier, "tasks": list(traced.reused.items())}
    if call is not None:
        described["call"] = call.added_to(blobs)
    described |= marks or {}

    def send() -> dict[str, Any]:  # Any: JSON
        query: dict[str, str | int] = {"plan": "true"} if plan else {}
        if into is not None:
            query["into"] = into
        return server_of_ours().upload("/dispatches", lambda: packed(described, blobs), query=query)

    try:
        return send()
    except ServerStartFailed:
        raise
    except ServerUnreachable:
        pass
    # It went away in the middle. The id is the same, so that nothing runs twice if the server had it already.
    try:
        return send()
    except ServerUnreachable as error:
        raise ServerUnreachable(
            f"{error} Whether the dispatch was taken is not known: `hpcflow show {described['id']}` tells."
        ) from error


def outgoing(traced: Traced) -> tuple[dict[str, object], list[bytes]]:
    """Return an upload's manifest and its blobs, with an id of its own and who sends it."""
    from hpcflow import __version__

    described, blobs = manifest(traced)
    described["id"] = ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10))
    if read_link(places(os.environ)) is not None:
        # This interpreter is on another machine than the server's: only its minor version means something there.
        described["executable"] = "python{}.{}".format(*sys.version_info[:2])
    described["client"] = {
        "host": socket.gethostname(),
        "user": _user(),
        "version": __version__,
        "others": _others(),
    }
    return described, blobs


def _others() -> dict[str, list[str]]:
    """Return what of this environment the server has otherwise, as far as it is a process of this machine."""
    where = places(os.environ)
    record = None if read_link(where) is not None else read_record(where)
    if record is None or record.host != socket.gethostname():
        return {}
    began_with = environment_of(record.pid)
    return {} if began_with is None else differing(began_with, os.environ)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's uid without an entry in passwd
        return str(os.geteuid())


def packed(described: Mapping[str, object], blobs: Sequence[bytes]) -> Iterator[bytes]:
    """Yield an upload as it is sent."""
    # Level 1: pickles of numbers hardly shrink further, and the socket is local.
    compressor = zlib.compressobj(level=1)
    for part in stream_parts(described, blobs):
        for start in range(0, len(part), _SENT_AT_ONCE):
            piece = compressor.compress(memoryview(part)[start : start + _SENT_AT_ONCE])
            if piece:
                yield piece
    yield compressor.flush()


def summary_of(server: Server, dispatch_id: str, since: int | None = None, *, poll_s: int = LONG_POLL_S) -> Summary:
    if since is None:
        return parse_summary(server.ask("GET", f"/dispatches/{dispatch_id}"))
    query = {"since": since, "wait": poll_s}
    return parse_summary(server.ask("GET", f"/dispatches/{dispatch_id}", query=query, wait_s=poll_s))


def until_ended(server: Server, summary: Summary) -> Summary:
    """Return the summary of the dispatch's end. An interrupt leaves the dispatch running and says how to come back."""
    now, waits = summary, Waits()
    try:
        with progress(wanted=client_settings(os.environ).progress) as show:
            for now in changes(server, summary):
                for sentence in waits.news(now):
                    tell(sentence)
                show(now)
    except KeyboardInterrupt:
        # The last line of what Python prints is the one that is read; how far the waiting had come helps nobody.
        raise KeyboardInterrupt(
            f"Dispatch {summary.id} goes on. Come back to it with `hpcflow.get_result({summary.id!r}, wait=True)` or "
            f"`hpcflow show {summary.id}`; end it with `hpcflow cancel {summary.id}`."
        ) from None
    return now


def changes(server: Server, summary: Summary, *, poll_s: int = LONG_POLL_S) -> Iterator[Summary]:
    """Yield a dispatch as it is now and after each change, up to its end, by long polls of ``poll_s`` at most."""
    away_since: float | None = None
    told = False
    yield summary
    while not summary.ended:
        try:
            summary = summary_of(server, summary.id, since=summary.version, poll_s=poll_s)
        except ServerElsewhere:
            raise
        except ServerUnreachable as error:
            # A restart takes a moment. It is not ours to undo somebody's `hpcflow stop`.
            away_since = away_since or time.monotonic()
            bears_s = AWAY_S if read_link(server.where) is None else AWAY_FAR_S
            if time.monotonic() - away_since > bears_s:
                raise
            if not told and time.monotonic() - away_since > AWAY_TOLD_S:
                told = True
                tell(f"{error} Waiting for it, {bears_s / 60:.0f} min at most; jobs go on meanwhile.")
            time.sleep(0.5)
        else:
            if told:
                tell("The server answers again.")
            away_since, told = None, False
            yield summary


def _check_lattice(lattice: object) -> None:
    if not isinstance(lattice, Lattice):
        name = getattr(lattice, "__name__", repr(lattice))
        raise UserError(
            f"dispatch takes a lattice, and {name} is none: decorate it with @hpcflow.lattice, and pass the lattice "
            "itself, as in dispatch(flow)(1, 2), not what a call of it returned."
        )


@cache
def _tell_once(sentence: str) -> None:
    tell(sentence)


def tell(sentence: str) -> None:
    """Say something to the user, beside what the program prints."""
    print(sentence, file=sys.stderr, flush=True)
