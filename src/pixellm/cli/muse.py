"""pixellm muse …: its commands."""

import typer

from pixellm.cli import muse_data
from pixellm.cli.muse_generate import generate
from pixellm.cli.muse_review import review
from pixellm.cli.muse_verify import verify

app = typer.Typer(help="MUSE: multi-target reasoning data made from instance masks.", no_args_is_help=True)
for command in (generate, verify, *muse_data.COMMANDS, review):
    app.command()(command)
