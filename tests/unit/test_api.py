"""The routes, on real sockets, with a service behind them that runs nothing."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import threading
import zlib
from collections.abc import Generator
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcflow.core.bag import stream_parts
from hpcflow.core.model import Resources, is_ulid
from hpcflow.server import schema
from hpcflow.server.upload import ResourcesNote, Upload
from tests.unit.served import (
    BLOBS,
    FIRST,
    OTHER,
    Answer,
    Json,
    MemoryService,
    Served,
    a_manifest,
    a_shape,
    an_upload,
    served,
)


@pytest.fixture
def server(tmp_path: Path) -> Generator[Served]:
    with served(tmp_path) as here:
        yield here


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    """A server with one dispatch, for tests that change nothing."""
    with served(tmp_path_factory.mktemp("api")) as here:
        assert here.upload(an_upload()).status == 201
        yield here


def asking(**resources: object) -> Json:
    return {"shapes": [a_shape(resources=resources)]}


def failing(**retries: object) -> Json:
    return {"shapes": [a_shape(retries={**a_shape()["retries"], **retries})]}


def left_behind(server: Served) -> list[str]:
    return os.listdir(server.folder / "dispatches")


# ---- pausing and trying again


@pytest.mark.parametrize(
    ("verb", "body", "message"),
    [
        ("pause", None, "Paused."),
        ("resume", None, "It goes on."),
        ("retry", None, "failed_only=False None MiB None s"),
        ("retry", {"failed_only": True, "memory_mib": 24576, "walltime_s": 60}, "failed_only=True 24576 MiB 60 s"),
        ("retry", {"electrons": ["relax", "fit"]}, "failed_only=False None MiB None s of relax, fit"),
    ],
)
def test_what_shall_become_of_a_dispatch_reaches_the_service(
    shared: Served, verb: str, body: Json | None, message: str
) -> None:
    raw = None if body is None else json.dumps(body).encode()
    answer = shared.ask("POST", f"/api/v1/dispatches/{FIRST}/{verb}", body=raw)
    assert (answer.status, answer.json) == (200, {"moved": 1, "message": message})
    assert shared.ask("POST", f"/api/v1/dispatches/{OTHER}/{verb}", body=raw).status == 404


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"memory_mib": 0}, 422, "memory_mib: "),
        ({"memory_mib": 2**41}, 422, "memory_mib: "),
        ({"walltime_s": -5}, 422, "walltime_s: "),
        ({"failed_only": "maybe"}, 422, "failed_only: "),
        ({"memory_mib": "5"}, 422, "memory_mib: "),
        ({"tasks": [False]}, 422, "tasks.0: "),
        ({"tasks": [-1]}, 422, "tasks.0: "),
        ({"electrons": "relax"}, 422, "electrons: "),
        ({"memory": "24 GB"}, 422, "memory: "),
        ({"memory_mib": 2**40}, 422, "No partition has so much memory."),
    ],
)
def test_a_retry_that_can_not_be_is_refused(shared: Served, body: Json, status: int, sentence: str) -> None:
    for path in ("retry", "retry/plan"):
        answer = shared.ask("POST", f"/api/v1/dispatches/{FIRST}/{path}", body=json.dumps(body).encode())
        assert (answer.status, answer.error[: len(sentence)]) == (status, sentence)


# ---- dispatching


def test_a_dispatch_reaches_the_service_whole(server: Served) -> None:
    answer = server.upload(an_upload())
    assert answer.status == 201
    assert answer.json == {"id": FIRST, "status": "RUNNING", "messages": ["It runs on local."]}
    manifest = server.service.manifests[FIRST]
    assert manifest["tasks"] == [("square", 0, 1, 0, 0, 0), ("square", 0, 1, 0, 1, 0)]
    assert manifest["blobs"][2][0] == 0
    assert server.service.payloads[FIRST] == b"".join(BLOBS)
    assert left_behind(server) == []


def test_the_same_dispatch_again_is_the_same_answer_and_no_second_run(server: Served) -> None:
    first = server.upload(an_upload())
    again = server.upload(an_upload(a_manifest(name="another")))
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    assert server.service.manifests[FIRST]["name"] == "grid"
    assert left_behind(server) == []


def test_a_plan_leaves_nothing_behind(server: Served) -> None:
    for _ in range(2):
        answer = server.upload(an_upload(), "?plan=true")
        assert (answer.status, answer.json["messages"]) == (200, ["2 tasks"])
    assert server.service.manifests == {}
    assert left_behind(server) == []


def test_further_tasks_of_an_open_dispatch_are_an_upload_that_names_it(server: Served) -> None:
    answer = server.upload(an_upload(), f"?into={OTHER}")
    wrong = server.upload(an_upload(), "?into=nothing")
    assert (answer.status, answer.json) == (201, {"id": OTHER, "status": "RUNNING", "first": 2, "messages": []})
    assert wrong.status == 404
    assert server.service.manifests == {}
    assert left_behind(server) == []


def test_arguments_are_a_stream_of_all_tasks_or_of_those_that_are_named(shared: Served) -> None:
    path = f"/api/v1/dispatches/{FIRST}/arguments"
    everything, some = shared.ask("GET", path), shared.ask("GET", f"{path}?tasks=1,2&small=true")
    assert [json.loads(answer.body)["asked"] for answer in (everything, some)] == [None, [1, 2]]
    assert [json.loads(answer.body)["small"] for answer in (everything, some)] == [False, True]
    assert shared.ask("GET", f"{path}?tasks=x").status == 422


def test_what_the_service_refuses_is_told_and_removed(server: Served) -> None:
    answer = server.upload(an_upload(a_manifest(name="refused")))
    assert (answer.status, answer.error) == (422, "There is no cluster called 'slrum'.")
    assert left_behind(server) == []


def test_an_upload_may_come_in_any_pieces(tmp_path: Path) -> None:
    raw = an_upload()
    for size in (1, 7, 64, len(raw)):
        upload = Upload(str(tmp_path), limit=2**20)
        for start in range(0, len(raw), size):
            upload.feed(raw[start : start + size])
        assert upload.finish()["id"] == FIRST
        assert Path(upload.path).read_bytes() == b"".join(BLOBS)
        assert os.stat(upload.path).st_mode & 0o777 == 0o600
        upload.close()
    assert os.listdir(tmp_path) == []


def test_a_large_upload_arrives_as_it_was(server: Served) -> None:
    blob = os.urandom(3_000_000)
    answer = server.upload(an_upload(blobs=(BLOBS[0], blob, b"")))
    assert answer.status == 201
    assert server.service.payloads[FIRST] == BLOBS[0] + blob


def test_a_bomb_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    with served(tmp_path, max_upload=10**6) as server:
        honest = server.upload(an_upload(blobs=(b"x" * 2_000_000, b"", b"")))
        assert honest.status == 413
        assert honest.error.startswith("The dispatch unpacks to more than 1000000 bytes.")
        liar = zlib.compress(b"".join(stream_parts(a_manifest(), BLOBS)) + b"\0" * 50_000_000)
        assert len(liar) < 60_000
        assert server.upload(liar).status in {413, 422}
        assert server.upload(zlib.compress(b"HFDISP1\n" + b"\xff" * 7 + b"\0")).status == 413
        assert left_behind(server) == []


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    press = zlib.compressobj(9)
    bomb = press.compress(b"HFDISP1\n" + (2**29).to_bytes(8, "little"))
    bomb += b"".join(press.compress(b" " * 2**20) for _ in range(600)) + press.flush()
    program = (
        "import resource, sys\n"
        "from hpcflow.server.upload import TooLarge, Upload\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n    Upload(sys.argv[1], limit=2**24).feed(sys.stdin.buffer.read())\n"
        "except TooLarge:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], input=bomb, capture_output=True, check=True)
    assert int(done.stdout) < 40_000


def test_an_upload_that_is_cut_is_refused(server: Served) -> None:
    raw = an_upload()
    for end in (0, 5, 40, len(raw) // 2, len(raw) - 1):
        answer = server.upload(raw[:end])
        assert answer.status in {422, 415}, end
    assert left_behind(server) == []


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    raw = b"".join(stream_parts(a_manifest(), BLOBS))
    for place in range(len(raw) - len(BLOBS[0]) - len(BLOBS[1]), len(raw)):
        upload = Upload(str(tmp_path), limit=2**20)
        changed = bytearray(raw)
        changed[place] ^= 1
        with pytest.raises(Exception, match="damaged"):
            upload.feed(zlib.compress(bytes(changed)))
        upload.close()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"v": 1}, "The dispatch has format 1 and this server reads 2: `hpcflow restart`."),
        ({"v": True}, "wrong at v"),
        ({"id": "../../../etc/passwd"}, "wrong at id"),
        ({"id": FIRST.lower()}, "wrong at id"),
        ({"id": FIRST + "\n"}, "wrong at id"),
        ({"id": FIRST + "/x"}, "wrong at id"),
        ({"id": "8" + FIRST[1:]}, "wrong at id"),
        ({"python": [3]}, "wrong at python"),
        ({"python": [3, 2**64]}, "wrong at python.1"),
        ({"name": None}, "wrong at name"),
        ({"name": "x" * 5000}, "wrong at name"),
        ({"tasks": [["square", 0, 1]]}, "wrong at tasks.0"),
        ({"tasks": [["square", "0", 1, 0, 0, 0]]}, "wrong at tasks.0.1"),
        ({"tasks": [["square", -1, 1, 0, 0, 0]]}, "wrong at tasks.0.1"),
        ({"tasks": [["square", 9, 1, 0, 0, 0]]}, "Task 0 of the manifest names a value, a shape or a task"),
        ({"tasks": [["square", 0, 1, 1, 0, 0]]}, "Task 0 of the manifest"),
        ({"tasks": [["square", 0, 1, 0, 2, 0]]}, "Task 0 of the manifest"),
        ({"needs": [[], [2]]}, "The tasks of the manifest need a task that is not there."),
        ({"needs": [[], [10**30]]}, "wrong at needs.1.0"),
        ({"tasks": [["square", 0, 1, 0, 0, [0]]]}, "wrong at tasks.0.5"),
        ({"output": 3}, "The output of the manifest names"),
        ({"output_deps": [2]}, "The output of the manifest names"),
        ({"functions": {"x": {"name": "f", "module": "m", "source": None}}}, "The functions of the manifest"),
        ({"functions": {"9" * 5000: {"name": "f", "module": "m", "source": None}}}, "The functions of the manifest"),
        ({"shapes": [a_shape(executor=1)]}, "wrong at shapes.0.executor"),
        ({"shapes": [a_shape(retries=3)]}, "wrong at shapes.0.retries"),
        ({"shapes": [a_shape(accept_failed=1)]}, "wrong at shapes.0.accept_failed"),
        ({"shapes": [a_shape(on_cancelled="resume")]}, "wrong at shapes.0.on_cancelled"),
        (failing(times=101), "wrong at shapes.0.retries.times"),
        (failing(memory=0.5), "wrong at shapes.0.retries.memory"),
        (failing(walltime=17), "wrong at shapes.0.retries.walltime"),
        (failing(exceptions=["a\nb"]), "wrong at shapes.0.retries.exceptions.0"),
        (failing(more=1), "wrong at shapes.0.retries.more"),
        ({"max_failures": -1}, "wrong at max_failures"),
        ({"max_running": 0}, "wrong at max_running"),
        ({"shapes": [a_shape(max_running=0)]}, "wrong at shapes.0.max_running"),
        ({"shapes": []}, "Task 0 of the manifest"),
        (asking(cpu=1), "wrong at shapes.0.resources.cpu"),
        (asking(cpus="2"), "wrong at shapes.0.resources.cpus"),
        (asking(cpus=True), "wrong at shapes.0.resources.cpus"),
        (asking(nodes=0), "wrong at shapes.0.resources.nodes"),
        (asking(walltime_s=1.5), "wrong at shapes.0.resources.walltime_s"),
        (asking(memory_mib=10**30), "wrong at shapes.0.resources.memory_mib"),
        (asking(extra=[["--x"]]), "wrong at shapes.0.resources.extra.0"),
        (asking(partition="a\n#SBATCH --uid=0"), "wrong at shapes.0.resources.partition"),
        ({"executable": "/usr/bin/python\0"}, "wrong at executable"),
    ],
)
def test_a_manifest_that_can_not_be_is_refused_with_the_place(shared: Served, changes: Json, sentence: str) -> None:
    answer = shared.upload(an_upload(a_manifest(**{"id": OTHER, **changes})))
    assert answer.status == 422
    assert sentence in answer.error
    assert left_behind(shared) == []


@pytest.mark.parametrize(
    "manifest", [b"", b"[]", b"{", b"null", b"[" * 100_000, b'{"v":' + b"9" * 10_000 + b"}", b"\xff\xfe"]
)
def test_a_manifest_that_is_no_object_is_refused(shared: Served, manifest: bytes) -> None:
    raw = zlib.compress(b"HFDISP1\n" + len(manifest).to_bytes(8, "little") + manifest)
    assert shared.upload(raw).status == 422


def test_bytes_after_the_end_are_refused(shared: Served) -> None:
    assert shared.upload(an_upload(a_manifest(id=OTHER)) + b"more").error == "The upload goes on after its end."
    more = zlib.compress(b"".join(stream_parts(a_manifest(id=OTHER), BLOBS)) + b"more")
    assert shared.upload(more).error == "The upload holds more values than its manifest names."


def test_only_uploads_are_taken_as_uploads(shared: Served) -> None:
    assert shared.ask("POST", "/api/v1/dispatches", body=b"{}").status == 415
    octets = {"Content-Type": "application/octet-stream"}
    assert shared.ask("POST", "/api/v1/dispatches", body=an_upload(), headers=octets).status == 415


def test_an_upload_may_name_every_resource_that_there_is() -> None:
    assert set(ResourcesNote.__annotations__) == {field.name for field in fields(Resources)}


# ---- reading


def test_the_status_says_who_where_and_what(shared: Served) -> None:
    status = shared.ask("GET", "/api/v1/status").json
    assert status == {
        "pid": os.getpid(),
        "version": "1.2.3",
        "host": "login1",
        "address": shared.address,
        "home": str(shared.folder),
        "started_at": "2026-01-01T00:00:00Z",
        "clusters": ["local"],
        "default_cluster": "local",
        "live_dispatches": 1,
        "triggers": 0,
        "ui": f"http://127.0.0.1:{shared.port}/",
    }
    assert schema.ServerStatus.model_validate(status).host == "login1"


@pytest.mark.parametrize(
    ("target", "status", "sentence"),
    [
        (f"/dispatches/{OTHER}", 404, f"No dispatch {OTHER} here."),
        (f"/dispatches/{OTHER}/tasks", 404, f"No dispatch {OTHER} here."),
        (f"/dispatches/{OTHER}/usage", 404, f"No dispatch {OTHER} here."),
        ("/jobs/8124", 404, "No dispatch here has had a job 8124."),
        (f"/dispatches/{OTHER}/output", 404, f"No dispatch {OTHER} here."),
        (f"/dispatches/{FIRST}/tasks/7", 404, f"Dispatch {FIRST} has no task 7."),
        (f"/dispatches/{FIRST}/tasks/7/stdout", 404, f"Dispatch {FIRST} has no task 7."),
        (f"/dispatches/{FIRST}/results?tasks=404", 404, f"Dispatch {FIRST} has no task 404."),
        ("/dispatches/nonsense", 404, "No dispatch 'nonsense' here: an id has 26 capitals and digits."),
        ("/nonsense", 404, "There is no such path."),
        (f"/dispatches/{FIRST}/tasks/0/trace", 422, "stream: Input should be 'stdout' or 'stderr'."),
        ("/dispatches?limit=0", 422, "limit: Input should be greater than or equal to 1."),
        (f"/dispatches/{FIRST}/tasks?state=lost", 422, None),
        (f"/dispatches/{FIRST}/results", 422, "tasks: Field required."),
        (f"/dispatches/{FIRST}/results?tasks=1,,2", 422, None),
        (f"/dispatches/{FIRST}?since=0&wait=31", 422, "wait: Input should be less than or equal to 30."),
        (f"/dispatches/{FIRST}?since=0&wait=nan", 422, None),
        (f"/dispatches/{FIRST}?since={10**400}", 422, None),
    ],
)
def test_what_is_not_there_or_makes_no_sense_is_said_in_one_sentence(
    shared: Served, target: str, status: int, sentence: str | None
) -> None:
    answer = shared.ask("GET", f"/api/v1{target}")
    assert answer.status == status
    assert set(answer.json) == {"error"}
    assert sentence is None or answer.error == sentence


def test_a_method_that_a_path_does_not_take_is_refused(shared: Served) -> None:
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"):
        assert shared.ask(method, f"/api/v1/dispatches/{FIRST}").status == 405
    # A path that two routes serve takes what either takes.
    assert shared.ask("PUT", "/api/v1/clusters/local/test").headers["allow"] == "GET, POST"


def test_a_number_is_no_yes_or_no_and_the_other_way_round(shared: Served) -> None:
    for target, body in (("delete", {"dispatches": [], "files": 0}), ("cache/clear", {"older_than_s": False})):
        assert shared.ask("POST", f"/api/v1/{target}", body=json.dumps(body).encode()).status == 422


@pytest.mark.parametrize(
    "text",
    [
        "..",
        "%2e%2e",
        "..%2f..%2ftoken",
        "%00",
        "a%00b",
        FIRST + "%00",
        FIRST + "%0a",
        "%e2%80%ae",
        "/etc/passwd",
        "~",
        "%ff",
    ],
)
def test_an_id_is_nothing_but_an_id(shared: Served, text: str) -> None:
    for target in (
        f"/api/v1/dispatches/{text}",
        f"/api/v1/dispatches/{text}/tasks/0/stdout",
        f"/{text}",
        f"/static/{text}",
    ):
        assert shared.ask("GET", target).status == 404
    assert shared.ask("GET", f"/api/v1/dispatches?before={text}").status == 404
    assert not is_ulid(text)


def test_output_of_a_task_is_text_whatever_it_says(shared: Served) -> None:
    answer = shared.ask("GET", f"/api/v1/dispatches/{FIRST}/tasks/0/stdout?offset=1&limit=6")
    assert (answer.status, answer.body) == (200, b"script")
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_reports_come_as_the_service_makes_them(shared: Served) -> None:
    assert shared.ask("GET", f"/api/v1/dispatches/{FIRST}/usage").json["sentences"] == ["Nothing was submitted."]
    assert shared.ask("GET", "/api/v1/jobs/8123_7").json == {"arrays": []}


def test_results_come_as_the_service_streams_them(shared: Served) -> None:
    for target in ("output", "results?tasks=all", "results?tasks=0,1"):
        answer = shared.ask("GET", f"/api/v1/dispatches/{FIRST}/{target}")
        assert (answer.status, answer.body) == (200, b'{"task":0}\n' + b"x" * 10)
        assert answer.headers["content-type"] == "application/octet-stream"


def test_rows_are_paged_by_index(shared: Served) -> None:
    answer = shared.ask("GET", f"/api/v1/dispatches/{FIRST}/tasks?after=0&state=failed")
    assert answer.json == {"columns": ["index", "name", "state"], "rows": [[1, "square", "failed"]]}
    assert shared.ask("GET", f"/api/v1/dispatches/{FIRST}/tasks?state=").json["rows"][0] == [0, "square", None]


def test_a_journals_odd_values_still_make_json(tmp_path: Path) -> None:
    service = MemoryService(extra={"wall_s": math.nan, "cpu_s": [math.inf], "error": "half a \ud83d face"})
    with served(tmp_path, service) as server:
        server.upload(an_upload())
        answer = server.ask("GET", f"/api/v1/dispatches/{FIRST}/tasks/0")
    assert answer.json == {"index": 0, "name": "square", "wall_s": None, "cpu_s": [None], "error": "half a ? face"}


def test_a_long_poll_answers_when_something_changed(server: Served) -> None:
    server.upload(an_upload())
    answers: list[int] = []
    target = f"/api/v1/dispatches/{FIRST}?since=1&wait=30"
    poller = threading.Thread(target=lambda: answers.append(server.ask("GET", target).json["version"]), daemon=True)
    poller.start()
    assert server.service.polls.wait(60)
    server.service.versions[FIRST] = 2
    server.loop.call_soon_threadsafe(server.service.changed_event.set)
    poller.join(60)
    assert answers == [2]
    assert server.ask("GET", f"/api/v1/dispatches/{FIRST}?since=1&wait=30").json["version"] == 2


def test_a_long_poll_ends_with_the_server_and_with_an_answer(server: Served) -> None:
    server.upload(an_upload())
    target = f"/api/v1/dispatches/{FIRST}?since=1&wait=30"
    answers: list[int] = []
    poller = threading.Thread(target=lambda: answers.append(server.ask("GET", target).status), daemon=True)
    poller.start()
    assert server.service.polls.wait(60)
    assert server.ask("POST", "/api/v1/shutdown").status == 202
    assert server.stopped.is_set()
    poller.join(60)
    assert answers == [200]


# ---- acting


def test_cancelling_says_how_many(shared: Served) -> None:
    path = f"/api/v1/dispatches/{FIRST}/cancel"
    assert shared.ask("POST", path, body=b'{"tasks": [0, 1]}').json["cancelled"] == 2
    assert shared.ask("POST", path, body=b'{"tasks": null}').json["cancelled"] == 1
    assert shared.ask("POST", path).json["cancelled"] == 1
    nothing = shared.ask("POST", path, body=b'{"tasks": []}')
    assert (nothing.status, nothing.error) == (409, "Nothing is left to cancel.")


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"tasks": "all"}',
        b'{"tasks": [1.5]}',
        b"[" * 50_000,
        b'{"tasks": [' + b"9" * 9000 + b"]}",
    ],
)
def test_a_body_that_makes_no_sense_is_refused(shared: Served, body: bytes) -> None:
    answer = shared.ask("POST", f"/api/v1/dispatches/{FIRST}/cancel", body=body)
    assert 400 <= answer.status < 500
    assert set(answer.json) == {"error"}


def test_an_unknown_cluster_is_not_found(shared: Served) -> None:
    assert shared.ask("POST", "/api/v1/clusters/local/test").json["version"] == 7
    answer = shared.ask("POST", "/api/v1/clusters/slrum/test")
    assert (answer.status, answer.error) == (404, "There is no cluster called 'slrum'.")


def test_a_login_asks_and_takes_an_answer_and_no_reply_repeats_it(shared: Served) -> None:
    first = shared.ask("POST", "/api/v1/clusters/local/login").json
    assert first["question"]["prompts"] == [{"text": "Password: ", "echo": False}]

    def answers(*given: object) -> Answer:
        body = json.dumps({"login": "a-login", "number": 1, "answers": given}).encode()
        return shared.ask("POST", "/api/v1/clusters/local/login/answer", body=body)

    wrong = answers("guess")
    assert (wrong.status, "did not accept" in wrong.error, b"guess" in wrong.body) == (409, True, False)
    assert answers("sesame").json["question"] is None
    odd = answers("sesame", 7)
    assert (odd.status, b"sesame" in odd.body) == (422, False)
    assert shared.service.roster.answers == [["guess"], ["sesame"]]


def test_the_link_for_a_browser_has_its_code_where_no_log_sees_it(shared: Served) -> None:
    answer = shared.ask("POST", "/api/v1/ui").json
    assert re.fullmatch(rf"http://127\.0\.0\.1:{shared.port}/#[\w-]{{43}}", answer["url"])
    assert answer["ssh_forward"] == f"ssh -N -L {shared.port}:127.0.0.1:{shared.port} me@login1"
    body = json.dumps({"code": answer["url"].partition("#")[2]}).encode()
    assert shared.ask("POST", "/login", token=None, body=body, tcp=True).status == 200


# ---- the description, and anything at all


def test_the_description_is_whole_and_names_one_error_shape(shared: Served) -> None:
    described = shared.ask("GET", "/api/v1/openapi.json").json
    for path, methods in described["paths"].items():
        for operation in methods.values():
            refusals = {code: each for code, each in operation["responses"].items() if code >= "4"}
            assert {"400", "403", "500"} <= set(refusals), path
            assert refusals == {code: {"$ref": f"#/components/responses/Refused{code}"} for code in refusals}
    for refusal in described["components"]["responses"].values():
        assert refusal["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
    summary = described["paths"]["/api/v1/dispatches/{dispatch_id}"]["get"]["responses"]["200"]["content"]
    assert summary == {"application/json": {"schema": {"$ref": "#/components/schemas/Summary"}}}
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_an_event_of_the_stream_is_what_the_description_says(shared: Served) -> None:
    described = shared.ask("GET", "/api/v1/openapi.json").json["paths"]["/api/v1/events"]["get"]["responses"]["200"]
    event = described["content"]["text/event-stream"]["schema"]
    answer = shared.ask("GET", "/api/v1/events?once=true", headers={"Last-Event-ID": "of another server"})
    told = dict(line.split(": ", 1) for line in answer.body.decode().strip().split("\n"))
    assert sorted(told) == sorted(event["required"]) == sorted(event["properties"])
    assert told["event"] in event["properties"]["event"]["enum"]


anything = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_input_makes_the_server_fail(shared: Served, data: st.DataObject) -> None:
    from urllib.parse import quote

    described = shared.ask("GET", "/api/v1/openapi.json").json["paths"]
    # The stream of events never ends; tests/unit/test_news.py reads it.
    left_out = {"/api/v1/shutdown", "/api/v1/token", "/logout", "/api/v1/events"}
    path = data.draw(st.sampled_from(sorted(set(described) - left_out)))
    method, operation = data.draw(st.sampled_from(sorted(described[path].items(), key=lambda pair: str(pair[0]))))
    known = {"dispatch_id": FIRST, "index": "0", "stream": "stdout", "name": "local"}
    for name, usual in known.items():
        text = data.draw(st.one_of(st.just(usual), anything))
        path = path.replace("{" + name + "}", quote(text, safe=""))
    query = "&".join(
        f"{parameter['name']}={quote(data.draw(st.one_of(anything, st.integers().map(str))), safe='')}"
        for parameter in operation.get("parameters", [])
        if parameter["in"] == "query" and parameter["name"] != "wait" and data.draw(st.booleans())
    )
    body = data.draw(st.one_of(st.none(), st.binary(max_size=50), st.just(b'{"tasks": [0]}')))
    answer = shared.ask(method.upper(), f"{path}?{query}", body=body if method == "post" else None, held=False)
    assert answer.status < 500, answer.body
    if answer.status >= 400:
        assert isinstance(answer.error, str)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 2000), value=st.integers(0, 255))
def test_a_damaged_upload_is_never_more_than_a_refusal(shared: Served, place: int, value: int) -> None:
    raw = bytearray(b"".join(stream_parts(a_manifest(id=OTHER), BLOBS)))
    raw[place % len(raw)] = value
    answer = shared.upload(zlib.compress(bytes(raw)))
    assert answer.status < 500, answer.body
    shared.service.manifests.pop(OTHER, None)
    assert left_behind(shared) == []


def test_the_server_never_opens_a_pickle() -> None:
    """An audit hook ends the process at the first `pickle.find_class`: serving a hostile dispatch must not meet it."""
    program = """
import os, pickle, sys, tempfile
from dataclasses import fields
from pathlib import Path

class Hostile:
    def __reduce__(self):
        return (os.system, ("touch hostile",))

hostile = pickle.dumps(Hostile())

from tests.unit.served import FIRST, MemoryService, an_upload, served

def hook(event, arguments):
    if event in ("pickle.find_class", "os.system"):
        os.write(2, event.encode())
        os._exit(3)

sys.addaudithook(hook)
with tempfile.TemporaryDirectory() as folder:
    with served(Path(folder), MemoryService(chunks=[hostile])) as server:
        assert server.upload(an_upload(blobs=(hostile, hostile, hostile))).status == 201
        for path in ("", "/tasks", "/tasks/0", "/tasks/0/stdout", "/output", "/results?tasks=all"):
            assert server.ask("GET", f"/api/v1/dispatches/{FIRST}{path}").status == 200
        assert server.ask("GET", f"/api/v1/dispatches/{FIRST}/output").body == hostile
print("served")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("served\n", 0), done.stderr
