"""Model names to directories: what is downloaded, built and cached."""
