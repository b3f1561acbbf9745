"""What a queue's answers mean: a real Slurm's as recorded, those of PBS's and LSF's doubles as they come."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcflow.core.model import Phase, Stuck
from hpcflow.core.plugin import Plugin, Reply
from hpcflow.core.queue import NodeState, QueuedJob, QueueView
from hpcflow_local import LocalPlugin
from hpcflow_lsf import LsfPlugin
from hpcflow_pbs import PbsPlugin
from hpcflow_slurm import SlurmPlugin
from tests.fakes.double import Double, running
from tests.integration.world import until
from tests.unit.damage import EXAMPLES, TEXT, cuts, damaged
from tests.unit.transcripts import a_reply, recorded

PLACES: Final[Mapping[str, str]] = {"python": "/usr/bin/python3", "worker": "/home/ada/w.pyz", "root": "/home/ada/r"}
SLURM, PBS, LSF, LOCAL = (each(**PLACES) for each in (SlurmPlugin, PbsPlugin, LsfPlugin, LocalPlugin))
PLUGINS: Final[Mapping[str, Plugin]] = {"slurm": SLURM, "pbs": PBS, "lsf": LSF, "local": LOCAL}
MARK: Final = "=== hpcflow 5c1f27e0 ===\n"


def of(view: QueueView) -> dict[tuple[str, str | None, Phase], QueuedJob]:
    assert view.jobs is not None
    return {(job.job_id, job.indices, job.phase): job for job in view.jobs}


def asked(double: Double, plugin: Plugin) -> list[Reply]:
    """Ask a double what the plugin asks."""
    replies: list[Reply] = []
    for command in plugin.queue():
        words = ("/bin/sh", *command.argv[1:]) if command.argv[0] == "sh" else command.argv
        done = double.run(*words, cwd=None, **command.environment)
        replies.append(a_reply(done.stdout, done.stderr, done.returncode))
    return replies


# ---- Slurm, as recorded


def slurm() -> list[Reply]:
    return [recorded("slurm", "queue", "JOBS"), recorded("slurm", "queue", "NODES")]


def test_slurms_queue_is_two_commands_and_never_expands_arrays() -> None:
    squeue, sinfo = SLURM.queue()

    assert "--array" not in " ".join(squeue.argv)
    assert "squeue" in squeue.argv[2] and "sinfo" in sinfo.argv[2]


def test_slurms_jobs_are_everybodys_with_what_they_ask_for_and_why_they_wait() -> None:
    view = SLURM.parse_queue(slurm())
    jobs = of(view)

    assert view.problems == ()
    assert view.user == "hpc"
    assert len(jobs) == 19
    array = jobs["1", "2-9%2", Phase.PENDING]
    assert (array.name, array.tasks, array.cores, array.walltime_s) == ("relax-01JQ", 8, 4, 1800)
    assert (array.reason, array.why) == (
        "JobArrayTaskLimit",
        "Waits for others of its array: no more of them may run at once",
    )
    assert (array.account, array.partition, array.ahead) == ("proj", "batch", None)
    assert jobs["2", None, Phase.RUNNING].gpus == 4
    assert jobs["2", None, Phase.RUNNING].hosts == "node[3-4]"
    assert jobs["9", None, Phase.RUNNING].name == "two words|and a bar"
    assert {job.user for job in jobs.values() if job.name == "roots"} == {"root"}


def test_what_slurm_says_of_nodes_is_told_by_the_nodes_that_the_job_may_use() -> None:
    jobs, (_, sinfo) = of(SLURM.parse_queue(slurm())), slurm()
    unknown = of(SLURM.parse_queue([slurm()[0], replace(sinfo, exit_code=1)]))

    assert jobs["12", None, Phase.PENDING].why == (
        "Waits for nodes: 1 of the 5 of batch and flaky is down or drained; the others are too few for it, or kept for "
        "jobs that go first"
    )
    assert unknown["12", None, Phase.PENDING].why == NODES_UNKNOWN
    # In line with the others of its partitions, of which one goes first.
    assert (jobs["12", None, Phase.PENDING].ahead, jobs["11", "3,5,7", Phase.PENDING].ahead) == (0, 0)


def test_slurms_estimates_name_their_source() -> None:
    jobs = of(SLURM.parse_queue(slurm()))

    planned, later = jobs["11", "3,5,7", Phase.PENDING], jobs["7", None, Phase.PENDING]
    assert (planned.starts_at, planned.starts_from) == (datetime.fromtimestamp(1795714800, UTC), "scheduler")
    assert (later.starts_at, later.starts_from) == (datetime.fromtimestamp(1795718085, UTC), "begin time")
    assert (jobs["6", None, Phase.PENDING].starts_at, jobs["6", None, Phase.PENDING].starts_from) == (None, None)
    assert (jobs["3", None, Phase.PENDING].stuck, jobs["8", None, Phase.PENDING].stuck) == (Stuck.HELD, Stuck.NEVER)


def test_slurms_partitions_count_nodes_and_jobs() -> None:
    view = SLURM.parse_queue(slurm())
    partitions = {partition.name: partition for partition in view.partitions}

    batch = partitions["batch"]
    assert (batch.is_default, partitions["debug"].is_default, batch.open, batch.max_walltime_s) == (
        False,
        True,
        True,
        172800,
    )
    assert batch.nodes == {NodeState.MIXED: 3, NodeState.ALLOCATED: 1}
    assert (batch.cores, batch.cores_used) == (64, 16)
    assert (batch.running, batch.running_mine) == (9, 5)
    assert (batch.pending, batch.pending_mine) == (14, 14)
    assert view.nodes is not None
    (drained,) = [node for node in view.nodes if node.name == "node4"]
    assert (drained.raw, drained.reason, drained.gpus) == ("draining", "bad disk | replaced soon", 4)
    assert drained.partitions == ("debug", "batch")


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("idle", NodeState.IDLE),
        ("idle~", NodeState.IDLE),
        ("idle*", NodeState.DOWN),
        ("mixed-", NodeState.MIXED),
        ("drained", NodeState.DOWN),
        ("down*", NodeState.DOWN),
        ("idle$", NodeState.RESERVED),
        ("mixed^", NodeState.DOWN),
        ("wobbling", NodeState.UNKNOWN),
    ],
)
def test_slurms_node_states_have_their_meaning(word: str, state: NodeState) -> None:
    line = f"n1|gpu*|up|infinite|{word}|0/16/0/16|32000|(null)|none\n{MARK}"

    nodes = SLURM.parse_queue([a_reply("ada\n" + MARK), a_reply(line)]).nodes

    assert nodes is not None
    (node,) = nodes
    assert (node.state, node.raw, node.reason) == (state, word, None)


def test_a_row_that_cant_be_read_is_said_and_nothing_is_counted() -> None:
    jobs, nodes = slurm()
    broken = jobs.stdout.replace(b"11_[3,5,7]|PENDING", b"11_[3,5,7]|PENDI\xff")

    view = SLURM.parse_queue([a_reply(broken), nodes])

    assert view.problems == ("squeue printed 1 row that can't be read.",)
    assert {partition.pending for partition in view.partitions} == {None}
    assert len(view.jobs or ()) == 18


def test_a_suspended_job_is_no_running_one_in_any_schedulers_words(pbs: list[Reply], lsf: list[Reply]) -> None:
    squeue, sinfo = slurm()
    row = next(line for line in squeue.stdout.split(b"\n") if line.startswith(b"2|RUNNING|"))
    slurms = [replace(squeue, stdout=squeue.stdout.replace(row, row.replace(b"RUNNING", b"SUSPENDED"))), sinfo]
    pbss = [replace(pbs[0], stdout=re.sub(rb'("job_state":\s*)"R"', rb'\1"S"', pbs[0].stdout)), pbs[1]]
    lsfs = [replace(lsf[0], stdout=re.sub(rb'("STAT":\s*)"RUN"', rb'\1"SSUSP"', lsf[0].stdout)), lsf[1]]

    for plugin, replies, key, raw in (
        (SLURM, slurms, ("2", None), "SUSPENDED"),
        (PBS, pbss, ("1", None), "S"),
        (LSF, lsfs, ("2", "1"), "SSUSP"),
    ):
        job = of(plugin.parse_queue(replies))[*key, Phase.RUNNING]
        assert (job.suspended, job.raw, (job.why or "")[:12]) == (True, raw, "Is suspended")
        before = [slurm(), pbs, lsf][[SLURM, PBS, LSF].index(plugin)]
        assert not any(each.suspended for each in of(plugin.parse_queue(before)).values())


def test_without_one_of_two_answers_the_other_is_told() -> None:
    jobs, nodes = slurm()
    down = a_reply("", "slurm_load_jobs error: Unable to contact slurm controller", 1)

    blind = SLURM.parse_queue([down, nodes])
    idle = SLURM.parse_queue([jobs, down])

    assert (blind.jobs, len(blind.nodes or ()), blind.partitions[0].pending) == (None, 5, None)
    assert blind.problems == ("squeue ended with 1: slurm_load_jobs error: Unable to contact slurm controller.",)
    assert (len(idle.jobs or ()), idle.nodes, idle.partitions) == (19, None, ())


# ---- PBS and LSF, by their doubles


QSUB: Final = ("qsub", "-l", "select=1:ncpus=2", "-l", "walltime=600", "-N")
BSUB: Final = ("bsub", "-n", "2", "-W", "10", "-J")


@pytest.fixture(scope="module")
def pbs(tmp_path_factory: pytest.TempPathFactory) -> list[Reply]:
    """Four cores: two jobs of mine run, an array waits, one is held, one can't ever run, bob's waits."""
    with running("pbs", tmp_path_factory.mktemp("pbs") / "double", cores=4, first=1) as double:
        double.set(plan_s=3600.0)
        double.run(*QSUB, "first", "-A", "chem", "--", "/bin/sleep", "300")
        double.run(*QSUB, "arr", "-J", "0-9%5", stdin="sleep 300\n")
        until(lambda: "Running:1" in double.run("qstat", "-f", "2[]").stdout)
        double.run(*QSUB, "held", "-h", "--", "/bin/sleep", "300")
        double.run("qsub", "-l", "select=1:ncpus=500", "-N", "never", "--", "/bin/true")
        double.run(*QSUB, "theirs", "--", "/bin/sleep", "300")
        double.run("qsub", "-q", "closed", "--", "/bin/true")
        double.control(do="give", job=5, user="bob")
        return asked(double, PBS)


@pytest.fixture(scope="module")
def lsf(tmp_path_factory: pytest.TempPathFactory) -> list[Reply]:
    """The same on LSF, where nothing is refused for being too large here."""
    with running("lsf", tmp_path_factory.mktemp("lsf") / "double", cores=4, first=1) as double:
        double.set(plan_s=3600.0)
        double.run(*BSUB, "first", "sleep", "300")
        double.run(*BSUB, "arr[1-10]", "sleep", "300")
        until(lambda: "RUN" in double.run("bjobs", "2[1]").stdout)
        double.run(*BSUB, "held", "-H", "sleep", "300")
        double.run(*BSUB, "theirs", "-q", "short", "sleep", "300")
        double.control(do="give", job=4, user="bob")
        return asked(double, LSF)


def test_pbs_shows_an_array_as_what_runs_and_what_waits(pbs: list[Reply]) -> None:
    view = PBS.parse_queue(pbs)
    jobs = of(view)

    assert view.problems == ()
    assert {key[0] for key in jobs} == {"1", "2", "3", "4", "5"}
    first, runs, waits = (
        jobs["1", None, Phase.RUNNING],
        jobs["2", None, Phase.RUNNING],
        jobs["2", "1-9%5", Phase.PENDING],
    )
    assert (first.account, first.hosts, first.cores, first.nodes, first.walltime_s) == ("chem", "pbs01", 2, 1, 600)
    assert (runs.tasks, waits.tasks) == (1, 9)
    assert jobs["5", None, Phase.PENDING].user == "bob"
    assert jobs["5", None, Phase.PENDING].why == "Waits for enough cores to become free"
    assert (jobs["5", None, Phase.PENDING].reason or "").startswith(
        "Not Running: Insufficient amount of resource: ncpus"
    )


def test_pbs_says_what_is_held_and_what_never_starts_and_its_own_estimates(pbs: list[Reply]) -> None:
    jobs = of(PBS.parse_queue(pbs))

    held, never, theirs = jobs["3", None, Phase.PENDING], jobs["4", None, Phase.PENDING], jobs["5", None, Phase.PENDING]
    assert (held.stuck, held.why, held.reason) == (Stuck.HELD, "Is held by you", "Hold_Types=u")
    assert (never.stuck, never.why) == (Stuck.NEVER, "Never starts: asks for more cores than there is")
    assert theirs.submitted_at is not None and theirs.starts_at is not None
    assert (theirs.starts_at - theirs.submitted_at).total_seconds() == 3600
    assert (theirs.starts_from, held.starts_from) == ("scheduler", None)


def test_pbs_counts_its_queues_and_nodes(pbs: list[Reply]) -> None:
    view = PBS.parse_queue(pbs)
    queues = {partition.name: partition for partition in view.partitions}

    assert set(queues) == {"workq", "short", "closed", "stopped"}
    assert (queues["closed"].open, queues["closed"].raw) == (False, "not enabled, started")
    assert (queues["short"].open, queues["short"].max_walltime_s) == (True, 600)
    workq = queues["workq"]
    assert (workq.running, workq.running_mine, workq.pending, workq.pending_mine) == (2, 2, 12, 11)
    assert workq.nodes == {NodeState.ALLOCATED: 1}
    assert (workq.cores, workq.cores_used) == (4, 4)


def test_queues_of_pbs_have_the_nodes_that_carry_their_label() -> None:
    places = (
        f"ada\n{MARK}"
        '{\n"Queue":{"cpu":{"default_chunk":{"Qlist":"cpu"},"enabled":"True","started":"True"},'
        '"gpu":{"default_chunk":{"Qlist":"gpu","ncpus":1}},"way":{"queue_type":"Route"},"own":{}}}\n'
        f"{MARK}"
        '{\n"nodes":{"c1":{"state":"free","resources_available":{"Qlist":"cpu,system","ncpus":128}},'
        '"g1":{"state":"job-exclusive","resources_available":{"Qlist":"gpu","ncpus":64,"ngpus":4}},'
        '"o1":{"state":"down,offline","comment":"broken fan","queue":"own"},'
        '"r1":{"state":"wobbling","resources_available":{"Qlist":"gpu,cpu"},"resources_assigned":{"ncpus":2}}}}\n'
        f"{MARK}"
    )

    view = PBS.parse_queue([a_reply('{\n\t"pbs_version":\t"23.06.06"\n}\n'), a_reply(places)])

    assert {node.name: (node.partitions, node.state) for node in view.nodes or ()} == {
        "c1": (("cpu",), NodeState.IDLE),
        "g1": (("gpu",), NodeState.ALLOCATED),
        "o1": (("own",), NodeState.DOWN),
        "r1": (("cpu", "gpu"), NodeState.UNKNOWN),
    }
    assert [partition.open for partition in view.partitions] == [True, None, None, None]
    assert [node.reason for node in view.nodes or ()] == [None, None, "broken fan", None]


def test_a_site_that_hides_its_nodes_still_shows_jobs(pbs: list[Reply]) -> None:
    queues = pbs[1].stdout.decode().split(MARK)
    hidden = MARK.join([queues[0], queues[1], "", ""])

    view = PBS.parse_queue([pbs[0], a_reply(hidden, "pbsnodes: Unauthorized Request")])

    assert (view.nodes, view.partitions[0].nodes, view.partitions[0].pending) == (None, None, 12)
    assert view.problems == ("pbsnodes told of no nodes: the site hides them, or its answer was damaged.",)


def test_lsf_puts_elements_together_that_wait_for_the_same(lsf: list[Reply]) -> None:
    view = LSF.parse_queue(lsf)
    jobs = of(view)

    assert view.problems == ()
    assert set(jobs) == {
        ("1", None, Phase.RUNNING),
        ("2", "1", Phase.RUNNING),
        ("2", "2-10", Phase.PENDING),
        ("3", None, Phase.PENDING),
        ("4", None, Phase.PENDING),
    }
    waits = jobs["2", "2-10", Phase.PENDING]
    assert (waits.tasks, waits.name, waits.cores, waits.walltime_s, waits.partition) == (9, "arr", 2, 600, "normal")
    assert (waits.why, waits.reason) == (
        "Was not looked at yet: the scheduler's next round will",
        "New job is waiting for scheduling;",
    )
    assert (jobs["3", None, Phase.PENDING].stuck, jobs["3", None, Phase.PENDING].why) == (Stuck.HELD, "Is held by you")
    assert waits.starts_at is not None and waits.submitted_at is not None
    assert (waits.starts_at - waits.submitted_at).total_seconds() == 3600


def test_lsf_counts_its_queues_and_hosts(lsf: list[Reply]) -> None:
    view = LSF.parse_queue(lsf)
    queues = {partition.name: partition for partition in view.partitions}

    assert (queues["short"].max_walltime_s, queues["normal"].max_walltime_s) == (600, None)
    assert (queues["short"].open, queues["short"].raw) == (True, "Open:Active")
    normal, short = queues["normal"], queues["short"]
    assert (normal.running, normal.pending, normal.pending_mine) == (2, 10, 10)
    assert (short.pending, short.pending_mine) == (1, 0)
    assert normal.nodes == short.nodes == {NodeState.ALLOCATED: 1}
    assert [(node.name, node.cores, node.cores_used) for node in view.nodes or ()] == [("vm", 4, 4)]


def test_hosts_behind_a_group_are_of_no_queue_that_is_known(lsf: list[Reply]) -> None:
    grouped = lsf[1].stdout.replace(b"HOSTS:  all hosts used by the LSF Batch system", b"HOSTS:  gpus/ n1", 1)

    view = LSF.parse_queue([lsf[0], a_reply(grouped)])

    assert [partition.nodes for partition in view.partitions] == [None, None]
    assert [node.partitions for node in view.nodes or ()] == [None]


def test_a_queue_without_jobs_is_empty_and_not_unknown() -> None:
    nobody = a_reply("", "No unfinished job found\n", 255)
    nothing = a_reply("", "", 1)

    assert LSF.parse_queue([nobody, nothing]).jobs == ()
    assert PBS.parse_queue([a_reply('{\n\t"pbs_version":\t"23.06.06"\n}\n'), nothing]).jobs == ()
    assert SLURM.parse_queue([a_reply(f"ada\n{MARK}"), nothing]).jobs == ()


# ---- local


TASK: Final[Mapping[str, Any]] = {"raw": "waits for cores or memory", "started_at": None}  # Any: JSON
HERE: Final[Mapping[str, Any]] = {  # Any: JSON
    "host": "here",
    "user": "ada",
    "cores": 4,
    "memory_mib": 8000,
    "arrays": [
        {
            "token": "relax-01JD",
            "job_id": "17",
            "cpus": 2,
            "submitted_at": 1790000000.0,
            "tasks": [
                {**TASK, "index": 0, "phase": "ended"},
                {**TASK, "index": 1, "phase": "running", "started_at": 1790000001.0},
                *({**TASK, "index": index, "phase": "pending"} for index in (2, 3, 5)),
            ],
        }
    ],
}


def test_this_machine_is_a_queue_of_one_node() -> None:
    view = LOCAL.parse_queue([a_reply(json.dumps(HERE))])

    assert {(key[1], job.tasks, job.cores) for key, job in of(view).items()} == {("1", 1, 2), ("2-3,5", 3, 2)}
    assert of(view)["17", "2-3,5", Phase.PENDING].why == "Waits for cores or memory"
    (machine,) = view.partitions
    assert (machine.nodes, machine.cores, machine.cores_used) == ({NodeState.MIXED: 1}, 4, 2)
    assert (machine.running_mine, machine.pending_mine) == (1, 3)


def test_without_an_answer_this_machine_is_unknown() -> None:
    view = LOCAL.parse_queue([Reply(None, b"", b"no time")])

    assert (view.jobs, view.nodes) == (None, None)
    assert view.problems == ("The local scheduler did not end: no time",)


# ---- size


def test_ten_thousand_jobs_are_read_in_little_time(pbs: list[Reply], lsf: list[Reply]) -> None:
    many = 10_000
    row = b"%d_[2-9%%2]|PENDING|Priority|batch|proj|u%d|1|4|N/A|30:00|1795714485|N/A|%d||relax\n"
    squeue = b"ada\n" + b"".join(row % (i, i % 50, i) for i in range(1, many)) + MARK.encode()
    record = json.loads(pbs[0].stdout)["Jobs"]["5.pbs01"]
    qstat = json.dumps({"pbs_version": "23", "Jobs": {f"{i}.pbs01": record for i in range(1, many)}})
    element = json.loads(lsf[0].stdout)["RECORDS"][-1]
    bjobs = {"COMMAND": "bjobs", "JOBS": many, "RECORDS": [{**element, "JOBID": str(i + 1)} for i in range(many)]}
    answers: list[tuple[Plugin, bytes, Reply]] = [
        (SLURM, squeue, slurm()[1]),
        (PBS, b"{\n" + qstat[1:].encode(), pbs[1]),
        (LSF, b"{\n" + json.dumps(bjobs)[1:].encode(), lsf[1]),
    ]
    for plugin, stdout, places in answers:
        began = os.times()
        view = plugin.parse_queue([a_reply(stdout), places])
        ended = os.times()

        assert len(view.jobs or ()) >= many - 1, plugin.name
        assert view.problems == (), plugin.name
        assert ended.user - began.user < 2.0, plugin.name


# ---- damage

#: Why a job waits whose nodes are not known.
NODES_UNKNOWN = "Waits for nodes: some that it needs are down or drained, or kept for jobs that go first"


def _same(job: QueuedJob, truth: QueueView) -> bool:
    """Say whether a job is one of the true ones, or some array tasks of one.

    The line before it is known only of a whole answer, and its name is the user's own words.
    """
    names = {field.name for field in fields(QueuedJob)} - {"ahead", "name", "indices", "tasks"}
    sure = {"job_id", "user", "partition", "phase", "raw", "reason", "stuck"}
    return any(
        all(getattr(job, name) == getattr(true, name) for name in sure)
        and job.why in {true.why, *([NODES_UNKNOWN] if (true.why or "").startswith("Waits for nodes:") else [])}
        and all(getattr(job, name) in (getattr(true, name), None) for name in names - sure - {"why"})
        and job.ahead in {true.ahead, None}
        and (job.indices == true.indices or _indices(job.indices) <= _indices(true.indices))
        for true in truth.jobs or ()
    )


def _indices(text: str | None) -> set[int]:
    found: set[int] = set()
    for span in (text or "").partition("%")[0].split(","):
        first, _, last = span.partition("-")
        found |= set(range(int(first), int(last or first) + 1)) if first else set()
    return found


def check(plugin: Plugin, replies: Sequence[Reply], truth: QueueView) -> None:
    """Whatever is left of an answer is the truth, or nothing; counts are all or nothing."""
    view = plugin.parse_queue(replies)
    for job in view.jobs or ():
        assert _same(job, truth), job
    nodes = {node.name: node for node in truth.nodes or ()}
    for node in view.nodes or ():
        true = nodes[node.name]
        assert replace(node, reason=true.reason, partitions=true.partitions) == true
        assert node.partitions in {true.partitions, None}
    known = {partition.name: partition for partition in truth.partitions}
    for partition in view.partitions:
        for name in ("open", "max_walltime_s", "nodes", "cores", "cores_used", "pending", "running"):
            assert getattr(partition, name) in (getattr(known[partition.name], name), None), name
    assert view.user in {truth.user, None}


@pytest.fixture(scope="module")
def known(pbs: list[Reply], lsf: list[Reply]) -> Mapping[str, list[Reply]]:
    return {"slurm": slurm(), "pbs": pbs, "lsf": lsf, "local": [a_reply(json.dumps(HERE, indent=1) + "\n")]}


@pytest.mark.parametrize("name", PLUGINS)
def test_an_answer_cut_at_every_byte_is_true_or_unknown(known: Mapping[str, list[Reply]], name: str) -> None:
    whole, plugin = known[name], PLUGINS[name]
    truth = plugin.parse_queue(whole)
    for which, reply in enumerate(whole):
        for cut in cuts(reply.stdout, 500):
            check(plugin, [a_reply(cut) if place == which else each for place, each in enumerate(whole)], truth)


@pytest.mark.parametrize("name", PLUGINS)
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_a_damaged_answer_is_true_or_unknown(known: Mapping[str, list[Reply]], name: str, data: st.DataObject) -> None:
    whole, plugin = list(known[name]), PLUGINS[name]
    truth = plugin.parse_queue(whole)
    which = data.draw(st.integers(0, len(whole) - 1))
    whole[which] = a_reply(damaged(data, whole[which].stdout, TEXT))
    check(plugin, whole, truth)
