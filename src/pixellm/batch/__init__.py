"""Offline answering of many questions about many images, on this machine or on a Ray cluster.

JSON lines → questions by image → answers, appended as they come → one file, in the order of the questions
"""
