"""Who may speak to the server, tried on real sockets: every hole that others had, knocked at."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from hpcflow.server.guard import OPEN, Guard, Sessions, Token
from hpcflow.server.origins import Origins
from hpcflow.server.page import page_files, static_file
from tests.unit.served import FIRST, NEW_TOKEN, TOKEN, Served, served

UI = Path(__file__).parents[2] / "ui" / "src"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    with served(tmp_path_factory.mktemp("guard")) as here:
        yield here


def paths_of(server: Served) -> list[str]:
    described = server.ask("GET", "/api/v1/openapi.json").json["paths"]
    assert len(described) > 15
    filled = [
        path.replace("{dispatch_id}", FIRST)
        .replace("{index}", "0")
        .replace("{name}", "local")
        .replace("{stream}", "stdout")
        for path in described
    ]
    return [*filled, "/api/v1/openapi.json", "/", *page_files(), "/docs", "/static/index.html", "/nowhere"]


@pytest.mark.parametrize("tcp", [False, True])
def test_every_path_with_every_method_is_closed_to_strangers(server: Served, tcp: bool) -> None:
    answers = {
        (method, path): server.ask(method, path, token=None, tcp=tcp).status
        for path in paths_of(server)
        for method in METHODS
    }
    open_to_all = {pair for pair, status in answers.items() if status != 401}
    assert open_to_all == OPEN | {("GET", path) for path in page_files()}


def test_the_open_list_opens_nothing_that_depends_on_data(server: Served) -> None:
    assert server.ask("GET", "/healthz", token=None).json == {"ok": True}
    assert {path for method, path in OPEN if method != "GET"} == {"/login"}


@pytest.mark.parametrize(
    "path",
    [
        "/healthz/",
        "//healthz",
        "/healthz/../api/v1/status",
        "/healthz/%2e%2e/api/v1/status",
        "/healthz%2f..%2fapi/v1/status",
        "/api/v1/status?x=/healthz",
        "/api/v1/status/healthz",
        "/api/v1/status;/healthz",
        "/api/v1/status%00/healthz",
        "/HEALTHZ",
        "/icon.svg/../api/v1/status",
        "/api/v1/../../icon.svg",
        "/assets/",
        "/assets/../api/v1/status",
        "http://localhost/healthz",
    ],
)
def test_a_path_that_only_looks_open_is_closed(server: Served, path: str) -> None:
    assert server.ask("GET", path, token=None).status == 401


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "\xff"])
def test_a_wrong_token_is_refused(server: Served, token: str) -> None:
    answer = server.ask("GET", "/api/v1/status", token=token)
    assert answer.status == 401
    assert answer.error == "The token is wrong: the right one is in the file `token` in HPCFLOW_HOME."


def test_a_token_in_the_query_or_given_twice_counts_for_nothing(server: Served) -> None:
    assert server.ask("GET", f"/api/v1/status?token={TOKEN}", token=None).status == 401
    twice = {"Authorization": [f"Bearer {TOKEN}", "Bearer other"]}
    assert server.ask("GET", "/api/v1/status", token=None, headers=twice).status == 401
    assert server.ask("GET", "/api/v1/status", token=None, headers={"Authorization": f"Basic {TOKEN}"}).status == 401


def test_the_right_token_is_enough_on_both_sockets(server: Served) -> None:
    assert server.ask("GET", "/api/v1/status").status == 200
    assert server.ask("GET", "/api/v1/status", tcp=True).status == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "127.0.0.1.evil.com", "localhost.evil.com", "0.0.0.0", "192.168.0.1", "[::2]"]
)
def test_a_rebound_name_is_refused(server: Served, host: str) -> None:
    for path in ("/healthz", "/api/v1/status"):
        assert server.ask("GET", path, headers={"Host": f"{host}:{server.port}"}, tcp=True).status == 403


@pytest.mark.parametrize(
    "host",
    [
        "a/b",
        "",
        "localhost:0",
        "localhost:99999",
        "localhost:",
        "local host",
        "localhost/x?",
        "user@localhost",
        "[::1",
        "\xe9",
    ],
)
def test_a_malformed_host_is_a_bad_request(server: Served, host: str) -> None:
    assert server.ask("GET", "/api/v1/status", headers={"Host": host}, tcp=True).status == 400


def test_two_hosts_are_a_bad_request(server: Served) -> None:
    assert server.ask("GET", "/healthz", headers={"Host": ["localhost", "evil.com"]}, tcp=True).status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:8080", "LOCALHOST", "[::1]:8080"])
def test_this_machine_is_served_by_any_of_its_own_names(server: Served, host: str) -> None:
    assert server.ask("GET", "/api/v1/status", headers={"Host": host}, tcp=True).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.com"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "https://127.0.0.1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_another_site_can_change_nothing(server: Served, method: str, headers: dict[str, str]) -> None:
    browser = server.log_in()
    assert server.ask(method, "/api/v1/ui", headers=headers, tcp=True).status == 403
    assert server.ask(method, "/api/v1/ui", token=None, headers={**browser, **headers}, tcp=True).status == 403


def test_another_port_of_this_machine_is_another_site(server: Served) -> None:
    headers = {**server.log_in(), "Origin": f"http://127.0.0.1:{server.port + 1}"}
    assert server.ask("POST", "/api/v1/ui", token=None, headers=headers, tcp=True).status == 403


@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_json_in_disguise_is_refused(server: Served, media: str) -> None:
    answer = server.ask(
        "POST", f"/api/v1/dispatches/{FIRST}/cancel", body=b'{"tasks": null}', headers={"Content-Type": media}
    )
    assert answer.status == 415


def test_a_large_or_endless_json_body_is_refused_unread(server: Served) -> None:
    path = f"/api/v1/dispatches/{FIRST}/cancel"
    large = server.ask("POST", path, body=b"", headers={"Content-Length": str(2**30)})
    assert (large.status, large.error) == (413, "The body has more than 16777216 bytes.")
    endless = {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    assert server.ask("POST", path, headers=endless).status == 411


@pytest.mark.parametrize("target", ["/", "/icon.svg", "/healthz", "/api/v1/status", "/nowhere"])
@pytest.mark.parametrize("token", [TOKEN, None])
def test_every_answer_tells_the_browser_to_trust_nothing(server: Served, target: str, token: str | None) -> None:
    headers = server.ask("GET", target, token=token, tcp=True).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "access-control-allow-origin" not in headers


def test_the_page_has_no_inline_code_and_asks_nobody_else(server: Served) -> None:
    page = server.ask("GET", "/", token=None, tcp=True).body.decode()
    assert len(re.findall(r"<script type=\"module\" crossorigin src=\"\./assets/[^\"]+\"></script>", page)) == 1
    assert page.count("<script") == 1
    assert "style=" not in page
    assert not re.findall(r"https?:", page)
    scripts = [path for path in page_files() if path.endswith(".js")]
    assert len(scripts) > 3
    text = "".join(server.ask("GET", path, token=None, tcp=True).body.decode() for path in scripts)
    assert not re.findall(r"fetch\([\"'`]https?:", text)
    for sink in ("insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in text


def test_the_page_s_own_source_never_parses_html() -> None:
    sources = [path for path in UI.rglob("*.ts*") if not path.name.endswith(".d.ts")]
    assert len(sources) > 20
    assert [path.name for path in sources if re.search(r"innerHTML|outerHTML|dangerouslySet", path.read_text())] == []


def test_what_has_its_content_in_its_name_is_kept_by_browsers_and_the_page_is_not(server: Served) -> None:
    asset = next(path for path in page_files() if path.startswith("/assets/"))
    kept = server.ask("GET", asset, token=None, tcp=True, headers={"Accept-Encoding": "gzip"})
    assert kept.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert server.ask("GET", "/", token=None, tcp=True).headers["cache-control"] == "no-cache"


def test_a_browser_logs_in_by_code_and_needs_both_halves_of_its_session(server: Served) -> None:
    browser = server.log_in()

    def status(headers: dict[str, str]) -> int:
        return server.ask("GET", "/api/v1/status", token=None, headers=headers, tcp=True).status

    assert status(browser) == 200
    assert status({"Cookie": browser["Cookie"]}) == 401
    assert status({"x-hpcflow-key": browser["x-hpcflow-key"]}) == 401
    assert status({**browser, "x-hpcflow-key": server.log_in()["x-hpcflow-key"]}) == 401
    assert server.ask("POST", "/api/v1/ui", token=None, headers=browser, tcp=True).status == 200


def test_a_browser_that_hides_its_origin_may_only_read(server: Served) -> None:
    headers = {name: value for name, value in server.log_in().items() if name != "Origin"}
    assert server.ask("GET", "/api/v1/status", token=None, headers=headers, tcp=True).status == 200
    assert server.ask("POST", "/api/v1/ui", token=None, headers=headers, tcp=True).status == 401


def test_a_session_is_of_the_port_alone(server: Served) -> None:
    assert server.ask("GET", "/api/v1/status", token=None, headers=server.log_in()).status == 401


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(server: Served) -> None:
    body = f'{{"code": "{server.sessions.new_code()}"}}'.encode()
    cookie = server.ask("POST", "/login", token=None, body=body, tcp=True).headers["set-cookie"]
    assert cookie.startswith(f"hpcflow-{server.port}=")
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie


def test_a_code_works_once(server: Served) -> None:
    body = f'{{"code": "{server.sessions.new_code()}"}}'.encode()
    assert server.ask("POST", "/login", token=None, body=body, tcp=True).status == 200
    again = server.ask("POST", "/login", token=None, body=body, tcp=True)
    assert (again.status, "set-cookie" in again.headers) == (401, False)
    assert again.error == "This link was used already or is too old: `hpcflow ui` prints a new one."


def test_a_session_that_logged_out_is_over(server: Served) -> None:
    browser = server.log_in()
    assert server.ask("POST", "/logout", token=None, headers=browser, tcp=True).status == 200
    assert server.ask("GET", "/api/v1/status", token=None, headers=browser, tcp=True).status == 401


def test_a_code_expires_and_old_sessions_make_room() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    late = sessions.new_code()
    now[0] = 601.0
    assert sessions.redeem(late) is None
    logins = [sessions.redeem(sessions.new_code()) for _ in range(65)]
    known = [sessions.knows(login.cookie, login.key) for login in logins if login]
    assert known == [False] + [True] * 64


def test_another_users_process_is_refused_on_the_unix_socket(tmp_path: Path) -> None:
    with served(tmp_path, uid=os.geteuid() + 1) as server:
        for path in ("/healthz", "/api/v1/status"):
            answer = server.ask("GET", path)
            assert (answer.status, answer.error) == (403, "This socket is private to its owner.")


def test_the_socket_is_for_its_owner_only(server: Served) -> None:
    assert os.stat(server.address).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(server.address)).st_mode & 0o777 == 0o700


def a_websocket(server: Served, *headers: tuple[bytes, bytes]) -> list[Any]:  # Any: ASGI messages
    """Return what the guard sends to a websocket that asks for /api/v1/status."""
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
        reached.append(scope["path"])

    async def receive() -> Any:  # Any: ASGI
        return {"type": "websocket.connect"}

    sent: list[Any] = []

    async def send(message: Any) -> None:  # Any: ASGI
        sent.append(message)

    guard = Guard(app, token=Token(TOKEN), sessions=server.sessions, uid=os.geteuid())
    scope = {
        "type": "websocket",
        "path": "/healthz",
        "server": ("127.0.0.1", server.port),
        "headers": [(b"host", b"127.0.0.1"), *headers],
    }
    asyncio.run(guard(scope, receive, send))
    return sent or reached


def test_a_websocket_needs_the_token_on_every_path(server: Served) -> None:
    assert [message["type"] for message in a_websocket(server)] == ["websocket.close"]
    assert a_websocket(server, (b"authorization", b"Bearer " + TOKEN.encode())) == ["/healthz"]
    stolen = (b"authorization", b"Bearer " + TOKEN.encode()), (b"origin", b"http://evil.com")
    assert [message["type"] for message in a_websocket(server, *stolen)] == ["websocket.close"]


def behind_a_proxy(host: str, origin: str | None) -> int:
    """Return how a login is answered by a server whose page is at https://hub.example.org besides."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:  # Any: ASGI
        sent.append(message)

    async def receive() -> Any:  # Any: ASGI
        return {"type": "http.request"}

    origins = Origins(["https://hub.example.org", "http://plain.example.org:81"])
    guard = Guard(app, token=Token(TOKEN), sessions=Sessions(), uid=os.geteuid(), origins=origins)
    headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
    scope = {"type": "http", "method": "POST", "path": "/login", "server": ("127.0.0.1", 8000), "headers": headers}
    asyncio.run(guard(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("hub.example.org", "https://hub.example.org", 200),
        ("hub.example.org:443", "https://hub.example.org", 200),
        ("plain.example.org:81", "http://plain.example.org:81", 200),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("127.0.0.1:8000", "https://hub.example.org", 200),
        ("hub.example.org", "http://hub.example.org", 403),
        ("hub.example.org:443", "http://hub.example.org:443", 403),
        ("hub.example.org:80", "https://hub.example.org", 403),
        ("plain.example.org", "http://plain.example.org:81", 403),
        ("127.0.0.1:8000", "http://hub.example.org", 403),
    ],
)
def test_behind_a_proxy_the_page_has_the_origin_that_was_named_and_no_other(
    host: str, origin: str, status: int
) -> None:
    assert behind_a_proxy(host, origin) == status


def test_an_unknown_kind_of_connection_is_refused(server: Served) -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:  # Any: ASGI
        sent.append(message)

    async def never(*_: Any) -> Any:  # Any: ASGI
        raise AssertionError("the application was reached")

    guard = Guard(never, token=Token(TOKEN), sessions=server.sessions, uid=os.geteuid())
    asyncio.run(guard({"type": "webtransport", "path": "/healthz", "headers": []}, never, send))
    assert sent[0]["status"] == 400


def test_an_upgrade_to_a_websocket_leads_nowhere(server: Served) -> None:
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "eA==",
    }
    assert server.ask("GET", "/api/v1/status", token=None, headers=headers, tcp=True).status == 401


# ---- a new token


def test_a_new_token_ends_the_old_one_every_session_and_every_code(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        browser, code = server.log_in(), server.sessions.new_code()
        assert server.ask("GET", "/api/v1/status", token=None, headers=browser, tcp=True).status == 200
        assert server.ask("POST", "/api/v1/token").json == {"ok": True}
        assert server.ask("GET", "/api/v1/status").status == 401
        assert server.ask("GET", "/api/v1/status", token=NEW_TOKEN).status == 200
        assert server.ask("GET", "/api/v1/status", token=None, headers=browser, tcp=True).status == 401
        assert server.sessions.redeem(code) is None


def test_a_server_that_was_built_without_its_page_says_so_at_its_address(tmp_path: Path) -> None:
    files = page_files(tmp_path / "static")
    assert files == {"/": tmp_path / "static" / "index.html"}
    answer = static_file("/", files["/"])
    assert (answer.status_code, answer.media_type) == (200, "text/html")
    assert b"HPCFLOW_SKIP_UI=1" in answer.body
