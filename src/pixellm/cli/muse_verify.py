"""`pixellm muse verify`: a second look at generated records, by a model behind a server."""

from pathlib import Path
from typing import Annotated

import typer

from pixellm.cli import muse_server
from pixellm.cli.common import print_lines
from pixellm.cli.muse_server import (
    Config,
    InFlight,
    KeyFile,
    MaxCost,
    MaxTokens,
    PerMinute,
    Running,
    ServerModel,
    TokensPerMinute,
    Url,
)


def verify(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Output of `pixellm muse generate`.")
    ],
    images: Annotated[Path, typer.Option(exists=True, file_okay=False, help="The folder of the photographs.")],
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
    """Show a model each record with its photograph; what it says no to goes to the rejects, with its reason."""
    from pixellm.muse.journal import Journal
    from pixellm.muse.quality.verifier import Verification
    from pixellm.muse.server.budget import journal_budget
    from pixellm.muse.server.client import Client

    limits = (requests_per_minute, tokens_per_minute), (max_cost, max_tokens)
    settings = muse_server.settings_of(config, model, server, key_file, in_flight, *limits)
    with Journal(directory) as journal:
        budget = journal_budget(settings, journal)
        client = Client(settings, budget)
        with Running("verifying", journal.totals()[1], 0) as bar:
            looking = Verification(
                *(client, journal, images, settings.in_flight), lambda: bar.step(muse_server.spent(budget))
            )
            muse_server.complete(looking.run, looking.all(), client)
        calls, tokens_in, tokens_out, cost = journal.spent()
        print_lines(
            f"{looking.good:,} records are good, {looking.bad:,} went to the rejects, {len(looking.unread):,} have no "
            "verdict",
            f"{calls:,} replies: {tokens_in:,} tokens in, {tokens_out:,} tokens out, {cost:,.4f} {settings.currency}",
            *muse_server.report(looking.run, budget),
        )
    muse_server.leave(looking.run)
