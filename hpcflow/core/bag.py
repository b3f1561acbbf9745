"""The files of a bag and of a dispatch, as bytes: packs, journal lines, bag.json, the upload stream.

A bag is one directory (0700, files 0600), never re-used::

    bag.json      what to run; written last      claims/   one name per claimed range
    bag.sig       HMAC of bag.json               journal/  one file per worker, JSON lines with a keyed checksum
    payload.pack  functions, arguments, inputs   data/     one pack per worker: results too large for the journal
    logs/         one .out and .err per worker   work/     directories that tasks wrote into
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, overload

from hpcflow.core.errors import HpcflowError

__all__ = [
    "BAG_VERSION",
    "DIRECTORIES",
    "ENTRY",
    "FOOTER",
    "INBOX",
    "INLINE_LIMIT",
    "MAGIC",
    "ClaimMethod",
    "DamagedError",
    "Ref",
    "Stream",
    "bag_key",
    "checked",
    "pack",
    "parse_footer",
    "parse_index",
    "read_lines",
    "sign",
    "sign_line",
    "stream_head",
    "stream_parts",
    "verify",
]

BAG_VERSION: Final = 2
DIRECTORIES: Final = ("claims", "journal", "data", "logs", "work")
#: Where the server tells workers of further parts, in signed lines: it exists from the start, because a network file
#: system may go on saying for a minute that a file is missing, and looks anew at one that is opened.
INBOX: Final = "inbox.jsonl"
#: Results up to this many bytes ride in the journal line of their task.
INLINE_LIMIT: Final = 16 * 1024

MAGIC: Final = b"HFPACK1\n"
#: One blob of a pack: offset, size, SHA-256.
ENTRY: Final = struct.Struct("<QQ32s")
#: The end of a pack: number of blobs, SHA-256 of the index, `MAGIC`.
FOOTER: Final = struct.Struct("<Q32s8s")

STREAM_MAGIC: Final = b"HFDISP1\n"
_SIZE: Final = struct.Struct("<Q")

#: Where a value's pickle lies: a blob's number in the payload pack, or (absolute path, offset, size, SHA-256 in hex).
#: ``None`` in a fused chain: the result of that earlier task of the same unit, in a sublattice ``{"unit": its index}``.
#: ``{"out": blob, "base": index}``: what a sublattice returned, whose tasks begin with that index of the dispatch.
Ref = int | tuple[str, int, int, str] | dict[str, int] | None


#: How the workers of a bag share its ranges, which a race on the cluster's own file system decides: by hard links to a
#: private file; by directories, where links exclude nobody; not at all: an array task has the range of its own index.
ClaimMethod = Literal["link", "mkdir", "index"]


class DamagedError(HpcflowError):
    """Bytes are not what their checksum says."""


# ---- packs


class Stream(NamedTuple):
    """A blob that is not in memory, of which size and SHA-256 are known already."""

    #: May be gone through more than once.
    pieces: Iterable[bytes]
    size: int
    digest: bytes


@overload
def pack(blobs: Iterable[bytes]) -> tuple[Sequence[bytes], str]: ...
@overload
def pack(blobs: Iterable[bytes | Stream]) -> tuple[Sequence[bytes | Stream], str]: ...
def pack(blobs: Iterable[bytes | Stream]) -> tuple[Sequence[bytes] | Sequence[bytes | Stream], str]:
    """Return a pack as pieces to write in order, and the SHA-256 of its index in hex, which bag.json names."""
    pieces: list[bytes | Stream] = [MAGIC]
    index, offset = bytearray(), len(MAGIC)
    for blob in blobs:
        if isinstance(blob, Stream):
            size, digest = blob.size, blob.digest
        else:
            size, digest = len(blob), hashlib.sha256(blob).digest()
        index += ENTRY.pack(offset, size, digest)
        offset += size
        pieces.append(blob)
    raw = bytes(index)
    summed = hashlib.sha256(raw)
    pieces += [raw, FOOTER.pack(len(raw) // ENTRY.size, summed.digest(), MAGIC)]
    return pieces, summed.hexdigest()


def parse_footer(footer: bytes) -> tuple[int, bytes]:
    """Return the number of blobs and the index's SHA-256 from the last ``FOOTER.size`` bytes of a pack."""
    count, digest, magic = FOOTER.unpack(footer)
    if magic != MAGIC:
        raise DamagedError("a pack does not end as a pack should; it was cut or overwritten")
    return count, digest


def parse_index(raw: bytes, digest: bytes) -> tuple[tuple[int, int, bytes], ...]:
    """Return (offset, size, SHA-256) of each blob from the index's bytes."""
    if hashlib.sha256(raw).digest() != digest:
        raise DamagedError("the index of a pack is damaged")
    return tuple(ENTRY.iter_unpack(raw))


def checked(blob: bytes, digest: bytes) -> bytes:
    """Return the blob, or raise `DamagedError` when its SHA-256 is another."""
    if hashlib.sha256(blob).digest() != digest:
        raise DamagedError(f"a stored value of {len(blob)} bytes is damaged")
    return blob


# ---- keys, signatures, journal lines


def bag_key(cluster_key: bytes, bag_id: str) -> bytes:
    """Return the key of one bag: a worker that learns it can forge nothing of another bag."""
    return hmac.digest(cluster_key, b"bag " + bag_id.encode(), "sha256")


def sign(data: bytes, key: bytes) -> str:
    """Return the HMAC-SHA256 in hex, as bag.sig holds it."""
    return hmac.digest(key, data, "sha256").hex()


def verify(data: bytes, signature: str, key: bytes) -> bool:
    return hmac.compare_digest(sign(data, key), signature.strip())


#: `json.dumps` with separators makes an encoder for each call, which costs a worker as much as the rest of a line.
_to_json: Final = json.JSONEncoder(separators=(",", ":")).encode


def sign_line(record: Mapping[str, Any], key: bytes) -> bytes:  # Any: JSON
    """Return one journal line: ``<json> #<16 hex digits of its HMAC>`` and a newline."""
    raw = _to_json(record).encode()
    return b"%s #%s\n" % (raw, hmac.digest(key, raw, "sha256").hex()[:16].encode())


def read_lines(data: bytes, key: bytes) -> tuple[list[dict[str, Any]], int, int]:  # Any: JSON
    """Return the records of the whole, rightly signed lines, the bytes consumed, and the number of bad lines.

    Bytes after the last newline are a line in the making: they are not consumed.
    """
    end = data.rfind(b"\n") + 1
    records: list[dict[str, Any]] = []
    bad = 0
    for line in data[:end].split(b"\n"):
        if not line:
            continue
        raw, mark, tag = line.rpartition(b" #")
        if mark and hmac.compare_digest(hmac.digest(key, raw, "sha256").hex()[:16].encode(), tag):
            records.append(json.loads(raw))
        else:
            bad += 1
    return records, end, bad


# ---- the upload of a dispatch


def stream_parts(manifest: Mapping[str, Any], blobs: Sequence[bytes]) -> Iterator[bytes]:  # Any: JSON
    """Yield an upload before compression: magic, size of the manifest, manifest, blobs back to back.

    ``blobs`` is added to the manifest as ``[[size, sha256 in hex], …]``.
    """
    listed = [[len(blob), hashlib.sha256(blob).hexdigest()] for blob in blobs]
    raw = json.dumps({**manifest, "blobs": listed}, separators=(",", ":")).encode()
    yield STREAM_MAGIC + _SIZE.pack(len(raw)) + raw
    yield from blobs


def stream_head(data: bytes) -> tuple[int, int] | None:
    """Return (offset, size) of the manifest in an upload, ``None`` while too few bytes are there.

    Raises:
        DamagedError: it does not begin as an upload.
    """
    if data[: len(STREAM_MAGIC)] != STREAM_MAGIC[: len(data)]:
        raise DamagedError("this is not a dispatch: it does not begin as one")
    start = len(STREAM_MAGIC) + _SIZE.size
    return (start, _SIZE.unpack_from(data, len(STREAM_MAGIC))[0]) if len(data) >= start else None
