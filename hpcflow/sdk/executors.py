"""Executors with Covalent's names and arguments: what they say becomes annotations, or one clear warning.

An executor says where its tasks run and with what; connections, keys and polling belong to the clusters that
`hpcflow clusters add` describes. An instance is a description: marking an electron with it takes a copy.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

from hpcflow.core import model
from hpcflow.core.model import UserError
from hpcflow.sdk.batch_options import (
    Translated,
    from_job_attributes,
    from_lsf_options,
    from_pbs_options,
    from_resource_spec,
    from_slurm_options,
)
from hpcflow.sdk.named_executor import MEANINGLESS, NamedExecutor, argument, arguments

__all__ = [
    "DaskExecutor",
    "HPCExecutor",
    "LSFExecutor",
    "LocalExecutor",
    "PBSExecutor",
    "SSHExecutor",
    "SlurmExecutor",
]

Commands = str | Sequence[str]


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
        super().__init__("local", arguments(given), annotations)


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
                f"DaskExecutor: scheduler_address= changes nothing here: {MEANINGLESS['scheduler_address']}.",
                stacklevel=2,
            )


#: How each scheduler's ``options`` are read.
_OPTIONS: Final[Mapping[str, Callable[[Mapping[str, object]], Translated]]] = {
    "slurm": from_slurm_options,
    "pbs": from_pbs_options,
    "lsf": from_lsf_options,
}


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
        super().__init__(cluster, arguments(given), annotations)

    def _translated(self) -> Translated:
        options = cast("Mapping[str, object]", argument(self, "options") or {})
        done = _OPTIONS[self._scheduler](options)
        several = cast(int, done.annotations.get("ntasks", self.annotations.get("ntasks", 1)))
        if argument(self, "use_srun") and several > 1:
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
        super().__init__(cluster, arguments(given), annotations)

    def _meaningless(self) -> list[tuple[str, str]]:
        said = super()._meaningless()
        if argument(self, "remote_cache"):
            said.append(("remote_cache", "a cluster's workdir= is where hpcflow's own files lie"))
        if argument(self, "run_local_on_ssh_fail"):
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
        super().__init__(cluster, arguments(given), annotations)
        if password:
            warnings.warn(f"HPCExecutor: password= changes nothing here: {MEANINGLESS['password']}.", stacklevel=2)

    def _place(self) -> str:
        found = super()._place()
        scheduler = _INSTANCES[str(argument(self, "instance"))]
        return f"{scheduler}{found}" if self.cluster is None else found

    def _translated(self) -> Translated:
        spec = cast("Mapping[str, object]", argument(self, "resource_spec_kwargs") or {})
        attributes = cast("Mapping[str, object]", argument(self, "job_attributes_kwargs") or {})
        done = from_resource_spec(spec)
        further = from_job_attributes(attributes, slurm=argument(self, "instance") == "slurm")
        done.add(further)
        launcher = argument(self, "launcher")
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
