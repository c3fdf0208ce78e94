"""`pixellm muse review`: the page on which people look at what was generated."""

from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli.common import err_console, out_console
from pixellm.utils.sockets import listen

LOCAL = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::", "")


def review(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Output of `pixellm muse generate`.")
    ],
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The folder of their photographs.")],
    host: Annotated[
        str, typer.Option(help="Address to listen on. Others than this computer's own let anybody there in.")
    ] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8765,
) -> None:
    """Look through generated records in a browser: keep, reject or edit each, saved at once."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.review import Review, create_app, serve

    with Journal(directory) as journal:
        looking = Review(journal, images)
        if not looking.counts()["all"]:
            raise ValueError(f"expected records in {directory}, got none. Run `pixellm muse generate` first.")
        names = ["*"] if host in EVERYWHERE else [host, LOCAL, "localhost"]
        app = create_app(looking, names)
        with listen(host, port) as listening:
            if host not in (LOCAL, "localhost"):
                err_console.print(f"anybody who reaches {host} can read and change the records", style="yellow")
            address = f"http://{host}:{listening.getsockname()[1]}"
            serve(app, listening, lambda: out_console.print(f"{address}  (Ctrl-C ends)"))
        counts = looking.counts()
    left = f"{counts['undecided']:,} of {counts['all']:,} undecided"
    out_console.print(f"{counts['keep']:,} kept, {counts['reject']:,} rejected, {left}")
