"""Example photographs: all there, without a network."""

import socket

import pytest

from pixellm.imaging import examples


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("an example image asked for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("name", examples.EXAMPLES)
def test_every_example_is_an_rgb_photograph(name):
    image = examples.load_example(name)
    assert image.mode == "RGB"
    assert min(image.size) >= 300
    assert len(image.getcolors(maxcolors=1 << 24)) > 100  # a photograph, not a drawing
    assert examples.EXAMPLES[name].caption


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"got 'dog'.*astronaut.*cat.*rocket"):
        examples.load_example("dog")


def test_missing_file_is_a_value_error(monkeypatch):
    monkeypatch.setitem(examples.EXAMPLES, "gone", examples.Example("gone.png", "nothing"))
    with pytest.raises(ValueError, match=r"expected the example 'gone' at .*gone\.png"):
        examples.load_example("gone")
