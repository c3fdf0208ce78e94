"""pixellm muse …: its commands."""

import typer

from pixellm.cli import muse_data
from pixellm.cli.muse_review import review

app = typer.Typer(help="MUSE: multi-target reasoning data made from instance masks.", no_args_is_help=True)
for command in (*muse_data.COMMANDS, review):
    app.command()(command)
