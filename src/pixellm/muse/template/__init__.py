"""Questions made by rules: a knowledge table of what things are for, a grammar, and the places of things.

groups (kinds of things) → properties and activities → what holds in a scene → sentences → records, marked as synthetic
"""

from pixellm.muse.template.engine import TemplateEngine

__all__ = ["TemplateEngine"]
