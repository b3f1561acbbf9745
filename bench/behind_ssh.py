"""Rows of a cluster behind ssh, 50 ms away: an sshd of the row's own, behind a proxy that takes its time.

The cluster is Slurm where there is one, else local workers there; beside it the same without the way in between.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Final

from bench.homes import fresh_home
from bench.rows import Limit, Row, at_most, left_out, told
from bench.sizes import Size
from bench.telling import tell
from bench.workloads import same_and_sum

if TYPE_CHECKING:
    from hpcflow.server.remote.ssh import SshTransport
    from tests.integration.sshd import Sshd
    from tests.proxy import Proxy

__all__ = ["ssh"]

#: Half of a round trip.
_DELAY_S: Final = 0.025
_FILES: Final = 1000
_FILE_BYTES: Final = 2000
#: Journals of a bag that one look reads, and what each has to tell.
_JOURNALS: Final = 16
_NEWS: Final = b"x" * 200 + b"\n"


def ssh(size: Size) -> list[Row]:
    """A cluster 50 ms away: a first dispatch, a push of 1,000 inputs, a poll, a new connection after a cut."""
    if shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin") is None:
        return [left_out("a cluster behind ssh, 50 ms away", "there is no sshd here")]
    from tests.integration.sshd import sshd  # brings pytest along

    scheduler = "slurm" if shutil.which("sbatch") and "SLURM_CONF" in os.environ else "local"
    options = (f"SetEnv SLURM_CONF={os.environ['SLURM_CONF']}",) if scheduler == "slurm" else ()
    far, near, connections = list[float](), list[float](), list[int]()
    rows: list[Row] = []
    # Not in /tmp: where jobs have a /tmp of their own they would not see it.
    with (
        tempfile.TemporaryDirectory(prefix="hf-bench-", dir=_shared()) as folder,
        sshd(Path(folder) / "node", *options) as node,
    ):
        for repetition in range(size.repetitions):
            tell(f"behind ssh, first dispatch, repetition {repetition + 1} of {size.repetitions}")
            seconds, count = _first_dispatch(node, Path(folder) / f"far-{repetition}", scheduler, size.few)
            far.append(seconds)
            connections.append(count)
            with fresh_home() as home:
                home.start()
                near.append(same_and_sum(size.few, scheduler))
        allowed = [1.5 * seconds + 3 for seconds in near]
        what = f"{scheduler} behind ssh (50 ms), {size.few:,} no-ops, first dispatch"
        rows += [
            at_most(what, far, "on the login node", near),
            at_most("  the same", far, "1.5 times that and 3 s", allowed, must=1),
            Row(
                what="  connections to the cluster",
                measured=str(max(connections)),
                must=Limit("<= 1", max(connections) <= 1),
            ),
        ]
        tell("behind ssh, push, poll and reconnect")
        pushes, polls, again = asyncio.run(_by_hand(node, Path(folder), size.repetitions))
        return [
            *rows,
            told(f"push of {_FILES:,} inputs, {_FILES * _FILE_BYTES / 1e6:g} MB", pushes, "s", must=1.5),
            told(f"one look at {_JOURNALS} journals with news", polls, "s", must=0.3),
            told("a command after a cut, connection included", again, "s", must=3),
        ]


def _shared() -> str | None:
    return os.environ.get("HOME") if os.access(os.environ.get("HOME", "/nowhere"), os.W_OK) else None


def _first_dispatch(node: Sshd, folder: Path, scheduler: str, tasks: int) -> tuple[float, int]:
    """Return how long a server that runs and has never been connected takes, and its connections."""
    user = folder / "user"
    (user / ".ssh").mkdir(parents=True, mode=0o700)
    with _away(node.port) as proxy:
        shutil.copy(node.config(proxy.port), user / ".ssh/config")
        cluster = f'[far]\nscheduler = "{scheduler}"\nhost = "cluster"\npython = "{sys.executable}"\n'
        cluster += f'workdir = "{folder}/work"\nkeys = "{folder}/keys"\n'
        with fresh_home(cluster, {"HOME": str(user)}) as home:
            home.start()
            return same_and_sum(tasks, "far"), proxy.connections


@contextmanager
def _away(port: int) -> Generator[Proxy]:
    from tests.proxy import proxied

    with proxied(port) as proxy:
        proxy.delay_s = _DELAY_S
        yield proxy


async def _by_hand(node: Sshd, folder: Path, repetitions: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of each push, of each look and of each command after a cut."""
    from hpcflow.core.plugin import Command
    from hpcflow.server.remote import File

    pushes, polls, again = list[float](), list[float](), list[float]()
    async with _transport(node) as (proxy, transport):
        for repetition in range(repetitions):
            files = [File("payload.pack", [os.urandom(_FILE_BYTES) for _ in range(_FILES)]), File("bag.json", [b"{}"])]
            bag = folder / f"bag-{repetition}"
            begun_at = perf_counter()
            await transport.push(str(bag), ("journal",), files)
            pushes.append(perf_counter() - begun_at)
            offsets: dict[str, int] = {}
            for look in range(3):
                for number in range(_JOURNALS):
                    with (bag / "journal" / f"1_{number}_0.jsonl").open("ab") as journal:
                        journal.write(_NEWS)
                begun_at = perf_counter()
                news = await transport.read_new(str(bag / "journal"), offsets)
                polls.append(perf_counter() - begun_at)
                if len(news) != _JOURNALS:
                    raise AssertionError(f"look {look} brought news of {len(news)} journals")
                offsets = {name: offsets.get(name, 0) + len(data) for name, data in news.items()}
            proxy.cut()
            await asyncio.sleep(0.2)  # the cut takes its time as well
            begun_at = perf_counter()
            reply = await transport.run(Command(("true",)), 60)
            again.append(perf_counter() - begun_at)
            if reply.exit_code != 0:
                raise AssertionError(f"no command after a cut: {reply.stderr.decode()}")
    return pushes, polls, again


@asynccontextmanager
async def _transport(node: Sshd) -> AsyncGenerator[tuple[Proxy, SshTransport]]:
    from tests.proxy import Proxy

    proxy = Proxy(node.port)
    await proxy.start()
    proxy.delay_s = _DELAY_S
    transport = node.transport(proxy.port)
    try:
        await transport.home()
        yield proxy, transport
    finally:
        await transport.close()
        await proxy.stop()
