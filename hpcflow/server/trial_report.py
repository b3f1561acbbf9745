"""What a test of a cluster has found so far: its steps, done one after another, for whoever looks."""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from hpcflow.core.batch import MARK
from hpcflow.core.model import HpcflowError
from hpcflow.core.plugin import Command, Reply

__all__ = ["DEADLINE_S", "SHOWN", "NotNow", "StepFailed", "Stop", "TrialReport", "last_words", "typed"]

Json = dict[str, Any]  # Any: JSON, described in cluster_schema.py

#: For one command of a step.
DEADLINE_S: Final = 60.0
#: Characters of a command, and of the end of what it wrote.
SHOWN: Final = 2000
_PARTING: Final = re.compile(rf"\s*(?:&&|;)\s*echo '?{re.escape(MARK)}'?")


class Stop(Exception):
    """Nothing that follows can work."""


class StepFailed(HpcflowError):
    """A step failed; what a command wrote goes with it."""

    def __init__(self, sentence: str, output: str = "") -> None:
        super().__init__(sentence)
        self.output = output


class NotNow(HpcflowError):
    """A step can't be done now or here, which is no fault of the cluster's."""


@dataclass(slots=True)
class _Step:
    name: str
    state: str = "running"
    detail: str = ""
    command: str | None = None
    output: str = ""

    def told(self) -> Json:
        ok = {"running": None, "failed": False}.get(self.state, True)
        fields = {name: getattr(self, name) for name in ("state", "detail", "command", "output")}
        return {"step": self.name, "ok": ok, **fields}


class TrialReport:
    """The steps of one test, and how they ended."""

    def __init__(self) -> None:
        #: No step follows.
        self.done = False
        self._steps: list[_Step] = []
        self._version = 0
        self._changed = asyncio.Condition()

    def told(self) -> Json:
        """Return all steps so far."""
        steps = [step.told() for step in self._steps]
        ok = all(step["ok"] is not False for step in steps)
        return {
            "done": self.done,
            "ok": ok if self.done or not ok else None,
            "version": self._version,
            "steps": steps,
        }

    async def changed(self, since: int, wait_s: float) -> Json:
        """Return all steps as soon as their version is not ``since``, at the latest after ``wait_s``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s), self._changed:
                await self._changed.wait_for(lambda: self.told()["version"] != since)
        return self.told()

    async def step(
        self, name: str, ask: Callable[[], Awaitable[str]], command: Command | None = None, *, needed: bool = True
    ) -> bool:
        """Do one step and write down what came of it; return whether it went well.

        Args:
            name: of the step.
            ask: does it, and returns what was found.
            command: shown where it fails.
            needed: whether nothing can follow a failure.

        Raises:
            Stop: it failed, and nothing can follow.
        """
        step = _Step(name, command=None if command is None else typed(command.argv)[:SHOWN])
        self._steps.append(step)
        await self._tell()
        try:
            step.detail, step.state = await ask(), "ok"
        except NotNow as reason:
            step.detail, step.state = str(reason), "skipped"
        except HpcflowError as error:
            step.detail, step.state = str(error), "failed"
            step.output = error.output if isinstance(error, StepFailed) else ""
        await self._tell()
        if step.state == "failed" and needed:
            raise Stop
        return step.state == "ok"

    async def end(self, fault: str | None) -> None:
        """Say that no step follows; a fault of hpcflow's own is told as a step that failed."""
        if fault is not None:
            self._steps.append(_Step("the test", "failed", fault))
        self.done = True
        await self._tell()

    async def _tell(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()


def typed(argv: Sequence[str]) -> str:
    """Return a command as a person types it: no shell around a script, and nothing that only parts its answers."""
    if len(argv) == 3 and tuple(argv[:2]) == ("sh", "-c"):
        return _PARTING.sub("", argv[2])
    return shlex.join(argv)


def last_words(reply: Reply) -> str:
    """Return the end of what a command wrote, errors last."""
    parts = [part.decode("utf-8", errors="replace").strip() for part in (reply.stdout, reply.stderr)]
    return "\n".join(filter(None, parts))[-SHOWN:]
