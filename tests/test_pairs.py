"""STIC's plans, and what all pair sources share."""

import dataclasses
import json
from collections import Counter

import pytest
from PIL import Image

from lookagain.augmentations import CLEAN
from lookagain.images import ImageStore, write_shards
from lookagain.pairs import (
    Ask,
    Inputs,
    Made,
    PairError,
    PairPlan,
    batches,
    batches_by_image,
    carry_out,
    read_pairs,
    write_pairs,
)
from lookagain.prompts import STIC_BAD, STIC_CAPTION, STIC_STEP_BY_STEP
from lookagain.records import Decoding
from lookagain.schema import SticPairs
from lookagain.sources import stic
from lookagain.transforms import apply

IDS = [f"image_{number}" for number in range(2000)]
SETTINGS = SticPairs(0.5, True, low_resolution=14, brightness=0.5, hue=0.3, temperature=0.2, top_p=1.0, max_new_tokens=9)
GREEDY = Decoding(0.0, 1.0, 8)


def plans(ids=IDS, seed=0, **changes):
    return stic.plan(ids, dataclasses.replace(SETTINGS, **changes), seed)


def test_stic_algorithm_1():
    made = plans()
    assert [plan.image_id for plan in made] == IDS
    for plan in made:
        assert plan.prompt in STIC_CAPTION
        assert (plan.chosen.prompt, plan.chosen.transform["name"]) == (STIC_STEP_BY_STEP, "none")
        if plan.rejected[0].transform["name"] == "none":
            assert plan.rejected[0].prompt in STIC_BAD
        else:  # a corrupted image is asked about with the training prompt itself
            assert plan.rejected[0].prompt == plan.prompt
    kinds = Counter(plan.rejected[0].transform["name"] for plan in made)
    assert kinds["none"] / len(made) == pytest.approx(0.5, abs=0.04)
    assert kinds["low_resolution"] / len(made) == pytest.approx(0.25, abs=0.04)
    assert len({plan.prompt for plan in made}) == 8


def test_a_plan_depends_on_seed_and_image_alone():
    assert plans(IDS[5:8]) == plans()[5:8]
    assert plans(IDS[:50]) != plans(IDS[:50], seed=1)


def test_pairs_record_how_each_response_was_made():
    plan = next(plan for plan in plans() if plan.rejected[0].transform["name"] == "colour_jitter")
    pair = plan.pair({plan.chosen.id: "good", plan.rejected[0].id: "bad"}, {"temperature": 0.2}, 7)
    assert (pair.chosen, pair.rejected) == ("good", ["bad"])
    recorded = pair.rejected_provenance[0]
    assert recorded.image_transform == dict(plan.rejected[0].transform)
    image = Image.linear_gradient("L").resize((32, 32)).convert("RGB")
    assert apply(image, recorded.image_transform).tobytes() != image.tobytes()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_only_bad_prompts_or_only_corruption(share):
    kinds = {
        (plan.rejected[0].prompt in STIC_BAD, plan.rejected[0].transform["name"] == "none")
        for plan in plans(bad_prompt_share=share)
    }
    assert kinds == ({(True, True)} if share else {(False, False)})


def test_the_released_generator_shows_the_clean_image_and_the_record_says_so():
    released = plans(IDS[:200], corrupt=False)
    assert {plan.rejected[0].transform["name"] for plan in released} == {"none"}
    assert [plan.rejected[0].prompt for plan in released] == [plan.rejected[0].prompt for plan in plans(IDS[:200])]


def two_plans():
    """Two pairs: the first image is shown flipped and inverted, the second flipped."""
    flip, invert = {"name": "flip"}, {"name": "invert"}
    made = []
    for one, shown in (("a", [flip, invert]), ("b", [flip])):
        rejected = [Ask(f"{one}/{number}", one, "what?", how) for number, how in enumerate(shown)]
        made.append(PairPlan(f"m/{one}", one, "m", "what?", Ask(f"{one}/c", one, "what?"), rejected))
    return made


def inputs_of(store, answers):
    def respond(images, asks, decoding):
        return {ask.id: answers[ask.id] for ask in asks}

    return Inputs(0, store, respond, None, list, lambda: store)


def test_equal_responses_are_dropped_and_counted(tmp_path):
    answers = {"a/c": "a dog", "a/0": "a dog", "a/1": "a cat", "b/c": "yes", "b/0": "yes"}
    made = carry_out(two_plans(), GREEDY, inputs_of(None, answers), None, keep_equal=False)
    (pair,) = made.pairs
    assert (pair.chosen, pair.rejected, pair.rejected_provenance[0].image_transform) == ("a dog", ["a cat"], {"name": "invert"})
    assert made.counts == {"planned": 2, "equal_dropped": 2}
    kept = carry_out(two_plans(), GREEDY, inputs_of(None, answers), None, keep_equal=True)
    assert ([len(pair.rejected) for pair in kept.pairs], kept.counts["equal_kept"]) == ([2, 1], 2)


def test_a_set_of_pairs_holds_its_images_alone(tmp_path):
    picture = tmp_path / "one.png"
    Image.new("RGB", (8, 8)).save(picture)
    write_shards(tmp_path / "images", [(one, picture.read_bytes(), None) for one in "abc"])
    store = ImageStore(tmp_path / "images")
    answers = {"a/c": "x", "a/0": "y", "a/1": "y", "b/c": "x", "b/0": "z"}
    made = carry_out(two_plans(), GREEDY, inputs_of(store, answers), store, keep_equal=False)
    write_pairs(tmp_path / "m", made)
    assert read_pairs(tmp_path / "m") == made.pairs
    assert ImageStore(tmp_path / "m/images").ids == ["a", "b"]
    assert json.loads((tmp_path / "m/counts.json").read_text()) == {"planned": 2, "equal_dropped": 0, "pairs": 2}
    with pytest.raises(PairError, match="1 images of pairs are not there: b"):
        write_pairs(tmp_path / "m", Made(made.pairs, {}, [("a", None, str(picture))]))
    with pytest.raises(PairError, match="no pair was made"):
        write_pairs(tmp_path / "m", Made([], {}, store))


def test_batches_hold_every_item_once():
    asks = [plan.chosen for plan in plans(IDS[:10])] + [plan.rejected[0] for plan in plans(IDS[:10])]
    made = batches(asks, 8)
    assert [len(batch) for batch in made] == [8, 8, 4]
    assert sorted(ask.id for batch in made for ask in batch) == sorted(ask.id for ask in asks)


def test_batches_by_image_hold_all_asks_about_what_they_show():
    dark = {"name": "dark"}
    asks = [Ask(f"{number}", "abcd"[number % 4], "x" * number, dark if number == 5 else CLEAN) for number in range(9)]
    made = [[ask.id for ask in batch] for batch in batches_by_image(asks, 2)]
    assert made == [["1", "5"], ["2", "6", "3", "7"], ["0", "4", "8"]]  # b is shown twice, clean and dark
    assert made == [[ask.id for ask in batch] for batch in batches_by_image(asks[::-1], 2)]
