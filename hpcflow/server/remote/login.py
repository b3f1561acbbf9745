"""A person's login to a cluster, as an API sees it: one question per answer, until the cluster lets us in.

Answers pass through memory once. They are in no log, no error, no store, and nothing repeats them.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import NamedTuple

from hpcflow.core.model import HpcflowError, NotFound
from hpcflow.server.remote.transport import Challenge, Link

__all__ = ["Login", "Logins", "Question"]


class Question(NamedTuple):
    """What a host asks in one login, numbered from 1."""

    number: int
    challenge: Challenge


class Login:
    """One login under way."""

    def __init__(self, link: Link, patience_s: float) -> None:
        """Begin to connect.

        Args:
            link: to which cluster.
            patience_s: for each answer; after it nobody is there any more.
        """
        #: Names this login to whoever began it; nobody else can answer for them.
        self.id = secrets.token_urlsafe(16)
        self._patience_s = patience_s
        self._questions: asyncio.Queue[Challenge] = asyncio.Queue()
        self._answers: asyncio.Queue[Sequence[str]] = asyncio.Queue()
        self._waiting = asyncio.Lock()
        self._asked: Challenge | None = None
        #: How many questions were asked: the last one's number, by which an answer that comes twice is known.
        self.number = 0
        self._task = asyncio.create_task(link.login(self._ask))
        self._task.add_done_callback(_seen)

    @property
    def over(self) -> bool:
        return self._task.done()

    async def next(self) -> Challenge | None:
        """Return what the host asks, ``None`` once it has let us in.

        Raises:
            NeedsLogin: it did not.
            TransportError: it can't be reached, or is not who it should be.
        """
        async with self._waiting:  # a request that was repeated waits beside the first
            if self._asked is None:
                question = asyncio.create_task(self._questions.get())
                try:
                    await asyncio.wait([question, self._task], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    question.cancel()
                if not question.done() or question.cancelled():
                    await self._task
                    return None
                self._asked = question.result()
                self.number += 1
            return self._asked

    async def answer(self, number: int, answers: Sequence[str]) -> Challenge | None:
        """Give an answer for each prompt of a question, and return what is asked next, as `next` does.

        An answer that comes again, because the reply to it was lost, is never taken for one to the next question.

        Raises:
            HpcflowError: nothing was asked, or another number of answers.
        """
        if number < self.number or (number == self.number and self._asked is None and not self.over):
            return await self.next()
        asked, self._asked = self._asked, None
        if asked is None or self.over:
            raise HpcflowError("Nothing is asked of you: begin the login anew.")
        if len(answers) != len(asked.prompts):
            self._asked = asked
            raise HpcflowError(f"{asked.host} asks {len(asked.prompts)} things, and {len(answers)} were answered.")
        self._answers.put_nowait(answers)
        return await self.next()

    async def cancel(self) -> None:
        """Give up, as a person does who closes the window."""
        self._task.cancel()
        with suppress(asyncio.CancelledError, Exception):  # whatever it was, nobody waits for it any more
            await self._task

    async def _ask(self, challenge: Challenge) -> Sequence[str] | None:
        self._questions.put_nowait(challenge)
        try:
            async with asyncio.timeout(self._patience_s):
                return await self._answers.get()
        except TimeoutError:
            return None


class Logins:
    """The logins under way, at most one for each cluster: who begins another one ends the first."""

    def __init__(self, patience_s: float = 240.0) -> None:
        self._patience_s = patience_s
        self._open: dict[str, Login] = {}

    async def begin(self, cluster: str, link: Link | None) -> tuple[str, Question | None]:
        """Begin a login, and return its id and the first question, ``None`` where there is none.

        Raises:
            HpcflowError: the cluster is reached from this machine.
            NeedsLogin: nothing is asked, and no key is accepted either.
            TransportError: it can't be reached, or is not who it should be.
        """
        if link is None:
            raise HpcflowError(f"{cluster!r} is reached from this machine: there is nothing to log in to.")
        if (earlier := self._open.pop(cluster, None)) is not None:
            await earlier.cancel()
        login = self._open[cluster] = Login(link, self._patience_s)
        return login.id, await self._forget_if_over(cluster, login, login.next())

    async def answer(self, cluster: str, login_id: str, number: int, answers: Sequence[str]) -> Question | None:
        """Answer the question of this number, and return the next one, ``None`` once the cluster has let us in.

        Raises:
            NotFound: no such login is under way.
            HpcflowError: another number of answers than prompts.
            NeedsLogin: an answer was wrong. It is not tried again by itself.
        """
        login = self._open.get(cluster)
        if login is None or not secrets.compare_digest(login.id.encode(), login_id.encode()):
            raise NotFound(f"No such login to {cluster!r} is under way: begin it anew.")
        return await self._forget_if_over(cluster, login, login.answer(number, answers))

    async def close(self) -> None:
        """End all of them."""
        while self._open:
            await self._open.popitem()[1].cancel()

    async def _forget_if_over(
        self, cluster: str, login: Login, asking: Coroutine[None, None, Challenge | None]
    ) -> Question | None:
        try:
            challenge = await asking
            return None if challenge is None else Question(login.number, challenge)
        finally:
            if login.over and self._open.get(cluster) is login:
                del self._open[cluster]


def _seen(task: asyncio.Task[None]) -> None:
    """Take note of how a login ended: whoever began it may never come back to hear it."""
    if not task.cancelled():
        task.exception()
