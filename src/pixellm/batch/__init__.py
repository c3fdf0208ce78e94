"""Many questions about many images, answered offline: on this machine, or on a Ray cluster.

JSON lines → questions by image → answers, appended as they come → predictions, in the order of the questions
"""
