"""Generation on a Ray cluster: the same stages, on as many machines as there are.

coordinator (journal, budget, stop flag; one, beside the driver) ← workers (images → engine → checks; many)
"""
