"""How long answers take, and what memory, against other ways of the same answer: `python -m benchmarks.speed`."""
