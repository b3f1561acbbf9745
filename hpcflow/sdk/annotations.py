"""What an electron's annotations mean, in hpcflow's units: what it inherits, and where and with what its tasks run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Final, Literal

from hpcflow.core import model
from hpcflow.core.model import Resources, UserError

if TYPE_CHECKING:
    from hpcflow.sdk.body import Body
    from hpcflow.sdk.hooks import Hooks, Step
    from hpcflow.sdk.transfer import FileTransfer
    from hpcflow.sdk.trigger import BaseTrigger

__all__ = ["Annotations", "ExecutorSettings", "Placement"]


@dataclass(frozen=True, slots=True)
class ExecutorSettings:
    """A cluster by name, with annotations for every electron on it that neither electron nor lattice wrote."""

    #: Its name, or ``scheduler:user@host`` for the one that the server has under this scheduler and host.
    cluster: str
    defaults: Annotations
    #: What calls the function of its tasks; ``None``: nothing does anything around it.
    body: Body | None = None


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


def _with_packages(env: model.Environment, packages: tuple[str, ...] | None) -> model.Environment:
    if not packages:
        return env
    from hpcflow.sdk.environment import read_requirements

    return replace(env, requirements=tuple(sorted({*env.requirements, *read_requirements(packages)})))
