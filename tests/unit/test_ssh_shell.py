"""What is said to a shell and read from it: whole or not at all, whatever stands around it."""

from __future__ import annotations

import ast
import io
import os
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcflow
from hpcflow.core.plugin import Command
from hpcflow.server.remote import File, TransportError
from hpcflow.server.remote.shell import (
    LINE,
    framed,
    parse_answer,
    parse_environment,
    parse_news,
    push_program,
    run_program,
    spell_offsets,
    tar_stream,
    watch_program,
)

NONCE = "0123456789abcdef"


def shell(program: str, stdin: bytes = b"") -> tuple[bytes, bytes]:
    """Run a program as sshd would have it run, and return what came out."""
    argv = shlex.split(LINE)[1:]
    done = subprocess.run(argv, input=framed(program, NONCE) + stdin, capture_output=True, check=False, timeout=60)
    return done.stdout, done.stderr


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(words, max_size=5), st.binary(max_size=50), st.integers(0, 255))
def test_any_words_and_bytes_pass_through_the_shell(arguments: list[str], stdin: bytes, code: int) -> None:
    command = Command(("sh", "-c", f'printf "%s\\0" "$@"; cat >&2; exit {code}', "sh", *arguments))
    answer = parse_answer(*shell(run_program(command, {"PATH": os.environ["PATH"]}), stdin), NONCE)
    assert answer is not None
    spelled = b"".join(os.fsencode(word) + b"\0" for word in arguments) or b"\0"
    assert (answer.exit_code, answer.stdout, answer.stderr) == (code, spelled, stdin)


@given(st.binary(max_size=30), st.binary(max_size=30), st.binary(max_size=30), st.integers(0, 255))
def test_noise_before_and_after_is_no_answer(before: bytes, body: bytes, after: bytes, code: int) -> None:
    whole = before + f"<{NONCE}>".encode() + body + f"</{NONCE} {code}>".encode() + after
    answer = parse_answer(whole, b"", NONCE)
    assert answer is not None
    assert (answer.exit_code, answer.stdout) == (code, body)


def test_an_answer_cut_anywhere_is_none() -> None:
    whole = f"motd\n<{NONCE}>4711\n</{NONCE} 0>".encode()
    assert [at for at in range(len(whole)) if parse_answer(whole[:at], b"", NONCE) is not None] == []


def test_the_marks_of_another_command_are_noise() -> None:
    whole = f"<other></other 0><{NONCE}>mine</other 7></{NONCE} 3>".encode()
    answer = parse_answer(whole, b"", NONCE)
    assert answer is not None
    assert (answer.exit_code, answer.stdout) == (3, b"mine</other 7>")


def test_an_environment_comes_from_the_login_shell_where_there_is_one() -> None:
    said = b"@plain\nPATH=/bin\nHOME=/home/ada\nSECRET=x\nmotd\n@login\nPATH=/opt/slurm/bin:/bin\nLANG=C\nodd line\n"
    assert parse_environment(said) == {"PATH": "/opt/slurm/bin:/bin", "HOME": "/home/ada", "LANG": "C"}


def test_news_cut_anywhere_are_an_error() -> None:
    whole = b"1 5 17_0_0.jsonl\nline\n3 4 a\nb\nc\nmore 0 .\n"
    assert parse_news(whole) == ({"17_0_0.jsonl": b"line\n", "a": b"b\nc\n"}, True)
    for at in range(len(whole)):
        with pytest.raises(TransportError):
            parse_news(whole[:at])


def test_a_listing_that_fails_on_the_way_is_an_error_and_no_silence(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/17_0_0.jsonl").write_bytes(b"line\n")
    broken = tmp_path / "ls"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    program = watch_program(str(tmp_path / "journal"))
    for path, fails in ((os.environ["PATH"], False), (f"{tmp_path}:{os.environ['PATH']}", True)):
        answer = parse_answer(*shell(f"PATH={shlex.quote(path)}; {program}", spell_offsets({})), NONCE)
        assert answer is not None
        if fails:
            with pytest.raises(TransportError):
                parse_news(answer.stdout)
        else:
            assert parse_news(answer.stdout) == ({"17_0_0.jsonl": b"line\n"}, False)


def test_a_push_whose_stream_is_cut_anywhere_leaves_nothing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ("payload.pack", "bag.json"):
            entry = tarfile.TarInfo(name)
            entry.size = 300
            archive.addfile(entry, io.BytesIO(os.urandom(300)))
    whole = stream.getvalue()
    program = push_program(f"{tmp_path}/bags/one", f"{tmp_path}/bags/one.part", ["payload.pack", "bag.json"])
    for at in [*range(0, len(whole), 41), len(whole) - 1]:
        answer = parse_answer(*shell(program, whole[:at]), NONCE)
        assert answer is not None
        assert answer.exit_code != 0
        assert list((tmp_path / "bags").iterdir()) == []
    answer = parse_answer(*shell(program, whole), NONCE)
    assert answer is not None
    assert answer.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "bags/one").iterdir()) == ["bag.json", "payload.pack"]


def test_a_tar_is_what_tar_reads() -> None:
    files = [File("empty", []), File("a" * 150, [b"x" * 511, b"y"]), File("bag.json", [b"{}"])]
    with tarfile.open(fileobj=io.BytesIO(b"".join(tar_stream(["claims"], files)))) as archive:
        found = {entry.name: (entry.mode, entry.size) for entry in archive.getmembers()}
    assert found == {"claims": (0o700, 0), "empty": (0o600, 0), "a" * 150: (0o600, 512), "bag.json": (0o600, 2)}


# ---- the rules of the house


def sources() -> dict[str, ast.Module]:
    folder = Path(hpcflow.__file__).parent
    return {str(path.relative_to(folder)): ast.parse(path.read_text()) for path in folder.rglob("*.py")}


def imports(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names.add(node.module.partition(".")[0])
    return names


def test_only_the_connection_knows_asyncssh_and_it_runs_nothing_but_framed_programs() -> None:
    knowing = {name: tree for name, tree in sources().items() if "asyncssh" in imports(tree)}
    # The tunnel only passes bytes on.
    assert sorted(knowing) == ["server/remote/connection.py", "server/remote/tunnel.py"]
    called = [
        node.func.attr
        for tree in knowing.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]
    assert called.count("create_session") == 1
    assert not {"run", "create_process", "open_session", "start_sftp_client", "create_subprocess"} & set(called)


def test_a_server_without_clusters_behind_ssh_never_imports_asyncssh() -> None:
    program = "import sys, hpcflow.server.__main__, hpcflow.server.service; print('asyncssh' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
