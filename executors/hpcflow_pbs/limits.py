"""What a PBS cluster can give: its server, its queues and its nodes in one command."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from hpcflow.core.batch import MARK, count, decoded, not_found
from hpcflow.core.model import WORKER_MEMORY_MIB, ArrayLimits, HpcflowError, Limits, Partition
from hpcflow.core.plugin import Command, Reply
from hpcflow_pbs.answer import read_object
from hpcflow_pbs.text import first_words, mib, seconds

__all__ = ["as_object", "limits", "nodes_of", "parse_limits", "parse_probe", "probe"]

Json = Mapping[str, Any]  # Any: JSON

# Constant text; nothing of a user's is ever put into it. A site may hide nodes from its users.
_LIMITS: Final = (
    f"qstat -B -f -F json && echo '{MARK}' && qstat -Q -f -F json && echo '{MARK}' && "
    "{ pbsnodes -a -F json || true; }"
)
_PROBE: Final = "qstat --version && qstat -B -f -F json"

#: "[u:PBS_GENERIC=200],[o:PBS_ALL=1000]"
_EACH_USER: Final = re.compile(r"\[(?:u:PBS_GENERIC|o:PBS_ALL)=([0-9]+)\]")
#: Kept for people: what explains a refusal or a delay.
_NOTES: Final = (
    *("server_host", "job_history_enable", "job_history_duration", "max_queued", "max_run", "node_fail_requeue"),
    *("scheduling", "default_queue"),
)
_TORQUE: Final = re.compile(r"^(?:Version: [0-9]|torque)", re.MULTILINE | re.IGNORECASE)


def probe() -> Command:
    """Ask for the version, and whether a server answers."""
    return Command(("sh", "-c", _PROBE))


def parse_probe(reply: Reply) -> str:
    """Return "PBS 23.06.06, server pbs01".

    Raises:
        HpcflowError: no qstat here, one of Torque's, or no server that answers.
    """
    said, complaint = decoded(reply.stdout), decoded(reply.stderr)
    if not_found(reply):
        raise HpcflowError("There is no PBS here: `qstat` was not found on PATH.")
    _refuse_others(said + complaint)
    version = re.search(r"^pbs_version = ([0-9][\w.-]*)", said, re.MULTILINE)
    for name, server in read_object(said, "Server").items():
        if reply.exit_code == 0 and version is not None:
            return f"PBS {version[1]}, server {server.get('server_host', name)}"
    if "cannot connect to server" in complaint:
        raise HpcflowError(f"PBS's server does not answer: {first_words(complaint)}. Jobs that run go on without it.")
    raise HpcflowError(f"PBS did not answer `qstat -B`: {first_words(complaint)}.")


def limits() -> Command:
    """Ask for the server, its queues and its nodes."""
    return Command(("sh", "-c", _LIMITS))


def parse_limits(reply: Reply) -> Limits:
    """Read server, queues and nodes.

    Raises:
        HpcflowError: no answer, a cut one, or a PBS without job arrays.
    """
    if not_found(reply):
        raise HpcflowError("There is no PBS here: `qstat` was not found on PATH.")
    said, complaint = decoded(reply.stdout), decoded(reply.stderr)
    _refuse_others(complaint)
    parts = said.split(f"{MARK}\n")
    servers = read_object(parts[0], "Server") if len(parts) == 3 else {}
    queues = read_object(parts[1], "Queue") if len(parts) == 3 else {}
    if reply.exit_code != 0 or len(servers) != 1 or not queues:
        raise HpcflowError(f"PBS did not tell its limits: {first_words(complaint)}.")
    (server,) = servers.values()
    # The server's own default (23.06, and every release since arrays came).
    width = count(server.get("max_array_size")) or 10_000
    # An array of more array tasks than a user may have in the queue could never be taken.
    width = min([width, *_each_user(server.get("max_queued"))])
    return Limits(
        array=ArrayLimits(max_width=width),
        partitions=_partitions(server, queues, read_object(parts[2], "nodes")),
        scheduler="pbs",
        version=str(server.get("pbs_version", "")),
        accounting=server.get("job_history_enable") == "True",
        notes={key: str(server[key]) for key in _NOTES if key in server},
    )


def _refuse_others(said: str) -> None:
    if _TORQUE.search(said) and "pbs_version" not in said:
        raise HpcflowError("This is Torque, not OpenPBS or PBS Pro: hpcflow does not serve it.")
    if re.search(r"invalid option -- '?F|illegal -F", said):
        raise HpcflowError(
            "This qstat has no -F json: it is Torque's, or older than PBS Pro 14. hpcflow serves neither."
        )


def _partitions(server: Json, queues: Mapping[str, Json], nodes: Mapping[str, Json]) -> tuple[Partition, ...]:
    """Return one partition for each queue, with the nodes that serve it."""
    served = nodes_of(queues, nodes)
    return tuple(
        _partition(name, queue, server, [nodes[node] for node in served[name]]) for name, queue in queues.items()
    )


def nodes_of(queues: Mapping[str, Json], nodes: Mapping[str, Json]) -> Mapping[str, Sequence[str]]:
    """Return the nodes that run the jobs of each queue: its own, or those with the labels that its chunks ask for.

    Without queues of their own and without labels, every node serves every queue.
    """
    has = {name: as_object(node.get("resources_available")) for name, node in nodes.items()}
    known = {resource for resources in has.values() for resource in resources}
    owned = {str(node["queue"]) for node in nodes.values() if "queue" in node}
    served: dict[str, Sequence[str]] = {}
    for name, queue in queues.items():
        if name in owned:
            served[name] = [node for node, about in nodes.items() if about.get("queue") == name]
            continue
        asked = {
            resource: value
            for resource, value in as_object(queue.get("default_chunk")).items()
            if resource in known and isinstance(value, str) and count(value) is None and mib(value) is None
        }
        served[name] = [
            node
            for node, resources in has.items()
            if "queue" not in nodes[node]
            and all(value in _labels(resources.get(resource)) for resource, value in asked.items())
        ]
    return served


def _labels(value: object) -> list[str]:
    return [label.strip() for label in str(value).split(",")]


def _partition(name: str, queue: Json, server: Json, nodes: Sequence[Json]) -> Partition:
    most = as_object(queue.get("resources_max"))
    has = [as_object(node.get("resources_available")) for node in nodes]
    memory = _largest(mib(each.get("mem")) for each in has)
    queue_memory = mib(most.get("mem"))
    if memory is not None and queue_memory is not None:
        memory = min(memory, queue_memory)
    return Partition(
        name=name,
        is_default=server.get("default_queue") == name,
        exclusive=bool(nodes) and all(str(node.get("sharing", "")).startswith("force_excl") for node in nodes),
        max_walltime_s=seconds(str(most.get("walltime", ""))),
        max_nodes=count(most.get("nodect")),
        cpus_per_node=_largest(count(each.get("ncpus")) for each in has),
        memory_mib_per_node=None if memory is None else max(0, memory - WORKER_MEMORY_MIB),
        gpus_per_node=_largest(count(each.get("ngpus", 0)) for each in has),
        total_nodes=len(has) or None,
        max_width=count(queue.get("max_array_size")),
    )


def _each_user(text: object) -> list[int]:
    return [int(number) for number in _EACH_USER.findall(str(text or ""))]


def as_object(value: object) -> Json:
    """Return a JSON object, an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def _largest(numbers: Iterable[int | None]) -> int | None:
    return max((number for number in numbers if number is not None), default=None)
