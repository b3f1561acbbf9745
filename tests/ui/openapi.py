"""`python -m tests.ui.openapi FILE`: writes the API's description, from which the page's types are made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from hpcflow.server.api import Desk, routes
from hpcflow.server.description import completed
from hpcflow.server.guard import Sessions, Token
from hpcflow.server.home import Notice
from hpcflow.server.page import page_routes
from hpcflow.server.routing import described as of_answers
from tests.unit.served import MemoryService


def described() -> dict[str, Any]:  # Any: JSON
    """Return the description of every route, without the version, which changes with each release."""

    async def no_port() -> int:
        return 0

    notice = Notice(
        pid=1, host="h", boot_id="b", address="a", version="0", home="/h", started_at="2026-01-01T00:00:00Z"
    )
    desk = Desk(
        notice=notice,
        token=Token("t"),
        sessions=Sessions(),
        new_token=lambda: "t",
        folder="/nowhere",
        max_upload=1,
        open_ui=no_port,
        ui_port=lambda: None,
        forward=lambda port: None,
        stop=lambda: None,
        stopping=lambda: False,
    )
    app = FastAPI(title="hpcflow", version="0")
    with of_answers():
        app.include_router(routes(MemoryService(), desk))
        app.include_router(page_routes(desk.sessions))
    return completed(app.openapi())


def written() -> str:
    return json.dumps(described(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(written(), "utf-8")
