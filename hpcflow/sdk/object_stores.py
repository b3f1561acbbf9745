"""Files from object stores and other services, by what fsspec knows of them where the task runs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final, Literal, NoReturn, Protocol
from urllib.parse import urlsplit

from hpcflow.core.errors import UserError
from hpcflow.sdk.arriving import Bring, FileTransferStrategy, inside, opened, pour, target_of, written
from hpcflow.sdk.context import handed, poured
from hpcflow.sdk.fetched import Wanted, wanted
from hpcflow.sdk.sftp import SCHEMES, sftp
from hpcflow.sdk.transfer import File, TransferFailed

__all__ = ["FTP", "S3", "Blob", "FileSystem", "Fsspec", "GCloud", "file_system"]


class FileSystem(Protocol):
    """What is used of an fsspec file system."""

    def find(self, path: str) -> Iterable[str]: ...
    def info(self, path: str) -> Mapping[str, Any]: ...
    def open(self, path: str, mode: str) -> Any: ...


class Fsspec(FileTransferStrategy):
    """Whatever fsspec knows in the task's environment: ``s3``, ``gs``, ``abfs``, ``ftp``, ``sftp`` and more.

    Args:
        where: ``"server"``: a process beside the server fetches the file, with fsspec of the server's environment, and
            it comes to the task with its functions and arguments; or it brings the file away when the task has
            returned, which completes then. One file; options must be JSON.
        storage_options: what its file system is made with.

    Raises:
        UserError: ``where`` is neither.
    """

    def __init__(
        self,
        *,
        where: Literal["task", "server"] = "task",
        **storage_options: Any,  # Any: each file system's own
    ) -> None:
        if where not in {"task", "server"}:
            raise UserError(f"where={where!r} must be 'task' or 'server'.")
        self.where = where
        self.storage_options = storage_options

    def download(self, from_file: File, to_file: File) -> Bring:
        return partial(self._take if self.where == "server" else self._download, from_file, to_file)

    def wanted(self, file: File) -> Wanted | None:
        """Return what the server shall fetch for a task that needs a file; ``None``: the task fetches it.

        Raises:
            UserError: nothing of the kind is fetched there.
        """
        return wanted(self.address(file), self.options(file)) if self.where == "server" else None

    def leaving(self, source: File, target: File) -> Wanted | None:
        """Return where the server shall bring a file of a task; ``None``: the task brings it.

        Raises:
            UserError: nothing is brought there.
        """
        if self.where != "server":
            return None
        address = self.address(target)
        if target.is_dir:
            address = f"{address.rstrip('/')}/{os.path.basename(source.filepath)}"
        return wanted(address, self.options(target))

    def upload(self, from_file: File, to_file: File) -> Bring:
        return partial(self._hand_over if self.where == "server" else self._upload, from_file, to_file)

    def address(self, file: File) -> str:
        """Return the address as fsspec spells it."""
        return file.uri

    def options(self, file: File) -> dict[str, Any]:  # Any: each file system's own
        """Return what the file system is made with for a file."""
        return self.storage_options

    def _file_system(self, file: File) -> tuple[FileSystem, str]:
        return file_system(self.address(file), self.options(file))

    def _take(self, source: File, target: File) -> None:
        asked = self.wanted(source)
        with written(target_of(source.filepath, target)) as file:
            if asked is None or not poured(asked["key"], file):
                raise TransferFailed("no server has fetched it for this task")

    def _hand_over(self, source: File, target: File) -> None:
        asked = self.leaving(source, target)
        if os.path.isdir(source.local):
            raise TransferFailed("the server brings single files away, not folders")
        with opened(source.local) as file:
            if asked is None or not handed(asked["key"], file):
                raise TransferFailed("no server takes files from this task")

    def _download(self, source: File, target: File) -> None:
        fs, path = self._file_system(source)
        if not source.is_dir:
            _fetch(fs, path, target_of(path, target))
            return
        base = path.rstrip("/")
        folder = os.path.join(target.local, os.path.basename(base)) if source.include_folder else target.local
        os.makedirs(folder, exist_ok=True)
        for found in fs.find(path):
            if found.endswith("/"):  # an object that stands for a folder
                continue
            place = inside(folder, found.removeprefix(base).removeprefix("/"))
            os.makedirs(os.path.dirname(place), exist_ok=True)
            _fetch(fs, found, place)

    def _upload(self, source: File, target: File) -> None:
        fs, path = self._file_system(target)
        if not (source.is_dir or os.path.isdir(source.local)):
            name = os.path.basename(source.local)
            _send(fs, source.local, f"{path.rstrip('/')}/{name}" if target.is_dir else path)
            return
        base = os.path.dirname(source.local) if source.include_folder else source.local
        for folder, _, names in os.walk(source.local):
            for name in names:
                own = os.path.join(folder, name)
                if stat.S_ISREG(os.stat(own).st_mode):
                    _send(fs, own, f"{path.rstrip('/')}/{os.path.relpath(own, base)}")


_PACKAGES: Final = {
    **{
        "s3": "s3fs",
        "gs": "gcsfs",
        "gcs": "gcsfs",
        "abfs": "adlfs",
        "az": "adlfs",
        **dict.fromkeys(SCHEMES, "paramiko"),
    },
    **{"http": "aiohttp", "https": "aiohttp"},
}


def file_system(
    address: str,
    options: Mapping[str, Any],  # Any: each file system's own
    *,
    beside_server: bool = False,
) -> tuple[FileSystem, str]:
    """Return fsspec's file system for an address, and the path in it.

    Raises:
        TransferFailed: fsspec is not here, or what it needs for such an address; a host's key is not known.
    """
    scheme = address.partition("://")[0]
    refuse = _refuse_on_server if beside_server else _refuse_missing
    try:
        import fsspec  # type: ignore[import-not-found,import-untyped,unused-ignore]  # where somebody has it
    except ImportError:
        refuse(scheme, "fsspec", "fsspec")
    try:
        fs, path = sftp(address, options) if scheme in SCHEMES else fsspec.core.url_to_fs(address, **options)
    except ImportError as error:
        refuse(scheme, str(error), _PACKAGES.get(scheme, "its package"))
    return fs, path


def _refuse_on_server(scheme: str, said: str, package: str) -> NoReturn:
    raise TransferFailed(
        f"{scheme}:// needs the Python package fsspec and what it knows of it, which are not in the server's "
        f"environment ({said} is missing): install {' and '.join(dict.fromkeys(['fsspec', package]))} where hpcflow is"
    )


def _refuse_missing(scheme: str, said: str, package: str) -> NoReturn:
    packages = (
        '"fsspec"'
        if package == "fsspec" and scheme not in _PACKAGES
        else f'"fsspec", "{_PACKAGES.get(scheme, package)}"'
    )
    raise TransferFailed(
        f"{scheme}:// needs the Python package fsspec and what it knows of it, which are not in the task's environment "
        f'({said} is missing); deps_pip=[{packages}] brings them, and where="server" in the strategy lets the server '
        "bring a file"
    )


def _fetch(fs: FileSystem, path: str, target: str) -> None:
    with fs.open(path, "rb") as source, written(target) as file:
        size, _ = pour(source, file)
        told = fs.info(path).get("size")
        if told is not None and told != size:
            raise TransferFailed(f"{path} has {told} bytes, and {size} came")


def _send(fs: FileSystem, path: str, address: str) -> None:
    with opened(path) as source:
        with fs.open(address, "wb") as file:
            size, _ = pour(source, file)
        told = fs.info(address).get("size")
        if told is not None and told != size:
            raise TransferFailed(f"{size} bytes were sent to {address}, and {told} are there")


class S3(Fsspec):
    """Amazon S3 and what speaks its language, by s3fs.

    Args:
        credentials: a credentials file where the task runs; what AWS looks for else.
        profile: of that file.
        region_name: as AWS names it.
        storage_options: further ones of s3fs, ``endpoint_url=`` for instance.
    """

    def __init__(
        self,
        credentials: str | None = None,
        profile: str | None = None,
        region_name: str | None = None,
        **storage_options: Any,  # Any: s3fs's own
    ) -> None:
        chosen: dict[str, Any] = {"profile": profile} if profile else {}  # Any: s3fs's own
        if region_name:
            chosen["client_kwargs"] = {"region_name": region_name}
        super().__init__(**chosen, **storage_options)
        if credentials and self.where == "server":
            raise UserError(
                "S3(credentials=…) names a file where the task runs: with where='server' give profile=, which the "
                "server's own credentials file has, or key= and secret=."
            )
        self.credentials = credentials

    def options(self, file: File) -> dict[str, Any]:  # Any: s3fs's own
        if self.credentials:
            os.environ["AWS_SHARED_CREDENTIALS_FILE"] = os.path.expanduser(self.credentials)
        return self.storage_options


class GCloud(Fsspec):
    """Google Cloud Storage, by gcsfs.

    Args:
        credentials: a service account's file, where the task runs or, if it fetches, the server; what Google looks for
            else.
        project_id: the project.
        storage_options: further ones of gcsfs.
    """

    def __init__(
        self,
        credentials: str | None = None,
        project_id: str | None = None,
        **storage_options: Any,  # Any: gcsfs's own
    ) -> None:
        chosen: dict[str, Any] = {"token": credentials, "project": project_id}  # Any: gcsfs's own
        super().__init__(**{name: value for name, value in chosen.items() if value}, **storage_options)


class Blob(Fsspec):
    """Azure Blob Storage, by adlfs: ``https://ACCOUNT.blob.core.windows.net/CONTAINER/NAME`` or ``abfs://…``.

    Args:
        client_id: of a service principal; with its secret it travels with the task. What Azure looks for else.
        client_secret: its secret.
        tenant_id: its tenant.
        storage_options: further ones of adlfs.
    """

    def __init__(
        self,
        client_id: str | None = None,
        client_secret: str | None = None,
        tenant_id: str | None = None,
        **storage_options: Any,  # Any: adlfs's own
    ) -> None:
        # Any: adlfs's own
        chosen: dict[str, Any] = {"client_id": client_id, "client_secret": client_secret, "tenant_id": tenant_id}
        super().__init__(**{name: value for name, value in chosen.items() if value}, **storage_options)

    def address(self, file: File) -> str:
        return f"abfs://{file.filepath.lstrip('/')}" if file.scheme in {"http", "https"} else file.uri

    def options(self, file: File) -> dict[str, Any]:  # Any: adlfs's own
        host = urlsplit(file.uri).hostname or ""
        account = {"account_name": host.partition(".")[0]} if file.scheme in {"http", "https"} else {}
        # Without a secret of its own it asks what Azure's library finds.
        return {"anon": False, **account, **self.storage_options}


class FTP(Fsspec):
    """FTP, by fsspec."""
