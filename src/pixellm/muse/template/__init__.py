"""Questions made by rules: tables of what objects are for, a grammar, and the places of instances.

groups → properties and activities → drafts about an image → sentences → records, marked as synthetic
"""
