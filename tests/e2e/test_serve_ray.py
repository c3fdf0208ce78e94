"""The API as a Ray Serve application on a local cluster: answers, keys, more replicas where there is more to do."""

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
import yaml

from tests.support import serving
from tests.support.serving import KEY, MODEL, QUESTIONS, TOKENS

ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
RECIPE = Path(__file__).parents[2] / "recipes/serve/ray.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return serving.write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def url(model, tmp_path_factory):
    from ray import serve

    from pixellm.serve.on_ray import app

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    # Each of two replicas asks for half a CPU. Ray starts a process ahead for each CPU that it is told of.
    ray.init(
        num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    arguments = {"model": str(model), "name": MODEL, "keys_file": str(keys), "batch_size": 1, "max_replicas": 2}
    serve.run(app({**arguments, "upscale_delay": 0.5, "num_cpus": 0.5}), name="pixellm", route_prefix="/")
    address = f"http://127.0.0.1:{port}"
    limit = time.monotonic() + 300
    while httpx2.get(f"{address}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.2)
    yield address
    serve.shutdown()
    ray.shutdown()


def ask(url: str, question: str) -> tuple[str, list]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=10, timeout=120) as client:
        answer = client.chat.completions.create(**serving.chat(question))
    return answer.choices[0].message.content, answer.choices[0].message.targets


def test_the_openai_client_gets_the_offline_answer(url, model) -> None:
    expected = serving.offline(model, QUESTIONS[0])
    assert ask(url, QUESTIONS[0]) == (expected["text"], expected["targets"])
    assert httpx2.get(f"{url}/v1/models", timeout=30).status_code == 401
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY) as client:
        pieces = client.chat.completions.create(**serving.chat(QUESTIONS[0], stream=True))
        text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == expected["text"]


@pytest.mark.slow
def test_more_replicas_where_there_is_more_to_do(url, model) -> None:
    expected = {one: serving.offline(model, one, max_new_tokens=TOKENS)["text"] for one in QUESTIONS}
    limit, most = time.monotonic() + 120, 0
    with ThreadPoolExecutor(8) as pool:
        while most < 2 and time.monotonic() < limit:
            jobs = {pool.submit(ask, url, one): one for one in QUESTIONS * 4}
            assert all(job.result()[0] == expected[one] for job, one in jobs.items())
            most = max(most, _running())
    assert most == 2


def _running() -> int:
    from ray import serve

    states = serve.status().applications["pixellm"].deployments["pixellm"].replica_states
    return sum(count for state, count in states.items() if "RUNNING" in str(state))


def test_no_keys_is_an_error(monkeypatch) -> None:
    from pixellm.serve.on_ray import app

    monkeypatch.delenv("PIXELLM_API_KEYS", raising=False)
    with pytest.raises(ValueError, match="expected API keys, got none"):
        app({})
    with pytest.raises(ValueError, match="no_such_field"):
        app({"no_such_field": 1})


def test_the_recipe_is_valid() -> None:
    from ray.serve.schema import ServeDeploySchema

    from pixellm.serve.on_ray import Arguments

    (application,) = ServeDeploySchema.model_validate(yaml.safe_load(RECIPE.read_text())).applications
    assert application.import_path == "pixellm.serve.on_ray:app"
    assert Arguments.model_validate(application.args).max_replicas == 8
