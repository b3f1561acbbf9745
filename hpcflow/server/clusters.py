"""A named place to run: settings, plugin, transport, keys and what it last said about itself."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from hpcflow.core.bag import ClaimMethod
from hpcflow.core.environment import environment_key, inside, shell_lines
from hpcflow.core.model import ClusterName, Environment, HpcflowError, Limits, Shape, UserError
from hpcflow.core.plugin import Command, Plugin
from hpcflow.server.leftovers import OLD_S, drop_folders, dropped_of, dropping
from hpcflow.server.pythons import MINORS, Found, find_pythons, install_python
from hpcflow.server.remote import File, Link, Transport
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.site import SiteError, SiteRules, parse_rules, rules
from hpcflow.server.verdict import Verdict
from hpcflow.server.zipapp import build_worker

if TYPE_CHECKING:
    pass

__all__ = ["LOCAL", "Cluster", "worker_path_in"]

logger = logging.getLogger(__name__)

LOCAL: Final = ClusterName("local")
_PROBE_DEADLINE_S: Final = 5.0
#: Behind ssh, where login nodes may be busy and prologues load modules.
_FAR_DEADLINE_S: Final = 30.0
_LIMITS_HOLD: Final = timedelta(minutes=10)
_LIMITS_DEADLINE_S: Final = 30.0
#: What was put on a cluster is looked for again after this long: somebody may tidy up there.
_PLACED_HOLDS_S: Final = 60.0

#: Prints the f_type of the file system that a directory is on, or will be.
_FILE_SYSTEM: Final = 'd=$1; until test -e "$d"; do d=${d%/*}; d=${d:-/}; done; stat -f -c %t "$d"'

#: statfs(2) f_type of file systems that one machine has for itself (statfs(2)): ext, XFS, Btrfs, ZFS, tmpfs, overlayfs.
_OWN_FILE_SYSTEMS: Final = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x2FC12FC1, 0x01021994, 0x794C7630})


@dataclass(slots=True)
class Cluster:
    """One place to run."""

    name: ClusterName
    settings: ClusterSettings
    plugin: Plugin
    transport: Transport
    #: hpcflow's directory there: bags/, bin/ and the `local` scheduler's own files. Behind ssh the paths below, and the
    #: plugin, are what they should be only after `place_worker`, which every question to the scheduler begins with.
    root: str
    #: Signs bags and journals; lies in a file that only the user can read, outside of ``root``.
    key: bytes
    key_path: str
    worker_path: str
    #: What the scheduler called itself when it was last asked.
    version: str = ""
    #: Why it did not answer last time; ``None``: it did, or nobody asked.
    problem: str | None = None
    limits: Limits | None = None
    limits_at: datetime | None = None
    #: Where the site's rules lie there; ``None``: it has none to ask for. And what they were when last read.
    site_file: str | None = None
    site: SiteRules = field(default_factory=SiteRules)
    #: What is wrong with them; those read before it hold on.
    site_problem: str | None = None
    #: When something was last submitted.
    submitted_at: datetime | None = None
    #: When it was last asked about jobs, with or without success; ``None``: not since the server's start.
    asked_at: datetime | None = None
    #: When anything about jobs or tasks came from there last, and when it last failed to; ``None``: not yet.
    heard_at: datetime | None = None
    failed_at: datetime | None = None
    #: Nobody named it: its commands are on PATH here.
    incidental: bool = False
    #: The notice of this server, which workers on its own machine look at; ``None``: they are elsewhere.
    notice: str | None = None
    #: The connection of a cluster behind ssh; ``None``: it is reached from this machine.
    link: Link | None = None
    #: Whether several machines write to ``root``; ``None``: as they do to the server's own home.
    on_network: bool | None = None
    #: Interpreters and machine, behind ssh; nothing before somebody asked, and nothing of clusters on this machine.
    found: Found = field(default_factory=Found)
    #: What two of its nodes found out about a work directory; ``None``: nobody has tried.
    verdict: Verdict | None = None
    _settled: bool = False
    #: When somebody last removed what was left there, by the loop's clock.
    _tidied_at: float | None = None
    _placed_at: float | None = None
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    _placing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def claims(self) -> ClaimMethod:
        """How workers share the ranges of a bag there."""
        return self.verdict.claims if self.verdict is not None and self.verdict.root == self.root else "link"

    @property
    def state(self) -> str:
        """``ok``, ``unknown`` (nobody asked yet), ``unreachable``; ``needs login``, ``needs admin``: only they help.

        ``not set up``: nobody named it, and its commands never came to anything.
        """
        if self.link is not None and self.link.needs_login:
            return "needs login"
        if self.site_problem and self.limits is None:
            return "needs admin"
        if self.problem:
            never = self.incidental and not self.version and self.limits is None
            return "not set up" if never else "unreachable"
        return "ok" if self.version or self.limits is not None else "unknown"

    @property
    def unknown_since(self) -> datetime | None:
        """Since when nobody knows what its jobs do, as far as that was asked; ``None``: it is known."""
        if self.problem is None or self.failed_at is None:
            return None
        if self.heard_at is None:
            return self.failed_at
        return self.heard_at if self.failed_at > self.heard_at else None

    def fail(self, problem: str, now: datetime) -> None:
        """Note why it does not tell anything."""
        heard = self.failed_at is None or (self.heard_at is not None and self.heard_at >= self.failed_at)
        if heard or self.problem is None:
            self.failed_at = now  # what never answers is unknown since its first failure
        self.problem = problem

    async def known_limits(self, now: datetime) -> Limits:
        """Return the cluster's limits, asked for at most every ten minutes; stale ones when it does not answer.

        The site's rules are read before them, and hold as long.

        Raises:
            SiteError: the site's rules can't be known, and never were.
            HpcflowError: it was never asked with success and does not answer now.
        """
        async with self._asking:
            if self.limits is not None and self.limits_at is not None and now - self.limits_at < _LIMITS_HOLD:
                return self.limits
            try:
                await self.place_worker()  # the commands of `local` are the worker's
                await self._read_rules()
                reply = await self.transport.run(self.plugin.limits(), _LIMITS_DEADLINE_S)
                self.limits, self.limits_at, self.problem = self.plugin.parse_limits(reply), now, None
                self.heard_at = now
                self.version = f"{self.limits.scheduler} {self.limits.version}".strip()
            except HpcflowError as error:
                self.fail(str(error), now)
                if self.limits is None:
                    raise
                self.limits_at = now  # one that does not answer is not asked more often than one that does
            return self.limits

    async def _read_rules(self) -> None:
        if self.site_file is None:
            return
        reply = await self.transport.run(rules(self.site_file), _LIMITS_DEADLINE_S)
        try:
            self.site, self.site_problem = parse_rules(reply, self.site_file, self.name), None
        except SiteError as error:
            self.site_problem = str(error)
            if self.limits is None:
                raise

    def wait_s(self, now: datetime) -> float:
        """Return the seconds that the site wants to pass before the next submission."""
        if self.submitted_at is None:
            return 0.0
        return max(0.0, self.site.submit_interval - (now - self.submitted_at).total_seconds())

    async def probe(self) -> str:
        """Return scheduler and version; raise `HpcflowError` when it does not answer within 5 s, 30 s behind ssh."""
        try:
            if self.link is not None:
                await self.link.reach()
            await self.place_worker()
            reply = await self.transport.run(
                self.plugin.probe(), _PROBE_DEADLINE_S if self.link is None else _FAR_DEADLINE_S
            )
            self.version, self.problem = self.plugin.parse_probe(reply), None
        except HpcflowError as error:
            self.problem = str(error)
            raise
        return self.version

    async def place_worker(self) -> None:
        """Put the worker where compute nodes find it, and the key behind ssh; look for both again now and then."""
        async with self._placing:
            now = asyncio.get_running_loop().time()
            if self._placed_at is not None and now - self._placed_at < _PLACED_HOLDS_S:
                return
            tidy = self._tidied_at is None or now - self._tidied_at > OLD_S
            if self.link is None:
                await self._push_worker()
                if tidy:
                    self._tell_dropped(await asyncio.to_thread(drop_folders, self._own_folders()))
            else:
                await self._settle_in(self.link, tidy=tidy)
            self._placed_at = now
            self._tidied_at = now if tidy else self._tidied_at

    def _own_folders(self) -> list[str]:
        """Return the folders in which folders appear whole."""
        keys = [] if self.link is None else [os.path.dirname(os.path.dirname(self.key_path))]
        return [*(os.path.join(self.root, name) for name in ("bags", "bin", "envs", "probes")), *keys]

    def _tell_dropped(self, names: Sequence[str]) -> None:
        if names:
            logger.info("%s: removed what was never finished: %s", self.name, ", ".join(names))

    async def _tidy(self) -> None:
        reply = await self.transport.run(dropping(self._own_folders()), _FAR_DEADLINE_S)
        self._tell_dropped(dropped_of(reply.stdout))

    async def _push_worker(self) -> None:
        name, data = _worker()
        await self.transport.push(os.path.dirname(self.worker_path), (), [File(name, [data])])

    async def close(self) -> None:
        """Close its connection; what runs there goes on."""
        if self.link is not None:
            await self.link.close()

    # ---- behind ssh

    async def _settle_in(self, link: Link, *, tidy: bool) -> None:
        """Put worker and key where they go there, and find out, once, which interpreters there are."""
        home = await link.home()
        self.root = _under(home, self.settings.workdir or f"~/.hpcflow/work/{self.name}")
        keys = _under(home, self.settings.keys or "~/.config/hpcflow/keys")
        # Servers of one user share the cluster: each has a key, and the name of its file tells nothing of it.
        self.key_path = os.path.join(keys, hashlib.sha256(self.key).hexdigest()[:16], "key")
        self.worker_path = worker_path_in(self.root)
        folder, file = os.path.split(self.key_path)
        try:
            async with asyncio.TaskGroup() as group:  # a far host takes its time for each
                group.create_task(self.transport.push(folder, (), [File(file, [self.key])]))
                group.create_task(self._push_worker())
                if tidy:
                    group.create_task(self._tidy())
                if not self._settled:
                    group.create_task(self._find_pythons())
                    group.create_task(self._find_file_system())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        own = (sys.version_info[0], sys.version_info[1])
        usable = [path for version, path in sorted(self.pythons.items()) if version >= (3, MINORS[0])]
        python = self._named_python or self.pythons.get(own) or (usable or ["python3"])[0]
        self.plugin = type(self.plugin)(python=python, worker=self.worker_path, root=self.root)
        self._settled = True

    async def _find_pythons(self) -> None:
        self.found = await find_pythons(
            self.transport, prologue=self.settings.prologue, named=self._named_python, root=self.root
        )

    async def _find_file_system(self) -> None:
        """Ask what its work directory is on; what can't be told is taken for a network file system."""
        reply = await self.transport.run(Command(("sh", "-c", _FILE_SYSTEM, "sh", self.root)), _FAR_DEADLINE_S)
        try:
            self.on_network = reply.exit_code != 0 or int(reply.stdout, 16) not in _OWN_FILE_SYSTEMS
        except ValueError:
            self.on_network = True

    # ---- interpreters

    @property
    def pythons(self) -> dict[tuple[int, int], str]:
        return self.found.pythons

    def wants_python(self, shape: Shape) -> bool:
        """Whether the shape's Python is not there, and shall be installed: ``python = "auto"``."""
        auto = self.link is not None and self.settings.python == "auto" and not shape.env.base.has_python
        return auto and shape.python_version not in self.pythons

    async def install_python(self, version: tuple[int, int], wheelhouse: str) -> None:
        """Install a Python of this minor version below hpcflow's folder there.

        Raises:
            PythonsError: with what uv wrote.
            TransportError: the cluster can't be reached.
        """
        await install_python(
            self.transport,
            prologue=self.settings.prologue,
            root=self.root,
            version=version,
            here=self.found,
            wheelhouse=wheelhouse,
        )
        await self._find_pythons()

    @property
    def _named_python(self) -> str | None:
        """What clusters.toml says that workers run under."""
        return None if self.settings.python in (None, "auto") else self.settings.python

    def python_for(self, executable: str, version: Sequence[int]) -> str:
        """Return what a shape says of its interpreter: clusters.toml's, or that of who dispatches.

        Args:
            executable: the interpreter that dispatched.
            version: (major, minor, …) of it: behind ssh only that is the same.
        """
        if (named := self._named_python) is not None:
            return named
        return executable if self.link is None else f"python{version[0]}.{version[1]}"

    def interpreter(self, shape: Shape) -> str:
        """Return the interpreter that array tasks of this shape start, after its `prologue` and in its container."""
        if shape.env.requirements:
            return os.path.join(self.environment_folder(shape), "bin", "python")
        return self.base_interpreter(shape)

    def base_interpreter(self, shape: Shape) -> str:
        """Return the interpreter upon which requirements of the shape are installed."""
        usual = shape.python
        # What modules put on PATH goes before what was found without them.
        if self.link is not None and self._named_python is None and not (shape.env.modules or shape.env.prologue):
            usual = self.pythons.get(shape.python_version, usual)
        return shape.env.interpreter(usual)

    def environment_folder(self, shape: Shape) -> str:
        """Return where the requirements of a shape are, or will be, installed."""
        machine = self.found.machine or os.uname().machine
        key = environment_key(shape.env, cluster=self.name, machine=machine, python=shape.python_version)
        return os.path.join(self.root, "envs", key)

    def prologue(self, env: Environment) -> str:
        """Return the lines of shell before the worker: those of clusters.toml, then those of the environment."""
        own, further = self.settings.prologue, shell_lines(env)
        return f"{own.rstrip()}\n{further}" if own.strip() and further else further or own

    def in_environment(self, shape: Shape, command: Sequence[str], folders: Sequence[str] = ()) -> tuple[str, ...]:
        """Return an argv that runs a command in the container of a shape, where it has one.

        Args:
            shape: what runs.
            command: an argv that needs no more of the cluster than hpcflow's own folders there, and
            folders: these.
        """
        seen = (self.root, os.path.dirname(self.key_path), *folders)
        return inside(shape.env, command, folders=seen, gpus=shape.resources.gpus > 0)

    def probe_command(self, shape: Shape, command: Sequence[str]) -> Command:
        """Return the command that runs another one on the login side as a batch script would on a node."""
        argv, lines = self.in_environment(shape, command), self.prologue(shape.env)
        if not lines.strip():
            return Command(argv)
        # Their own output is nobody's answer; a failure of theirs is in the exit code.
        script = f'exec 3>&1 >&2\n{lines}\nexec "$@" >&3 3>&-'
        return Command(("bash", "-lc", script, "hpcflow", *argv))

    def check_interpreter(self, shape: Shape) -> None:
        """Raise `UserError` when the cluster surely has no interpreter for these pickles.

        Only for clusters behind ssh: on this machine the interpreter that dispatched is there.
        """
        if self.link is None or shape.python_version in self.pythons or shape.env.base != Environment():
            return  # what another environment has is asked of itself
        if self.wants_python(shape):
            return
        version = ".".join(map(str, shape.python_version))
        found = ", ".join(f"{major}.{minor} ({path})" for (major, minor), path in sorted(self.pythons.items()))
        if (named := self._named_python) is not None:
            if found:
                raise UserError(
                    f"Workers on {self.name!r} run under {named}, which is Python {found.split()[0]}, and this program "
                    f"under {version}: what one pickles crashes the other. Use the same minor version in both places."
                )
            return  # it may be there on compute nodes only: they will tell
        raise UserError(
            f"{self.name!r} has no Python {version} on PATH; it has {found or 'none'}. Load one in the prologue of "
            f"clusters.toml, name one there with python=, have one installed with python = 'auto', or dispatch with a "
            "Python that both places have."
        )

    def follow_poll(self, settings: Settings) -> tuple[float, float]:
        """Return how often journals there are read, in seconds: while lines arrive, and at the least."""
        if self.link is None:
            return settings.journal_poll, settings.journal_poll_max
        return settings.ssh_journal_poll, settings.ssh_journal_poll_max

    def bag_path(self, bag: str) -> str:
        return os.path.join(self.root, "bags", bag)


def _under(home: str, path: str) -> str:
    return os.path.normpath(os.path.join(home, path[2:]) if path.startswith("~/") else path)


def worker_path_in(root: str) -> str:
    """Return where the worker lies below hpcflow's directory on a cluster."""
    app, _ = _worker()
    return os.path.join(root, "bin", app.removesuffix(".pyz"), app)


_built: list[tuple[str, bytes]] = []


def _worker() -> tuple[str, bytes]:
    """The worker's zipapp, assembled once per process."""
    if not _built:
        _built.append(build_worker())
    return _built[0]
