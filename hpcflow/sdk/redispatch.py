"""Dispatches again what was dispatched before: as it was, or with other arguments and electrons in its place."""

from __future__ import annotations

import inspect
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from hpcflow.core.model import NotFound, UserError, ulid
from hpcflow.core.reuse import Earlier, Matcher
from hpcflow.core.states import State
from hpcflow.core.words import counted
from hpcflow.sdk.answers import Summary
from hpcflow.sdk.client import send_traced, server_of_ours, summary_of, tell, whole_id
from hpcflow.sdk.connection import Refused, Server
from hpcflow.sdk.delivery import note_again
from hpcflow.sdk.functions import name_of
from hpcflow.sdk.results import PythonMismatch, UnreadableResult, task_records
from hpcflow.sdk.stored_call import stored_call
from hpcflow.sdk.workflow import Electron, Lattice, load_with

__all__ = ["redispatch", "redispatch_as_it_was"]


def redispatch(
    dispatch_id: str,
    *,
    replace_electrons: Mapping[str, Electron[..., object]] | None = None,
    reuse_previous_results: bool = False,
    is_pending: bool = False,
) -> Callable[..., str]:
    """Return a function that dispatches once more what `dispatch_id` ran, and returns the id of the new dispatch.

    Arguments given to it take the place of those that the lattice had, by position or by name; the others stay as they
    were. With none, and no electron replaced, the same graph runs again and nothing is unpickled.

    Args:
        dispatch_id: a dispatch that has ended, or waits since ``disable_run=True``.
        replace_electrons: electrons that take the place of those with these names, wherever the lattice and its
            sublattices call them. How often that is, is said on stderr.
        reuse_previous_results: do not run again what completed, where its function and its inputs are the same.
        is_pending: start the dispatch itself, which was held by ``disable_run=True``, instead of another one.

    Raises:
        DispatchNotFound: there is no such dispatch.
        Refused: it runs, or what it was made of was not stored.
        UserError: nothing of it calls such an electron, or the lattice does not take these arguments.
    """
    replaced = _electrons(replace_electrons or {})

    def dispatch_again(*new_args: object, **new_kwargs: object) -> str:
        server = server_of_ours()
        known = whole_id(server, dispatch_id)
        if is_pending:
            if new_args or new_kwargs or replaced:
                raise UserError(
                    f"is_pending=True starts {known} as it was dispatched: leave it out to run {known} with other "
                    "arguments or electrons."
                )
            return _started(server, known)
        if not (new_args or new_kwargs or replaced):
            answer = redispatch_as_it_was(server, known, reuse=reuse_previous_results)
            note_again(server.where, known, str(answer["id"]))
            for sentence in answer["messages"]:
                tell(sentence)
            return str(answer["id"])
        refuse_running(summary_of(server, known))
        call = _fetched(server, known)
        args, kwargs = _merged(call, known, new_args, new_kwargs)
        now = _composed(call.replaced, replaced)
        stored = stored_call(call.lattice, args, kwargs, now)
        earlier = _completed(server, known) if reuse_previous_results else None
        inside = _calls_inside(server, known, call.replaced) if now else {}
        elsewhere = {*call.replaced, *inside}
        traced = call.lattice.build_with(now, args, kwargs, elsewhere=elsewhere, earlier=earlier)
        for name in _meant(now, replaced):
            tell(_said_of(name, traced.replaced.get(name, 0), inside.get(name, 0)))
        return send_traced(traced, call=stored, earlier=known if reuse_previous_results else None)

    return dispatch_again


def redispatch_as_it_was(server: Server, dispatch_id: str, *, reuse: bool) -> dict[str, Any]:  # Any: JSON
    """Let the server run the same graph once more, and return its answer: ``id``, ``status``, ``messages``."""
    # The id is ours: the request may come twice when its answer was lost.
    body = {"id": ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10)), "reuse": reuse}
    return server.ask("POST", f"/dispatches/{dispatch_id}/redispatch", body=body)


def _completed(server: Server, dispatch_id: str) -> Matcher:
    answer = server.ask("GET", f"/dispatches/{dispatch_id}/completed")
    needs = [tuple(each) for each in answer["needs"]]
    return Matcher(
        Earlier(
            task["index"],
            task["function"],
            task["arguments"],
            needs[task["needs"]],
            task["around"],
            answer["versions"].get(task["function"], {}),
        )
        for task in answer["tasks"]
    )


def refuse_running(summary: Summary) -> None:
    """Raise `Refused` for a dispatch that has begun and not ended."""
    before = {State.WAITING, State.READY, State.PAUSED}
    if summary.ended or (summary.paused is not None and summary.counts.keys() <= before):
        return
    raise Refused(
        f"Dispatch {summary.id} is still running: wait for its end, or `hpcflow cancel {summary.id}`, then redispatch."
    )


def _started(server: Server, dispatch_id: str) -> str:
    summary = summary_of(server, dispatch_id)
    if summary.ended or summary.paused is None:
        raise Refused(f"Dispatch {dispatch_id} is not pending: it was started before. Leave is_pending=True out.")
    server.ask("POST", f"/dispatches/{dispatch_id}/resume")
    return dispatch_id


def _electrons(given: Mapping[str, object]) -> dict[str, Electron[..., object]]:
    for name, electron in given.items():
        if not isinstance(electron, Electron):
            hint = "mark it with @hpcflow.electron" if callable(electron) else "it must be an electron"
            raise UserError(f"replace_electrons has no electron for {name!r}: {hint}.")
    return cast("dict[str, Electron[..., object]]", dict(given))


def _composed(
    before: Mapping[str, Electron[..., object]],
    replaced: Mapping[str, Electron[..., object]],
) -> dict[str, Electron[..., object]]:
    """Return what replaces the lattice's electrons, by their names there; a replaced one may be named as it is now."""
    now = dict(before)
    for name, electron in replaced.items():
        same = [first for first, other in before.items() if name_of(other.function) == name]
        now |= dict.fromkeys(same or [name], electron)
    return now


def _meant(now: Mapping[str, Electron[..., object]], replaced: Mapping[str, Electron[..., object]]) -> list[str]:
    """Return the names in the lattice of what the user replaces with this call."""
    return [name for name, electron in now.items() if any(electron is each for each in replaced.values())]


def _calls_inside(server: Server, dispatch_id: str, before: Mapping[str, Electron[..., object]]) -> Mapping[str, int]:
    """Return how often the sublattices of a dispatch called which electrons, by their names in the lattice."""
    summary = summary_of(server, dispatch_id)
    if summary.tasks == summary.own_tasks:
        return {}
    # What was replaced before is called by another name there.
    names = {name_of(electron.function): name for name, electron in before.items()}
    records = task_records(server, dispatch_id, deep=True)
    return Counter(names.get(each.name, each.name) for each in records if each.index >= summary.own_tasks)


def _said_of(name: str, own: int, inside: int) -> str:
    calls = f"{counted(own, 'call')} of the lattice"
    if inside:
        calls += f", and in its sublattices where they call it ({counted(inside, 'time')} before)"
    return f"{name} is replaced in {calls}."


# ---- what was stored


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    lattice: Lattice[..., object]
    replaced: Mapping[str, Electron[..., object]]
    #: ``None``: they were too large to be stored.
    arguments: tuple[tuple[object, ...], dict[str, object]] | None


def _fetched(server: Server, dispatch_id: str) -> _Call:
    python = summary_of(server, dispatch_id).python
    if python != sys.version_info[:2]:
        own, made = ".".join(map(str, sys.version_info[:2])), ".".join(map(str, python))
        raise PythonMismatch(
            f"Dispatch {dispatch_id} was made with Python {made} and this is Python {own}: redispatch it with Python "
            f"{made}, or as it was with `hpcflow redispatch {dispatch_id}`."
        )
    lattice, replaced = _opened(server.fetch(f"/dispatches/{dispatch_id}/call/lattice"), "lattice", dispatch_id)
    try:
        raw = server.fetch(f"/dispatches/{dispatch_id}/call/arguments")
    except NotFound:
        return _Call(lattice=lattice, replaced=replaced, arguments=None)
    return _Call(lattice=lattice, replaced=replaced, arguments=_opened(raw, "arguments", dispatch_id))


def _opened(raw: bytes, what: str, dispatch_id: str) -> Any:  # Any: whatever was pickled
    try:
        return load_with(raw)
    except Exception as error:  # unpickling runs the user's own code
        raise UnreadableResult(
            f"The {what} of {dispatch_id} can't be read here: {type(error).__name__}: {error}. "
            f"`hpcflow redispatch {dispatch_id}` runs it as it was."
        ) from error


def _merged(
    call: _Call, dispatch_id: str, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> tuple[tuple[object, ...], dict[str, object]]:
    """Return the lattice's arguments: new ones where there are any, those of the first dispatch elsewhere."""
    name = name_of(call.lattice.function)
    signature = inspect.signature(call.lattice.function)
    try:
        new = signature.bind_partial(*args, **kwargs)
        if call.arguments is None:
            signature.bind(*args, **kwargs)  # all of them must be new
            return args, dict(kwargs)
    except TypeError as error:
        hint = "" if call.arguments is not None else f" The arguments of {dispatch_id} were too large to be stored."
        raise UserError(f"The lattice {name!r} does not take these arguments: {error}.{hint}") from None
    bound = signature.bind(*call.arguments[0], **call.arguments[1])
    for parameter, value in new.arguments.items():
        named = signature.parameters[parameter].kind is inspect.Parameter.VAR_KEYWORD
        bound.arguments[parameter] = {**bound.arguments.get(parameter, {}), **value} if named else value
    return bound.args, bound.kwargs
