"""The server's side of triggers: their processes are scripts here, the store is a real one."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import DispatchId, HpcflowError, NotFound
from hpcflow.core.places import Places
from hpcflow.server.store import Lease, Store
from hpcflow.server.triggers import AskedTrigger, Triggers, pause_s

Json = dict[str, Any]  # Any: JSON
FIRST, SECOND = "01JD0000000000000000000001", "01JD0000000000000000000002"
TEMPLATE, MADE = "01JD000000000000000000000A", "01JD000000000000000000000B"

#: Reads what a trigger's process is told, writes the first line down, and does what the pickle says.
STAND_IN = """#!{python} -I
import os, sys
head = sys.stdin.buffer.readline()
data = sys.stdin.buffer.read(__import__("json").loads(head)["size"]).decode()
with open({ledger!r}, "ab") as ledger:
    ledger.write(head)
if data == "raise":
    print("Traceback ...", file=sys.stderr)
    sys.exit("ValueError: no such column")
if data == "crash":
    os.kill(os.getpid(), 11)
if data == "watch":
    sys.stdin.buffer.read()
if data == "deaf":
    __import__("signal").pause()
"""


@dataclass
class Server:
    """What triggers have of a server, with the copies that they made."""

    folder: Path
    store: Store
    copies: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    broken: bool = False

    async def template(self, dispatch: str) -> tuple[DispatchId, str]:
        if dispatch != TEMPLATE:
            raise NotFound(f"There is no dispatch {dispatch} here.")
        return DispatchId(dispatch), "flow"

    async def again(self, dispatch: str, identifier: str) -> Json:
        if self.broken:
            raise HpcflowError("Its functions are gone.")
        self.copies.append((dispatch, identifier))
        return {"id": identifier}

    def triggers(self) -> Triggers:
        return Triggers(
            self.store,
            Places(str(self.folder)),
            template=self.template,
            again=self.again,
            now=lambda: datetime.now(UTC),
        )

    def asked(self, identifier: str, does: str, **other: Any) -> AskedTrigger:  # Any: fields of AskedTrigger
        script = self.folder / "stand-in"
        if not script.exists():
            script.write_text(STAND_IN.format(python=sys.executable, ledger=str(self.folder / "ledger")))
            script.chmod(0o700)
        given: Json = {
            "id": identifier,
            "kind": "TimeTrigger",
            "about": "every 5 s",
            "pickle": base64.b64encode(does.encode()).decode(),
            "python": (sys.version_info[0], sys.version_info[1]),
            "executable": str(script),
        }
        return AskedTrigger(**given | other)

    def told(self) -> list[Json]:
        """Return what the processes were told, in the order of their starts."""
        ledger = self.folder / "ledger"
        return [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []


@pytest.fixture
def server(tmp_path: Path) -> Server:
    (tmp_path / "logs").mkdir()
    store = Store.open(str(tmp_path / "hpcflow.db"), on_network=False)
    now = datetime.now(UTC)
    lease = Lease(id="L", host="here", pid=1, boot_id="b", taken_at=now, renewed_at=now)
    store.take_lease(lease, now=now, stale_after=timedelta(seconds=90), take_over=False)
    return Server(tmp_path, store)


@asynccontextmanager
async def running(triggers: Triggers) -> AsyncGenerator[None]:
    await triggers.take_up()
    task = asyncio.create_task(triggers.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def until(look: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.01)


def row(triggers: Triggers, identifier: str = FIRST) -> Json:
    return next(each for each in triggers.listed()["triggers"] if each["id"] == identifier)


def run(test: Coroutine[Any, Any, None]) -> None:  # Any: asyncio's own
    asyncio.run(test)


def test_a_trigger_fires_through_its_own_process_only_and_each_firing_once(server: Server) -> None:
    async def test() -> None:
        triggers = server.triggers()
        async with running(triggers):
            answer = await triggers.add(TEMPLATE, server.asked(FIRST, "watch"))
            assert answer["message"].startswith(f"TimeTrigger (every 5 s) runs copies of {TEMPLATE} from now on.")
            assert await triggers.add(TEMPLATE, server.asked(FIRST, "watch")) == answer
            await until(lambda: server.told() and row(triggers)["state"] == "running")
            (head,) = server.told()
            assert (head["trigger"], head["dispatch"], head["resumed"]) == (FIRST, TEMPLATE, False)
            assert await triggers.fire(FIRST, head["run"], MADE) == {"id": MADE, "fenced": False}
            assert await triggers.fire(FIRST, head["run"], MADE) == {"id": MADE, "fenced": False}
            assert await triggers.fire(FIRST, "another run", SECOND) == {"id": None, "fenced": True}
            shown = row(triggers)
            assert (shown["fired"], shown["last_dispatch"], shown["error"]) == (1, MADE, None)
            with pytest.raises(NotFound):
                await triggers.fire(SECOND, head["run"], MADE)

    run(test())
    assert {made for _, made in server.copies} == {MADE}


def test_the_next_server_goes_on_with_what_was_running_and_not_with_what_was_stopped(server: Server) -> None:
    async def before() -> None:
        triggers = server.triggers()
        async with running(triggers):
            await triggers.add(TEMPLATE, server.asked(FIRST, "watch"))
            await triggers.add(TEMPLATE, server.asked(SECOND, "watch"))
            await until(lambda: len(server.told()) == 2)
            assert (await triggers.stop([SECOND]))["message"].startswith("Stopped 1 trigger for good")
            assert triggers.alive == 1

    async def after() -> None:
        triggers = server.triggers()
        async with running(triggers):
            await until(lambda: len(server.told()) == 3)
            assert (row(triggers)["state"], row(triggers, SECOND)["state"]) == ("running", "stopped")
            assert server.told()[2]["resumed"]
            assert server.told()[2]["run"] != server.told()[0]["run"]
            old = await triggers.fire(FIRST, server.told()[0]["run"], MADE)
            assert old == {"id": None, "fenced": True}
            assert (await triggers.stop([TEMPLATE[:20]]))["stopped"] == 1
            assert (await triggers.stop([FIRST]))["message"] == "Nothing to stop: what you named is over already."
            with pytest.raises(NotFound, match="There is no trigger 01ZZ"):
                await triggers.stop(["01zz"])

    run(before())
    run(after())
    assert server.copies == []


def test_a_trigger_that_fails_is_told_and_started_again_after_a_pause(server: Server) -> None:
    async def test() -> None:
        triggers = server.triggers()
        async with running(triggers):
            await triggers.add(TEMPLATE, server.asked(FIRST, "raise"))
            await triggers.add(TEMPLATE, server.asked(SECOND, "crash"))
            await until(lambda: row(triggers)["next_at"] and row(triggers, SECOND)["next_at"])
            assert row(triggers)["error"] == "ValueError: no such column"
            assert row(triggers, SECOND)["error"].startswith("It ended by signal SIGSEGV.")
            assert {row(triggers)["state"], row(triggers, SECOND)["state"]} == {"failed"}
            await until(lambda: len(server.told()) >= 3)
            assert "Traceback ..." in Path(row(triggers)["log"]).read_text()
            assert await triggers.stop_all_of(DispatchId(TEMPLATE)) == 2

    run(test())


def test_a_trigger_without_anything_left_to_watch_has_ended(server: Server) -> None:
    async def test() -> None:
        triggers = server.triggers()
        async with running(triggers):
            await triggers.add(TEMPLATE, server.asked(FIRST, "nothing"))
            await until(lambda: row(triggers)["state"] == "ended")
            assert triggers.alive == 0

    run(test())


def test_a_firing_that_the_server_refuses_reaches_the_trigger(server: Server) -> None:
    async def test() -> None:
        triggers = server.triggers()
        async with running(triggers):
            await triggers.add(TEMPLATE, server.asked(FIRST, "watch"))
            await until(server.told)
            server.broken = True
            with pytest.raises(HpcflowError, match=r"Its functions are gone\."):
                await triggers.fire(FIRST, server.told()[0]["run"], MADE)
            assert row(triggers)["fired"] == 0

    run(test())


def test_what_can_not_be_run_here_is_refused(server: Server) -> None:
    async def test() -> None:
        triggers = server.triggers()
        async with running(triggers):
            with pytest.raises(NotFound):
                await triggers.add(MADE, server.asked(FIRST, "watch"))
            with pytest.raises(HpcflowError, match=r"made by Python 2\.7, and the server has Python 3"):
                await triggers.add(TEMPLATE, server.asked(FIRST, "watch", python=(2, 7), executable="/no/python"))
            assert triggers.listed() == {"triggers": []}

    run(test())


def test_pauses_grow_up_to_ten_minutes() -> None:
    assert [pause_s(failures) for failures in (1, 2, 3, 9, 10, 11, 1000)] == [1, 2, 4, 256, 512, 600, 600]
