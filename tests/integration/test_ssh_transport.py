"""The ssh transport against a real sshd: what comes back is what was sent, or nobody claims to know."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import pytest

from hpcflow.core.plugin import Command
from hpcflow.server.remote import File, Gone, TransportError
from tests.integration.sshd import WAYS, Sshd, sshd
from tests.proxy import Proxy

P = ParamSpec("P")

PATIENCE_S = 60.0


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """Run an async test in a loop of its own."""

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture(scope="module", params=WAYS)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("node"), way=request.param) as running:
        yield running


def sh(script: str, *arguments: str, stdin: bytes = b"") -> Command:
    return Command(("sh", "-c", script, "sh", *arguments), stdin=stdin)


@in_loop
async def test_a_commands_bytes_arguments_and_exit_code_arrive_as_they_are(node: Sshd) -> None:
    transport = node.transport()
    odd = "two\nlines 'quoted' \"twice\" $HOME `id` \\n ! * \t;&|<>(){}[]~#%"
    reply = await transport.run(sh('cat; printf %s "$1" >&2; exit 7', odd, stdin=bytes(range(256)) * 9), PATIENCE_S)
    assert (reply.exit_code, reply.stdout, reply.stderr) == (7, bytes(range(256)) * 9, odd.encode())
    await transport.close()


@in_loop
async def test_a_command_gets_the_login_shells_path_and_nothing_private(
    node: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "canary")
    monkeypatch.setenv("SBATCH_PARTITION", "wrong")
    transport = node.transport()
    reply = await transport.run(Command(("env",), environment={"SLURM_TIME_FORMAT": "%s"}), PATIENCE_S)
    names = {line.partition(b"=")[0] for line in reply.stdout.splitlines()}
    assert {b"PATH", b"HOME", b"SLURM_TIME_FORMAT"} <= names
    assert not {name for name in names if name.startswith((b"SSH_", b"SBATCH", b"SECRET"))}
    assert await transport.home() == str(node.home)
    await transport.close()


@in_loop
async def test_a_long_argument_list_and_much_output_pass(node: Sshd) -> None:
    transport = node.transport()
    names = [f"token-{number:06}" for number in range(20_000)]
    reply = await transport.run(Command(("printf", "%s\n", *names)), PATIENCE_S)
    assert (reply.exit_code, reply.stdout.decode().split()) == (0, names)
    await transport.close()


@in_loop
async def test_no_such_command_is_exit_code_127(node: Sshd) -> None:
    transport = node.transport()
    assert (await transport.run(Command(("no-such-command",)), PATIENCE_S)).exit_code == 127
    await transport.close()


@in_loop
async def test_a_command_that_does_not_end_has_no_exit_code(node: Sshd) -> None:
    transport = node.transport()
    await transport.home()  # to connect has its own time
    reply = await transport.run(sh("echo begun; sleep 60"), 0.3)
    assert (reply.exit_code, reply.stdout) == (None, b"")
    assert b"no answer within 0.3 s" in reply.stderr
    await transport.close()


@in_loop
async def test_forty_commands_at_once_share_one_connection(node: Sshd) -> None:
    proxy = Proxy(node.port)
    await proxy.start()
    transport = node.transport(proxy.port)
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(transport.run(sh("echo $1", str(n)), PATIENCE_S)) for n in range(40)]
    assert [task.result().stdout for task in running] == [f"{n}\n".encode() for n in range(40)]
    assert proxy.connections == 1
    await transport.close()
    await proxy.stop()


@in_loop
async def test_a_bag_appears_at_once_private_and_is_never_written_twice(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    bag = tmp_path / "a folder" / "bag's"
    payload = os.urandom(3_000_001)
    for content in (payload, b"other"):
        files = [File("payload.pack", [content[:1000], b"", content[1000:]]), File("bag.json", [b"{}"])]
        await transport.push(str(bag), ("claims", "journal"), files)
    assert (bag / "payload.pack").read_bytes() == payload
    assert sorted(path.name for path in bag.iterdir()) == ["bag.json", "claims", "journal", "payload.pack"]
    assert [os.stat(path).st_mode & 0o777 for path in (bag, bag / "claims", bag / "bag.json")] == [0o700, 0o700, 0o600]
    assert [path.name for path in bag.parent.iterdir()] == ["bag's"]
    await transport.close()


@in_loop
async def test_many_pushes_of_one_bag_at_once_make_it_once(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    files = [File("payload.pack", [bytes(200_000)]), File("bag.json", [b"{}"])]
    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(transport.push(str(tmp_path / "bags/one"), ("journal",), files))
    assert [path.name for path in (tmp_path / "bags").iterdir()] == ["one"]
    assert sorted(path.name for path in (tmp_path / "bags/one").iterdir()) == ["bag.json", "journal", "payload.pack"]
    await transport.close()


@in_loop
async def test_a_directory_whose_last_file_was_purged_is_filled_again(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    for _ in range(2):
        await transport.push(str(tmp_path / "bin"), (), [File("worker.pyz", [b"zip"])])
        (tmp_path / "bin/worker.pyz").unlink()
    await transport.push(str(tmp_path / "bin"), (), [File("worker.pyz", [b"zip"])])
    assert (tmp_path / "bin/worker.pyz").read_bytes() == b"zip"
    await transport.close()


@in_loop
async def test_a_push_that_can_not_be_written_says_why_and_leaves_nothing(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TransportError, match=r"file.* on cluster: .*(Not a directory|File exists)"):
        await transport.push(str(tmp_path / "file/bag"), (), [File("bag.json", [b"{}"])])
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    await transport.close()


@in_loop
async def test_news_of_all_journals_come_with_one_look(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    written = {f"17_{n}_0.jsonl": f"line {n}\n".encode() * (n + 1) for n in range(60)}
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "17_0_0.jsonl")
    (tmp_path / "folder").mkdir()
    (tmp_path / "some body's copy.jsonl").write_text("not ours")
    news = await transport.read_new(str(tmp_path), {})
    assert news == written
    offsets = {name: len(content) for name, content in news.items()}
    assert await transport.read_new(str(tmp_path), offsets) == {}
    for name in ("17_3_0.jsonl", "17_59_0.jsonl"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"more")
    (tmp_path / "18_0_0.jsonl").write_bytes(b"new")
    expected = {"17_3_0.jsonl": b"more", "17_59_0.jsonl": b"more", "18_0_0.jsonl": b"new"}
    assert await transport.read_new(str(tmp_path), offsets) == expected
    await transport.close()


@in_loop
async def test_journals_larger_than_one_answer_come_whole(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    written = {f"{n}.jsonl": bytes([n]) * (7 << 20) for n in range(6)}
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    assert await transport.read_new(str(tmp_path), {}) == written
    await transport.close()


@in_loop
async def test_a_range_of_a_large_file_is_what_lies_there(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    content = os.urandom(20 << 20)
    (tmp_path / "pack").write_bytes(content)
    assert await transport.read(str(tmp_path / "pack"), 12_345, 18 << 20) == content[12_345 : 12_345 + (18 << 20)]
    assert await transport.read(str(tmp_path / "pack"), (20 << 20) - 5, 100) == content[-5:]
    assert await transport.read(str(tmp_path / "pack"), 21 << 20, 100) == b""
    await transport.close()


@in_loop
async def test_a_work_directory_that_was_deleted_is_said_and_is_no_silence(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    with pytest.raises(TransportError, match="journal on cluster: No such file or directory") as not_mounted:
        await transport.read_new(str(tmp_path / "work/bags/one/journal"), {})
    assert not isinstance(not_mounted.value, Gone)
    (tmp_path / "work/bags").mkdir(parents=True)
    with pytest.raises(Gone, match="bags/one on cluster was deleted"):
        await transport.read_new(str(tmp_path / "work/bags/one/journal"), {})
    with pytest.raises(TransportError, match="data on cluster: No such file or directory"):
        await transport.read(str(tmp_path / "gone/data"), 0, 1)
    await transport.close()


@in_loop
async def test_a_link_in_the_place_of_a_result_is_not_followed(node: Sshd, tmp_path: Path) -> None:
    transport = node.transport()
    (tmp_path / "result").symlink_to("/etc/passwd")
    with pytest.raises(TransportError, match="Permission denied"):
        await transport.read(str(tmp_path / "result"), 0, 10)
    await transport.close()
