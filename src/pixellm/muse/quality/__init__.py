"""Quality of records: checks by name, near-duplicates, and injected faults to measure the checks with.

records → checks (one by one) → duplicates (over the set) → issues with their reasons
"""
