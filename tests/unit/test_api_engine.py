"""The whole server as a process, with its engine: every answer has the shape that the API's description gives it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Generator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import hpcflow
from hpcflow.core.bag import stream_parts
from hpcflow.core.places import Places
from hpcflow.core.states import Status
from hpcflow.sdk.manifest import manifest
from hpcflow.server import cluster_schema, schema
from hpcflow.server.home import read_notice
from tests.processes import killed
from tests.unit.served import FIRST, OTHER, a_shape

THIRD = "01JD0000000000000000000003"
# Whatever looks a class up by a pickle's word in the server ends it; its workers are processes of their own.
PROGRAM = """
import os, sys

def hook(event, arguments):
    if event == "pickle.find_class":
        os.write(2, b"the server opened a pickle")
        os._exit(99)

from hpcflow.server.__main__ import main
sys.addaudithook(hook)
sys.exit(main(sys.argv[1:]))
"""
# The plugins are found by entry point, also where the tests run from a checkout that nobody installed.
ENTRY_POINTS = "[hpcflow.executors]\nlocal = hpcflow_local:LocalPlugin\n"


class Client:
    def __init__(self, where: Places) -> None:
        notice = read_notice(where)
        assert notice is not None
        self._address = notice.address
        self._token = Path(where.token).read_text().strip()

    def ask(
        self, method: str, path: str, body: bytes | None = None, media: str = "application/json"
    ) -> tuple[int, bytes]:
        connection = HTTPConnection("localhost", timeout=60)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.settimeout(60)
            connection.sock.connect(self._address)
            headers = {"Authorization": f"Bearer {self._token}", **({"Content-Type": media} if body else {})}
            connection.request(method, f"/api/v1{path}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:  # Any: JSON
        status, raw = self.ask("GET", path)
        assert status == 200, raw
        return json.loads(raw)

    def upload(self, identifier: str, query: str = "", **changes: object) -> tuple[int, Any]:  # Any: JSON
        described, blobs = manifest(roots.build_graph([4, 9, -1]))
        client = {"host": "login1", "user": "me", "version": "1.2.3"}
        parts = stream_parts({**described, "id": identifier, "client": client, **changes}, blobs)
        raw = zlib.compress(b"".join(parts), 1)
        status, answer = self.ask("POST", f"/dispatches{query}", raw, "application/x-hpcflow-dispatch")
        return status, json.loads(answer)

    def ended(self, identifier: str) -> Any:  # Any: JSON
        """Wait for a dispatch's end by long polls, as the client does."""
        summary = self.get(f"/dispatches/{identifier}")
        while summary["status"] == Status.RUNNING:
            summary = self.get(f"/dispatches/{identifier}?since={summary['version']}&wait=20")
        return summary


@hpcflow.electron
def root(value: int) -> float:
    print("the root of", value)
    if value < 0:
        raise ValueError("a <script>alert(1)</script> negative number \x1b[31m \ud83d")
    return float(value**0.5)


@hpcflow.lattice
def roots(values: list[int]) -> list[float]:
    return [root(value) for value in values]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Generator[Client]:
    """A server with one dispatch that has ended: two tasks completed, one failed."""
    folder = tmp_path_factory.mktemp("engine")
    folder.chmod(0o700)
    info = folder / "plugins" / "hpcflow_orchestrator-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hpcflow-orchestrator\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    path = os.pathsep.join([*(entry for entry in sys.path if entry), str(info.parent)])
    where = Places(str(folder / "home"))
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={"PATH": str(folder), "HPCFLOW_HOME": where.home, "PYTHONPATH": path, "HOME": str(folder)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while read_notice(where) is None:
            assert process.poll() is None, process.communicate(timeout=60)[1]
            time.sleep(0.02)
        here = Client(where)
        assert here.upload(FIRST)[0] == 201
        here.ended(FIRST)
        yield here
        process.terminate()
        assert process.communicate(timeout=60)[1] == ""
        assert process.returncode == 0
        assert "Traceback" not in Path(where.log).read_text()
    finally:
        killed(process)


@pytest.mark.parametrize(
    ("others", "hint"),
    [
        ({}, ""),
        ({"ssh": ["SSH_AUTH_SOCK"]}, ""),
        (
            {"slurm": ["SLURM_CONF", "PATH"], "pbs": ["PBS_CONF_FILE"]},
            " The server began with another SLURM_CONF, PATH and PBS_CONF_FILE than this program has: "
            "`hpcflow restart` gives it these.",
        ),
    ],
)
def test_who_has_another_environment_than_the_server_is_told_to_restart_it(
    client: Client, others: dict[str, list[str]], hint: str
) -> None:
    told = {"host": "login1", "user": "me", "version": "1.2.3", "others": others}
    status, answer = client.upload("01JD0000000000000000000PN1", "?plan=1", client=told)
    assert status in {200, 201}, answer
    assert answer["messages"][0] == (
        f"Electrons without executor= run on 'local', because no scheduler was found on this machine.{hint}"
    )


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/status", schema.ServerStatus),
        ("/clusters", cluster_schema.Clusters),
        ("/dispatches", schema.Dispatches),
        (f"/dispatches/{FIRST}", schema.Summary),
        (f"/dispatches/{FIRST}/tasks", schema.TaskTable),
        (f"/dispatches/{FIRST}/tasks/0", schema.TaskDetail),
        (f"/dispatches/{FIRST}/tasks/2", schema.TaskDetail),
    ],
)
def test_an_answer_is_what_its_description_says(client: Client, path: str, model: type[BaseModel]) -> None:
    answer = client.get(path)
    assert set(model.model_validate_json(json.dumps(answer)).model_dump()) == set(answer)


def test_a_failed_task_tells_what_happened_and_the_others_what_came_out(client: Client) -> None:
    summary = client.get(f"/dispatches/{FIRST}")
    assert (summary["status"], summary["counts"]) == ("FAILED", {"completed": 2, "failed": 1})
    failed = client.get(f"/dispatches/{FIRST}/tasks?state=failed")
    assert [row[0] for row in failed["rows"]] == [2]
    detail = client.get(f"/dispatches/{FIRST}/tasks/2")
    assert (detail["name"], detail["error_type"]) == ("root", "ValueError")
    assert "<script>alert(1)</script>" in detail["error"]
    assert client.ask("GET", f"/dispatches/{FIRST}/tasks/1/stdout") == (200, b"the root of 9\n")


def test_a_plan_has_the_described_shape_and_runs_nothing(client: Client) -> None:
    status, plan = client.upload(OTHER, "?plan=true")
    assert status == 200
    assert schema.Plan.model_validate(plan).bags[0].tasks == 3
    assert set(plan) == set(schema.Plan.model_fields)
    assert client.ask("GET", f"/dispatches/{OTHER}")[0] == 404


def test_the_same_upload_again_changes_nothing(client: Client) -> None:
    before = client.get(f"/dispatches/{FIRST}")
    status, answer = client.upload(FIRST)
    assert (status, answer["id"], answer["status"]) == (200, FIRST, "FAILED")
    assert client.get(f"/dispatches/{FIRST}") == before


def test_cancelling_what_has_ended_is_no_error(client: Client) -> None:
    status, raw = client.ask("POST", f"/dispatches/{FIRST}/cancel", b'{"tasks": null}')
    assert status == 200
    assert schema.CancelAnswer.model_validate_json(raw).cancelled == 0


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pausing_and_resuming_what_has_ended_is_no_error(client: Client, verb: str) -> None:
    status, raw = client.ask("POST", f"/dispatches/{FIRST}/{verb}")
    assert status == 200
    answer = schema.Moved.model_validate_json(raw)
    assert answer.moved == 0
    assert answer.message.startswith(f"Dispatch {FIRST} has ended already")


@pytest.mark.parametrize(
    ("path", "body", "status", "sentence"),
    [
        ("/clean", {}, 422, "Say what to remove"),
        ("/settings", {"settings": {"lingr": 1}}, 422, "did you mean 'linger'"),
        ("/settings", {"settings": {"linger": "1"}}, 422, "linger is '1'"),
        ("/clusters/local/login", None, 409, "there is nothing to log in to"),
        ("/clusters/local/draft", {"settings": {"scheduler": "local"}}, 409, "There is a cluster 'local' already"),
        ("/clusters/far/draft", {"settings": {"scheduler": "local", "channels": "5"}}, 422, "channels is '5'"),
        ("/clusters/far/draft", {"settings": {"scheduler": "cron"}}, 422, "no plugin for the scheduler 'cron'"),
        ("/clusters/nosuch/remove", None, 404, "There is no cluster 'nosuch'"),
        (f"/dispatches/{FIRST}/redispatch", {"id": FIRST}, 422, "needs an id of its own"),
    ],
)
def test_a_mistake_and_a_state_that_forbids_it_are_told_apart(
    client: Client, path: str, body: dict[str, Any] | None, status: int, sentence: str
) -> None:
    answered, raw = client.ask("POST", path, None if body is None else json.dumps(body).encode())
    assert answered == status
    assert sentence in json.loads(raw)["error"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shapes": [a_shape(executor="slrum")]}, "slrum"),
        ({"shapes": [a_shape(resources={"cpus": 2**30})]}, "1073741824"),
        ({"tasks": [["a", 0, 1, 0, 1, 2], ["b", 0, 1, 0, 0, 2]], "needs": [[0], [1], []], "output_deps": [0]}, ""),
        ({"tasks": [["a", 0, 1, 0, 0, 1]], "needs": [[0], []], "output_deps": [0]}, ""),
        ({"tasks": [], "output_deps": []}, ""),
    ],
)
def test_what_can_not_run_is_refused_and_not_kept(client: Client, changes: dict[str, Any], sentence: str) -> None:
    status, answer = client.upload(OTHER, **changes)
    assert status == 422
    assert sentence in answer["error"]
    assert client.ask("GET", f"/dispatches/{OTHER}")[0] == 404


@pytest.mark.parametrize(
    "path",
    [
        f"/dispatches/{OTHER}/tasks",
        f"/dispatches/{OTHER}/tasks/0",
        f"/dispatches/{OTHER}/tasks/0/stdout",
        f"/dispatches/{OTHER}/output",
        f"/dispatches/{OTHER}/results?tasks=all",
        f"/dispatches/{FIRST}/tasks/3",
        f"/dispatches/{FIRST}/tasks/{2**53 - 1}",
    ],
)
def test_what_is_not_there_is_not_found(client: Client, path: str) -> None:
    status, raw = client.ask("GET", path)
    assert (status, set(json.loads(raw))) == (404, {"error"})


def test_reading_far_beyond_the_end_gives_nothing(client: Client) -> None:
    assert client.ask("GET", f"/dispatches/{FIRST}/tasks/0/stdout?offset={2**53 - 1}") == (200, b"")
    assert client.get(f"/dispatches/{FIRST}/tasks?after={2**53 - 1}")["rows"] == []


def test_results_follow_one_another_as_described(client: Client) -> None:
    status, raw = client.ask("GET", f"/dispatches/{FIRST}/results?tasks=2,0,1")
    assert status == 200
    kinds: dict[int, str] = {}
    while raw:
        line, _, raw = raw.partition(b"\n")
        head = json.loads(line)
        kinds[head["task"]] = head["kind"]
        raw = raw[head["size"] :]
    assert kinds == {0: "result", 1: "result", 2: "error"}


def test_what_failed_is_tried_again_in_a_dispatch_that_has_ended(client: Client) -> None:
    status, answer = client.upload(THIRD)
    assert status == 201
    assert client.ended(answer["id"])["counts"] == {"completed": 2, "failed": 1}
    body = json.dumps({"failed_only": True, "memory_mib": 100, "walltime_s": 60}).encode()
    status, raw = client.ask("POST", f"/dispatches/{THIRD}/retry", body)
    assert (status, schema.Moved.model_validate_json(raw).moved) == (200, 1)
    assert client.ended(THIRD)["counts"] == {"completed": 2, "failed": 1}
    assert [client.get(f"/dispatches/{THIRD}/tasks/{index}")["attempt"] for index in range(3)] == [1, 1, 2]
    status, raw = client.ask("POST", f"/dispatches/{THIRD}/retry", b'{"failed_only": true, "memory_mib": 1000000000}')
    assert status == 422
    assert "953.7 TiB" in json.loads(raw)["error"]
    assert client.get(f"/dispatches/{THIRD}")["status"] == "FAILED"
