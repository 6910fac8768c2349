import json
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookagain.metrics import chair
from lookagain.metrics.benchmark import LLAVA15


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("", []),
        ("The image shows a calm morning.", []),
        ("A toilet seat.", ["toilet"]),
        ("The seat of the toilet is up.", ["toilet"]),
        ("A seat by the window.", ["chair"]),
        ("A hot dog on a plate", ["hot dog"]),
        ("Two hot dogs.", ["hot dog"]),
        ("It is hot, dog and man rest.", ["dog", "person"]),
        ("A teddy bear beside a bear.", ["teddy bear", "bear"]),
        ("skis", ["skis"]),
        ("A pair of skis and one ski", ["skis", "skis"]),
        ("People with knives", ["person", "knife"]),
        ("Sheep, mice, geese and oxen", ["sheep", "mouse", "bird", "cow"]),
        ("buses, benches, toothbrushes, puppies", ["bus", "bench", "toothbrush", "dog"]),
        ("women, children and policemen", ["person", "person", "person"]),
        ("Glasses on a nose", []),
        ("wine glasses", ["wine glass"]),
        ("A baby elephant and an adult giraffe", ["elephant", "giraffe"]),
        ("A baby on a blanket", ["person"]),
        ("A passenger train on the train tracks, a passenger jet", ["train", "airplane"]),
        ("Passengers near a plane", ["person", "airplane"]),
        ("The home plate", []),
        ("A stove top oven", ["oven", "oven"]),  # three words: the two-word rule never joins them
        ("a motor bike", []),  # the official entry has a stray blank and never matches
        ("a motor cycle and a motorbike", ["motorcycle", "motorcycle"]),
        ("a dining table", ["dining table"]),
        ("A laptop computer.", ["laptop"]),
        ("bow tie", ["tie"]),
        ("The dog's bone and the dogs' bowl", ["dog", "dog", "bowl"]),
        ("a hot-dog stand", []),  # one hyphenated word, in no list
        ("TRAFFIC LIGHTS AND A STOP SIGN", ["traffic light", "stop sign"]),
        ("a stop\nsign", ["stop sign"]),
        ("a fire. hydrant", ["fire hydrant"]),  # "hydrant" alone is listed
        ("a carp, a category and a capsule", []),  # whole words only
    ],
)
def test_mentions_by_the_official_rules(caption, named):
    assert chair.mentions(caption) == named


def test_word_lists_have_the_official_size():
    # 403 distinct entries, less the four that never match: " motor bike", " cheesecake", "iPhone", "stove top oven".
    assert len(chair.SYNONYMS) == 80
    assert len(chair.CATEGORY) == 399


@pytest.mark.parametrize("category", chair.SYNONYMS)
def test_every_category_is_found_by_name_and_plural(category):
    *front, last = category.split()
    assert chair.mentions(f"There is a {category}.") == [category]
    assert chair.mentions(" ".join([*front, chair._plural(last)])) == [category]


def test_counts_and_scores_by_hand():
    captions = [
        ("A dog and a dog near a cat.", {"dog", "person"}),  # 3 mentions, cat absent, 1 of 2 objects, 8 words, 1 repeat
        ("A quiet street.", {"car"}),  # nothing mentioned
        ("", {"car"}),
        ("Two cars.", {"car"}),  # 1 mention
    ]
    counts = np.array([chair.count(caption, objects) for caption, objects in captions])
    assert counts[0].tolist() == [1, 1, 1, 3, 1, 2, 8, 1]
    scores = chair.score(counts.sum(0))
    assert scores["chair_s"] == 25
    assert scores["chair_i"] == 25  # 1 of 4 mentions
    assert scores["recall"] == 40  # 2 of 5 objects
    assert scores["length"] == 13 / 4
    assert scores["repeats"] == 0.25


def test_nothing_mentioned_is_zero_and_no_division_by_zero():
    scores = chair.score(np.array(chair.count("Nothing here.", frozenset())))
    assert scores["chair_s"] == scores["chair_i"] == scores["recall"] == 0


def coco(tmp_path, categories=("dog", "tv")):
    instances = {
        "images": [
            {"id": 7, "file_name": "COCO_val2014_000000000007.jpg"},
            {"id": 8, "file_name": "b.png", "subsets": ["novel_art"]},
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, 1)],
        "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 7, "category_id": 1}],
    }
    captions = {
        "annotations": [
            {"image_id": 7, "caption": "A man watches a monitor."},
            {"image_id": 7, "caption": "People at home"},
            {"image_id": 8, "caption": "A quiet street."},
            {"image_id": 99, "caption": "A cat of another split."},
        ]
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    return tmp_path / "instances.json", tmp_path / "captions.json"


def test_truth_is_instances_and_caption_words(tmp_path):
    truth = chair.read_truth(*coco(tmp_path))
    assert truth == {"COCO_val2014_000000000007": {"dog", "person", "tv"}, "b": frozenset()}


def test_bad_annotations_are_refused(tmp_path):
    with pytest.raises(chair.ChairError, match="unicorn"):
        chair.read_truth(*coco(tmp_path, ("dog", "unicorn")))
    with pytest.raises(chair.ChairError, match="no annotation file"):
        chair.read_truth(tmp_path / "none.json", tmp_path / "captions.json")


CAPTIONS = {"a": "one two three four five six", "b": "one two", "c": "one two three four", "d": ""}


@pytest.mark.parametrize(("mean", "total"), [(0, 0), (1.5, 6), (2.25, 9), (2.5, 10), (3, 12), (9, 12)])
def test_truncated_captions_have_the_wanted_mean_length(mean, total):
    cut = chair.truncate(CAPTIONS, mean)
    assert sum(len(text.split()) for text in cut.values()) == total
    assert all(CAPTIONS[image].startswith(text) for image, text in cut.items())
    assert chair.truncate(dict(reversed(CAPTIONS.items())), mean) == cut


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9), min_size=1, max_size=12), st.floats(0, 9))
def test_truncation_is_within_half_a_word_and_even(lengths, mean):
    captions = {image: " ".join(["w"] * length) for image, length in lengths.items()}
    cut = {image: len(text.split()) for image, text in chair.truncate(captions, mean).items()}
    assert abs(sum(cut.values()) - min(mean * len(lengths), sum(lengths.values()))) <= 0.5 + 1e-9
    shortened = [cut[image] for image in lengths if cut[image] < lengths[image]]
    assert not shortened or max(cut.values()) - min(shortened) <= 1


def test_five_thousand_captions_in_well_under_a_second():
    generator = random.Random(0)
    words = [*chair.SINGULAR, *["the", "a", "is", "next", "to", "image"] * 100]
    captions = [" ".join(generator.choices(words, k=90)) + "." for _ in range(5000)]
    start = time.process_time()
    for caption in captions:
        chair.count(caption, frozenset({"dog"}))
    assert time.process_time() - start < 1


def test_questions_of_the_images_that_are_wanted(tmp_path):
    files = coco(tmp_path)
    first, second = chair.read(tmp_path, LLAVA15)
    assert (first.id, first.image_id) == ("7", "COCO_val2014_000000000007")
    assert json.loads(first.reference) == ["dog", "person", "tv"]
    assert chair.read_files(*files, {"8"}) == [second]
    assert chair.tally([first], ["A dog and a cat."]) == (1, 1, 1, 2, 1, 3, 5, 0)
    assert chair.score_answer(first, "A dog.") is None


def test_an_instance_of_an_unlisted_image_is_refused(tmp_path):
    instances, captions = coco(tmp_path)
    raw = json.loads(instances.read_text())
    raw["annotations"].append({"image_id": 99, "category_id": 1})
    instances.write_text(json.dumps(raw))
    for wanted in (None, {"8"}):
        with pytest.raises(chair.ChairError, match="99"):
            chair.read_files(instances, captions, wanted)


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("other", [[], {"counts": [1, 2], "size": [3, 4]}, [[1], [[2]]]])
def test_outlines_are_skipped_and_nothing_else_is(tmp_path, indent, other):
    odd = 'a "segmentation": [[1, 2]] in a string'
    outlines = [[[1.5, 2, 3]], [[1, 2], [3, 4]], other]
    raw = {"name": odd, "annotations": [{"segmentation": outline, "category_id": 1, "note": "[[x]]"} for outline in outlines]}
    (tmp_path / "a.json").write_text(json.dumps(raw, indent=indent))
    found = chair.read_json(tmp_path / "a.json")
    assert found["name"] == odd
    assert [(row["category_id"], row["note"]) for row in found["annotations"]] == [(1, "[[x]]")] * len(outlines)
    if other != [[1], [[2]]]:  # no outline of COCO's: such a file is read whole
        assert [row["segmentation"] for row in found["annotations"]] == [0, 0, other]


@pytest.mark.parametrize(
    "text",
    [
        '[{"image_id": 7, "caption": "A dog."}]',
        '{"image_id": 7, "caption": "A dog."}\n',
        '{"overall": {}, "imgToEval": {"7": {"image_id": 7, "caption": "A dog."}}}',
    ],
)
def test_captions_in_three_formats(tmp_path, text):
    (tmp_path / "captions.json").write_text(text)
    assert chair.read_answers(tmp_path / "captions.json") == {"7": "A dog."}


def test_captions_of_other_images_are_refused(tmp_path):
    instances, captions = coco(tmp_path)
    only = json.loads(captions.read_text())
    captions.write_text(json.dumps({"annotations": only["annotations"][:2]}))
    with pytest.raises(chair.ChairError, match=r"captions.json: no reference caption of 1 of 2 images, as b; take both files"):
        chair.read_truth(instances, captions)
    assert len(chair.read_files(instances, captions, {"7"})) == 1  # the other image is not asked about
    captions.write_text('{"annotations": []}')
    with pytest.raises(chair.ChairError, match="1 of 1 images, as COCO_val2014_000000000007"):
        chair.read_files(instances, captions, {"7"})
