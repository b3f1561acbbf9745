"""A login through an API: a question, an answer, the next question, and nothing that outlives it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcflow.core.model import HpcflowError, NotFound
from hpcflow.core.plugin import Command
from hpcflow.server.remote import Ask, Challenge, NeedsLogin
from hpcflow.server.remote.login import Logins, Question
from hpcflow.server.remote.ssh import SshTransport
from tests.unit.ssh_server import Door, served
from tests.unit.test_engine import in_loop
from tests.unit.test_ssh_login import FACTORS


@in_loop
async def test_two_factors_are_two_questions(tmp_path: Path) -> None:
    door = Door(rounds=FACTORS)
    async with served(tmp_path, door) as connection:
        transport, logins = SshTransport(connection), Logins()
        login, first = await logins.begin("far", transport)
        assert first is not None
        assert first.challenge.prompts == (("Password: ", False),)
        second = await logins.answer("far", login, 1, ["sesame"])
        assert second is not None
        assert second.challenge.prompts == (("One-time code: ", True),)
        assert (
            await logins.answer("far", login, 1, ["sesame"]) == second
        )  # the reply was lost, and the request repeated
        assert await logins.answer("far", login, 2, ["123456"]) is None
        assert door.answers == [["sesame"], ["123456"]]
        assert (await transport.run(Command(("echo", "in")), 60)).stdout == b"in\n"
        with pytest.raises(NotFound):
            await logins.answer("far", login, 2, ["123456"])


@in_loop
async def test_a_wrong_answer_ends_the_login(tmp_path: Path) -> None:
    door = Door(rounds=FACTORS)
    async with served(tmp_path, door) as connection:
        logins = Logins()
        login, _ = await logins.begin("far", SshTransport(connection))
        with pytest.raises(NeedsLogin, match="did not accept") as refused:
            await logins.answer("far", login, 1, ["guess"])
        assert "guess" not in str(refused.value)
        with pytest.raises(NotFound):
            await logins.answer("far", login, 1, ["sesame"])
        assert door.answers == [["guess"]]


@in_loop
async def test_who_begins_again_ends_the_first_login(tmp_path: Path) -> None:
    async with served(tmp_path, Door(password="sesame")) as connection:
        transport, logins = SshTransport(connection), Logins()
        first, _ = await logins.begin("far", transport)
        second, question = await logins.begin("far", transport)
        assert question == Question(1, Challenge("ada@cluster", "", (("Password: ", False),)))
        with pytest.raises(NotFound):
            await logins.answer("far", first, 1, ["sesame"])
        with pytest.raises(HpcflowError, match="asks 1 things, and 2 were answered"):
            await logins.answer("far", second, 1, ["sesame", "sesame"])
        assert await logins.answer("far", second, 1, ["sesame"]) is None


@in_loop
async def test_nobody_answers_and_others_go_on(tmp_path: Path) -> None:
    async with served(tmp_path, Door(password="sesame")) as connection:
        transport, logins = SshTransport(connection), Logins(patience_s=0.05)
        login, question = await logins.begin("far", transport)
        assert question is not None
        assert (await transport.run(Command(("true",)), 60)).exit_code is None
        with pytest.raises((HpcflowError, NotFound)):
            await logins.answer("far", login, 1, ["sesame"])
        assert transport.needs_login


@in_loop
async def test_a_server_that_ends_waits_for_nobody_at_a_prompt(tmp_path: Path) -> None:
    async with served(tmp_path, Door(password="sesame")) as connection:
        transport, logins = SshTransport(connection), Logins()
        _, question = await logins.begin("far", transport)
        assert question is not None
        await transport.close()
        await logins.close()


@in_loop
async def test_this_machine_asks_nobody() -> None:
    with pytest.raises(HpcflowError, match="nothing to log in to"):
        await Logins().begin("local", None)


class Refusing:
    """A link whose host can't be reached."""

    needs_login = True

    async def reach(self) -> None: ...

    async def home(self) -> str:
        return "/"

    async def login(self, ask: Ask) -> None:
        raise NeedsLogin("far needs login: it accepts none of your keys.")

    async def close(self) -> None: ...


@in_loop
async def test_a_host_that_asks_nothing_is_told_at_once() -> None:
    logins = Logins()
    with pytest.raises(NeedsLogin):
        await logins.begin("far", Refusing())
    await logins.close()


class Patient(Refusing):
    """A link whose host asks, and waits."""

    def __init__(self) -> None:
        self.given: list[Sequence[str] | None] = []
        self.ended = asyncio.Event()

    async def login(self, ask: Ask) -> None:
        try:
            self.given.append(await ask(Challenge("ada@far", "", (("Code: ", True),))))
        finally:
            self.ended.set()


@in_loop
async def test_closing_leaves_no_login_behind() -> None:
    logins, link = Logins(), Patient()
    await logins.begin("far", link)
    await logins.close()
    assert link.ended.is_set()
    assert link.given == []
