"""`python -m pixellm`, for launchers such as torchrun."""

from pixellm.cli import main

main()
