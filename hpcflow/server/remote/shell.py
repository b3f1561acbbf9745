"""What is said to a shell at the other end, and how its answer is read: texts in, texts out.

sshd hands one line to the user's login shell, whatever that is. Ours is always `LINE`, which sh, csh and fish read
alike; the program itself follows as the first line of stdin, where no shell but sh sees it, `ps` shows nothing of it
and no limit on a command line's length holds. Programs need sh, awk, ls, head, tail, tar, gzip and dd, as POSIX or
busybox has them. Nothing that a user wrote is ever part of a program: words are quoted.
"""

from __future__ import annotations

import os
import re
import shlex
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hpcflow.core.plugin import Command
from hpcflow.server.remote.transport import INHERITED, File, TransportError

__all__ = [
    "EACH_AT_MOST",
    "GONE",
    "LINE",
    "Answer",
    "append_program",
    "environment_program",
    "framed",
    "parse_answer",
    "parse_environment",
    "parse_news",
    "push_program",
    "read_program",
    "run_program",
    "spell_offsets",
    "tar_stream",
    "watch_program",
]

LINE: Final = "exec /bin/sh -c 'IFS= read -r hpcflow && eval \"$hpcflow\"'"

#: Exit code of `watch_program` where the directory's own parent was deleted.
GONE: Final = 69

#: One look takes so many bytes of one file, and of all files together; the next look takes the rest.
EACH_AT_MOST: Final = 8 * 2**20
_ALL_AT_MOST: Final = 32 * 2**20
_BLOCK: Final = 512
_ZERO: Final = b"\0"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a program wrote, without what login scripts wrote around it."""

    exit_code: int
    stdout: bytes
    stderr: bytes


def framed(program: str, nonce: str) -> bytes:
    """Return the line that runs a program between marks that nobody can know before.

    Login scripts, banners and wrappers may write what they like before and after the marks. The exit code is part of
    the last mark: output without it was cut.
    """
    begin, end = f"printf '<%s>' {nonce}", f"printf '</%s %s>' {nonce}"
    line = f"{begin}; {begin} >&2; n=$(printf '\\nx'); n=${{n%x}}; ({program}); s=$?; {end} $s; {end} $s >&2; exit $s"
    if "\n" in line:
        raise ValueError("a program is one line")
    return os.fsencode(line) + b"\n"


def parse_answer(stdout: bytes, stderr: bytes, nonce: str) -> Answer | None:
    """Return what stands between the marks, ``None`` when the end was not seen."""
    between = _between(stdout, nonce)
    if between is None:
        return None
    body, code = between
    said = _between(stderr, nonce)
    return Answer(code, body, said[0] if said is not None else b"")


def _between(data: bytes, nonce: str) -> tuple[bytes, int] | None:
    begin = f"<{nonce}>".encode()
    start = data.find(begin)
    end = re.compile(rb"</%s (\d{1,3})>" % nonce.encode()).search(data, max(start, 0))
    if start < 0 or end is None:
        return None
    return data[start + len(begin) : end.start()], int(end[1])


def _quoted(word: str) -> str:
    """Return a word as sh reads it, on one line: ``$n`` is a newline in every program."""
    if "\0" in word:
        raise ValueError("no word of a command holds a NUL")
    return '"$n"'.join(shlex.quote(part) if part or "\n" not in word else "" for part in word.split("\n"))


# ---- the programs


def environment_program() -> str:
    """Return the program that tells the environment of a login shell, where that shell can be asked, and sshd's own.

    Only a login shell has read the profile: on many sites that is what puts the scheduler's commands on PATH.
    """
    ours = "env | LC_ALL=C grep -E " + shlex.quote(f"^({'|'.join(sorted(INHERITED))})=")
    asked = shlex.quote(f"exec /bin/sh -c {shlex.quote(f'echo; echo @login; {ours}')}")
    return (
        f"exec </dev/null; cd /; echo @plain; {ours}; "
        f'case "$SHELL" in */csh|*/tcsh|*/nologin|*/false|"") ;; *) "$SHELL" -lc {asked} ;; esac; true'
    )


def parse_environment(stdout: bytes) -> dict[str, str]:
    """Return the variables that commands there get: the login shell's, and sshd's where it has none."""
    found: dict[str, dict[str, str]] = {"@plain": {}, "@login": {}}
    part = found["@plain"]
    for raw in stdout.split(b"\n"):
        line = os.fsdecode(raw)
        name, sign, value = line.partition("=")
        if line in found:
            part = found[line]
        elif sign and name in INHERITED:
            part[name] = value
    return found["@plain"] | found["@login"]


def run_program(command: Command, environment: Mapping[str, str]) -> str:
    """Return the program that becomes one command, in ``/`` and with this environment alone."""
    variables = {**environment, **command.environment}
    words = [f"{_quoted(name)}={_quoted(value)}" for name, value in variables.items()]
    return " ".join(["cd / && exec env -i", *words, *map(_quoted, command.argv)])


def push_program(directory: str, part: str, names: Sequence[str]) -> str:
    """Return the program that unpacks stdin, a compressed tar, as a directory that appears at once.

    Args:
        directory: absolute; where its last file is there already, nothing is done.
        part: where it is unpacked first, in the same folder; nobody else's.
        names: files of it, to be on disk before it appears; the last one proves that it is whole.
    """
    d, p = _quoted(directory), _quoted(part)
    whole = f"test -f {_quoted(os.path.join(directory, names[-1]))}" if names else f"test -d {d}"
    # dd opens, syncs and closes: `sync FILE` is coreutils 8.24 and later, and plain `sync` is every user's disks.
    sync = "dd if=/dev/null conv=notrunc,fsync 2>/dev/null of="
    synced = [sync + _quoted(os.path.join(part, name)) for name in names]
    steps = " && ".join(
        [f"tar -xzmf - -C {p}", *synced, f"mv -T {p} {d}"]  # -T: never into a directory that came in between
    )
    return (
        f"umask 077; {whole} && exit 0; mkdir -p {_quoted(os.path.dirname(directory))} && mkdir {p} || exit 73; "
        f"{steps} && exit 0; rm -rf {p}; {whole}"
    )


def watch_program(directory: str) -> str:
    """Return the program that tells what a directory's files hold beyond the offsets on stdin (`spell_offsets`)."""
    # The last word of the listing, and of the answer, proves that it is whole: a fork may fail at any of these.
    d = _quoted(directory)
    listing = "cat && echo && LC_ALL=C ls -ln && echo whole"
    choose = (
        f"BEGIN {{ left = {_ALL_AT_MOST} }} "
        "!files && NF == 0 { files = 1; next } "
        "!files { known[$2] = $1; next } "
        '$0 == "whole" { whole = 1; next } '
        'NF == 9 && substr($1, 1, 1) == "-" && $5 > known[$9] + 0 { '
        f"n = $5 - known[$9]; if (n > {EACH_AT_MOST}) n = {EACH_AT_MOST}; "
        "if (n > left) { more = 1; next } left -= n; "
        'printf "%.0f %.0f %s\\n", known[$9] + 1, n, $9 } '
        'END { if (whole) print (more ? "more" : "end") " 0 ." }'
    )
    each = (
        'if test "$name" = . ; then echo "$from 0 ."; '
        'elif test -r "./$name"; then echo "$from $size $name"; tail -c "+$from" "./$name" | head -c "$size"; fi'
    )
    bag, bags = _quoted(os.path.dirname(directory)), _quoted(os.path.dirname(os.path.dirname(directory)))
    # A file system that is not mounted has no directory for bags at all.
    deleted = f"test ! -e {bag} && test ! -L {bag} && test -d {bags} && test -x {bags} && exit {GONE}"
    there = f"test -d {d} || {{ {deleted}; echo 'No such file or directory' >&2; exit 66; }}; cd {d} || exit 77"
    chosen = f"{{ {listing}; }} | LC_ALL=C awk {shlex.quote(choose)}"
    return f"{there}; {chosen} | while read -r from size name; do {each}; done"


def spell_offsets(offsets: Mapping[str, int]) -> bytes:
    """Return what `watch_program` reads."""
    return b"".join(b"%d %s\n" % (offset, os.fsencode(name)) for name, offset in offsets.items())


def parse_news(stdout: bytes) -> tuple[dict[str, bytes], bool]:
    """Return the news of each file, and whether there is more to ask for.

    Raises:
        TransportError: the answer is not whole; a file may have shrunk while it was read.
    """
    news: dict[str, bytes] = {}
    at = 0
    while (stop := stdout.find(b"\n", at)) >= 0:
        word, size, name = stdout[at:stop].split(b" ", 2)
        if name == b".":
            return news, word == b"more"
        if not size.isdigit() or stop + 1 + int(size) > len(stdout):
            break
        at = stop + 1 + int(size)
        news[os.fsdecode(name)] = stdout[stop + 1 : at]
    raise TransportError("what its files hold could not be read whole")


def append_program(path: str) -> str:
    """Return the program that adds stdin to a file that exists."""
    file = _quoted(path)
    synced = f"dd if=/dev/null conv=notrunc,fsync 2>/dev/null of={file}"
    return f"test -f {file} && test ! -L {file} && cat >>{file} && {synced}"


def read_program(path: str, offset: int, size: int) -> str:
    """Return the program that writes part of a file to stdout."""
    file = _quoted(path)
    return (
        f"test -e {file} || {{ echo 'No such file or directory' >&2; exit 66; }}; "
        f"test -f {file} && test ! -L {file} && test -r {file} || {{ echo 'Permission denied' >&2; exit 77; }}; "
        f"tail -c +{offset + 1} {file} | head -c {size}"
    )


# ---- tar


def tar_stream(folders: Iterable[str], files: Iterable[File]) -> Iterator[bytes]:
    """Yield a tar, before compression, with folders of mode 0700 and files of mode 0600."""
    for folder in folders:
        yield _header(folder, 0o700, tarfile.DIRTYPE, 0)
    for file in files:
        size = file.size
        yield _header(file.name, 0o600, tarfile.REGTYPE, size)
        yield from file.pieces
        yield _ZERO * (-size % _BLOCK)
    yield _ZERO * (2 * _BLOCK)


def _header(name: str, mode: int, kind: bytes, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.type, entry.size = mode, kind, size
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
