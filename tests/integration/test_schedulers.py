"""What a user may rely on whatever the scheduler is: one suite for local, Slurm, and the doubles of PBS and LSF.

Slurm is the cluster that SLURM_CONF names. On a real PBS or LSF the same tests are those of tests/live.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.fakes.double import Double, running
from tests.integration.places import PATH, Place, place
from tests.integration.sshd import sshd
from tests.integration.world import is_alive, open_gate, served, until

DOUBLES = ("pbs", "lsf")
SCHEDULERS = ("local", pytest.param("slurm", marks=pytest.mark.cluster), *DOUBLES)


@pytest.fixture(scope="module", params=SCHEDULERS)
def _lasting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request.param, tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture
def there(_lasting: Place, tmp_path: Path) -> Place:
    """A place with a server that all tests share; the user's folder is the test's own."""
    return replace(_lasting, user=replace(_lasting.user, folder=tmp_path))


@pytest.fixture(params=DOUBLES)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Place]]:
    """A function that starts a double and a server for this test alone."""
    with ExitStack() as stack:

        def start(*, table: str = "", **environment: str) -> Place:
            return stack.enter_context(place(request.param, tmp_path, table=table, **environment))

        yield start


SQUARES = """
@hf.electron(walltime="2 min")
def square(i, ledger):
    note(ledger, i)
    return i * i

@hf.electron
def total(squares):
    return sum(squares)

@hf.lattice(executor="PLACE")
def squares(n, ledger):
    return total([square(i, ledger) for i in range(n)])

print(hf.dispatch(squares)(int(sys.argv[1]), sys.argv[2]))
"""


# ---- what comes back


def test_a_lattice_runs_and_only_the_executors_name_differs(there: Place) -> None:
    ledger = there.user.folder / "ledger"

    dispatch = there.dispatches(SQUARES, 100, ledger)

    assert there.ended(dispatch) == "COMPLETED", there.user.log()
    assert int(there.result(dispatch)) == sum(i * i for i in range(100))
    assert there.noted(ledger) == sorted(map(str, range(100)))
    shown = there.user.asks("show", dispatch, "--tasks")
    assert {task["cluster"] for task in shown["tasks_shown"]} == {there.name}
    assert all(job.isdigit() for job in there.jobs(dispatch))


def test_a_single_task_is_a_job_as_well(there: Place) -> None:
    dispatch = there.dispatches(SQUARES, 1, there.user.folder / "ledger")

    assert there.ended(dispatch) == "COMPLETED", there.user.log()
    assert there.result(dispatch) == "0"


def test_the_queue_shows_our_own_jobs_and_which_dispatch_they_work_for(there: Place) -> None:
    gate = there.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = there.dispatches(
        """
@hf.electron(walltime="2 min")
def waits(gate):
    return open(gate).read()

@hf.lattice(executor="PLACE")
def waiting(gate):
    return waits(gate)

print(hf.dispatch(waiting)(sys.argv[1]))
""",
        gate,
    )

    def shown() -> list[dict[str, object]]:
        queue = there.user.asks("queue", there.name, "--mine")
        assert queue["problem"] is None, queue
        return [job for job in queue["jobs"] if job["dispatch"] == dispatch and job["state"] == "running"]

    (job,) = until(shown, there.user.log)
    assert job["job_id"] in there.jobs(dispatch)
    assert (job["mine"], job["tasks"], job["cores"]) == (True, 1, 1)
    assert job["hosts"] and job["started_at"]
    queue = there.user.asks("queue", there.name)
    (partition,) = [each for each in queue["partitions"] if each["name"] == job["partition"]]
    assert partition["running_mine"] >= 1
    assert partition["nodes"] is None or partition["nodes"]["total"] >= 1  # a site may hide them
    told = there.user.hpcflow("queue", there.name)
    assert (told.returncode, told.stderr) == (0, "")
    assert str(job["job_id"]) in told.stdout and "PARTITION" in told.stdout
    open_gate(gate)
    assert there.ended(dispatch) == "COMPLETED", there.user.log()


def test_every_way_to_fail_is_told_for_what_it_is(there: Place) -> None:
    dispatch = there.dispatches(
        """
@hf.electron(walltime="2 min")
def raises():
    raise ValueError("of my own")

@hf.electron(walltime="2 min")
def leaves():
    os._exit(7)

@hf.electron(walltime="2 min")
def dies():
    os.kill(os.getpid(), signal.SIGSEGV)

@hf.electron(walltime="2 s")
def lasts():
    time.sleep(300)

@hf.lattice(executor="PLACE")
def failures():
    return [raises(), leaves(), dies(), lasts()]

print(hf.dispatch(failures)())
"""
    )

    shown = there.user.waits_for(dispatch)

    assert shown["status"] == "FAILED"
    errors = {task["name"]: task["error"] for task in shown["tasks_shown"]}
    assert "ValueError: of my own" in errors["raises"]
    assert "exit code 7" in errors["leaves"]
    assert "SIGSEGV" in errors["dies"]
    assert "walltime of 2 s" in errors["lasts"]


def test_what_a_task_prints_is_kept(there: Place) -> None:
    dispatch = there.dispatches(
        """
@hf.electron(walltime="2 min")
def speaks():
    print("to stdout")
    print("to stderr", file=sys.stderr)

@hf.lattice(executor="PLACE")
def words():
    return speaks()

print(hf.dispatch(words)())
"""
    )

    assert there.ended(dispatch) == "COMPLETED", there.user.log()
    shown = there.user.hpcflow("show", dispatch, "--task", "0").stdout
    assert "to stdout" in shown and "to stderr" in shown


WAITS = """
@hf.electron(walltime="5 min")
def waits(i, ledger):
    note(ledger, f"{os.getpid()} {i}")
    time.sleep(600)

@hf.lattice(executor="PLACE")
def waiting(n, ledger):
    return [waits(i, ledger) for i in range(n)]

print(hf.dispatch(waiting)(int(sys.argv[1]), sys.argv[2]))
"""


def test_a_cancel_ends_what_runs_and_what_waits(there: Place) -> None:
    ledger = there.user.folder / "ledger"
    dispatch = there.dispatches(WAITS, 6, ledger)
    pid = int(until(lambda: there.noted(ledger))[0].split()[0])

    assert there.user.hpcflow("cancel", dispatch).returncode == 0

    until(lambda: not is_alive(pid))
    assert there.ended(dispatch) == "CANCELLED"
    if there.double is not None:
        double, numbers = there.double, set(map(int, there.jobs(dispatch)))
        until(lambda: all(_is_over(job) for job in double.control()["jobs"] if job["number"] in numbers))


GATED_ONE_BY_ONE = """
@hf.electron(walltime="5 min")
def waits(i, ledger, gate):
    note(ledger, f"{os.getpid()} {i}")
    while not os.path.exists(gate):
        time.sleep(0.05)
    return i

@hf.lattice(executor="PLACE")
def waiting(n, ledger, gate):
    return [waits(i, ledger, gate) for i in range(n)]

print(hf.dispatch(waiting)(int(sys.argv[1]), *sys.argv[2:]))
"""


def test_a_cancel_of_single_tasks_ends_them_and_spares_those_that_share_their_array(there: Place) -> None:
    ledger, gate = there.user.folder / "ledger", there.user.folder / "gate"
    dispatch = there.dispatches(GATED_ONE_BY_ONE, 12, ledger, gate)
    running = {int(i): int(pid) for pid, i in (line.split() for line in until(lambda: there.noted(ledger)))}
    first, last = next(iter(running)), 11 if 11 not in running else 10

    cancelled = there.user.asks("cancel", dispatch, "--task", str(first), "--task", str(last))

    assert cancelled["cancelled"] == 2
    until(lambda: not is_alive(running[first]))
    gate.touch()
    shown = there.user.waits_for(dispatch)
    states = {task["index"]: task["state"] for task in shown["tasks_shown"]}
    assert states == {i: "cancelled" if i in {first, last} else "completed" for i in range(12)}
    began = [int(line.split()[1]) for line in there.noted(ledger)]
    assert sorted(i for i in began if i != last) == [i for i in range(12) if i != last]
    assert began.count(last) <= 1  # it may have begun right before the cancel


def _is_over(job: dict[str, list[dict[str, str]]]) -> bool:
    return all(element["state"] == "ended" for element in job["elements"])


# ---- what goes wrong between server and scheduler


def test_a_lost_answer_doubles_nothing(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(lose_replies=1)
    ledger = here.user.folder / "ledger"

    dispatch = here.dispatches(SQUARES, 20, ledger)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(map(str, range(20)))
    names = [job["name"] for job in here.double.control()["jobs"]]
    assert len(names) == len(set(names))


def test_a_submission_that_never_arrived_is_sent_again(own: Callable[..., Place]) -> None:
    here = own(HPCFLOW_SUBMIT_SETTLE="1")
    assert here.double is not None
    here.double.set(lose_requests=1)
    ledger = here.user.folder / "ledger"

    dispatch = here.dispatches(SQUARES, 5, ledger)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(map(str, range(5)))


def test_a_scheduler_that_is_down_for_a_while_loses_nothing(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    ledger, gate = here.user.folder / "ledger", here.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = here.dispatches(GATED, ledger, gate)
    until(lambda: here.noted(ledger))

    double = here.double
    double.set(down=True)
    asked = len(here.double.control()["calls"])
    until(lambda: len(double.control()["calls"]) > asked + 1)
    open_gate(gate)
    until(lambda: "after 0" in here.noted(ledger))
    double.set(down=False)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == ["after 0", "before 0"]


GATED = """
@hf.electron(walltime="5 min")
def gated(i, ledger, gate):
    note(ledger, f"before {i}")
    open(gate).read()
    note(ledger, f"after {i}")
    return i

@hf.lattice(executor="PLACE")
def gates(ledger, gate):
    return gated(0, ledger, gate)

print(hf.dispatch(gates)(*sys.argv[1:]))
"""


def test_a_queue_that_was_seen_stays_with_its_age_while_the_scheduler_is_down(own: Callable[..., Place]) -> None:
    here = own(HPCFLOW_QUEUE_POLL="0.01")
    assert here.double is not None
    here.double.set(down=True)
    nothing = here.user.hpcflow("queue", here.name)
    here.double.set(down=False)
    seen = here.user.asks("queue", here.name)
    here.double.set(down=True)
    stale = here.user.hpcflow("queue", here.name)

    assert nothing.returncode == 1
    assert f"{here.name} did not answer: " in nothing.stderr
    assert (seen["problem"], seen["jobs"], seen["asked_at"] is None) == (None, [], False)
    assert stale.returncode == 0
    assert f"{here.name} did not answer: " in stale.stderr
    assert "PARTITION" in stale.stdout and "No jobs." in stale.stdout


def test_a_node_that_fails_gives_its_work_to_a_successor(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    ledger, gate = here.user.folder / "ledger", here.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = here.dispatches(GATED, ledger, gate)
    until(lambda: here.noted(ledger))

    assert here.double.control(do="fail_node") == 1
    until(lambda: here.noted(ledger).count("before 0") == 2)
    open_gate(gate)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger).count("after 0") == 1
    assert len(here.jobs(dispatch)) == 1


def test_a_refusal_comes_in_the_sites_own_words(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(reject="site policy: no jobs on Mondays")

    shown = here.user.waits_for(here.dispatches(SQUARES, 3, here.user.folder / "ledger"))

    assert shown["status"] == "FAILED"
    assert any("no jobs on Mondays" in str(task["error"]) for task in shown["tasks_shown"])


@pytest.mark.parametrize(
    ("annotations", "words"),
    [
        ({"partition": "nosuch"}, "has no partition 'nosuch'"),
        ({"cpus": 500}, "there are at most 4"),
        ({"qos": "high"}, "means nothing to"),
        ({"extra": ["-J 5"]}, "hpcflow"),
        ({"extra": ["-y 5"]}, "look at extra="),
        ({"extra": ["script.sh"]}, "begins with '-'"),
    ],
    ids=["queue", "cores", "qos", "option", "nobody's option", "word"],
)
def test_what_can_never_be_is_refused_in_a_sentence(
    own: Callable[..., Place], annotations: dict[str, object], words: str
) -> None:
    here = own()

    tried = here.user.tries(here.program(ASKING.replace("ANNOTATIONS", repr(annotations))))
    said = tried.stderr + tried.stdout
    if not tried.returncode:
        said = str(here.user.waits_for(tried.stdout.strip())["tasks_shown"][0]["error"])

    assert words in said


ASKING = """
@hf.electron(**ANNOTATIONS)
def asks():
    return 1

@hf.lattice(executor="PLACE")
def asking():
    return asks()

print(hf.dispatch(asking)())
"""


def test_a_closed_queue_is_refused_in_the_schedulers_words(tmp_path: Path) -> None:
    with place("pbs", tmp_path) as here:
        closed = here.dispatches(ASKING.replace("ANNOTATIONS", "{'partition': 'closed'}"))

        shown = here.user.waits_for(closed)

        assert shown["status"] == "FAILED"
        assert "PBS refused the job array: Queue is not enabled" in str(shown["tasks_shown"][0]["error"])


def test_answers_of_the_other_release_are_read_as_well(tmp_path: Path) -> None:
    with place("pbs", tmp_path) as here:
        assert here.double is not None
        # Its JSON is none as soon as an argument has a backslash.
        here.double.set(old_json=True)
        here.double.run("qsub", "-h", "-N", "other", "--", "/bin/echo", "a\\b")

        dispatch = here.dispatches(SQUARES, 8, here.user.folder / "ledger")

        assert here.ended(dispatch) == "COMPLETED", here.user.log()
        queue = here.user.asks("queue", "pbs")
        assert (queue["problem"], [job["name"] for job in queue["jobs"]]) == (None, ["other"])


PAIRS = """
@hf.electron(walltime="2 min")
def meets(i, folder):
    open(f"{folder}/{i}", "w").close()
    while not os.path.exists(f"{folder}/{1 - i}"):
        time.sleep(0.05)
    return i

@hf.lattice(executor="PLACE")
def pair(folder):
    return [meets(i, folder) for i in range(2)]

print(hf.dispatch(pair)(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("table", "asked"),
    [
        ("slots = 2\n", {"pbs": "select=1:ncpus=2:mpiprocs=1", "lsf": "-n 2"}),
        ("whole_nodes = true\n", {"pbs": "place=free:excl", "lsf": "-x"}),
    ],
    ids=["slots", "whole nodes"],
)
def test_an_array_task_runs_several_tasks_at_once(own: Callable[..., Place], table: str, asked: dict[str, str]) -> None:
    here = own(table=table)
    assert here.double is not None
    (here.user.folder / "meeting").mkdir()

    dispatch = here.dispatches(PAIRS, here.user.folder / "meeting")

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    submitted = [" ".join(job["argv"]) for job in here.double.control()["jobs"]]
    assert len(submitted) == 1 and asked[here.name] in submitted[0], submitted


def test_a_prologue_that_fails_is_told_with_what_it_wrote(own: Callable[..., Place]) -> None:
    here = own(table="prologue = 'echo no such module >&2; exit 9'\n")

    shown = here.user.waits_for(here.dispatches(SQUARES, 1, here.user.folder / "ledger"))

    assert shown["status"] == "FAILED"
    assert "no such module" in str(shown["tasks_shown"][0]["error"])
    assert "exit code 9" in str(shown["tasks_shown"][0]["error"])


def test_a_full_queue_is_waited_for(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(max_queued=0)
    ledger = here.user.folder / "ledger"
    dispatch = here.dispatches(SQUARES, 3, ledger)
    double = here.double
    until(lambda: len(double.calls("qsub") + double.calls("bsub")) > 1)

    double.set(max_queued=None)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()


def test_arrays_are_no_larger_than_the_scheduler_allows(own: Callable[..., Place]) -> None:
    here = own(HPCFLOW_FIRST_WIDTH="64", HPCFLOW_RAMP_WIDTH="64")
    assert here.double is not None
    here.double.set(max_array=3)
    ledger = here.user.folder / "ledger"

    dispatch = here.dispatches(SQUARES, 40, ledger)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(map(str, range(40)))
    assert max(len(job["elements"]) for job in here.double.control()["jobs"]) <= 3


def test_without_history_the_journals_are_enough(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(no_history=True)
    ledger = here.user.folder / "ledger"

    dispatch = here.dispatches(SQUARES, 20, ledger)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(map(str, range(20)))


def test_noise_before_every_answer_is_borne(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(noise="Welcome to the cluster.\nMaintenance on {Friday}\n")

    dispatch = here.dispatches(SQUARES, 5, here.user.folder / "ledger")

    assert here.ended(dispatch) == "COMPLETED", here.user.log()


# ---- what somebody else does


def test_a_held_job_is_said_and_released(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    here.double.set(stopped=True)
    dispatch = here.dispatches(SQUARES, 3, here.user.folder / "ledger")
    (job,) = until(lambda: here.jobs(dispatch))
    here.double.control(do="hold", job=int(job), kind="u")
    here.double.set(stopped=False)

    until(lambda: "held" in str(here.user.asks("show", dispatch)).lower())
    assert here.user.hpcflow("resume", dispatch).returncode == 0

    assert here.ended(dispatch) == "COMPLETED", here.user.log()


def test_a_job_that_somebody_else_deletes_pauses_its_tasks(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    ledger, gate = here.user.folder / "ledger", here.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = here.dispatches(GATED, ledger, gate)
    until(lambda: here.noted(ledger))
    (job,) = here.jobs(dispatch)

    here.double.control(do="kill", job=int(job), index=0 if here.name == "pbs" else 1, why="user", by="ada")
    paused = until(lambda: here.user.asks("show", dispatch)["paused"])

    assert job in paused and "cancelled" in paused
    assert here.user.hpcflow("resume", dispatch).returncode == 0
    until(lambda: here.noted(ledger).count("before 0") == 2)
    open_gate(gate)
    assert here.ended(dispatch) == "COMPLETED", here.user.log()


# ---- what dies


STAGES = """
@hf.electron(walltime="5 min")
def first(i, ledger, gate):
    note(ledger, f"first {i}")
    if gate:
        open(gate).read()
    return i

@hf.electron(walltime="5 min")
def second(i, ledger):
    note(ledger, f"second {i}")
    return i

@hf.lattice(executor="PLACE")
def stages(n, ledger, gate):
    ones = [first(i, ledger, gate if i == 7 else None) for i in range(n)]
    return [second(i, ledger) for i in ones]

print(hf.dispatch(stages)(int(sys.argv[1]), *sys.argv[2:]))
"""


def test_servers_that_die_again_and_again_lose_and_double_nothing(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    ledger, gate = here.user.folder / "ledger", here.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = here.dispatches(STAGES, 40, ledger, gate)
    for _ in range(5):
        here.user.kills_the_server()
        assert here.user.hpcflow("start").returncode == 0
    until(lambda: "first 7" in here.noted(ledger))
    here.user.kills_the_server()
    open_gate(gate)
    assert here.user.hpcflow("start").returncode == 0

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(f"{stage} {i}" for stage in ("first", "second") for i in range(40))
    names = [job["name"] for job in here.double.control()["jobs"]]
    assert len(names) == len(set(names))


@pytest.mark.slow
def test_a_server_that_is_killed_at_every_turn_loses_and_doubles_nothing(own: Callable[..., Place]) -> None:
    here = own()
    assert here.double is not None
    double, ledger, gate = here.double, here.user.folder / "ledger", here.user.folder / "gate"
    os.mkfifo(gate)
    dispatch = here.dispatches(STAGES, 40, ledger, gate)

    for _ in range(12):
        asked = len(double.control()["calls"])
        here.user.kills_the_server()
        assert here.user.hpcflow("start").returncode == 0
        # Each of them gets as far as one question or submission, and sometimes further.
        _calls(double, asked + 1)
    open_gate(gate)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert here.noted(ledger) == sorted(f"{stage} {i}" for stage in ("first", "second") for i in range(40))
    names = [job["name"] for job in double.control()["jobs"]]
    assert len(names) == len(set(names))


def _calls(double: Double, number: int) -> None:
    """Wait until so many commands of the scheduler were called."""
    until(lambda: len(double.control()["calls"]) >= number)


# ---- what it costs


def test_a_thousand_tasks_cost_ten_commands(own: Callable[..., Place]) -> None:
    here = own(HPCFLOW_ACCOUNTING_POLL="30")
    assert here.double is not None
    before = len(here.double.control()["calls"])
    ledger = here.user.folder / "ledger"

    dispatch = here.dispatches(SQUARES, 1000, ledger)

    assert here.ended(dispatch) == "COMPLETED", here.user.log()
    assert int(here.result(dispatch)) == sum(i * i for i in range(1000))
    calls = here.double.control()["calls"][before:]
    assert len(calls) <= 10, calls


def test_many_tasks_cost_few_commands_and_the_server_a_time_that_grows_with_them(tmp_path: Path) -> None:
    """MANY_TASKS=50000 makes it the size that a user may bring; it is smaller here, because it takes minutes."""
    many = int(os.environ.get("MANY_TASKS", "4000"))
    with place("pbs", tmp_path, HPCFLOW_ACCOUNTING_POLL="30") as here:
        assert here.double is not None
        spent: list[tuple[int, int, float]] = []
        for number in (1000, many):
            calls, cpu_s = len(here.double.control()["calls"]), _cpu_s(here.user.server_pid())
            dispatch = here.dispatches(SQUARES, number, here.user.folder / f"ledger-{number}")
            assert here.ended(dispatch) == "COMPLETED", here.user.log()
            assert int(here.result(dispatch)) == sum(i * i for i in range(number))
            calls, cpu_s = len(here.double.control()["calls"]) - calls, _cpu_s(here.user.server_pid()) - cpu_s
            spent.append((number, calls, cpu_s))
        print(spent)
        (small, _, small_s), (large, calls, large_s) = spent
        assert calls <= 10 + large // 1000, spent
        assert large_s / large <= 2.5 * small_s / small, spent  # were it their square, it would be 4 times as much


def _cpu_s(pid: int) -> float:
    """Return the user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---- from a laptop


@pytest.mark.parametrize("name", DOUBLES)
def test_a_scheduler_behind_ssh_is_asked_in_the_same_words(name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        double = stack.enter_context(running(name, tmp_path / "double", cores=4))
        # Only the profile of the login shell puts the scheduler on PATH, as on many sites.
        far = tmp_path / "far"
        far.mkdir()
        (far / ".profile").write_text(f'PATH="{os.pathsep.join((str(double.path), *PATH))}"; export PATH\n')
        node = stack.enter_context(sshd(tmp_path / "node", f"SetEnv HOME={far} SHELL=/bin/sh"))
        home, work = tmp_path / "user" / "laptop", tmp_path / "work"
        (home / ".ssh").mkdir(parents=True, mode=0o700)
        shutil.copy(node.config(), home / ".ssh/config")
        table = (
            f'[{name}]\nscheduler = "{name}"\nhost = "cluster"\nworkdir = "{work}"\nkeys = "{tmp_path}/keys"\n'
            f'python = "{sys.executable}"\n'
        )
        environment = {"HOME": str(home), "HPCFLOW_SSH_JOURNAL_POLL": "0.1", "HPCFLOW_SSH_JOURNAL_POLL_MAX": "0.5"}
        user = stack.enter_context(served(tmp_path / "user", environment, PATH, clusters=table))
        here = Place(name, user, double)
        ledger = tmp_path / "ledger"

        dispatch = here.dispatches(SQUARES, 60, ledger)

        assert here.ended(dispatch) == "COMPLETED", user.log()
        assert here.noted(ledger) == sorted(map(str, range(60)))
        assert [call[0] for call in double.control()["calls"]].count("qsub" if name == "pbs" else "bsub") <= 3
