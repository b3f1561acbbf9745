"""The environments of tasks on their clusters: what they have is asked, what they need is installed, once."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from hpcflow.core.environment import EXIT_ENVIRONMENT
from hpcflow.core.model import Environment, HpcflowError, Shape, Task, UserError
from hpcflow.core.plugin import Command, Reply
from hpcflow.core.words import counted
from hpcflow.server.clusters import Cluster
from hpcflow.server.pythons import PythonsError
from hpcflow.server.remote import File, TransportError
from hpcflow.server.wheels import TARGET_CODE, Target, WheelsError, fetched, parse_target, wheel_files
from hpcflow.server.zipapp import build_environment_maker

__all__ = ["BuildFailed", "Environments", "Imports", "imports_of"]

logger = logging.getLogger(__name__)

#: Modules that functions import, and the version that who dispatched has of each: "?" where it can't tell, empty
#: where it does not have the module.
Imports = Mapping[str, str]

_PROBE_S: Final = 60.0
_BUILD_S: Final = 1800.0
#: What was found is asked again after this long; what was missing is asked again each time.
_HOLDS_S: Final = 600.0
#: An environment that was installed is looked for again after this long: somebody may tidy up there.
_BUILT_HOLDS_S: Final = 60.0

#: Prints which of its arguments can be imported, without importing any, and their versions.
_PACKAGES_CODE: Final = (
    TARGET_CODE
    + """
import importlib.metadata as metadata, importlib.util, json
found, owners = {}, None
for name in sys.argv[1:]:
    try:
        if importlib.util.find_spec(name) is None:
            continue
        found[name] = ""
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            if owners is None:
                owners = metadata.packages_distributions()
            found[name] = metadata.version(owners[name][0]) if name in owners else ""
    except Exception:
        found.setdefault(name, "")
print("hpcflow-packages", sys.executable, json.dumps(found))
"""
)
_PACKAGES: Final = re.compile(rb"^hpcflow-packages (.*) (\{.*\})\r?$", re.MULTILINE)


class BuildFailed(HpcflowError):
    """An environment can't be made as it is asked for."""


@dataclass(slots=True)
class _Seen:
    """What one environment of one cluster said of itself."""

    target: Target
    executable: str
    packages: dict[str, str] = field(default_factory=dict[str, str])
    at: float = 0.0


def imports_of(
    shape: Shape, tasks: Sequence[Task], shapes: Sequence[Shape], functions: Mapping[int, Imports]
) -> Imports:
    """Return what the functions of all tasks of one shape import.

    Args:
        shape: which.
        tasks: of a dispatch.
        shapes: of each of them.
        functions: what each function's blob imports.
    """
    blobs = {task.fn for task, own in zip(tasks, shapes, strict=True) if own is shape or own == shape}
    return {name: version for blob in sorted(blobs) for name, version in functions.get(blob, {}).items()}


class Environments:
    """One per server."""

    def __init__(self, wheelhouse: str) -> None:
        self._wheelhouse = wheelhouse
        self._seen: dict[object, _Seen] = {}
        self._asking: dict[object, asyncio.Lock] = {}
        #: When each installed environment was last known to be there, by its folder.
        self._built: dict[str, float] = {}

    # ---- before a dispatch is taken

    async def check(self, cluster: Cluster, shape: Shape, imports: Imports, *, own_python: str) -> list[str]:
        """Hold what functions import against what the shape's environment has; return what the user should know.

        What can't be asked from the login side is not known to be missing, and nothing is said of it.

        Args:
            cluster: the shape's.
            shape: what tasks ask for.
            imports: of their functions.
            own_python: the interpreter that dispatched.

        Raises:
            UserError: the environment's Python is of another minor version, or it lacks packages.
        """
        # A bare name comes from a laptop that is connected to this server: what it has installed is not here.
        here = cluster.link is None and os.path.isabs(own_python)
        same = here and shape.python == own_python and shape.env.base == Environment()
        if same and (not shape.env.alone or not shape.env.requirements):
            return []
        if not imports and shape.env.base == Environment():
            return []  # which interpreter there is was found out without a command
        built = self.is_built(cluster, shape)
        if not built:  # what it will have is not known yet, but its Python is
            imports = {}
        try:
            seen = await self._ask(cluster, shape if built else _without_requirements(shape), imports)
        except TransportError:
            return []
        if seen is None:
            return []
        if seen.target.python != shape.python_version:
            raise UserError(_mismatch(cluster, shape, seen))
        if not shape.env.check:
            return []
        missing = [name for name in imports if name not in seen.packages]
        needed = [name for name in missing if imports[name]]
        if needed:
            raise UserError(_lacks(cluster, shape, seen, needed))
        messages: list[str] = []
        if missing:
            messages.append(
                f"Neither this program's Python nor {seen.executable} on {cluster.name!r} has {_listed(missing)}, "
                "which functions import."
            )
        others = [
            f"{name} {imports[name]} here and {seen.packages[name]} there"
            for name in imports
            if name in seen.packages and _differ(imports[name], seen.packages[name])
        ]
        if others:
            messages.append(f"Versions on {cluster.name!r} are not those of this program: {', '.join(others)}.")
        return messages

    async def _ask(self, cluster: Cluster, shape: Shape, names: Iterable[str]) -> _Seen | None:
        """Return what an environment has of some modules, by one command at most; ``None``: it can't be told."""
        asking = (cluster.interpreter(shape), "-c", _PACKAGES_CODE)
        key = (cluster.name, cluster.settings.host, cluster.probe_command(shape, asking).argv)
        async with self._asking.setdefault(key, asyncio.Lock()):
            seen = self._seen.get(key)
            if seen is not None and _now() - seen.at < _HOLDS_S and set(names) <= seen.packages.keys():
                return seen
            wanted = sorted({*names, *(seen.packages if seen is not None else ())})
            reply = await cluster.transport.run(cluster.probe_command(shape, (*asking, *wanted)), _PROBE_S)
            target, found = parse_target(reply.stdout), _PACKAGES.search(reply.stdout)
            if reply.exit_code != 0 or target is None or found is None:
                logger.debug("%s: nothing is known of %s: %s", cluster.name, shape.env, reply.stderr[-500:])
                return None
            seen = _Seen(target, found[1].decode(errors="replace"), json.loads(found[2]), _now())
            self._seen[key] = seen
            return seen

    # ---- before tasks are submitted

    def is_built(self, cluster: Cluster, shape: Shape) -> bool:
        """Whether what a shape needs is known to be installed there."""
        if cluster.wants_python(shape):
            return False
        built_at = self._built.get(cluster.environment_folder(shape))
        return not shape.env.requirements or (built_at is not None and _now() - built_at < _BUILT_HOLDS_S)

    async def build(self, cluster: Cluster, shape: Shape, announce: Callable[[], Awaitable[None]]) -> None:
        """Make sure that the Python and the requirements of a shape are installed on its cluster.

        Args:
            cluster: the shape's.
            shape: what tasks ask for.
            announce: called when there is something to do that takes its time.

        Raises:
            TransportError: the cluster can't be reached, or has no room; later it may.
            BuildFailed: it can't be done as it was asked for.
        """
        await cluster.place_worker()
        if cluster.wants_python(shape):
            await announce()
            try:
                await cluster.install_python(shape.python_version, self._wheelhouse)
            except PythonsError as error:
                raise BuildFailed(f"{cluster.name!r} has no Python of this program's version. {error}") from None
            if cluster.wants_python(shape):
                raise BuildFailed(f"uv installed a Python on {cluster.name!r} that does not start there.")
        if not shape.env.requirements:
            return
        folder = cluster.environment_folder(shape)
        there = await self._run(cluster, Command(("test", "-f", f"{folder}/hpcflow.json")), _PROBE_S)
        if there.exit_code == 0:
            self._built[folder] = _now()
            return
        base = _without_requirements(shape)
        python = cluster.interpreter(base)
        probed = await self._run(cluster, cluster.probe_command(base, (python, "-c", TARGET_CODE)), _PROBE_S)
        target = parse_target(probed.stdout)
        if target is None:
            raise BuildFailed(
                f"{python} does not start on the login side of {cluster.name!r}, where packages are installed: "
                f"{_last_words(probed)}"
            )
        if target.python != shape.python_version:
            raise BuildFailed(_mismatch(cluster, shape, _Seen(target, python)))
        await announce()
        name, maker = build_environment_maker()
        wheels_folder = f"{folder}.wheels-{secrets.token_hex(4)}"
        try:
            async with fetched(shape.env.requirements, target, wheelhouse=self._wheelhouse) as wheels:
                packages = len(wheels)
                await cluster.transport.push(wheels_folder, (), [*wheel_files(wheels), File(name, [maker])])
        except WheelsError as error:
            raise BuildFailed(str(error)) from None
        except OSError as error:
            raise BuildFailed(f"Wheels can't be kept here for a moment: {error.strerror or error}.") from None
        words = (python, f"{wheels_folder}/{name}", folder, wheels_folder, *(["alone"] if shape.env.alone else []))
        done = await self._run(cluster, cluster.probe_command(base, words), _BUILD_S)
        if done.exit_code != 0:
            raise BuildFailed(
                f"{counted(packages, 'package')} can't be installed on {cluster.name!r}: {_last_words(done)}"
            )
        self._built[folder] = _now()
        logger.info("%s: %d packages in %s", cluster.name, packages, folder)

    @staticmethod
    async def _run(cluster: Cluster, command: Command, deadline_s: float) -> Reply:
        reply = await cluster.transport.run(command, deadline_s)
        if reply.exit_code is None:
            raise TransportError(reply.stderr.decode(errors="replace"))
        return reply


def _now() -> float:
    return asyncio.get_running_loop().time()


def _without_requirements(shape: Shape) -> Shape:
    return replace(shape, env=shape.env.base)


# ---- sentences


def _mismatch(cluster: Cluster, shape: Shape, seen: _Seen) -> str:
    there, here = ("{}.{}".format(*version) for version in (seen.target.python, shape.python_version))
    return (
        f"{seen.executable} in the environment that it asks for on {cluster.name!r} is Python {there}, and this "
        f"program runs under {here}: what one pickles crashes the other. Use the same minor version in both places."
    )


def _lacks(cluster: Cluster, shape: Shape, seen: _Seen, missing: Sequence[str]) -> str:
    what = "its environment" if shape.env != Environment() else "the Python there"
    one = len(missing) == 1
    send = "" if shape.env.alone else " env='project' sends the packages of your project;"
    return (
        f"{cluster.name!r} lacks {_listed(missing)}, which its function imports: {what}, {seen.executable} with Python "
        f"{'{}.{}'.format(*seen.target.python)}, does not have {'it' if one else 'them'}.{send} "
        f"env=hpcflow.Env(requirements={list(missing)!r}) adds {'it' if one else 'them'}; modules=, conda= or venv= "
        "name an environment that is there. If compute nodes have what the login node has not, "
        "env=hpcflow.Env(check=False)."
    )


def _listed(names: Collection[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _differ(here: str, there: str) -> bool:
    """Whether versions differ; one that is only longer (4.8.0 and 4.8.0.76) or local (2.1+cu118) does not."""
    if not here or not there or here == "?":
        return False
    mine, theirs = (version.partition("+")[0].split(".") for version in (here, there))
    shared = min(len(mine), len(theirs))
    return mine[:shared] != theirs[:shared]


def _last_words(reply: Reply) -> str:
    lines = [line.strip() for line in reply.stderr.decode(errors="replace").splitlines() if line.strip()]
    said = " ".join(lines[-3:])[-600:] or f"exit code {reply.exit_code}"
    return said.removeprefix("hpcflow: ") if reply.exit_code == EXIT_ENVIRONMENT else said
