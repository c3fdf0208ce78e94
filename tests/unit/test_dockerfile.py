"""The Dockerfile is true: what it copies, installs, calls and asks for exists."""

import json
import re
import tomllib
from pathlib import Path

import typer
from packaging.requirements import Requirement

from pixellm import cli
from pixellm.serve.middleware import PUBLIC
from pixellm.utils.extras import extra_of

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, each with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    rows = re.sub(r"\\\n *", "", text).splitlines()
    return [(name, rest) for name, _, rest in (row.partition(" ") for row in rows if row)]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_what_is_copied_exists_and_is_not_ignored():
    copied = {path for rest in arguments("COPY") if "--from" not in rest for path in rest.split()[:-1]}
    assert all((ROOT / path).exists() for path in copied), copied
    ignored, *rules = [
        rule for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if rule[:1] not in ("#", "")
    ]
    assert ignored == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


def test_the_package_is_built_from_what_is_copied():
    """pyproject.toml names no file of the root that is missing in the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    copied = " ".join(arguments("COPY")).split()
    assert {project["readme"], *project["license-files"]} <= set(copied)


def test_the_extras_that_are_installed_exist_and_are_without_torch():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (installed,) = (match[1].split(",") for rest in arguments("RUN") if (match := re.search(r"'\.\[(.*)\]'", rest)))
    assert installed == ["serve"] == [extra_of("fastapi")]
    assert not {Requirement(line).name for line in extras["serve"]} & {"pixellm", "torch", "transformers"}


def test_the_command_and_its_options_exist():
    command = [*json.loads(arguments("ENTRYPOINT")[-1]), *json.loads(arguments("CMD")[-1])]
    program, name, *words = command
    assert (program, words[-1]) == ("pixellm", "pixellm-mini")
    known = {option for p in typer.main.get_command(cli.app).commands[name].params for option in p.opts}
    assert {word for word in words if word.startswith("--")} <= known
    (pulled,) = re.findall(r"bin/pixellm ([^&]*) &&", " ".join(arguments("RUN")))
    assert pulled == "models pull pixellm-mini"


def test_health_is_asked_for_without_a_key_on_the_port_that_is_served():
    command = json.loads(arguments("ENTRYPOINT")[-1])
    port = command[command.index("--port") + 1]
    asked = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", arguments("HEALTHCHECK")[-1])
    assert asked is not None
    assert (asked[1], arguments("EXPOSE")) == (port, [port])
    assert asked[2] in PUBLIC


def test_it_does_not_run_as_root():
    names = [name for name, _ in instructions()]
    assert names.count("FROM") == 2
    assert arguments("USER") == ["10001:10001"]
    assert names.index("USER") < names.index("ENTRYPOINT")
