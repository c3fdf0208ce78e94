"""Whether a record is fit to learn from: checks with names, a second look by a model, and faults to measure them with.

records → checks (one by one) → duplicates (over the set) → verifier (a model, yes or no with a reason)
"""

from pixellm.muse.quality.checks import CHECKS, Fault, Rules, check
from pixellm.muse.quality.duplicates import check_all

__all__ = ["CHECKS", "Fault", "Rules", "check", "check_all"]
