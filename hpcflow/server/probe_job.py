"""A job array of probes, with which a test of a cluster finds out what its compute nodes are like."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from hpcflow.core.bag import bag_key, read_lines, sign
from hpcflow.core.model import BagId, DispatchId, JobArray, Phase, Resources, Shape, Stuck
from hpcflow.core.plan import partition_of
from hpcflow.core.plugin import Accepted, Command, Refused
from hpcflow.server.clusters import Cluster
from hpcflow.server.remote import File, TransportError
from hpcflow.server.settings import Settings
from hpcflow.server.trial_report import DEADLINE_S, NotNow, StepFailed, last_words

__all__ = ["CLAIMS", "ProbeJob", "Record", "RefusedJob"]

Record = dict[str, Any]  # Any: JSON, a line of hpcflow/node/probe.py

#: Names that two nodes race for.
CLAIMS: Final = 1000
#: Limit of an array task, and how long those two wait for each other's words.
_WALLTIME_S: Final = 600
_MEET_S: Final = 120.0
_GIVE_UP_S: Final = 15.0
#: The scheduler is asked about the array this often, unless its site or its owner wants to be asked more seldom.
_QUERY_S: Final = 10.0

_REMOVE: Final = 'PATH="$PATH:/usr/bin:/bin"; rm -rf -- "$1"'
_LOGS: Final = 'PATH="$PATH:/usr/bin:/bin"; cd "$1" && tail -n 20 logs/* 2>&1'


class RefusedJob(StepFailed):
    """The scheduler takes no such job."""


class ProbeJob:
    """An array of probes: submitted once, followed to its end, and told to go when it does not start in time."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        *,
        python: tuple[int, int],
        executable: str,
        width: int,
        exclusive: bool,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        """Prepare it; `records` submits it.

        Args:
            cluster: where.
            settings: the server's.
            python: (major, minor) of who will dispatch.
            executable: that interpreter.
            width: array tasks; two of them race for names.
            exclusive: whether each has a whole node.
            now: tells the time.
            new_id: makes ids.
        """
        self._cluster, self._settings, self._now = cluster, settings, now
        self._id = new_id()
        self._path = os.path.join(cluster.root, "probes", self._id)
        self._key = bag_key(cluster.key, self._id)
        self.job_id: str | None = None
        table = cluster.settings
        resources = Resources(
            partition=table.partition, account=table.account, qos=table.qos, memory_mib=table.memory_mib
        )
        shape = Shape(
            cluster=cluster.name,
            resources=resources,
            python=cluster.python_for(executable, python),
            python_version=python,
            env=table.environment,
        )
        self._shape = shape
        partition = partition_of(resources, cluster.limits) if cluster.limits is not None else None
        longest = partition.max_walltime_s if partition is not None else None
        self.array = JobArray(
            token=f"hpcflow-test-{self._id}",
            bag=BagId(self._id),
            dispatch=DispatchId(self._id),
            cluster=cluster.name,
            resources=resources,
            width=width,
            worker_walltime_s=min(_WALLTIME_S, longest or _WALLTIME_S),
            command=cluster.in_environment(
                shape, (cluster.interpreter(shape), cluster.worker_path, "probe", self._path, cluster.key_path)
            ),
            path=self._path,
            prologue=cluster.prologue(shape.env),
            extra=table.extra,
            exclusive=exclusive or table.whole_nodes,
            intent_at=now(),
        )

    def command(self) -> Command:
        """Return the command that submits it; raise `UserError` where it can't run there."""
        cluster, version = self._cluster, ".".join(map(str, self._shape.python_version))
        cluster.check_interpreter(self._shape)
        if cluster.wants_python(self._shape):
            raise NotNow(f"Python {version} is not there yet: the first dispatch installs it. Run the test again then.")
        return self._cluster.plugin.submit(self.array)

    async def records(self, patience_s: float) -> list[Record]:
        """Run it, and return what its array tasks told.

        Args:
            patience_s: how long it may wait in the queue.

        Raises:
            NotNow: it waits in the queue.
            HpcflowError: it was refused, or it ended without a word.
        """
        cluster = self._cluster
        spec = {"probe": self._id, "width": self.array.width, "claims": CLAIMS, "wait_s": _MEET_S}
        raw = json.dumps(spec).encode()
        empty = [File(name, []) for name in ("talk-0", "talk-1", "log")]
        mark = File("mark", [b"0\n"])
        signed = [File("probe.sig", [sign(raw, self._key).encode()]), File("probe.json", [raw])]
        folders = ("out", "logs", "race-link", "race-mkdir")
        await cluster.transport.push(self._path, folders, [*empty, mark, *signed])
        await asyncio.sleep(cluster.wait_s(self._now()))
        cluster.submitted_at = self._now()
        # Once, whatever becomes of the answer: a job that was not heard of is found by its name, and leaves by itself.
        reply = await cluster.transport.run(cluster.plugin.submit(self.array), self._settings.command_deadline)
        match cluster.plugin.parse_submit(self.array, reply):
            case Accepted(job_id):
                self.job_id = str(job_id)
            case Refused(reason, retry_later=True):
                raise NotNow(f"the queue has no room: {reason}. Run the test again later.")
            case Refused(reason):
                raise RefusedJob(reason, last_words(reply))
            case _:
                pass
        over = False
        try:
            records = await self._follow(patience_s)
            over = True
            return records
        finally:
            if not over:
                await asyncio.shield(self._give_up())
            else:
                await cluster.transport.run(Command(("/bin/sh", "-c", _REMOVE, "sh", self._path)), DEADLINE_S)

    async def _follow(self, patience_s: float) -> list[Record]:
        cluster, loop = self._cluster, asyncio.get_running_loop()
        pause_s = min(1.0, cluster.follow_poll(self._settings)[0])
        floor_s = max(cluster.site.poll, cluster.settings.poll or 0.0)
        query_s = max(floor_s, min(_QUERY_S, self._settings.accounting_poll))
        data: dict[str, bytes] = {}
        began = asked = loop.time()
        started_at: float | None = None
        ended, waits = 0, ""
        while True:
            news = await cluster.transport.read_new(
                os.path.join(self._path, "out"), {name: len(known) for name, known in data.items()}
            )
            for name, more in news.items():
                data[name] = data.get(name, b"") + more
            records = [record for known in data.values() for record in read_lines(known, self._key)[0]]
            if len({record["i"] for record in records if record["ev"] == "done"}) == self.array.width:
                return records
            now = loop.time()
            if any(record["ev"] == "up" for record in records):
                started_at = started_at or now
            if ended > 1:
                raise StepFailed(
                    f"The job ended before it had told all: {waits or 'nobody says why'}.", await self._log()
                )
            if started_at is None and now - began > patience_s:
                raise NotNow(
                    f"still in the queue after {now - began:.0f} s{f' ({waits})' if waits else ''}: it was taken out "
                    "again. Run the test again later."
                )
            if started_at is not None and now - started_at > _WALLTIME_S:
                raise StepFailed(f"The job told nothing more for {now - started_at:.0f} s.", await self._log())
            if now - asked >= query_s or (ended and now - asked >= 2 * pause_s):
                asked = now
                over, waits = await self._ask(waits)
                ended += over
            await asyncio.sleep(pause_s)

    async def _ask(self, waits: str) -> tuple[bool, str]:
        """Ask the scheduler; return whether all has ended, and in words why it waits or how it ended."""
        plugin, limits = self._cluster.plugin, self._cluster.limits
        commands = plugin.query([self.array], accounting=limits is None or limits.accounting)
        replies = [await self._cluster.transport.run(command, DEADLINE_S) for command in commands]
        rows = plugin.parse_query([self.array], replies).rows
        for row in rows:
            if row.stuck is Stuck.NEVER:
                raise StepFailed(f"It can't ever start: {plugin.why_pending(row.raw) or row.raw}.")
            if row.phase is Phase.PENDING:
                return False, plugin.why_pending(row.raw) or row.raw
        if len({row.index for row in rows if row.phase is Phase.ENDED}) == self.array.width:
            row = rows[-1]
            code = f", exit code {row.exit_code}" if row.exit_code else ""
            return True, f"{row.cause or 'ended'} ({row.raw}{code})"
        return False, waits

    async def _log(self) -> str:
        command = Command(("/bin/sh", "-c", _LOGS, "sh", self._path))
        return last_words(await self._cluster.transport.run(command, DEADLINE_S))

    async def _give_up(self) -> None:
        """Take it out of the queue, by its id or its name."""
        with suppress(TransportError, TimeoutError):
            command = self._cluster.plugin.cancel([self.array], pending_only=False)
            # A server that ends waits for this, but not for a host that does not answer.
            async with asyncio.timeout(_GIVE_UP_S):
                await self._cluster.transport.run(command, _GIVE_UP_S)
