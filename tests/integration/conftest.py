"""Servers of this machine alone for the tests here: no scheduler is on their PATH."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.world import User, served

# The folder of the interpreter may be /usr/bin, and a scheduler's commands with it: programs say executor="local".
PATH = (os.path.dirname(sys.executable),)


@pytest.fixture(scope="session")
def _lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    with served(tmp_path_factory.mktemp("lasting"), {}, PATH) as user:
        yield user


@pytest.fixture
def user(_lasting: User, tmp_path: Path) -> User:
    """A user of the one server that all tests share; the folder is the test's own."""
    return replace(_lasting, folder=tmp_path)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., User]]:
    """A function that starts a server for this test alone, with further environment."""
    with ExitStack() as stack:

        def start(**environment: str) -> User:
            return stack.enter_context(served(tmp_path, environment, PATH))

        yield start
