from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.kernels.channel_groups import ChannelGroups


def test_groups_of_two_blocks_and_a_bit() -> None:
    """Channels 0-33, 34-67, 68-101, 102-135 in blocks of 16: blocks 2, 4 and 6 have two groups."""
    groups = ChannelGroups(outputs=34, groups=4, lanes=16)
    assert groups.counts() == [1, 1, 2, 1, 2, 1, 2, 1, 1]
    assert groups.kinds() == [(27, 1), (33, 2)]


@given(outputs=st.integers(1, 40), groups=st.integers(2, 9), lanes=st.sampled_from([4, 8, 16]))
def test_the_kind_of_a_block_has_its_groups(outputs: int, groups: int, lanes: int) -> None:
    cut = ChannelGroups(outputs, groups, lanes)
    kinds = cut.kinds()
    ends = [end for end, _ in kinds]
    assert ends == sorted(set(ends))
    for block, count in enumerate(cut.counts()):
        distance = block * lanes % outputs
        assert count <= next(kind for end, kind in kinds if distance < end)
