import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.errors import LeptonError
from lepton_compile.planning import Plan
from lepton_compile.rewriting import Declined, Stage, Step

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
TEXTS = st.lists(st.text(), max_size=3).map(tuple)
STEPS = st.builds(
    Step,
    st.text(),
    st.sampled_from(Stage),
    st.dictionaries(st.text(), VALUES, max_size=3),
    st.text(),
    TEXTS,
    st.booleans(),
)
DECLINED = st.builds(Declined, st.text(), st.sampled_from(Stage), st.text(), TEXTS)


@given(st.builds(Plan, st.lists(STEPS, max_size=3).map(tuple), st.lists(DECLINED, max_size=3).map(tuple)))
def test_json_round_trip(plan):
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(plan.to_json()).to_json() == plan.to_json()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "steps": [{}]}', '{"format": 1, "steps": 3}', "null"])
def test_what_is_no_plan_is_refused(text):
    with pytest.raises(LeptonError, match="this is not a plan"):
        Plan.from_json(text)


def test_another_format_is_refused():
    with pytest.raises(LeptonError, match=r"format 99.*make it anew"):
        Plan.from_json('{"format": 99}')
