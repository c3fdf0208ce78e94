"""RLEs and polygons from outside: a mask or a ValueError."""

from hypothesis import example, given
from hypothesis import strategies as st

from pixellm.imaging import masks


def outcome(segmentation, height, width):
    """Return the number of pixels of a segmentation, or None if it is refused."""
    try:
        mask = masks.decode(segmentation, height, width)
    except ValueError:
        return None
    assert mask.shape == (height, width)
    return int(mask.sum())


@given(st.lists(st.integers(0, 70), max_size=40))
@example([0, 0, 4096])
def test_runs(counts):
    outcome({"size": [8, 8], "counts": counts}, 8, 8)
