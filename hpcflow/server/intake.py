"""Reads what a client sent: whether it can run, on which clusters, and what that would submit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from hpcflow.core.graphs import check_graph, waves
from hpcflow.core.model import (
    BY_DEFAULT,
    BagId,
    ClusterName,
    DispatchId,
    Graph,
    HpcflowError,
    JobArray,
    Limits,
    Resources,
    Shape,
    Task,
    UserError,
)
from hpcflow.core.needs import downstream
from hpcflow.core.plan import (
    BagPlan,
    Ready,
    chain,
    check_resources,
    core_hours_bound,
    is_as_long_as_possible,
    partition_of,
    plan_bags,
    slots_of,
)
from hpcflow.core.words import length
from hpcflow.server.addressed import name_clusters
from hpcflow.server.bags import array_of, bag_of
from hpcflow.server.clusters import LOCAL, Cluster
from hpcflow.server.environments import Environments, imports_of
from hpcflow.server.finding import Default
from hpcflow.server.manifest import function_imports, read_graph
from hpcflow.server.settings import Settings
from hpcflow.server.shared import plan_settings
from hpcflow.server.site import SiteError

__all__ = ["Intake"]

Json = dict[str, Any]  # Any: JSON, described in schema.py
Manifest = Mapping[str, Any]  # Any: a checked upload.Manifest


class Intake:
    """What a dispatch is held against: the clusters, the default one, the settings."""

    def __init__(
        self,
        clusters: Mapping[ClusterName, Cluster],
        default: Default,
        settings: Settings,
        *,
        now: Callable[[], datetime],
        environments: Environments,
    ) -> None:
        self._clusters = clusters
        self._default = default
        self._settings = settings
        self._now = now
        self._environments = environments

    async def checked(self, manifest: Manifest, *, sublattice: bool = False) -> tuple[Graph, list[Shape], list[str]]:
        """Return graph, shapes and what the user should be told; raise `UserError` for what can't run.

        Args:
            manifest: of a dispatch.
            sublattice: or of a sublattice, which may have no task.
        """
        graph, shapes = self.read(manifest, sublattice=sublattice)
        messages: list[str] = []
        if any(task.executor is None for task in graph.tasks):
            reason = f"{BY_DEFAULT}{self._default.name!r}, {self._default.reason}."
            local = self._default.name == LOCAL and not self._settings.default_executor
            messages.append(f"{reason} {_begin_anew(manifest) if local else ''}".rstrip())
        functions = function_imports(manifest)
        for shape in dict.fromkeys(shapes):
            cluster = self._clusters[shape.cluster]
            try:
                limits = await cluster.known_limits(self._now())
            except SiteError as error:
                raise UserError(str(error)) from None
            except HpcflowError as error:
                try:
                    self._refuse_what_its_scheduler_has_not(cluster, shape)
                except UserError as mistake:
                    raise _at(graph, shapes, shape, mistake) from None
                hint = _begin_anew(manifest, cluster.settings.scheduler if cluster.link is None else "ssh")
                messages.append(
                    f"{cluster.name} does not answer now ({error}); its tasks wait until it does. {hint}".rstrip()
                )
                continue
            try:
                cluster.check_interpreter(shape)
                check_resources(shape.resources, cluster.name, limits)
                self._refuse_what_its_scheduler_has_not(cluster, shape)
                imports = imports_of(shape, graph.tasks, shapes, functions)
                messages += await self._environments.check(cluster, shape, imports, own_python=manifest["executable"])
            except UserError as error:
                raise _at(graph, shapes, shape, error) from None
            if shape.resources.walltime_s is None and limits.bounded:
                most_s = plan_settings(self._settings, cluster).worker_walltime_s
                messages.append(_no_walltime(cluster, shape, limits, most_s))
            elif is_as_long_as_possible(shape.resources, limits, self._settings.kill_grace):
                limit = length(shape.resources.walltime_s or 0)
                messages.append(
                    f"Tasks with a walltime of {limit} fill their partition's limit on "
                    f"{cluster.name!r}: each gets an array task of its own. With a little less, several can share one."
                )
            if (too_many := _too_many_slots(cluster, shape, limits)) is not None:
                messages.append(too_many)
        return graph, shapes, list(dict.fromkeys(messages))

    def _refuse_what_its_scheduler_has_not(self, cluster: Cluster, shape: Shape) -> None:
        """Let the cluster's own scheduler judge what its submit command would be told, before anything is stored."""
        cluster.plugin.submit(
            JobArray(
                token="hpcflow",
                bag=BagId("hpcflow"),
                dispatch=DispatchId("hpcflow"),
                cluster=cluster.name,
                resources=shape.resources,
                width=1,
                worker_walltime_s=shape.resources.walltime_s or 60,
                command=("true",),
                path="/",
                extra=cluster.settings.extra,
                exclusive=cluster.settings.whole_nodes,
                intent_at=self._now(),
            )
        )

    def read(self, manifest: Manifest, *, sublattice: bool = False) -> tuple[Graph, list[Shape]]:
        """Return graph and shapes as `checked`, without a look at any cluster."""
        name_clusters(manifest, {name: cluster.settings for name, cluster in self._clusters.items()})
        graph = read_graph(manifest)
        check_graph(graph, may_be_empty=sublattice)
        return graph, self.shapes(graph, manifest)

    def shapes(self, graph: Graph, manifest: Manifest) -> list[Shape]:
        """Return what each task asks for, with its cluster's defaults filled in; equal tasks share one object."""
        known: dict[tuple[object, ...], Shape] = {}
        shapes: list[Shape] = []
        for task in graph.tasks:
            at_most = (task.name, task.max_running) if task.max_running is not None else None
            asked = (task.executor, task.resources, task.workdir, at_most, task.launcher, task.isolation, task.env)
            if asked not in known:
                known[asked] = self._shape(task, at_most, manifest)
            shapes.append(known[asked])
        return shapes

    def _shape(self, task: Task, at_most: tuple[str, int] | None, manifest: Manifest) -> Shape:
        cluster = self._clusters.get(ClusterName(task.executor or self._default.name))
        if cluster is None:
            names = ", ".join(sorted(self._clusters))
            text = f"There is no executor {task.executor!r}; the clusters are {names}."
            raise UserError(f"{text} {_begin_anew(manifest, str(task.executor))}".rstrip())
        table, resources = cluster.settings, task.resources
        if task.launcher == "srun" and table.scheduler != "slurm":
            raise UserError(
                f"Electron {task.name!r}: launcher='srun' needs Slurm, and {cluster.name!r} is not under it; "
                "write launcher='mpirun'."
            )
        if task.launcher is not None and (task.env.container or table.container):
            raise UserError(
                f"Electron {task.name!r}: launcher= starts ranks from inside of the worker, where a container has no "
                f"{task.launcher}; run the container in the function, as in `{task.launcher} apptainer exec …`."
            )
        return Shape(
            cluster=cluster.name,
            resources=replace(
                resources,
                partition=resources.partition or table.partition,
                account=resources.account or table.account,
                qos=resources.qos or table.qos,
                walltime_s=resources.walltime_s or (int(table.walltime) if table.walltime else None),
                memory_mib=resources.memory_mib or table.memory_mib,
            ),
            python=cluster.python_for(manifest["executable"], manifest["python"]),
            python_version=(manifest["python"][0], manifest["python"][1]),
            workdir=task.workdir,
            at_most=at_most,
            launcher=task.launcher,
            isolation=task.isolation,
            env=task.env.over(table.environment),
        )

    async def preview(self, manifest: Manifest) -> Json:
        """Return what the dispatch would submit, wave by wave, by the code that submits."""
        graph, shapes, messages = await self.checked(manifest)
        bags: list[Json] = []
        children, chained = downstream(graph), set[int]()
        for wave in waves(graph):
            for name in dict.fromkeys(shapes[index].cluster for index in wave):
                cluster = self._clusters[name]
                limits = {name: await cluster.known_limits(self._now())}
                settings = plan_settings(self._settings, cluster)
                ready: list[Ready] = []
                for index in wave:
                    if shapes[index].cluster == name and index not in chained:
                        links = chain(index, graph, children, lambda a, b: shapes[a] == shapes[b], settings)
                        chained.update(links)
                        after = tuple((link, 1) for link in links)
                        grows = graph.tasks[index].sublattice
                        ready.append(Ready(index=index, attempt=1, shape=shapes[index], chain=after, grows=grows))
                bags += [
                    self._planned(cluster, graph, plan, bounded=limits[name].bounded)
                    for plan in plan_bags(ready, limits, settings)
                ]
        bounds = [bag["core_hours_bound"] for bag in bags]
        total = None if None in bounds else round(sum(bounds), 3)
        return {"bags": bags, "core_hours_bound": total, "messages": messages}

    def _planned(self, cluster: Cluster, graph: Graph, plan: BagPlan, *, bounded: bool) -> Json:
        names = [graph.tasks[index].name for index, _ in plan.tasks]
        identifier = "0" * 26
        array = array_of(
            bag_of(plan, BagId(identifier), DispatchId(identifier), cluster),
            cluster,
            graph,
            width=plan.widths[0],
            identifier=identifier,
            opaque=self._settings.job_names == "opaque",
            now=self._now(),
        )
        command = cluster.plugin.submit(array)
        defaults = asdict(Resources())
        return {
            "electrons": list(dict.fromkeys(names)),
            "tasks": len(names),
            "cluster": cluster.name,
            "resources": {k: v for k, v in asdict(plan.shape.resources).items() if v != defaults[k]},
            "widths": list(plan.widths),
            "worker_walltime_s": plan.worker_walltime_s if bounded else None,
            "units_per_range": len(plan.units) / (len(plan.cuts) - 1),
            "argv": list(command.argv),
            "script": command.stdin.decode(),
            "core_hours_bound": round(core_hours_bound(plan), 3) if bounded else None,
        }


def _at(graph: Graph, shapes: Sequence[Shape], shape: Shape, error: UserError) -> UserError:
    """Return an error that names the first electron that asks so."""
    return UserError(f"Electron {graph.tasks[shapes.index(shape)].name!r} can't run. {error}")


def _too_many_slots(cluster: Cluster, shape: Shape, limits: Limits) -> str | None:
    """Say that fewer tasks run at once in an array task than clusters.toml wants, ``None`` where that is not so."""
    wanted, partition = cluster.settings.slots, partition_of(shape.resources, limits)
    fit = slots_of(shape.resources, partition, wanted, wanted)
    if fit == wanted or partition is None or shape.resources.nodes > 1 or shape.resources.ntasks > 1:
        return None
    return (
        f"slots = {wanted} of {cluster.name!r} is more than a node of partition {partition.name!r} holds: an array "
        f"task runs {fit} such tasks at once there."
    )


def _begin_anew(manifest: Manifest, scheduler: str | None = None) -> str:
    """Return what to do where whoever dispatches has an environment that leads elsewhere; empty where it does not.

    Args:
        manifest: of the dispatch.
        scheduler: the one that is missed; "ssh" behind ssh; ``None``: any on this machine.
    """
    # Of a dispatch that is taken up from the store, an earlier version may have written the manifest.
    others = manifest.get("client", {}).get("others", {})
    wanted = [scheduler] if scheduler is not None else [each for each in others if each != "ssh"]
    names = list(dict.fromkeys(name for each in wanted for name in others.get(each, ())))
    if not names:
        return ""
    told = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    return f"The server began with another {told} than this program has: `hpcflow restart` gives it these."


def _no_walltime(cluster: Cluster, shape: Shape, limits: Limits, most_s: float) -> str:
    longest = next(
        (p.max_walltime_s for p in limits.partitions if p.name == shape.resources.partition or p.is_default), None
    )
    minutes = int(min(most_s, longest or most_s)) // 60
    return f"Tasks without walltime= get at most {minutes} min on {cluster.name!r}."
