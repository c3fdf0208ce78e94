"""How a server is asked, and what may be spent: one YAML file, single values of which options can change."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Price:
    """Of a model, per million tokens, in the settings' currency."""

    input: float
    output: float

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self.input + tokens_out * self.output) / 1e6


@dataclass(frozen=True)
class Settings:
    """Everything about a server but its key.

    Args:
        model: its name at the server.
        url: see `pixellm.utils.openai_client.connect`.
        key_file: see `pixellm.utils.openai_client.connect_async`.
        in_flight: requests at the same time.
        requests_per_minute, tokens_per_minute: what the server allows; None: as much as it takes.
        timeout: seconds until a request is given up, and tried again.
        retries: of one request.
        max_output: tokens of a reply at most.
        temperature: of sampling.
        stream: whether replies come in pieces: a server that is silent is noticed early, but it takes more time here.
        image_tokens: what a photograph may take at most, for the estimate before a request.
        max_cost: in the currency; a request that might exceed it is not sent.
        max_tokens: the same for tokens in and out.
        prices: by model.
        currency: of prices and costs.
    """

    model: str
    url: str | None = None
    key_file: Path | None = None
    in_flight: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 120.0
    retries: int = 6
    max_output: int = 2000
    temperature: float = 0.7
    stream: bool = False
    image_tokens: int = 2000
    max_cost: float | None = None
    max_tokens: int | None = None
    prices: Mapping[str, Price] = ()  # type: ignore[assignment]
    currency: str = "USD"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prices", dict(self.prices))
        positive = ("in_flight", "requests_per_minute", "tokens_per_minute", "timeout", "max_output", "image_tokens")
        for name in (*positive, "max_cost", "max_tokens"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):  # "not a number" would switch a limit off
                raise ValueError(f"expected {name} above 0, got {value}.")
        if self.retries < 0:
            raise ValueError(f"expected retries of 0 or more, got {self.retries}.")
        _check_url(self.url)
        if self.max_cost is not None and self.model not in self.prices:
            raise ValueError(
                f"expected a price of {self.model} for a cap on cost, got prices of {sorted(self.prices) or 'none'}. "
                "Write it into the settings' file: prices: {MODEL: {input: 2.5, output: 10}}, per million tokens."
            )

    @property
    def price(self) -> Price:
        """Of the model; of one's own server, nothing."""
        return self.prices.get(self.model, Price(0.0, 0.0))

    @classmethod
    def read(cls, file: Path | None, **given: Any) -> Self:
        """From a YAML file of these fields; what is given and not None comes before it.

        Raises:
            ValueError: the file can't be read, has other fields or values of another kind, or there is no model.
        """
        values = _yaml(file) if file else {}
        values |= {name: value for name, value in given.items() if value is not None}
        known = {one.name: one.type for one in fields(cls)}
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"{file}: expected fields of {', '.join(known)}, got {', '.join(unknown)}.")
        if not values.get("model"):
            raise ValueError(
                "expected the name of a model at the server, got none. Give --model, or write it in --config."
            )
        for name, kinds in KINDS.items():
            if name in values and (
                not isinstance(values[name], kinds) or isinstance(values[name], bool) != (kinds is bool)
            ):
                raise ValueError(f"{file}: expected {name} as {_said(kinds)}, got {values[name]!r}.")
        if "key_file" in values:
            values["key_file"] = Path(values["key_file"])
        return cls(**(values | {"prices": _prices(values.get("prices") or {}, file)}))


NUMBER = (int, float)
KINDS: dict[str, Any] = {
    **dict.fromkeys(("model", "url", "currency"), str),
    **dict.fromkeys(("in_flight", "retries", "max_output", "image_tokens", "max_tokens"), int),
    **dict.fromkeys(("requests_per_minute", "tokens_per_minute", "timeout", "temperature", "max_cost"), NUMBER),
    **{"stream": bool, "prices": dict, "key_file": (str, Path)},
}


def _check_url(url: str | None) -> None:
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a URL like https://host/v1, got {url}.")
    if "@" in parts.netloc or parts.query or parts.fragment:  # not shown: there may be a key in it
        raise ValueError(
            f"expected a URL of scheme, host and path alone, got more at {parts.hostname}. "
            "A key belongs into OPENAI_API_KEY or a file: --key-file."
        )


def _said(kinds: Any) -> str:
    return (
        "a number"
        if kinds is NUMBER
        else {str: "words", int: "a whole number", bool: "true or false", dict: "a table"}.get(kinds, "a path")
    )


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: expected YAML, got an error: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a table of settings, got {type(values).__name__}.")
    return values


def _prices(table: dict[str, Any], file: Path | None) -> dict[str, Price]:
    found = {}
    for model, row in table.items():
        if (
            not isinstance(row, dict)
            or set(row) != {"input", "output"}
            or not all(
                isinstance(value, NUMBER) and not isinstance(value, bool) and value >= 0 for value in row.values()
            )
        ):
            raise ValueError(f"{file}: expected a price as {{input: 2.5, output: 10}}, got {row!r} for {model}.")
        found[str(model)] = Price(float(row["input"]), float(row["output"]))
    return found
