"""Sizes in bytes as users write them."""

import pytest

from pixellm.utils.sizes import bytes_of


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
