"""The command line: what it prints, and the exit code that goes with it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import hpcflow
from hpcflow.cli import main
from hpcflow.core.places import Places
from hpcflow.sdk.startup import start
from hpcflow.sdk.terminal import clock
from tests.processes import killed
from tests.terminal import terminal
from tests.unit.fake_server import (
    DISPATCH,
    Answer,
    FakeServer,
    a_page,
    a_plan,
    a_summary,
    a_task,
    a_usage,
    write_record,
)

OTHER = "01K0000000000000000000000B"
AS_IT_WAS: dict[str, object] = {
    **{"failed_only": True, "memory_mib": None, "walltime_s": None, "more": False},
    **{"tasks": None, "electrons": None},
}


@pytest.fixture
def fake(hpcflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setenv("HPCFLOW_AUTOSTART", "0")
    with FakeServer(hpcflow_home) as server:
        for dispatch in (DISPATCH, OTHER):
            server.answers["GET", f"/dispatches/{dispatch}/usage"] = (200, a_usage(id=dispatch))
            server.answers["GET", f"/dispatches/{dispatch}/failures"] = (200, {"failed": 0, "groups": []})
        yield server


def _lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def _json_of(capsys: pytest.CaptureFixture[str]) -> object:
    return json.loads(capsys.readouterr().out)


# ---- the command itself


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from hpcflow.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'rich', 'cloudpickle', 'http.client', 'importlib.metadata', 'fastapi', 'sqlalchemy', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "exit codes:" in done.stdout


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert _lines(capsys) == [f"hpcflow {hpcflow.__version__}"]


@pytest.mark.parametrize(
    "arguments", [[], ["frobnicate"], ["show"], ["logs", "-n", "-3"], ["show", "x", "--task", "a"]]
)
def test_a_command_that_is_none_is_the_users_mistake(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_a_relative_home_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPCFLOW_HOME", "here")
    assert main(["status"]) == 2
    assert capsys.readouterr().err == "HPCFLOW_HOME is 'here': it must be an absolute path.\n"


def test_status_is_an_object_even_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HPCFLOW_HOME", "here")
    assert main(["status", "--json"]) == 2
    status = _json_of(capsys)
    assert isinstance(status, dict)
    assert (status["pid"], status["home"]) == (None, None)
    assert status["problem"] == "HPCFLOW_HOME is 'here': it must be an absolute path."


@pytest.mark.parametrize("command", ["dispatches", "ui", "show 01", "cancel 01", "clusters list", "clusters test x"])
def test_without_a_server_a_command_says_so_and_exits_with_3(
    hpcflow_home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main(command.split()) == 3
    assert capsys.readouterr().err == f"No server runs for {hpcflow_home}. Start one with `hpcflow start`.\n"


@pytest.mark.parametrize("command", ["start", "stop", "restart", "dispatches", "clusters list", "ui"])
def test_from_another_login_node_every_command_says_where_the_server_is(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    write_record(fake.home, host="login9")
    assert main(command.split()) == 3
    error = capsys.readouterr().err
    assert f"The server of {fake.home} runs on login9" in error
    assert "`hpcflow start --take-over`" in error


def test_a_wrong_token_exits_with_4(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    (fake.home / "token").write_text("another")
    assert main(["dispatches"]) == 4
    assert "The token is wrong." in capsys.readouterr().err


def test_a_refusal_exits_with_4(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["POST", "/ui"] = (409, {"error": "The web page is switched off here."})
    assert main(["ui"]) == 4
    assert capsys.readouterr().err == "The web page is switched off here.\n"


def test_a_server_that_fails_exits_with_3(fake: FakeServer) -> None:
    fake.answers["GET", "/dispatches"] = (500, {"error": "It fell over."})
    assert main(["dispatches"]) == 3


def test_a_reader_that_has_enough_is_no_error(fake: FakeServer) -> None:
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary()] * 5000})
    command = subprocess.Popen(
        [sys.executable, "-m", "hpcflow.cli", "dispatches"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert command.stdout is not None
        assert command.stderr is not None
        command.stdout.readline()
        command.stdout.close()
        assert (command.stderr.read(), command.wait(60)) == (b"", 0)
    finally:
        killed(command)


def test_a_command_without_stdout_works(fake: FakeServer) -> None:
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary()]})
    command = ["sh", "-c", 'exec "$0" -m hpcflow.cli dispatches >&-', sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize(("below", "why"), [("", "File exists"), ("/home", "Not a directory")])
def test_a_home_that_can_not_be_made_is_the_users_mistake(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, below: str, why: str
) -> None:
    (tmp_path / "notes").touch()
    home = f"{tmp_path}/notes{below}"
    monkeypatch.setenv("HPCFLOW_HOME", home)
    assert main(["start"]) == 3
    assert capsys.readouterr().err == (
        f"The server of {home} can't start: {home}: {why}. "
        "HPCFLOW_HOME names a folder of yours for hpcflow's state, by default ~/.hpcflow.\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_home_of_somebody_else_is_the_users_mistake(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hpcflow_home / "run").mkdir(parents=True)
    (hpcflow_home / "run").chmod(0)
    try:
        assert main(["status"]) == 4
        assert main(["start"]) == 4
    finally:
        (hpcflow_home / "run").chmod(0o700)
    said = f"{hpcflow_home}/run/server.json can't be read: Permission denied. Is {hpcflow_home} yours?\n"
    assert capsys.readouterr().err == said * 2


# ---- the server


def test_status_is_an_object_with_a_null_pid_when_none_runs(
    hpcflow_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--json"]) == 3
    assert _json_of(capsys) == {
        "pid": None,
        "version": hpcflow.__version__,
        "host": None,
        "address": None,
        "home": str(hpcflow_home),
        "clusters": [],
        "connected_to": None,
        "problem": f"No server runs for {hpcflow_home}. Start one with `hpcflow start`.",
    }


def _a_state(name: str, state: str, since: str | None = None, problem: str | None = None) -> dict[str, str | None]:
    return {"name": name, "state": state, "unknown_since": since, "problem": problem}


def test_status_is_the_servers_answer_when_one_runs(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/status"] = (200, {"pid": 9, "clusters": ["local", "slurm"], "live_dispatches": 2})
    fake.answers["GET", "/clusters"] = (200, {"clusters": [_a_state("slurm", "ok")]})
    assert main(["status", "--json"]) == 0
    status = _json_of(capsys)
    assert isinstance(status, dict)
    assert (status["pid"], status["clusters"], status["home"]) == (9, ["local", "slurm"], str(fake.home))
    assert status["address"] == str(fake.home / "run" / "sock")
    assert status["problem"] is None
    assert status["states"] == {"slurm": {"state": "ok", "unknown_since": None, "problem": None}}


def test_status_from_another_host_is_an_object_too(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    write_record(fake.home, host="login9")
    assert main(["status", "--json"]) == 3
    status = _json_of(capsys)
    assert isinstance(status, dict)
    assert (status["pid"], status["host"]) == (None, "login9")
    assert "runs on login9" in str(status["problem"])


def test_status_reads_well(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/status"] = (
        200,
        {
            "pid": 9,
            "version": "0.1.0",
            "host": "login1",
            "started_at": "2026-01-01T00:00:00Z",
            "clusters": ["local", "slurm"],
            "default_cluster": "slurm",
            "live_dispatches": 2,
            "ui": None,
        },
    )
    states = [
        _a_state("local", "unknown"),
        _a_state("slurm", "unreachable", "2026-01-01T00:00:00Z", "login1 refuses\x1b[31m the key."),
    ]
    fake.answers["GET", "/clusters"] = (200, {"clusters": states})
    assert main(["status"]) == 0
    since = clock(datetime(2026, 1, 1, tzinfo=UTC))
    assert _lines(capsys) == [
        f"hpcflow 0.1.0 runs on login1, pid 9, since {since}",
        f"home        {fake.home}",
        f"clusters    local (not asked yet), slurm (default, unreachable, unknown since {since})",
        r"            slurm: login1 refuses\x1b[31m the key.",
        "dispatches  2 live",
        "web page    off; `hpcflow ui` opens it",
    ]


def test_starting_a_server_that_runs_is_fine(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start"]) == 0
    assert _lines(capsys) == [f"The server of {fake.home} runs already (pid {os.getpid()})."]


def test_a_start_that_another_one_outruns_leaves_no_server_that_would_come_later(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "hpcflow.server"])
    try:
        write_record(fake.home, pid=other.pid)
        (fake.home / "run" / "server.json").rename(tmp_path / "server.json")
        slow = tmp_path / "python"
        slow.write_text(
            f"#!/bin/sh\necho $$ > {tmp_path}/pid; mv {tmp_path}/server.json {fake.home}/run; exec sleep 600\n"
        )
        slow.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(slow))
        record, ours = start(Places(str(fake.home)))
        assert (record.pid, ours) == (other.pid, False)
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), 0)
    finally:
        killed(other)


def test_stopping_where_none_runs_is_fine(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stop"]) == 0
    assert _lines(capsys) == [f"No server runs for {hpcflow_home}."]


def test_a_stale_record_with_a_strangers_pid_stops_nobody(
    hpcflow_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        write_record(hpcflow_home, pid=stranger.pid)
        assert main(["stop"]) == 0
        assert stranger.poll() is None
        stranger.communicate(b"\n", timeout=60)
        assert stranger.returncode == 0
    finally:
        killed(stranger)
    assert _lines(capsys) == [f"No server runs for {hpcflow_home}."]


def test_the_last_lines_of_the_log(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hpcflow_home / "logs").mkdir()
    (hpcflow_home / "logs" / "server.log").write_text("".join(f"line {number}\n" for number in range(1000)))
    assert main(["logs", "-n", "2"]) == 0
    assert _lines(capsys) == ["line 998", "line 999"]


def test_no_log_yet_is_said(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs"]) == 0
    assert capsys.readouterr().err == f"There is no log at {hpcflow_home}/logs/server.log yet: no server has run.\n"


# ---- dispatches


def test_dispatches_are_plain_columns_where_there_is_no_terminal(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary(name="[red]flow"), a_summary(id=OTHER)]})
    assert main(["dispatches", "-n", "7"]) == 0
    assert fake.requests[0].query == {"limit": "7"}
    header, first, second = _lines(capsys)
    assert header.split() == ["ID", "NAME", "STATUS", "ENDED", "CREATED", "TOOK"]
    assert first.startswith(f"{DISPATCH}  [red]flow  COMPLETED  2/2    20")
    assert first.endswith("  2.5 s")
    assert second.startswith(f"{OTHER}  flow       COMPLETED  2/2")


def test_dispatches_as_json_are_the_servers_objects(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary()]})
    assert main(["dispatches", "--json"]) == 0
    assert _json_of(capsys) == [a_summary()]


def _listed(*ids: str) -> Answer:
    return 200, {"dispatches": [a_summary(id=one) for one in ids]}


def test_the_beginning_of_an_id_is_enough(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/dispatches"] = _listed(OTHER)
    fake.answers["GET", f"/dispatches/{OTHER}"] = (200, a_summary(id=OTHER))
    assert main(["show", "01k"]) == 0
    assert fake.requests[0].query == {"prefix": "01k"}
    assert _lines(capsys)[0] == f"flow  {OTHER}  COMPLETED"


def test_a_beginning_that_two_ids_share_is_the_users_mistake(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["GET", "/dispatches"] = _listed(OTHER, DISPATCH)
    assert main(["show", "01K0"]) == 2
    assert capsys.readouterr().err == (
        f"Several dispatches have ids that begin with '01K0', {OTHER} among them: give more of it.\n"
    )


def test_an_unknown_id_exits_with_5(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/dispatches"] = _listed()
    assert main(["cancel", "01Z"]) == 5
    assert "No dispatch has an id that begins with '01Z'" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["../token", "01K 0", "é", "", "0" * 27])
def test_what_can_be_no_id_is_never_asked_for(fake: FakeServer, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    assert main(["show", "--", wrong]) == 5
    assert capsys.readouterr().err.endswith("here: an id has 26 capitals and digits.\n")
    assert fake.requests == []


def test_show_names_what_failed_and_where_the_jobs_are(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (
        200,
        a_summary(status="FAILED", error="1 of 2 tasks failed.", counts={"completed": 1, "failed": 1}),
    )
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (
        200,
        a_page(a_task(1, state="failed", error="ValueError: no minimum\nmore")),
    )
    assert main(["show", DISPATCH]) == 0
    lines = _lines(capsys)
    assert lines[0] == f"flow  {DISPATCH}  FAILED"
    assert lines[2:4] == ["1 of 2 done, 1 failed · slurm", "1 of 2 tasks failed."]
    assert [line.split() for line in lines[5:7]] == [
        ["CLUSTER", "JOB", "WIDTH", "STATE", "REASON"],
        ["slurm", "41", "2", "ended"],
    ]
    assert lines[-1].split() == (
        ["1", "relax", "failed", "41_3", "node7", "1.5", "s", "20", "MiB", "ValueError:", "no", "minimum"]
    )
    assert fake.sent("GET", f"/dispatches/{DISPATCH}/tasks")[0].query["state"] == "failed"


def a_group(text: str, *indices: int) -> dict[str, object]:
    first = [{"index": index, "name": "fit", "state": "failed"} for index in indices[:2]]
    return {"text": text, "lack": None, "tasks": len(indices), "first": first, "more": []}


def test_show_tells_failures_of_one_cause_together_and_what_to_do(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    hint = "3 tasks of fit ran out of memory: ask for 448 MiB. `hpcflow retry ID --more` does that."
    late = "Cancel not delivered yet: no space. It is tried again; until then 1 job may go on on slurm."
    more = {"error": "The following tasks failed.", "hint": hint, "undelivered": late}
    summary = a_summary(status="FAILED", counts={"failed": 4}, **more)
    summary["again"] = {"at": "2026-11-27T04:00:00Z", "text": "Tried again by you: 1 task, as it was."}
    summary["messages"] = [summary["again"]]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, summary)
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(a_task(0, state="failed", error="no")))
    groups = [a_group("They ran out of memory.", 0, 1, 2), a_group("ValueError: no\nat all", 3)]
    fake.answers["GET", f"/dispatches/{DISPATCH}/failures"] = (200, {"failed": 4, "groups": groups})
    assert main(["show", DISPATCH]) == 0
    lines = _lines(capsys)
    # In between nothing of it ran, for nobody knows how long: no length is told.
    noon = datetime(2026, 1, 1, 10, tzinfo=UTC)
    created, began, ended = (clock(noon + timedelta(seconds=seconds)) for seconds in (0, 1, 3.5))
    assert lines[1] == f"created {created}, began {began}, ended {ended}"
    assert lines[3:7] == ["The following tasks failed.", "Tried again by you: 1 task, as it was.", hint, late]
    assert [line for line in lines if " failed: " in line] == [
        "3 tasks failed: They ran out of memory. (fit 0, fit 1, …)",
        "1 task failed: ValueError: no (fit 3)",
    ]


def test_show_task_tells_a_later_attempt_once_what_to_ask_for_and_which_job_is_waited_for(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="FAILED"))
    for stream in ("stdout", "stderr"):
        fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/{stream}"] = (200, b"")
    hint = "Ask for 448 MiB: `hpcflow retry ID --task 1 --more` tries it again so."
    task = a_task(1, state="failed", error="It ran out of memory.", attempt=2, hint=hint)
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, task)
    # The first one cost nothing, as its node failed, and left no end.
    about = {"attempts": [an_attempt(2, job="41_3", error="It ran out of memory.")], "arrays": [], "held_by": []}
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, about)
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    lines = _lines(capsys)
    assert lines[1] == hint
    assert [line.split()[:2] for line in lines[3:]] == [["2", "41_3"]]
    late = "Cancel not delivered yet: no space. It is tried again; until then a worker on slurm may still run it."
    task = a_task(1, state="cancelled", error="Cancelled by you.", undelivered=late)
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, task)
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    assert _lines(capsys)[1] == late
    waits = {"cluster": "slurm", "job_id": "52", "width": 6, "state": "submitted", "reason": "Priority", "why": None}
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (
        200,
        a_task(1, state="queued", job_id=None, array_index=None, error=None),
    )
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, {"attempts": [], "arrays": [waits]})
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    assert _lines(capsys)[1] == "It waits for job 52 on slurm, 6 wide: Priority"
    row = {"job_id": "52", "mine": True, "state": "pending", "stuck": None, "starts_at": None}
    look = {"asked_at": "2026-01-01T10:00:00Z", "jobs": [{**row, "ahead": 1, "partition": "long"}]}
    fake.answers["GET", "/clusters/slurm/queue"] = (200, look)
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    told = "It waits for job 52 on slurm, 6 wide: Priority; 1 job ahead of it in partition long"
    assert _lines(capsys)[1] == told
    for busy, words in ((4, "its 4 array tasks are busy"), (1, "1 of its 4 array tasks is busy")):
        about = {"attempts": [], "arrays": [{**waits, "reason": None, "up": 4, "busy": busy}]}
        fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, about)
        assert main(["show", DISPATCH, "--task", "1"]) == 0
        assert _lines(capsys)[1] == f"It waits for job 52 on slurm, 6 wide: {words}"
    held = [{"index": 0, "name": "load", "state": "cancelled"}, {"index": 7, "name": "fit", "state": "failed"}]
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, a_task(1, state="skipped", job_id=None))
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, {"attempts": [], "held_by": held})
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    assert _lines(capsys)[1:] == [
        "It runs once these have completed: load (task 0, cancelled), fit (task 7, failed). "
        # One that ran out of memory would run out of it again.
        f"`hpcflow retry {DISPATCH} --task 0 --task 7 --more` tries that."
    ]
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, {"attempts": [], "held_by": held[:1]})
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    assert _lines(capsys)[1].endswith(f"`hpcflow retry {DISPATCH} --task 0` tries that.")


def an_attempt(number: int, **fields: object) -> dict[str, object]:
    nothing = dict.fromkeys(("error", "job", "host", "wall_s", "cpu_s", "max_rss_kib", "exit_code", "signal"))
    return {"attempt": number, "end": "error", **nothing, **fields}


def test_show_task_tells_each_attempt_the_traceback_once_and_the_output(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="FAILED"))
    task = a_task(1, state="failed", error="ValueError: no", traceback="Traceback …\nValueError: no\n")
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1"] = (200, task)
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/stdout"] = (200, b"step 1\n")
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/stderr"] = (
        200,
        b"hm\nTraceback \xe2\x80\xa6\nValueError: no\n",
    )
    earlier = an_attempt(1, job="40_0", host="node3", error="The task's node failed on node3 (NODE_FAIL).")
    attempts = {
        "attempts": [earlier, an_attempt(2, job="41_3", host="node7", max_rss_kib=20480, error="ValueError: no")],
        "inputs": [
            {"name": "i", "type": "int", "shape": None, "text": "32", "cut": False},
            {"name": "grid", "type": "numpy.ndarray", "shape": "(3, 4)", "text": None, "cut": False},
            {"name": None, "type": "str", "shape": None, "text": f"'{'x' * 80}'", "cut": False},
        ],
    }
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks/1/about"] = (200, attempts)
    assert main(["show", DISPATCH, "--task", "1"]) == 0
    said, header, first, second, *rest = _lines(capsys)
    assert said == "task 1 relax, failed on node7: ValueError: no"
    assert header.split() == ["ATTEMPT", "JOB", "HOST", "WALL", "CPU", "MEMORY", "END"]
    assert first.split(maxsplit=6) == [
        "1",
        "40_0",
        "node3",
        "-",
        "-",
        "-",
        "The task's node failed on node3 (NODE_FAIL)",
    ]
    assert " ".join(second.split()) == "2 41_3 node7 - - 20 MiB ValueError: no"
    assert rest == [
        f"It took i=32, grid=<numpy.ndarray (3, 4)>, '{'x' * 59}…",
        "---- traceback",
        "Traceback …",
        "ValueError: no",
        "---- stdout",
        "step 1",
        # The worker wrote the traceback there as well: it is shown once.
        "---- stderr",
        "hm",
    ]


def test_show_wait_exits_with_1_unless_the_dispatch_completed(fake: FakeServer) -> None:
    running = (200, a_summary(status="RUNNING", version=1))
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [running, (200, a_summary(status="CANCELLED", counts={}))]
    assert main(["show", DISPATCH, "--wait"]) == 1
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [running, (200, a_summary())]
    assert main(["show", DISPATCH, "--wait"]) == 0


def test_show_says_what_a_dispatch_cost_once_it_has_ended(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary())
    assert main(["show", DISPATCH]) == 0
    assert _lines(capsys)[-2:] == [
        "A task was running in 90 % of 2.0 core-hours charged; the rest: "
        "5 % waiting for more, 4 % start-up and end, 1 % workers' own work.",
        "2 array tasks: 1 used, 1 cancelled before they began.",
    ]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING"))
    assert main(["show", DISPATCH]) == 0
    assert "charged" not in capsys.readouterr().out
    assert len(fake.sent("GET", f"/dispatches/{DISPATCH}/usage")) == 1


def test_show_says_why_a_job_waits_in_plain_words_beside_the_schedulers(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"token": "t", "cluster": "slurm", "job_id": "41", "width": 2, "state": "submitted"}
    arrays = [
        {**line, "reason": "PENDING Priority", "why": "Waits its turn"},
        {**line, "reason": "PENDING Moonphase"},
        line,
    ]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", arrays=arrays))
    assert main(["show", DISPATCH]) == 0
    shown = [text.split("submitted")[1].strip() for text in _lines(capsys) if "submitted" in text]
    assert shown == ["Waits its turn (PENDING Priority)", "PENDING Moonphase", "not told yet"]
    # What its workers have written is newer than what the scheduler said; of what is over nothing waits any more.
    up = [{**line, "reason": "PENDING Priority", "up": up} for up in (2, 1)]
    over = {**line, "reason": "PENDING Resources", "state": "ended"}
    # Of what is suspended the workers write nothing.
    part = {**line, "reason": None, "up": 2, "suspended": 1}
    still = {**line, "reason": "SUSPENDED", "why": "Is suspended", "up": 2, "suspended": 2}
    arrays = [*up, over, part, still]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", arrays=arrays))
    assert main(["show", DISPATCH]) == 0
    told = [" ".join(text.split()[2:]) for text in _lines(capsys) if text.startswith("slurm ") and " 41 " in text]
    assert told == [
        *("2 running", "2 running 1 of 2 array tasks run", "2 ended", "2 running 1 suspended"),
        "2 suspended Is suspended (SUSPENDED)",
    ]
    assert len(fake.sent("GET", "/clusters/slurm/queue")) == 1  # where something waited


def test_show_tells_when_a_job_is_to_start_and_its_place_by_the_last_look_alone(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"token": "t", "cluster": "slurm", "width": 2, "state": "submitted", "reason": "Priority", "why": "Waits"}
    arrays = [{**line, "job_id": job} for job in ("41", "42", "43", "44")] + [{**line, "job_id": "45", "up": 1}]
    asked = [{"cluster": "slurm", "at": "2026-01-01T10:00:02Z", "problem": None}]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", arrays=arrays, asked=asked))
    row = {"mine": True, "state": "pending", "stuck": None, "starts_at": None, "starts_from": None, "ahead": None}
    late, later = "2126-01-01T10:00:00+00:00", "2126-01-01T11:00:00+00:00"
    plan, begin = {"starts_from": "scheduler", "partition": "batch"}, {"starts_from": "begin time", "partition": "a,b"}
    look = {
        "asked_at": "2026-01-01T09:59:00Z",
        "jobs": [
            {**row, **plan, "job_id": "41", "starts_at": later, "ahead": 3},
            {**row, **plan, "job_id": "41", "starts_at": late, "ahead": 2},
            {**row, **begin, "job_id": "42", "starts_at": late, "ahead": 0},
            {**row, **plan, "job_id": "43", "starts_at": "2026-01-01T10:00:00Z", "state": "running"},
            {**row, **plan, "job_id": "44", "starts_at": "2026-01-01T10:00:00Z"},
            {**row, **plan, "job_id": "45", "starts_at": late},
        ],
    }
    fake.answers["GET", "/clusters/slurm/queue"] = [(200, look), (200, {"asked_at": None, "jobs": None})]
    assert main(["show", DISPATCH]) == 0
    shown = _lines(capsys)
    told = [text.split("submitted")[1].strip() for text in shown if "submitted" in text]
    at = clock(datetime(2126, 1, 1, 10, tzinfo=UTC))
    assert told == [
        f"Waits (Priority); starts by ~{at}, 2 jobs ahead of it in partition batch",
        f"Waits (Priority); starts not before {at}, first in line in partition a or b",
        "Waits (Priority)",
        "Waits (Priority); starts any moment",
    ]
    looked = clock(datetime(2026, 1, 1, 9, 59, tzinfo=UTC))
    assert f"Starts and places are those of slurm's queue at {looked}." in shown
    assert [sent.query["ask"] for sent in fake.sent("GET", "/clusters/slurm/queue")] == ["false"]
    # Nobody has looked at the queue: what does is named.
    assert main(["show", DISPATCH]) == 0
    assert _lines(capsys)[-1].endswith("; `hpcflow queue slurm` asks it now, also when jobs are to start.")


def test_watching_without_a_terminal_writes_a_line_for_each_thing_that_changed(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    line = {"token": "t", "cluster": "slurm", "job_id": "41", "width": 2, "state": "submitted"}
    waits = [{**line, "reason": "PENDING Priority", "why": "Waits its turn"}]
    runs = [{**line, "reason": None, "why": None}]
    messages = [{"at": "2026-01-01T10:00:02Z", "text": "Node n7 lost a worker."}]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, a_summary(status="RUNNING", version=1, counts={"queued": 2}, arrays=waits)),
        (200, a_summary(status="RUNNING", version=2, counts={"running": 2}, arrays=runs)),
        (200, a_summary(status="RUNNING", version=3, counts={"running": 2}, arrays=runs, messages=messages)),
        (200, a_summary(status="RUNNING", version=3, counts={"running": 2}, arrays=runs, messages=messages)),
        (200, a_summary(status="FAILED", counts={"completed": 1, "failed": 1}, messages=messages)),
    ]
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (200, a_page(a_task(1, state="failed", error="no")))
    assert main(["show", DISPATCH, "--watch"]) == 1
    lines = _lines(capsys)
    end = lines.index(f"flow  {DISPATCH}  FAILED")
    assert [text[10:] for text in lines[:end]] == [
        "0 of 2 done, 2 queued · slurm",
        "job 41 on slurm, 2 wide, submitted: Waits its turn (PENDING Priority)",
        "0 of 2 done, 2 running · slurm",
        "job 41 on slurm, 2 wide, submitted",
        "Node n7 lost a worker.",
        "1 of 2 done, 1 failed · slurm",
        "job 41 on slurm, 2 wide, ended",
    ]
    assert [request.query.get("since") for request in fake.sent("GET", f"/dispatches/{DISPATCH}")] == [
        None, "1", "2", "3", "3", None,
    ]  # fmt: skip


def test_to_wait_and_to_watch_are_one_or_the_other() -> None:
    with pytest.raises(SystemExit) as end:
        main(["show", DISPATCH, "--wait", "--watch"])
    assert end.value.code == 2


# ---- reports


def test_usage_is_a_table_that_adds_up(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", DISPATCH]) == 0
    lines = _lines(capsys)
    assert [text.split(None, 3) for text in lines[:7]] == [
        ["CORE-SECONDS", "SHARE", "SPENT", "IN"],
        ["6480.0", "90", "%", "running tasks"],
        ["360.0", "5", "%", "waiting for more"],
        ["289.0", "4", "%", "start-up and end"],
        ["72.0", "1", "%", "workers' own work"],
        ["-1.0", "rounding"],
        ["7200.0", "100", "%", "all that was charged"],
    ]
    assert lines[-1] == "Schedulers count whole seconds: that may be up to 2 core-seconds here."


def test_usage_says_what_is_not_known(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = {part: 0.0 for part in a_usage() if part.endswith("_s")} | {"requeued_s": 3.0}
    answer = a_usage(**nothing, used=0, not_begun=0, open=1, unknown=1, complete=False)
    fake.answers["GET", f"/dispatches/{DISPATCH}/usage"] = (200, answer)
    assert main(["usage", DISPATCH]) == 0
    assert _lines(capsys) == [
        "2 array tasks: 1 whose end and cost accounting has not told yet, 1 of unknown end.",
        "Accounting did not tell what 1 array task cost.",
        "Runs before a requeue, which accounting keeps apart: 3.0 core-seconds.",
    ]
    assert main(["usage", DISPATCH, "--json"]) == 0
    assert _json_of(capsys) == answer


def test_sacct_has_saccts_columns(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (
        200,
        a_page(
            a_task(name="relax_the_whole_cell"),
            a_task(1, state="failed", end="signal", signal=11, attempt=2),
            a_task(
                2, state="waiting", end=None, job_id=None, array_index=None, host=None, wall_s=None, started_at=None,
                cpu_s=None, max_rss_kib=None,
            ),
            a_task(
                3, job_id=None, array_index=None, origin={"how": "reused", "dispatch": "01JD", "task": 3}
            ),
        ),
    )  # fmt: skip
    assert main(["sacct", DISPATCH]) == 0
    header, dashes, *rows = _lines(capsys)
    assert " ".join(header.split()) == "JobID JobName State Elapsed CPUTime MaxRSS NodeList ExitCode Task Attempt"
    assert [len(dash) for dash in dashes.split(" ")] == [12, 10, 13, 10, 10, 10, 15, 8, 8, 7]
    assert [row.split() for row in rows] == [
        ["41_3", "relax_the+", "COMPLETED", "00:00:02", "00:00:08", "20480K", "node7", "0:0", "0", "1"],
        ["41_3", "relax", "FAILED", "00:00:02", "00:00:08", "20480K", "node7", "0:11", "1", "2"],
        ["relax", "PENDING", "00:00:00", "00:00:00", "2", "1"],
        # What another dispatch's task took is no part of what this one took.
        ["relax", "COMPLETED", "00:00:00", "00:00:00", "20480K", "node7", "0:0", "3", "1"],
    ]
    assert {len(row) for row in (header, dashes, *rows)} == {len(dashes)}


def test_sacct_for_programs_cuts_nothing_and_keeps_its_columns(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}/tasks"] = (
        200,
        a_page(a_task(name="a|lambda\n\x1b[2J"), a_task(1, end=None)),
    )
    columns = "task,JobName%4,TotalCPU,elapsedraw,NCPUS,Cluster,ExitCode"
    assert main(["sacct", DISPATCH, "--parsable2", "-n", f"--format={columns}"]) == 0
    assert _lines(capsys) == ["0|a/lambda \\x1b[2J|00:01.500|2.000|4|slurm|0:0", "1|relax|00:01.500|2.000|4|slurm|"]
    assert main(["sacct", DISPATCH, "-P", "-o", "JobName"]) == 0
    assert _lines(capsys)[0] == "JobName"
    assert main(["sacct", DISPATCH, "-n", "-o", "JobName%-12,Task%3"]) == 0
    assert _lines(capsys)[1] == "relax          1"


@pytest.mark.parametrize("columns", ["Priority", "JobID,,State", "JobID%x", ""])
def test_a_column_that_is_none_is_the_users_mistake(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], columns: str
) -> None:
    assert main(["sacct", DISPATCH, f"--format={columns}"]) == 2
    assert "There is no column" in capsys.readouterr().err
    assert fake.requests == []


def _a_job(**changes: object) -> dict[str, object]:
    entry = {"index": 7, "state": "ended", "tasks": 2, "raw": "COMPLETED", "host": "node7"}
    task = {"index": 5, "name": "relax", "attempt": 1, "state": "completed", "started_at": "2026-01-01T10:00:00Z"}
    return {
        "dispatch": DISPATCH,
        "name": "flow",
        "cluster": "slurm",
        "job_id": "8123",
        "width": 64,
        "state": "ended",
        "array_tasks": [{**entry, "core_seconds": 103.0, "elapsed_s": 103.0}],
        "not_begun": 0,
        "tasks": [
            {**task, "wall_s": 60.5, "error": None},
            {**task, "index": 2, "attempt": 2, "state": "failed", "wall_s": None, "error": "ValueError: no\nmore"},
        ],
    } | changes


def test_which_says_what_ran_in_an_array_task(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["GET", "/jobs/8123_7"] = (200, {"arrays": [_a_job()]})
    assert main(["which", "8123_7"]) == 0
    lines = _lines(capsys)
    assert lines[:2] == [f"flow  {DISPATCH}", "job 8123 on slurm, 64 wide, ended"]
    assert lines[3].split() == ["8123_7", "ended", "2", "node7", "00:01:43", "103.0", "COMPLETED"]
    assert lines[6].split()[:4] == ["5", "relax", "1", "completed"]
    assert lines[6].endswith("60.5 s")
    assert lines[7].split()[0] == "2"
    assert lines[7].endswith("ValueError: no")


def test_which_of_a_whole_array_says_how_many_never_began(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    twins = [_a_job(tasks=[], not_begun=48), _a_job(cluster="other", tasks=[], array_tasks=[])]
    fake.answers["GET", "/jobs/8123"] = (200, {"arrays": twins})
    assert main(["which", "8123"]) == 0
    lines = _lines(capsys)
    assert lines[4:] == [
        "48 left the queue before they began.",
        "",
        f"flow  {DISPATCH}",
        "job 8123 on other, 64 wide, ended",
    ]
    assert main(["which", "8124"]) == 5
    assert capsys.readouterr().err == "Nothing at /jobs/8124 here.\n"
    assert main(["which", "8123", "--json"]) == 0
    assert _json_of(capsys) == twins


def test_cancel_passes_the_tasks_on(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["POST", f"/dispatches/{DISPATCH}/cancel"] = (200, {"cancelled": 2, "message": "2 tasks cancelled."})
    assert main(["cancel", DISPATCH, "--task", "1", "--task", "5"]) == 0
    assert fake.requests[0].body == b'{"tasks": [1, 5]}'
    assert _lines(capsys) == ["2 tasks cancelled."]
    assert main(["cancel", DISPATCH, "--task", "3-5,8", "--task", "1"]) == 0
    assert fake.requests[1].body == b'{"tasks": [3, 4, 5, 8, 1]}'


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        ("a", "argument --task: 'a' is no number from 0 on"),
        ("1,,2", "argument --task: '' is no number from 0 on"),
        ("5-3", "argument --task: '5-3' is no range of tasks; write it as 3-5"),
        ("0-999999999", "argument --task: '0-999999999' is no range of tasks; write it as 3-5"),
    ],
)
def test_what_names_no_tasks_is_told_in_a_sentence(
    capsys: pytest.CaptureFixture[str], tasks: str, problem: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["retry", DISPATCH, "--task", tasks])
    assert end.value.code == 2
    assert problem in capsys.readouterr().err


# ---- pausing and trying again


@pytest.mark.parametrize(
    ("command", "sent"),
    [
        (["pause", DISPATCH], None),
        (["resume", DISPATCH], None),
        (["retry", DISPATCH], {**AS_IT_WAS, "failed_only": False}),
        (
            ["retry", DISPATCH, "--failed", "--memory", "24GB", "--walltime", "2h"],
            {**AS_IT_WAS, "memory_mib": 22889, "walltime_s": 7200},
        ),
        (["retry", DISPATCH, "--failed", "--more"], {**AS_IT_WAS, "more": True}),
        (["retry", DISPATCH, "--failed", "--task", "1", "--task", "5"], {**AS_IT_WAS, "tasks": [1, 5]}),
        (
            ["retry", DISPATCH, "--failed", "--electron", "relax", "--task", "5", "--memory", "8 GB"],
            {**AS_IT_WAS, "tasks": [5], "electrons": ["relax"], "memory_mib": 7630},
        ),
    ],
)
def test_what_shall_become_of_a_dispatch_is_passed_on(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], command: list[str], sent: object
) -> None:
    fake.answers["POST", f"/dispatches/{DISPATCH}/{command[0]}"] = (200, {"moved": 3, "message": "3 tasks moved."})
    assert main(command) == 0
    assert _lines(capsys) == ["3 tasks moved."]
    assert (json.loads(fake.requests[0].body) if fake.requests[0].body else None) == sent
    assert main([*command, "--json"]) == 0
    assert _json_of(capsys) == {"moved": 3, "message": "3 tasks moved."}


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        (("--memory", "24"), "memory='24' is no amount of memory"),
        (("--walltime", "2"), "walltime='2' is no length of"),
        (("--task", "3", "--memory=-8 GB"), "memory='-8 GB' is no amount of memory"),
        (("--electron", "relax", "--memory", "0 GB"), "memory='0 GB' must be more than nothing"),
        (("--walltime=-2 h",), "walltime='-2 h' is no length of"),
    ],
)
def test_an_amount_without_a_unit_is_the_users_mistake(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], option: tuple[str, str], problem: str
) -> None:
    assert main(["retry", DISPATCH, *option]) == 2
    assert problem in capsys.readouterr().err
    assert fake.requests == []


def test_show_says_when_the_scheduler_was_asked_last(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    asked = [
        {"cluster": "lsf", "at": "2026-01-01T10:00:02Z", "problem": "bjobs does not answer."},
        {"cluster": "pbs", "at": None, "problem": None},
        {"cluster": "slurm", "at": "2026-01-01T10:00:03Z", "problem": None},
    ]
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, a_summary(status="RUNNING", asked=asked))
    assert main(["show", DISPATCH]) == 0
    first, second, third = _lines(capsys)[-3:]
    assert first.startswith("lsf was asked last at 2026-01-01 ")
    assert first.endswith(", and did not answer: bjobs does not answer.")
    assert second == "pbs has not been asked yet; `hpcflow queue pbs` asks it now."
    assert third.startswith("slurm was asked last at 2026-01-01 ")


def test_a_paused_dispatch_says_why_and_what_goes_on(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "Job 41 was cancelled by root, outside hpcflow (CANCELLED by 0)."
    said = [
        {"at": "2026-01-01T10:00:03Z", "text": text}
        for text in ("It runs on slurm.", f"{reason} Nothing is submitted.")
    ]
    paused = a_summary(
        status="RUNNING", ended_at=None, counts={"completed": 1, "paused": 1}, paused=reason, messages=said
    )
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = (200, paused)
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [paused]})
    assert main(["show", DISPATCH]) == 0
    shown = _lines(capsys)
    assert shown[0] == f"flow  {DISPATCH}  RUNNING, paused"
    assert shown[2] == "1 of 2 done, 1 paused · slurm"
    assert shown[3] == "It runs on slurm."
    assert shown[4] == f"Paused: {reason} Go on with `hpcflow resume {DISPATCH}`."
    assert main(["dispatches"]) == 0
    assert "RUNNING, paused" in _lines(capsys)[1]


# ---- the token


def test_a_new_token_is_asked_of_the_server_that_runs(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    fake.answers["POST", "/token"] = (200, {"ok": True})
    assert main(["token", "rotate"]) == 0
    assert "the old one is refused" in capsys.readouterr().out
    assert len(fake.sent("POST", "/token")) == 1


def test_without_a_server_the_old_token_is_gone(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (hpcflow_home / "token").write_text("old\n")
    assert main(["token", "rotate"]) == 0
    assert "the next start of the server makes a new one" in capsys.readouterr().out
    assert not (hpcflow_home / "token").exists()
    assert main(["token", "rotate"]) == 0


# ---- clusters, the page


def test_clusters_list_shows_the_default_and_the_problems(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    clusters = [
        {
            "name": "slurm",
            "scheduler": "slurm",
            "version": "23.02",
            "state": "unreachable",
            "problem": "sinfo does not answer.",
            "partitions": [{"name": "cpu"}, {"name": "gpu"}],
            "site": "poll 60, linger 0",
            "default": True,
        }
    ]
    fake.answers["GET", "/clusters"] = (200, {"clusters": clusters})
    assert main(["clusters", "list"]) == 0
    assert _lines(capsys) == [
        "CLUSTER          SCHEDULER    STATE        PARTITIONS  PROBLEM",
        "slurm (default)  slurm 23.02  unreachable  cpu, gpu    sinfo does not answer.",
        "The site of slurm rules: poll 60, linger 0",
    ]


def a_step(step: str, state: str, detail: str, command: str | None = None, output: str = "") -> dict[str, object]:
    ok = {"running": None, "failed": False}.get(state, True)
    return {"step": step, "ok": ok, "state": state, "detail": detail, "command": command, "output": output}


def test_a_test_shows_each_step_once_and_a_failure_exits_with_1(
    fake: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    reach, clock = a_step("reach", "ok", "far answers"), a_step("clock", "skipped", "not now")
    submit = a_step("submit", "failed", "Invalid account.", "sbatch -A x", "sbatch: error:\n\x1b[2J no")
    running = a_step("clock", "running", "")
    fake.answers["POST", "/clusters/slurm/test"] = (
        200,
        {"done": False, "ok": None, "version": 3, "steps": [reach, running]},
    )
    fake.answers["GET", "/clusters/slurm/test"] = (
        200,
        {"done": True, "ok": False, "version": 9, "steps": [reach, clock, submit]},
    )
    assert main(["clusters", "test", "slurm", "--wait", "7"]) == 1
    assert _lines(capsys) == [
        "ok      reach: far answers",
        "-       clock: not now",
        "FAILED  submit: Invalid account.",
        "        sbatch -A x",
        "        sbatch: error:",
        "        \\x1b[2J no",
    ]
    (asked,) = fake.sent("POST", "/clusters/slurm/test")
    sent = json.loads(asked.body)
    assert (sent["python"], sent["patience_s"], sent["jobs"]) == (list(sys.version_info[:2]), 7.0, True)
    assert fake.sent("GET", "/clusters/slurm/test")[0].query["since"] == "3"


def a_login(number: int, *prompts: tuple[str, bool], state: str = "needs login") -> Answer:
    """What the server answers during a login; without prompts it is over."""
    question = {"number": number, "host": "ada@far", "text": "Say \x1b[31mwho", "prompts": []}
    question["prompts"] = [{"text": text, "echo": echo} for text, echo in prompts]
    cluster = {"name": "far", "state": state, "version": "slurm 23.02", "problem": None}
    return 200, {"login": "an-id", "question": question if prompts else None, "cluster": cluster}


def test_a_login_asks_a_person_and_shows_only_what_may_be_shown(fake: FakeServer) -> None:
    fake.answers["POST", "/clusters/far/login"] = a_login(1, ("Password: ", False))
    fake.answers["POST", "/clusters/far/login/answer"] = [a_login(2, ("Code: ", True)), a_login(0, state="ok")]
    with terminal([sys.executable, "-m", "hpcflow.cli", "clusters", "login", "far"]) as login:
        login.answer("Password: ", "sesame")
        login.answer("Code: ", "123456")
        assert login.end() == 0
    assert "You are in: far answers (slurm 23.02)." in login.shown
    assert ("sesame" in login.shown, "123456" in login.shown, "\x1b" in login.shown) == (False, True, False)
    sent = [json.loads(request.body) for request in fake.sent("POST", "/clusters/far/login/answer")]
    assert sent == [
        {"login": "an-id", "number": 1, "answers": ["sesame"]},
        {"login": "an-id", "number": 2, "answers": ["123456"]},
    ]


def test_a_login_without_a_terminal_asks_nobody(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers["POST", "/clusters/far/login"] = a_login(1, ("Password: ", False))
    monkeypatch.setattr(sys, "stdin", io.StringIO("sesame\n"))
    assert main(["clusters", "login", "far"]) == 2
    assert capsys.readouterr().err == "far asks for a person: run `hpcflow clusters login far` in a terminal.\n"
    assert fake.sent("POST", "/clusters/far/login/answer") == []


def test_the_pages_address_is_all_of_stdout(fake: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    forward = "ssh -N -L 5000:127.0.0.1:5000 login1"
    fake.answers["POST", "/ui"] = (200, {"url": "http://127.0.0.1:5000/#code", "ssh_forward": forward})
    assert main(["ui"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "http://127.0.0.1:5000/#code\n"
    assert shown.err == f"From your own machine, first: {forward}\n"


# ---- plan

SCRIPT = """
import sys
import hpcflow

@hpcflow.electron
def double(x):
    return 2 * x

@hpcflow.lattice
def flow(x):
    return double(x)

if __name__ == "__main__":
    hpcflow.dispatch(flow)(int(sys.argv[1]))
    open("went-on", "w")
"""


def _plan(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hpcflow.cli", "plan", *arguments[:-1], str(script), *arguments[-1:]],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def planner(fake: FakeServer) -> FakeServer:
    fake.answers["POST", "/dispatches"] = lambda request: (200, a_plan()) if request.query else (500, {})
    return fake


def test_a_script_is_run_up_to_its_first_dispatch_and_planned(planner: FakeServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = _plan(script, "21")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Bag 1: 40 tasks of relax on slurm" in done.stdout
    [request] = planner.requests
    assert request.query == {"plan": "true"}
    assert [task[0] for task in request.manifest["tasks"]] == ["double"]
    assert not Path("went-on").exists()


def test_a_plan_as_json(planner: FakeServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    plan = json.loads(_plan(script, "--json", "21").stdout)
    assert (plan["core_hours_bound"], plan["bags"][0]["widths"]) == (40.0, [20])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "ended without a dispatch: it has to call hpcflow.dispatch(lattice)(…) by itself."),
        ("raise SystemExit(3)", "exited (3) before it dispatched anything."),
    ],
)
def test_a_script_without_a_dispatch_is_the_users_mistake(
    planner: FakeServer, tmp_path: Path, text: str, sentence: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(text)
    done = _plan(script, "1")
    assert (done.returncode, done.stderr) == (2, f"{script} {sentence}\n")


def test_a_script_that_raises_shows_its_own_frames_only(planner: FakeServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def f():\n    raise KeyError('volume')\nf()\n")
    done = _plan(script, "1")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1] == f'  File "{script}", line 3, in <module>'
    assert lines[-2:] == ["KeyError: 'volume'", f"{script} failed before it dispatched anything."]


def test_a_mistake_in_a_planned_script_is_shown_with_its_line(planner: FakeServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import hpcflow\n\nhpcflow.electron(cpus=0)(len)\n")
    done = _plan(script, "1")
    assert done.returncode == 2
    first, *_, last = done.stderr.splitlines()
    assert first == f'  File "{script}", line 3, in <module>'
    assert last == "The electron 'len': cpus=0 must be between 1 and 4096."


def test_a_missing_script_is_the_users_mistake(hpcflow_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(hpcflow_home / "none.py")]) == 2
    assert capsys.readouterr().err == f"There is no script {hpcflow_home}/none.py.\n"


# ---- a terminal


def test_watching_in_a_terminal_keeps_one_screen_up_to_date(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, a_summary(status="RUNNING", version=1, counts={"queued": 2}, ended_at=None)),
        (200, a_summary(status="RUNNING", version=2, counts={"running": 2}, ended_at=None)),
        (200, a_summary()),
    ]
    with terminal(
        [sys.executable, "-m", "hpcflow.cli", "show", DISPATCH, "--watch"],
        {**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as command:
        assert command.end() == 0
    frames = command.shown.split("\x1b[H\x1b[2J")
    assert ["2 queued" in frame for frame in frames] == [False, True, False, False]
    assert ["2 running" in frame for frame in frames] == [False, False, True, False]
    assert "2 of 2 done" in frames[3]
    assert "A task was running in 90 % of 2.0 core-hours" in frames[3]


def test_waiting_in_a_terminal_shows_a_bar(fake: FakeServer) -> None:
    fake.answers["GET", f"/dispatches/{DISPATCH}"] = [
        (200, a_summary(status="RUNNING", version=1, counts={"running": 2})),
        (200, a_summary(status="RUNNING", version=2, counts={"running": 1, "paused": 1}, paused="You paused it.")),
        (200, a_summary()),
    ]
    with terminal(
        [sys.executable, "-m", "hpcflow.cli", "show", DISPATCH, "--wait"],
        {**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    ) as command:
        assert command.end() == 0
    for text in (
        "0 of 2 done, 1 paused, 1 running · slurm",
        "Paused: You paused it. Go on with `hpcflow resume",
        "2 of 2 done · slurm",
        "━",
    ):
        assert text in command.shown


def test_disconnect_says_that_nothing_was_connected_from_a_new_home(
    hpcflow_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["disconnect"]) == 0
    assert capsys.readouterr().out == f"{hpcflow_home} is connected to no login node.\n"
    assert list(hpcflow_home.iterdir()) == []


@pytest.mark.parametrize("word", ["--version", "dispatches"])
def test_output_that_finds_no_room_is_one_sentence_and_no_traceback(fake: FakeServer, word: str) -> None:
    fake.answers["GET", "/dispatches"] = (200, {"dispatches": [a_summary()]})
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            (sys.executable, "-m", "hpcflow.cli", word),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "hpcflow: what it prints can't be written: No space left on device\n",
    )


@pytest.mark.parametrize(
    ("scheduler", "ids"), [("slurm", ["41_3", "41_[4-6]", "42"]), ("lsf", ["41[3]", "41[4-6]", "42"])]
)
def test_a_queue_has_the_schedulers_own_ids_and_says_that_a_new_question_waits_for_its_answer(
    fake: FakeServer, capsys: pytest.CaptureFixture[str], scheduler: str, ids: list[str]
) -> None:
    job = {
        "tasks": 1,
        "name": "x",
        "user": "ada",
        "account": None,
        "partition": "p",
        "state": "suspended",
        "raw": "SSUSP",
    }
    job |= dict.fromkeys(("reason", "stuck", "nodes", "cores", "gpus", "walltime_s", "started_at", "starts_at"))
    job |= {"why": "Is suspended by LSF", "hosts": "n1", "starts_from": None, "ahead": None}
    rows = [{**job, "job_id": name, "indices": of} for name, of in (("41", "3"), ("41", "4-6"), ("42", None))]
    view = {"cluster": "far", "scheduler": scheduler, "asked_at": "2026-01-01T10:00:00Z", "age_s": 259.2}
    view |= {"problems": [], "partitions": [], "jobs": rows, "jobs_total": 3}
    for problem, asking_s, head in (
        (None, None, ""),
        (None, 3.1, "; it was asked again 3 s ago and has not answered yet"),
        ("no route", 12.0, "; it was asked again 12 s ago and has not answered since"),
        ("no route", None, "; it has not answered since"),
    ):
        fake.answers["GET", "/clusters/far/queue"] = (200, {**view, "problem": problem, "asking_s": asking_s})
        assert main(["queue", "far"]) == 0
        shown = capsys.readouterr()
        assert shown.out.splitlines()[0] == f"far ({scheduler}), 259 s ago{head}"
        assert shown.err == (f"far did not answer: {problem}\n" if problem else "")
    cells = [line.split() for line in shown.out.splitlines() if " ada " in line]
    assert [line[0] for line in cells] == ids
    assert [line[6] for line in cells] == ["suspended"] * 3
    assert shown.out.count("Is suspended by LSF (SSUSP)") == 3
