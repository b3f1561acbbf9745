"""What was never finished goes after a day, and nothing else does: here, on a cluster, and among a client's notes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from hpcflow.core.places import Places
from hpcflow.server.clusters import LOCAL
from hpcflow.server.finding import cluster_maker
from hpcflow.server.leftovers import drop_folders, drop_notes, dropped_of, dropping
from hpcflow.server.settings import ClusterSettings, Settings

BAG = "01JD0000000000000000000001"
OTHER = "01JD0000000000000000000002"
ENVIRONMENT = "0123456789abcdef0123"
LEFT = {
    f"{BAG}.part-01234567",
    "worker-0.1.0-33ac56fcf987.part-89abcdef",
    "0123456789abcdef.part-89abcdef",
    f"{ENVIRONMENT}.part-a_9zzzz0",
    f"{ENVIRONMENT}.wheels-01234567",
    f"{ENVIRONMENT}.wheels-01234567.part-89abcdef",
}
OURS_BUT_WHOLE = {BAG, ENVIRONMENT, "worker-0.1.0-33ac56fcf987"}
NOT_OURS = {
    "mine.part-01234567",
    f"{BAG}.part-0123456",
    f"{BAG}.part-01234567.old",
    f"{BAG}.part-ABCDEFGH",
    "a\nb.part-01234567",
}


def there(folders: list[str]) -> list[str]:
    """Remove what is left as on a cluster, by its shell, after a login script that talks."""
    command = dropping(folders)
    done = subprocess.run(command.argv, capture_output=True, check=True)
    return dropped_of(b"Welcome to the cluster!\n" + done.stdout)


def made(path: Path, *, age_s: float = 2 * 86400.0) -> Path:
    (path / "deep" / "in").mkdir(parents=True)
    (path / "deep" / "in" / "file").write_text("x")
    aged(path, age_s)
    return path


def aged(path: Path, age_s: float = 2 * 86400.0) -> None:
    at = path.lstat().st_mtime - age_s
    os.utime(path, (at, at), follow_symlinks=False)


@pytest.mark.parametrize("drop", [drop_folders, there])
def test_folders_that_were_never_finished_go_after_a_day_and_nothing_else(
    tmp_path: Path, drop: Callable[[list[str]], list[str]]
) -> None:
    bags, elsewhere = tmp_path / "it's the bags", tmp_path / "elsewhere"
    for name in LEFT | OURS_BUT_WHOLE | NOT_OURS:
        made(bags / name)
    young = made(bags / f"{OTHER}.part-01234567", age_s=80000.0)
    target = made(elsewhere / "precious")
    link, file = bags / f"{OTHER}.part-11111111", bags / f"{OTHER}.part-22222222"
    link.symlink_to(target)
    aged(link)
    file.write_text("a file")
    aged(file)
    foreign = made(bags / f"{OTHER}.part-33333333") if os.geteuid() == 0 else None
    if foreign is not None:
        os.chown(foreign, 12345, 12345)

    dropped = drop([str(tmp_path / "nothing there"), str(bags)])

    assert sorted(dropped) == sorted(LEFT)
    stay = {*OURS_BUT_WHOLE, *NOT_OURS, young.name, link.name, file.name, *([foreign.name] if foreign else [])}
    assert set(os.listdir(bags)) == stay
    assert (target / "deep" / "in" / "file").read_text() == "x"


def test_a_cluster_is_tidied_at_the_first_contact_and_then_once_a_day(tmp_path: Path) -> None:
    where = Places(str(tmp_path / "home"))
    make = cluster_maker(where, Settings(), {"PATH": "/usr/bin:/bin"}, "/usr/bin/python3")

    async def contacts() -> list[bool]:
        cluster = make(LOCAL, ClusterSettings(scheduler="local"))
        left = Path(cluster.bag_path(f"{BAG}.part-01234567"))
        seen: list[bool] = []
        for _ in range(2):
            made(left)
            await cluster.place_worker()
            seen.append(left.exists())
            cluster._placed_at = None  # as a minute later
            if left.exists():
                await cluster.place_worker()
        return seen

    assert asyncio.run(contacts()) == [False, True]


def test_notes_of_dispatches_that_are_gone_go_and_those_of_a_login_nodes_server_stay(tmp_path: Path) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    far, kept, gone, young, old_form, half = (f"01JD000000000000000000000{i}" for i in "ABCDEF")
    notes: dict[str, object] = {
        f"{far}.json": {"here": False},
        f"{kept}.json": {"here": True},
        f"{gone}.json": {"here": True, "done": False},
        f"{young}.json": {"here": True},
        f"{old_form}.json": {"done": True},
        f"{half}.new": {},
        "mine.json": {"here": True},
    }
    for name, said in notes.items():
        (folder / name).write_text(json.dumps(said))
        aged(folder / name, 0.0 if name.startswith(young) else 2 * 86400.0)

    dropped = drop_notes(Places(str(tmp_path)), lambda known: "a row" if known == kept else None)

    assert sorted(dropped) == sorted([f"{gone}.json", f"{half}.new"])
    assert set(os.listdir(folder)) == set(notes) - set(dropped)
