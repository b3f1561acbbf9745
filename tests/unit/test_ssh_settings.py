"""What clusters.toml may say of a cluster behind ssh, and what such a cluster has instead of this machine's paths."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hpcflow.core.model import ClusterName, Resources, Shape, UserError
from hpcflow.core.places import Places
from hpcflow.core.plugin import Command, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.finding import find_clusters
from hpcflow.server.remote import Ask, File, Transport
from hpcflow.server.settings import ClusterSettings, Settings, read_clusters
from tests.unit.test_engine import in_loop

OWN = (sys.version_info[0], sys.version_info[1])


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ('host = "-oProxyCommand=x"', "host is '-oProxyCommand=x'"),
        ('host = "a b"', "host is 'a b'"),
        ('host = ""', "host is ''"),
        ('host = "far"\nchannels = 0', "channels is 0"),
        ('keys = "/k"', "keys= is for clusters that are reached by ssh; this one has no host."),
        ('workdir = "~/work"', "workdir is '~/work'; write an absolute path."),
        ('host = "far"\nworkdir = "work"', "workdir is 'work'; write an absolute path, or one that begins with ~/."),
        ('host = "far"\nkeys = "keys"', "keys is 'keys'; write an absolute path, or one that begins with ~/."),
    ],
)
def test_what_can_not_be_is_told_before_anything_connects(tmp_path: Path, table: str, sentence: str) -> None:
    where = Places(str(tmp_path))
    Path(where.clusters).write_text(f'[far]\nscheduler = "slurm"\n{table}\n')
    with pytest.raises(UserError) as refused:
        read_clusters(where)
    assert sentence in str(refused.value)


def test_this_machine_is_behind_no_ssh(tmp_path: Path) -> None:
    where = Places(str(tmp_path))
    Path(where.clusters).write_text('[local]\nscheduler = "local"\nhost = "far"\n')
    with pytest.raises(UserError, match="`local` is this machine"):
        read_clusters(where)


class Far:
    """A host that has a home and some interpreters, and notes what is done to it."""

    needs_login = False

    def __init__(self, pythons: Sequence[str] = (), file_system: str = "6969") -> None:
        self._pythons = pythons
        self._file_system = file_system
        self.commands: list[Command] = []
        self.pushed: dict[str, bytes] = {}

    async def run(self, command: Command, deadline_s: float) -> Reply:
        self.commands.append(command)
        if "stat -f" in command.argv[2]:
            return Reply(0, self._file_system.encode() + b"\n")
        said = "".join(f"hpcflow-python {version} /opt/python{version}\n" for version in self._pythons)
        return Reply(0, f"Welcome\n{said}".encode())

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> None:
        self.pushed |= {os.path.join(directory, file.name): b"".join(file.pieces) for file in files}

    async def append(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> dict[str, bytes]:
        return {}

    async def read(self, path: str, offset: int, size: int) -> bytes:
        return b""

    async def reach(self) -> None: ...

    async def home(self) -> str:
        return "/home/ada"

    async def login(self, ask: Ask) -> None: ...

    async def close(self) -> None: ...


_conforms: type[Transport] = Far


async def a_cluster(folder: Path, far: Far, **table: str) -> Cluster:
    settings = ClusterSettings.model_validate({"scheduler": "local", "host": "far", **table})
    clusters, _ = await find_clusters(Places(str(folder)), Settings(), {"far": settings}, {}, sys.executable)
    cluster = clusters[ClusterName("far")]
    cluster.transport = cluster.link = far
    await cluster.place_worker()
    return cluster


def a_shape(python: str, version: tuple[int, int]) -> Shape:
    return Shape(cluster=ClusterName("far"), resources=Resources(), python=python, python_version=version)


@in_loop
async def test_paths_key_and_commands_are_those_of_the_home_there(tmp_path: Path) -> None:
    far = Far(["3.9", f"{OWN[0]}.{OWN[1]}"])
    cluster = await a_cluster(tmp_path, far)
    name = hashlib.sha256(cluster.key).hexdigest()[:16]
    assert cluster.bag_path("B") == "/home/ada/.hpcflow/work/far/bags/B"
    assert cluster.key_path == f"/home/ada/.config/hpcflow/keys/{name}/key"
    assert far.pushed[cluster.key_path] == cluster.key
    assert far.pushed[cluster.worker_path][:2] == b"PK"
    argv = cluster.plugin.probe().argv
    assert argv[0] == f"/opt/python{OWN[0]}.{OWN[1]}"
    assert argv[-1] == "/home/ada/.hpcflow/work/far"
    assert cluster.key.hex() not in repr(far.commands)
    assert str(tmp_path) not in repr((argv, cluster.root, cluster.worker_path, cluster.key_path))


@in_loop
async def test_workdir_and_keys_may_be_elsewhere(tmp_path: Path) -> None:
    cluster = await a_cluster(tmp_path, Far(), workdir="/scratch/ada", keys="~/k")
    assert cluster.root == "/scratch/ada"
    assert cluster.key_path.startswith("/home/ada/k/")


@pytest.mark.parametrize(("told", "network"), [("6969", True), ("ef53", False), ("?", True), ("", True)])
@in_loop
async def test_what_is_not_surely_one_machines_own_disk_is_a_network_file_system(
    tmp_path: Path, told: str, network: bool
) -> None:
    assert (await a_cluster(tmp_path, Far(file_system=told))).on_network is network


@in_loop
async def test_a_dispatch_gets_the_interpreter_of_its_own_minor_version(tmp_path: Path) -> None:
    cluster = await a_cluster(tmp_path, Far(["3.12", "3.13"]), prologue="module load python")
    python = cluster.python_for("/laptop/python", [3, 12, 1])
    shape = a_shape(python, (3, 12))
    cluster.check_interpreter(shape)
    assert cluster.interpreter(shape) == "/opt/python3.12"
    with pytest.raises(UserError) as refused:
        cluster.check_interpreter(replace(shape, python_version=(3, 11)))
    assert str(refused.value) == (
        "'far' has no Python 3.11 on PATH; it has 3.12 (/opt/python3.12), 3.13 (/opt/python3.13). Load one in the "
        "prologue of clusters.toml, name one there with python=, have one installed with python = 'auto', or dispatch "
        "with a Python that both places have."
    )


@in_loop
async def test_a_named_interpreter_is_used_and_its_version_checked_where_it_can_be(tmp_path: Path) -> None:
    cluster = await a_cluster(tmp_path, Far(["3.12"]), python="/opt/python3.12")
    shape = a_shape(cluster.python_for("/laptop/python", [3, 12]), (3, 12))
    assert cluster.interpreter(shape) == "/opt/python3.12"
    cluster.check_interpreter(shape)
    with pytest.raises(UserError, match=r"which is Python 3\.12, and this program under 3\.11"):
        cluster.check_interpreter(replace(shape, python_version=(3, 11)))
    unseen = await a_cluster(tmp_path, Far(), python="/only/on/compute/nodes")
    unseen.check_interpreter(shape)


@in_loop
async def test_a_cluster_that_needs_login_says_so_before_anything_else(tmp_path: Path) -> None:
    far = Far()
    cluster = await a_cluster(tmp_path, far)
    assert cluster.state == "unknown"
    cluster.problem = "far can't be reached."
    assert cluster.state == "unreachable"
    far.needs_login = True
    assert cluster.state == "needs login"
    cluster.problem, cluster.version, far.needs_login = None, "local scheduler, 2 cores", False
    assert cluster.state == "ok"


def test_journals_behind_ssh_are_read_less_often(tmp_path: Path) -> None:
    async def both() -> tuple[tuple[float, float], tuple[float, float]]:
        far = await a_cluster(tmp_path, Far())
        near, _ = await find_clusters(Places(str(tmp_path)), Settings(), {}, {}, sys.executable)
        return far.follow_poll(Settings()), near[ClusterName("local")].follow_poll(Settings())

    assert asyncio.run(both()) == ((1.0, 5.0), (0.1, 0.5))
