from hypothesis import given
from hypothesis import strategies as st

from lepton_compile.kernels.channel_groups import ChannelGroups


def test_groups_of_two_blocks_and_a_bit() -> None:
    """Channels 0-33, 34-67, 68-101, 102-135 in blocks of 16: blocks 2, 4 and 6 have two groups."""
    groups = ChannelGroups(outputs=34, groups=4, lanes=16, blocks=1)
    assert [groups.of(begin, begin + 16) for begin in groups.tiles] == [
        (0, 0), (0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 3),
    ]  # fmt: skip
    assert [kind for _, kind in groups.kinds()] == [((0, 0),), ((0, 1),)]


@given(
    outputs=st.integers(1, 40), groups=st.integers(2, 9), lanes=st.sampled_from([4, 8, 16]), blocks=st.integers(1, 3)
)
def test_the_kind_of_a_tile_covers_its_groups(outputs: int, groups: int, lanes: int, blocks: int) -> None:
    cut = ChannelGroups(outputs, groups, lanes, blocks)
    kinds = cut.kinds()
    ends = [end for end, _ in kinds]
    assert ends == sorted(set(ends))
    for begin in cut.tiles:
        group, distance = divmod(begin, outputs)
        kind = next(kind for end, kind in kinds if distance < end)
        for channel in range(begin, min(begin + cut.tile_channels, outputs * groups)):
            first, last = kind[(channel - begin) // lanes]
            assert first <= channel // outputs - group <= last
