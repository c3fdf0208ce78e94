"""Scenes as lists of objects, and questions about them with answers: text that trains a language model to reason.

lexicon (names) → facts → scene (objects, and what boxes tell) → naming · placing · comparing · knowing · acting →
combining → compose; `drawing` makes scenes up, `scene_of` reads them from annotated images.
"""

from pixellm.mini.scenes.compose import DEFAULT_WEIGHTS, KINDS, compose
from pixellm.mini.scenes.drawing import draw_scene
from pixellm.mini.scenes.scene import Scene, SceneObject, SceneQuestion, Turn, scene_of

__all__ = [
    "DEFAULT_WEIGHTS",
    "KINDS",
    "Scene",
    "SceneObject",
    "SceneQuestion",
    "Turn",
    "compose",
    "draw_scene",
    "scene_of",
]
