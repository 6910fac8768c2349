from collections import Counter

import pytest
from PIL import Image

from lookagain.pairs import batches, plan_stic
from lookagain.prompts import STIC_BAD, STIC_CAPTION, STIC_STEP_BY_STEP
from lookagain.transforms import apply

IDS = [f"image_{number}" for number in range(2000)]


def plans(ids=IDS, seed=0):
    return plan_stic(ids, seed, bad_prompt_share=0.5, low_resolution=14, brightness=0.5, hue=0.3)


def test_stic_algorithm_1():
    made = plans()
    assert [plan.image_id for plan in made] == IDS
    for plan in made:
        assert plan.prompt in STIC_CAPTION
        assert (plan.chosen.prompt, plan.chosen.transform["name"]) == (STIC_STEP_BY_STEP, "none")
        if plan.rejected.transform["name"] == "none":
            assert plan.rejected.prompt in STIC_BAD
        else:  # a corrupted image is asked about with the training prompt itself
            assert plan.rejected.prompt == plan.prompt
    kinds = Counter(plan.rejected.transform["name"] for plan in made)
    assert kinds["none"] / len(made) == pytest.approx(0.5, abs=0.04)
    assert kinds["low_resolution"] / len(made) == pytest.approx(0.25, abs=0.04)
    assert len({plan.prompt for plan in made}) == 8


def test_a_plan_depends_on_seed_and_image_alone():
    assert plans(IDS[5:8]) == plans()[5:8]
    assert plans(IDS[:50]) != plans(IDS[:50], seed=1)


def test_pairs_record_how_each_response_was_made():
    plan = next(plan for plan in plans() if plan.rejected.transform["name"] == "colour_jitter")
    pair = plan.pair("good", "bad", {"temperature": 0.2}, 7)
    assert (pair.chosen, pair.rejected) == ("good", ["bad"])
    recorded = pair.rejected_provenance[0]
    assert recorded.image_transform == dict(plan.rejected.transform)
    image = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    assert apply(image, recorded.image_transform).tobytes() != image.tobytes()


def test_transforms():
    image = Image.new("RGB", (64, 48), (200, 40, 40))
    assert apply(image, {"name": "low_resolution", "size": 12}).size == (16, 12)
    red, green, blue = apply(image, {"name": "colour_jitter", "brightness": 0.5, "hue": 0.0}).getpixel((0, 0))
    assert (red, green, blue) == pytest.approx((100, 20, 20), abs=2)
    with pytest.raises(ValueError, match="unknown image transform"):
        apply(image, {"name": "blur"})


def test_batches_hold_every_item_once():
    asks = [plan.chosen for plan in plans(IDS[:10])] + [plan.rejected for plan in plans(IDS[:10])]
    made = batches(asks, 8)
    assert [len(batch) for batch in made] == [8, 8, 4]
    assert sorted(ask.id for batch in made for ask in batch) == sorted(ask.id for ask in asks)
