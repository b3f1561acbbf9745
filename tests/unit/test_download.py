"""A download that is cut again and again, or damaged, or taken up after an earlier one."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest

from hpcflow.core.places import Places
from hpcflow.sdk.connection import Server
from hpcflow.sdk.download import Damaged, fetch_value, value_size
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
