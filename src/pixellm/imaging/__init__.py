"""Images and masks: reading, geometry, run-length encoding, drawing."""
