"""Rows that went wrong: any JSON, and good rows with some values replaced or gone."""

import json

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["title", "text", "idx", "answer", "qas"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@st.composite
def _changed(draw, row):
    row = json.loads(json.dumps(row))
    for _ in range(draw(st.integers(1, 3))):
        place = row
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            value = place[key]
            if not (isinstance(value, dict | list) and value) or draw(st.booleans()):
                break
            place = value
        if draw(st.booleans()):
            place[key] = draw(JSON)
        else:
            del place[key]
        if not row:
            break
    return row


def spoilt(row):
    """Return a strategy of rows like this one, of which up to three values are wrong or gone."""
    return _changed(row) | JSON
