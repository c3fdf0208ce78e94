"""A generation on a Ray cluster: the same stages, on as many machines as there are.

keeper (journal, budget, stop sign; one, beside the driver) ← workers (scenes → engine → checks; many)
"""
