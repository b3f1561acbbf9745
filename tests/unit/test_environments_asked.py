"""What an environment has is asked of the login side: as seldom as can be, and no answer is none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

import pytest

from hpcflow.core.environment import Environment
from hpcflow.core.model import ClusterName, Resources, Shape, UserError
from hpcflow.core.plugin import Command, Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.environments import Environments
from hpcflow.server.plugins import load
from hpcflow.server.remote import File
from hpcflow.server.settings import ClusterSettings


@dataclass
class LoginSide:
    """A machine whose interpreter has some packages."""

    packages: dict[str, str] = field(default_factory=dict[str, str])
    python: str = "3.12"
    #: What it says instead of an answer.
    failing: Reply | None = None
    asked: list[Command] = field(default_factory=list[Command])

    async def run(self, command: Command, deadline_s: float) -> Reply:
        self.asked.append(command)
        if self.failing is not None:
            return self.failing
        code = next(number for number, word in enumerate(command.argv) if "hpcflow-packages" in word)
        names = command.argv[code + 1 :]
        found = json.dumps({name: self.packages[name] for name in names if name in self.packages})
        target = f"hpcflow-target {self.python} Linux x86_64 glibc-2.28"
        return Reply(0, f"Welcome!\n{target}\nhpcflow-packages {command.argv[code - 2]} {found}\n".encode())

    async def push(self, directory: str, folders: Sequence[str], files: Sequence[File]) -> NoReturn:
        raise AssertionError(directory)

    async def append(self, path: str, data: bytes) -> NoReturn:
        raise AssertionError(path)

    async def read_new(self, directory: str, offsets: Mapping[str, int]) -> NoReturn:
        raise AssertionError(directory)

    async def read(self, path: str, offset: int, size: int) -> NoReturn:
        raise AssertionError(path)


def here(side: LoginSide, **table: object) -> Cluster:
    """A cluster of this machine."""
    plugin = load("slurm")(python="python3", worker="/w.pyz", root="/root")
    return Cluster(
        name=ClusterName("near"),
        settings=ClusterSettings.model_validate({"scheduler": "slurm", **table}),
        plugin=plugin,
        transport=side,
        root="/work",
        key=b"",
        key_path="/keys/near",
        worker_path="/work/bin/w.pyz",
    )


MINE = "/usr/bin/python3"
SHAPE = Shape(cluster=ClusterName("near"), resources=Resources(), python=MINE, python_version=(3, 12))
OTHER = replace(SHAPE, env=Environment(conda="science"))


def check(
    cluster: Cluster, shape: Shape, imports: Mapping[str, str], environments: Environments | None = None
) -> list[str]:
    return asyncio.run((environments or Environments("")).check(cluster, shape, imports, own_python=MINE))


def test_the_interpreter_that_dispatches_is_asked_nothing() -> None:
    side = LoginSide()
    assert check(here(side, prologue="module load gcc"), SHAPE, {"numpy": "2.1"}) == []
    assert side.asked == []


def test_another_environment_is_asked_once_for_all_that_it_was_asked_before() -> None:
    side = LoginSide({"numpy": "2.1", "ase": "3.24", "scipy": "1.14"})
    cluster = here(side)

    async def several() -> None:
        environments = Environments("")
        for imports in ({"numpy": "2.1"}, {"numpy": "2.1"}, {"ase": "?", "scipy": "?"}, {"numpy": "2.1", "ase": "?"}):
            assert await environments.check(cluster, OTHER, imports, own_python=MINE) == []

    asyncio.run(several())
    assert [command.argv[-1] for command in side.asked] == ["numpy", "scipy"]
    assert side.asked[0].argv[:2] == ("bash", "-lc")
    assert "conda activate science" in side.asked[0].argv[2]


def test_what_is_missing_is_named_with_what_to_do_and_asked_for_again() -> None:
    side = LoginSide({"numpy": "2.1"})
    cluster = here(side)

    async def several() -> None:
        environments = Environments("")
        wanted = {"ase": "3.24", "numpy": "2.1", "torch": "?", "mystery": ""}
        with pytest.raises(UserError, match=r"'near' lacks ase and torch, which its function imports: its environment"):
            await environments.check(cluster, OTHER, wanted, own_python=MINE)
        side.packages |= {"ase": "3.24", "torch": "2.4"}
        (said,) = await environments.check(cluster, OTHER, wanted, own_python=MINE)
        assert said == ("Neither this program's Python nor python on 'near' has mystery, which functions import.")

    asyncio.run(several())


def test_another_version_is_a_message_and_a_longer_or_a_local_one_is_none() -> None:
    side = LoginSide({"numpy": "1.26.4", "cv2": "4.8.0.76", "torch": "2.1.0+cu118", "odd": ""})
    mine = {"numpy": "2.1.0", "cv2": "4.8.0", "torch": "2.1.0", "odd": "1.0"}
    assert check(here(side), OTHER, mine) == [
        "Versions on 'near' are not those of this program: numpy 2.1.0 here and 1.26.4 there."
    ]


def test_another_minor_version_of_python_is_refused() -> None:
    with pytest.raises(UserError, match=r"asks for on 'near' is Python 3\.11, and this program runs under 3\.12"):
        check(here(LoginSide(python="3.11")), OTHER, {})


def test_who_knows_better_is_not_asked_about_packages() -> None:
    unchecked = replace(OTHER, env=replace(OTHER.env, check=False))
    assert check(here(LoginSide()), unchecked, {"ase": "3.24"}) == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply(127, b"", b"bash: python: command not found"),
        Reply(78, b"", b"hpcflow: conda was not found"),
        Reply(None, b"", b"no answer within 60 s"),
        Reply(0, b"hpcflow-target 3.12 Linux x86_64 glibc-2.28\n"),
        Reply(0, b""),
    ],
)
def test_no_answer_says_nothing_about_packages(reply: Reply) -> None:
    assert check(here(LoginSide(failing=reply)), OTHER, {"ase": "3.24"}) == []


def test_a_named_interpreter_is_asked_as_it_is() -> None:
    side = LoginSide()
    cluster = here(side, python="/apps/python3")
    with pytest.raises(UserError, match=r"the Python there, /apps/python3 with Python 3\.12, does not have it"):
        check(cluster, replace(SHAPE, python="/apps/python3"), {"ase": "3.24"})
    assert side.asked[0].argv[0] == "/apps/python3"


def test_packages_to_be_installed_are_not_missing_before() -> None:
    side = LoginSide()
    wanted = replace(SHAPE, env=Environment(requirements=("ase",), alone=True))
    assert check(here(side), wanted, {"ase": "3.24"}) == []
