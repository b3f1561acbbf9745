"""A test of one cluster, step by step: from the first connection to two compute nodes that race for names."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from hpcflow.core.bag import bag_key, read_lines, sign
from hpcflow.core.model import (
    BagId,
    DispatchId,
    HpcflowError,
    JobArray,
    Phase,
    Resources,
    Shape,
    Stuck,
)
from hpcflow.core.plan import partition_of
from hpcflow.core.plugin import Accepted, Command, Refused, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.remote import File, NeedsLogin, TransportError, UntrustedHost
from hpcflow.server.settings import Settings
from hpcflow.server.verdict import judge, write_verdict

__all__ = ["Asked", "Trial"]

logger = logging.getLogger(__name__)

Json = dict[str, Any]  # Any: JSON, described in cluster_schema.py

_DEADLINE_S: Final = 60.0
#: Names that two nodes race for.
_CLAIMS: Final = 1000
#: Limit of an array task, and how long those two wait for each other's words.
_WALLTIME_S: Final = 600
_MEET_S: Final = 120.0
_GIVE_UP_S: Final = 15.0
#: The scheduler is asked about the array this often, unless its site or its owner wants to be asked more seldom.
_QUERY_S: Final = 10.0
#: What a failing command wrote is shown from its end on.
_SHOWN: Final = 2000
#: Clocks that differ by more make a mess of times that people read; nothing else depends on them.
_CLOCK_S: Final = 60.0
_LEAST_FREE_KIB: Final = 1 << 20

_TOOLS: Final = "for t in tar gzip awk dd mv rm mkdir env; do command -v $t >/dev/null 2>&1 || echo $t; done"
_SHELL: Final = (
    'case "$SHELL" in */csh|*/tcsh) echo "@csh $SHELL" ;; *) "$SHELL" -lc "echo @hpcflow-here" </dev/null 2>&1 ;; esac'
)
_REMOVE: Final = 'PATH="$PATH:/usr/bin:/bin"; rm -rf -- "$1"'
_LOGS: Final = 'PATH="$PATH:/usr/bin:/bin"; cd "$1" && tail -n 20 logs/* 2>&1'
#: The server's own PATH may lead to its scheduler and to nothing else.
_SPACE: Final = (
    'PATH="$PATH:/usr/bin:/bin"; umask 077; mkdir -p "$1" && t="$1/.test-$$" && echo x >"$t" && rm -f "$t" || exit 73; '
    'echo @space; df -Pk "$1"; '
    'echo @inodes; df -Pi "$1" 2>/dev/null; echo @quota; '
    'if command -v lfs >/dev/null 2>&1; then lfs quota -q -u "$(id -un)" "$1" 2>/dev/null; fi; quota -w 2>/dev/null; :'
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody wants to know of a cluster."""

    #: (major, minor) of who will dispatch, and that interpreter.
    python: tuple[int, int]
    executable: str
    #: Whether jobs are submitted, and how long each may wait in the queue, in seconds.
    jobs: bool = True
    patience_s: float = 120.0


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


class _Stop(Exception):
    """Nothing that follows can work."""


class _Failed(HpcflowError):
    """A step failed; what a command wrote goes with it."""

    def __init__(self, sentence: str, output: str = "") -> None:
        super().__init__(sentence)
        self.output = output


class _RefusedJob(_Failed):
    """The scheduler takes no such job."""


class _NotNow(HpcflowError):
    """A step can't be done now or here, which is no fault of the cluster's."""


class Trial:
    """One test of one cluster, which goes on whether or not somebody looks."""

    def __init__(
        self,
        cluster: Cluster,
        asked: Asked,
        settings: Settings,
        *,
        keep_at: str,
        now: Callable[[], datetime],
        new_id: Callable[[], str],
    ) -> None:
        """Begin to test.

        Args:
            cluster: which one.
            asked: what is to be found out.
            settings: the server's.
            keep_at: the file that the verdict of two nodes is kept in.
            now: tells the time.
            new_id: makes ids.
        """
        self._cluster = cluster
        self._asked = asked
        self._settings = settings
        self._keep_at = keep_at
        self._now = now
        self._new_id = new_id
        self._steps: list[_Step] = []
        self._version = 0
        self._over = False
        self._changed = asyncio.Condition()
        self._task = asyncio.create_task(self._run())

    @property
    def done(self) -> bool:
        return self._over

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

    async def close(self) -> None:
        """Stop; a job that waits in the queue is told to go."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    # ---- steps

    async def _run(self) -> None:
        try:
            await self._all()
        except _Stop:
            pass
        except Exception:  # whoever waits for the end of a test must hear of it
            logger.exception("%s: a fault in a test", self._cluster.name)
            fault = "hpcflow itself failed here; `hpcflow logs` says how"
            self._steps.append(_Step("the test", "failed", fault))
        finally:
            self._over = True
            await self._tell()

    async def _tell(self) -> None:
        self._version += 1
        async with self._changed:
            self._changed.notify_all()

    async def _step(
        self, name: str, ask: Callable[[], Awaitable[str]], command: Command | None = None, *, needed: bool = True
    ) -> bool:
        """Do one step and write down what came of it; raise `_Stop` where nothing can follow a failure.

        Args:
            name: of the step.
            ask: does it, and returns what was found.
            command: shown where it fails.
            needed: whether nothing can follow a failure.
        """
        step = _Step(name, command=None if command is None else shlex.join(command.argv)[:_SHOWN])
        self._steps.append(step)
        await self._tell()
        try:
            step.detail, step.state = await ask(), "ok"
        except _NotNow as reason:
            step.detail, step.state = str(reason), "skipped"
        except HpcflowError as error:
            step.detail, step.state = str(error), "failed"
            step.output = error.output if isinstance(error, _Failed) else ""
            if not step.output and command in (self._cluster.plugin.probe(), self._cluster.plugin.limits()):
                # Questions alone are asked again; a submission never is.
                assert command is not None
                step.output = _said(await self._cluster.transport.run(command, _DEADLINE_S))
        await self._tell()
        if step.state == "failed" and needed:
            raise _Stop
        return step.state == "ok"

    async def _all(self) -> None:
        cluster = self._cluster
        if cluster.link is not None:
            await self._let_in()
            await self._step("tools", self._tools, Command(("sh", "-c", _TOOLS)))
            await self._step("login shell", self._login_shell, Command(("sh", "-c", _SHELL)), needed=False)
            await self._step("clock", self._clock, Command(("date", "+%s")), needed=False)
        await self._step("work directory", self._work_directory)
        await self._step("scheduler answers", cluster.probe, cluster.plugin.probe())
        if cluster.site_file is not None:
            await self._step("site's rules", self._site)
        await self._step("limits", self._limits, cluster.plugin.limits())
        await self._step("accounting", self._accounting)
        if self._asked.jobs:
            await self._jobs()

    async def _let_in(self) -> None:
        """Connect; which step fails says what is wrong."""
        cluster, fault = self._cluster, None
        assert cluster.link is not None
        began = asyncio.get_running_loop().time()
        try:
            await cluster.link.reach()
        except HpcflowError as error:
            fault = error
        took_s = asyncio.get_running_loop().time() - began

        def part(kinds: tuple[type[HpcflowError], ...], good: str) -> Callable[[], Awaitable[str]]:
            async def ask() -> str:
                if isinstance(fault, kinds):
                    raise fault
                return good

            return ask

        beyond = isinstance(fault, (UntrustedHost, NeedsLogin))
        host = cluster.settings.host
        reached = (
            part((), f"{host} answers") if beyond else part((HpcflowError,), f"{host} let us in after {took_s:.2f} s")
        )
        await self._step("reach", reached)
        await self._step("host key", part((UntrustedHost,), "it is one that known_hosts holds"))
        await self._step("login", part((NeedsLogin,), "no person was needed"))

    async def _tools(self) -> str:
        missing = _text(await self._output(Command(("sh", "-c", _TOOLS)))).split()
        if missing:
            raise _Failed(
                f"{' and '.join(missing)} can't be found in the PATH of {self._cluster.settings.host}: hpcflow needs "
                "them there."
            )
        return "sh, tar, gzip, awk and dd are there"

    async def _login_shell(self) -> str:
        said = _text(await self._output(Command(("sh", "-c", _SHELL))))
        if (csh := re.search(r"@csh (\S+)", said)) is not None:
            return f"{csh[1]}: its start files are not read; what jobs need of them belongs into prologue"
        noise = said.replace("@hpcflow-here", "").strip()
        if "@hpcflow-here" not in said:
            raise _Failed("The login shell did not run a command; its profile may end or replace it.", said[-_SHOWN:])
        if noise:
            return f"it writes {len(noise)} characters of its own, which do no harm: {noise.splitlines()[0][:80]!r}"
        return "it writes nothing of its own"

    async def _clock(self) -> str:
        text = _text(await self._output(Command(("date", "+%s")))).strip()
        if not text.isdigit():
            raise _Failed("It does not tell the time.", text[-_SHOWN:])
        off_s = int(text) - self._now().timestamp()
        if abs(off_s) > _CLOCK_S:
            way = "ahead of" if off_s > 0 else "behind"
            return f"it is {abs(off_s):.0f} s {way} this machine's: times of jobs are shown as the cluster tells them"
        return f"within {max(1, round(abs(off_s)))} s of this machine's"

    async def _work_directory(self) -> str:
        cluster = self._cluster
        await cluster.place_worker()
        reply = await cluster.transport.run(Command(("/bin/sh", "-c", _SPACE, "sh", cluster.root)), _DEADLINE_S)
        if reply.exit_code != 0:
            raise _Failed(f"{cluster.root} can't be written.", _said(reply))
        return f"{cluster.root}: {_space(_text(reply.stdout))}"

    async def _site(self) -> str:
        await self._cluster.known_limits(self._now())
        if self._cluster.site_problem is not None:
            raise _Failed(f"{self._cluster.site_problem} Until then what was read before holds on.")
        return self._cluster.site.said() or f"there is no {self._cluster.site_file}: your settings hold"

    async def _limits(self) -> str:
        known = await self._cluster.known_limits(self._now())
        partitions = ", ".join(partition.name for partition in known.partitions)
        return f"partitions {partitions}; arrays of up to {known.array.max_width}"

    async def _accounting(self) -> str:
        known = await self._cluster.known_limits(self._now())
        return "it is kept" if known.accounting else "none is kept: the queue alone is asked"

    async def _output(self, command: Command) -> bytes:
        reply = await self._cluster.transport.run(command, _DEADLINE_S)
        if reply.exit_code is None:
            raise _Failed("Its end was not seen.", _said(reply))
        return reply.stdout

    # ---- jobs

    async def _jobs(self) -> None:
        records: list[Json] = []
        job = _Job(self, width=1, exclusive=False)

        async def runs() -> str:
            records.extend(await job.records())
            (up,) = [record for record in records if record["ev"] == "up"][-1:]
            return f"job {job.job_id or job.array.token} ran on {up['node']}"

        async def python() -> str:
            up = next(record for record in records if record["ev"] == "up")
            found, wanted = ".".join(map(str, up["py"])), ".".join(map(str, self._asked.python))
            if tuple(up["py"][:2]) != self._asked.python:
                raise _Failed(
                    f"Workers there are Python {found} ({up['exe']}), and this program is Python {wanted}: what one "
                    "pickles crashes the other. Set python or prologue of the cluster in clusters.toml."
                )
            return f"{found} at {up['exe']}"

        async def pickles() -> str:
            up = next(record for record in records if record["ev"] == "up")
            if up["pickles"] is not None:
                raise _Failed(f"A function did not survive cloudpickle there: {up['pickles']}.")
            return "a function came back as it went"

        async def interpreter() -> str:
            submission.append(job.command())
            return f"array tasks start {job.array.command[0]}"

        submission: list[Command] = []
        if not await self._step("interpreter", interpreter):
            return
        if not await self._step("job on a compute node", runs, *submission):
            return
        await self._step("Python on a compute node", python)
        await self._step("cloudpickle", pickles)
        await self._step("claims of two nodes", self._race, needed=False)

    async def _race(self) -> str:
        cluster = self._cluster
        limits = await cluster.known_limits(self._now())
        named = cluster.settings.partition
        nodes = [p.total_nodes for p in limits.partitions if p.name == named or (named is None and p.is_default)]
        if nodes and nodes[0] == 1:
            raise _NotNow("there is one node only: nothing to race for")
        job = _Job(self, width=2, exclusive=True)
        try:
            records = await job.records()
        except _RefusedJob as refused:
            raise _NotNow(f"two whole nodes are not to be had: {refused}") from None
        verdict, seen = judge(records, claims=_CLAIMS, root=cluster.root, at=self._now())
        if verdict is None:
            raise _NotNow(f"{seen}; workers claim as before")
        await asyncio.to_thread(write_verdict, self._keep_at, verdict)
        cluster.verdict = verdict
        return seen


class _Job:
    """An array of probes: submitted once, followed to its end, and told to go when it does not start in time."""

    def __init__(self, trial: Trial, *, width: int, exclusive: bool) -> None:
        self._trial = trial
        self._cluster = cluster = trial._cluster
        self._id = trial._new_id()
        self._path = os.path.join(cluster.root, "probes", self._id)
        self._key = bag_key(cluster.key, self._id)
        self.job_id: str | None = None
        table, asked = cluster.settings, trial._asked
        resources = Resources(
            partition=table.partition, account=table.account, qos=table.qos, memory_mib=table.memory_mib
        )
        shape = Shape(
            cluster=cluster.name,
            resources=resources,
            python=cluster.python_for(asked.executable, asked.python),
            python_version=asked.python,
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
            intent_at=trial._now(),
        )

    def command(self) -> Command:
        """Return the command that submits it; raise `UserError` where it can't run there."""
        cluster, version = self._cluster, ".".join(map(str, self._shape.python_version))
        cluster.check_interpreter(self._shape)
        if cluster.wants_python(self._shape):
            raise _NotNow(
                f"Python {version} is not there yet: the first dispatch installs it. Run the test again then."
            )
        return self._cluster.plugin.submit(self.array)

    async def records(self) -> list[Json]:
        """Run it, and return what its array tasks told.

        Raises:
            _NotNow: it waits in the queue.
            HpcflowError: it was refused, or it ended without a word.
        """
        cluster, trial = self._cluster, self._trial
        spec = {"probe": self._id, "width": self.array.width, "claims": _CLAIMS, "wait_s": _MEET_S}
        raw = json.dumps(spec).encode()
        empty = [File(name, []) for name in ("talk-0", "talk-1", "log")]
        mark = File("mark", [b"0\n"])
        signed = [File("probe.sig", [sign(raw, self._key).encode()]), File("probe.json", [raw])]
        folders = ("out", "logs", "race-link", "race-mkdir")
        await cluster.transport.push(self._path, folders, [*empty, mark, *signed])
        await asyncio.sleep(cluster.wait_s(trial._now()))
        cluster.submitted_at = trial._now()
        # Once, whatever becomes of the answer: a job that was not heard of is found by its name, and leaves by itself.
        reply = await cluster.transport.run(cluster.plugin.submit(self.array), trial._settings.command_deadline)
        match cluster.plugin.parse_submit(self.array, reply):
            case Accepted(job_id):
                self.job_id = str(job_id)
            case Refused(reason, retry_later=True):
                raise _NotNow(f"the queue has no room: {reason}. Run the test again later.")
            case Refused(reason):
                raise _RefusedJob(reason, _said(reply))
            case _:
                pass
        over = False
        try:
            records = await self._follow()
            over = True
            return records
        finally:
            if not over:
                await asyncio.shield(self._give_up())
            else:
                await cluster.transport.run(Command(("/bin/sh", "-c", _REMOVE, "sh", self._path)), _DEADLINE_S)

    async def _follow(self) -> list[Json]:
        cluster, trial, loop = self._cluster, self._trial, asyncio.get_running_loop()
        pause_s = min(1.0, cluster.follow_poll(trial._settings)[0])
        floor_s = max(cluster.site.poll, cluster.settings.poll or 0.0)
        query_s = max(floor_s, min(_QUERY_S, trial._settings.accounting_poll))
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
                raise _Failed(f"The job ended before it had told all: {waits or 'nobody says why'}.", await self._log())
            if started_at is None and now - began > trial._asked.patience_s:
                raise _NotNow(
                    f"still in the queue after {now - began:.0f} s{f' ({waits})' if waits else ''}: it was taken out "
                    "again. Run the test again later."
                )
            if started_at is not None and now - started_at > _WALLTIME_S:
                raise _Failed(f"The job told nothing more for {now - started_at:.0f} s.", await self._log())
            if now - asked >= query_s or (ended and now - asked >= 2 * pause_s):
                asked = now
                over, waits = await self._ask(waits)
                ended += over
            await asyncio.sleep(pause_s)

    async def _ask(self, waits: str) -> tuple[bool, str]:
        """Ask the scheduler; return whether all has ended, and in words why it waits or how it ended."""
        plugin, limits = self._cluster.plugin, self._cluster.limits
        commands = plugin.query([self.array], accounting=limits is None or limits.accounting)
        replies = [await self._cluster.transport.run(command, _DEADLINE_S) for command in commands]
        rows = plugin.parse_query([self.array], replies).rows
        for row in rows:
            if row.stuck is Stuck.NEVER:
                raise _Failed(f"It can't ever start: {plugin.why_pending(row.raw) or row.raw}.")
            if row.phase is Phase.PENDING:
                return False, plugin.why_pending(row.raw) or row.raw
        if len({row.index for row in rows if row.phase is Phase.ENDED}) == self.array.width:
            row = rows[-1]
            code = f", exit code {row.exit_code}" if row.exit_code else ""
            return True, f"{row.cause or 'ended'} ({row.raw}{code})"
        return False, waits

    async def _log(self) -> str:
        command = Command(("/bin/sh", "-c", _LOGS, "sh", self._path))
        return _said(await self._cluster.transport.run(command, _DEADLINE_S))

    async def _give_up(self) -> None:
        """Take it out of the queue, by its id or its name."""
        with suppress(TransportError, TimeoutError):
            command = self._cluster.plugin.cancel([self.array], pending_only=False)
            # A server that ends waits for this, but not for a host that does not answer.
            async with asyncio.timeout(_GIVE_UP_S):
                await self._cluster.transport.run(command, _GIVE_UP_S)


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _said(reply: Reply) -> str:
    """Return the end of what a command wrote, errors last."""
    parts = [_text(part).strip() for part in (reply.stdout, reply.stderr)]
    return "\n".join(filter(None, parts))[-_SHOWN:]


def _space(said: str) -> str:
    """Return free space, free inodes and quota in words, from df's and quota's own.

    Raises:
        _Failed: there is no space left, or the quota is used up.
    """
    parts: Mapping[str, list[list[str]]] = {"@space": [], "@inodes": [], "@quota": []}
    rows: list[list[str]] = []
    for line in said.splitlines():
        if line in parts:
            rows = parts[line]
        else:
            rows.append(line.split())
    words: list[str] = []
    for mark, unit in (("@space", "GiB"), ("@inodes", "files")):
        numbers = [row for row in parts[mark] if len(row) >= 6 and row[3].isdigit()]
        if not numbers or int(numbers[-1][1] if numbers[-1][1].isdigit() else 0) == 0:
            continue  # a file system that counts no inodes
        free = int(numbers[-1][3])
        if free == 0:
            raise _Failed(f"There is no room left on {numbers[-1][5]}: 0 {unit} free.", said[-_SHOWN:])
        words.append(f"{free / (1 << 20):.1f} GiB free" if unit == "GiB" else f"{free} files free")
        if unit == "GiB" and free < _LEAST_FREE_KIB:
            words[-1] += ", which is little"
    limits = [row for row in parts["@quota"] if len(row) >= 4 and row[1].rstrip("*").isdigit() and row[3].isdigit()]
    for row in limits:
        if row[1].endswith("*") or any(field.endswith("*") and field[:-1].isdigit() for field in row):
            raise _Failed(f"Your quota on {row[0]} is used up.", said[-_SHOWN:])
        most = int(row[2]) or int(row[3])
        if most:
            words.append(f"quota of {row[0]}: {int(row[1]) / (1 << 20):.1f} of {most / (1 << 20):.1f} GiB used")
    return "; ".join([*words, *([] if limits else ["no quota is told"])])
