"""MUSE: multi-target reasoning data made from instance masks (arXiv 2312.02228, section 4)."""
