"""Scenes and charts: pure functions of their place, true annotations, art that training never sees."""

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from world_examples import SIZE, drawn_scenes, scenes

from lookagain.metrics import chair
from world.scenes import scene as module
from world.scenes.art import CATEGORIES, COLORS, INDEX, NAMES, PAINTED, paint, sprites
from world.scenes.charts import BARS, VALUES, draw_chart
from world.scenes.scene import EVALUATION, MOST_OBJECTS, OFFSETS, SCENE_TYPES, draw_scene, plausibility, to_jpeg
from world.scenes.signs import NUMBERS

MANY = 2000


def test_scene_is_a_function_of_seed_split_and_index():
    image, scene = draw_scene(3, "pool", 7, SIZE)
    again, same = draw_scene(3, "pool", 7, SIZE)
    assert np.array_equal(np.asarray(image), np.asarray(again))
    assert scene == same
    for other in (("test", 7), ("pool", 8)):
        assert draw_scene(3, *other, SIZE)[1].things != scene.things
    assert draw_scene(4, "pool", 7, SIZE)[1].things != scene.things
    assert draw_chart(0, "test", 3, SIZE)[1] == draw_chart(0, "test", 3, SIZE)[1] != draw_chart(0, "training", 3, SIZE)[1]


def test_one_to_eight_objects_and_every_number_occur():
    shown = scenes("training", MANY)
    assert {len(scene.things) for scene in shown} == set(range(1, MOST_OBJECTS + 1)) == set(range(1, 9))
    signs = [scene.sign.number for scene in shown if scene.sign]
    assert set(signs) == set(NUMBERS) == set(range(1, 41))
    assert 0.3 * MANY < len(signs) < 0.5 * MANY


def test_boxes_lie_inside():
    for scene in scenes("training", MANY):
        boxes = [thing.box for thing in scene.things] + ([scene.sign.box] if scene.sign else [])
        for x, y, width, height in boxes:
            assert 0 <= x < x + width <= SIZE
            assert 0 <= y < y + height <= SIZE


def test_painted_categories_and_only_those_have_a_color():
    things = [thing for scene in scenes("training", MANY) for thing in scene.things]
    assert {thing.name for thing in things if thing.color} == PAINTED
    assert all(thing.color is None for thing in things if thing.name not in PAINTED)
    assert all(thing.color in COLORS for thing in things if thing.name in PAINTED)
    assert {thing.color for thing in things if thing.name == "car"} == set(COLORS)


@pytest.mark.parametrize("name", sorted(PAINTED))
def test_painted_colors_are_told_apart(name):
    """By the mean of what was painted: its hue, or how light a grey it is; and on the sprite as a whole."""
    for sprite in {id(image): image for novel in (False, True) for image in sprites(name, novel)}.values():
        painted = {color: np.asarray(paint(sprite, target), dtype=float) for color, target in COLORS.items()}
        visible = painted["red"][..., 3] > 40
        body = (painted["red"] != painted["blue"]).any(-1) & visible
        assert body.sum() > 0.1 * visible.sum()
        for color, pixels in painted.items():
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[body][:, :3].mean(0) / 255))
            target = colorsys.rgb_to_hsv(*(np.array(COLORS[color]) / 255))[0]
            if color in ("black", "white"):
                assert saturation < 0.1
                assert value < 0.45 if color == "black" else value > 0.75
            else:
                assert saturation > 0.3
                assert min(abs(hue - target), 1 - abs(hue - target)) < 0.03
        means = {color: pixels[visible][:, :3].mean(0) for color, pixels in painted.items()}
        assert min(np.abs(means[one] - means[other]).max() for one in means for other in means if one < other) > 20


def test_no_word_about_a_scene_is_an_object_to_chair():
    texts = [f"The image shows {kind.phrase}." for kind in SCENE_TYPES.values()]
    texts += [f"A {color} thing." for color in COLORS]
    texts += [f"In the top left there is a sign with the number {number}." for number in NUMBERS]
    assert [chair.mentions(text) for text in texts] == [[]] * len(texts)
    assert chair.mentions("a sign with the number 27 and a red car") == ["car"]


def test_categories_are_cocos():
    assert set(NAMES) <= set(chair.SYNONYMS)
    assert len({category.id for category in CATEGORIES}) == len(NAMES) == 49
    assert set(NAMES) >= PAINTED
    for kind in SCENE_TYPES:
        assert plausibility(kind).sum() == pytest.approx(1)
        assert set(SCENE_TYPES[kind].objects) <= set(NAMES)


def test_novel_art_is_in_no_training_scene(monkeypatch):
    for category in CATEGORIES:
        assert not set(category.seen) & set(category.novel)
        assert (sprites(category.name, True) == sprites(category.name, False)) == (not category.novel)
    used = []
    monkeypatch.setattr(module, "sprites", lambda name, novel: used.append((name, novel)) or sprites(name, novel))
    for split in OFFSETS:
        for index in range(8):
            used.clear()
            scene = draw_scene(0, split, index, SIZE)[1]
            novel = split in EVALUATION and index % 4 == 3
            assert scene.art == ("novel" if novel else "seen")
            assert {shown for _, shown in used} == {novel}
    assert any(CATEGORIES[INDEX[name]].novel for name in NAMES)


def test_signs_leave_the_scene_as_it_is_and_cover_little(monkeypatch):
    signed = [(image, scene) for image, scene in drawn_scenes("training", 60) if scene.sign]
    assert 12 <= len(signed) <= 36
    monkeypatch.setattr(module, "SIGN_SHARE", 0.0)
    for image, scene in signed:
        plain, without = draw_scene(0, "training", scene.id - OFFSETS["training"], SIZE)
        x, y, width, height = scene.sign.box
        different = np.argwhere((np.asarray(image) != np.asarray(plain)).any(2))
        assert (without.things, without.type, without.sign) == (scene.things, scene.type, None)
        assert ((different >= (y, x)) & (different < (y + height, x + width))).all()
        assert len(different) > 60
        for left, top, wide, high in (thing.box for thing in scene.things):
            shared = max(0, min(x + width, left + wide) - max(x, left)) * max(0, min(y + height, top + high) - max(y, top))
            assert shared <= 0.1 * min(width * height, wide * high)


def test_charts_have_two_to_six_bars_with_values_to_20():
    counts, values = set(), set()
    for index in range(80):
        image, chart = draw_chart(0, "test", index, SIZE)
        counts.add(len(chart.bars))
        values |= {bar.value for bar in chart.bars}
        assert len(chart.bars) == len({bar.color for bar in chart.bars}) == len({bar.value for bar in chart.bars})
        pixels = np.asarray(image, dtype=int)
        for bar in chart.bars:
            x, y, width, height = bar.box
            assert (height, y + height) == (3 * bar.value, 62)
            assert 0 <= x < x + width <= SIZE
            assert np.abs(pixels[y : y + height, x : x + width] - COLORS[bar.color]).max() < 70
            assert (pixels[y - 1, x : x + width] > 165).all()
    assert counts == set(BARS) == set(range(2, 7))
    assert values == set(VALUES) == set(range(1, 21))


def test_jpeg_keeps_pixels_near():
    image, _ = draw_scene(0, "pool", 1, SIZE)
    with Image.open(io.BytesIO(to_jpeg(image))) as stored:
        difference = np.abs(np.asarray(image, dtype=int) - np.asarray(stored, dtype=int))
    assert difference.mean() < 4
