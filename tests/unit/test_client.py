"""Dispatching, waiting, results: what the user's Python sees of a server."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import hpcflow
from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.states import State
from hpcflow.sdk.answers import parse_summary
from hpcflow.sdk.client import (
    Planned,
    cancel,
    dispatch,
    dispatch_sync,
    get_result,
    planning,
)
from hpcflow.sdk.connection import DispatchNotFound, ServerUnreachable
from hpcflow.sdk.plans import parse_plan
from hpcflow.sdk.results import PythonMismatch, Result, UnreadableResult
from hpcflow.sdk.terminal import counts
from tests.unit.fake_server import (
    DISPATCH,
    TOKEN,
    Answer,
    FakeServer,
    Request,
    a_page,
    a_plan,
    a_summary,
    a_task,
    a_usage,
    an_item,
    connect,
)


@pytest.fixture
def fake(hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("HPCFLOW_AUTOSTART", "0")
    with FakeServer(hpcflow_home) as server:
        yield server


@hpcflow.electron
def square(x: int) -> int:
    return x * x


@hpcflow.lattice
def flow(x: int) -> list[object]:
    first = square(x)
    return [first, (square(first), "end")]


class Canary:
    """Tells when somebody unpickles it."""

    loaded = False

    def __reduce__(self) -> tuple[object, ...]:
        return _sing, ()


def _sing() -> str:
    Canary.loaded = True
    return "sung"


# ---- dispatching


def test_a_dispatch_says_what_leads_to_another_scheduler_than_the_servers_environment(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers["POST", "/dispatches"] = (201, {"id": "1", "status": "RUNNING", "messages": []})
    monkeypatch.setenv("SLURM_CONF", "/opt/other/slurm.conf")
    dispatch(flow)(3)
    [request] = fake.requests
    assert request.manifest["client"]["others"] == {"slurm": ["SLURM_CONF"]}


def test_a_program_whose_folder_was_removed_dispatches_as_ever(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.answers["POST", "/dispatches"] = (201, {"id": "1", "status": "RUNNING", "messages": []})
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    dispatch(flow)(3)
    [request] = fake.requests
    assert request.manifest["cwd"] == ""


def test_a_dispatch_is_one_upload_with_the_clients_own_id(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = lambda request: (
        201,
        {"id": request.manifest["id"], "status": "RUNNING", "messages": []},
    )
    dispatch_id = dispatch(flow)(3)
    [request] = fake.requests
    manifest = request.manifest
    assert manifest["id"] == dispatch_id
    assert len(dispatch_id) == 26
    assert manifest["name"] == "flow"
    assert len(manifest["tasks"]) == 2
    assert manifest["client"]["host"] == socket.gethostname()
    assert manifest["client"]["version"] == hpcflow.__version__
    # The server's record names this very process: its environment is what the program has.
    assert manifest["client"]["others"] == {}
    assert manifest["python"] == list(sys.version_info[:2])
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["content-type"] == "application/x-hpcflow-dispatch"


def test_a_dispatch_to_a_login_node_names_no_interpreter_of_the_laptop(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = lambda request: (
        201,
        {"id": request.manifest["id"], "status": "RUNNING", "messages": []},
    )
    dispatch(flow)(1)
    connect(fake)
    dispatch(flow)(1)
    first, second = (request.manifest for request in fake.sent("POST", "/dispatches"))
    bare = "python{}.{}".format(*sys.version_info[:2])
    assert (first["executable"], second["executable"]) == (sys.executable, bare)


def test_a_dispatch_repeated_after_a_cut_keeps_its_id(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = [None, (201, {"id": "x", "status": "RUNNING", "messages": []})]
    dispatch(flow)(3)
    first, second = fake.requests
    assert first.manifest["id"] == second.manifest["id"]


def test_the_servers_sentences_are_shown_once_on_stderr(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["POST", "/dispatches"] = (
        201,
        {"id": DISPATCH, "status": "RUNNING", "messages": ["`slurm` answers here and is the default."]},
    )
    assert dispatch(flow)(3) == DISPATCH
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "`slurm` answers here and is the default.\n"


def test_where_electrons_run_without_an_executor_is_told_once_to_a_program(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["Electrons without executor= run on 'once', told once.", "once does not answer now (no route)."]
    fake.answers["POST", "/dispatches"] = (201, {"id": DISPATCH, "status": "RUNNING", "messages": where})
    dispatch(flow)(3)
    dispatch(flow)(4)
    elsewhere = ["Electrons without executor= run on 'twice', told once."]
    fake.answers["POST", "/dispatches"] = (201, {"id": DISPATCH, "status": "RUNNING", "messages": elsewhere})
    dispatch(flow)(5)
    assert capsys.readouterr().err.splitlines() == [*where, where[1], *elsewhere]


def test_a_refused_dispatch_raises_the_servers_sentence(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = (400, {"error": "There is no executor 'slum'; there are local and slurm."})
    with pytest.raises(UserError, match=r"^There is no executor 'slum'; there are local and slurm.$"):
        dispatch(flow)(3)


def test_only_a_lattice_can_be_dispatched() -> None:
    with pytest.raises(
        UserError, match=r"dispatch takes a lattice, and len is none: decorate it with @hpcflow\.lattice"
    ):
        dispatch(len)  # type: ignore[call-overload]  # the mistake under test


def test_a_plan_comes_back_as_values_and_as_text(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = (200, a_plan())
    plan = dispatch(flow, plan=True)(3)
    assert fake.requests[0].query == {"plan": "true"}
    assert plan.core_hours_bound == 40.0
    assert plan.bags[0].widths == (20,)
    assert plan.bags[0].argv[0] == "sbatch"
    text = str(plan)
    assert "Bag 1: 40 tasks of relax on slurm" in text
    assert "20 wide, 1:00:00 each, at most 40.00 core-hours" in text
    assert "sbatch --parsable -J 'relax x'" in text
    assert "exec python worker" in text
    assert text.endswith("40 tasks in 1 bag and 1 job array, at most 40.00 core-hours. Nothing was submitted.")


def test_a_script_that_differs_by_names_alone_is_shown_once() -> None:
    raw: Any = a_plan()
    relax, gap, other = ({**raw["bags"][0]} for _ in range(3))
    relax["script"] = "#PBS -N relax-01\nexec python worker\n"
    gap |= {"electrons": ["band_gap", "gap"], "script": "#PBS -N band_gap-01\nexec python worker\n"}
    other |= {"script": "#PBS -N relax-01\nmodule load x\nexec python worker\n"}
    text = str(parse_plan({**raw, "bags": [relax, gap, other]}))
    assert text.count("exec python worker") == 2
    assert "Bag 2: 40 tasks of band_gap, gap on slurm" in text
    assert text.count("its stdin    as for bag 1") == 1
    assert "module load x" in text


def test_planning_ends_a_script_at_its_first_dispatch(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = lambda request: (200, a_plan()) if request.query else (500, {})
    with planning(), pytest.raises(Planned) as planned:
        dispatch(flow)(3)
    assert planned.value.plan.core_hours_bound == 40.0
    assert len(fake.requests) == 1


def test_without_a_server_and_without_autostart_nothing_is_started(
    hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HPCFLOW_AUTOSTART", "0")
    with pytest.raises(ServerUnreachable, match=r"No server runs for .*`hpcflow start`"):
        dispatch(flow)(3)
    assert list(hpcflow_home.iterdir()) == []


# ---- results


def test_a_completed_dispatch_gives_the_lattices_value(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["POST", "/dispatches"] = (201, {"id": DISPATCH, "status": "RUNNING", "messages": []})
    traced = flow.build_graph(3)
    output = traced.blobs[traced.graph.output]
    fake.answers["GET", f"/dispatches/{DISPATCH}/output"] = (
        200,
        an_item(None, "output", output)
        + an_item(0, "result", pickle.dumps(9))
        + an_item(1, "result", pickle.dumps(81)),
    )
    result = dispatch_sync(flow)(3)
    assert result.status is hpcflow.Status.COMPLETED
    assert result.result == [9, (81, "end")]
    assert result.error is None
    assert result.start_time == datetime(2026, 1, 1, 10, 0, 1, tzinfo=UTC)
    assert result.end_time == datetime(2026, 1, 1, 10, 0, 3, 500_000, tzinfo=UTC)
    assert result.result is result.result
    assert len(fake.sent("GET", f"/dispatches/{DISPATCH}/output")) == 1


def test_a_running_dispatch_has_no_result_yet(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", ended_at=None))
    result = get_result(DISPATCH)
    assert result.status is hpcflow.Status.RUNNING
    assert result.result is None
    assert result.end_time is None


def test_status_only_asks_for_nothing_else(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING"))
    assert get_result(DISPATCH, status_only=True) == {"id": DISPATCH, "status": "RUNNING"}
    assert len(fake.requests) == 1


def test_an_unknown_dispatch_is_a_sentence(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (404, {"error": f"No dispatch {DISPATCH} here."})
    with pytest.raises(DispatchNotFound, match=f"^No dispatch {DISPATCH} here.$"):
        get_result(DISPATCH)


def test_a_failed_dispatch_has_an_error_and_the_results_of_what_completed(fake: FakeServer) -> None:
    error = "Electron 'relax' (task 1) raised ValueError: no minimum."
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (
        200,
        a_summary(status="FAILED", error=error, counts={"completed": 1, "failed": 1}),
    )
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, an_item(0, "result", pickle.dumps({"e": 1.5})))
    result = get_result(DISPATCH)
    assert result.result is None
    assert result.error == error
    assert result.get_node_result(0).result == {"e": 1.5}


def test_a_failed_task_gives_its_exception_and_traceback(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="FAILED"))
    task = a_task(1, state="failed", error="ValueError: no minimum", error_type="ValueError", traceback="Traceback …")
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, task)
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (
        200,
        an_item(1, "error", pickle.dumps(ValueError("no minimum")), type="ValueError", message="no minimum"),
    )
    node = get_result(DISPATCH).get_node_result(1)
    assert node.state is State.FAILED
    assert node.error == "ValueError: no minimum"
    assert node.traceback == "Traceback …"
    assert node.result is None
    assert isinstance(node.exception, ValueError)
    assert node.exception.args == ("no minimum",)


def test_an_exception_that_could_not_be_pickled_is_none(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="FAILED"))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, a_task(1, state="failed", error="Odd: odd"))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, an_item(1, "error"))
    assert get_result(DISPATCH).get_node_result(1).exception is None


def test_a_result_says_what_it_cost(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/usage"] = (200, a_usage(open=1))
    usage = get_result(DISPATCH).usage
    assert (usage.charged_s, usage.tasks_s, usage.submitted, usage.used, usage.complete) == (7200, 6480, 2, 1, False)


def test_a_task_tells_where_and_how_it_ran(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(a_task(0), a_task(1, host=None)))
    node, other = get_result(DISPATCH).tasks()
    assert (node.node_id, node.name, node.state) == (0, "relax", State.COMPLETED)
    assert (node.job_id, node.array_index, node.host, node.cluster) == ("41", 3, "node7", "slurm")
    assert (node.wall_s, node.cpu_s, node.max_rss_kib) == (2.0, 1.5, 20480)
    assert node.ended_at == datetime(2026, 1, 1, 10, 0, 3, tzinfo=UTC)
    assert repr(node) == "<task 0 relax, completed on node7>"
    assert repr(other) == "<task 1 relax, completed>"


def test_covalents_names_for_a_tasks_fields_work(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, an_item(0, "result", pickle.dumps(9)))
    node = get_result(DISPATCH).get_node_result(0)
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0/stdout"] = (200, b"printed")
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0/stderr"] = (200, b"")
    assert dict(node) == {
        "node_id": 0,
        "node_name": "relax",
        "start_time": node.started_at,
        "end_time": node.ended_at,
        "status": "COMPLETED",
        "output": 9,
        "error": None,
        "sublattice_result": None,
        "stdout": "printed",
        "stderr": "",
    }
    assert (node["job_id"], node.node_name, node.output, node.get("weight")) == ("41", "relax", 9, None)
    assert list(node) == list(dict(node))
    assert "output" in node
    assert node in {node}
    with pytest.raises(KeyError):
        _ = node["_record"]


def called_with(task: int, args: tuple[object, ...], kwargs: dict[str, object], *parameters: str) -> bytes:
    data = cloudpickle.dumps((args, kwargs))
    head = {"task": task, "kind": "arguments", "size": len(data), "parameters": parameters}
    return bytes(json.dumps(head).encode() + b"\n" + data)


def test_literal_arguments_are_nodes_behind_the_tasks(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(a_task(0), a_task(1)))
    with_result = build_graph_arguments()
    head = {"task": 1, "kind": "arguments", "size": len(with_result), "parameters": ["x", "y"]}
    fake.answers["GET", f"/dispatches/{DISPATCH}/arguments"] = (
        200,
        called_with(0, (1, "a"), {"more": [2]}, "x", "*rest") + json.dumps(head).encode() + b"\n" + with_result,
    )

    result = get_result(DISPATCH)
    nodes = result.get_all_node_results()

    assert [(node.node_id, node["node_name"]) for node in nodes] == [
        (0, "relax"), (1, "relax"), (2, ":parameter:1"), (3, ":parameter:('a',)"), (4, ":parameter:[2]"),
        (5, ":parameter:7"),
    ]  # fmt: skip
    last = result.get_node_result(5)
    assert (last["output"], last["status"], last["stdout"], last["error"], last.job_id) == (
        7,
        "COMPLETED",
        "",
        None,
        None,
    )
    assert last["start_time"] == last["end_time"]
    assert fake.sent("GET", f"/dispatches/{DISPATCH}/arguments")[0].query == {"tasks": "all", "small": "true"}


def build_graph_arguments() -> bytes:
    """Return the arguments of a task that takes another's result and the number 7."""

    @hpcflow.electron
    def add(x: object, y: object) -> object:
        return x, y

    traced = hpcflow.lattice(lambda: add([square(1)], 7)).build_graph()
    data: bytes = traced.blobs[traced.graph.tasks[1].args]
    return data


def test_rows_hold_parameters_and_what_became_of_each_task(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="FAILED"))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (
        200,
        a_page(a_task(0), a_task(1, state="failed", name="add", error="boom")),
    )
    with_result = build_graph_arguments()
    head = {"task": 1, "kind": "arguments", "size": len(with_result), "parameters": ["x", "output"]}
    fake.answers["GET", f"/dispatches/{DISPATCH}/arguments"] = (
        200,
        called_with(0, (1,), {}, "x") + json.dumps(head).encode() + b"\n" + with_result,
    )
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (
        200,
        an_item(0, "result", pickle.dumps(16)) + an_item(1, "error", message="boom"),
    )

    result = get_result(DISPATCH)

    assert result.to_rows() == [
        {"node_id": 0, "node_name": "relax", "x": 1, "status": "COMPLETED", "output": 16, "error": None},
        {
            "node_id": 1, "node_name": "add", "x": [16], "output_": 7, "status": "FAILED", "output": None,
            "error": "boom",
        },
    ]  # fmt: skip
    assert [row["node_id"] for row in result.to_rows("add")] == [1]

    for task in (a_task(0), a_task(1, state="failed", name="add", error="boom")):
        fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/{task['index']}"] = (200, task)
    assert result.get_node_result(1).inputs == {"x": [16], "output": 7}
    assert fake.sent("GET", f"/dispatches/{DISPATCH}/arguments")[-1].query == {"tasks": "1"}
    assert fake.sent("GET", f"/dispatches/{DISPATCH}/results")[-1].query["tasks"] == "0"


def test_a_result_tells_its_inputs_its_root_and_itself_in_lines(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/call/arguments"] = (200, cloudpickle.dumps(((1, 2), {"n": 3})))
    fake.answers["GET", f"/dispatches/{DISPATCH}/output"] = (200, an_item(None, "output", pickle.dumps([4])))

    result = get_result(DISPATCH)

    assert result.inputs == {"args": (1, 2), "kwargs": {"n": 3}}
    assert result.root_dispatch_id == DISPATCH
    assert result.post_process() == [4]
    assert str(result).splitlines()[:3] == ["status: COMPLETED", f"lattice: {result.name}", f"dispatch id: {DISPATCH}"]


def test_a_dispatch_is_new_until_it_runs_and_statuses_are_equal_to_their_texts(fake: FakeServer) -> None:
    held = a_summary(status="RUNNING", paused="It was dispatched with disable_run=True.")
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, held)

    new = get_result(DISPATCH).status

    assert new == "NEW_OBJECT"
    assert new is hpcflow.status.NEW_OBJECT
    assert not new
    assert get_result(DISPATCH, status_only=True) == {"id": DISPATCH, "status": "NEW_OBJECT"}
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", paused="Paused by you."))
    running = get_result(DISPATCH).status
    assert (running == "RUNNING", running == hpcflow.status.RUNNING, bool(running)) == (True, True, True)
    assert str(running) == running.STATUS == "RUNNING"
    assert [hpcflow.status.is_terminal(each) for each in (running, "FAILED", hpcflow.Status.CANCELLED)] == [
        False, True, True,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("state", "status"),
    [("waiting", "NEW_OBJECT"), ("queued", "QUEUED"), ("running", "RUNNING"), ("failed", "FAILED"),
     ("skipped", "NEW_OBJECT"), ("cancelled", "CANCELLED")],
)  # fmt: skip
def test_a_tasks_status_is_covalents(fake: FakeServer, state: str, status: str) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0, state=state))

    node = get_result(DISPATCH).get_node_result(0)

    assert (node.status, node["status"], node.state) == (status, status, state)


def test_all_tasks_are_fetched_page_by_page(fake: FakeServer) -> None:
    tasks = [a_task(index) for index in range(1500)]

    def page(request: Request) -> Answer:
        after = int(request.query.get("after", -1))
        return 200, a_page(*tasks[after + 1 : after + 1 + int(request.query["limit"])])

    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(tasks=1500))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = page
    nodes = get_result(DISPATCH).tasks()
    assert [node.node_id for node in nodes] == list(range(1500))
    assert len(fake.sent("GET", f"/dispatches/{DISPATCH}/tasks")) == 2


def test_a_value_that_is_gone_is_told_from_one_that_is_none(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(*map(a_task, range(3))))
    fake.answers["GET", f"/dispatches/{DISPATCH}/arguments"] = (200, b"")
    needs_second = build_graph_arguments()
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (
        200,
        an_item(0, "result", pickle.dumps(None))
        + an_item(1, "missing", message="the value of task 1 was removed from slurm at 10:00")
        + an_item(2, "output", needs_second, base=1),
    )
    lost = f"Task 1 of {DISPATCH} left no value: the value of task 1 was removed from slurm at 10:00."

    result = get_result(DISPATCH)

    assert [row["output"] for row in result.to_rows()] == [None, hpcflow.LostValue(lost), hpcflow.LostValue(lost)]
    assert result.get_all_node_outputs() == {
        "relax(0)": None, "relax(1)": hpcflow.LostValue(lost), "relax(2)": hpcflow.LostValue(lost),
    }  # fmt: skip
    assert (bool(hpcflow.LostValue(lost)), str(hpcflow.LostValue(lost))) == (False, f"<lost: {lost}>")


def test_all_outputs_come_in_one_stream(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(a_task(0), a_task(1, state="failed")))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (
        200,
        an_item(0, "result", pickle.dumps("a")) + an_item(1, "error", message="boom"),
    )
    assert get_result(DISPATCH).get_all_node_outputs() == {"relax(0)": "a"}
    assert fake.sent("GET", f"/dispatches/{DISPATCH}/results")[0].query == {"tasks": "all", "apart": "1"}


def test_a_tasks_output_is_read_to_its_end(fake: FakeServer) -> None:
    text = ("é" + "x" * 1000) * 2000
    raw = text.encode()

    def stdout(request: Request) -> Answer:
        offset = int(request.query["offset"])
        return 200, raw[offset : offset + int(request.query["limit"])]

    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0/stdout"] = stdout
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0/stderr"] = (200, b"")
    node = get_result(DISPATCH).get_node_result(0)
    assert node.stdout == text
    assert node.stderr == ""


@pytest.mark.parametrize("index", [-1, 2])
def test_a_task_that_is_not_there_is_a_sentence(fake: FakeServer, index: int) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/arguments"] = (200, b"")
    with pytest.raises(NotFound, match=f"has 2 tasks, counted from 0; there is no task {index}."):
        get_result(DISPATCH).get_node_result(index)


def test_nothing_of_another_python_is_unpickled(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(python=[3, 7]))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    canary = cloudpickle.dumps(Canary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/output"] = (200, an_item(None, "output", canary))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, an_item(0, "result", canary))
    Canary.loaded = False
    result = get_result(DISPATCH)
    with pytest.raises(PythonMismatch, match=r"with Python 3\.7 and this is .* Read them with Python 3\.7"):
        _ = result.result
    with pytest.raises(PythonMismatch):
        _ = result.get_node_result(0).result
    assert not Canary.loaded


def test_a_value_whose_module_is_missing_is_a_sentence(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    absent = b"cno_such_module\nThing\n."
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, an_item(0, "result", absent))
    with pytest.raises(
        UnreadableResult, match=r"value of task 0 of .* read here: ModuleNotFoundError: .*no_such_module"
    ):
        _ = get_result(DISPATCH).get_node_result(0).result


def test_a_stream_that_was_cut_is_no_value(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/0"] = (200, a_task(0))
    whole = an_item(0, "result", pickle.dumps(list(range(100))))
    fake.answers["GET", f"/dispatches/{DISPATCH}/results"] = (200, whole[:-3])
    with pytest.raises(HpcflowError, match="cut 3 bytes too early"):
        _ = get_result(DISPATCH).get_node_result(0).result


def test_a_result_shows_what_it_is(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (
        200,
        a_summary(status="FAILED", error="Electron 'relax' failed.", counts={"completed": 1, "failed": 1}),
    )
    assert repr(get_result(DISPATCH)) == (
        f"<Result {DISPATCH} of flow, FAILED, 1 of 2 tasks done in 2.5 s: Electron 'relax' failed.>"
    )


def test_cancel_sends_the_tasks_and_returns_what_was_done(fake: FakeServer) -> None:
    fake.answers["POST", f"/dispatches/{DISPATCH}/cancel"] = (200, {"cancelled": 2, "message": "2 tasks cancelled."})
    assert cancel(DISPATCH) == "2 tasks cancelled."
    assert cancel(DISPATCH, task_ids=[1, 5]) == "2 tasks cancelled."
    assert [request.body for request in fake.requests] == [b'{"tasks": null}', b'{"tasks": [1, 5]}']


def test_pausing_resuming_and_trying_again_return_what_was_done(fake: FakeServer) -> None:
    for verb in ("pause", "resume", "retry"):
        fake.answers["POST", f"/dispatches/{DISPATCH}/{verb}"] = (200, {"moved": 2, "message": f"{verb}: 2 tasks."})
    assert [hpcflow.pause(DISPATCH), hpcflow.resume(DISPATCH)] == ["pause: 2 tasks.", "resume: 2 tasks."]
    asked = hpcflow.retry(DISPATCH, failed_only=True, memory="24 GiB", walltime=timedelta(minutes=90))
    assert asked == "retry: 2 tasks."
    nothing = {"more": False, "tasks": None, "electrons": None}
    assert json.loads(fake.requests[-1].body) == {
        "failed_only": True,
        "memory_mib": 24576,
        "walltime_s": 5400,
        **nothing,
    }
    hpcflow.retry(DISPATCH, more=True, task_ids=[3])
    nothing = {"failed_only": False, "memory_mib": None, "walltime_s": None}
    asked_last = {**nothing, "more": True, "tasks": [3], "electrons": None}
    assert json.loads(fake.requests[-1].body) == asked_last
    hpcflow.retry(DISPATCH, electrons="relax", task_ids=(3, 7), memory="8 GB", walltime="2 h")
    amounts = {"memory_mib": 7630, "walltime_s": 7200}
    assert json.loads(fake.requests[-1].body) == {
        **{**asked_last, "more": False, **amounts, "tasks": [3, 7]},
        "electrons": ["relax"],
    }


def test_a_retry_with_an_amount_that_is_none_asks_nobody(fake: FakeServer) -> None:
    with pytest.raises(UserError, match="memory='24' is no amount of memory"):
        hpcflow.retry(DISPATCH, memory="24")
    assert fake.requests == []


def test_the_beginning_of_an_id_is_enough_everywhere(fake: FakeServer) -> None:
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary()]})
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    fake.answers["POST", f"/dispatches/{DISPATCH}/cancel"] = (200, {"cancelled": 0, "message": "It has ended."})
    assert get_result("01k0").dispatch_id == DISPATCH
    assert cancel("01K") == "It has ended."
    assert [request.query for request in fake.sent("GET", "/dispatches")] == [{"prefix": "01k0"}, {"prefix": "01K"}]
    assert get_result(DISPATCH.lower()).dispatch_id == DISPATCH


# ---- waiting


def test_a_pause_is_said_once_for_each_reason_and_waited_out(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    held = a_summary(status="RUNNING", paused="Job 41 was cancelled by root.", counts={"completed": 1, "paused": 1})
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, held | {"version": 1}),
        (200, held | {"version": 2}),
        (200, a_summary(status="RUNNING", version=3)),
        (200, held | {"version": 4, "paused": "You paused it."}),
        (200, a_summary(version=5)),
    ]
    assert get_result(DISPATCH, wait=True).status is hpcflow.Status.COMPLETED
    assert capsys.readouterr().err.splitlines() == [
        f"Paused: Job 41 was cancelled by root. Go on with `hpcflow resume {DISPATCH}`.",
        f"Dispatch {DISPATCH} goes on.",
        f"Paused: You paused it. Go on with `hpcflow resume {DISPATCH}`.",
    ]


def test_a_scheduler_that_does_not_answer_is_told_to_who_waits_once_and_when_it_answers_again(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    def seen(version: int, problem: str | None) -> Answer:
        line = {"cluster": "slurm", "at": None, "problem": problem, "unknown_since": "2026-11-26T10:00:00Z"}
        return 200, a_summary(status="RUNNING", asked=[line], version=version)

    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        seen(1, "Unable to contact slurm controller."),
        seen(2, "Unable to contact slurm controller."),
        seen(3, None),
        seen(4, "sacct: slurmdbd is away"),
        (200, a_summary(version=5)),
    ]
    assert get_result(DISPATCH, wait=True).status is hpcflow.Status.COMPLETED
    first, again, second = capsys.readouterr().err.splitlines()
    assert first.startswith("slurm does not answer since 2026-11-26 ")
    assert first.endswith(
        ": Unable to contact slurm controller. What runs there goes on, and the rest waits until it answers; "
        "`hpcflow clusters test slurm` tells what is wrong."
    )
    assert again == "slurm answers again."
    assert "sacct: slurmdbd is away. What" in second


def test_a_result_says_whether_and_why_it_is_paused(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, a_summary(status="RUNNING", paused="You paused it.")),
        (200, a_summary()),
    ]
    assert get_result(DISPATCH).paused == "You paused it."
    assert get_result(DISPATCH).paused is None


def test_waiting_is_one_long_poll_for_each_change(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, a_summary(status="RUNNING", version=1)),
        (200, a_summary(status="RUNNING", version=4)),
        (200, a_summary(version=5)),
    ]
    assert get_result(DISPATCH, wait=True).status is hpcflow.Status.COMPLETED
    assert [request.query for request in fake.requests] == [
        {},
        {"since": "1", "wait": "25"},
        {"since": "4", "wait": "25"},
    ]
    assert capsys.readouterr() == ("", "")


def test_a_restart_of_the_server_does_not_end_the_wait(fake: FakeServer) -> None:
    record = fake.home / "run" / "server.json"
    kept = fake.home / "run" / "kept"
    gone = threading.Event()

    def go_once(request: Request) -> Answer:
        if not request.query:
            return 200, a_summary(status="RUNNING", version=1)
        if not gone.is_set():
            record.rename(kept)
            gone.set()
            return None
        return 200, a_summary()

    def come_back() -> None:
        assert gone.wait(60)
        kept.rename(record)

    fake.answers["GET", f"/dispatches/{DISPATCH}"] = go_once
    back = threading.Timer(0.3, come_back)
    back.start()
    assert get_result(DISPATCH, wait=True).status is hpcflow.Status.COMPLETED
    back.join(60)


def test_an_interrupt_while_waiting_says_how_to_come_back(fake: FakeServer) -> None:
    def interrupt(request: Request) -> Answer:
        if request.query:
            os.kill(os.getpid(), signal.SIGINT)
        return 200, a_summary(status="RUNNING", version=1)

    fake.answers["GET", f"/dispatches/{DISPATCH}"] = interrupt
    with pytest.raises(KeyboardInterrupt) as interrupted:
        get_result(DISPATCH, wait=True)
    assert str(interrupted.value) == (
        f"Dispatch {DISPATCH} goes on. Come back to it with `hpcflow.get_result('{DISPATCH}', wait=True)` or "
        f"`hpcflow show {DISPATCH}`; end it with `hpcflow cancel {DISPATCH}`."
    )
    assert fake.sent("POST", f"/dispatches/{DISPATCH}/cancel") == []


def test_the_bar_counts_tasks_and_names_clusters() -> None:
    summary = parse_summary(
        a_summary(
            tasks=100,
            counts={"completed": 12, "failed": 3, "running": 48, "queued": 30, "waiting": 5, "ready": 2},
        )
    )
    assert counts(summary) == "12 of 100 done, 3 failed, 48 running, 30 queued, 7 waiting · slurm"
    assert summary.tasks_ended == 15


def test_results_can_be_made_from_a_summary_alone(hpcflow_home: Path) -> None:
    from hpcflow.core.places import Places
    from hpcflow.sdk.connection import Server

    result = Result(Server(Places(str(hpcflow_home))), parse_summary(a_summary()))
    assert (result.dispatch_id, result.name) == (DISPATCH, "flow")


# ---- what is easily passed by mistake


@pytest.mark.parametrize("unset", [None, 5, b"01K"])
def test_what_is_no_id_is_named(fake: FakeServer, unset: Any) -> None:  # Any: what a variable may hold
    for ask in (hpcflow.get_result, hpcflow.cancel):
        with pytest.raises(UserError, match=re.escape(f"not by {unset!r}.")):
            ask(unset)


def test_an_address_of_covalents_server_is_said_to_change_nothing() -> None:
    with pytest.warns(UserWarning, match="dispatcher_addr= changes nothing here"):
        hpcflow.dispatch(hpcflow.lattice(lambda: 1), "http://localhost:48008")
    with pytest.warns(UserWarning, match="dispatcher_addr= changes nothing here"):
        hpcflow.dispatch_sync(hpcflow.lattice(lambda: 1), dispatcher_addr="http://localhost:48008")
