"""Logins that only a person can do: asked once, never stored, never tried again by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from hpcflow.core.plugin import Command
from hpcflow.server.remote import Challenge, NeedsLogin
from hpcflow.server.remote.ssh import SshTransport
from tests.unit.ssh_server import Door, served
from tests.unit.test_engine import in_loop

FACTORS = (((("Password: ", False),), ("sesame",)), ((("One-time code: ", True),), ("123456",)))


class Person:
    """Somebody who answers what is asked, in this order, and then nothing more."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)
        self.asked: list[Challenge] = []

    async def __call__(self, challenge: Challenge) -> Sequence[str] | None:
        await asyncio.sleep(0)
        self.asked.append(challenge)
        return [self._answers.pop(0) for _ in challenge.prompts] if self._answers else None


@in_loop
async def test_a_second_factor_needs_login_and_nobody_is_asked_meanwhile(tmp_path: Path) -> None:
    door = Door(rounds=FACTORS)
    async with served(tmp_path, door) as connection:
        transport = SshTransport(connection)
        for _ in range(3):
            reply = await transport.run(Command(("true",)), 60)
            assert (reply.exit_code, reply.stderr.decode()) == (
                None,
                "far needs login: cluster asks for keyboard-interactive. Run `hpcflow clusters login far`; hpcflow "
                "never answers by itself.",
            )
        assert transport.needs_login
        assert (door.logins, door.answers) == (1, [])


@in_loop
async def test_a_person_who_answers_both_factors_brings_the_cluster_back(tmp_path: Path) -> None:
    async with served(tmp_path, Door(rounds=FACTORS)) as connection:
        transport = SshTransport(connection)
        person = Person("sesame", "123456")
        await transport.login(person)
        assert [challenge.prompts for challenge in person.asked] == [
            (("Password: ", False),),
            (("One-time code: ", True),),
        ]
        assert (person.asked[0].host, person.asked[0].text) == ("ada@cluster", "Cluster\nSay who you are.")
        assert not transport.needs_login
        assert (await transport.run(Command(("echo", "in")), 60)).stdout == b"in\n"


@pytest.mark.parametrize("answers", [("wrong",), ("sesame", "000000"), ()])
@in_loop
async def test_a_wrong_answer_or_none_is_not_tried_again(tmp_path: Path, answers: tuple[str, ...]) -> None:
    door = Door(rounds=FACTORS)
    async with served(tmp_path, door) as connection:
        transport = SshTransport(connection)
        with pytest.raises(NeedsLogin, match="far needs login: cluster did not accept what was answered"):
            await transport.login(Person(*answers))
        assert [answer for round in door.answers for answer in round] == list(answers)
        assert (await transport.run(Command(("true",)), 60)).exit_code is None
        assert door.logins == 1


@in_loop
async def test_a_password_is_asked_for_once(tmp_path: Path) -> None:
    door = Door(password="sesame")
    async with served(tmp_path, door) as connection:
        transport = SshTransport(connection)
        with pytest.raises(NeedsLogin, match="far needs login: cluster asks for a password"):
            await transport.reach()
        with pytest.raises(NeedsLogin, match="did not accept"):
            await transport.login(Person("wrong", "sesame"))
        assert door.answers == [["wrong"]]
        await transport.login(Person("sesame"))
        assert (await transport.run(Command(("echo", "in")), 60)).stdout == b"in\n"


@in_loop
async def test_many_who_wait_for_a_login_cause_one(tmp_path: Path) -> None:
    door = Door(password="sesame")
    async with served(tmp_path, door) as connection:
        transport = SshTransport(connection)
        async with asyncio.TaskGroup() as group:
            login = group.create_task(transport.login(Person("sesame")))
            running = [group.create_task(transport.run(Command(("echo", "in")), 60)) for _ in range(8)]
        assert login.exception() is None
        assert {task.result().stdout for task in running} == {b"in\n"}
        assert door.logins == 1
        assert b"sesame" not in repr(vars(connection)).encode()
