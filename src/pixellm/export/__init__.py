"""Answers in the formats of other tools.

answers of a file (`answers.py`) → by image → COCO, LVIS, labelme, YOLO, MUSE, PNG (one writer each, `formats.py`)

Polygons are made in `outlines.py`.
"""
