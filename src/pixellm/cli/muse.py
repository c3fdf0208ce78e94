"""`pixellm muse`: from instance masks to questions about several things."""

import typer

from pixellm.cli.muse_review import review

app = typer.Typer(help="MUSE: multi-target reasoning data made from instance masks.", no_args_is_help=True)
app.command()(review)
