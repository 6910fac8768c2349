"""The world's scenes, language, tokenizer and benchmark files."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from lookagain import prompts
from lookagain.metrics import chair, pope
from lookagain.records import Conversation, read_records
from lookagain.world import benchmarks, conversations, language, splits
from lookagain.world.art import CATEGORIES, NAMES, sprites
from lookagain.world.charts import COLORS, draw_chart
from lookagain.world.scenes import SCENE_TYPES, Scene, Thing, draw_scene, plausibility, read_coco, to_jpeg
from lookagain.world.tokenizer import build_processor, build_tokenizer

SCENE = Scene(
    4_000_000,
    "beach",
    "seen",
    64,
    (Thing("dog", (40, 40, 20, 20)), Thing("apple", (2, 2, 16, 16)), Thing("dog", (0, 4, 18, 18))),
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(0, "validation", index, 64)[1] for index in range(80)]


def test_scene_is_a_function_of_seed_split_and_index():
    image, scene = draw_scene(3, "pool", 7, 64)
    again, same = draw_scene(3, "pool", 7, 64)
    assert np.array_equal(np.asarray(image), np.asarray(again))
    assert scene == same
    assert scene.things != draw_scene(3, "policy", 7, 64)[1].things
    assert scene.things != draw_scene(4, "pool", 7, 64)[1].things


def test_boxes_lie_inside_and_a_quarter_of_evaluation_is_novel(scenes):
    for scene in scenes:
        for x, y, width, height in (thing.box for thing in scene.things):
            assert 0 <= x < x + width <= 64
            assert 0 <= y < y + height <= 64
    assert [scene.art for scene in scenes[:4]] == ["seen", "seen", "seen", "novel"]
    assert draw_scene(0, "pool", 1, 64)[1].art == "seen"


def test_held_out_sprites_are_in_no_training_scene():
    for category in CATEGORIES:
        assert not set(category.seen) & set(category.novel)
        novel = sprites(category.name, True)
        assert (novel is sprites(category.name, False) or novel == sprites(category.name, False)) == (not category.novel)


def test_categories_are_cocos():
    assert set(NAMES) <= set(chair.SYNONYMS)
    assert len({category.id for category in CATEGORIES}) == len(NAMES) == 49
    for kind in SCENE_TYPES:
        assert plausibility(kind).sum() == pytest.approx(1)


def test_signs_leave_the_scene_as_it_is_and_cover_little(monkeypatch):
    drawn = [draw_scene(0, "policy", index, 64) for index in range(60)]
    signed = [(image, scene) for image, scene in drawn if scene.sign]
    assert 18 <= len(signed) <= 36
    monkeypatch.setattr("lookagain.world.scenes.SIGN_SHARE", 0.0)
    for image, scene in signed:
        plain, without = draw_scene(0, "policy", scene.id - 1_000_000, 64)
        x, y, width, height = scene.sign.box
        different = np.argwhere((np.asarray(image) != np.asarray(plain)).any(2))
        assert (without.things, without.type, without.sign) == (scene.things, scene.type, None)
        assert ((different >= (y, x)) & (different < (y + height, x + width))).all()
        assert 0 <= x <= 64 - width
        assert 0 <= y <= 64 - height
        for left, top, wide, high in (thing.box for thing in scene.things):
            shared = max(0, min(x + 16, left + wide) - max(x, left)) * max(0, min(y + 16, top + high) - max(y, top))
            assert shared <= 0.22 * min(16 * 16, wide * high)


def test_charts_have_bars_of_different_colours_and_heights():
    for index in range(20):
        image, chart = draw_chart(0, "test", index, 64)
        assert 2 <= len(chart.bars) == len({bar.color for bar in chart.bars}) == len({bar.value for bar in chart.bars}) <= 4
        pixels = np.asarray(image, dtype=int)
        for bar in chart.bars:
            x, y, width, height = bar.box
            assert (height, y + height) == (6 * bar.value, 62)
            assert np.abs(pixels[y : y + height, x : x + width] - COLORS[bar.color]).max() < 60
            assert (pixels[y - 1, x : x + width] > 200).all()
    assert draw_chart(0, "test", 3, 64)[1] == draw_chart(0, "test", 3, 64)[1] != draw_chart(0, "policy", 3, 64)[1]


def test_jpeg_keeps_pixels_near():
    image, _ = draw_scene(0, "pool", 1, 64)
    with Image.open(io.BytesIO(to_jpeg(image))) as stored:
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(stored, dtype=int))
    assert difference.mean() < 3


def test_descriptions_are_true_and_in_reading_order(scenes):
    assert language.description(SCENE) == ("The image shows a beach. In the top left there is an apple and a dog.")
    for scene in scenes:
        named = chair.mentions(language.description(scene))
        assert sorted(named) == sorted(scene.names())
        assert sorted(chair.mentions(language.caption(scene))) == sorted(scene.names())


def test_settings_name_no_object():
    for kind in SCENE_TYPES.values():
        assert chair.mentions(f"The image shows {kind.phrase}.") == []


@pytest.mark.parametrize("plausible", [True, False])
def test_absent_categories_are_drawn_by_plausibility_without_replacement(scenes, plausible):
    scene, rng = scenes[0], np.random.default_rng(0)
    weights = np.array(plausibility(scene.type) if plausible else np.ones(len(NAMES)))
    weights[[NAMES.index(name) for name in scene.names()]] = 0
    drawn = [language.absent(scene, 2, rng, plausible) for _ in range(4000)]
    assert all(len({*names}) == 2 and not {*names} & {*scene.names()} for names in drawn)
    expected = [rng.choice(len(NAMES), 2, replace=False, p=weights / weights.sum()) for _ in range(4000)]
    for place in (0, 1):
        counts = [Counter(names[place] for names in drawn), Counter(NAMES[numbers[place]] for numbers in expected)]
        assert all(abs(counts[0][name] - counts[1][name]) < 5 * (counts[1][name] + 10) ** 0.5 for name in NAMES)
    with pytest.raises(ValueError, match="lacks fewer than"):
        language.absent(scene, len(NAMES), rng)


def test_noise_adds_one_absent_object_to_its_share(scenes):
    rng = np.random.default_rng(0)
    added = [len(set(chair.mentions(language.noisy_description(scene, rng, 0.5))) - set(scene.names())) for scene in scenes]
    assert set(added) == {0, 1}
    assert 0.3 < np.mean(added) < 0.7
    clean = [language.noisy_description(scene, rng, 0.0) for scene in scenes]
    assert clean == [language.description(scene) for scene in scenes]


def test_bad_prompts_are_obeyed(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes:
        absent = set(chair.mentions(language.imagined_description(scene, rng))) - set(scene.names())
        assert 1 <= len(absent) <= 3


def test_yes_no_answers_are_true(scenes):
    rng = np.random.default_rng(0)
    labels = []
    for scene in scenes:
        for turn in [*conversations.questions(scene, 3, rng), *conversations.verifications(scene, rng, 10)]:
            noun = chair.mentions(turn.prompt.split("?")[0])
            labels.append(pope.parse_answer(turn.response))
            assert labels[-1] == ("yes" if noun[0] in scene.names() else "no")
    assert 0.4 < np.mean([label == "yes" for label in labels]) < 0.6


def test_tokenizer_knows_all_prompts_and_round_trips(scenes):
    tokenizer = build_tokenizer()
    rng = np.random.default_rng(0)
    turns = [turn for scene in scenes for turn in conversations.conversation(scene, rng, 0.5)]
    papers = [*prompts.STIC_CAPTION, *prompts.STIC_BAD, prompts.STIC_STEP_BY_STEP, *prompts.CSR_DESCRIBE]
    texts = [*papers, *(text for turn in turns for text in (turn.prompt, turn.response))]
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.unk_token_id not in ids, text
        assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids == ids
    for turn in turns:
        ids = tokenizer(turn.response, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids) == turn.response


def test_tokenizer_treats_case_full_stops_and_unknown_words():
    tokenizer = build_tokenizer()
    assert tokenizer.tokenize("a TRAFFIC light. Top left") == ["a", "traffic light", ".", "top left"]
    assert tokenizer.tokenize("a xylophone") == ["a", "<unk>"]
    assert tokenizer("a dog").input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (3, 5)])
def test_processor_takes_images_of_any_size(size):
    processor = build_processor(build_tokenizer(), 64, 8)
    message = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a dog in the image?"}]}]
    text = processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
    inputs = processor(images=[Image.new("RGB", size)], text=[text], return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 64, 64)
    assert (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 64


@pytest.mark.parametrize("split", benchmarks.SPLITS)
def test_pope_questions_are_balanced_and_right(scenes, split):
    lines = benchmarks.pope_questions(scenes, split, 3, 0)
    objects = {scene.file_name: scene.names() for scene in scenes}
    assert [line["question_id"] for line in lines] == list(range(1, len(lines) + 1))
    for line in lines:
        (noun,) = chair.mentions(line["text"])
        assert (noun in objects[line["image"]]) == (line["label"] == "yes")
    assert sum(line["label"] == "yes" for line in lines) * 2 == len(lines)
    assert len({(line["image"], line["text"]) for line in lines}) == len(lines)


def test_adversarial_questions_ask_for_what_occurs_together():
    def scene(number, *names):
        return Scene(number, "street", "seen", 64, tuple(Thing(name, (0, 0, 20, 20)) for name in names))

    scenes = [scene(1, "car", "bus"), scene(2, "car", "bus"), scene(3, "car"), *(scene(n, "cat") for n in range(4, 9))]
    asked = {split: benchmarks.pope_questions(scenes, split, 1, 0) for split in benchmarks.SPLITS}
    no = {
        split: next(q["text"] for q in lines if q["image"] == scenes[2].file_name and q["label"] == "no")
        for split, lines in asked.items()
    }
    assert no["adversarial"] == "Is there a bus in the image?"
    assert no["popular"] == "Is there a cat in the image?"


def test_written_split_reads_back(tmp_path):
    scenes = splits.write_split(tmp_path / "test", "test", 6, 64, 0)
    charts = splits.write_charts(tmp_path / "charts", "test", 3, 64, 0)
    splits.write_benchmarks(tmp_path / "test", scenes, 3, 0)
    splits.write_conversations(tmp_path / "test" / "conversations.jsonl", scenes, 0.5, 0)
    read, pixels = splits.read_split(tmp_path / "test")
    assert read == scenes == read_coco(tmp_path / "test" / "instances.json")
    assert pixels.shape == (6, 64, 64, 3)
    truth = chair.read_truth(tmp_path / "test" / "instances.json", tmp_path / "test" / "captions.json")
    assert truth == {scene.image_id: frozenset(scene.names()) for scene in scenes}
    assert pope.read_file(tmp_path / "test" / "coco_pope_random.json")
    assert len(read_records(tmp_path / "test" / "conversations.jsonl", Conversation)) == 6
    read_charts, pixels = splits.read_chart_split(tmp_path / "charts")
    assert read_charts == charts
    assert pixels.shape == (3, 64, 64, 3)


def test_infused_descriptions_are_in_the_base_alone(tmp_path):
    scenes = [draw_scene(0, "instruct", index, 64)[1] for index in range(200)]
    splits.write_conversations(tmp_path / "instruct.jsonl", scenes, 0.5, 0)
    written = [record.turns for record in read_records(tmp_path / "instruct.jsonl", Conversation)]
    trained = [splits.training_conversations(scene, 0.5, 0)[0] for scene in scenes]
    assert not any("Image description" in turn.prompt for turns in written for turn in turns)
    changed = [(before, after) for before, after in zip(written, trained, strict=True) if before != after]
    assert changed
    for before, after in changed:
        assert after[0].prompt.startswith("Image description: The image shows")
        assert after[0].prompt.endswith("\n" + before[0].prompt)
        assert after[1:] == before[1:]
