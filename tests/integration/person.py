"""A host that asks a person who logs in, and a person at a terminal who answers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.integration.servers import COMMAND
from tests.integration.world import PATIENCE_S, User
from tests.terminal import terminal
from tests.unit.ssh_server import Door, served

FACTORS = (
    ([("Password: ", False)], ["sesame"]),
    ([("One-time code: ", True)], ["123456"]),
)


@contextmanager
def a_host(folder: Path, door: Door) -> Generator[None]:
    """Run an ssh server in a thread of its own; ``folder`` gets ssh_config and known_hosts for it."""
    up, down = threading.Event(), threading.Event()

    async def run() -> None:
        async with served(folder, door):
            up.set()
            while not down.is_set():
                await asyncio.sleep(0.05)

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    try:
        assert up.wait(PATIENCE_S)
        yield
    finally:
        down.set()
        thread.join(PATIENCE_S)


def in_a_terminal(user: User, answers: Sequence[tuple[str, str]], *arguments: str) -> tuple[int, str]:
    """Run an `hpcflow` command in a terminal, and answer its prompts; return exit code and screen."""
    with terminal([COMMAND, *arguments], user.environment) as screen:
        for prompt, answer in answers:
            screen.answer(prompt, answer)
        return screen.end(), screen.shown
