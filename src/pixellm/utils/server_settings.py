"""Settings of an OpenAI-compatible server: one YAML file, single values of which options override."""

from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pixellm.utils.budget import FREE, Budget, Price

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # "not a number" would switch a limit off
PositiveInt = Annotated[int, Field(gt=0)]


class ServerSettings(BaseModel):
    """Settings of a server, all but its key.

    Args:
        model: name of the model at the server.
        url: base URL, https://host/v1; None: OPENAI_BASE_URL, or OpenAI's own.
        key_file: file that holds the key and nothing else, in place of OPENAI_API_KEY.
        in_flight: requests at the same time.
        requests_per_minute, tokens_per_minute: limits of the server; None: unlimited.
        timeout: seconds until a request is given up, and tried again.
        retries: further tries of one request.
        max_output: tokens of a reply at most; None: no limit is sent, and none reserved.
        temperature: sampling temperature.
        stream: receive replies in pieces: a server that hangs is noticed early, but each piece costs time here.
        image_tokens: upper bound of the tokens of an image, for the estimate before a request.
        max_cost, max_tokens: hard caps, in `currency` and in tokens in and out.
        prices: by model, per million tokens.
        currency: for prices and costs.

    Raises:
        ValueError: a value is of another type or out of range, or a cap on cost has no price.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    model: str = Field(min_length=1)
    url: str | None = None
    key_file: Path | None = Field(None, strict=False)
    in_flight: PositiveInt = 16
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    timeout: Positive = 120.0
    retries: int = Field(6, ge=0)
    max_output: PositiveInt | None = 2000
    temperature: float = 0.7
    stream: bool = False
    image_tokens: PositiveInt = 2000
    max_cost: Positive | None = None
    max_tokens: PositiveInt | None = None
    prices: dict[str, Price] = {}
    currency: str = "USD"

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return url
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:  # not repeated: it may hold a key
            raise ValueError(
                f"expected a URL of scheme, host and path alone, got more at {parts.hostname}. "
                "A key belongs into OPENAI_API_KEY or a file: --key-file."
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"expected a URL like https://host/v1, got {url}.")
        return url

    @model_validator(mode="after")
    def _check_price(self) -> Self:
        if self.max_cost is not None and self.model not in self.prices:
            raise ValueError(
                f"expected a price of {self.model} for a cap on cost, got prices of {sorted(self.prices) or 'none'}. "
                "Write it into the settings' file: prices: {MODEL: {input: 2.5, output: 10}}, per million tokens."
            )
        return self

    @property
    def price(self) -> Price:
        """Price of the model; 0 for one without an entry."""
        return self.prices.get(self.model, FREE)

    @property
    def where(self) -> str:
        """Address, for messages."""
        return self.url or "the OpenAI API"

    def budget(self, **spent: Any) -> Budget:
        """Return a budget with these caps; `spent`: its fields about earlier runs."""
        limits = {"max_cost": self.max_cost, "max_tokens": self.max_tokens, "patience": self.timeout}
        return Budget(price=self.price, currency=self.currency, **limits, **spent)

    @classmethod
    def read(cls, file: Path | None, **options: Any) -> Self:
        """Read a YAML file of these fields; options that are not None override it.

        Raises:
            ValueError: the file can't be read, or see above.
        """
        values = _yaml(file) if file else {}
        values |= {name: value for name, value in options.items() if value is not None}
        if not values.get("model"):
            raise ValueError("expected the name of a model at the server, got none. Give --model or --config.")
        try:
            return cls(**values)
        except ValidationError as error:
            raise ValueError(f"{file or 'settings'}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """Return the errors of a pydantic model in one line: "in_flight: input should be greater than 0, got 0"."""
    lines = []
    for row in error.errors(include_url=False):
        field, message = ".".join(map(str, row["loc"])), row["msg"].removeprefix("Value error, ")
        if row["type"] == "value_error":  # our own words, which know what may be repeated
            lines.append(message)
        elif row["type"] == "extra_forbidden":
            lines.append(f"{field}: there is no such setting")
        else:
            lines.append(f"{field}: {message[0].lower()}{message[1:]}, got {row['input']!r}")
    return "; ".join(lines)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: expected YAML, got an error: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{file}: expected a table of settings, got {type(values).__name__}.")
    return values
