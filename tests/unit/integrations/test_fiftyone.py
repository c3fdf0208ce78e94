"""FiftyOne's model: labels, and where its database starts a data set, by the package itself."""

import numpy as np
import pytest

pytest.importorskip("fiftyone", reason="fiftyone is not installed")

import fiftyone as fo
import fiftyone.core.models as fom

from pixellm.integrations.fiftyone import PixelLMModel
from tests.support.colours import ColourSegmenter, flag, mask_of

PIXELS = np.asarray(flag())


def full(detection: fo.Detection, width: int = 40, height: int = 30) -> np.ndarray:
    """The mask at the image's size, as FiftyOne itself places it."""
    segmentation = detection.to_segmentation(frame_size=(width, height), target=1)
    return segmentation.mask == 1


def test_detections():
    model = PixelLMModel(ColourSegmenter(), "red, green, blue")
    assert isinstance(model, fom.Model)
    assert model.media_type == "image"
    detections = model.predict(PIXELS)
    assert [(d.label, d.confidence, d.phrase) for d in detections.detections] == [
        ("red", 0.9, "the red"),
        ("green", 0.6, "the green"),
    ]
    assert detections.text == "the red\nthe green\nNothing."
    for detection, colour in zip(detections.detections, ("red", "green"), strict=True):
        assert np.array_equal(full(detection), mask_of(flag(), colour))
    assert detections.detections[0].bounding_box == [0.0, 0.0, 0.5, pytest.approx(1 / 3)]


def test_a_question_and_prompts_of_samples():
    model = PixelLMModel(ColourSegmenter(), "What is red?")
    assert [d.label for d in model.predict(PIXELS).detections] == ["red"]
    model.needs_fields = {"prompt_field": "asked"}
    samples = [fo.Sample("a.png", asked="green"), fo.Sample("b.png", asked=None)]
    found = model.predict_all([PIXELS, PIXELS], samples=samples)
    assert [[d.label for d in detections.detections] for detections in found] == [["green"], ["red"]]
    with pytest.raises(ValueError, match="expected a prompt"):
        PixelLMModel(ColourSegmenter()).predict(PIXELS)


def test_a_data_set(tmp_path):
    """`apply_model`, whole: with prompts of the samples and without."""
    for number in range(2):
        flag().save(tmp_path / f"{number}.png")
    try:
        dataset = fo.Dataset()
    except Exception as error:
        pytest.skip(f"FiftyOne's database does not start here: {error}")
    try:
        for number, asked in enumerate(["green", "red, blue"]):
            dataset.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), asked=asked))
        model = PixelLMModel(ColourSegmenter(), "red")
        dataset.apply_model(model, label_field="same", skip_failures=False)
        dataset.apply_model(model, label_field="own", prompt_field="asked", batch_size=2, skip_failures=False)
        assert dataset.values("same.detections.label") == [["red"], ["red"]]
        assert dataset.values("own.detections.label") == [["green"], ["red"]]
        assert np.array_equal(full(dataset.first().own.detections[0]), mask_of(flag(), "green"))
        dataset.apply_model(model, label_field="likely", confidence_thresh=0.95, skip_failures=False)
        assert dataset.values("likely.detections.label") == [[], []]
        both = PixelLMModel(ColourSegmenter(), "red, green")
        dataset.apply_model(both, label_field="sure", confidence_thresh=0.7, skip_failures=False)
        assert dataset.values("sure.detections.label") == [["red"], ["red"]]
    finally:
        dataset.delete()
