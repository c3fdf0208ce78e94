"""Published claims about the cost of an answer, and its scaling with targets and text."""
