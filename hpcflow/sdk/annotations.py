"""What `executor=`, `memory=` and the other annotations of an electron mean: strict units, inheritance, resources."""

from __future__ import annotations

import builtins
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from fractions import Fraction
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal, Protocol, SupportsIndex, TypedDict, cast

from hpcflow.core import model
from hpcflow.core.model import Resources, UserError
from hpcflow.sdk.mistakes import show_plainly

if TYPE_CHECKING:
    from hpcflow.sdk.body import Body
    from hpcflow.sdk.hooks import Hooks, Step
    from hpcflow.sdk.transfer import FileTransfer
    from hpcflow.sdk.trigger import BaseTrigger

__all__ = [
    "PARSERS",
    "Annotations",
    "ExecutorLike",
    "ExecutorSettings",
    "LatticeOptions",
    "Options",
    "Placement",
    "Retries",
    "parse_lattice_options",
    "parse_memory",
    "parse_options",
    "parse_walltime",
    "unknown",
]

#: An exception by its class or by the class's name.
Raised = type[BaseException] | str


def Retries(
    times: int, *, memory: float = 2, walltime: float = 2, exceptions: Raised | Iterable[Raised] | Literal[True] = ()
) -> model.Retries:
    """Return rules for ``retries=``; a plain number there means the rules below as they are.

    Node failures, preemption and the like are nobody's fault and cost no attempt.

    Args:
        times: further attempts of a task that was killed, 0 to 100.
        memory: the attempt after an out-of-memory asks for this many times the memory, 1 to 16.
        walltime: the same for the walltime after a timeout.
        exceptions: what the function may raise and is tried again: classes, or their own names; a class stands for
            those derived from it too; ``True`` for any exception. Without it, what raised has failed.

    Raises:
        UserError: a number out of its range, or something that is no exception.
    """
    show_plainly()
    return model.Retries(
        times=_count("retries", times),
        memory=_factor("memory", memory),
        walltime=_factor("walltime", walltime),
        exceptions=_exceptions(exceptions),
    )


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """A cluster by name, with annotations for every electron on it that neither electron nor lattice wrote."""

    #: Its name, or ``scheduler:user@host`` for the one that the server has under this scheduler and host.
    cluster: str
    defaults: Annotations
    #: What calls the function of its tasks; ``None``: nothing does anything around it.
    body: Body | None = None


class ExecutorLike(Protocol):
    """What ``executor=`` takes besides names: Covalent's executors, and users' own."""

    def settings(self) -> ExecutorSettings: ...


#: A hook of `hpcflow.sdk.hooks`, a text, a function or a module, or several of them.
Around = object


class Options(TypedDict, total=False):
    """The annotations as the user writes them."""

    executor: str | ExecutorSettings | ExecutorLike
    nodes: int
    ntasks: int
    launcher: model.Launcher
    isolation: model.Isolation
    cpus: int
    memory: str
    gpus: int
    walltime: str | timedelta
    partition: str
    account: str
    qos: str
    constraint: str
    reservation: str
    licenses: str
    exclude: str
    extra: Sequence[str]
    retries: int | model.Retries
    accept_failed: bool
    cache: bool
    on_cancelled: Literal["pause", "retry"]
    max_running: int
    workdir: str | os.PathLike[str]
    env: str | model.Environment

    deps_bash: Around
    deps_pip: Around
    deps_module: Around
    call_before: Around
    call_after: Around
    files: FileTransfer | Sequence[FileTransfer]


class LatticeOptions(Options, total=False):
    """What a lattice takes: annotations for its electrons, and what holds for it as a whole."""

    workflow_executor: str | ExecutorSettings | ExecutorLike
    max_failures: int
    triggers: BaseTrigger | Sequence[BaseTrigger]


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotations:
    """The annotations in hpcflow's units. ``None``: not written."""

    executor: str | ExecutorSettings | None = None
    nodes: int | None = None
    ntasks: int | None = None
    launcher: model.Launcher | None = None
    isolation: model.Isolation | None = None
    cpus: int | None = None
    memory_mib: int | None = None
    gpus: int | None = None
    walltime_s: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    licenses: str | None = None
    exclude: str | None = None
    extra: tuple[str, ...] | None = None
    retries: model.Retries | None = None
    accept_failed: bool | None = None
    cache: bool | None = None
    on_cancelled: Literal["pause", "retry"] | None = None
    workdir: str | None = None
    env: model.Environment | None = None
    #: Of an electron, all its tasks in one dispatch; of a lattice, all tasks of the dispatch.
    max_running: int | None = None
    max_failures: int | None = None
    triggers: tuple[BaseTrigger, ...] | None = None
    #: Where graphs of sublattices are built; ``None``: where their tasks will run.
    workflow_executor: str | ExecutorSettings | None = None
    deps_bash: tuple[str, ...] | None = None
    deps_pip: tuple[str, ...] | None = None
    deps_module: tuple[ModuleType, ...] | None = None
    call_before: tuple[Step, ...] | None = None
    call_after: tuple[Step, ...] | None = None
    files: tuple[FileTransfer, ...] | None = None

    @property
    def hooks(self) -> Hooks | None:
        """What runs around each task in its process; ``None``: nothing, as nearly always."""
        if not (self.deps_bash or self.deps_module or self.call_before or self.call_after or self.files):
            return None
        from hpcflow.sdk.hooks import Hooks  # few programs need it

        return Hooks(
            bash=self.deps_bash or (),
            modules=self.deps_module or (),
            before=self.call_before or (),
            after=self.call_after or (),
            files=self.files or (),
        )

    def without_hooks(self) -> Annotations:
        return replace(self, deps_bash=None, deps_module=None, call_before=None, call_after=None, files=None)

    @property
    def body(self) -> Body | None:
        """What the executor does around each task."""
        return self.executor.body if isinstance(self.executor, ExecutorSettings) else None

    @property
    def cluster(self) -> str | None:
        return self.executor.cluster if isinstance(self.executor, ExecutorSettings) else self.executor

    def over(self, inherited: Annotations) -> Annotations:
        """Return these annotations with what they leave open taken from ``inherited``.

        An account, a partition and the like are names on one cluster: they are not inherited by
        annotations that name another cluster.
        """
        moved = None not in (self.cluster, inherited.cluster) and self.cluster != inherited.cluster
        return self._filled(inherited, _NAMES_ON_A_CLUSTER if moved else frozenset())

    def for_sublattice(self) -> Annotations:
        """Return what the electrons of a sublattice inherit of its own electron: all but what counts for that alone."""
        return replace(self.without_hooks(), max_running=None, accept_failed=None)

    def for_electrons(self) -> Annotations:
        """Return what a lattice's electrons inherit: all but what counts over the lattice as a whole."""
        return replace(self, max_running=None, max_failures=None, triggers=None)

    def for_building(self) -> Annotations:
        """Return what a sublattice's graph is built with: one process, which needs no GPU, where its tasks will run."""
        if self.workflow_executor is not None:
            there = Annotations(executor=self.workflow_executor)
            return there.over(replace(self, workflow_executor=None)).for_building()
        settings = self.executor
        if isinstance(settings, ExecutorSettings):
            settings = ExecutorSettings(settings.cluster, settings.defaults.for_building())
        return replace(self, executor=settings, nodes=1, ntasks=1, gpus=0, launcher=None)

    def placed(self) -> Placement:
        """Return cluster, resources and the rest, with the executor's own defaults where nothing else was written.

        Raises:
            UserError: fewer ``ntasks`` than ``nodes``.
        """
        settings = self.executor
        whole = self._filled(settings.defaults, frozenset()) if isinstance(settings, ExecutorSettings) else self
        nodes = whole.nodes or 1
        # One process on each node is the least that makes sense of `nodes=` alone.
        ntasks = whole.ntasks or nodes
        if ntasks < nodes:
            raise UserError(f"nodes={nodes} needs ntasks of at least {nodes}, one for each node; ntasks is {ntasks}.")
        return Placement(
            executor=self.cluster,
            resources=Resources(
                nodes=nodes,
                ntasks=ntasks,
                cpus=whole.cpus or 1,
                memory_mib=whole.memory_mib,
                gpus=whole.gpus or 0,
                walltime_s=whole.walltime_s,
                partition=whole.partition,
                account=whole.account,
                qos=whole.qos,
                constraint=whole.constraint,
                reservation=whole.reservation,
                licenses=whole.licenses,
                exclude=whole.exclude,
                extra=whole.extra or (),
            ),
            workdir=whole.workdir,
            retries=whole.retries or model.Retries(),
            accept_failed=bool(whole.accept_failed),
            cache=bool(whole.cache),
            on_cancelled=whole.on_cancelled or "pause",
            max_running=whole.max_running,
            launcher=whole.launcher,
            isolation=whole.isolation,
            env=_with_packages(whole.env or model.Environment(), whole.deps_pip),
        )

    def _filled(self, weaker: Annotations, without: frozenset[str]) -> Annotations:
        values = {
            name: own if own is not None or name in without else getattr(weaker, name)
            for name in _FIELDS
            for own in (getattr(self, name),)
        }
        return Annotations(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and with what one electron's tasks run."""

    #: ``None``: the server's default cluster.
    executor: str | None
    resources: Resources
    workdir: str | None
    retries: model.Retries
    accept_failed: bool
    #: The result of a call that was made before stands for it.
    cache: bool
    on_cancelled: Literal["pause", "retry"]
    max_running: int | None
    #: What starts the function on every rank; ``None``: it runs once.
    launcher: model.Launcher | None
    #: What each task shares with no other; ``None``: short ones may share a process.
    isolation: model.Isolation | None
    env: model.Environment


_FIELDS: Final = tuple(field.name for field in fields(Annotations))
_NAMES_ON_A_CLUSTER: Final = frozenset(
    {"partition", "account", "qos", "constraint", "reservation", "licenses", "exclude", "extra", "workdir", "env"}
)


def parse_options(options: Mapping[str, object], where: str) -> Annotations:
    """Return what the user wrote, checked.

    Args:
        options: annotations by name; ``None`` counts as not written.
        where: the beginning of an error's sentence: "The electron 'relax'".

    Raises:
        UserError: an unknown name, or a value that can't be.
    """
    if options.get("max_failures") is not None:
        raise UserError(f"{where}: max_failures belongs to the lattice: it counts the failures of all its electrons.")
    if options.get("triggers") is not None:
        raise UserError(f"{where}: triggers belong to the lattice: they run the whole dispatch again.")
    return _parsed(options, where, Options.__annotations__)


def parse_lattice_options(options: Mapping[str, object], where: str) -> Annotations:
    """Return what the user wrote beside a lattice, checked, as `parse_options` does for an electron."""
    if options.get("files") is not None:
        raise UserError(f"{where}: files belongs to the electron that needs them.")
    return _parsed(options, where, LatticeOptions.__annotations__)


def _parsed(options: Mapping[str, object], where: str, known: Iterable[str]) -> Annotations:
    for name in options:
        if name not in known:
            raise unknown(name, where, known)
    values: dict[str, object] = {}
    for name, value in options.items():
        if value is not None:
            field, parse = PARSERS[name]
            try:
                values[field] = parse(name, value)
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    annotations = Annotations(**values)  # type: ignore[arg-type]  # each parser returns its field's type
    try:
        annotations.placed()
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return annotations


def unknown(name: str, where: str, known: Iterable[str]) -> UserError:
    near = _nearest(name, known)
    return UserError(f"{where} has an unknown annotation {name!r}{near} Known: {', '.join(known)}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    from difflib import get_close_matches  # only on the way to an error

    names = list(known)
    near = get_close_matches(name, names, n=1) or [
        match for part in re.split("[_-]", name) for match in get_close_matches(part, names, n=1)
    ]
    return f"; did you mean {near[0]!r}?" if near else "."


# ---- memory and time

_MEMORY: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_BYTES: Final = {
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_MEMORY_SHAPES: Final = "'8 GB' (8 x 1000^3 bytes), '8 GiB' (8 x 1024^3 bytes) or '500 MB'"
_MEMORY_MAX_MIB: Final = 256 * 2**20


def parse_memory(name: str, value: object) -> int:
    """Return MiB, rounded up, of a text such as ``8 GB`` (decimal) or ``8 GiB`` (binary).

    Raises:
        UserError: no unit, a single letter as unit (Slurm's ``G`` is binary, elsewhere it is decimal),
            nothing at all, or more than 256 TiB.
    """
    match = _MEMORY.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise UserError(f"{name}={value!r} is no amount of memory: write {_MEMORY_SHAPES}.")
    number, unit = match.groups()
    if unit.lower() not in _BYTES:
        letter = unit.upper() if len(unit) == 1 and unit.upper() in "KMGT" else None
        hint = f"{letter!r} means {letter}B to some and {letter}iB to others" if letter else f"{unit!r} is no unit"
        raise UserError(f"{name}={value!r}: {hint}; write {_MEMORY_SHAPES}.")
    mib = -(-Fraction(number) * _BYTES[unit.lower()] // 2**20)
    if not 1 <= mib <= _MEMORY_MAX_MIB:
        raise UserError(f"{name}={value!r} must be more than nothing and at most 256 TiB.")
    return int(mib)


_AMOUNT_OF_TIME: Final = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_SECONDS: Final = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
    **dict.fromkeys(("min", "minute", "minutes"), 60),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("d", "day", "days"), 86400),
}
_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)")
_TIME_SHAPES: Final = "'30 min', '2 h', '1 h 30 min', '02:00:00' (h:m:s), '1-00:00:00' (days-h:m:s) or a timedelta"
_WALLTIME_MAX_S: Final = 366 * 86400


def parse_walltime(name: str, value: object) -> int:
    """Return seconds, rounded up, of a text such as ``30 min``, ``1 h 30 min``, ``1-00:00:00``, or of a timedelta.

    Raises:
        UserError: no unit, two numbers and one colon (hours or minutes?), nothing at all, or more than 366 days.
    """
    seconds = _seconds(value)
    if seconds is None:
        hint = ""
        if isinstance(value, str) and re.fullmatch(r"\d+:\d+", value.strip()):
            hint = " (is it hours and minutes, or minutes and seconds?)"
        raise UserError(f"{name}={value!r} is no length of time{hint}: write {_TIME_SHAPES}.")
    if not 0 < seconds <= _WALLTIME_MAX_S:
        raise UserError(f"{name}={value!r} must be longer than nothing and at most 366 days.")
    return seconds


def _seconds(value: object) -> int | None:
    if isinstance(value, timedelta):
        return -(-value // timedelta(seconds=1)) if value > timedelta(0) else 0
    if not isinstance(value, str):
        return None
    text = value.strip()
    clock = _CLOCK.fullmatch(text)
    if clock is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        if clock[1] is not None and hours >= 24:  # hours of a day
            return None
        return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    parts = _AMOUNT_OF_TIME.findall(text)
    if not parts or _AMOUNT_OF_TIME.sub("", text).strip() or any(unit.lower() not in _SECONDS for _, unit in parts):
        return None
    sizes = [_SECONDS[unit.lower()] for _, unit in parts]
    if sizes != sorted(set(sizes), reverse=True):
        return None
    return int(-(-sum(Fraction(number) * size for (number, _), size in zip(parts, sizes, strict=True)) // 1))


# ---- counts, names, further arguments

_COUNTS: Final = {
    "nodes": (1, 100_000), "ntasks": (1, 10_000_000), "cpus": (1, 4096), "gpus": (0, 64), "retries": (0, 100),
    "max_running": (1, 1_000_000), "max_failures": (0, 1_000_000_000),
}  # fmt: skip


def _count(name: str, value: object) -> int:
    least, most = _COUNTS[name]
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(cast(SupportsIndex, value))  # numpy's integers too; what is none raises TypeError
    except TypeError:
        raise UserError(f"{name}={value!r} must be a whole number.") from None
    if not least <= number <= most:
        raise UserError(f"{name}={value!r} must be between {least} and {most}.")
    return number


def _name(name: str, value: object) -> str:
    text = _text(name, value)
    if any(letter.isspace() for letter in text):
        raise UserError(f"{name}={value!r} must not hold white space.")
    return text


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{name}={value!r} must be a text.")
    if value.startswith("-") or not value.isprintable():
        raise UserError(f"{name}={value!r} must not begin with '-' or hold control characters.")
    return value


def _executor(name: str, value: object) -> str | ExecutorSettings:
    if isinstance(value, ExecutorSettings):
        return value
    if not isinstance(value, type) and callable(settings := getattr(value, "settings", None)):
        made = settings()
        if isinstance(made, ExecutorSettings):
            return made
    if not isinstance(value, str):
        raise UserError(f"{name}={value!r} must be a cluster's name such as 'slurm', or made by hpcflow.executor.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise UserError(f"{name}={value!r} is no cluster's name: letters, digits, '.', '_' and '-'.")
    return value


def _workdir(name: str, value: object) -> str:
    path = os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, (str, os.PathLike)) else ""
    if not os.path.isabs(path) or not path.isprintable():
        raise UserError(f"{name}={value!r} must be an absolute path on the cluster.")
    return path


#: Options of sbatch that hpcflow writes itself, and the annotation to use instead, if there is one.
_OURS: Final[Mapping[str, str]] = {
    "--job-name": "", "-J": "", "--array": "", "-a": "", "--output": "", "-o": "", "--error": "", "-e": "",
    "--input": "", "-i": "", "--parsable": "", "--wrap": "", "--chdir": "workdir", "-D": "workdir", "--comment": "",
    "--time": "walltime", "-t": "walltime", "--time-min": "walltime", "--nodes": "nodes", "-N": "nodes",
    "--ntasks": "ntasks", "-n": "ntasks", "--ntasks-per-node": "ntasks", "--cpus-per-task": "cpus", "-c": "cpus",
    "--mem": "memory", "--mem-per-cpu": "memory", "--mem-per-gpu": "memory", "--gpus": "gpus", "-G": "gpus",
    "--gpus-per-node": "gpus", "--gpus-per-task": "gpus", "--partition": "partition", "-p": "partition",
    "--account": "account", "-A": "account", "--qos": "qos", "-q": "qos", "--constraint": "constraint",
    "-C": "constraint", "--reservation": "reservation", "--licenses": "licenses", "-L": "licenses",
    "--exclude": "exclude", "-x": "exclude", "--requeue": "", "--no-requeue": "", "--signal": "", "--open-mode": "",
    "--export": "", "--wait": "", "-W": "", "--clusters": "executor", "-M": "executor", "--test-only": "",
    "--uid": "", "--gid": "", "--help": "", "-h": "", "--usage": "", "--version": "", "-V": "",
}  # fmt: skip


def _extra(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{name}={value!r} must be a list of texts, one for each argument: {name}=['--nice=100'].")
    arguments = cast(Sequence[object], value)
    return tuple(_argument(name, argument) for argument in arguments)


def _argument(name: str, value: object) -> str:
    if not isinstance(value, str) or not re.match(r"--?[A-Za-z]", value) or not value.isprintable():
        raise UserError(f"{name}: {value!r} must be one text that begins with '-', its value included: '--nice=100'.")
    option = value.partition("=")[0] if value.startswith("--") else value[:2]
    # getopt takes any unambiguous beginning of a long option for the option itself.
    ours = [own for own in _OURS if own == option or (option.startswith("--") and own.startswith(option))]
    if ours:
        instead = f"write {_OURS[ours[0]]}= instead" if _OURS[ours[0]] else "leave it out"
        raise UserError(f"{name}: {value!r} collides with {ours[0]}, which hpcflow sets itself; {instead}.")
    return value


# ---- failures

_FACTOR_MAX: Final = 16


def _retries(name: str, value: object) -> model.Retries:
    return value if isinstance(value, model.Retries) else Retries(_count(name, value))


def _factor(name: str, value: object) -> float:
    where = f"retries: {name}={value!r}"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise UserError(f"{where} must be a number: how many times what the last attempt asked for.")
    factor = float(cast(float, value))
    if not 1 <= factor <= _FACTOR_MAX:
        raise UserError(f"{where} must be between 1 (ask for the same again) and {_FACTOR_MAX}.")
    return factor


def _exceptions(value: object) -> tuple[str, ...]:
    if value is True:
        return ("*",)
    several = isinstance(value, (list, tuple, set, frozenset))
    listed = cast(Iterable[object], value) if several else (value,)
    return tuple(dict.fromkeys(map(_exception, listed)))


def _exception(value: object) -> str:
    found = getattr(builtins, value, value) if isinstance(value, str) else value  # IOError is OSError's other name
    if isinstance(found, type) and issubclass(found, BaseException):
        return found.__name__
    if isinstance(found, str) and found.isidentifier():
        return found
    raise UserError(
        f"retries: {value!r} in exceptions= is no exception: write classes, or their own names without a module, as in "
        "exceptions=[OSError, 'ConvergenceError'], or True for any exception."
    )


def _launcher(name: str, value: object) -> model.Launcher:
    match value:
        case "srun":
            return "srun"
        case "mpirun":
            return "mpirun"
        case _:
            raise UserError(
                f"{name}={value!r} must be 'srun' or 'mpirun'; without it the function runs once, "
                "and may call either of them itself."
            )


def _isolation(name: str, value: object) -> model.Isolation:
    match value:
        case "process":
            return "process"
        case "interpreter":
            return "interpreter"
        case _:
            raise UserError(
                f"{name}={value!r} must be 'process' (each task has one of its own, forked from its worker) or "
                "'interpreter' (each task starts a new Python); without it, short tasks may share a process."
            )


def _hook(name: str, value: object) -> object:
    from hpcflow.sdk.hooks import parse_hook  # few programs need it

    return parse_hook(name, value)


def _with_packages(env: model.Environment, packages: tuple[str, ...] | None) -> model.Environment:
    if not packages:
        return env
    from hpcflow.sdk.environment import read_requirements

    return replace(env, requirements=tuple(sorted({*env.requirements, *read_requirements(packages)})))


def _env(name: str, value: object) -> model.Environment:
    from hpcflow.sdk.environment import parse_env  # few programs need it

    return parse_env(name, value)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{name}={value!r} must be True or False.")
    return value


def _on_cancelled(name: str, value: object) -> Literal["pause", "retry"]:
    match value:
        case "pause":
            return "pause"
        case "retry":
            return "retry"
        case _:
            raise UserError(
                f"{name}={value!r} must be 'pause' (wait for `hpcflow resume`) or 'retry' (submit again by itself)."
            )


def _triggers(name: str, value: object) -> tuple[BaseTrigger, ...]:
    given = cast("Sequence[object]", value) if isinstance(value, (list, tuple)) else (value,)
    for one in given:
        # Their class lies above all that runs on nodes, so it is told by what it does.
        if not (callable(getattr(one, "observe", None)) and callable(getattr(one, "trigger", None))):
            raise UserError(f"{name} takes objects of hpcflow.triggers, or a list of them, not {one!r:.80}.")
    return cast("tuple[BaseTrigger, ...]", tuple(given))


#: By the name that users write: the field of `Annotations`, and what reads its value.
PARSERS: Final = {
    "executor": ("executor", _executor),
    "nodes": ("nodes", _count),
    "ntasks": ("ntasks", _count),
    "launcher": ("launcher", _launcher),
    "isolation": ("isolation", _isolation),
    "cpus": ("cpus", _count),
    "memory": ("memory_mib", parse_memory),
    "gpus": ("gpus", _count),
    "walltime": ("walltime_s", parse_walltime),
    "partition": ("partition", _name),
    "account": ("account", _name),
    "qos": ("qos", _name),
    "constraint": ("constraint", _text),
    "reservation": ("reservation", _name),
    "licenses": ("licenses", _name),
    "exclude": ("exclude", _name),
    "extra": ("extra", _extra),
    "retries": ("retries", _retries),
    "accept_failed": ("accept_failed", _flag),
    "cache": ("cache", _flag),
    "on_cancelled": ("on_cancelled", _on_cancelled),
    "max_running": ("max_running", _count),
    "workdir": ("workdir", _workdir),
    "env": ("env", _env),
    "deps_bash": ("deps_bash", _hook),
    "deps_pip": ("deps_pip", _hook),
    "deps_module": ("deps_module", _hook),
    "call_before": ("call_before", _hook),
    "call_after": ("call_after", _hook),
    "files": ("files", _hook),
    "max_failures": ("max_failures", _count),
    "triggers": ("triggers", _triggers),
    "workflow_executor": ("workflow_executor", _executor),
}
