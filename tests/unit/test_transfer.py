"""Files on their way to a task and from it: how each way brings them, and what it says when it can't."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import hpcflow as hf
from hpcflow.fs import File, FileTransfer, Folder, Order, TransferFailed, TransferFromRemote, TransferToRemote
from hpcflow.sdk.arriving import inside, pour
from hpcflow.sdk.context import enter
from hpcflow.sdk.delivery import expected
from hpcflow.sdk.fetched import refuse
from hpcflow.sdk.manifest import manifest
from hpcflow.sdk.pickling import dumps, load_with
from hpcflow.sdk.trace import Traced
from hpcflow.sdk.transfer_process import fetch

CONTENT = bytes(range(256)) * 8000


def brought(transfer: FileTransfer) -> FileTransfer:
    """Carry out a transfer as a task would: after a pickle."""
    there: FileTransfer = load_with(dumps(transfer))
    there.carry_out()
    return there


def refusal(transfer: FileTransfer) -> str:
    with pytest.raises(TransferFailed) as failed:
        brought(transfer)
    return str(failed.value).replace(f" (on {os.uname().nodename})", "")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The task's directory, with a file and a folder in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one").write_bytes(CONTENT)
    (tmp_path / "one").chmod(0o640)
    (tmp_path / "many" / "deep").mkdir(parents=True)
    (tmp_path / "many" / "a").write_text("a")
    (tmp_path / "many" / "deep" / "b").write_text("b")
    (tmp_path / "many" / "link").symlink_to("deep")
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# ---- copies


@pytest.mark.parametrize("strategy", [hf.fs_strategies.Shutil(), hf.fs_strategies.Rsync()])
def test_files_and_folders_are_copied_with_their_rights(here: Path, strategy: Any) -> None:
    brought(FileTransfer("one", "two", strategy=strategy))
    brought(FileTransfer(f"file://{here}/one", Folder("many"), strategy=strategy))
    for _ in range(2):  # a further attempt of a task finds what the first one left
        brought(FileTransfer(Folder("many"), Folder("copy"), strategy=strategy))
    brought(FileTransfer(Folder("many", include_folder=True), Folder("copy"), strategy=strategy))

    assert (here / "two").read_bytes() == CONTENT
    assert (here / "two").stat().st_mode & 0o777 == 0o640
    inner = ["a", "deep", "deep/b", "link", "one"]
    assert names(here / "copy") == sorted([*inner, "many", *(f"many/{name}" for name in inner)])
    assert os.readlink(here / "copy" / "link") == "deep"


def test_a_file_without_a_name_gets_one_and_the_task_is_told(here: Path) -> None:
    there = brought(FileTransfer(here / "one"))
    source, target = there.pair()
    assert source == str(here / "one")
    assert Path(target).parent == here
    assert Path(target).read_bytes() == CONTENT


def test_a_copy_that_fails_says_from_where_to_where_and_why_and_leaves_nothing(here: Path) -> None:
    assert refusal(FileTransfer("missing", "x")) == (
        f"{here}/missing could not be brought to {here}/x: [Errno 2] No such file or directory: '{here}/missing'."
    )
    said = refusal(FileTransfer("one", "/nowhere/at/all"))
    assert said == (
        f"{here}/one could not be brought to /nowhere/at/all: no file can be made in the folder /nowhere/at: No such "
        "file or directory."
    )
    assert "both are the same file" in refusal(FileTransfer("one", "one"))
    assert "into itself" in refusal(FileTransfer(Folder("many"), Folder("many/deep")))
    said = refusal(FileTransfer("one", "/nowhere/at/all", strategy=hf.fs_strategies.Rsync()))
    assert said.startswith(f"{here}/one could not be brought to /nowhere/at/all: rsync ended with exit code ")
    assert "No such file or directory" in said
    assert (here / "one").read_bytes() == CONTENT
    assert names(here) == ["many", "many/a", "many/deep", "many/deep/b", "many/link", "one"]


def test_a_checksum_is_looked_at_and_what_is_wrong_is_removed(here: Path) -> None:
    right = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    brought(FileTransfer("one", "two", checksum=right))
    wrong = f"sha256:{'0' * 64}"
    assert refusal(FileTransfer("one", "three", checksum=wrong)).endswith(
        f"three: its checksum is {right}, and {wrong} was wanted; it was removed."
    )
    assert (here / "two").exists()
    assert not (here / "three").exists()


def test_rsync_goes_over_ssh_with_its_key_and_no_text_of_ours_is_a_shell_s(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = here / "programs"
    programs.mkdir()
    (programs / "ssh").write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" >>"$NOTE"\n'
        'while [[ $1 == -* ]]; do case $1 in -o|-i|-l) shift 2;; *) shift;; esac; done\nshift\nexec "$@"\n'
    )
    (programs / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("NOTE", str(here / "note"))
    strategy = hf.fs_strategies.Rsync(user="me", host="far.example", private_key_path="/keys/my key")
    odd = "odd; touch broken $(touch broken) 'name"
    brought(TransferToRemote(f"{here}/{odd}", "one", strategy=strategy))
    brought(TransferFromRemote(f"{here}/{odd}", "back", strategy=strategy))

    assert (here / "back").read_bytes() == CONTENT
    assert not (here / "broken").exists()
    note = (here / "note").read_text().splitlines()
    assert note[:7] == ["-o", "BatchMode=yes", "-i", "/keys/my key", "-l", "me", "far.example"]
    monkeypatch.setenv("PATH", str(programs))
    assert "there is no rsync" in refusal(TransferFromRemote("/x", "y", strategy=strategy))


# ---- HTTP


class Answers(BaseHTTPRequestHandler):
    received: ClassVar[dict[str, bytes]] = {}
    headers_of: ClassVar[dict[str, dict[str, str]]] = {}
    status_of: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        told = self.headers_of.get(self.path, {})
        self.send_response(self.status_of.get(self.path, 200))
        headers = {"Content-Length": str(len(CONTENT)), **told}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(CONTENT[: int(headers["Content-Length"])])

    def do_PUT(self) -> None:
        self.received[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201 if self.path == "/put" else 403)
        self.end_headers()
        self.wfile.write(b"" if self.path == "/put" else b"not yours")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(60)
        server.server_close()


def test_a_file_comes_and_goes_over_http_and_lies_of_the_server_are_noticed(here: Path, web: str) -> None:
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    Answers.headers_of = {
        "/data.bin": {"Repr-Digest": f"sha-256=:{digest}:"},
        "/lie": {"Digest": f"SHA-256={base64.b64encode(bytes(32)).decode()}"},
        "/short": {"Content-Length": str(len(CONTENT) + 1)},
        "/sent-on": {"Location": "/data.bin", "Content-Length": "0"},
        "/to-a-file": {"Location": f"file://{here}/one", "Content-Length": "0"},
        "/to-ftp": {"Location": "ftp://127.0.0.1/one", "Content-Length": "0"},
        "/missing": {"Content-Length": "8"},
    }
    Answers.status_of = {"/sent-on": 302, "/to-a-file": 302, "/to-ftp": 301, "/missing": 404}

    brought(FileTransfer(f"{web}/data.bin", Folder("many")))
    brought(TransferFromRemote(f"{web}/sent-on", "two"))
    brought(TransferToRemote(f"{web}/put", "one"))
    assert (here / "many" / "data.bin").read_bytes() == (here / "two").read_bytes() == CONTENT
    assert Answers.received["/put"] == CONTENT

    beginning = f"{web}/lie could not be brought to {here}/x: "
    assert refusal(FileTransfer(f"{web}/lie", "x")) == f"{beginning}what came is not what the server's checksum says."
    assert "the server promised 2048001 bytes, and 2048000 came" in refusal(FileTransfer(f"{web}/short", "x"))
    assert f"302 Found - Redirection to url 'file://{here}/one' is not allowed" in refusal(
        FileTransfer(f"{web}/to-a-file", "x")
    )
    assert "only http and https are followed" in refusal(FileTransfer(f"{web}/to-ftp", "x"))
    assert "the server answers 404 Not Found" in refusal(FileTransfer(f"{web}/missing", "x"))
    assert refusal(TransferToRemote(f"{web}/no", "one")).endswith("/no: the server answers 403 Forbidden: not yours.")
    assert "can't be reached from here" in refusal(FileTransfer("http://127.0.0.1:1/", "x"))
    assert not (here / "x").exists()
    assert not list(here.glob(".*part"))


# ---- what fsspec knows


def leads_out(service: object, path: str, **_: object) -> list[str]:
    """List what no folder holds."""
    return [f"{path}/../../escaped"]


hostile = type("Hostile", (MemoryFileSystem,), {"protocol": "hostile", "find": leads_out})
fsspec.register_implementation("hostile", hostile, clobber=True)


def test_what_fsspec_knows_is_brought_both_ways_and_counted(here: Path) -> None:
    brought(TransferToRemote("memory://bucket/one", "one"))
    brought(TransferToRemote(Folder("memory://bucket/folder", is_remote=True), Folder("many")))
    brought(TransferFromRemote("memory://bucket/one", "two"))
    brought(FileTransfer(Folder("memory://bucket/folder"), Folder("back")))
    assert (here / "two").read_bytes() == CONTENT
    assert names(here / "back") == ["a", "deep", "deep/b"]
    assert "memory://bucket/none could not be brought to" in refusal(FileTransfer("memory://bucket/none", "x"))


def test_a_remote_listing_leads_nowhere_out_of_the_folder(here: Path) -> None:
    assert "the other side lists '../../escaped', which leads out of the folder" in refusal(
        FileTransfer(Folder("hostile://bucket/folder"), Folder("back"))
    )
    (here / "trap").mkdir()
    (here / "trap" / "out").symlink_to("/tmp")
    with pytest.raises(TransferFailed, match="leads out"):
        inside(str(here / "trap"), "out/x")


def test_stores_that_the_task_has_no_package_for_say_what_to_ask_for(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategies = hf.fs_strategies
    assert 'deps_pip=["fsspec", "s3fs"] brings them' in refusal(FileTransfer("s3://bucket/key", "x"))
    blob = strategies.Blob(client_id="i", client_secret="s", tenant_id="t")
    url = File("https://mine.blob.core.windows.net/box/a/b")
    assert (blob.address(url), blob.options(url)["account_name"]) == ("abfs://box/a/b", "mine")
    assert '"adlfs"' in refusal(FileTransfer(url, "x", strategy=blob))
    assert strategies.S3(profile="p", region_name="eu").options(url) == {
        "profile": "p",
        "client_kwargs": {"region_name": "eu"},
    }
    assert strategies.GCloud("key.json", "mine").storage_options == {"token": "key.json", "project": "mine"}
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert refusal(FileTransfer("gs://bucket/key", "x")).endswith(
        "x: gs:// needs the Python package fsspec and what it knows of it, which are not in the task's environment "
        '(fsspec is missing); deps_pip=["fsspec", "gcsfs"] brings them, and where="server" in the strategy lets the '
        "server bring a file."
    )


def test_what_the_server_fetches_is_named_in_the_manifest_and_found_by_the_task(here: Path) -> None:
    far = hf.fs_strategies.Fsspec(where="server", root="/there")
    transfer = FileTransfer("far://bucket/one", "two", strategy=far)

    @hf.electron(files=[transfer, FileTransfer("one", "three")], executor="local")
    def work() -> int:
        return 1

    @hf.lattice
    def flow() -> tuple[int, int]:
        return work(), work()

    described, _ = manifest(flow.build_graph())
    (function,) = cast("dict[str, dict[str, Any]]", described["functions"]).values()
    (wanted,) = function["fetched"]
    assert wanted == {"key": wanted["key"], "address": "far://bucket/one", "options": {"root": "/there"}}

    assert refusal(transfer).endswith("two: no server has fetched it for this task.")
    given = {wanted["key"]: CONTENT}

    def pour(key: str, file: BinaryIO) -> None:
        file.write(given[key])

    enter("dispatch", 0, pour)
    try:
        brought(transfer)
        other = FileTransfer("far://bucket/other", "x", strategy=far)
        assert refusal(other).endswith("no server has fetched it for this task.")
    finally:
        enter(None, 0)
    assert (here / "two").read_bytes() == CONTENT
    assert not (here / "x").exists()
    assert not list(here.glob(".*part"))


def test_the_process_beside_the_server_fetches_from_other_machines_alone(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryFileSystem()
    memory.pipe_file("/bucket/fetched", CONTENT)
    assert fetch("memory://bucket/fetched", {}, str(here / "fetched"), len(CONTENT)) == len(CONTENT)
    assert (here / "fetched").read_bytes() == CONTENT

    def why(address: str, limit: int = 10**9) -> str:
        with pytest.raises(TransferFailed) as failed:
            fetch(address, {}, str(here / "x"), limit)
        return str(failed.value)

    assert why("memory://bucket/fetched", len(CONTENT) - 1) == (
        f"it has more than {len(CONTENT) - 1} bytes; `max_fetch` in config.toml allows more"
    )
    for address in (
        f"file://{here}/one",
        f"{here}/one",
        f"zip://a::{here}/one",
        "local://one",
        "simplecache::s3://a/b",
    ):
        assert "the server goes to other machines alone" in why(address)
    for option in ("protocol", "fo", "target_protocol"):
        assert refuse("far://bucket/one", {option: "file"}) == (
            f"the option {option}= leads to another scheme, and the server goes by the address alone"
        )
    fsspec.register_implementation("disguised", type("Disguised", (LocalFileSystem,), {"protocol": "disguised"}))
    assert "for files of the server's own machine" in why(f"disguised://{here}/one")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert why("s3://bucket/key").endswith(
        "not in the server's environment (fsspec is missing): install fsspec where hpcflow is"
    )
    assert not (here / "x").exists()


def test_the_same_transfer_is_the_same_bytes_wherever_it_is_written() -> None:
    """Whether a task is the one that ran before is told by what it is sent."""

    def made() -> FileTransfer:
        return FileTransfer("https://example.org/data", order=Order.BEFORE)

    assert dumps(made()) == dumps(made())
    assert made().pair()[1] == made().pair()[1] != FileTransfer("https://example.org/other").pair()[1]


# ---- the client's files, schemes of the user's own, mistakes


def test_files_of_the_client_travel_with_the_task(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = [
        dumps(transfer)
        for transfer in (
            FileTransfer("client:one", "here"),
            FileTransfer("client:many", Folder("all")),
            FileTransfer("client:one", Folder("into")),
        )
    ]
    away = here / "away"
    (away / "into").mkdir(parents=True)
    monkeypatch.chdir(away)
    for each in sent:
        load_with(each).carry_out()
    assert (away / "here").read_bytes() == (away / "into" / "one").read_bytes() == CONTENT
    assert (away / "here").stat().st_mode & 0o777 == 0o640
    assert names(away / "all") == ["a", "deep", "deep/b"]
    with pytest.raises(hf.UserError, match="client:gone can't be read where you dispatch: No such file"):
        dumps(FileTransfer("client:gone", "x"))


def test_a_file_of_the_client_is_read_again_for_each_dispatch_and_not_in_the_task(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, transfer = here / "in.txt", FileTransfer("client:in.txt", "out.txt")

    def sent() -> bytes:
        sent_on: FileTransfer = load_with(dumps(transfer))
        return dumps(sent_on)  # a task that dispatches sends on what it has

    changing.write_text("one")
    first = sent()
    changing.write_text("two")
    second = sent()
    changing.unlink()
    changing.mkdir()
    (changing / "deep").write_text("three")
    third = sent()
    (here / "away").mkdir()
    monkeypatch.chdir(here / "away")
    found: list[str] = []
    for each in (first, second):
        load_with(each).carry_out()
        found.append(Path("out.txt").read_text())
    assert found == ["one", "two"]
    os.unlink("out.txt")
    load_with(third).carry_out()
    assert Path("out.txt/deep").read_text() == "three"


def test_pipes_sockets_and_devices_are_refused_and_nobody_waits_for_them(here: Path) -> None:
    os.mkfifo(here / "many" / "pipe")
    said = refusal(FileTransfer(Folder("many"), Folder("all")))
    assert said == f"{here}/many could not be brought to {here}/all: {here}/many/pipe is a pipe, and no file."
    assert "/dev/null is a device, and no file" in refusal(FileTransfer("/dev/null", "x"))
    for given, path in (("client:many", "many/pipe"), ("client:many/pipe", "many/pipe")):
        with pytest.raises(hf.UserError) as refused:
            dumps(FileTransfer(given, "x"))
        assert str(refused.value) == f"{given} can't be sent: {path} is a pipe, and no file."


def test_a_scheme_of_the_users_own_is_brought_by_functions_that_travel(here: Path) -> None:
    def fetch(address: str, path: str) -> None:
        Path(path).write_text(f"from {address}")

    def nothing(address: str, path: str) -> None: ...

    hf.fs.register_downloader("tape", fetch)
    hf.fs.register_uploader("void", nothing)
    brought(FileTransfer("tape://archive/run-7", "seven"))
    assert (here / "seven").read_text() == "from tape://archive/run-7"
    brought(TransferToRemote("void://x", "one"))
    assert "no downloader is registered for void://" in refusal(FileTransfer("void://x", "y"))
    hf.fs.register_downloader("void", nothing)
    assert refusal(FileTransfer("void://x", "y")) == (
        f"void://x could not be brought to {here}/y: nothing is at {here}/y afterwards."
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: FileTransfer("http://a/b", "s3://c/d"), "both lie elsewhere than the task"),
        (lambda: FileTransfer("out", "client:out"), "goes after the task, from where it runs"),
        (lambda: FileTransfer("client:x", "y", order="after"), "comes before the task"),
        (lambda: FileTransfer("globus://a/b", "x"), "Globus moves files by itself"),
        (lambda: FileTransfer("a", "b", order="never"), "must be Order.BEFORE or Order.AFTER"),
        (lambda: FileTransfer("a", "b", checksum="md5:1"), "must be 'sha256:' and 64 hexadecimal digits"),
        (lambda: File("file://elsewhere/x"), "names no file of one machine"),
        (lambda: File(""), "names no file"),
        (lambda: hf.fs_strategies.Rsync(host="-oProxyCommand=x"), "is no host's name"),
        (lambda: hf.fs_strategies.Rsync(user="-x", host="h"), "is no login"),
        (lambda: hf.fs_strategies.Fsspec(where=cast(Any, "there")), "must be 'task' or 'server'"),
        (
            lambda: TransferToRemote("s3://a/b", "c", hf.fs_strategies.S3(where="server"), order="before"),
            "brings files from elsewhere to tasks",
        ),
        (lambda: TransferToRemote("s3://a/b", Folder("c"), hf.fs_strategies.S3(where="server")), "single files"),
        (lambda: FileTransfer(Folder("s3://a/b"), "c", strategy=hf.fs_strategies.S3(where="server")), "single files"),
        (lambda: hf.fs_strategies.S3("/credentials", where="server"), "with where='server' give profile="),
        (
            lambda: TransferFromRemote("/etc/passwd", "c", hf.fs_strategies.Fsspec(where="server")),
            "never to files of its own",
        ),
        (
            lambda: FileTransfer("s3://a/b", "c", strategy=hf.fs_strategies.S3(where="server", session=object())),
            "options must be JSON",
        ),
        (lambda: hf.electron(files=cast(FileTransfer, 3))(lambda: 1), "must be an hf.fs.FileTransfer"),
        (lambda: hf.lattice(files=[FileTransfer("a", "b")])(lambda: 1), "files belongs to the electron"),
    ],
)
def test_what_can_not_be_brought_is_refused_before_anything_runs(make: Callable[[], object], said: str) -> None:
    with pytest.raises(hf.UserError, match=said):
        make()


def test_a_transfer_that_takes_long_says_how_far_it_is_ever_more_seldom(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = iter(range(0, 2000, 20))
    size, _ = pour(io.BytesIO(bytes(12 << 20)), io.BytesIO(), clock=lambda: float(next(seconds)))
    assert size == 12 << 20
    assert capsys.readouterr().err.splitlines() == [
        f"a file: {done << 20} bytes in {done * 20} s so far." for done in (2, 4, 8)
    ]


def test_several_tasks_may_not_write_one_file_here_and_each_has_its_number(tmp_path: Path) -> None:
    def traced(path: str) -> Traced:
        work = hf.electron(files=FileTransfer("out", path, order="after"))(abs)
        return hf.lattice(lambda: [work(x) for x in (1, 2)]).build_graph()

    assert expected(traced(f"client:{tmp_path}/{{node_id}}/")) == {
        str(number): [["out", f"{tmp_path}/{number}/out"]] for number in (0, 1)
    }
    with pytest.raises(hf.UserError, match=r"Several tasks would write .*/out here, the last of them 'abs': put {node"):
        expected(traced(f"client:{tmp_path}/out"))
