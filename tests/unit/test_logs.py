"""What tasks write is read while they run: from where their part of a log begins, by one command for all who look."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hpcflow.core.model import Cause, Phase
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.states import State
from hpcflow.server.clusters import Cluster
from hpcflow.server.logs import Logs, Name
from hpcflow.server.remote import TransportError
from tests.unit.mini_world import MINI, PlayedWorker, Stage, WorldTransport, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service

END: dict[Name, int] = {"stdout": -1, "stderr": -1}
Json = dict[str, Any]  # Any: JSON


class Counting(WorldTransport):
    """Counts the commands that read logs, and may lose their ends."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.world)
        self.looks = 0
        self.away = False

    async def run(self, command: Command, deadline_s: float) -> Reply:
        if command.argv[0] != "/bin/sh" or b"/logs/" not in command.stdin:
            return await super().run(command, deadline_s)
        self.looks += 1
        return Reply(None, b"", b"the line is down.") if self.away else await super().run(command, deadline_s)


class Writing:
    """A dispatch of two tasks that one worker runs one after the other, and the logs of that worker."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.logs: Logs = a_service(stage).logs
        self.cluster: Cluster = stage.engine.clusters[MINI]
        self.transport = self.cluster.transport = Counting(stage)

    async def begin(self) -> None:
        """Run the first task to its end, which wrote "first", and start the second one."""
        live = await self.stage.dispatch([], [], walltime_s=60)
        self.dispatch = live.id
        self.job = await self.stage.job()
        folder = Path(self.job.path) / "logs"
        self.files: dict[Name, Path] = {
            "stdout": folder / f"{self.job.id}_0_0.out",
            "stderr": folder / f"{self.job.id}_0_0.err",
        }
        self.files["stdout"].write_bytes(b"first\n")
        self.files["stderr"].write_bytes(b"")
        self.worker = PlayedWorker(self.job, 0)
        for k in range(len(self.job.tasks)):
            self.worker.claim(k)
        self.worker.start(0)
        self.worker.end(0, out=[0, 6], r={"b": "gASIiC4="})
        self.worker.start(1)
        await self.stage.until(lambda: live.tasks[1].state is State.RUNNING)

    async def write(self, data: bytes, stream: Name = "stdout") -> None:
        with self.files[stream].open("ab") as file:
            file.write(data)

    async def output(self, index: int = 1, limit: int = 2**16, wait_s: float = 0.0, **after: int) -> Json:
        asked: dict[Name, int] = {"stdout": after.get("stdout", -1), "stderr": after.get("stderr", -1)}
        return await self.logs.output(self.dispatch, index, asked, limit, wait_s)

    async def search(self, text: str, offset: int = 0, limit: int = 100) -> Json:
        return await self.logs.search(self.dispatch, 1, "stdout", text, offset=offset, limit=limit)


@asynccontextmanager
async def writing(folder: Path, **settings: Any) -> AsyncGenerator[Writing]:  # Any: Settings
    async with a_stage(folder, **settings) as stage:
        written = Writing(stage)
        await written.begin()
        yield written


@in_loop
async def test_a_running_task_shows_what_it_writes_and_nothing_of_the_one_before_it(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write("zwei \N{SNOWMAN}".encode()[:-1])
        told = await written.output()
        assert told["running"] is True
        # A character that is cut waits for its end.
        assert told["stdout"] == {"offset": 0, "next": 5, "size": 7, "text": "zwei "}
        assert told["stderr"] == {"offset": 0, "next": 0, "size": 0, "text": ""}
        waiting = asyncio.create_task(written.output(stdout=5, stderr=0, wait_s=20))
        await written.write("\N{SNOWMAN}\n".encode()[-2:])
        assert (await waiting)["stdout"] == {"offset": 5, "next": 9, "size": 9, "text": "\N{SNOWMAN}\n"}
        first = await written.output(0)
        assert (first["running"], first["stdout"]["text"]) == (False, "first\n")
        assert await written.logs.piece(written.dispatch, 1, "stdout", 1, 3) == b"wei"


@in_loop
async def test_who_follows_is_told_of_the_end_without_a_further_line(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"second\n")
        waiting = asyncio.create_task(written.output(stdout=7, stderr=0, wait_s=20))
        written.worker.end(1, out=[6, 13], r={"b": "gASIiC4="})
        told = await waiting
        assert (told["running"], told["stdout"]["size"], told["stdout"]["text"]) == (False, 7, "")


@in_loop
async def test_two_hundred_who_look_cost_as_few_commands_as_one(tmp_path: Path) -> None:
    async with writing(tmp_path, journal_poll_max=0.5) as written:
        await written.write(b"second\n")
        told = await asyncio.gather(*(written.output() for _ in range(200)))
        assert {each["stdout"]["text"] for each in told} == {"second\n"}
        assert written.transport.looks <= 20


@in_loop
async def test_a_cluster_that_does_not_answer_is_told_to_all_who_wait(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        written.transport.away = True
        found = await asyncio.gather(written.output(), written.output(), return_exceptions=True)
        assert [str(each) for each in found if isinstance(each, TransportError)] == [
            "mini does not answer: the line is down."
        ] * 2
        written.transport.away = False
        assert (await written.output())["running"] is True


@in_loop
async def test_what_a_task_wrote_that_died_with_its_worker_can_be_read(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"before the end\n", "stderr")
        written.job.tasks[0] = (Phase.ENDED, Cause.MEMORY, "OUT_OF_MEMORY")
        await written.stage.until(lambda: written.dispatch not in written.stage.engine.writer.dispatches)
        told = await written.output()
        assert (told["running"], told["stderr"]["text"]) == (False, "before the end\n")
        assert await written.logs.piece(written.dispatch, 1, "stderr", 7, 3) == b"the"


@in_loop
async def test_a_log_of_a_gigabyte_opens_at_its_end_and_is_searched_in_parts(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"\nit Begins\n")
        os.truncate(written.files["stdout"], 2**30)
        await written.write(b"\nit begins to end\n")
        size = 2**30 - 6 + 18
        told = await written.output(limit=19)
        assert told["stdout"] == {"offset": size - 19, "next": size, "size": size, "text": "\0\nit begins to end\n"}
        begin = await written.search("IT BEGINS")
        assert begin["hits"] == [{"offset": 1, "text": "it Begins"}]
        assert 0 < begin["searched"] < begin["size"] == size
        later = size - 50 * 2**20
        end = await written.search("IT BEGINS", later)
        assert end == {"hits": [{"offset": size - 17, "text": "it begins to end"}], "searched": size, "size": size}


@in_loop
async def test_one_endless_line_has_hits_that_can_be_counted_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"step " * 2_000_000)
        part = await written.search("step", limit=3)
        assert [hit["offset"] for hit in part["hits"]] == [0, 4100, 8200]
        assert all(len(hit["text"]) <= 600 for hit in part["hits"])
        more = await written.logs.search(written.dispatch, 1, "stdout", "step", offset=part["searched"], limit=1)
        assert more["hits"][0]["offset"] == 12300
        # What lies across two pieces of four megabytes is found.
        whole = await written.logs.search(written.dispatch, 1, "stdout", "p step", offset=4 * 2**20 - 8, limit=1)
        assert 4 * 2**20 - 8 <= whole["hits"][0]["offset"] < 4 * 2**20 + 6


@in_loop
async def test_letters_of_any_language_are_found_in_either_case(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write("ÄRGER in der Straße\n\u0130stanbul (x)\n".encode())

        async def found(text: str) -> list[int]:
            told = await written.search(text, limit=9)
            assert told["searched"] == told["size"]
            return [hit["offset"] for hit in told["hits"]]

        assert [await found(text) for text in ("ÄRGER", "ärger", "ärGer IN")] == [[0], [0], [0]]
        assert [await found(text) for text in ("straße", "\u0130STANBUL (X)", "ä.ger")] == [[14], [22], []]


@pytest.mark.parametrize("damage", ["link", "gone"])
@in_loop
async def test_what_is_no_log_is_not_read(tmp_path: Path, damage: str) -> None:
    async with writing(tmp_path) as written:
        path = written.files["stderr"]
        path.unlink()
        if damage == "link":
            (tmp_path / "secret").write_text("secret")
            path.symlink_to(tmp_path / "secret")
        assert (await written.output())["stderr"] == {"offset": 0, "next": 0, "size": 0, "text": ""}


async def unpacked(written: Writing, *, failed: bool = False) -> dict[str, bytes]:
    """Return what an archive of the dispatch's logs holds, by names without the folder."""
    name, pieces = await a_service(written.stage).log_archive.archive(written.dispatch, failed=failed)
    assert name == f"{written.dispatch}-logs.tar.gz"
    packed = b"".join([piece async for piece in pieces])
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as tar:
        for entry in tar:
            assert entry.isreg() and entry.mode == 0o600
            folder, _, file = entry.name.partition("/")
            content = tar.extractfile(entry)
            assert folder == f"{written.dispatch}-logs" and content is not None
            found[file] = content.read()
    return found


@in_loop
async def test_all_logs_are_one_archive_with_each_task_s_own_and_what_became_of_it(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"second\n" * 400_000)
        await written.write(b"oh\n", "stderr")
        found = await unpacked(written)
        table = found.pop("tasks.tsv").decode().splitlines()
        assert [line.split("\t")[:3] for line in table] == [
            ["task", "electron", "state"],
            ["0", "step0", "completed"],
            ["1", "step1", "running"],
        ]
        assert found == {
            "00000-step0.stdout.txt": b"first\n",
            "00001-step1.stdout.txt": b"second\n" * 400_000,
            "00001-step1.stderr.txt": b"oh\n",
        }
        # One command tells how long logs are that are written now; what has ended is known.
        assert written.transport.looks == 1
        assert set(await unpacked(written, failed=True)) == {"tasks.tsv"}


@in_loop
async def test_what_can_t_be_read_is_named_in_the_archive_and_all_else_is_there(tmp_path: Path) -> None:
    async with writing(tmp_path) as written:
        await written.write(b"oh\n", "stderr")
        written.files["stdout"].write_bytes(b"fir")
        found = await unpacked(written)
        assert found["00000-step0.stdout.txt"] == b"fir\0\0\0"
        assert "00000-step0.stdout.txt: only its first 3 of 6 bytes" in found["MISSING.txt"].decode()
        written.files["stdout"].unlink()
        found = await unpacked(written)
        assert found["00001-step1.stderr.txt"] == b"oh\n"
        (line,) = found["MISSING.txt"].decode().splitlines()
        assert line.startswith("00000-step0.stdout.txt: ") and "No such file" in line
        written.transport.away = True
        found = await unpacked(written)
        assert set(found) == {"tasks.tsv", "MISSING.txt"}
        lines = found["MISSING.txt"].decode().splitlines()
        assert [line.partition(":")[0] for line in lines] == [
            "00001-step1.stderr.txt",
            "00000-step0.stdout.txt",
            "00001-step1.stdout.txt",
        ]
        assert all("does not answer: the line is down." in line for line in lines)
