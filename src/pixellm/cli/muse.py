"""`pixellm muse`: from instance masks to questions about several things."""

import typer

from pixellm.cli import muse_data

app = typer.Typer(help="MUSE: multi-target reasoning data made from instance masks.", no_args_is_help=True)
for command in muse_data.COMMANDS:
    app.command()(command)
