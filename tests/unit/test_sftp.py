"""Files over SFTP: a host whose key is not known gets none and gives none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcflow.fs import File, FileTransfer, TransferFailed
from hpcflow.sdk.object_stores import Fsspec
from tests.integration.sshd import Sshd, key, sshd


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("host"), "Subsystem sftp internal-sftp") as node:
        yield node


def fetch(node: Sshd, folder: Path) -> None:
    """Bring the file ``there`` from the host to ``here``."""
    way = Fsspec(key_filename=f"{node.folder}/user", allow_agent=False, look_for_keys=False)
    there = File(f"sftp://{node.user}@127.0.0.1:{node.port}{folder}/there")
    FileTransfer(there, File(f"{folder}/here"), strategy=way).carry_out()


def test_only_a_host_whose_key_is_known_is_spoken_to(
    node: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir(mode=0o700)
    known = tmp_path / ".ssh/known_hosts"
    (tmp_path / "there").write_text("values")
    own = (node.folder / "host.pub").read_text()

    with pytest.raises(TransferFailed, match=r"the key of 127\.0\.0\.1 is not in ~/\.ssh/known_hosts on "):
        fetch(node, tmp_path)
    known.write_text(f"[127.0.0.1]:{node.port} {key(tmp_path / 'another')}")
    with pytest.raises(TransferFailed, match="is not the one that"):
        fetch(node, tmp_path)
    assert not (tmp_path / "here").exists()

    known.write_text(f"[127.0.0.1]:{node.port} {own}")
    fetch(node, tmp_path)
    assert (tmp_path / "here").read_text() == "values"
