"""What electrons and lattices may ask for, and who wins."""

# a lattice is a function that calls electrons, however short

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import hpcflow as hf
from hpcflow.core.model import Resources, Retries, UserError
from hpcflow.sdk.annotations import Annotations, ExecutorSettings
from hpcflow.sdk.options import LatticeOptions, parse_lattice_options, parse_options


def test_everything_an_electron_may_ask_for_reaches_its_task() -> None:
    @hf.electron(
        executor="slurm",
        nodes=2,
        ntasks=8,
        launcher="srun",
        isolation="interpreter",
        cpus=4,
        memory="8 GiB",
        gpus=1,
        walltime="30 min",
        partition="long",
        account="chem",
        qos="normal",
        constraint="[a|b] & c",
        reservation="school",
        licenses="matlab:2",
        exclude="n[1-3]",
        extra=["--nice=100", "--mail-type=END"],
        retries=2,
        accept_failed=True,
        on_cancelled="retry",
        max_running=5,
        workdir="/scratch/me",
    )
    def simulate() -> None: ...

    task = hf.lattice(lambda: simulate()).build_graph().graph.tasks[0]
    assert (task.executor, task.workdir) == ("slurm", "/scratch/me")
    assert (task.retries, task.accept_failed, task.on_cancelled) == (Retries(times=2), True, "retry")
    assert (task.max_running, task.launcher, task.isolation) == (5, "srun", "interpreter")
    assert task.resources == Resources(
        nodes=2,
        ntasks=8,
        cpus=4,
        memory_mib=8192,
        gpus=1,
        walltime_s=1800,
        partition="long",
        account="chem",
        qos="normal",
        constraint="[a|b] & c",
        reservation="school",
        licenses="matlab:2",
        exclude="n[1-3]",
        extra=("--nice=100", "--mail-type=END"),
    )


def test_a_misspelt_annotation_is_refused_with_the_nearest_name() -> None:
    options: dict[str, Any] = {"wall_time": "1 h"}
    with pytest.raises(UserError) as refused:

        @hf.electron(**options)
        def relax() -> None: ...

    assert str(refused.value).startswith(
        "The electron 'relax' has an unknown annotation 'wall_time'; did you mean 'walltime'? Known: executor, nodes,"
    )


def test_an_annotation_like_no_other_is_refused_with_all_names() -> None:
    with pytest.raises(UserError, match=r"unknown annotation 'colour'\. Known: .*, call_before, call_after, files\."):
        parse_options({"colour": 1}, "The electron 'f'")
    with pytest.raises(UserError, match=r"'colour'\. Known: .*, workflow_executor, max_failures, triggers\."):
        parse_lattice_options({"colour": 1}, "The lattice 'f'")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"cpus": 0}, "cpus=0 must be between 1 and 4096"),
        ({"cpus": 1.5}, "cpus=1.5 must be a whole number"),
        ({"cpus": True}, "cpus=True must be a whole number"),
        ({"cpus": "4"}, "cpus='4' must be a whole number"),
        ({"gpus": -1}, "gpus=-1 must be between 0 and 64"),
        ({"retries": 1000}, "retries=1000 must be between 0 and 100"),
        ({"retries": "3"}, "retries='3' must be a whole number"),
        ({"accept_failed": 1}, "accept_failed=1 must be True or False"),
        ({"on_cancelled": "resume"}, "on_cancelled='resume' must be 'pause' (wait for `hpcflow resume`) or 'retry'"),
        ({"on_cancelled": ["retry"]}, "on_cancelled=['retry'] must be 'pause'"),
        ({"max_failures": 3}, "max_failures belongs to the lattice"),
        ({"max_running": 0}, "max_running=0 must be between 1 and 1000000"),
        ({"nodes": 4, "ntasks": 2}, "nodes=4 needs ntasks of at least 4"),
        (
            {"isolation": "thread"},
            "isolation='thread' must be 'process' (each task has one of its own",
        ),
        ({"launcher": "mpiexec"}, "launcher='mpiexec' must be 'srun' or 'mpirun'; without it the function runs once"),
        ({"partition": ""}, "partition='' must be a text"),
        ({"partition": "a b"}, "must not hold white space"),
        ({"account": "--wrap=x"}, "must not begin with '-'"),
        ({"constraint": "a\nb"}, "control characters"),
        ({"executor": "my cluster"}, "is no cluster's name"),
        ({"executor": 3}, "must be a cluster's name"),
        ({"workdir": "scratch"}, "must be an absolute path"),
        ({"workdir": 3}, "must be an absolute path"),
        ({"extra": "--nice"}, r"must be a list of texts"),
        ({"extra": ["nice"]}, "begins with '-'"),
        ({"extra": ["--nice", "100"]}, "begins with '-'"),
        ({"extra": [3]}, "begins with '-'"),
    ],
)
def test_an_impossible_value_is_refused_where_it_is_written(options: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError, match=r"^The electron 'f': ") as refused:
        parse_options(options, "The electron 'f'")
    assert problem in str(refused.value)


# What each means is for its cluster's scheduler to say: -p is a priority of qsub's, -J a name of bsub's.
@pytest.mark.parametrize(
    "argument", ["--nice=100", "--exclusive", "--gres=lustre:1", "-H", "-p100", "-t 5", "-app dft"]
)
def test_further_arguments_pass_whichever_scheduler_they_are_for(argument: str) -> None:
    assert parse_options({"extra": [argument]}, "f").extra == (argument,)


def test_none_means_that_an_annotation_is_not_written() -> None:
    assert parse_options({"memory": None, "walltime": None}, "f") == Annotations()


def test_nodes_alone_mean_one_process_on_each() -> None:
    assert parse_options({"nodes": 4}, "f").placed().resources == Resources(nodes=4, ntasks=4)


def test_an_integer_of_numpy_is_a_whole_number() -> None:
    numpy = pytest.importorskip("numpy")
    assert parse_options({"cpus": numpy.int64(4)}, "f").cpus == 4


# ---- failures


class Diverged(ArithmeticError):
    """An exception of the user's own."""


def test_a_number_of_retries_means_the_usual_rules() -> None:
    assert parse_options({"retries": 3}, "f").retries == hf.Retries(3)
    assert hf.Retries(3) == Retries(times=3, memory=2.0, walltime=2.0, exceptions=())


def test_exceptions_are_known_by_their_own_names() -> None:
    own = hf.Retries(1, exceptions=[OSError, Diverged, "TimeoutError", "IOError", OSError])
    assert own.exceptions == ("OSError", "Diverged", "TimeoutError")
    assert hf.Retries(1, exceptions=Diverged).exceptions == ("Diverged",)
    assert hf.Retries(1, exceptions="Diverged").exceptions == ("Diverged",)
    assert hf.Retries(1, exceptions=True).exceptions == ("*",)


@pytest.mark.parametrize(
    ("rules", "problem"),
    [
        ({"times": -1}, "retries=-1 must be between 0 and 100"),
        ({"times": 101}, "retries=101 must be between 0 and 100"),
        ({"times": True}, "retries=True must be a whole number"),
        ({"memory": 0.5}, "retries: memory=0.5 must be between 1 (ask for the same again) and 16"),
        ({"memory": 17}, "retries: memory=17 must be between 1"),
        ({"walltime": float("nan")}, "retries: walltime=nan must be between 1"),
        ({"walltime": "2 h"}, "retries: walltime='2 h' must be a number: how many times"),
        ({"memory": True}, "retries: memory=True must be a number"),
        ({"exceptions": ["os.error"]}, "'os.error' in exceptions= is no exception"),
        ({"exceptions": [list]}, "<class 'list'> in exceptions= is no exception"),
        ({"exceptions": ["print"]}, "'print' in exceptions= is no exception"),
        ({"exceptions": [OSError()]}, "OSError() in exceptions= is no exception"),
        ({"exceptions": False}, "False in exceptions= is no exception"),
    ],
)
def test_an_impossible_rule_is_refused_where_it_is_written(rules: dict[str, Any], problem: str) -> None:
    rules = {"times": 1, **rules}
    with pytest.raises(UserError) as refused:
        hf.Retries(**rules)
    assert problem in str(refused.value)


def test_every_annotation_of_a_lattice_but_three_is_an_electrons() -> None:
    known: dict[str, Any] = dict.fromkeys(LatticeOptions.__annotations__)
    assert parse_lattice_options(known, "The lattice 'f'") == Annotations()
    del known["max_failures"], known["workflow_executor"], known["triggers"]
    assert parse_options(known, "The electron 'f'") == Annotations()


def test_the_number_of_failures_belongs_to_the_lattice_that_is_dispatched() -> None:
    step = hf.electron(len)
    inner = hf.lattice(max_failures=7)(lambda: step([]))
    outer = hf.lattice(lambda: inner())
    assert inner.build_graph().graph.max_failures == 7
    assert outer.build_graph().graph.max_failures is None
    assert outer.with_options(max_failures=0).build_graph().graph.max_failures == 0


def test_how_many_run_at_once_is_a_lattices_own_and_an_electrons_own() -> None:
    single = hf.electron(max_running=1)(len)
    free = hf.electron(len)
    inner = hf.lattice(max_running=3)(lambda: [single([]), free([])])
    outer = hf.lattice(max_running=9, cpus=2)(lambda: [single([]), free([]), inner()])
    graph = outer.build_graph().graph
    assert graph.max_running == 9
    assert [task.max_running for task in graph.tasks] == [1, None, 1, None]
    assert inner.build_graph().graph.max_running == 3
    assert single.with_options(cpus=4).annotations.max_running == 1
    with pytest.raises(
        UserError, match=r"executor\.Local: max_running belongs to an electron, a lattice, or a cluster"
    ):
        hf.executor.Local(max_running=3)


def test_what_follows_a_failure_is_inherited_as_all_else() -> None:
    careful = hf.electron(retries=1, on_cancelled="pause")(len)
    plain = hf.electron(len)

    @hf.lattice(retries=hf.Retries(5, memory=1), accept_failed=True, on_cancelled="retry")
    def flow() -> list[int]:
        return [careful([]), plain([])]

    seen = [(task.retries, task.accept_failed, task.on_cancelled) for task in flow.build_graph().graph.tasks]
    assert seen == [(Retries(times=1), True, "pause"), (Retries(times=5, memory=1.0), True, "retry")]


# ---- inheritance


def placed(own: dict[str, Any], of_lattice: dict[str, Any]) -> tuple[str | None, Resources]:
    electron = hf.electron(**own)(len)
    task = hf.lattice(**of_lattice)(lambda: electron([])).build_graph().graph.tasks[0]
    return task.executor, task.resources


def test_an_electron_inherits_what_it_leaves_open() -> None:
    assert placed({"cpus": 2}, {"executor": "slurm", "cpus": 8, "walltime": "1 h"}) == (
        "slurm",
        Resources(cpus=2, walltime_s=3600),
    )


def test_a_partition_is_not_inherited_on_another_cluster() -> None:
    of_lattice = {"executor": "slurm", "partition": "long", "account": "chem", "cpus": 8}
    assert placed({"executor": "local"}, of_lattice) == ("local", Resources(cpus=8))
    assert placed({"executor": "slurm"}, of_lattice) == ("slurm", Resources(cpus=8, partition="long", account="chem"))


def test_an_executors_defaults_are_the_weakest() -> None:
    debug = hf.executor.Slurm(partition="debug", walltime="10 min", cpus=2)
    assert placed({"executor": debug}, {"walltime": "1 h"}) == (
        "slurm",
        Resources(partition="debug", walltime_s=3600, cpus=2),
    )
    assert placed({"partition": "long"}, {"executor": debug}) == (
        "slurm",
        Resources(partition="long", walltime_s=600, cpus=2),
    )


@pytest.mark.parametrize("maker", [hf.executor.Slurm, hf.executor.Pbs, hf.executor.Lsf, hf.executor.Local])
def test_an_executor_names_its_schedulers_cluster_or_another(maker: Callable[..., ExecutorSettings]) -> None:
    assert placed({"executor": maker(cpus=2)}, {}) == (maker.__name__.lower(), Resources(cpus=2))
    assert placed({"executor": maker(cluster="site")}, {})[0] == "site"


def test_defaults_of_the_lattices_executor_do_not_follow_to_another_cluster() -> None:
    debug = hf.executor.Slurm(partition="debug", walltime="10 min")
    assert placed({"executor": hf.executor.Local()}, {"executor": debug}) == ("local", Resources())


def test_an_electron_keeps_its_own_values_in_every_lattice() -> None:
    @hf.electron
    def step() -> None: ...

    long = hf.lattice(walltime="2 h")(lambda: step())
    short = hf.lattice(walltime=timedelta(minutes=1))(lambda: step())
    seen = [graph.build_graph().graph.tasks[0].resources.walltime_s for graph in (long, short, long)]
    assert seen == [7200, 60, 7200]
    assert step.annotations == Annotations()


def test_options_make_another_electron_and_leave_the_first_alone() -> None:
    @hf.electron(cpus=2)
    def step() -> int:
        return 1

    large = step.with_options(memory="8 GiB")
    assert (large.annotations, step.annotations) == (Annotations(cpus=2, memory_mib=8192), Annotations(cpus=2))
    assert large() == 1


def test_a_lattice_inside_another_goes_before_it() -> None:
    step = hf.electron(len)
    inner = hf.lattice(cpus=4)(lambda: step([]))

    @hf.lattice(cpus=2, walltime="1 h")
    def outer() -> list[object]:
        return [step([]), inner(), step([])]

    tasks = outer.build_graph().graph.tasks
    assert [task.resources for task in tasks] == [
        Resources(cpus=2, walltime_s=3600),
        Resources(cpus=4, walltime_s=3600),
        Resources(cpus=2, walltime_s=3600),
    ]


def test_too_few_processes_after_inheritance_are_refused_by_name() -> None:
    with pytest.raises(UserError, match=r"electron 'len' in the lattice 'lambda': nodes=4 needs ntasks of at least 4"):
        placed({"nodes": 4}, {"ntasks": 2})


def test_an_executor_has_no_executor() -> None:
    options: dict[str, Any] = {"executor": "slurm"}
    misspelt: dict[str, Any] = {"partitoin": "x"}
    with pytest.raises(UserError, match=r"executor\.Slurm: an executor has no executor of its own"):
        hf.executor.Slurm(**options)
    with pytest.raises(UserError, match=r"executor\.Slurm has an unknown annotation 'partitoin'; did you mean"):
        hf.executor.Slurm(**misspelt)
