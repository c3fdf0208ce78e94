"""Files of the Hugging Face Hub: resumed after a kill at any moment, checked, and tried again after passing trouble.

huggingface_hub drops what a killed process had downloaded of a file (its partial files are unique to a process), and up
to 10 MB at each cut connection; of a checkpoint of 10 GB that can be hours. So the partial file and the loop that reads
into it are ours; addresses, metadata, tokens, redirects and errors are its client's.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

from pixellm.utils.cache import announce, progress

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})  # HTTP statuses that another try may not meet
PARTIAL_CONTENT, NOT_FOUND = 206, 404  # HTTP statuses
TRIES = 5  # in a row, without a byte of progress
QUICK_TRIES = 3  # to reach a server that did not answer at all: whoever has no network should not wait long
MAX_WAIT = 300  # seconds that a server may ask us to wait
SHA256 = re.compile(r"[0-9a-f]{64}")
RESET = re.compile(r"\br=0\b.*\bt=(\d+)")  # seconds in the Hub's RateLimit header: "resolvers";r=0;t=34
INCOMPLETE = ".incomplete"
LARGE = 1_000_000_000  # bytes from which checking a file is announced

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """File of a repository at one commit; `size` in bytes, None if the server doesn't say."""

    repo_id: str
    path: str
    commit: str
    etag: str
    size: int | None

    @property
    def sha256(self) -> str | None:
        """Hash of the content, known for large files (LFS), whose entity tag it is."""
        return self.etag if SHA256.fullmatch(self.etag) else None


def locate(repo_id: str, path: str, revision: str) -> RemoteFile | None:
    """Ask the Hub about a file; None if the repository has none at this path."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(repo_id, path, revision=revision)
    try:
        found = persistently(lambda: get_hf_file_metadata(url))
    except errors.EntryNotFoundError:
        return None
    except errors.HfHubHTTPError as error:
        missing = isinstance(error, errors.RepositoryNotFoundError | errors.RevisionNotFoundError)
        if missing or error.response.status_code != NOT_FOUND:
            raise
        return None
    if not found.commit_hash or not found.etag:
        raise ValueError(
            f"expected a file of the Hugging Face Hub at {url}, got an answer without a commit or an entity tag. "
            "Is a proxy in between, or HF_ENDPOINT another server?"
        )
    return RemoteFile(repo_id, path, found.commit_hash, found.etag, found.size)


def download(file: RemoteFile, destination: Path) -> None:
    """Download a file, going on where an earlier download stopped; `destination` appears complete and checked.

    Raises:
        ValueError: its content is not what the Hub says, twice.
        OSError: the Hub can't be reached or refuses, or the disk is full; what is here stays, for the next call.
    """
    if destination.is_file():
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = incomplete(destination)
    for again in (True, False):
        persistently(lambda: _append(file, partial), lambda: downloaded(destination))
        fault = _fault(file, partial)
        if fault is None:
            partial.replace(destination)
            return
        partial.unlink()
        if again:
            announce(f"{file.path}: {fault}; downloading it again")
    raise ValueError(
        f"{file.repo_id}/{file.path}: {fault}. The file is damaged on the way, and was not kept; try again later, or "
        "by another network."
    )


def incomplete(destination: Path) -> Path:
    """Return the partial file of a download."""
    return destination.with_name(destination.name + INCOMPLETE)


def downloaded(destination: Path) -> int:
    """Count the bytes of a file that are here."""
    for path in (destination, incomplete(destination)):
        with suppress(FileNotFoundError):
            return path.stat().st_size
    return 0


def persistently(attempt: Callable[[], T], progressed: Callable[[], int] = int) -> T:
    """Return what `attempt` returns; after passing trouble of the network or the server it is called again.

    Args:
        attempt: raises OSError, or the errors of the Hub's client.
        progressed: what must grow for failures not to be counted as in a row.
    """
    from huggingface_hub import errors

    failures, before = 0, progressed()
    while True:
        try:
            return attempt()
        except (OSError, errors.HTTPError) as error:
            now = progressed()
            failures, before = (1 if now > before else failures + 1), now
            wait = _wait(error, failures)
            answered = now > 0 or getattr(error, "response", None) is not None
            if wait is None or failures >= (TRIES if answered else QUICK_TRIES):
                raise
            announce(f"the Hub: {_first_line(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)


def _append(file: RemoteFile, partial: Path) -> None:
    """Read the rest of a file into `partial`."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    here = downloaded(partial)
    if here and here == file.size:
        return
    if file.size is None or here > file.size:  # nothing that could be continued
        partial.unlink(missing_ok=True)
        here = 0
    url = hf_hub_url(file.repo_id, file.path, revision=file.commit)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a range of compressed bytes could not be joined
    if here:
        headers["Range"] = f"bytes={here}-"
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
        hf_raise_for_status(response)
        continued = here > 0 and response.status_code == PARTIAL_CONTENT
        _write(response.iter_bytes(), partial, file, continued)


def _write(chunks: Iterable[bytes], partial: Path, file: RemoteFile, continued: bool) -> None:
    """Write what arrives, with a progress bar; an OSError if it ends too early."""
    from huggingface_hub.utils import tqdm

    with (
        partial.open("ab" if continued else "wb") as stream,
        tqdm(
            total=file.size,
            initial=stream.tell(),
            desc=Path(file.path).name,
            unit="B",
            unit_scale=True,
            disable=True if (file.size or 0) < LARGE // 100 else None,  # None: no bar but in a terminal
        ) as bar,
    ):
        for chunk in chunks:
            stream.write(chunk)
            stream.flush()  # a kill loses nothing that has arrived
            bar.update(len(chunk))
        if file.size is not None and stream.tell() < file.size:
            raise OSError(f"the connection ended after {stream.tell():,} of {file.size:,} bytes")


def _fault(file: RemoteFile, partial: Path) -> str | None:
    """Return what is wrong with the downloaded content, or None."""
    got = partial.stat().st_size
    if file.size is not None and got != file.size:
        return f"expected {file.size:,} bytes, got {got:,}"
    if file.sha256 is None:
        return None
    with partial.open("rb") as stream:
        if got < LARGE:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        else:
            with progress(f"checking {file.path}"):
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return None if digest == file.sha256 else f"expected sha256 {file.sha256}, got {digest}"


def _wait(error: Exception, failures: int) -> float | None:
    """Return after how many seconds to try again, or None if that would not help."""
    from huggingface_hub import errors

    backoff = float(2 ** (failures - 1))
    response: Any = getattr(error, "response", None)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return None
    if response is not None:
        if response.status_code not in TRANSIENT:
            return None
        asked = _asked_wait(response.headers)
        return backoff if asked is None else asked if asked <= MAX_WAIT else None
    if isinstance(error, errors.HTTPError | ConnectionError | TimeoutError):
        return backoff
    # A body that is too short is an OSError without a number; one with a number is of the disk.
    return backoff if isinstance(error, OSError) and error.errno in (None, errno.ETIMEDOUT) else None


def _asked_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: by RateLimit, or by Retry-After, a number or a date."""
    if match := RESET.search(headers.get("RateLimit", "")):
        return float(match[1])
    after = headers.get("Retry-After", "").strip()
    if after.isdecimal():
        return float(after)
    try:
        date = parsedate_to_datetime(after)
    except ValueError:
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def explained(repo_id: str, mistyped: str) -> Iterator[None]:
    """Turn the errors of the Hub's client into a ValueError that says what to do.

    Args:
        repo_id: the repository that is asked for.
        mistyped: advice in case there is none of this name.
    """
    from huggingface_hub import errors

    def refuse(got: str, advice: str) -> ValueError:
        return ValueError(f"expected the model {repo_id} on the Hugging Face Hub, got {got}. {advice}")

    try:
        yield
    except errors.HFValidationError as error:
        raise refuse(f"a name that cannot be one there ({error})", mistyped) from error
    except errors.GatedRepoError as error:
        raise refuse("no access: it is gated", "Ask for access on its page, then run: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise refuse("no such model (or a private one)", f"{mistyped} For a private one: hf auth login") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
        got = "offline mode (HF_HUB_OFFLINE), and it is not in the cache" if offline else "no connection to the Hub"
        raise refuse(
            got, f"Connect and try again, or copy the model here and give its directory. {mistyped}"
        ) from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        advice = "Try again; what was downloaded is kept."
        if status in (401, 403):
            advice = "Check your token and its rights: hf auth login"
        raise refuse(f"HTTP status {status} ({_first_line(error)})", advice) from error
    except (OSError, errors.HTTPError) as error:  # a broken connection, a full disk
        raise refuse(f"{type(error).__name__}: {error}", "Try again; what was downloaded is kept.") from error
