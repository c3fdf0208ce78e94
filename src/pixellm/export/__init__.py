"""Answers in the formats of other tools.

file of answers (`answers.py`) → by image → JSON files (`coco.py`) or directories (`directories.py`), by `formats.py`

Polygons are made in `outlines.py`.
"""
