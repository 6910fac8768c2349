"""Pair sources: what they ask, and what of the answers becomes a pair."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lookagain.extensions import ExtensionError, find
from lookagain.pairs import Inputs, PairError
from lookagain.params import load_params
from lookagain.prompts import CSR_DESCRIBE
from lookagain.records import Conversation, Turn
from lookagain.schema import Augmentation, ImportedPairs, PovidPairs, SelfRewardingPairs, SevaPairs
from lookagain.sources import imported, povid, self_rewarding, seva

NOISE = Augmentation("diffusion", 700, 0.5)
SEVA = SevaPairs("sample", [], 200, 0.5, 1, NOISE, 1, False, 9)
LONG = "a dog and a cat and a bus and a car in a street"  # 13 words
DATA = [
    Conversation(
        f"c{number}",
        f"{folder}/{number}",
        [Turn("describe it", LONG), Turn(f"is there {number}?", "no"), Turn("where?", "here")],
    )
    for number, folder in enumerate(["ocr_vqa", "textvqa", "coco", "ocr_vqa"])
]


class Store:
    ids = tuple(f"image_{number}" for number in range(50))
    max_pixels = 100


class Policy:
    """Answers with `answer(ask)`; keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.rounds = answer, []

    def __call__(self, images, asks, decoding):
        self.rounds.append((asks, decoding))
        return {ask.id: self.answer(ask) for ask in asks}


def inputs_of(policy, losses=None):
    return Inputs(0, Store(), policy, losses, lambda: DATA, Store)


def test_every_source_has_what_the_stage_calls_and_params_know():
    params = load_params("presets/tiny.yaml")
    for name in ("stic", "seva", "povid", "self_rewarding", "imported"):
        assert isinstance(getattr(params, name).pairs, find("sources", name, "make_pairs").Settings)
    with pytest.raises(ExtensionError, match=r"no file lookagain/sources/nope\.py; there are: imported, povid, self_rewarding"):
        find("sources", "nope", "make_pairs")
    with pytest.raises(ExtensionError, match=r"stic\.py defines no rewards"):
        find("sources", "stic", "rewards")


def test_seva_asks_one_question_about_the_clean_and_the_augmented_image():
    policy = Policy(lambda ask: "yes" if ask.prompt.startswith("is") else ask.transform["name"])
    made = seva.make_pairs(inputs_of(policy), dataclasses.replace(SEVA, rejected=3))
    ((asks, decoding),) = policy.rounds
    assert decoding.temperature == 0
    assert len(asks) == 200 * 4
    for pair in made.pairs:
        assert (pair.chosen, pair.rejected) == ("none", ["diffusion"] * 3)
        assert pair.chosen_provenance.prompt == pair.prompt == pair.rejected_provenance[0].prompt
        assert len({made.image_transform["seed"] for made in pair.rejected_provenance}) == 3
        assert {made.image_transform["step"] for made in pair.rejected_provenance} == {700}
    yes = sum(ask.prompt.startswith("is") for ask in asks) // 4
    assert made.counts == {"planned": 200, "equal_dropped": 3 * yes}
    assert len(made.pairs) == 200 - yes


def test_seva_borrows_questions_for_every_image_in_turn():
    asked = seva.borrowed_questions(DATA, Store.ids, 120, 0.25, 0)
    assert len({name for name, _, _ in asked}) == 120
    assert {image for _, image, _ in asked[:50]} == {image for _, image, _ in asked[50:100]} == set(Store.ids)
    assert sum(question == "describe it" for _, _, question in asked) / 120 == pytest.approx(0.25, abs=0.1)
    assert seva.borrowed_questions(DATA, Store.ids, 60, 0.25, 0) == asked[:60]
    with pytest.raises(PairError, match="description_share"):
        seva.borrowed_questions([Conversation("c", "i", [Turn("is it?", "no")])], Store.ids, 9, 1.0, 0)


def test_seva_asks_two_questions_about_images_of_the_named_folders():
    asked = seva.own_questions(DATA, ["ocr_vqa"], 4, 0)
    assert sorted(image for _, image, _ in asked) == ["ocr_vqa/0"] * 2 + ["ocr_vqa/3"] * 2
    assert len(seva.own_questions(DATA, [], 5, 0)) == 5


def test_seva_takes_as_many_questions_of_each_folder():
    asked = seva.own_questions(DATA, ["ocr_vqa", "textvqa"], 3, 0)
    assert [image.split("/")[0] for _, image, _ in asked] == ["ocr_vqa"] * 2 + ["textvqa"]
    with pytest.raises(PairError, match=r"3 of 6 items are to come from textvqa, which has 2 questions"):
        seva.own_questions(DATA, ["ocr_vqa", "textvqa"], 6, 0)


def test_seva_as_released_doubles_its_list_and_writes_one_line():
    policy = Policy(lambda ask: f"{ask.id}\n\n{ask.transform['name']}")
    made = seva.make_pairs(inputs_of(policy), dataclasses.replace(SEVA, items=4, copies=2, one_line=True))
    assert len({pair.id for pair in made.pairs}) == len(made.pairs) == 8
    assert [pair.chosen for pair in made.pairs[:4]] == [pair.chosen for pair in made.pairs[4:]]
    assert all("\n" not in text for pair in made.pairs for text in (pair.chosen, *pair.rejected))


def test_povid_shows_the_image_under_noise_for_the_rejected_response():
    policy = Policy(lambda ask: ask.transform["name"])
    made = povid.make_pairs(inputs_of(policy), PovidPairs(10, 500, 0.2, 1.0, 9))
    assert len(made.pairs) == 10
    for pair in made.pairs:
        assert (pair.chosen, pair.rejected, pair.prompt in CSR_DESCRIBE) == ("none", ["diffusion"], True)
    assert len({pair.rejected_provenance[0].image_transform["seed"] for pair in made.pairs}) == 10


def test_self_rewarding_takes_the_verdict_of_the_policy():
    verdicts = iter(["Response 2.", "response 1", "both", "response 1 or response 2", "neither"])
    texts = iter(["same", "same", *(f"text {number}" for number in range(10))])
    policy = Policy(lambda ask: next(verdicts) if ask.id.endswith("verdict") else next(texts))
    made = self_rewarding.make_pairs(inputs_of(policy), SelfRewardingPairs(6, 1.0, 1.0, 9, "text", 4))
    assert [(pair.chosen, pair.rejected) for pair in made.pairs] == [("text 1", ["text 0"]), ("text 2", ["text 3"])]
    assert made.counts == {"planned": 6, "equal_dropped": 1, "no_verdict": 3}
    (_, sampled), (asked, judge) = policy.rounds
    assert (sampled.temperature, judge.temperature, judge.max_new_tokens) == (1.0, 0.0, 4)
    assert "Response 1:\ntext 0\nResponse 2:\ntext 1\n" in asked[0].prompt


def test_self_rewarding_compares_the_verdicts_likelihoods_in_both_orders():
    texts = iter(f"text {number}" for number in range(6))
    # A policy that much prefers to say "response 1", less so where the second text is the better one; in the end it cannot tell.
    first_order = [[1.0, 4.0], [1.0, 2.0], [1.0, 2.0]]
    turned = [[1.0, 2.0], [1.0, 4.0], [1.0, 2.0]]

    def losses(images, asks, options):
        assert {tuple(options[ask.id]) for ask in asks} == {("response 1", "response 2")}
        assert "Response 1:\ntext 0\nResponse 2:\ntext 1\n" in asks[0].prompt
        assert "Response 1:\ntext 1\nResponse 2:\ntext 0\n" in asks[3].prompt
        return {ask.id: pair for ask, pair in zip(asks, first_order + turned, strict=True)}

    policy = Policy(lambda ask: next(texts))
    made = self_rewarding.make_pairs(inputs_of(policy, losses), SelfRewardingPairs(3, 1.0, 1.0, 9, "verdicts", 4))
    # First text: 1 + 2 against 4 + 1; then 1 + 4 against 2 + 1; then 1 + 2 against 2 + 1.
    assert [(pair.chosen, pair.rejected) for pair in made.pairs] == [("text 0", ["text 1"]), ("text 3", ["text 2"])]
    assert made.counts == {"planned": 3, "equal_dropped": 0, "no_verdict": 1}


def test_self_rewarding_takes_the_likelier_response():
    texts = iter(["long", "short", "same", "same", "short", "long"])

    def losses(images, asks, options):
        assert all(ask.prompt in CSR_DESCRIBE for ask in asks)
        return {ask.id: [float(len(text)) for text in options[ask.id]] for ask in asks}

    policy = Policy(lambda ask: next(texts))
    made = self_rewarding.make_pairs(inputs_of(policy, losses), SelfRewardingPairs(3, 1.0, 1.0, 9, "responses", 4))
    assert [(pair.chosen, pair.rejected) for pair in made.pairs] == [("long", ["short"])] * 2
    assert made.counts == {"planned": 3, "equal_dropped": 1, "no_verdict": 0}


TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog."}]
ROLES = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A dog."}]


def other(turns, key):
    return [turns[0], {**turns[1], key: "A cat."}]


RATED = [
    {"response": "A fox.", "annotations": {"Helpfulness": {"Rating": "3"}, "Visual Faithfulness": {"Rating": "3"}}},
    {"response": "A dog.", "annotations": {"Helpfulness": {"Rating": "4"}, "Visual Faithfulness": {"Rating": "5"}}},
    {"response": "A cat.", "annotations": {"Helpfulness": {"Rating": "4"}, "Visual Faithfulness": {"Rating": "1"}}},
]
PUBLISHED = {
    "stic": {"image": "1.png", "chosen": ROLES, "rejected": other(ROLES, "content")},
    "seva": {"image_id": "1.png", "question": "What?", "chosen": "A dog.", "reject": "A cat."},
    "povid": {"id": "x", "image": "1.png", "conversations": TURNS, "rejected_conversations": other(TURNS, "value")},
    "rlaif_v": {"image_path": "1.png", "question": "What?", "chosen": "A dog.", "rejected": "A cat."},
    "vlfeedback": {"img_path": "1.png", "prompt": "What?", "completions": RATED},
    "rlhf_v": {"image": "1.png", "text": json.dumps({"question": "What?", "chosen": "A dog.", "rejected": "A cat."})},
}


def settings_of(folder, name, form, max_bad=0):
    return ImportedPairs(str(folder / name), form, str(folder), max_bad)


@pytest.mark.parametrize("form", PUBLISHED)
def test_published_formats(tmp_path, form):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PUBLISHED[form]) + "\n")
    made = imported.make_pairs(inputs_of(None), settings_of(tmp_path, "pairs.jsonl", form))
    (pair,) = made.pairs
    assert (pair.image_id, pair.prompt, pair.chosen, pair.rejected) == ("1.png", "What?", "A dog.", ["A cat."])
    assert list(made.images) == [("1.png", None, str(tmp_path / "1.png"))]


def test_bad_records_are_counted_and_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    good = PUBLISHED["rlaif_v"]
    (tmp_path / "torn.png").write_bytes((tmp_path / "1.png").read_bytes()[:40])
    Image.new("RGB", (40, 4)).save(tmp_path / "large.png")
    bad = [{**good, "rejected": "A dog."}, {"question": "?"}, {**good, "chosen": 3}, "text"]
    bad += [{**good, "image_path": name} for name in ("lost.png", "torn.png", "large.png")]
    (tmp_path / "pairs.json").write_text(json.dumps([good, *bad]))
    made = imported.make_pairs(inputs_of(None), settings_of(tmp_path, "pairs.json", "rlaif_v", max_bad=7))
    assert (len(made.pairs), made.counts) == (1, {"planned": 8, "bad_records": 7})
    with pytest.raises(
        PairError, match=r"7 of 8 records are not of format rlaif_v.*max_bad = 6: record 2: chosen and rejected are equal"
    ):
        imported.make_pairs(inputs_of(None), settings_of(tmp_path, "pairs.json", "rlaif_v", max_bad=6))


def test_parquet_holds_its_images(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    row = {"image": {"bytes": (tmp_path / "1.png").read_bytes(), "path": "x"}, "question": "?", "chosen": "a", "rejected": "b"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "pairs.parquet")
    made = imported.make_pairs(inputs_of(None), settings_of(tmp_path, "pairs.parquet", "rlaif_v"))
    assert list(made.images) == [(made.pairs[0].image_id, row["image"]["bytes"], None)]
    (tmp_path / "shards").mkdir()
    for number in range(2):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "shards" / f"{number}.parquet")
    assert len(imported.make_pairs(inputs_of(None), settings_of(tmp_path, "shards", "rlaif_v")).pairs) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.json", None, "no such file"),
        ("a.json", "{", "cannot be read"),
        ("a.json", "{}", "list"),
        ("a.parquet", "x", "cannot be read"),
    ],
)
def test_files_that_hold_no_pairs(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(PairError, match=message):
        imported.make_pairs(inputs_of(None), settings_of(tmp_path, name, "seva"))
