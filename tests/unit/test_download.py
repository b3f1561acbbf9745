"""A download that is cut again and again, or damaged, or taken up after an earlier one."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from hpcflow.core.model import UserError
from hpcflow.core.places import Places
from hpcflow.sdk.connection import Server
from hpcflow.sdk.download import Damaged, Fetch, fetch_result, fetch_value, listing, value_size
from tests.unit.fake_server import write_record
from tests.unit.served import FIRST, TOKEN, MemoryService, served


@contextmanager
def a_server(home: Path, service: MemoryService) -> Generator[Server]:
    """Serve a value, to a client that finds the server by its home."""
    with served(home, service):
        write_record(home)
        (home / "token").write_text(TOKEN)
        yield Server(Places(str(home)))


def test_a_value_that_is_cut_again_and_again_comes_whole_and_each_byte_once(hpcflow_home: Path) -> None:
    service = MemoryService()
    service.files.data = os.urandom(10_000)
    service.files.cut_after = 3_500
    sink, shown = BytesIO(), list[int]()
    with a_server(hpcflow_home, service) as server:
        assert fetch_value(server, FIRST, 0, sink, show=shown.append) == 10_000
        begun = list(service.files.begun)
        assert value_size(server, FIRST, 0) == 10_000
    assert sink.getvalue() == service.files.data
    assert sum(shown) == 10_000
    # A piece may be lost with the connection, and is asked for again: never one that has come.
    assert begun[0] == 0
    assert begun == sorted(begun)
    assert 3 <= len(begun) <= 10


def test_what_is_there_already_is_not_asked_for_again(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.data = os.urandom(5_000)
    (tmp_path / "part").write_bytes(service.files.data[:4_000])
    sink = BytesIO()
    with a_server(hpcflow_home, service) as server:
        assert fetch_value(server, FIRST, 0, sink, have=tmp_path / "part") == 5_000
    assert service.files.begun == [4_000]
    assert sink.getvalue() == service.files.data[4_000:]


def test_what_is_not_what_a_worker_wrote_is_never_taken_for_it(hpcflow_home: Path) -> None:
    service = MemoryService()
    service.files.data = os.urandom(5_000)
    with a_server(hpcflow_home, service) as server, pytest.raises(Damaged, match="its checksum is another"):
        fetch_value(server, FIRST, 0, BytesIO(), have=bytes(100))


class Killed(Exception):
    """Ends a download as a kill would: what has come stays."""


def cut_short(size: int) -> None:
    raise Killed


def fetched(server: Server, task: int, to: Path) -> list[str]:
    return Fetch(server, (FIRST, task), listing(server, FIRST, task, "."), lambda size: None).tree(to)


def begins(server: Server, task: int, to: Path) -> Path:
    """Kill a download of a folder in its midst, and return what it left."""
    before = set(to.parent.iterdir())
    with pytest.raises(Killed):
        Fetch(server, (FIRST, task), listing(server, FIRST, task, "."), cut_short).tree(to)
    (part,) = set(to.parent.iterdir()) - before
    return part


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_another_download_left_is_never_mixed_into_a_folder(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.folders = {0: {"a": b"0" * 9, "only-0": b"zero"}, 1: {"a": b"1" * 9, "only-1": b"one"}}
    (tmp_path / "mix.part").mkdir()
    (tmp_path / "mix.part/mine").write_text("of the user")
    with a_server(hpcflow_home, service) as server:
        left = begins(server, 0, tmp_path / "mix")
        (left / "a").write_bytes(b"0" * 5)
        assert fetched(server, 1, tmp_path / "mix") == []
        assert below(tmp_path / "mix") == {"a": b"1" * 9, "only-1": b"one"}
        assert fetched(server, 0, tmp_path / "other") == []
        (tmp_path / "mix").rename(tmp_path / "first")
        # What is not of it any more goes, and the rest is taken up.
        (left / "gone").write_text("gone meanwhile")
        (left / "gone-too").mkdir()
        service.files.begun.clear()
        assert fetched(server, 0, tmp_path / "mix") == []
    assert 5 in service.files.begun
    assert below(tmp_path / "mix") == below(tmp_path / "other") == service.files.folders[0]
    assert sorted(path.name for path in (tmp_path / "mix").iterdir()) == ["a", "only-0"]
    assert below(tmp_path / "mix.part") == {"mine": b"of the user"}
    assert {path.name for path in tmp_path.iterdir() if path != hpcflow_home} == {"first", "mix", "mix.part", "other"}


def test_links_that_were_put_into_what_a_download_left_are_not_followed(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.folders = {0: {"sub": ("folder", ""), "sub/a": b"0" * 9, "b": b"1" * 9}}
    (tmp_path / "away").mkdir()
    (tmp_path / "away/b").write_bytes(b"1")
    with a_server(hpcflow_home, service) as server:
        left = begins(server, 0, tmp_path / "here")
        (left / "sub").rmdir()
        (left / "sub").symlink_to(tmp_path / "away")
        (left / "b").unlink(missing_ok=True)
        (left / "b").symlink_to(tmp_path / "away/b")
        assert fetched(server, 0, tmp_path / "here") == []
        # Nor one in the place of the whole.
        left = begins(server, 0, tmp_path / "there")
        shutil.rmtree(left)
        left.symlink_to(tmp_path / "away")
        assert fetched(server, 0, tmp_path / "there") == []
    for name in ("here", "there"):
        assert below(tmp_path / name) == {"sub/a": b"0" * 9, "b": b"1" * 9}
        assert not (tmp_path / name).is_symlink()
        assert not (tmp_path / name / "sub").is_symlink()
        assert not (tmp_path / name / "b").is_symlink()
    assert below(tmp_path / "away") == {"b": b"1"}


def test_a_link_that_leads_or_may_lead_out_of_its_folder_is_left_out(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    inside = {"sub/up": "..", "sub/e": "../a", "first": "second", "second": "./sub/..//a", "none": "no/such"}
    outside = {
        "absolute": "/etc/passwd",
        "esc": "sub/up/../x",
        "far": "sub/../../here/a",
        "sub/out": "../..",
        "through": "sub/up/a",
        "over": "first/../../x",
    }
    links = {name: ("link", target) for name, target in (inside | outside).items()}
    service.files.folders = {0: {"a": b"1", "sub": ("folder", ""), **links}}
    with a_server(hpcflow_home, service) as server:
        left_out = fetched(server, 0, tmp_path / "here")
    assert sorted(left_out) == sorted(outside)
    there = {path: os.readlink(tmp_path / "here" / path) for path in inside}
    assert there == inside
    assert not [name for name in outside if os.path.lexists(tmp_path / "here" / name)]


def test_names_that_lead_elsewhere_are_not_taken_from_a_listing(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.folders = {0: {"a": b"1", "l": ("link", "a"), "l/x": b"2", "../y": b"3", "./z": b"4", "/w": b"5"}}
    with a_server(hpcflow_home, service) as server:
        found = listing(server, FIRST, 0, ".")
    assert ([each.name for each in found.entries], found.odd) == (["a", "l"], 4)


def test_two_downloads_to_one_destination_do_not_meet(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.folders = {0: {"a": b"0" * 9}, 1: {"a": b"1" * 9}}
    refusals: list[str] = []
    to = tmp_path / "here"
    with a_server(hpcflow_home, service) as server:

        def meanwhile(size: int) -> None:
            for task in (0, 1):
                with pytest.raises(UserError) as refused:
                    fetched(server, task, to)
                refusals.append(str(refused.value))
            with pytest.raises(UserError) as refused:
                fetch_result(server, (FIRST, 0), to, 5, lambda size: None)
            refusals.append(str(refused.value))

        Fetch(server, (FIRST, 0), listing(server, FIRST, 0, "."), meanwhile).tree(to)
    assert set(refusals) == {
        f"Another hpcflow fetch to {to} is under way: wait for its end, or name another destination."
    }
    assert below(to) == {"a": b"0" * 9}
    assert [path for path in tmp_path.iterdir() if path != hpcflow_home] == [to]


def test_a_result_is_never_made_of_what_is_not_of_it(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    service.files.data = data = os.urandom(5_000)
    to = tmp_path / "r.pkl"
    (tmp_path / "r.pkl.part").write_bytes(b"gar")
    with a_server(hpcflow_home, service) as server:
        with pytest.raises(Killed):
            fetch_result(server, (FIRST, 0), to, 5_000, cut_short)
        (left,) = (path for path in tmp_path.iterdir() if re.fullmatch(r"r\.pkl\.[0-9a-f]+\.part", path.name))
        left.write_bytes(b"gar")
        fetch_result(server, (FIRST, 1), to, 5_000, lambda size: None)
        assert (to.read_bytes(), left.read_bytes()) == (data, b"gar")
        to.unlink()
        # Nor of a part that is another by now: it begins anew, by itself.
        shown: list[int] = []
        fetch_result(server, (FIRST, 0), to, 5_000, shown.append)
        assert (to.read_bytes(), sum(shown)) == (data, 5_000)
    assert (tmp_path / "r.pkl.part").read_bytes() == b"gar"
    assert not left.exists()


def test_names_that_are_no_utf_8_come_as_they_are(hpcflow_home: Path, tmp_path: Path) -> None:
    service = MemoryService()
    name = os.fsdecode(b"b\xffad")
    service.files.folders = {0: {name: b"1234", "l": ("link", name)}}
    with a_server(hpcflow_home, service) as server:
        assert listing(server, FIRST, 0, name).name == name
        assert fetched(server, 0, tmp_path / name) == []
    assert below(tmp_path / name) == {name: b"1234", "l": b"1234"}
    assert os.readlink(os.fsencode(tmp_path / name / "l")) == b"b\xffad"
