"""The rules of a site: read on the cluster, never ignored, and only ever tightened by users."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from hpcflow.core.model import DispatchId, HpcflowError, UserError
from hpcflow.core.places import Places
from hpcflow.core.plugin import Reply
from hpcflow.server.clusters import Cluster
from hpcflow.server.finding import find_clusters
from hpcflow.server.remote import ThisMachine
from hpcflow.server.service import Service, running
from hpcflow.server.settings import ClusterSettings, Settings
from hpcflow.server.shared import plan_settings
from hpcflow.server.site import SiteError, SiteRules, check_server, parse_rules, rules
from hpcflow.server.store import EventKind, Store
from hpcflow.server.trial import Asked
from tests.unit.mini_world import MINI, QUICK, PlayedWorker, Stage, a_stage
from tests.unit.test_engine import in_loop
from tests.unit.test_service import a_service, dispatched

FILE = "/etc/hpcflow/site.toml"


def found(text: str) -> Reply:
    return Reply(0, b"Welcome to Ada!\nhpcflow-site found\n" + text.encode())


def mini(stage: Stage) -> Cluster:
    return stage.engine.clusters[MINI]


# ---- reading them


async def read(path: Path) -> SiteRules:
    reply = await ThisMachine(os.environ).run(rules(str(path)), 10)
    return parse_rules(reply, str(path), "ada")


@in_loop
async def test_a_file_says_what_it_says_and_no_file_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    assert await read(path) == SiteRules()
    assert await read(tmp_path / "no folder" / "site.toml") == SiteRules()
    path.write_text('poll = 60\nlinger = 0\nmax_running = 200\nlogin_nodes = ["login*"]\n')
    assert await read(path) == SiteRules(poll=60, linger=0, max_running=200, login_nodes=("login*",))
    link = tmp_path / "link"
    link.symlink_to(path)
    assert (await read(link)).poll == 60


@in_loop
async def test_a_file_that_is_there_and_can_not_be_read_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path, said in (("folder.toml", "Is a directory"), ("nowhere", "such file|nonexistent")):
        with pytest.raises(SiteError, match=rf"The site's rules, .*/{path} on 'ada', can't be read \(.*({said})"):
            await read(tmp_path / path)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("poll = ", "it is not TOML: "),
        ("pol = 60", "there is no setting called 'pol'."),
        ("poll = -1", "poll is -1: input should be greater than or equal to 0."),
        ("poll = inf", "poll is inf: input should be a finite number."),
        ("max_running = 0", "max_running is 0: input should be greater than or equal to 1."),
        ("login_nodes = []", "login_nodes is []: tuple should have at least 1 item after validation, not 0."),
        ('servers_on_login_nodes = "never"', "servers_on_login_nodes is 'never': input should be a valid boolean"),
        ('servers_on_login_nodes = "no"', "servers_on_login_nodes is 'no': input should be a valid boolean"),
        ("max_width = true", "max_width is True: input should be a valid integer."),
        ("poll = true", "poll is True: input should be a valid number."),
        ('worker_walltime = "60"', "worker_walltime is '60': input should be a valid number."),
        ("#" * 70_000, "it is longer than 65536 bytes."),
    ],
)
def test_a_wrong_file_is_told_in_a_sentence(text: str, fault: str) -> None:
    with pytest.raises(SiteError) as told:
        parse_rules(found(text), FILE, "ada")
    sentence = str(told.value)
    assert sentence.startswith(f"The site's rules, {FILE} on 'ada', are wrong: {fault}")
    assert sentence.endswith("Nothing is submitted there until its administrators mend them.")


@pytest.mark.parametrize(
    "reply", [Reply(None, b"", b"ada gave no answer"), Reply(0, b""), Reply(0, b"hpcflow-site fou")], ids=repr
)
def test_no_answer_is_neither_no_rules_nor_the_sites_fault(reply: Reply) -> None:
    with pytest.raises(HpcflowError) as told:
        parse_rules(reply, FILE, "ada")
    assert not isinstance(told.value, SiteError)


def test_what_a_file_says_can_be_told_in_a_line() -> None:
    assert SiteRules().said() == ""
    some = SiteRules(poll=90.5, max_width=10, servers_on_login_nodes=False, login_nodes=("login*", "ui?"))
    assert some.said() == "poll 90.5, max_width 10, servers_on_login_nodes false, login_nodes login* ui?"


# ---- obeying them


@pytest.mark.parametrize(
    ("own", "rule", "effect"),
    [
        # The site is the stricter one, the user is, and the site says nothing.
        ((300, 3600, 40), (600, 1800, 8), (600, 1800, 8)),
        ((900, 1200, 4), (600, 1800, 8), (900, 1200, 4)),
        ((300, 3600, None), (0, None, 8), (300, 3600, 8)),
        ((300, 3600, 40), (0, None, None), (300, 3600, 40)),
    ],
)
@in_loop
async def test_of_user_and_site_the_stricter_one_holds(
    tmp_path: Path,
    own: tuple[float, float, int | None],
    rule: tuple[float, float | None, int | None],
    effect: tuple[float, float, int],
) -> None:
    async with a_stage(tmp_path) as stage:
        cluster = mini(stage)
        cluster.settings = ClusterSettings(scheduler="mini", max_width=own[2])
        cluster.site = SiteRules(min_worker_time=rule[0], worker_walltime=rule[1], max_width=rule[2])
        planned = plan_settings(Settings(min_worker_time=own[0], worker_walltime=own[1]), cluster)
        assert (planned.min_worker_time_s, planned.worker_walltime_s, planned.max_width) == effect


@in_loop
async def test_arrays_are_as_wide_and_as_many_as_the_site_lets(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("max_width = 2\nmax_running = 3\n")
    async with a_stage(tmp_path) as stage:
        mini(stage).site_file = str(tmp_path / "site.toml")
        await stage.dispatch(*[[]] * 8)
        await stage.job(1)
        assert [len(job.tasks) for job in stage.world.jobs] == [2, 1]


@in_loop
async def test_the_accounting_is_asked_no_more_often_than_the_site_lets(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("poll = 3600\n")
    async with a_stage(tmp_path) as stage:
        mini(stage).site_file = str(tmp_path / "site.toml")
        live = await stage.dispatch([])
        PlayedWorker(await stage.job(), 0).run(0, 0)
        await stage.ended(live)
        await asyncio.sleep(10 * QUICK["accounting_poll"])
        assert stage.world.count("query") == 0


@in_loop
async def test_submissions_come_one_by_one_at_the_pace_of_the_site(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("submit_interval = 0.4\nmax_width = 1\n")
    async with a_stage(tmp_path, accounting_poll=30.0) as stage:
        mini(stage).site_file = str(tmp_path / "site.toml")
        loop = asyncio.get_running_loop()
        live = await stage.dispatch([], [], [])
        at: list[float] = []
        for number in range(3):
            await stage.job(number)
            at.append(loop.time())
        assert at[2] - at[0] > 0.6
        reasons = {array.reason for array in stage.store.arrays(live.id)}
        assert reasons <= {None, "The site lets hpcflow submit once in 0.4 s."}


@in_loop
async def test_the_wait_for_more_work_is_as_short_as_the_site_wants(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("linger = 2\n")
    async with a_stage(tmp_path, linger=30.0) as stage:
        mini(stage).site_file = str(tmp_path / "site.toml")
        await stage.dispatch([], [0], [0])
        job = await stage.job()
        [bag] = [bag for bag in stage.engine.bags.values() if bag.bag.path == job.path]
        assert bag.bag.linger_s == 2


# ---- a file that is wrong


@in_loop
async def test_nothing_is_accepted_for_a_cluster_whose_rules_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("poll = -1\n")
    async with a_stage(tmp_path) as stage:
        mini(stage).site_file = str(path)
        service = a_service(stage)
        with pytest.raises(UserError, match=r"The site's rules, .* are wrong: poll is -1"):
            await dispatched(service, stage, [])
        [shown] = service.roster.clusters()["clusters"]
        assert (shown["state"], shown["site"]) == ("needs admin", "")
        assert shown["problem"].startswith("The site's rules, ")
        assert (await steps_of(service))[-2:] == [
            ("scheduler answers", True, "mini 1"),
            ("site's rules", False, shown["problem"]),
        ]
        path.write_text("poll = 0.5\n")
        assert ("site's rules", True, "poll 0.5") in await steps_of(service)
        [shown] = service.roster.clusters()["clusters"]
        assert (shown["state"], shown["problem"], shown["site"]) == ("ok", None, "poll 0.5")


@in_loop
async def test_tasks_of_an_earlier_server_wait_while_the_rules_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("poll = -1\n")
    async with a_stage(tmp_path, after_fault=0.02) as stage:
        mini(stage).site_file = str(path)
        live = await stage.dispatch([])
        await stage.until(lambda: live.told)
        await stage.until(lambda: any("Tasks wait" in text for text in told(stage, live.id)))
        [text] = told(stage, live.id)
        assert text.startswith("Tasks wait, because the site's rules, ")
        assert stage.world.jobs == []
        path.unlink()
        PlayedWorker(await stage.job(), 0).run(0, 0)
        assert (await stage.ended(live)).error is None


async def steps_of(service: Service) -> list[tuple[str, bool, str]]:
    """Test the cluster without jobs; return name, success and words of each step."""
    asked = Asked(python=(3, 11), executable=sys.executable, jobs=False)
    answer = await service.roster.test("mini", asked)
    while not answer["done"]:
        answer = await service.roster.tested("mini", answer["version"], 5)
    return [(step["step"], step["ok"], step["detail"]) for step in answer["steps"]]


def told(stage: Stage, dispatch: str) -> list[str]:
    events = stage.store.events(DispatchId(dispatch))
    return [event.content for event in events if event.kind is EventKind.MESSAGE]


@in_loop
async def test_a_file_that_goes_wrong_later_is_told_and_what_was_read_before_holds_on(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("max_width = 7\n")
    async with a_stage(tmp_path) as stage:
        cluster = mini(stage)
        cluster.site_file = str(path)
        service = a_service(stage)
        assert all(ok for _, ok, _ in await steps_of(service))
        path.write_text("max_width = seven\n")
        cluster.limits_at = None  # ten minutes later
        assert [ok for _, ok, _ in await steps_of(service)] == [True, True, False]
        [shown] = service.roster.clusters()["clusters"]
        assert (shown["state"], shown["site"]) == ("ok", "max_width 7")
        assert "are wrong: it is not TOML" in shown["problem"]
        live = await stage.dispatch(*[[]] * 9)
        job = await stage.job()
        assert len(job.tasks) == 7
        assert live.status == "RUNNING"


# ---- where servers may run


@pytest.mark.parametrize(
    ("text", "host", "environ", "allowed"),
    [
        ("", "login1", {}, True),
        ("servers_on_login_nodes = false", "login1", {}, False),
        ("servers_on_login_nodes = false", "login1", {"SLURM_JOB_ID": "8"}, True),
        ('servers_on_login_nodes = false\nlogin_nodes = ["login*"]', "login1.ada.edu", {}, False),
        ('servers_on_login_nodes = false\nlogin_nodes = ["login*"]', "services2", {}, True),
        ('servers_on_login_nodes = false\nlogin_nodes = ["*.ada.edu"]', "login1.ada.edu", {}, False),
    ],
)
def test_a_server_runs_where_the_site_lets_it(text: str, host: str, environ: dict[str, str], allowed: bool) -> None:
    site = parse_rules(found(f'{text}\ncontact = "help@ada.edu"'), FILE, "ada")
    if allowed:
        check_server(site, host, environ)
        return
    with pytest.raises(SiteError) as told:
        check_server(site, host, environ)
    assert str(told.value) == (
        f"This site lets no hpcflow server run on {host.partition('.')[0]} ({FILE}: servers_on_login_nodes). "
        "Run it on your own machine, with host = in clusters.toml, or in a job. Questions: help@ada.edu."
    )


@in_loop
async def test_a_server_on_a_forbidden_machine_ends_before_it_does_anything(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("servers_on_login_nodes = false\n")
    store = Store.open(str(tmp_path / "hpcflow.db"), on_network=False)
    where = Places(str(tmp_path))
    try:
        with pytest.raises(SiteError, match="lets no hpcflow server run on"):
            async with running(store, Settings(), where, on_network=False, environ={}, site_file=str(path)):
                raise AssertionError("it runs")
    finally:
        store.close()


@in_loop
async def test_every_cluster_but_this_machine_itself_has_the_file(tmp_path: Path) -> None:
    slurm = ClusterSettings(scheduler="slurm")
    far = ClusterSettings(scheduler="local", host="far")
    clusters, _ = await find_clusters(Places(str(tmp_path)), Settings(), {"ada": slurm, "far": far}, {}, sys.executable)
    assert {name: cluster.site_file for name, cluster in clusters.items()} == {"local": None, "ada": FILE, "far": FILE}
