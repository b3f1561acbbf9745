"""Parallel programs: whose allocation it is, and functions that run on every rank.

A task of several processes has the allocation to itself: the variables by which a batch shell passes for a rank are
taken out, so that ``srun`` and ``mpirun`` begin afresh in it. Where the electron names a launcher, the worker starts it
with this program as the command of every rank. A rank opens the bag by itself, runs the function, and writes how it
ended into a signed file: rank 0 always, the others when they fail.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Final

from hpcflow.core.bag import read_lines, sign_line
from hpcflow.node.bagdir import BagDirectory, RefusedBag, TaskRow, open_bag
from hpcflow.node.files import append_all, create_own, read_own
from hpcflow.node.processes import interpreter_command
from hpcflow.node.task import Assignment, Outlet, flush_output, outcome, refusal, settle, write_lines_at_once

__all__ = ["Ranks", "own_the_allocation", "rank_of", "run_rank"]

EXIT_REFUSED: Final = 12
_EXIT_NOT_FOUND: Final = 127

#: What Slurm (22.05) tells a batch shell as if it were a rank, what srun tells its steps, and what MPI's launchers tell
#: theirs. A setting of the user's, such as OMPI_MCA_btl or SLURM_MPI_TYPE, is none of these; nor is SLURM_STEPMGR,
#: which srun needs (24.05).
_OF_RANKS: Final = frozenset(
    {
        "SLURM_PROCID",
        "SLURM_LOCALID",
        "SLURM_NODEID",
        "SLURM_GTIDS",
        "SLURM_TASK_PID",
        "SLURM_PRIO_PROCESS",
        "SLURM_LAUNCH_NODE_IPADDR",
        "OMPI_MCA_pmix",
        "OMPI_MCA_initial_wdir",
    }
)
_OF_RANKS_BEGIN: Final = (
    "SLURM_STEP", "SLURM_SRUN_", "PMI_", "PMI2_", "PMIX_", "MV2_COMM_WORLD_", "MPI_LOCALRANK", "MPI_LOCALNRANKS",
    "OMPI_COMM_WORLD_", "OMPI_UNIVERSE_", "OMPI_APP_CTX_", "OMPI_NUM_APP_CTX", "OMPI_FIRST_RANKS", "OMPI_FILE_LOCATION",
    "OMPI_COMMAND", "OMPI_ARGV", "OMPI_MCA_ess", "OMPI_MCA_orte_",
)  # fmt: skip
_SETTINGS_BEGIN: Final = ("SLURM_STEPMGR", "PMIX_MCA_")
#: Where ranks find their number, by what started them.
_RANK: Final[Mapping[str, tuple[str, ...]]] = {
    "srun": ("SLURM_PROCID",),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK"),
}
#: How Open MPI (4 and 5) binds ranks: by itself to one core each, of a pair, which is wrong for ranks with threads.
_BINDING: Final = ("OMPI_MCA_hwloc_base_binding_policy", "PRTE_MCA_hwloc_default_binding_policy")
#: A pickled exception that is larger stays where it was raised: its text says it all.
_LARGEST_EXCEPTION: Final = 64 * 1024


def own_the_allocation(environ: MutableMapping[str, str]) -> None:
    """Take out what belongs to ranks and steps, and let srun know the cores of each process.

    From 22.05 on srun does not take them from sbatch's ``--cpus-per-task``.
    """
    for name in [*environ]:
        if name in _OF_RANKS or (name.startswith(_OF_RANKS_BEGIN) and not name.startswith(_SETTINGS_BEGIN)):
            del environ[name]
    if "SLURM_CPUS_PER_TASK" in environ:
        environ.setdefault("SRUN_CPUS_PER_TASK", environ["SLURM_CPUS_PER_TASK"])


def rank_of(program: str, environ: Mapping[str, str]) -> int | None:
    """Return the number of this process among those that a launcher started, ``None`` when it says nothing."""
    found = (environ[name] for name in _RANK[program] if name in environ)
    return next((int(text) for text in found if text.isdecimal()), None)


class Ranks:
    """Runs tasks on all ranks, one task after the other."""

    def __init__(self, bag: BagDirectory, key_file: str, worker: str) -> None:
        """Take a bag whose tasks have a launcher, and the worker's name."""
        self._bag = bag
        self._key_file = key_file
        self._worker = worker
        self._number = 0
        self._folder = ""

    def start(self, assignment: Assignment) -> int:
        """Start the ranks of one task; return the pid of their launcher.

        Raises:
            OSError: no process can be made.
        """
        self._number += 1
        name = f"{self._worker}.ranks-{self._number}"
        self._folder = os.path.join(self._bag.path, "data", name)
        os.mkdir(self._folder, 0o700)
        order = {"task": list(assignment.task), "directory": assignment.directory, "umask": assignment.umask}
        _write(self._bag, os.path.join(self._folder, "order"), {"ev": "order", **order})
        launch = self._bag.launch or ()
        command = [*launch, *interpreter_command(), "rank", self._bag.path, self._key_file, name]
        pid = os.fork()
        if not pid:
            try:
                settle(assignment)
                if self._bag.cpus > 1:
                    os.environ.update({name: "none" for name in _BINDING if name not in os.environ})
                try:
                    os.execvp(command[0], command)
                except FileNotFoundError:
                    here = os.uname().nodename
                    sentence = f"{command[0]} is not on PATH on {here}: load it in the prologue of clusters.toml."
                    self._say(assignment.task, refusal("LauncherNotFound", sentence))
            finally:
                os._exit(_EXIT_NOT_FOUND)
        return pid

    def _say(self, task: TaskRow, words: Mapping[str, object]) -> None:
        said = {"ev": "said", "i": task.number, "n": task.attempt, "t": time.time(), **words}
        _write(self._bag, os.path.join(self._folder, "launcher.said"), said)

    def message(self, task: TaskRow, code: int) -> dict[str, Any]:  # Any: JSON
        """Return what became of the task, as the process of any other task would say it.

        Args:
            task: that was started last.
            code: how its launcher ended: its exit code, or a signal's number with a minus.
        """
        said = self._said()
        failures = sorted((words for words in said if words.get("st") != "ok"), key=lambda words: words["t"])
        if failures:
            return failures[0]
        returned = [words for words in said if words["rank"] == 0]
        if returned and code == 0:
            return returned[0]
        return {"i": task.number, "n": task.attempt, **refusal("RanksLost", self._lost(code, returned=bool(returned)))}

    def _lost(self, code: int, *, returned: bool) -> str:
        launch = self._bag.launch or ("",)
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by signal {-code}"
        what = "though rank 0 had returned" if returned else f"and none of the {self._bag.ntasks} ranks said why"
        hint = ""
        if launch[0] == "srun" and not any(word.startswith("--mpi=") for word in launch):
            hint = ' If MPI could not begin, set srun_mpi in clusters.toml to one of "srun --mpi=list".'
        return f"{launch[0]} {how}, {what}; what it wrote itself is in the task's stderr.{hint}"

    def _said(self) -> list[dict[str, Any]]:  # Any: JSON
        """Return what ranks have written, and remove it."""
        if self._bag.nfs:  # a change to the directory renews what this host believes is in it
            with contextlib.suppress(OSError):
                os.close(create_own(os.path.join(self._folder, "look")))
        found: list[dict[str, Any]] = []  # Any: JSON
        for name in sorted(os.listdir(self._folder)):
            path = os.path.join(self._folder, name)
            if name == "result" and os.path.getsize(path):
                continue
            if name.endswith(".said"):
                found += _read(self._bag, path, "said")
            os.unlink(path)
        with contextlib.suppress(OSError):  # a large result is in it
            os.rmdir(self._folder)
        return found


def run_rank(bag_path: str, key_file: str, name: str) -> int:
    """Be one rank: run the function and write down how it ended; return the exit code.

    Args:
        bag_path: where the bag is.
        key_file: the cluster's key.
        name: of the task's folder below ``data``.
    """
    try:
        bag = open_bag(bag_path, key_file)
    except RefusedBag as error:
        print(error, file=sys.stderr)
        return EXIT_REFUSED
    folder = os.path.join(bag.path, "data", os.path.basename(name))
    (order,) = _read(bag, os.path.join(folder, "order"), "order")
    write_lines_at_once()
    program = (bag.launch or ("",))[0]
    rank = rank_of(program, os.environ)
    if rank is None or rank >= bag.ntasks:
        print(f"{program} started a process that is none of {bag.ntasks} ranks: {rank}.", file=sys.stderr)
        return EXIT_REFUSED
    os.umask(order["umask"])
    first = rank == 0
    if not first:
        bag.inline_limit = sys.maxsize
    assignment = Assignment(
        task=TaskRow(*order["task"]),
        earlier={},
        outlet=Outlet(
            pipe=-1,
            message_limit=0,
            data=create_own(os.path.join(folder, "result")) if first else -1,
            data_name=f"data/{os.path.basename(folder)}/result",
        ),
        directory=order["directory"],
        umask=order["umask"],
        worker_pid=0,
        keeps_result=first,
    )
    words = outcome(bag, assignment, None)
    words.pop("mods", None)
    if words.get("st") == "ok" and (alone := _believes_to_be_alone(program, bag.ntasks)) is not None:
        words = {**{key: words[key] for key in ("i", "n", "took")}, **refusal("RanksApart", alone)}
    failed = words.get("st") != "ok"
    if failed:
        words = _as_of_rank(words, rank, bag.ntasks)
    flush_output()
    if failed or first:
        _write(bag, os.path.join(folder, f"{rank}.said"), {"ev": "said", "rank": rank, "t": time.time(), **words})
    if failed:
        os._exit(1)  # MPI_Finalize, at the end of this interpreter, would wait for the others
    return 0


def _as_of_rank(words: Mapping[str, Any], rank: int, size: int) -> dict[str, Any]:  # Any: JSON
    said = dict(words)
    if len(said.get("r", {}).get("b", "")) > _LARGEST_EXCEPTION:
        del said["r"]
    if "msg" in said:
        said["msg"] = f"Rank {rank} of {size}: {said['msg']}"
    if "tb" in said:
        said["tb"] = f"Rank {rank} of {size}, on {os.uname().nodename}:\n{said['tb']}"
    return said


def _believes_to_be_alone(program: str, size: int) -> str | None:
    """Return a sentence when MPI was used and does not know of the other ranks."""
    mpi: Any = sys.modules.get("mpi4py.MPI")  # Any: the user's mpi4py
    if mpi is None or not mpi.Is_initialized() or mpi.Is_finalized():
        return None
    seen = int(mpi.COMM_WORLD.Get_size())
    if seen == size:
        return None
    advice = (
        'set srun_mpi in clusters.toml to what its MPI speaks ("pmix", "pmi2": see "srun --mpi=list")'
        if program == "srun"
        else "load the mpirun of the MPI library that mpi4py was built with"
    )
    return f"{program} started {size} processes, and MPI sees {seen} of them: {advice}."


def _write(bag: BagDirectory, path: str, record: Mapping[str, object]) -> None:
    fd = create_own(path)
    try:
        append_all(fd, sign_line(record, bag.key))
        if bag.sync_s is not None:
            os.fsync(fd)
    finally:
        os.close(fd)


def _read(bag: BagDirectory, path: str, event: str) -> list[dict[str, Any]]:  # Any: JSON
    """Return the rightly signed records of a file; only those of one kind."""
    records, _, _ = read_lines(read_own(path), bag.key)
    return [record for record in records if record["ev"] == event]
