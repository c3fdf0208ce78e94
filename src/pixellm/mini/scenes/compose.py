"""One question about a scene, of a kind that is drawn by weight."""

import random
from collections.abc import Callable, Mapping

from pixellm.mini.scenes import combining, comparing, knowing, naming, placing
from pixellm.mini.scenes.acting import ask_action
from pixellm.mini.scenes.naming import Asked
from pixellm.mini.scenes.phrasing import register
from pixellm.mini.scenes.scene import Scene, SceneQuestion, SceneView, Turn

MAX_TRIES = 8
MAX_ANSWER_WORDS = 45
Builder = Callable[[SceneView, random.Random, bool], Asked | None]
BUILDERS: dict[str, Builder] = {
    "category": naming.ask_category,
    "several": naming.ask_several,
    "all": naming.ask_all,
    "each": naming.ask_each,
    "count": naming.ask_count,
    "order": placing.ask_order,
    "place": placing.ask_place,
    "neighbour": placing.ask_neighbour,
    "compare": comparing.ask_compare,
    "use": knowing.ask_use,
    "has": knowing.ask_has,
    "group": knowing.ask_group,
    "action": ask_action,
    "two_part": combining.ask_two_part,
    "exclude": knowing.ask_exclude,
    "yes_no": combining.ask_yes_no,
}
KINDS = (*BUILDERS, "followup", "nothing")
DEFAULT_WEIGHTS: dict[str, float] = {
    **{"category": 0.1, "several": 0.08, "all": 0.06, "each": 0.03, "count": 0.045, "order": 0.05, "place": 0.05},
    **{"neighbour": 0.05, "compare": 0.07, "use": 0.18, "has": 0.09, "group": 0.1, "action": 0.05, "two_part": 0.12},
    **{"exclude": 0.06, "yes_no": 0.05, "followup": 0.05, "nothing": 0.65},
}


def compose(scene: Scene, rng: random.Random, kinds: Mapping[str, float] | None = None) -> SceneQuestion | None:
    """Return a question about a scene with its answer, or None where none was found in a few tries.

    Args:
        scene: its objects; what is not in `known` is never said to be absent.
        rng: everything random comes from it.
        kinds: weights of `KINDS`; a question of the kind "nothing" has the form of another, drawn by the same weights.

    Raises:
        ValueError: a kind is unknown.
    """
    weights = DEFAULT_WEIGHTS if kinds is None else kinds
    if unknown := sorted(set(weights) - set(KINDS)):
        raise ValueError(f"unknown kinds {unknown}. Known: {', '.join(KINDS)}.")
    view = SceneView(scene)
    for _ in range(MAX_TRIES):
        kind = rng.choices(tuple(weights), tuple(weights.values()))[0]
        found = _ask(view, rng, kind, weights)
        if found is not None:
            return found
    return None


def _ask(view: SceneView, rng: random.Random, kind: str, weights: Mapping[str, float]) -> SceneQuestion | None:
    base, fits = kind, kind != "nothing"
    if not fits:
        forms = {key: weights.get(key, 0) for key in BUILDERS}
        base = rng.choices(tuple(forms), tuple(forms.values()) if any(forms.values()) else None)[0]
    if kind == "followup":
        asked = combining.follow_up(view, rng)
    else:
        single = BUILDERS[base](view, rng, fits)
        asked = None if single is None else [single]
    if asked is None:
        return None
    turns = tuple(Turn(register(question, rng), said.sentence, said.targets) for question, said in asked)
    if any(len(turn.answer.replace("{seg}", "").split()) > MAX_ANSWER_WORDS for turn in turns):
        return None
    silent = not any(turn.targets for turn in turns)
    return SceneQuestion("nothing" if silent else kind, turns, base)
