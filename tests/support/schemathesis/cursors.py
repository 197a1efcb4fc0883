"""Strings that are cursors: a schema cannot say what an opaque string must be like, so Schemathesis is told here."""

import base64
import json

import schemathesis
from hypothesis import strategies as st


def written(position):
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


natural = st.integers(min_value=0, max_value=2**64 - 1)
offset = st.integers(min_value=-(2**63), max_value=2**63 - 1)
day = st.integers(min_value=-(2**31), max_value=2**31 - 1)
partition = st.integers(min_value=0, max_value=2**32 - 1)

sorted_by = st.one_of(
    st.just("Nothing"),
    offset.map(lambda number: {"Number": number}),
    st.tuples(natural, natural).map(lambda share: {"Share": share}),
)
schemathesis.openapi.format("tenants-cursor", st.tuples(sorted_by, st.text(max_size=8), day).map(written))
schemathesis.openapi.format("month-end-cursor", st.tuples(st.text(max_size=8), day).map(written))
schemathesis.openapi.format("calls-cursor", st.tuples(partition, offset).map(written))
schemathesis.openapi.format(
    "alerts-cursor",
    st.tuples(
        st.sampled_from(["critical", "warning", "info"]),
        offset,
        st.text(max_size=8),
        st.none() | day,
        st.sampled_from(["SlaTierReached", "SlaUnknownCode"]),
        st.text(max_size=8),
    ).map(written),
)
schemathesis.openapi.format("claims-cursor", st.tuples(day, st.text(max_size=8), day).map(written))
schemathesis.openapi.format("rulings-cursor", st.tuples(offset, st.text(max_size=8)).map(written))
