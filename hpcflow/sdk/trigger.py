"""What runs a dispatch again when something happens: the base of triggers, and how they reach the server."""

from __future__ import annotations

import base64
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from threading import Event
from typing import Any, Protocol

from hpcflow.core.model import UserError, ulid
from hpcflow.sdk.client import server_of_ours, whole_id
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.pickling import dumps
from hpcflow.sdk.redispatch import redispatch

__all__ = ["BaseTrigger", "Supervised", "attach", "described", "stop_triggers"]


class Supervised(Protocol):
    """What a trigger has while the server runs it in a process of its own."""

    #: When it was attached, in seconds since the epoch; the server has restarted the process since, maybe often.
    attached_at: float
    #: It ran before, so what is there already is no news.
    resumed: bool

    def fire(self) -> str:
        """Run its dispatch again, and return the id of the new one."""
        ...


class BaseTrigger:
    """The base of triggers, for your own ones too: override `observe`, and call `trigger` when it is time.

    A trigger travels as it is, by value, when the lattice that names it is dispatched, and `observe` runs in a process
    of its own beside the server: what it needs of files and packages must be there. A process whose trigger raises is
    started again, with pauses that grow from a second to ten minutes.

    Args:
        lattice_dispatch_id: the dispatch that is run again; a lattice's ``triggers=`` and `attach` fill it in.
        dispatcher_addr: of Covalent's; it changes nothing here.
        triggers_server_addr: likewise.
    """

    #: Of the class, so that a subclass need not call __init__.
    lattice_dispatch_id: str | None = None
    dispatcher_addr: str | None = None
    triggers_server_addr: str | None = None
    #: `observe` comes back only when there is nothing more to see. If not, the process waits to be stopped.
    observe_blocks: bool = True
    #: Covalent's; here a trigger always asks the server over its socket.
    use_internal_funcs: bool = True
    event_loop: object = None
    #: Set when it shall end.
    stop_flag: Any = None  # Any: threading.Event here; users put what they like
    _supervised: Supervised | None = None

    def __init__(
        self,
        lattice_dispatch_id: str | None = None,
        dispatcher_addr: str | None = None,
        triggers_server_addr: str | None = None,
    ) -> None:
        self.lattice_dispatch_id = lattice_dispatch_id
        self.dispatcher_addr = dispatcher_addr
        self.triggers_server_addr = triggers_server_addr
        #: Dispatches that this object has made; the one you keep learns of none that the server's process made.
        self.new_dispatch_ids: list[str] = []

    def observe(self) -> None:
        """Watch, and call `trigger` each time; return when there is nothing more to watch."""
        raise NotImplementedError(f"{type(self).__name__} has no observe(): it says when to call self.trigger().")

    def stop(self) -> None:
        """End `observe`; the process ends two seconds later in any case."""
        if isinstance(self.stop_flag, Event):
            self.stop_flag.set()

    def trigger(self) -> None:
        """Run the dispatch again.

        Raises:
            UserError: it is attached to no dispatch.
            HpcflowError: the dispatch can't be run again; a supervised trigger is then started anew.
        """
        if self._supervised is not None:
            made = self._supervised.fire()
        elif self.lattice_dispatch_id is not None:
            made = redispatch(self.lattice_dispatch_id)()
        else:
            raise UserError(
                f"{type(self).__name__} is attached to no dispatch: name it in triggers= of a lattice, or attach(id)."
            )
        self.__dict__.setdefault("new_dispatch_ids", []).append(made)

    def attach(self, dispatch_id: str) -> str:
        """Let the server run this trigger for a dispatch from now on, and return the trigger's id.

        Raises:
            DispatchNotFound: there is no such dispatch.
            UserError: the trigger can't be pickled.
        """
        show_plainly()
        self.lattice_dispatch_id = whole_id(server_of_ours(), dispatch_id)
        bodies = described([self])
        attach(self.lattice_dispatch_id, bodies)
        return str(bodies[0]["id"])

    def register(self) -> None:
        """Let the server run this trigger for ``lattice_dispatch_id``, as `attach` does for another one."""
        if self.lattice_dispatch_id is None:
            raise UserError(f"{type(self).__name__} is attached to no dispatch: attach(id) names one.")
        self.attach(self.lattice_dispatch_id)

    def to_dict(self) -> dict[str, Any]:  # Any: whatever its attributes hold
        """Return its attributes, and its class as ``name``."""
        return {**self.__dict__, "name": type(self).__name__}

    def about(self) -> str:
        """Return in a few words what it waits for, for lists of triggers."""
        return ""


def described(triggers: Iterable[BaseTrigger]) -> list[dict[str, object]]:
    """Return what the server is told of triggers, but for their dispatch.

    Raises:
        UserError: one can't be pickled.
    """
    bodies: list[dict[str, object]] = []
    for trigger in triggers:
        name = type(trigger).__name__
        try:
            data = dumps(trigger)
        except Exception as error:  # pickling runs the trigger's own code
            raise UserError(f"The trigger {name!r} can't be sent: {str(error).rstrip('.')}.") from None
        bodies.append(
            {
                "id": ulid(time.time_ns() // 1_000_000, secrets.token_bytes(10)),
                "kind": name,
                "about": _about(trigger),
                "pickle": base64.b64encode(data).decode("ascii"),
                "python": list(sys.version_info[:2]),
                "executable": sys.executable,
            }
        )
    return bodies


def attach(dispatch_id: str, triggers: Iterable[dict[str, object]]) -> None:
    """Let the server run triggers for a dispatch, by its whole id, and tell the user so."""
    server = server_of_ours()
    for body in triggers:
        answer = server.ask("POST", f"/dispatches/{dispatch_id}/triggers", body=body)
        print(answer["message"], file=sys.stderr)


def stop_triggers(dispatch_ids: str | Sequence[str], triggers_server_addr: str | None = None) -> str:
    """Stop triggers for good, those of dispatches or single ones, and return what was done, as a sentence.

    Args:
        dispatch_ids: ids of dispatches or of triggers, or the beginnings of some; one, or several.
        triggers_server_addr: of Covalent's; it changes nothing here.

    Raises:
        NotFound: one of them has no trigger.
    """
    ids = [dispatch_ids] if isinstance(dispatch_ids, str) else list(dispatch_ids)
    return str(server_of_ours().ask("POST", "/triggers/stop", body={"ids": ids})["message"])


def _about(trigger: BaseTrigger) -> str:
    # A class of a user's may have an `about` of its own, or none where it only looks like a trigger.
    about: Callable[[], object] | None = getattr(trigger, "about", None)
    said = about() if callable(about) else ""
    return said[:200] if isinstance(said, str) else ""
