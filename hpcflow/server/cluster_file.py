"""Changes clusters.toml for its owner: one table comes or goes, and every comment stays where it was."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hpcflow.core.model import HpcflowError

if TYPE_CHECKING:
    from tomlkit.items import Table

__all__ = ["add_table", "remove_table", "write_toml"]


def add_table(path: str, name: str, settings: Mapping[str, object]) -> None:
    """Write a table at the end of the file; the file appears with it whole, or stays as it is.

    Args:
        path: of clusters.toml; a link's target is written.
        name: of the cluster.
        settings: strings, numbers, booleans and lists of them.

    Raises:
        HpcflowError: the file can't be read, has such a table, or can't be written.
    """
    # 30 ms that a server needs only when somebody adds a cluster.
    import tomlkit

    text = _read(path)
    tables = _tables(path, text)
    if name in tables:
        raise HpcflowError(f"{path} has a table [{name}] already: change it there, then `hpcflow restart`.")
    document = tomlkit.document()
    document.add(name, _table(settings))
    before = text if not text or text.endswith("\n") else f"{text}\n"
    write_toml(
        path, before + ("\n" if before.strip() else "") + tomlkit.dumps(document), {**tables, name: dict(settings)}
    )


def remove_table(path: str, name: str) -> None:
    """Take a table out of the file.

    Raises:
        HpcflowError: the file can't be read, has no such table, or can't be written.
    """
    import tomlkit

    text = _read(path)
    tables = _tables(path, text)
    if tables.pop(name, None) is None:
        raise HpcflowError(f"{path} has no table [{name}].")
    document = tomlkit.parse(text)
    document.remove(name)
    left = tomlkit.dumps(document).rstrip("\n")
    write_toml(path, f"{left}\n" if left else "", tables)


def _table(settings: Mapping[str, object]) -> Table:
    import tomlkit

    table = tomlkit.table()
    for key, value in settings.items():
        if isinstance(value, str) and "\n" in value and "\r" not in value and '"""' not in value:
            raw = tomlkit.string(value, multiline=True).as_string()
            # The newline behind the quotes is no part of the value.
            table.add(key, tomlkit.value(raw if value[0] == "\n" else f"{raw[:3]}\n{raw[3:]}"))
        else:
            table.add(key, value)
    return table


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise HpcflowError(f"{path} can't be read: {error}") from None


def _tables(path: str, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise HpcflowError(f"{path} can't be read: {error}") from None


def write_toml(path: str, text: str, meant: Mapping[str, object]) -> None:
    """Replace the file, after a look whether the new text says what was meant."""
    if tomllib.loads(text) != meant:
        raise HpcflowError(f"{path} was left as it is: hpcflow can't change it without changing more. Edit it by hand.")
    target = os.path.realpath(path)
    part = f"{target}.part-{os.getpid()}"
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.rename(part, target)
    except OSError as error:
        raise HpcflowError(f"{path} can't be written: {error.strerror}; it is as it was.") from error
