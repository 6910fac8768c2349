import json
from dataclasses import replace

import numpy as np
import pytest

from lookagain.evaluation import engine, questions, scoring
from lookagain.evaluation.engine import AnswerCache, Engine, Prompt, cache_path
from lookagain.generation import Decoding, respond_in_turn
from lookagain.images import write_shards
from lookagain.metrics import chair
from lookagain.records import Answer, RecordError

GREEDY = Decoding(temperature=0.0, top_p=1.0, max_new_tokens=8)
SAMPLED = Decoding(temperature=1.0, top_p=1.0, max_new_tokens=8)
PROMPT = "Please describe this image in detail."


class FakePolicy:
    """Answers with what it was asked, and remembers what it was asked at once."""

    def __init__(self):
        self.batches = []

    def __call__(self, requests, decodings):
        asked = [(one.image_id, one.prompt, decoding) for one, decoding in zip(requests, decodings, strict=True)]
        self.batches.append(asked)
        return [f"{image}|{prompt}|{decoding.temperature}" for image, prompt, decoding in asked]


def map_batches(batches, work, label):
    return [result for batch in batches for result in work(batch)]


def make_engine(policy, path, **changes):
    settings = {"seed": 0, "batch_size": 2, "image_sha256": lambda image: f"sha-{image}", "map_batches": map_batches}
    return Engine(respond=policy, rank=rank, cache=AnswerCache(path), **(settings | changes))


def rank(requests, options):
    return [[float(len(text)) for text in texts] for texts in options]


def test_each_distinct_question_is_asked_once_beside_all_others_about_its_image(tmp_path):
    policy = FakePolicy()
    asked = [
        Prompt("a", "long question?", GREEDY),
        Prompt("b", "q?", GREEDY),
        Prompt("a", "q?", SAMPLED),
        Prompt("b", "q?", GREEDY),
    ]
    asked += [Prompt("c", "q?", GREEDY)]
    made = make_engine(policy, tmp_path / "f.jsonl")
    responses = made.answer(asked, "answers")
    assert responses == ["a|long question?|0.0", "b|q?|0.0", "a|q?|1.0", "b|q?|0.0", "c|q?|0.0"]
    assert (made.cached, made.computed) == (0, 4)
    asked_at_once = [[(image, text, decoding.temperature) for image, text, decoding in batch] for batch in policy.batches]
    assert asked_at_once == [
        [("b", "q?", 0.0), ("c", "q?", 0.0)],
        [("a", "q?", 1.0), ("a", "long question?", 0.0)],  # images that are asked alike stand together
    ]


def test_equal_images_of_two_benchmarks_are_one_image(tmp_path):
    policy = FakePolicy()
    made = make_engine(policy, tmp_path / "f.jsonl", image_sha256=lambda place: place.split("//")[1], batch_size=1)
    places = ["mme//1", "gqa//2", "gqa//1"]
    made.answer([Prompt(place, f"{place}?", GREEDY) for place in places], "answers")
    assert [[(image, text) for image, text, _ in batch] for batch in policy.batches] == [
        [("gqa//2", "gqa//2?")],
        [("mme//1", "gqa//1?"), ("mme//1", "mme//1?")],
    ]


def test_only_missing_answers_are_computed_and_a_torn_line_is_ignored(tmp_path):
    path = tmp_path / "f.jsonl"
    prompts = [Prompt("a", f"question {number}", GREEDY) for number in range(5)]
    make_engine(FakePolicy(), path).answer(prompts[:3], "answers")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # a kill in the middle of the last line
    policy = FakePolicy()
    made = make_engine(policy, path)
    responses = made.answer(prompts, "answers")
    assert responses == [f"a|question {number}|0.0" for number in range(5)]
    assert (made.cached, made.computed) == (2, 3)
    again = make_engine(policy, path)
    assert again.answer(prompts, "answers") == responses
    assert (again.cached, again.computed) == (5, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "q!"},
        {"decoding": SAMPLED},
        {"decoding": replace(GREEDY, max_new_tokens=9)},
        {"seed": 1},
        {"image_sha256": lambda image: "other bytes"},
    ],
)
def test_a_changed_input_is_another_answer(tmp_path, change):
    base = Prompt("a", "q?", GREEDY)
    make_engine(FakePolicy(), tmp_path / "f.jsonl").answer([base], "answers")
    fields = {name: value for name, value in change.items() if name in ("text", "decoding")}
    made = make_engine(FakePolicy(), tmp_path / "f.jsonl", **{k: v for k, v in change.items() if k not in fields})
    made.answer([replace(base, **fields)], "answers")
    assert (made.cached, made.computed) == (0, 1)


def test_another_dtype_or_code_is_another_cache(monkeypatch):
    first = cache_path(".answers", "weights", "float32")
    assert cache_path(".answers", "weights", "float32") == first
    assert cache_path(".answers", "weights", "bfloat16") != first
    monkeypatch.setattr(engine, "seeds", engine)  # a module with another file
    assert cache_path(".answers", "weights", "float32") != first


def test_describe_and_respond_describes_each_image_once(tmp_path):
    policy = FakePolicy()
    made = make_engine(policy, tmp_path / "f.jsonl")
    asked = [Prompt("a", "one?", GREEDY), Prompt("a", "two?", SAMPLED), Prompt("b", "one?", GREEDY)]
    infused = made.describe(asked, PROMPT, GREEDY, "descriptions")
    assert sum(map(len, policy.batches)) == 2
    assert infused[1] == Prompt("a", f"Image description: a|{PROMPT}|0.0\ntwo?", SAMPLED)
    assert [prompt.text.endswith(old.text) for prompt, old in zip(infused, asked, strict=True)] == [True] * 3


def test_blind_describe_and_respond_describes_no_image_once(tmp_path):
    made = make_engine(FakePolicy(), tmp_path / "f.jsonl")
    infused = made.describe(
        [Prompt("a", "one?", GREEDY), Prompt("b", "two?", GREEDY)], PROMPT, GREEDY, "d", "as_released", True
    )
    assert [prompt.text for prompt in infused] == [f"Image description:\n|{PROMPT}|0.0\n\n{asked}?" for asked in ("one", "two")]
    assert [prompt.image_id for prompt in infused] == ["a", "b"]  # the question itself is asked about its image


def test_processes_that_do_not_write_leave_the_cache_alone(tmp_path):
    make_engine(FakePolicy(), tmp_path / "f.jsonl", write=False).answer([Prompt("a", "q?", GREEDY)], "answers")
    assert not (tmp_path / "f.jsonl").exists()


# A benchmark folder of three images: two with a dog, one of them drawn with novel art, and one with a cat.
POPE_ROWS = [("a.png", "dog", "yes"), ("a.png", "cat", "no"), ("b.png", "dog", "yes"), ("c.png", "dog", "no")]


@pytest.fixture
def folder(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "subsets": ["novel_art", "far"]}]
    images += [{"id": 3, "file_name": "c.png", "subsets": ["far"]}]
    instances = {
        "images": images,
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": [{"image_id": image, "category_id": category} for image, category in [(1, 1), (2, 1), (3, 2)]],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    captions = [
        {"image_id": image, "caption": text} for image, text in [(1, "A dog."), (2, "It rests."), (3, "A cat on a bed.")]
    ]
    (tmp_path / "captions.json").write_text(json.dumps({"annotations": captions}))
    for split in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": number, "image": image, "text": f"Is there a {name} in the image?", "label": label}
            for number, (image, name, label) in enumerate(POPE_ROWS, 1)
        ]
        (tmp_path / f"coco_pope_{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_shards(tmp_path / "images", [(image, image.encode(), None) for image in "abc"])
    return tmp_path


def shown(images):
    return {(benchmark, image) for benchmark in ("pope", "chair", "chair_sampled") for image in images}


def read(folder):
    return questions.read_annotations(folder, "\nShortly.", PROMPT, shown("abc"))


def answers_of(annotations, pope, captions, sampled=None):
    responses = {}
    for question in annotations.questions:
        if question.benchmark == "pope":
            responses[question] = pope[int(question.id.rpartition("-")[2]) - 1]
        else:
            responses[question] = (sampled if sampled and question.benchmark == "chair_sampled" else captions)[
                question.image_id
            ]
    return [Answer(q.id, q.image_id, q.benchmark, q.split, "f", q.prompt, text) for q, text in responses.items()]


CAPTIONS = {"a": "A dog and a cat rest here.", "b": "A dog.", "c": "A cat on a bed."}
BASE_CAPTIONS = {"a": "A cat and a dog rest here today.", "b": "A dog and two cats.", "c": "Nothing."}
SCORING = scoring.Bootstrap(resamples=200, seed=0)


def test_questions_of_a_folder(folder):
    annotations = read(folder)
    assert len(annotations.questions) == 3 * 4 + 2 * 3
    first = annotations.questions[0]
    assert (first.id, first.image_id, first.benchmark, first.split, first.reference) == (
        "random-1",
        "a",
        "pope",
        "random",
        "yes",
    )
    assert first.prompt == "Is there a dog in the image?\nShortly."
    assert annotations.objects["c"] == {"cat", "bed"}
    assert annotations.subsets == {"novel_art": {"b"}, "far": {"b", "c"}}


def test_a_label_file_of_other_images_is_refused(folder):
    with pytest.raises(RecordError, match="other images"):
        questions.read_annotations(folder, "", PROMPT, shown("ab"))


def test_metrics_by_hand(folder):
    annotations = read(folder)
    answers = answers_of(annotations, ["Yes", "No.", "No", "no"], CAPTIONS)
    base = answers_of(annotations, ["Yes", "Yes", "No", "yes"], BASE_CAPTIONS)
    metrics = scoring.score_model(annotations, answers, base, base, SCORING)
    value = {name: metric.value for name, metric in metrics.items()}
    assert value["pope/random/accuracy"] == 75
    assert value["pope/random/precision"] == 100
    assert value["pope/random/recall"] == 50
    assert value["pope/random/f1"] == pytest.approx(200 / 3, rel=1e-5)
    assert value["pope/random/yes_rate"] == 25
    assert metrics["pope/random/accuracy"].n == 4
    assert metrics["pope/random/accuracy"].se > 0
    assert value["pope/random/accuracy_vs_base"] == 50
    assert value["pope/random/p_vs_base"] == 0.5  # two wins, no loss
    assert value["chair/chair_s"] == pytest.approx(100 / 3, rel=1e-5)  # the cat of a
    assert value["chair/chair_i"] == 20  # 1 of 5 mentions
    assert value["chair/recall"] == 100
    assert value["chair/length"] == pytest.approx(14 / 3, rel=1e-5)
    assert value["chair/repeats"] == 0
    assert value["chair/chair_i_vs_base"] == 20 - 50  # the base: 2 of 4 mentions
    assert value["chair/chair_s_vs_parent"] == value["chair/chair_s_vs_base"]
    assert 0 < value["chair/chair_s_p_vs_base"] <= 1
    assert value["chair/novel_art/chair_s"] == 0
    assert value["chair_sampled/novel_art/recall"] == 100
    assert value["pope/novel_art/accuracy"] == 0
    assert metrics["pope/novel_art/accuracy"].n == 1  # three files share the question
    assert (value["chair/far/recall"], metrics["chair/far/recall"].n) == (100, 2)
    assert not [name for name in metrics if "near" in name]


def test_control_is_the_base_cut_to_this_models_length(folder):
    annotations = read(folder)
    short = {"a": "A dog and", "b": "A dog.", "c": ""}  # 5 words
    metrics = scoring.score_model(
        annotations,
        answers_of(annotations, ["Yes"] * 4, short),
        answers_of(annotations, ["Yes"] * 4, BASE_CAPTIONS),
        None,
        SCORING,
    )
    cut = chair.truncate(BASE_CAPTIONS, 5 / 3)
    assert sum(len(text.split()) for text in cut.values()) == 5
    hallucinated = sum("cat" in cut[image] for image in "ab")
    assert metrics["chair/truncated_base/chair_s"].value == pytest.approx(100 * hallucinated / 3, rel=1e-5)
    assert not any("parent" in name for name in metrics)


def test_the_base_has_nulls_with_their_reason(folder):
    annotations = read(folder)
    answers = answers_of(annotations, ["Yes"] * 4, CAPTIONS)
    base = scoring.score_model(annotations, answers, None, None, SCORING)
    other = scoring.score_model(annotations, answers, answers, None, SCORING)
    assert base.keys() == other.keys()
    nulls = {name for name, metric in base.items() if metric.value is None}
    assert nulls == {name for name in other if "truncated_base" in name or "vs_base" in name}
    assert all(base[name].reason == "this is the base" for name in nulls)
    assert all(other[name].value == 0 for name in other if name.endswith("_s_vs_base"))


def test_order_of_answers_is_irrelevant_and_missing_ones_are_refused(folder):
    annotations = read(folder)
    answers = answers_of(annotations, ["Yes", "No", "Yes", "Yes"], CAPTIONS, BASE_CAPTIONS)
    shuffled = [answers[row] for row in np.random.default_rng(0).permutation(len(answers))]
    first = scoring.score_model(annotations, answers, answers, None, SCORING)
    assert scoring.score_model(annotations, shuffled, answers, None, SCORING) == first
    with pytest.raises(RecordError, match="answers of base"):
        scoring.score_model(annotations, answers, answers[1:], None, SCORING)


def test_batches_keep_every_prompt():
    prompts = {
        str(number): Prompt("abcde"[number % 5], "q" * number, SAMPLED if number % 3 else GREEDY, ("x", "y") * (number % 2))
        for number in range(1, 20)
    }
    batches = engine.make_batches(prompts, 4)
    assert sorted(int(request.id) for batch in batches for request in batch) == list(range(1, 20))
    for batch in batches:
        (options,) = {len(prompts[request.id].options) for request in batch}
        assert (len(batch) * options if options else len({request.image_id for request in batch})) <= 4
    assert engine.make_batches(dict(reversed(prompts.items())), 4) == batches


def test_an_images_questions_stand_together():
    prompts = {f"{image}{number}": Prompt(image, "q" * number, GREEDY) for number in (1, 5, 9) for image in "abcd"}
    batches = engine.make_batches(prompts, 2)
    assert [sorted({request.image_id for request in batch}) for batch in batches] == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(("processes", "sizes"), [(1, [4, 4, 2]), (2, [3, 3, 3, 1]), (3, [4, 4, 2]), (5, [2, 2, 2, 2, 2])])
def test_every_process_gets_as_many_images(processes, sizes):
    prompts = {image: Prompt(image, "q?", GREEDY) for image in "abcdefghij"}
    assert [len(batch) for batch in engine.make_batches(prompts, 4, processes)] == sizes


def test_same_answers_at_batch_1_and_batch_32(policy, images, tmp_path):
    shown = dict(zip("abcdef", images, strict=True))
    asked = [Prompt(image, f"{text} dog image?", GREEDY) for image in shown for text in ("Is there a", "Describe the")]
    asked += [Prompt(image, PROMPT, SAMPLED) for image in shown]

    def responses(batch_size):
        made = make_engine(
            lambda batch, decodings: respond_in_turn(policy, batch, decodings, lambda one: shown[one.image_id], 0, batch_size),
            tmp_path / f"{batch_size}.jsonl",
            batch_size=batch_size,
        )
        return made.answer(made.describe(asked, PROMPT, GREEDY, "descriptions"), "answers")

    single = responses(1)
    assert len(set(single)) > len(asked) // 2
    assert responses(32) == single


def test_processes_agree_on_what_is_cached(tmp_path):
    """A second process whose cache is behind takes the first one's view, so that both make the same batches."""
    prompts = [Prompt("a", f"question {number}", GREEDY) for number in range(3)]
    make_engine(FakePolicy(), tmp_path / "f.jsonl").answer(prompts[:2], "answers")
    told = {}

    def first(batches, work, label):
        return told.setdefault(label, map_batches(batches, work, label))

    expected = make_engine(FakePolicy(), tmp_path / "f.jsonl", map_batches=first).answer(prompts, "answers")
    behind = make_engine(
        FakePolicy(), tmp_path / "empty.jsonl", map_batches=lambda batches, work, label: told[label], write=False
    )
    assert behind.answer(prompts, "answers") == expected
    assert (behind.cached, behind.computed) == (2, 1)
