"""What an executor of Covalent's kind says, as the annotations, the cluster and the surroundings that it means here."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Self, cast

from hpcflow.core import model
from hpcflow.core.environment import Environment
from hpcflow.core.model import UserError
from hpcflow.sdk.annotations import Annotations, ExecutorSettings
from hpcflow.sdk.batch_options import Translated
from hpcflow.sdk.body import Body, Surroundings
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import Retries, parse_options

__all__ = ["MEANINGLESS", "NamedExecutor", "argument", "arguments"]

_CONNECTION: Final = "how a cluster is logged in to is written once, by `hpcflow clusters add` or in ~/.ssh/config"
_POLL: Final = "schedulers are asked for all tasks at once; a cluster's poll= in clusters.toml is how often"
_KEPT: Final = "what tasks leave stays until `hpcflow clean`"
_PRINTED: Final = "what a task prints is in its result's stdout and stderr"
#: Arguments of Covalent's that change nothing here, and why; said when one is given and says more than its default.
MEANINGLESS: Final[Mapping[str, str]] = {
    "ssh_key_file": _CONNECTION,
    "cert_file": _CONNECTION,
    "password": f"no password is ever kept; {_CONNECTION}",
    "retry_connect": "a connection that is lost is made again by itself",
    "max_connection_attempts": "a connection that is lost is made again by itself",
    "retry_wait_time": "a connection that is lost is made again by itself",
    "do_cleanup": _KEPT,
    "cleanup": _KEPT,
    "poll_freq": _POLL,
    "srun_append": "tasks are not started by srun; call srun in the function, or write launcher='srun'",
    "srun_options": "tasks are not started by srun; call srun in the function, or write launcher='srun'",
    "slurm_path": "sbatch and its like are looked for on the PATH of a login shell there",
    "ignore_versions": "a node needs neither hpcflow nor cloudpickle, and its Python only the same minor version",
    "log_stdout": _PRINTED,
    "log_stderr": _PRINTED,
    "cache_dir": "nothing of a task is kept on this machine",
    "inherit_environment": "tasks find the environment of the job, and what variables= sets",
    "scheduler_address": "there is no Dask cluster: tasks run in processes of the server's machine",
}
#: What submits jobs to each scheduler.
_COMMANDS: Final = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}
#: Values that ask for nothing.
_SAYS_NOTHING: Final[tuple[object, ...]] = (None, "", False, [], {}, ())


class NamedExecutor:
    """What Covalent's executors share: a name, attributes, and their form as a dictionary."""

    _short_name: ClassVar[str] = ""
    #: Under which scheduler its cluster is; empty for any.
    _scheduler: ClassVar[str] = ""

    def __init__(self, cluster: str | None, attributes: Mapping[str, object], options: Mapping[str, object]) -> None:
        show_plainly()
        self.cluster = cluster
        for name, value in attributes.items():
            setattr(self, name, value)
        self.annotations = dict(options)
        self.settings()
        for name, why in self._meaningless():
            warnings.warn(f"{type(self).__name__}: {name}= changes nothing here: {why}.", stacklevel=3)
        for name, near in self._translated().doubted.items():
            command = _COMMANDS.get(self._scheduler, "sbatch")
            warnings.warn(
                f"{type(self).__name__}: {command} has no option {name!r} that hpcflow knows; did you mean {near!r}? "
                "It is handed on as it is.",
                stacklevel=3,
            )

    # ---- Covalent's own

    @property
    def attributes(self) -> dict[str, object]:
        """What it was made with, by argument."""
        return dict(vars(self))

    def short_name(self) -> str:
        """Return Covalent's name for its kind: "slurm"."""
        return self._short_name

    def to_dict(self) -> dict[str, object]:
        """Return it as ``{"type", "short_name", "attributes"}``."""
        return {"type": type(self).__name__, "short_name": self.short_name(), "attributes": self.attributes}

    def from_dict(self, described: Mapping[str, object]) -> Self:
        """Take the attributes of what `to_dict` returned; return itself."""
        attributes = described.get("attributes")
        if not isinstance(attributes, Mapping):
            raise UserError(f"{type(self).__name__}.from_dict takes what to_dict returned, with its attributes.")
        vars(self).clear()
        vars(self).update(cast("Mapping[str, object]", attributes))
        return self

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.attributes.items() if value not in _SAYS_NOTHING)
        return f"{type(self).__name__}({given})"

    # ---- what it means here

    def settings(self) -> ExecutorSettings:
        """Return the cluster, the annotations and what happens around each task.

        Raises:
            UserError: a value that can't be.
        """
        where = type(self).__name__
        if "executor" in self.annotations or self.annotations.get("max_running") is not None:
            raise UserError(f"{where}: executor= and max_running= belong to electrons and lattices.")
        done = self._translated()
        extra = self.annotations.get("extra") or ()
        further = {"extra": [*done.extra, *cast("Sequence[str]", extra)]} if done.extra or extra else {}
        # What is written as an annotation of hpcflow's says it better than an option of a scheduler.
        parsed = parse_options({**done.annotations, **self.annotations, **further}, where)
        retries, limit_s = argument(self, "retries"), argument(self, "time_limit")
        if retries and parsed.retries is None:
            rules = retries if isinstance(retries, model.Retries) else Retries(cast(int, retries), exceptions=True)
            parsed = replace(parsed, retries=rules)
        if isinstance(limit_s, (int, float)) and limit_s > 0 and parsed.walltime_s is None:
            parsed = replace(parsed, walltime_s=-int(-limit_s // 1))
        return ExecutorSettings(self._place(), self._surrounded(parsed, where), self._body())

    def _translated(self) -> Translated:
        return Translated()

    def _place(self) -> str:
        """Return a cluster's name, or the scheduler and host by which the server finds it."""
        if self.cluster is not None:
            name = parse_options({"executor": self.cluster}, type(self).__name__).cluster
            assert name is not None  # a text
            return name
        address, username = argument(self, "address"), argument(self, "username")
        if not address:
            return f"{self._scheduler}:"
        return f"{self._scheduler}:{username or ''}@{address}"

    def _surrounded(self, parsed: Annotations, where: str) -> Annotations:
        """Return annotations with conda, variables and commands before the task in their environment."""
        conda = argument(self, "conda_env") or argument(self, "remote_conda_env")
        lines = [*_exports(where, argument(self, "variables") or argument(self, "environment"))]
        if bashrc := argument(self, "bashrc_path"):
            lines.append(f". {_home(str(bashrc))}")
        lines += _commands(where, argument(self, "prerun_commands") or argument(self, "pre_launch_commands"))
        python = argument(self, "remote_python_executable") or argument(self, "python_path")
        if not (conda or lines or python):
            return parsed
        env = parsed.env or Environment()
        prologue = "\n".join([*filter(None, [env.prologue]), *lines])
        env = replace(env, prologue=prologue)
        if conda:
            env = parse_options({"env": f"conda:{conda}"}, where).env or env
            env = replace(env, prologue=prologue)
        elif python and python not in ("python", "python3"):
            env = replace(env, python=str(python))
        return replace(parsed, env=env)

    def _body(self) -> Body | None:
        where = type(self).__name__
        folder = argument(self, "remote_workdir") or argument(self, "workdir")
        shared = argument(self, "create_unique_workdir") is False
        after = _commands(where, argument(self, "postrun_commands") or argument(self, "post_launch_commands"))
        if folder is not None and (not str(folder).isprintable() or not str(folder)):
            raise UserError(f"{where}: remote_workdir={folder!r} is no path.")
        if shared and folder is not None:
            return Surroundings(str(folder), tuple(after), shared=True)
        if folder is None and not after:
            return None
        return Surroundings(None if folder is None else str(folder), tuple(after))

    def _meaningless(self) -> list[tuple[str, str]]:
        said = [
            (name, why)
            for name, why in MEANINGLESS.items()
            if not any(value is argument(self, name) or value == argument(self, name) for value in _SAYS_NOTHING)
        ]
        return said + [(f"options[{name!r}]", why) for name, why in self._translated().left_out.items()]


def arguments(given: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a constructor, from its local names."""
    return {name: value for name, value in given.items() if name not in {"self", "annotations", "cluster", "__class__"}}


def argument(executor: NamedExecutor, name: str) -> object:
    """Return an argument, ``None`` where this kind of executor has none of this name."""
    value: object = vars(executor).get(name)
    return value


def _commands(where: str, value: object) -> list[str]:
    listed = [value] if isinstance(value, str) else list(cast("Sequence[object]", value or ()))
    for command in listed:
        if not isinstance(command, str) or "\0" in command or "\r" in command:
            raise UserError(f"{where}: {command!r} must be a command of shell.")
    return [command for command in cast("list[str]", listed) if command.strip()]


def _exports(where: str, value: object) -> list[str]:
    if value is not None and not isinstance(value, Mapping):
        raise UserError(f"{where}: variables={value!r} must be a dictionary of names and texts.")
    lines: list[str] = []
    for name, text in cast("Mapping[object, object]", value or {}).items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UserError(f"{where}: {name!r} is no name of an environment variable.")
        if "\0" in str(text) or "\r" in str(text):
            raise UserError(f"{where}: the variable {name} has a character that shells stumble over.")
        lines.append(f"export {name}={shlex.quote(str(text))}")
    return lines


def _home(path: str) -> str:
    """Return a path for the shell, in which a beginning of ``~/`` or ``$HOME/`` is the home there."""
    for beginning in ("~/", "$HOME/"):
        if path.startswith(beginning):
            return '"$HOME"/' + shlex.quote(path.removeprefix(beginning))
    return shlex.quote(path)
