"""The files of a bag as bytes: what was damaged is never taken for what was written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcflow.core.bag import (
    ENTRY,
    FOOTER,
    DamagedError,
    bag_key,
    checked,
    pack,
    parse_footer,
    parse_index,
    read_lines,
    sign,
    sign_line,
    stream_head,
    stream_parts,
    verify,
)

KEY = b"a key of one bag"
VALUES = st.none() | st.booleans() | st.integers() | st.text()
RECORDS = st.dictionaries(st.text(max_size=8), VALUES | st.lists(VALUES, max_size=3), max_size=4)


def opened(content: bytes, digest: str) -> list[bytes]:
    """Read a pack as a worker does."""
    count, index_digest = parse_footer(content[-FOOTER.size :])
    assert index_digest.hex() == digest
    end = len(content) - FOOTER.size
    index = parse_index(content[end - count * ENTRY.size : end], index_digest)
    return [checked(content[offset : offset + size], digest) for offset, size, digest in index]


@given(st.lists(st.binary(max_size=64), max_size=8))
def test_a_pack_gives_back_its_blobs(blobs: list[bytes]) -> None:
    pieces, digest = pack(blobs)
    assert opened(b"".join(pieces), digest) == blobs


@given(st.lists(st.binary(min_size=1, max_size=32), min_size=1, max_size=4), st.data())
def test_a_pack_with_a_flipped_bit_is_refused(blobs: list[bytes], data: st.DataObject) -> None:
    pieces, digest = pack(blobs)
    content = bytearray(b"".join(pieces))
    place = data.draw(st.integers(8, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((DamagedError, AssertionError)):
        opened(bytes(content), digest)


@given(st.lists(RECORDS, max_size=6))
def test_lines_give_back_their_records(records: list[dict[str, object]]) -> None:
    content = b"".join(sign_line(record, KEY) for record in records)
    assert read_lines(content, KEY) == (records, len(content), 0)


@given(st.lists(RECORDS, min_size=1, max_size=5), st.data())
def test_a_torn_journal_gives_a_prefix_and_waits_for_the_rest(
    records: list[dict[str, object]], data: st.DataObject
) -> None:
    lines = [sign_line(record, KEY) for record in records]
    content = b"".join(lines)
    cut = data.draw(st.integers(0, len(content)))
    found, consumed, bad = read_lines(content[:cut], KEY)
    assert found == records[: len(found)]
    assert bad == 0
    assert consumed == sum(map(len, lines[: len(found)])) <= cut
    rest, _, _ = read_lines(content[consumed:], KEY)
    assert found + rest == records


@given(st.lists(RECORDS, min_size=1, max_size=5), st.data())
def test_a_flipped_bit_never_makes_another_record(records: list[dict[str, object]], data: st.DataObject) -> None:
    content = bytearray(b"".join(sign_line(record, KEY) for record in records))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    found, _, _ = read_lines(bytes(content), KEY)
    remaining = iter([json.dumps(record) for record in records])
    assert all(json.dumps(record) in remaining for record in found)
    assert len(found) < len(records)


def test_a_record_after_a_torn_line_is_read() -> None:
    torn = sign_line({"ev": "start"}, KEY)[:-9]
    found, _, bad = read_lines(torn + b"\n" + sign_line({"ev": "end"}, KEY), KEY)
    assert found == [{"ev": "end"}]
    assert bad == 1


def test_a_line_of_another_bag_is_refused() -> None:
    line = sign_line({"ev": "end"}, bag_key(b"c" * 32, "another"))
    assert read_lines(line, bag_key(b"c" * 32, "this")) == ([], len(line), 1)


def test_a_signature_holds_for_these_bytes_and_this_key_alone() -> None:
    signature = sign(b"bag", KEY)
    assert verify(b"bag", signature + "\n", KEY)
    assert not verify(b"bag ", signature, KEY)
    assert not verify(b"bag", signature, b"another key")


def test_an_upload_says_where_its_manifest_lies() -> None:
    content = b"".join(stream_parts({"v": 1}, [b"one", b"two"]))
    assert stream_head(content[:10]) is None
    head = stream_head(content)
    assert head is not None
    start, size = head
    manifest = json.loads(content[start : start + size])
    assert [blob[0] for blob in manifest["blobs"]] == [3, 3]
    assert content[start + size :] == b"onetwo"


def test_other_bytes_are_no_upload() -> None:
    with pytest.raises(DamagedError, match="not a dispatch"):
        stream_head(b"GET / HTTP/1.1")
