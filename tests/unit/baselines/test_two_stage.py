"""Systems of a namer and a grounder, of which LISA_rec is one."""

import numpy as np
import pytest
from PIL import Image

from pixellm.baselines.two_stage import ModelGrounder, ModelNamer, NamedObject, TwoStage, parse_names
from pixellm.imaging import masks
from pixellm.imaging.postprocess import Binary
from pixellm.predictor import Predictor
from pixellm.types import Answer, Done, Target, TextPiece
from tests.support import tiny

PHOTOGRAPH = Image.new("RGB", (40, 30), "grey")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The broccoli and the oranges.", ["broccoli", "oranges"]),
        ("The cat, a red apple, and some wine glasses.", ["cat", "red apple", "wine glasses"]),
        ("Sure, it is the dog. It sleeps.", ["dog"]),
        ("Here are the dog and the cat", ["dog", "cat"]),
        ("the dog and the dog", ["dog"]),
        ("The sandwich, and the band-aid", ["sandwich", "band-aid"]),
        ("- a dog\n- a cat", ["dog", "cat"]),
        ("Nothing in this image fits that.", []),
        ("There is no dog here.", []),
        ("No dog is to be seen.", []),
        ("Notebook and nothing else", ["Notebook", "nothing else"]),
        ("", []),
        (" . ", []),
    ],
)
def test_names_of_an_answer_in_words(text, expected) -> None:
    assert parse_names(text) == expected


class Parts:
    """A namer and a grounder whose answers are known; it counts the photographs that it is shown."""

    def __init__(self, names: list[str]) -> None:
        self.known, self.shown, self.grounded = names, 0, []

    def set_image(self, image: Image.Image) -> None:
        self.shown += 1

    def names(self, question: str) -> list[str]:
        return [NamedObject(name) for name in self.known]

    def ground(self, things):
        self.grounded.append([thing.phrase for thing in things])
        found = np.zeros((len(things), 30, 40), dtype=bool)
        found[range(len(things)), range(len(things))] = True
        return [Binary(masks.encode(mask), 0.5 + number / 10) for number, mask in enumerate(found)]


def test_each_name_gets_its_mask() -> None:
    namer, grounder = Parts(["dog", "hot dog", "cat"]), Parts([])
    system = TwoStage(namer, grounder)
    with pytest.raises(ValueError, match="expected an image before the first question"):
        system.ask("Which animals are here?")
    system.set_image(PHOTOGRAPH)
    answer = system.ask("Which animals are here?")
    assert answer.text == "The dog, the hot dog and the cat."
    assert [answer.text[slice(*target.span)] for target in answer.targets] == ["dog", "hot dog", "cat"]
    assert len({target.span for target in answer.targets}) == 3
    assert [target.score for target in answer.targets] == [0.5, 0.6, 0.7]
    assert [int(np.flatnonzero(target.mask.any(axis=1))[0]) for target in answer.targets] == [0, 1, 2]
    assert (namer.shown, grounder.shown) == (1, 1)
    events = list(system.stream("Which animals are here?"))
    assert [type(event) for event in events] == [TextPiece, Target, Target, Target, Done]
    with pytest.raises(ValueError, match="expected a question"):
        system.ask(" ")
    system.min_score = 0.55
    assert [target.phrase for target in system.ask("Which animals are here?").targets] == ["hot dog", "cat"]
    events = list(system.stream("Which animals are here?"))
    assert [type(event) for event in events] == [TextPiece, Target, Target, Done]


def test_a_presence_score_of_the_second_stage_stays() -> None:
    class Answers:
        def set_image(self, image: Image.Image) -> None: ...

        def ask_many(self, questions):
            target = Target("the dog", (0, 7), masks.encode(np.eye(30, 40, dtype=bool)), 0.9, 0.3)
            targets = {"Segment dog.": (target,), "Segment cat.": ()}
            return [Answer(question, "the dog", targets[question], (30, 40)) for question in questions]

    system = TwoStage(Parts(["dog", "cat"]), ModelGrounder(Answers()))
    system.set_image(PHOTOGRAPH)
    answer = system.ask("Which animals are here?")
    assert [(target.score, target.presence) for target in answer.targets] == [(0.9, 0.3), (0.0, None)]
    system.min_score = 0.3
    assert [target.phrase for target in system.ask("Which animals are here?").targets] == ["dog"]


def test_nothing_named_is_nothing_segmented() -> None:
    grounder = Parts([])
    system = TwoStage(Parts([]), grounder)
    system.set_image(PHOTOGRAPH)
    answer = system.ask("Which animals are here?")
    assert (answer.targets, grounder.grounded) == ((), [])
    assert answer.text


def test_of_one_model(clip_model, clip_processor, monkeypatch) -> None:
    """The photograph is encoded once; what the first stage names is asked for in the second, one by one."""
    written = {
        "Which animals are here? Answer in words.": "The dog and the cat.",
        "Segment dog.": "Sure, the dog {seg}.",
        "Segment cat.": "I see no cat.",
    }
    plans = {question: tiny.plan_of(clip_processor, answer) for question, answer in written.items()}
    predictor = Predictor(clip_model, clip_processor, sampling={"processors": (tiny.Write(clip_processor, plans),)})
    encoded = []
    encode = predictor.encode
    monkeypatch.setattr(predictor, "encode", lambda photographs: encoded.append(1) or encode(photographs))
    system = TwoStage(ModelNamer(predictor), ModelGrounder(predictor), shared=True)
    system.set_image(PHOTOGRAPH)
    answer = system.ask("Which animals are here?")
    assert answer.text == "The dog and the cat."
    assert [target.phrase for target in answer.targets] == ["dog", "cat"]
    alone = predictor.ask("Segment dog.").targets[0]
    assert (answer.targets[0].mask == alone.mask).all()
    assert answer.targets[0].score == pytest.approx(alone.score)
    assert answer.targets[1].mask.shape == (30, 40)
    assert not answer.targets[1].mask.any()  # what the second stage denies has an empty mask
    assert answer.targets[1].score == 0
    assert len(encoded) == 1
