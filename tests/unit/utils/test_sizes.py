"""Sizes in bytes as users write them."""

import pytest

from pixellm.utils.sizes import bytes_of, rounded_up


@pytest.mark.parametrize(
    ("text", "size"),
    [("24GB", 24e9), ("24", 24e9), ("1.5 gb", 1.5e9), ("500MB", 5e8), ("16GiB", 16 * 2**30), ("2TB", 2e12)],
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "24 apples", "24B"])
def test_mistakes(text):
    with pytest.raises(ValueError, match="expected a size like 24GB"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("size", "text"), [(1, "0.01GB"), (1_130_000_000, "1.13GB"), (1_130_000_001, "1.14GB"), (24 * 10**9, "24.00GB")]
)
def test_a_size_that_is_written_holds_what_it_stands_for(size, text):
    assert rounded_up(size) == text
    assert bytes_of(text) >= size
