"""Executors with Covalent's names and arguments: what they say becomes annotations, or one clear warning.

An executor says where its tasks run and with what; connections, keys and polling belong to the clusters that
`hpcflow clusters add` describes. An instance is a description: marking an electron with it takes a copy.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Final, Self, cast

from hpcflow.core import model
from hpcflow.core.environment import Environment
from hpcflow.core.model import UserError
from hpcflow.sdk.annotations import Annotations, ExecutorSettings
from hpcflow.sdk.batch_options import (
    Translated,
    from_job_attributes,
    from_lsf_options,
    from_pbs_options,
    from_resource_spec,
    from_slurm_options,
)
from hpcflow.sdk.body import Body, Surroundings
from hpcflow.sdk.mistakes import show_plainly
from hpcflow.sdk.options import Retries, parse_options

__all__ = [
    "DaskExecutor",
    "HPCExecutor",
    "LSFExecutor",
    "LocalExecutor",
    "NamedExecutor",
    "PBSExecutor",
    "SSHExecutor",
    "SlurmExecutor",
]

Commands = str | Sequence[str]

_CONNECTION: Final = "how a cluster is logged in to is written once, by `hpcflow clusters add` or in ~/.ssh/config"
_POLL: Final = "schedulers are asked for all tasks at once; a cluster's poll= in clusters.toml is how often"
_KEPT: Final = "what tasks leave stays until `hpcflow clean`"
_PRINTED: Final = "what a task prints is in its result's stdout and stderr"
#: Arguments of Covalent's that change nothing here, and why; said when one is given and says more than its default.
_MEANINGLESS: Final[Mapping[str, str]] = {
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
        retries, limit_s = _given(self, "retries"), _given(self, "time_limit")
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
        address, username = _given(self, "address"), _given(self, "username")
        if not address:
            return f"{self._scheduler}:"
        return f"{self._scheduler}:{username or ''}@{address}"

    def _surrounded(self, parsed: Annotations, where: str) -> Annotations:
        """Return annotations with conda, variables and commands before the task in their environment."""
        conda = _given(self, "conda_env") or _given(self, "remote_conda_env")
        lines = [*_exports(where, _given(self, "variables") or _given(self, "environment"))]
        if bashrc := _given(self, "bashrc_path"):
            lines.append(f". {_home(str(bashrc))}")
        lines += _commands(where, _given(self, "prerun_commands") or _given(self, "pre_launch_commands"))
        python = _given(self, "remote_python_executable") or _given(self, "python_path")
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
        folder = _given(self, "remote_workdir") or _given(self, "workdir")
        shared = _given(self, "create_unique_workdir") is False
        after = _commands(where, _given(self, "postrun_commands") or _given(self, "post_launch_commands"))
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
            for name, why in _MEANINGLESS.items()
            if not any(value is _given(self, name) or value == _given(self, name) for value in _SAYS_NOTHING)
        ]
        return said + [(f"options[{name!r}]", why) for name, why in self._translated().left_out.items()]


class LocalExecutor(NamedExecutor):
    """Processes on the server's own machine.

    Args:
        workdir: where tasks have their folders; without it hpcflow's own place.
        create_unique_workdir: ``False``: all tasks run in ``workdir`` itself.
        time_limit: of one task, in seconds; without it there is none.
        retries: further attempts of a task that failed, whatever it raised.
        log_stdout: nothing; what a task prints is in its result.
        log_stderr: nothing, likewise.
        cache_dir: nothing.
        annotations: further ones of hpcflow's, such as ``cpus=``.
    """

    _short_name = "local"

    def __init__(
        self,
        workdir: str | None = None,
        create_unique_workdir: bool | None = None,
        *,
        time_limit: float | None = None,
        retries: int | model.Retries = 0,
        log_stdout: str = "",
        log_stderr: str = "",
        cache_dir: str = "",
        **annotations: object,
    ) -> None:
        given = dict(locals())
        super().__init__("local", _own(given), annotations)


class DaskExecutor(LocalExecutor):
    """Covalent's default; here the same as `LocalExecutor`."""

    _short_name = "dask"

    def __init__(
        self,
        scheduler_address: str = "",
        workdir: str | None = None,
        create_unique_workdir: bool | None = None,
        **further: object,
    ) -> None:
        super().__init__(workdir, create_unique_workdir, **further)  # type: ignore[arg-type]  # checked by name there
        if scheduler_address:
            warnings.warn(
                f"DaskExecutor: scheduler_address= changes nothing here: {_MEANINGLESS['scheduler_address']}.",
                stacklevel=2,
            )


#: Options of qsub and bsub that are annotations here.
#: How each scheduler's ``options`` are read.
_OPTIONS: Final[Mapping[str, Callable[[Mapping[str, object]], Translated]]] = {
    "slurm": from_slurm_options,
    "pbs": from_pbs_options,
    "lsf": from_lsf_options,
}
_COMMANDS: Final = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub"}


class _Remote(NamedExecutor):
    """Executors of clusters."""

    def __init__(
        self,
        username: str | None = None,
        address: str | None = None,
        ssh_key_file: str | None = None,
        cert_file: str | None = None,
        remote_workdir: str | None = None,
        *,
        create_unique_workdir: bool | None = None,
        conda_env: str | None = None,
        options: Mapping[str, object] | None = None,
        variables: Mapping[str, str] | None = None,
        prerun_commands: Commands | None = None,
        postrun_commands: Commands | None = None,
        use_srun: bool | None = None,
        srun_options: Mapping[str, object] | None = None,
        srun_append: str | None = None,
        bashrc_path: str | None = None,
        slurm_path: str | None = None,
        poll_freq: int | None = None,
        cleanup: bool | None = None,
        ignore_versions: bool | None = None,
        time_limit: float | None = None,
        retries: int | model.Retries = 0,
        cluster: str | None = None,
        log_stdout: str = "",
        log_stderr: str = "",
        cache_dir: str = "",
        **annotations: object,
    ) -> None:
        """Describe where tasks run, and with what.

        Args:
            username: of the login there; together with ``address`` it names one of your clusters.
            address: the login node, as `hpcflow clusters add --host` has it; without it the cluster that is called
                after the scheduler, or the only one under it.
            ssh_key_file: nothing: connections are described by `hpcflow clusters add` and ~/.ssh/config.
            cert_file: nothing, likewise.
            remote_workdir: below which each task gets a folder; absolute, or below the home directory.
            create_unique_workdir: ``False``: all tasks run in ``remote_workdir`` itself.
            conda_env: the same as ``env="conda:NAME"``.
            options: of the submit command, as ``{"partition": "debug", "cpus-per-task": 4}``.
            variables: to set in the job.
            prerun_commands: lines of shell before the worker, as ``env=hf.Env(prologue=…)``.
            postrun_commands: for bash, after each task.
            use_srun: ``True``, with more than one task in ``options``: the function runs on every rank.
            srun_options: nothing: tasks are not started by srun.
            srun_append: nothing, likewise.
            bashrc_path: a file to source before all that.
            slurm_path: nothing: commands are found on the login shell's PATH.
            poll_freq: nothing: it is a cluster's setting.
            cleanup: nothing: see `hpcflow clean`.
            ignore_versions: nothing: nothing needs to be installed there.
            time_limit: of one task, in seconds.
            retries: further attempts of a task that failed, whatever it raised.
            cluster: its name in clusters.toml, instead of ``address``.
            log_stdout: nothing; what a task prints is in its result.
            log_stderr: nothing, likewise.
            cache_dir: nothing.
            annotations: further ones of hpcflow's, such as ``memory=``; they go before ``options``.
        """
        given = dict(locals())
        super().__init__(cluster, _own(given), annotations)

    def _translated(self) -> Translated:
        options = cast("Mapping[str, object]", _given(self, "options") or {})
        done = _OPTIONS[self._scheduler](options)
        several = cast(int, done.annotations.get("ntasks", self.annotations.get("ntasks", 1)))
        if _given(self, "use_srun") and several > 1:
            done.annotations["launcher"] = "srun"
        return done


class SlurmExecutor(_Remote):
    """Tasks on a Slurm cluster."""

    _short_name = "slurm"
    _scheduler = "slurm"


class PBSExecutor(_Remote):
    """Tasks on an OpenPBS or PBS Pro cluster; ``options`` are arguments of qsub: ``{"q": "workq"}``."""

    _short_name = "pbs"
    _scheduler = "pbs"


class LSFExecutor(_Remote):
    """Tasks on a Spectrum LSF cluster; ``options`` are arguments of bsub: ``{"q": "normal"}``."""

    _short_name = "lsf"
    _scheduler = "lsf"


class SSHExecutor(NamedExecutor):
    """Processes on a machine behind ssh, without a scheduler: a cluster with ``scheduler = "local"`` and a host."""

    _short_name = "ssh"
    _scheduler = "local"

    def __init__(
        self,
        username: str | None = None,
        hostname: str | None = None,
        ssh_key_file: str | None = None,
        cache_dir: str = "",
        python_path: str | None = None,
        *,
        conda_env: str | None = None,
        remote_cache: str | None = None,
        run_local_on_ssh_fail: bool = False,
        remote_workdir: str | None = None,
        create_unique_workdir: bool | None = None,
        poll_freq: int | None = None,
        do_cleanup: bool | None = None,
        retry_connect: bool | None = None,
        max_connection_attempts: int | None = None,
        retry_wait_time: int | None = None,
        address: str | None = None,
        cluster: str | None = None,
        time_limit: float | None = None,
        retries: int | model.Retries = 0,
        log_stdout: str = "",
        log_stderr: str = "",
        **annotations: object,
    ) -> None:
        """Describe the machine.

        Args:
            username: of the login there.
            hostname: the machine, as `hpcflow clusters add --host` has it.
            ssh_key_file: nothing: connections are described by `hpcflow clusters add` and ~/.ssh/config.
            cache_dir: nothing.
            python_path: the interpreter there.
            conda_env: the same as ``env="conda:NAME"``.
            remote_cache: nothing: a cluster's workdir= is where hpcflow's own files lie.
            run_local_on_ssh_fail: nothing: tasks wait until the machine answers again.
            remote_workdir: below which each task gets a folder; absolute, or below the home directory.
            create_unique_workdir: ``False``: all tasks run in ``remote_workdir`` itself.
            poll_freq: nothing.
            do_cleanup: nothing: see `hpcflow clean`.
            retry_connect: nothing: it does.
            max_connection_attempts: nothing.
            retry_wait_time: nothing.
            address: the same as ``hostname``.
            cluster: its name in clusters.toml, instead of ``hostname``.
            time_limit: of one task, in seconds.
            retries: further attempts of a task that failed, whatever it raised.
            log_stdout: nothing; what a task prints is in its result.
            log_stderr: nothing, likewise.
            annotations: further ones of hpcflow's.
        """
        given = dict(locals())
        given["address"] = address or hostname
        if cluster is None and not given["address"]:
            raise UserError("SSHExecutor needs the machine: hostname='user@host', or cluster= as clusters.toml has it.")
        super().__init__(cluster, _own(given), annotations)

    def _meaningless(self) -> list[tuple[str, str]]:
        said = super()._meaningless()
        if _given(self, "remote_cache"):
            said.append(("remote_cache", "a cluster's workdir= is where hpcflow's own files lie"))
        if _given(self, "run_local_on_ssh_fail"):
            said.append(("run_local_on_ssh_fail", "tasks wait until the machine answers again"))
        return said


class HPCExecutor(NamedExecutor):
    """Covalent's executor over PSI/J: ``instance`` is the scheduler, "slurm", "pbspro", "pbs" or "lsf"."""

    _short_name = "hpc"

    def __init__(
        self,
        address: str | None = None,
        username: str | None = None,
        ssh_key_file: str | None = None,
        cert_file: str | None = None,
        instance: str = "slurm",
        *,
        launcher: str | None = None,
        resource_spec_kwargs: Mapping[str, object] | None = None,
        job_attributes_kwargs: Mapping[str, object] | None = None,
        inherit_environment: bool | None = None,
        environment: Mapping[str, str] | None = None,
        pre_launch_commands: Commands | None = None,
        post_launch_commands: Commands | None = None,
        remote_python_executable: str | None = None,
        remote_conda_env: str | None = None,
        remote_workdir: str | None = None,
        create_unique_workdir: bool | None = None,
        cache_dir: str = "",
        poll_freq: int | None = None,
        password: str | None = None,
        cleanup: bool | None = None,
        time_limit: float | None = None,
        retries: int | model.Retries = 0,
        cluster: str | None = None,
        log_stdout: str = "",
        log_stderr: str = "",
        **annotations: object,
    ) -> None:
        """Describe where tasks run, in PSI/J's words.

        Args:
            address: the login node, as `hpcflow clusters add --host` has it.
            username: of the login there.
            ssh_key_file: nothing: connections are described by `hpcflow clusters add` and ~/.ssh/config.
            cert_file: nothing, likewise.
            instance: the scheduler.
            launcher: "srun" or "mpirun": the function runs on every rank.
            resource_spec_kwargs: of PSI/J's ``ResourceSpecV1``; GPUs are counted for each process there.
            job_attributes_kwargs: of PSI/J's ``JobAttributes``; a duration is in minutes, or a timedelta.
            inherit_environment: nothing.
            environment: variables to set in the job.
            pre_launch_commands: lines of shell before the worker.
            post_launch_commands: for bash, after each task.
            remote_python_executable: the interpreter there.
            remote_conda_env: the same as ``env="conda:NAME"``.
            remote_workdir: below which each task gets a folder; absolute, or below the home directory.
            create_unique_workdir: ``False``: all tasks run in ``remote_workdir`` itself.
            cache_dir: nothing.
            poll_freq: nothing: it is a cluster's setting.
            password: nothing, and it is not kept.
            cleanup: nothing: see `hpcflow clean`.
            time_limit: of one task, in seconds.
            retries: further attempts of a task that failed, whatever it raised.
            cluster: its name in clusters.toml, instead of ``address``.
            log_stdout: nothing; what a task prints is in its result.
            log_stderr: nothing, likewise.
            annotations: further ones of hpcflow's; they go before PSI/J's.
        """
        given: dict[str, object] = {**locals(), "password": None}
        if instance not in _INSTANCES:
            raise UserError(f"HPCExecutor: instance={instance!r} must be one of {', '.join(_INSTANCES)}.")
        super().__init__(cluster, _own(given), annotations)
        if password:
            warnings.warn(f"HPCExecutor: password= changes nothing here: {_MEANINGLESS['password']}.", stacklevel=2)

    def _place(self) -> str:
        found = super()._place()
        scheduler = _INSTANCES[str(_given(self, "instance"))]
        return f"{scheduler}{found}" if self.cluster is None else found

    def _translated(self) -> Translated:
        spec = cast("Mapping[str, object]", _given(self, "resource_spec_kwargs") or {})
        attributes = cast("Mapping[str, object]", _given(self, "job_attributes_kwargs") or {})
        done = from_resource_spec(spec)
        further = from_job_attributes(attributes, slurm=_given(self, "instance") == "slurm")
        done.add(further)
        launcher = _given(self, "launcher")
        if launcher in ("srun", "mpirun"):
            done.annotations["launcher"] = launcher
        elif launcher not in (None, "single"):
            done.left_out["launcher"] = f"{launcher!r} starts nothing here; write 'srun' or 'mpirun'"
        return done


_INSTANCES: Final = {
    "slurm": "slurm",
    "pbspro": "pbs",
    "pbs": "pbs",
    "pbs_classic": "pbs",
    "lsf": "lsf",
    "local": "local",
}


# ---- arguments


def _own(given: Mapping[str, object]) -> dict[str, object]:
    """Return the arguments of a constructor, from its local names."""
    return {name: value for name, value in given.items() if name not in {"self", "annotations", "cluster", "__class__"}}


def _given(executor: NamedExecutor, name: str) -> object:
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
