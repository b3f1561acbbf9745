"""Clusters on the page: one behind ssh is added, asks a person for a code, is tested, and goes away."""

from __future__ import annotations

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import asyncssh
from playwright.sync_api import BrowserContext, expect

from tests.integration.person import FACTORS, a_host
from tests.integration.sshd import FAR_BEHIND_A_GATE
from tests.integration.world import lines, open_gate, served, until
from tests.proxy import proxied
from tests.ui.conftest import PATIENCE_MS, a_tab, faults_by_axe
from tests.unit.ssh_server import Door

expect.set_options(timeout=PATIENCE_MS)


def test_a_cluster_is_added_by_a_person_with_two_factors_tested_and_unknown_when_it_goes(
    context: BrowserContext, tmp_path: Path
) -> None:
    door = Door(rounds=FACTORS)
    host, home = tmp_path / "host", tmp_path / "laptop"
    host.mkdir()
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    with ExitStack() as stack:
        stack.enter_context(a_host(host, door))
        config = (host / "config").read_text()
        cable = stack.enter_context(proxied(int(config.partition("Port ")[2].split()[0])))
        (home / ".ssh/config").write_text(re.sub(r"Port \d+", f"Port {cable.port}", config))
        known = host / "known_hosts"
        fingerprint = asyncssh.import_public_key(known.read_text().partition(" ")[2]).get_fingerprint()
        known.unlink()
        short = {"HPCFLOW_LINGER": "0", "HPCFLOW_SSH_JOURNAL_POLL": "0.1", "HPCFLOW_SSH_JOURNAL_POLL_MAX": "0.2"}
        path = (os.path.dirname(sys.executable), "/usr/local/bin", "/usr/bin", "/bin")
        user = stack.enter_context(served(tmp_path, {"HOME": str(home), **short}, path))
        page = a_tab(context, user)
        page.goto(page.url.partition("#")[0] + "#/clusters")
        page.get_by_role("button", name="Add a cluster").click()
        page.get_by_label("Name").fill("far")
        page.get_by_label("Host, as you would tell ssh").fill("cluster")
        page.get_by_label("Scheduler").select_option("local")
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Work directory there").fill(f"{tmp_path}/work")
        page.get_by_label("Folder of the key").fill(f"{tmp_path}/keys")
        page.get_by_label("Python of the workers").fill(sys.executable)
        assert faults_by_axe(page) == []
        page.get_by_role("button", name="Reach and add").click()

        # A host that nobody knows shows its key, and waits for a person to compare it.
        expect(page.get_by_role("dialog")).to_contain_text(fingerprint)
        page.get_by_role("button", name="Not now").last.click()
        assert not known.exists()
        page.get_by_role("button", name="Reach and add").click()
        page.get_by_role("button", name="Accept this key").click()

        expect(page.get_by_text("It lets nobody in without a person.")).to_be_visible()
        page.get_by_role("button", name="Log in").click()
        page.get_by_label("Password:").fill("guess")
        page.get_by_role("button", name="Answer").click()
        expect(page.get_by_role("alert")).to_contain_text("did not accept what was answered")
        page.get_by_role("button", name="Log in").click()
        assert page.get_by_label("Password:").get_attribute("type") == "password"
        page.get_by_label("Password:").fill("sesame")
        page.get_by_role("button", name="Answer").click()
        page.get_by_label("One-time code:").fill("123456")
        assert faults_by_axe(page) == []
        page.get_by_role("button", name="Answer").click()

        # It is written down, and tested at once.
        card = page.get_by_role("article", name="far")
        expect(card.get_by_role("list", name="The test of far")).to_contain_text("login")
        expect(card.get_by_role("button", name="Test", exact=True)).to_be_enabled()
        assert "[far]\n" in Path(user.home.clusters).read_text()
        assert door.answers == [["guess"], ["sesame"], ["123456"]]

        # A task runs there, and the queue was looked at; then nobody answers any more.
        gate, ledger = tmp_path / "gate", tmp_path / "ledger"
        os.mkfifo(gate)
        dispatch = user.runs(FAR_BEHIND_A_GATE, str(gate), str(ledger))
        until(lambda: lines(ledger) == ["up"] and user.asks("show", dispatch)["counts"].get("running"))
        page.goto(page.url.partition("#")[0] + "#/queue/far")
        expect(page.get_by_role("table", name="Jobs").get_by_role("row").nth(1)).to_contain_text("running")
        cable.refuse = True
        cable.cut()
        page.goto(page.url.partition("#")[0] + f"#/d/{dispatch}/e/0")
        expect(page.get_by_text("was running?")).to_be_visible()
        page.get_by_role("link", name="← flow").click()
        expect(page.locator(".notice")).to_contain_text("far does not answer.")
        expect(page.locator(".notice")).to_contain_text("unknown since")
        assert faults_by_axe(page) == []
        page.get_by_role("link", name="Table").click()
        expect(page.get_by_role("row").nth(1)).to_contain_text("was running?")

        # Every screen says so where it is looked for; the queue is as it was seen last, and says how old that is.
        base = page.url.partition("#")[0]
        chip = page.get_by_role("list", name="Clusters").get_by_role("listitem").filter(has_text="far")
        expect(chip).to_contain_text("unreachable")
        page.goto(base + "#/")
        needs = page.get_by_role("listitem").filter(has_text="far can't be reached.")
        expect(needs).to_contain_text("Its tasks are as they were last seen.")
        page.goto(base + "#/clusters")
        expect(card.locator(".notice")).to_contain_text("What its jobs do is unknown since")
        later = context.new_page()
        later.clock.install()
        later.goto(base + "#/queue/far")
        expect(later.locator(".notice")).to_contain_text("far does not answer.")
        expect(later.locator(".notice")).to_contain_text("what became of it since then is unknown")
        later.clock.fast_forward(60_000)
        expect(later.locator(".stale")).to_contain_text(re.compile("stale: asked 1 min ago"))
        later.close()

        # The line is back, and the host wants a person again: it says so until somebody has logged in.
        cable.refuse = False
        expect(chip).to_contain_text("needs login", timeout=3 * PATIENCE_MS)
        expect(card).to_contain_text("wants you to log in")
        page.goto(base + "#/")
        expect(page.get_by_role("listitem").filter(has_text="far wants you to log in.")).to_be_visible()
        page.goto(base + f"#/d/{dispatch}/e/0")
        expect(page.get_by_text("was running?")).to_be_visible()
        page.goto(base + "#/clusters")
        card.get_by_role("button", name="Log in").click()
        page.get_by_label("Password:").fill("sesame")
        page.get_by_role("button", name="Answer").click()
        page.get_by_label("One-time code:").fill("123456")
        page.get_by_role("button", name="Answer").click()
        expect(chip).not_to_contain_text("needs login")
        page.goto(base + f"#/d/{dispatch}?view=table")
        expect(page.get_by_role("row").nth(1)).to_contain_text("running")
        expect(page.get_by_text("was running?")).to_have_count(0)
        open_gate(gate)
        expect(page.locator(".title-line")).to_contain_text("completed")
        until(lambda: any('"exit"' in each.read_text() for each in (tmp_path / "work").rglob("*.jsonl")))
