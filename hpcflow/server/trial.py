"""A test of one cluster, step by step: from the first connection to two compute nodes that race for names."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.plugin import Command
from hpcflow.server.clusters import Cluster
from hpcflow.server.probe_job import CLAIMS, ProbeJob, Record, RefusedJob
from hpcflow.server.remote import NeedsLogin, UntrustedHost
from hpcflow.server.settings import Settings
from hpcflow.server.trial_report import DEADLINE_S, SHOWN, NotNow, StepFailed, Stop, TrialReport, last_words
from hpcflow.server.verdict import judge, write_verdict

__all__ = ["Asked", "Trial"]

logger = logging.getLogger(__name__)

#: Clocks that differ by more make a mess of times that people read; nothing else depends on them.
_CLOCK_S: Final = 60.0
_LEAST_FREE_KIB: Final = 1 << 20

_TOOLS: Final = "for t in tar gzip awk dd mv rm mkdir env; do command -v $t >/dev/null 2>&1 || echo $t; done"
_SHELL: Final = (
    'case "$SHELL" in */csh|*/tcsh) echo "@csh $SHELL" ;; *) "$SHELL" -lc "echo @hpcflow-here" </dev/null 2>&1 ;; esac'
)
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
        #: All steps so far.
        self.report = TrialReport()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop; a job that waits in the queue is told to go."""
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    # ---- steps

    async def _run(self) -> None:
        fault = None
        try:
            await self._all()
        except Stop:
            pass
        except Exception:  # whoever waits for the end of a test must hear of it
            logger.exception("%s: a fault in a test", self._cluster.name)
            fault = "hpcflow itself failed here; `hpcflow logs` says how"
        finally:
            await self.report.end(fault)

    async def _all(self) -> None:
        cluster = self._cluster
        if cluster.link is not None:
            await self._let_in()
            await self.report.step("tools", self._tools, Command(("sh", "-c", _TOOLS)))
            await self.report.step("login shell", self._login_shell, Command(("sh", "-c", _SHELL)), needed=False)
            await self.report.step("clock", self._clock, Command(("date", "+%s")), needed=False)
        await self.report.step("work directory", self._work_directory)
        probe, limits = cluster.plugin.probe(), cluster.plugin.limits()
        await self.report.step("scheduler answers", self._with_output(cluster.probe, probe), probe)
        if cluster.site_file is not None:
            await self.report.step("site's rules", self._site)
        await self.report.step("limits", self._with_output(self._limits, limits), limits)
        await self.report.step("accounting", self._accounting)
        if self._asked.jobs:
            await self._jobs()

    def _with_output(self, ask: Callable[[], Awaitable[str]], command: Command) -> Callable[[], Awaitable[str]]:
        """Return a step that shows, where it fails, what its command writes: a question may be asked again for that."""

        async def asked() -> str:
            try:
                return await ask()
            except HpcflowError as error:
                output = ""
                with suppress(HpcflowError):
                    output = last_words(await self._cluster.transport.run(command, DEADLINE_S))
                raise StepFailed(str(error), output) from error

        return asked

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
        await self.report.step("reach", reached)
        await self.report.step("host key", part((UntrustedHost,), "it is one that known_hosts holds"))
        await self.report.step("login", part((NeedsLogin,), "no person was needed"))

    async def _tools(self) -> str:
        missing = _text(await self._output(Command(("sh", "-c", _TOOLS)))).split()
        if missing:
            raise StepFailed(
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
            raise StepFailed("The login shell did not run a command; its profile may end or replace it.", said[-SHOWN:])
        if noise:
            return f"it writes {len(noise)} characters of its own, which do no harm: {noise.splitlines()[0][:80]!r}"
        return "it writes nothing of its own"

    async def _clock(self) -> str:
        text = _text(await self._output(Command(("date", "+%s")))).strip()
        if not text.isdigit():
            raise StepFailed("It does not tell the time.", text[-SHOWN:])
        off_s = int(text) - self._now().timestamp()
        if abs(off_s) > _CLOCK_S:
            way = "ahead of" if off_s > 0 else "behind"
            return f"it is {abs(off_s):.0f} s {way} this machine's: times of jobs are shown as the cluster tells them"
        return f"within {max(1, round(abs(off_s)))} s of this machine's"

    async def _work_directory(self) -> str:
        cluster = self._cluster
        await cluster.place_worker()
        reply = await cluster.transport.run(Command(("/bin/sh", "-c", _SPACE, "sh", cluster.root)), DEADLINE_S)
        if reply.exit_code != 0:
            raise StepFailed(f"{cluster.root} can't be written.", last_words(reply))
        return f"{cluster.root}: {_space(_text(reply.stdout))}"

    async def _site(self) -> str:
        await self._cluster.known_limits(self._now())
        if self._cluster.site_problem is not None:
            raise StepFailed(f"{self._cluster.site_problem} Until then what was read before holds on.")
        return self._cluster.site.said() or f"there is no {self._cluster.site_file}: your settings hold"

    async def _limits(self) -> str:
        known = await self._cluster.known_limits(self._now())
        partitions = ", ".join(partition.name for partition in known.partitions)
        return f"partitions {partitions}; arrays of up to {known.array.max_width}"

    async def _accounting(self) -> str:
        known = await self._cluster.known_limits(self._now())
        return "it is kept" if known.accounting else "none is kept: the queue alone is asked"

    async def _output(self, command: Command) -> bytes:
        reply = await self._cluster.transport.run(command, DEADLINE_S)
        if reply.exit_code is None:
            raise StepFailed("Its end was not seen.", last_words(reply))
        return reply.stdout

    # ---- jobs

    async def _jobs(self) -> None:
        records: list[Record] = []
        job = self._job(width=1, exclusive=False)

        async def runs() -> str:
            records.extend(await job.records(self._asked.patience_s))
            (up,) = [record for record in records if record["ev"] == "up"][-1:]
            return f"job {job.job_id or job.array.token} ran on {up['node']}"

        async def python() -> str:
            up = next(record for record in records if record["ev"] == "up")
            found, wanted = ".".join(map(str, up["py"])), ".".join(map(str, self._asked.python))
            if tuple(up["py"][:2]) != self._asked.python:
                raise StepFailed(
                    f"Workers there are Python {found} ({up['exe']}), and this program is Python {wanted}: what one "
                    "pickles crashes the other. Set python or prologue of the cluster in clusters.toml."
                )
            return f"{found} at {up['exe']}"

        async def pickles() -> str:
            up = next(record for record in records if record["ev"] == "up")
            if up["pickles"] is not None:
                raise StepFailed(f"A function did not survive cloudpickle there: {up['pickles']}.")
            return "a function came back as it went"

        async def interpreter() -> str:
            submission.append(job.command())
            return f"array tasks start {job.array.command[0]}"

        submission: list[Command] = []
        if not await self.report.step("interpreter", interpreter):
            return
        if not await self.report.step("job on a compute node", runs, *submission):
            return
        await self.report.step("Python on a compute node", python)
        await self.report.step("cloudpickle", pickles)
        await self.report.step("claims of two nodes", self._race, needed=False)

    def _job(self, *, width: int, exclusive: bool) -> ProbeJob:
        return ProbeJob(
            self._cluster,
            self._settings,
            python=self._asked.python,
            executable=self._asked.executable,
            width=width,
            exclusive=exclusive,
            now=self._now,
            new_id=self._new_id,
        )

    async def _race(self) -> str:
        cluster = self._cluster
        limits = await cluster.known_limits(self._now())
        named = cluster.settings.partition
        nodes = [p.total_nodes for p in limits.partitions if p.name == named or (named is None and p.is_default)]
        if nodes and nodes[0] == 1:
            raise NotNow("there is one node only: nothing to race for")
        job = self._job(width=2, exclusive=True)
        try:
            records = await job.records(self._asked.patience_s)
        except RefusedJob as refused:
            raise NotNow(f"two whole nodes are not to be had: {refused}") from None
        verdict, seen = judge(records, claims=CLAIMS, root=cluster.root, at=self._now())
        if verdict is None:
            raise NotNow(f"{seen}; workers claim as before")
        await asyncio.to_thread(write_verdict, self._keep_at, verdict)
        cluster.verdict = verdict
        return seen


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _space(said: str) -> str:
    """Return free space, free inodes and quota in words, from df's and quota's own.

    Raises:
        StepFailed: there is no space left, or the quota is used up.
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
            raise StepFailed(f"There is no room left on {numbers[-1][5]}: 0 {unit} free.", said[-SHOWN:])
        words.append(f"{free / (1 << 20):.1f} GiB free" if unit == "GiB" else f"{free} files free")
        if unit == "GiB" and free < _LEAST_FREE_KIB:
            words[-1] += ", which is little"
    limits = [row for row in parts["@quota"] if len(row) >= 4 and row[1].rstrip("*").isdigit() and row[3].isdigit()]
    for row in limits:
        if row[1].endswith("*") or any(field.endswith("*") and field[:-1].isdigit() for field in row):
            raise StepFailed(f"Your quota on {row[0]} is used up.", said[-SHOWN:])
        most = int(row[2]) or int(row[3])
        if most:
            words.append(f"quota of {row[0]}: {int(row[1]) / (1 << 20):.1f} of {most / (1 << 20):.1f} GiB used")
    return "; ".join([*words, *([] if limits else ["no quota is told"])])
