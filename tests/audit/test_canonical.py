from __future__ import annotations

import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from secmon_dagster.audit.canonical import MAX_SAFE_INTEGER, canonical_json

safe_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_SAFE_INTEGER, MAX_SAFE_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | safe_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(safe_text, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_the_text_is_what_rfc_8785_says(value):
    text = canonical_json(value, field="data", max_bytes=10**6)
    assert text is None if value is None else text.encode() == rfc8785.dumps(value)


def test_numbers_on_which_json_libraries_disagree():
    expected = {
        1.0: "1", -0.0: "0", 1e16: "10000000000000000", 1e21: "1e+21", 1e-7: "1e-7",
        123456.789: "123456.789", 2.5e-6: "0.0000025", 999999999999999.9: "999999999999999.9",
    }  # fmt: skip
    for number, text in expected.items():
        assert canonical_json([number], field="data", max_bytes=99) == f"[{text}]"


def test_an_escaped_backslash_before_u0000_is_no_nul():
    assert canonical_json("\\u0000", field="data", max_bytes=99) == '"\\\\u0000"'
