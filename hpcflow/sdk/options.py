"""What users write as `executor=`, `memory=` and the other annotations of electrons and lattices, and its checks."""

from __future__ import annotations

import builtins
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Literal, Protocol, SupportsIndex, TypedDict, cast

from hpcflow.core import model
from hpcflow.core.model import UserError
from hpcflow.sdk.annotations import Annotations, ExecutorSettings
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.units import parse_memory, parse_walltime

if TYPE_CHECKING:
    from hpcflow.sdk.transfer import FileTransfer
    from hpcflow.sdk.trigger import BaseTrigger

__all__ = [
    "PARSERS",
    "ExecutorLike",
    "LatticeOptions",
    "Options",
    "Retries",
    "parse_lattice_options",
    "parse_options",
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


def _extra(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(f"{name}={value!r} must be a list of texts, one for each argument: {name}=['--nice=100'].")
    arguments = cast(Sequence[object], value)
    return tuple(_argument(name, argument) for argument in arguments)


def _argument(name: str, value: object) -> str:
    # What it means is for the cluster's own scheduler to say: -p is a partition of sbatch's and a priority of qsub's.
    if not isinstance(value, str) or not re.match(r"--?[A-Za-z]", value) or not value.isprintable():
        raise UserError(f"{name}: {value!r} must be one text that begins with '-', its value included: '--nice=100'.")
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
