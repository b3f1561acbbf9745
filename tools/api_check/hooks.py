"""What Schemathesis can't know: how an upload is made. It is made by the tests' own builder, and sent as it is."""

import os
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

UPLOAD = "application/x-hpcflow-dispatch"

schemathesis.openapi.media_type(UPLOAD, st.just(Path(os.environ["API_CHECK_UPLOAD"]).read_bytes()))


@schemathesis.serializer(UPLOAD)
def as_it_is(context, value):  # type: ignore[no-untyped-def]
    return value if isinstance(value, bytes) else b""
