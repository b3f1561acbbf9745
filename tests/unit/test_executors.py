"""Executors with Covalent's names: what arguments become, what is said of others, and which cluster is meant."""

# a lattice is a function that calls electrons, however short

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import cloudpickle
import pytest

import hpcflow as ct
from hpcflow.core.model import Resources, Retries, UserError
from hpcflow.sdk.batch_options import from_job_attributes, from_resource_spec, from_slurm_options
from hpcflow.sdk.named_executor import NamedExecutor
from hpcflow.sdk.trace import Traced
from hpcflow.server.addressed import name_clusters, named

ex = ct.executor


def placed(executor: NamedExecutor) -> tuple[str | None, Resources, Retries]:
    """Return cluster, resources and retries of a task on an executor."""
    traced = ct.lattice(lambda: ct.electron(executor=executor)(len)("ab")).build_graph()
    task = traced.graph.tasks[0]
    return task.executor, task.resources, task.retries


def test_slurm_executors_say_what_sbatch_would_be_told_and_by_which_login() -> None:
    executor = ex.SlurmExecutor(
        username="me",
        address="hpc.uni.edu",
        options={"partition": "debug", "c": 4, "time": "00:10:00", "mem": "4G", "parsable": "", "nice": 100},
        time_limit=-1,
        retries=2,
    )

    cluster, resources, retries = placed(executor)

    assert cluster == "slurm:me@hpc.uni.edu"
    assert resources == Resources(cpus=4, memory_mib=4096, walltime_s=600, partition="debug", extra=("--nice=100",))
    assert retries == Retries(times=2, exceptions=("*",))


def test_an_annotation_goes_before_the_option_and_a_time_limit_acts() -> None:
    executor = ex.SlurmExecutor(options={"mem": "4G", "p": "long"}, memory="1 GiB", time_limit=90.5)

    _, resources, _ = placed(executor)

    assert (resources.memory_mib, resources.partition, resources.walltime_s) == (1024, "long", 91)
    with pytest.raises(UserError, match="SlurmExecutor: memory='1 G': 'G' means GB to some"):
        ex.SlurmExecutor(memory="1 G")
    with pytest.raises(UserError, match="time='soon' is no time limit as sbatch has them"):
        ex.SlurmExecutor(options={"time": "soon"})


def test_conda_variables_and_commands_become_the_environment_of_the_task() -> None:
    executor = ex.SlurmExecutor(
        conda_env="science",
        variables={"OMP_NUM_THREADS": "4", "NAME": "a'b"},
        bashrc_path="$HOME/.bashrc",
        prerun_commands=["module load gcc"],
    )

    env = executor.settings().defaults.env

    assert env is not None
    assert env.conda == "science"
    assert env.prologue.splitlines() == [
        "export OMP_NUM_THREADS=4",
        "export NAME='a'\"'\"'b'",
        '. "$HOME"/.bashrc',
        "module load gcc",
    ]
    with pytest.raises(UserError, match="'1A' is no name of an environment variable"):
        ex.SlurmExecutor(variables={"1A": ""})


def test_what_means_nothing_is_said_once_for_each_argument_and_silence_is_kept_of_the_rest() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ex.SlurmExecutor(ssh_key_file="~/.ssh/id_rsa", poll_freq=30, cleanup=False, options={"output": "x.log"})
        ex.SlurmExecutor(username="me", address="hpc", remote_workdir="work", use_srun=False)

    assert [str(warning.message) for warning in caught] == [
        "SlurmExecutor: ssh_key_file= changes nothing here: how a cluster is logged in to is written once, by "
        "`hpcflow clusters add` or in ~/.ssh/config.",
        "SlurmExecutor: poll_freq= changes nothing here: schedulers are asked for all tasks at once; a cluster's "
        "poll= in clusters.toml is how often.",
        "SlurmExecutor: options['output'] changes nothing here: what a task prints is in its result's stdout and "
        "stderr.".replace("options['output']", "options['output']="),
    ]
    assert {warning.filename for warning in caught} == {__file__}


def test_a_password_is_not_kept() -> None:
    with pytest.warns(UserWarning, match="no password is ever kept"):
        executor = ex.HPCExecutor(address="hpc", password="secret")

    assert "secret" not in str(executor.to_dict())


def test_psijs_words_become_annotations() -> None:
    executor = ex.HPCExecutor(
        address="login.site.gov",
        instance="pbspro",
        launcher="mpirun",
        resource_spec_kwargs={
            "node_count": 2, "processes_per_node": 4, "cpu_cores_per_process": 8, "gpu_cores_per_process": 1,
        },
        job_attributes_kwargs={"duration": 30, "queue_name": "prod", "project_name": "chem", "reservation_id": None},
    )  # fmt: skip

    cluster, resources, _ = placed(executor)

    assert cluster == "pbs:@login.site.gov"
    assert resources == Resources(nodes=2, ntasks=8, cpus=8, gpus=4, walltime_s=1800, partition="prod", account="chem")
    assert executor.settings().defaults.launcher == "mpirun"
    assert "prod" in repr(executor)
    with pytest.raises(UserError, match="instance='cobalt' must be one of slurm, pbspro, pbs, pbs_classic, lsf, local"):
        ex.HPCExecutor(instance="cobalt")


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("90", timedelta(minutes=90)),
        (90, timedelta(minutes=90)),
        ("1:30", timedelta(minutes=1, seconds=30)),
        ("01:00:00", timedelta(hours=1)),
        ("2-12", timedelta(days=2, hours=12)),
        ("2-12:30", timedelta(days=2, hours=12, minutes=30)),
        ("2-0:0:5", timedelta(days=2, seconds=5)),
    ],
)
def test_times_are_read_as_sbatch_reads_them(text: object, limit: timedelta) -> None:
    assert from_slurm_options({"t": text}).annotations == {"walltime": limit}


def test_options_without_an_annotation_are_handed_on_or_left_out_with_a_reason() -> None:
    done = from_slurm_options(
        {"gres": "gpu:2", "hint": "nomultithread", "exclusive": "", "d": "singleton", "J": "mine", "ntasks-per-node": 3,
         "N": 2}
    )  # fmt: skip
    typed = from_slurm_options({"gres": "gpu:a100:2"})
    spec = from_resource_spec({"exclusive_node_use": True, "memory": 2**21, "process_count": 3})
    attributes = from_job_attributes({"custom_attributes": {"slurm.constraint": "a100", "lsf.x": "y"}}, slurm=True)

    assert done.annotations == {"gpus": 2, "ntasks": 6, "nodes": 2}
    assert done.extra == ["--hint=nomultithread", "--exclusive", "-dsingleton"]
    assert done.left_out == {"J": "hpcflow sets it itself"}
    assert typed.extra == ["--gres=gpu:a100:2"]
    assert spec.annotations == {"memory": "2 MiB", "ntasks": 3}
    assert list(spec.left_out) == ["exclusive_node_use"]
    assert attributes.annotations == {"constraint": "a100"}
    assert list(attributes.left_out) == ["lsf.x"]


@pytest.mark.parametrize(
    ("make", "short"),
    [
        (lambda: ex.LocalExecutor(workdir="/tmp/w", retries=1), "local"),
        (lambda: ex.SlurmExecutor(options={"c": 2}), "slurm"),
        (lambda: ex.PBSExecutor(address="pbs.site", options={"q": "workq"}), "pbs"),
        (lambda: ex.LSFExecutor(options={"q": "normal", "B": ""}), "lsf"),
        (lambda: ex.SSHExecutor(hostname="box", username="me"), "ssh"),
        (lambda: ex.HPCExecutor(instance="lsf"), "hpc"),
        (lambda: ex.DaskExecutor(), "dask"),
    ],
)
def test_executors_go_to_dictionaries_and_come_back(make: Callable[[], NamedExecutor], short: str) -> None:
    executor = make()
    described = executor.to_dict()

    again = make().from_dict(described)
    sent = cloudpickle.loads(cloudpickle.dumps(executor))

    assert (executor.short_name(), described["short_name"]) == (short, short)
    assert described["attributes"] == executor.attributes
    assert again.settings() == executor.settings() == sent.settings()
    with pytest.raises(UserError, match="from_dict takes what to_dict returned"):
        executor.from_dict({})


def test_options_of_pbs_and_lsf_are_arguments_of_their_commands() -> None:
    options = {"q": "normal", "P": "chem", "R": "rusage[tmp=100]", "app": "dft", "x": ""}
    executor = ex.LSFExecutor(options=options, partition="long")

    assert executor.settings().cluster == "lsf:"
    # An option and its value in one text, as extra= has them on LSF.
    assert executor.settings().defaults.extra == ("-R rusage[tmp=100]", "-app dft", "-x")
    assert ex.PBSExecutor(options={"p": 100, "m": "n"}).settings().defaults.extra == ("-p100", "-mn")
    assert executor.settings().defaults.account == "chem"
    assert executor.settings().defaults.partition == "long"


@pytest.mark.parametrize(
    ("executor", "options", "near"),
    [
        (
            ex.SlurmExecutor,
            {"partion": "debug"},
            "sbatch has no option 'partion' that hpcflow knows; did you mean 'partition'",
        ),
        (
            ex.SlurmExecutor,
            {"cpus_per_task": 2},
            "no option 'cpus_per_task' that hpcflow knows; did you mean 'cpus-per-task'",
        ),
        (ex.SlurmExecutor, {"walltime": "10"}, "no option 'walltime' that hpcflow knows; did you mean 'time'"),
        (ex.LSFExecutor, {"queue": "normal"}, "bsub has no option 'queue' that hpcflow knows; did you mean 'q'"),
        (ex.LSFExecutor, {"datagrpp": "x"}, "bsub has no option 'datagrpp' that hpcflow knows; did you mean 'datagrp'"),
    ],
)
def test_an_option_that_is_close_to_a_real_one_is_doubted_before_anything_is_submitted_and_handed_on(
    executor: type[ex.SlurmExecutor | ex.LSFExecutor], options: dict[str, object], near: str
) -> None:
    with pytest.warns(UserWarning, match=near):
        made = executor(options=options)
    (name,) = options
    assert any(name in word for word in made.settings().defaults.extra or ())


def test_options_of_a_sites_plugins_are_handed_on_without_a_word() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ex.SlurmExecutor(options={"container-image": "a.sqsh", "site-cache": "warm", "bbf": "x"})
        ex.LSFExecutor(options={"site_cache": "warm"})
    assert made.settings().defaults.extra == ("--container-image=a.sqsh", "--site-cache=warm", "--bbf=x")


def test_qsub_has_no_long_options_so_one_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"options\['queue'\]: qsub's options have one letter; did you mean 'q'\?"):
        ex.PBSExecutor(options={"queue": "workq"})


def test_an_ssh_executor_needs_a_machine() -> None:
    assert ex.SSHExecutor(username="me", hostname="box").settings().cluster == "local:me@box"
    assert ex.SSHExecutor(cluster="box").settings().cluster == "box"
    with pytest.raises(UserError, match="SSHExecutor needs the machine"):
        ex.SSHExecutor(username="me")


def test_with_use_srun_several_ranks_run_the_function_each() -> None:
    assert ex.SlurmExecutor(use_srun=True, options={"n": 4}).settings().defaults.launcher == "srun"
    assert ex.SlurmExecutor(use_srun=True).settings().defaults.launcher is None
    assert ex.SlurmExecutor(options={"n": 4}).settings().defaults.launcher is None


# ---- which cluster


@dataclass(frozen=True)
class Table:
    scheduler: str
    host: str | None = None


CLUSTERS = {
    "local": Table("local"),
    "big": Table("slurm", "me@big.uni.edu"),
    "alias": Table("slurm", "perl"),
    "other": Table("pbs", "other.uni.edu"),
    "box": Table("local", "box"),
}


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("slurm:me@big.uni.edu", "big"),
        ("slurm:@BIG.uni.edu", "big"),
        ("slurm:you@perl.nersc.gov", "alias"),
        ("pbs:", "other"),
        ("local:@box", "box"),
        ("local:", "local"),
        (":@other.uni.edu", "other"),
    ],
)
def test_the_cluster_with_the_scheduler_and_the_host_is_meant(wanted: str, name: str) -> None:
    assert named(wanted, CLUSTERS) == name


def test_a_cluster_that_nobody_described_is_a_sentence_with_the_command_that_does() -> None:
    with pytest.raises(UserError) as none:
        named("slurm:you@big.uni.edu", CLUSTERS)
    with pytest.raises(UserError) as several:
        named("slurm:", CLUSTERS)
    with pytest.raises(UserError, match="There is no cluster under 'lsf'; `hpcflow clusters add NAME --scheduler lsf`"):
        named("lsf:", CLUSTERS)

    assert str(none.value) == (
        "There is no cluster under 'slurm' whose host is 'you@big.uni.edu'; `hpcflow clusters add NAME --scheduler "
        "slurm --host you@big.uni.edu` describes it, once. The clusters are alias, big, box, local, other."
    )
    assert str(several.value) == "Several clusters fit the executor 'slurm:': alias, big. Name one by cluster=."


def test_a_manifests_executors_become_names_of_clusters_and_stay_so() -> None:
    wanted = ["big", None, "pbs", "dask", "slurm:@perl", "nowhere"]
    manifest = {"shapes": [{"executor": each} for each in wanted]}

    name_clusters(manifest, CLUSTERS)
    name_clusters(manifest, {})

    assert [shape["executor"] for shape in manifest["shapes"]] == ["big", None, "other", "local", "alias", "nowhere"]


# ---- who wins


def tasks(traced: Traced) -> dict[str, tuple[str | None, str | None]]:
    return {task.name: (task.executor, task.resources.partition) for task in traced.graph.tasks}


def test_a_lattices_executor_holds_for_electrons_that_name_none_and_nothing_decorated_changes() -> None:
    own = ex.SlurmExecutor(cluster="big", options={"p": "own"})
    lattices = ex.SlurmExecutor(cluster="alias", options={"p": "lattices"})

    @ct.electron
    def follows() -> int:
        return 1

    @ct.electron(executor=own)
    def leads() -> int:
        return 2

    @ct.electron
    @ct.lattice
    def inner() -> int:
        return follows()

    def both() -> object:
        return follows(), leads(), inner()

    before = (follows.annotations, leads.annotations, inner.annotations)
    on_alias = ct.lattice(executor=lattices)(both).build_graph()
    on_local = ct.lattice(executor="local")(both).build_graph()

    assert tasks(on_alias) == {
        "follows": ("alias", "lattices"), "leads": ("big", "own"), "inner": ("alias", "lattices"),
    }  # fmt: skip
    assert tasks(on_local) == {"follows": ("local", None), "leads": ("big", "own"), "inner": ("local", None)}
    assert (follows.annotations, leads.annotations, inner.annotations) == before


def test_sublattices_hand_their_executor_down_and_build_where_workflow_executor_says() -> None:
    @ct.electron
    def deep() -> int:
        return 1

    @ct.electron(executor=ex.SlurmExecutor(cluster="big", partition="long"))
    @ct.lattice
    def inner() -> int:
        return deep()

    outer = ct.lattice(executor="alias", workflow_executor="local", memory="2 GiB")(lambda: inner())
    traced = outer.build_graph()
    built = cloudpickle.loads(traced.blobs[traced.graph.tasks[0].fn])

    (task,) = traced.graph.tasks
    assert (task.executor, task.resources.partition, task.sublattice) == ("local", None, True)
    assert built.annotations.cluster == "big"
    assert built.annotations.placed().resources.partition == "long"
    assert built.annotations.placed().resources.memory_mib == 2048
