"""Finding the server and asking it: every way in which that fails is one sentence and a class of its own."""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcflow.core.model import HpcflowError, NotFound, UserError
from hpcflow.core.places import Places
from hpcflow.sdk import connection
from hpcflow.sdk.connection import (
    DispatchNotFound,
    NotAuthorised,
    Refused,
    Server,
    ServerElsewhere,
    ServerFault,
    ServerUnreachable,
    VersionMismatch,
    answers,
    read_record,
)
from tests.unit.fake_server import TOKEN, Answer, FakeServer, Request, connect, write_record


@pytest.fixture
def fake(hpcflow_home: Path) -> Iterator[FakeServer]:
    with FakeServer(hpcflow_home) as server:
        yield server


def _server(home: Path) -> Server:
    return Server(Places(str(home)))


def test_an_answer_comes_back_as_it_was_sent(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = (200, {"pid": 12})
    assert _server(fake.home).ask("GET", "/status", query={"a": "b c"}) == {"pid": 12}
    assert fake.requests[0].query == {"a": "b c"}


def test_a_body_travels_as_json(fake: FakeServer) -> None:
    fake.answers["POST", "/x"] = (200, {})
    _server(fake.home).ask("POST", "/x", body={"tasks": [1, 2]})
    assert fake.requests[0].body == b'{"tasks": [1, 2]}'
    assert fake.requests[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("terminal", "told"), [(True, True), (False, False)])
def test_who_sits_at_a_terminal_is_told_that_an_answer_takes_long(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, terminal: bool, told: bool
) -> None:
    screen = _Screen(terminal)
    monkeypatch.setattr(connection, "SILENCE_S", 0.01)
    monkeypatch.setattr(sys, "stderr", screen)

    def late(_: Request) -> Answer:
        assert not terminal or screen.written.wait(30)
        return 200, {"pid": 12}

    fake.answers["GET", "/status"] = late
    assert _server(fake.home).ask("GET", "/status") == {"pid": 12}
    assert ("Still waits for the server" in screen.getvalue()) is told


class _Screen(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal, self.written = terminal, threading.Event()

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.written.set()
        return super().write(text)


def test_without_a_server_the_sentence_says_how_to_start_one(hpcflow_home: Path) -> None:
    with pytest.raises(ServerUnreachable) as raised:
        _server(hpcflow_home).ask("GET", "/status")
    assert str(raised.value) == f"No server runs for {hpcflow_home}. Start one with `hpcflow start`."


def test_a_server_that_died_left_a_record_and_no_answer(hpcflow_home: Path) -> None:
    write_record(hpcflow_home, pid=4242)
    (hpcflow_home / "token").write_text("left too")
    with pytest.raises(ServerUnreachable, match=r"\(pid 4242\) is gone: nobody answers at .*sock"):
        _server(hpcflow_home).ask("GET", "/status")


def test_a_dead_servers_record_is_no_answer(hpcflow_home: Path) -> None:
    write_record(hpcflow_home)
    record = read_record(Places(str(hpcflow_home)))
    assert record is not None
    assert not answers(record)


def test_a_live_server_answers(fake: FakeServer) -> None:
    record = read_record(Places(str(fake.home)))
    assert record is not None
    assert answers(record)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": null, "host": "", "address": ""}'])
def test_a_damaged_record_counts_as_none(hpcflow_home: Path, text: str) -> None:
    (hpcflow_home / "run").mkdir()
    (hpcflow_home / "run" / "server.json").write_text(text)
    assert read_record(Places(str(hpcflow_home))) is None


def test_a_server_on_another_host_is_named_with_the_way_to_move_it(fake: FakeServer) -> None:
    write_record(fake.home, host="login9", pid=77)
    with pytest.raises(ServerElsewhere) as raised:
        _server(fake.home).ask("GET", "/status")
    assert str(raised.value) == (
        f"The server of {fake.home} runs on login9 (pid 77, since 2026-01-01T00:00:00Z), and this is "
        f"{socket.gethostname()}. Work there, or move it here with `hpcflow start --take-over`."
    )
    assert fake.requests == []


def test_a_server_of_another_release_is_refused_before_anything_is_sent(fake: FakeServer) -> None:
    write_record(fake.home, version="99.1.0")
    with pytest.raises(VersionMismatch, match=r"server is hpcflow 99\.1\.0 and this is hpcflow .*`hpcflow restart`"):
        _server(fake.home).ask("GET", "/status")
    assert fake.requests == []


def test_a_server_of_another_release_can_still_be_stopped(fake: FakeServer) -> None:
    write_record(fake.home, version="99.1.0")
    fake.answers["POST", "/shutdown"] = (202, {})
    assert Server(Places(str(fake.home)), any_version=True).ask("POST", "/shutdown") == {}


def test_a_wrong_token_names_the_file_it_came_from(fake: FakeServer) -> None:
    (fake.home / "token").write_text("another\n")
    with pytest.raises(NotAuthorised, match=f"refused the token in {fake.home}/token: The token is wrong."):
        _server(fake.home).ask("GET", "/status")


class Rotating(FakeServer):
    """Writes its token for clients only after it has refused one of them."""

    def answer(self, request: Request) -> Answer:
        answer = super().answer(request)
        (self.home / "token").write_text(TOKEN)
        return answer


def test_a_token_that_changed_in_between_is_read_again(hpcflow_home: Path) -> None:
    with Rotating(hpcflow_home) as fake:
        fake.answers["GET", "/status"] = (200, {"pid": 12})
        (hpcflow_home / "token").write_text("old")
        assert _server(hpcflow_home).ask("GET", "/status") == {"pid": 12}
        assert len(fake.requests) == 2


def test_a_missing_token_is_a_sentence(fake: FakeServer) -> None:
    (fake.home / "token").unlink()
    with pytest.raises(NotAuthorised, match=r"token can't be read from .*/token: .*No such file"):
        _server(fake.home).ask("GET", "/status")


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("/dispatches/01K0", 404, DispatchNotFound),
        ("/clusters/mars/test", 404, NotFound),
        ("/dispatches", 400, UserError),
        ("/dispatches", 422, UserError),
        ("/dispatches", 413, UserError),
        ("/dispatches", 409, Refused),
        ("/dispatches", 500, ServerFault),
    ],
)
def test_each_refusal_has_its_class_and_the_servers_sentence(
    fake: FakeServer, path: str, status: int, kind: type[HpcflowError]
) -> None:
    fake.answers["GET", path] = (status, {"error": "No cluster 'mars' here."})
    with pytest.raises(kind) as raised:
        _server(fake.home).ask("GET", path)
    assert type(raised.value) is kind
    assert "No cluster 'mars' here." in str(raised.value)


def test_a_connection_cut_without_an_answer_is_tried_again(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = [None, (200, {"pid": 1})]
    assert _server(fake.home).ask("GET", "/status") == {"pid": 1}
    assert len(fake.requests) == 2


def test_a_connection_that_is_always_cut_ends_in_a_sentence(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = None
    with pytest.raises(ServerUnreachable, match=r"cut the connection: .*`hpcflow logs`"):
        _server(fake.home).ask("GET", "/status")
    assert len(fake.requests) == 3


def test_a_repeated_upload_sends_all_of_it_again(fake: FakeServer) -> None:
    fake.answers["POST", "/dispatches"] = [None, (201, {"id": "x"})]
    pieces = [b"a" * 100_000, b"b", b"c" * 70_000]
    assert _server(fake.home).upload("/dispatches", lambda: iter(pieces)) == {"id": "x"}
    assert [request.body for request in fake.requests] == [b"".join(pieces)] * 2


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root can be another user")
def test_a_socket_of_another_user_is_sent_nothing(hpcflow_home: Path) -> None:
    (hpcflow_home / "run").mkdir()
    (hpcflow_home / "token").write_text("secret")
    address = hpcflow_home / "run" / "sock"
    write_record(hpcflow_home)
    # SO_PEERCRED tells who called listen(2).
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        os.seteuid(65534)
        try:
            listener.listen(1)
        finally:
            os.seteuid(0)
        with pytest.raises(NotAuthorised, match=r"served by another user \(uid 65534\); nothing was sent"):
            _server(hpcflow_home).ask("GET", "/status")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(100) == b""


# ---- connected to a login node


def _connected(fake: FakeServer, **changes: object) -> Server:
    connect(fake, **changes)
    return _server(fake.home)


def test_a_connected_home_talks_to_the_login_nodes_server_with_its_token(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = (200, {"pid": 12})
    assert _connected(fake).ask("GET", "/status") == {"pid": 12}
    assert fake.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_what_the_holder_of_the_connection_says_is_that_the_server_is_not_reached(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = (503, {"error": "login can't be reached: No route to host."})
    with pytest.raises(ServerUnreachable, match=r"^login can't be reached: No route to host\.$"):
        _connected(fake).ask("GET", "/status")


def test_a_connection_that_nobody_holds_is_told_from_a_server_that_is_gone(fake: FakeServer) -> None:
    server = _connected(fake, address=str(fake.home / "run/far"))
    with pytest.raises(ServerUnreachable) as raised:
        server.ask("GET", "/status")
    assert str(raised.value) == (
        "Nothing here holds the connection to ada@login any more. The server there goes on, and `hpcflow connect` "
        "leads to it again."
    )


def test_a_connected_home_says_which_versions_differ_and_from_where_it_is_connected(fake: FakeServer) -> None:
    with pytest.raises(VersionMismatch, match=r"^The server on ada@login is hpcflow 9\.1\.0 and this is hpcflow "):
        _connected(fake, version="9.1.0").ask("GET", "/status")
    write_record(fake.home, pid=1)
    (fake.home / "token").write_text(TOKEN)
    with pytest.raises(ServerElsewhere, match=r"is connected to ada@login from another, and this is "):
        _connected(fake, host="another").ask("GET", "/status")


def test_a_token_of_yesterday_is_fetched_by_connecting_again(fake: FakeServer) -> None:
    fake.answers["GET", "/status"] = (401, {"error": "The token is wrong."})
    with pytest.raises(NotAuthorised, match=r"The server on ada@login refused .* `hpcflow connect` fetches the one"):
        _connected(fake).ask("GET", "/status")
