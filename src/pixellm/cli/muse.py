"""`pixellm muse`: its commands, `verify` and `review` among them."""

from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli import muse_data, muse_server
from pixellm.cli.common import err_console, out_console, print_lines
from pixellm.cli.muse_data import JournalDir
from pixellm.cli.muse_generate import generate
from pixellm.cli.muse_server import (
    Config,
    InFlight,
    KeyFile,
    MaxCost,
    MaxTokens,
    PerMinute,
    ServerModel,
    ServerProgress,
    TokensPerMinute,
    Url,
)

app = typer.Typer(help="Make MUSE data: multi-target reasoning questions from instance masks.", no_args_is_help=True)
Images = Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the annotated images.")]
LOCAL = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::", "")


def verify(
    directory: JournalDir,
    images: Images,
    model: ServerModel = None,
    server: Url = None,
    config: Config = None,
    key_file: KeyFile = None,
    in_flight: InFlight = None,
    requests_per_minute: PerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_cost: MaxCost = None,
    max_tokens: MaxTokens = None,
) -> None:
    """Have a model judge each record with its image; a "no" moves the record to the rejects, with the reason."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.vlm.reply_cache import journal_budget
    from pixellm.muse.vlm.verifier import Verification
    from pixellm.utils.openai_client import ChatClient

    limits = (requests_per_minute, tokens_per_minute), (max_cost, max_tokens)
    settings = muse_server.settings_of(config, model, server, key_file, in_flight, *limits)
    with Journal(directory) as journal:
        budget = journal_budget(settings, journal)
        client = ChatClient(settings, budget)
        with ServerProgress("verifying", journal.totals()[1], 0) as bar:
            verification = Verification(
                *(client, journal, images, settings.in_flight), lambda: bar.step(muse_server.spent(budget))
            )
            muse_server.run(verification.runner, verification.run(), client)
        print_lines(
            f"{verification.good:,} records are good, {verification.bad:,} went to the rejects, "
            f"{len(verification.unread):,} have no verdict",
            *journal.account(),
            *muse_server.report(verification.runner),
        )
    muse_server.leave(verification.runner)


def review(
    directory: JournalDir,
    images: Images,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any other than 127.0.0.1 lets everybody in who reaches it.")
    ] = LOCAL,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8765,
) -> None:
    """Review generated records in a browser: keep, reject or edit each, saved at once."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.review import Review, create_app, serve
    from pixellm.utils.sockets import listen

    with Journal(directory) as journal:
        looking = Review(journal, images)
        if not looking.counts()["all"]:
            raise ValueError(f"expected records in {directory}, got none. Run `pixellm muse generate` first.")
        names = ["*"] if host in EVERYWHERE else [host, LOCAL, "localhost"]
        page = create_app(looking, names)
        with listen(host, port) as listening:
            if host not in (LOCAL, "localhost"):
                err_console.print(f"anybody who reaches {host} can read and change the records", style="yellow")
            address = f"http://{host}:{listening.getsockname()[1]}"
            serve(page, listening, lambda: out_console.print(f"{address}  (Ctrl-C ends)"))
        counts = looking.counts()
    left = f"{counts['undecided']:,} of {counts['all']:,} undecided"
    out_console.print(f"{counts['keep']:,} kept, {counts['reject']:,} rejected, {left}")


for command in (generate, verify, *muse_data.COMMANDS, review):
    app.command()(command)
