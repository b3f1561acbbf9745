"""Commands of a scheduler that is on this machine: what they leave when they give no answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hpcflow.core.plugin import Command
from hpcflow.server.remote.this_machine import ThisMachine


def test_a_command_without_an_answer_is_ended_with_its_children_who_hold_its_output(tmp_path: Path) -> None:
    late = tmp_path / "late"
    command = Command(("sh", "-c", f"(sleep 20; touch '{late}') & sleep 60"))

    reply = asyncio.run(ThisMachine(os.environ).run(command, 0.2))

    assert (reply.exit_code, reply.stderr) == (None, b"sh gave no answer within 0.2 s")
    assert not late.exists()
