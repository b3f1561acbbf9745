"""`python -m hpcflow.server`: the server's process, from the empty folder to the last signal."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from getpass import getuser
from logging.handlers import RotatingFileHandler
from typing import Final

from hpcflow.core.model import HpcflowError
from hpcflow.core.places import Places, places, socket_path
from hpcflow.server import home
from hpcflow.server.api import Desk, Service, application
from hpcflow.server.claim import RENEW_S, LeaseLost, RunsAlready, claimed_store, locked_home, take_over_asked
from hpcflow.server.guard import Guard, Sessions, Token
from hpcflow.server.listen import Listener, listen_tcp, tcp_port
from hpcflow.server.origins import Origins
from hpcflow.server.scratch import sweep
from hpcflow.server.settings import Settings, read_settings

__all__ = ["EXIT_FENCED", "EXIT_HELD", "Opened", "Start", "main", "open_engine"]

# Not __name__, which is "__main__" here: its lines would be no lines of hpcflow.
logger = logging.getLogger("hpcflow.server")

#: Exit code when another server has this HPCFLOW_HOME.
EXIT_HELD: Final = 4
#: Exit code when another host's server took this HPCFLOW_HOME over.
EXIT_FENCED: Final = 5
_LOG_BYTES: Final = 5 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a server knows about itself before its engine is made."""

    where: Places
    settings: Settings
    host: str
    boot_id: str
    #: Name of the network file system that holds the home; ``None``: only this machine sees it.
    network: str | None
    #: Whether run/lock is ours: then no other server of this machine lives.
    locked: bool
    #: Take the store's lease even from another host's server.
    take_over: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """A service that runs, and how it keeps its claim on the home."""

    service: Service
    #: Called in a thread every few seconds; raises `HpcflowError` when another server has the home.
    renew: Callable[[], None]


OpenService = Callable[[Start], AbstractAsyncContextManager[Opened]]


@asynccontextmanager
async def open_engine(start: Start) -> AsyncGenerator[Opened]:
    """Claim the store and run the engine on it: the one place where both are made.

    Raises:
        RunsAlready: another server has the store.
    """
    with claimed_store(
        start.where,
        host=start.host,
        boot_id=start.boot_id,
        on_network=start.network is not None,
        locked=start.locked,
        take_over=start.take_over,
    ) as claim:
        from hpcflow.server.service import running

        on_network = start.network is not None
        async with running(
            claim.store, start.settings, start.where, on_network=on_network, environ=os.environ
        ) as service:
            yield Opened(service, claim.renew)


def main(
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    open_service: OpenService = open_engine,
    f_type: Callable[[str], int] = home.file_system_type,
    host: str | None = None,
    beat_s: float = RENEW_S,
    take_over_s: float = 90.0,
) -> int:
    """Serve one HPCFLOW_HOME until a signal, and return the exit code.

    Args:
        argv: the command line without the program.
        environ: the environment.
        open_service: makes what the API serves.
        f_type: asks a path's file system for its type.
        host: this machine's name.
        beat_s: seconds between two looks at the claim and at what is live.
        take_over_s: seconds that another host's server has to end.
    """
    options = _options(argv)
    environ = os.environ if environ is None else environ
    host = host or socket.gethostname()
    os.umask(0o077)
    try:
        where = places(environ)
        home.prepare(where)
        settings = read_settings(where)
        network = home.network_file_system(where.home, f_type)
        with locked_home(where, host, take_over=options.take_over, patience_s=take_over_s) as locked:
            home.drop_parts(where)
            _log_to(where.log)
            sweep()
            start = Start(
                where=where,
                settings=settings,
                host=host,
                boot_id=home.boot_id(),
                network=network,
                locked=locked,
                take_over=options.take_over,
            )
            process = _Process(start, environ, idle_exit_s=settings.idle_exit if options.from_dispatch else None)
            return asyncio.run(process.run(open_service, beat_s))
    except RunsAlready as held:
        print(held, file=sys.stderr)
        return EXIT_HELD
    except HpcflowError as error:
        print(error, file=sys.stderr)
        return 1
    except ExceptionGroup as errors:
        # The engine's loops end in a group: they see a lost lease at their first write.
        if errors.subgroup(LeaseLost) is None:
            fault = _first(errors)
            if not isinstance(fault, HpcflowError):
                logger.error("a fault of the server's own", exc_info=fault)
            logger.critical("ends, because a part of it did: %s", fault)
            return 1
        logger.error("another server took the lease: this one ends")
        return EXIT_FENCED


class _Process:
    """One server while it runs: its sockets, its notice and its reasons to end."""

    def __init__(self, start: Start, environ: Mapping[str, str], *, idle_exit_s: float | None) -> None:
        self._start = start
        self._environ = environ
        self._idle_exit_s = idle_exit_s
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._browsers: socket.socket | None = None

    async def run(self, open_service: OpenService, beat_s: float) -> int:
        """Serve until something says stop, and return the exit code."""
        where = self._start.where
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        address = socket_path(where, self._environ, on_network=self._start.network is not None)
        notice = home.Notice(
            pid=os.getpid(),
            host=self._start.host,
            boot_id=self._start.boot_id,
            address=address,
            version=_version(),
            home=where.home,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        token = Token(home.read_token(where))
        listener = home.listen_unix(address)
        ours = _File(address)
        async with _removed(listener, ours), open_service(self._start) as opened, asyncio.TaskGroup() as group:
            listeners: list[Listener] = []

            def serve(on: socket.socket) -> None:
                listeners.append(Listener(app, on))
                group.create_task(listeners[-1].run_until_stopped())

            async def open_ui() -> int:
                if self._browsers is None:
                    # Pages that are open, and forwards of ssh, find the next server where the last one was.
                    self._browsers = listen_tcp(last := home.last_port(where))
                    if tcp_port(self._browsers) != last:
                        home.rewrite(where.ui_port, str(tcp_port(self._browsers)))
                    serve(self._browsers)
                    logger.info("browsers: http://127.0.0.1:%d/", tcp_port(self._browsers))
                return tcp_port(self._browsers)

            app = self._application(opened.service, notice, token, open_ui)
            # Before anybody is answered: whoever was answered finds this server's notice, not a killed one's.
            home.write_notice(where, notice)
            try:
                serve(listener)
                if not _has_scheduler(opened.service):
                    await open_ui()
                logger.info("hpcflow %s serves %s at %s", notice.version, where.home, address)
                watch = group.create_task(self._watch(opened, notice, ours, beat_s))
                await self._stop.wait()
                watch.cancel()
            finally:
                home.remove_notice(where, notice)
                for each in listeners:
                    each.stop()
            logger.info("ends")
        return self._exit_code

    def _application(
        self, service: Service, notice: home.Notice, token: Token, open_ui: Callable[[], Awaitable[int]]
    ) -> Guard:
        desk = Desk(
            notice=notice,
            token=token,
            sessions=Sessions(),
            new_token=lambda: home.new_token(self._start.where),
            folder=self._start.where.dispatches,
            max_upload=self._start.settings.max_upload,
            open_ui=open_ui,
            ui_port=lambda: None if self._browsers is None else tcp_port(self._browsers),
            forward=lambda port: self._forward(port, away=_has_scheduler(service)),
            stop=self._stop.set,
            stopping=self._stop.is_set,
            origins=Origins(self._start.settings.page_origins),
        )
        return application(service, desk, uid=os.geteuid())

    def _forward(self, port: int, *, away: bool) -> str | None:
        """Return the ssh command that brings the page to the user's own machine, where this one may be another."""
        if not away and not self._environ.get("SSH_CONNECTION"):
            return None
        return shlex.join(["ssh", "-N", "-L", f"{port}:127.0.0.1:{port}", f"{getuser()}@{self._start.host}"])

    async def _watch(self, opened: Opened, notice: home.Notice, address: _File, beat_s: float) -> None:
        """Keep the claim, and end the process when it is lost, when another host asks, or when nothing is live."""
        loop = asyncio.get_running_loop()
        last_live = loop.time()
        while True:
            await asyncio.sleep(beat_s)
            try:
                await asyncio.to_thread(opened.renew)
                if take_over_asked(self._start.where, self._start.host):
                    raise RunsAlready("Another host takes this HPCFLOW_HOME over: this server ends.")
                # Where the folder was removed and made again, its lock and its lease are another server's. A notice
                # alone says little: it is a file of a folder that hosts share.
                other = await asyncio.to_thread(home.read_notice, self._start.where)
                if other not in {None, notice} and not address.is_there():
                    raise RunsAlready(f"This HPCFLOW_HOME is another server's now ({other}): this server ends.")
            except HpcflowError as error:
                logger.error("%s", error)
                self._exit_code = EXIT_FENCED
                self._stop.set()
                return
            status = opened.service.status()
            if status["live_dispatches"] or status["triggers"]:
                last_live = loop.time()
            elif self._idle_exit_s is not None and loop.time() - last_live >= self._idle_exit_s:
                logger.info("nothing was live for %.0f s", self._idle_exit_s)
                self._stop.set()
                return


class _File:
    """A file that was made at a path; another one may stand there later."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._made = os.lstat(path)

    def is_there(self) -> bool:
        try:
            return os.path.samestat(self._made, os.lstat(self.path))
        except FileNotFoundError:
            return False


@asynccontextmanager
async def _removed(listener: socket.socket, address: _File) -> AsyncGenerator[None]:
    """Close the unix socket and remove its file when the block ends."""
    try:
        yield
    finally:
        listener.close()
        # A home that was deleted and made again has another server's socket here.
        if address.is_there():
            with suppress(FileNotFoundError):
                os.unlink(address.path)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m hpcflow.server",
        description="Serve one HPCFLOW_HOME. `hpcflow start` runs this in the background.",
    )
    parser.add_argument("--take-over", action="store_true", help="move the server here from another host")
    parser.add_argument(
        "--from-dispatch", action="store_true", help="a dispatch started it: end when nothing was live for `idle_exit`"
    )
    return parser.parse_args(argv)


def _has_scheduler(service: Service) -> bool:
    """Return whether there is any cluster but this machine itself: then other people may be on it."""
    return bool(set(service.status()["clusters"]) - {"local"})


def _log_to(path: str) -> None:
    handler = RotatingFileHandler(path, maxBytes=_LOG_BYTES, backupCount=2, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("hpcflow").setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _first(errors: BaseException) -> BaseException:
    """Return the first error of a group that is no group itself."""
    while isinstance(errors, BaseExceptionGroup):
        errors = errors.exceptions[0]
    return errors


def _version() -> str:
    from hpcflow import __version__

    return __version__


if __name__ == "__main__":
    sys.exit(main())
