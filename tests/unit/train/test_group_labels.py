"""Labels of a codebook group: all of its tokens, or the first alone, the only one that decoding asks for."""

import json

import numpy as np
import torch

from pixellm.imaging import masks
from pixellm.model.losses import IGNORE_INDEX
from pixellm.train.run import tuning_recipe
from pixellm.train.trainer import Collator
from pixellm.training import KNOWN_MODELS
from pixellm.types import Conversation, Sample
from tests.support import tiny

PROCESSOR = tiny.tiny_processor(image_size=56, num_image_tokens=4)
SAMPLE = Sample(
    tiny.picture(60, 40), (Conversation("Segment the cat.", "The cat {seg}.", np.ones((1, 40, 60), dtype=bool)),)
)


def test_only_the_first_token_of_a_group_is_learned():
    first, *others = PROCESSOR.codebook_ids
    every = Collator(PROCESSOR)([SAMPLE])["labels"]
    some = Collator(PROCESSOR, unlabelled=others)([SAMPLE])["labels"]
    left_out = torch.isin(every, torch.tensor(others))
    assert int(left_out.sum()) == len(others) > 0
    assert (some[left_out] == IGNORE_INDEX).all()
    assert torch.equal(some[~left_out], every[~left_out])
    assert first in some


def test_a_fine_tuning_learns_the_first_alone(tmp_path):
    tiny.build(tiny.clip_config()).save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    SAMPLE.image.save(tmp_path / "a.png")
    mask = masks.as_text(masks.encode(SAMPLE.conversations[0].masks[0]))
    row = {"image": "a.png", "question": "Segment the cat.", "answer": "The cat {seg}.", "masks": [mask]}
    (tmp_path / "data.jsonl").write_text(json.dumps(row) + "\n")
    recipe = tuning_recipe(tmp_path / "data.jsonl", str(tmp_path / "model"), "tuned", KNOWN_MODELS)
    assert recipe.stage.group_labels == "first"
