"""What options of sbatch and PSI/J's words for a job are called here: names and values in, annotations out. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, cast

from hpcflow.core.model import UserError
from hpcflow.core.submit_options import near_option

__all__ = [
    "Translated",
    "from_job_attributes",
    "from_lsf_options",
    "from_pbs_options",
    "from_resource_spec",
    "from_slurm_options",
]


@dataclass(slots=True)
class Translated:
    """Annotations as a user would have written them, and what could not be said with them."""

    annotations: dict[str, object] = field(default_factory=dict[str, object])
    #: Further arguments of the submit command.
    extra: list[str] = field(default_factory=list[str])
    #: Names without a meaning here, and why.
    left_out: dict[str, str] = field(default_factory=dict[str, str])
    #: Names that are handed on though they are probably slips, and the real ones that they are close to.
    doubted: dict[str, str] = field(default_factory=dict[str, str])

    def add(self, further: Translated) -> None:
        """Take what others said besides, which goes before."""
        self.annotations |= further.annotations
        self.extra += further.extra
        self.left_out |= further.left_out
        self.doubted |= further.doubted


_OURS: Final = "hpcflow sets it itself"
#: Options of sbatch, and why none of them is handed on.
_LEFT_OUT: Final = {
    **dict.fromkeys(("job-name", "J", "array", "a", "open-mode", "signal", "requeue", "no-requeue"), _OURS),
    **dict.fromkeys(("output", "o", "error", "e"), "what a task prints is in its result's stdout and stderr"),
    **dict.fromkeys(("wait", "W", "wrap", "export", "clusters", "M"), _OURS),
    **dict.fromkeys(("mem-per-cpu", "mem-per-gpu"), "write memory=, for each node"),
    **dict.fromkeys(("gpus-per-task", "ntasks-per-core", "ntasks-per-socket"), "write gpus= and ntasks="),
}
_SILENT: Final = frozenset({"parsable"})
_LONG: Final = {
    "p": "partition", "A": "account", "q": "qos", "C": "constraint", "L": "licenses", "x": "exclude", "N": "nodes",
    "n": "ntasks", "c": "cpus-per-task", "t": "time", "G": "gpus", "D": "chdir",
}  # fmt: skip


def from_slurm_options(options: Mapping[str, object]) -> Translated:
    """Return what a mapping of sbatch's options means: ``{"partition": "debug", "c": 4, "time": "00:10:00"}``.

    Raises:
        UserError: a value that sbatch would not understand either.
    """
    done = Translated()
    for name, value in options.items():
        long = _LONG.get(name.lstrip("-"), name.lstrip("-"))
        if long in _SILENT:
            continue
        if long in _LEFT_OUT:
            done.left_out[name] = _LEFT_OUT[long]
            continue
        if long in _READ:
            annotation, read = _READ[long]
            done.annotations[annotation] = read(name, value)
            continue
        if long == "gres" and (gpus := re.fullmatch(r"gpu:(\d+)", str(value))):
            done.annotations["gpus"] = int(gpus[1])
            continue
        if (near := near_option("sbatch", long)) is not None:
            done.doubted[name] = near
        if len(long) == 1:
            done.extra.append(f"-{long}" + ("" if value in (None, "", True) else str(value)))
        else:
            done.extra.append(f"--{long}" if value in (None, "", True) else f"--{long}={value}")
    per_node = done.annotations.pop("ntasks_per_node", None)
    if per_node is not None and "ntasks" not in done.annotations:
        done.annotations["ntasks"] = cast(int, per_node) * cast(int, done.annotations.get("nodes", 1))
    return done


#: Options of qsub and bsub that annotations say better.
_QSUB: Final = {"q": "partition", "A": "account"}
_BSUB: Final = {"q": "partition", "P": "account", "U": "reservation"}


def from_pbs_options(options: Mapping[str, object]) -> Translated:
    """Return what a mapping of qsub's options means: ``{"q": "workq", "p": 100}``.

    Raises:
        UserError: a name of more than a letter, which qsub has not.
    """
    done = Translated()
    for name, value in options.items():
        bare = name.lstrip("-")
        if len(bare) != 1:
            near = near_option("qsub", bare)
            raise UserError(
                f"options[{name!r}]: qsub's options have one letter{f'; did you mean {near!r}?' if near else '.'} "
                "What hpcflow has a word for, such as walltime=, memory= or partition=, is written beside the options."
            )
        if bare in _QSUB:
            done.annotations[_QSUB[bare]] = str(value)
        else:
            done.extra.append(f"-{bare}" if value in (None, "", True) else f"-{bare}{value}")
    return done


def from_lsf_options(options: Mapping[str, object]) -> Translated:
    """Return what a mapping of bsub's options means: ``{"q": "normal", "app": "chem", "x": ""}``."""
    done = Translated()
    for name, value in options.items():
        bare = name.lstrip("-")
        if bare in _BSUB:
            done.annotations[_BSUB[bare]] = str(value)
            continue
        if (near := near_option("bsub", bare)) is not None:
            done.doubted[name] = near
        done.extra.append(f"-{bare}" if value in (None, "", True) else f"-{bare} {value}")
    return done


def from_resource_spec(spec: Mapping[str, object]) -> Translated:
    """Return what the arguments of PSI/J's ``ResourceSpecV1`` mean.

    Raises:
        UserError: a count that is none.
    """
    done = Translated()
    nodes = _number("node_count", spec["node_count"]) if spec.get("node_count") is not None else None
    per_node = spec.get("processes_per_node")
    for name, value in spec.items():
        if value is None:
            continue
        match name:
            case "node_count":
                done.annotations["nodes"] = nodes
            case "process_count":
                done.annotations["ntasks"] = _number(name, value)
            case "processes_per_node":
                done.annotations.setdefault("ntasks", _number(name, per_node) * (nodes or 1))
            case "cpu_cores_per_process":
                done.annotations["cpus"] = _number(name, value)
            case "gpu_cores_per_process":
                # Here they are counted for each node.
                here = _number(name, per_node) if per_node is not None else 1
                done.annotations["gpus"] = _number(name, value) * here
            case "memory":
                done.annotations["memory"] = f"{max(1, -(-_number(name, value) // 2**20))} MiB"
            case "exclusive_node_use":
                if value:
                    done.left_out[name] = "a cluster with whole_nodes = true fills the nodes that it gets"
            case _:
                done.left_out[name] = "PSI/J's resource specification has no such name that means something here"
    return done


def from_job_attributes(attributes: Mapping[str, object], *, slurm: bool) -> Translated:
    """Return what the arguments of PSI/J's ``JobAttributes`` mean; a duration is in minutes, or a timedelta.

    Raises:
        UserError: a duration that is none.
    """
    done = Translated()
    names = {
        "queue_name": "partition",
        "project_name": "account",
        "account": "account",
        "reservation_id": "reservation",
    }
    for name, value in attributes.items():
        if value is None:
            continue
        if name in names:
            done.annotations[names[name]] = str(value)
        elif name == "duration":
            done.annotations["walltime"] = (
                value if isinstance(value, timedelta) else timedelta(minutes=_number(name, value))
            )
        elif name == "custom_attributes" and isinstance(value, Mapping):
            own = cast("Mapping[str, object]", value)
            theirs = {key.partition(".")[2]: each for key, each in own.items() if key.startswith("slurm.") and slurm}
            done.add(from_slurm_options(theirs))
            rest = [key for key in own if not (key.startswith("slurm.") and slurm)]
            done.left_out |= dict.fromkeys(rest, "write it into extra=, as an argument of the submit command")
        else:
            done.left_out[name] = "PSI/J's job attributes have no such name that means something here"
    return done


# ---- single values


def _number(name: str, value: object) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise UserError(f"{name}={value!r} must be a whole number.") from None


def _word(name: str, value: object) -> str:
    return str(value)


_TIME: Final = re.compile(r"(?:(?P<d>\d+)-)?(?P<a>\d+)(?::(?P<b>\d+))?(?::(?P<c>\d+))?")


def _time(name: str, value: object) -> timedelta:
    """Return what sbatch reads: minutes, m:s, h:m:s, d-h, d-h:m or d-h:m:s."""
    found = _TIME.fullmatch(str(value).strip())
    if found is None:
        raise UserError(f"{name}={value!r} is no time limit as sbatch has them, such as '00:30:00' or '1-12'.")
    a, b, c = int(found["a"]), int(found["b"] or 0), int(found["c"] or 0)
    if found["d"] is not None:
        return timedelta(days=int(found["d"]), hours=a, minutes=b, seconds=c)
    if found["c"] is not None:
        return timedelta(hours=a, minutes=b, seconds=c)
    return timedelta(minutes=a, seconds=b)


def _memory(name: str, value: object) -> str:
    found = re.fullmatch(r"(\d+)([KMGT]?)", str(value).strip().upper())
    if found is None:
        raise UserError(f"{name}={value!r} is no amount of memory as sbatch has them, such as '4G'.")
    return f"{found[1]} {found[2] or 'M'}iB"


_READ: Final[Mapping[str, tuple[str, Callable[[str, object], object]]]] = {
    "partition": ("partition", _word),
    "account": ("account", _word),
    "qos": ("qos", _word),
    "constraint": ("constraint", _word),
    "reservation": ("reservation", _word),
    "licenses": ("licenses", _word),
    "exclude": ("exclude", _word),
    "chdir": ("workdir", _word),
    "nodes": ("nodes", _number),
    "ntasks": ("ntasks", _number),
    "ntasks-per-node": ("ntasks_per_node", _number),
    "cpus-per-task": ("cpus", _number),
    "gpus": ("gpus", _number),
    "gpus-per-node": ("gpus", _number),
    "mem": ("memory", _memory),
    "time": ("walltime", _time),
}
