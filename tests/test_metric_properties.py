"""What holds for every scorer, whatever the answers: bounds, order, and that a wrong answer never helps."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookagain.metrics import chair, choice, mathvista, mme, pope, score, vqa
from lookagain.records import Question

COUNTS = {"n", "unparsed", "length", "repeats"}  # no rates
UPPER = {("mme", "score"): 200.0}
OPTIONS = ["a cat", "a dog", "birds", "none of them"]
LETTERED = json.dumps({"answer": "B", "options": dict(zip("ABCD", OPTIONS, strict=True))})
CHOICE = {"answer": "a dog", "choices": OPTIONS, "question_type": "multi_choice", "answer_type": "text", "precision": None}

# benchmark -> (split, reference, a right answer, a wrong one)
CASES = {
    "scienceqa": ("natural_science", json.dumps({"answer": "B", "options": 4}), "B. a dog", "C"),
    "textvqa": ("val", json.dumps(["2 dogs"] * 10), "Two dogs.", "2 cats"),
    "vizwiz": ("other", json.dumps(["dog"] * 6 + ["cat"] * 4), "The dog", "bird"),
    "chartqa": ("human", "14", "14.5", "15"),
    "mmbench": ("all", LETTERED, "B.", "C"),
    "mmbench_cn": ("all", LETTERED, "a dog", ""),
    "mathvista": ("task", json.dumps(CHOICE), "(B)", "(C)"),
    "mme": ("count", "yes", "Yes", "No"),
    "seedbench": ("instances_counting", json.dumps({"answer": "B", "options": OPTIONS}), "B", "A"),
    "gqa": ("testdev_balanced", "dog", "Dog.", "cat"),
    "pope": ("random", "yes", "Yes, there is a dog.", "no"),
    "pragmatics": ("spatial", json.dumps({"set": "1", "answer": "B", "options": json.loads(LETTERED)["options"]}), "B", "A"),
}
RESPONSES = st.one_of(
    st.sampled_from(
        ["A", "B", "C.", "(B)", "", " ", "yes", "NO", "no", "a dog", "A cat", "14", "1,000", "5%", "2 dogs", "The answer is B."]
    ),
    st.text(max_size=30),
)


def ask(name, count):
    split, reference, *_ = CASES[name]
    return [Question(str(number), str(number), name, split, "", reference) for number in range(count)]


def figures(name, responses):
    """The figures of one split, each response being to an image of its own."""
    benchmark = score.load(name)
    counts = [
        benchmark.tally([question], [response]) for question, response in zip(ask(name, len(responses)), responses, strict=True)
    ]
    return {metric: float(value) for metric, value in benchmark.score(np.sum(counts, axis=0)).items()}


def same(first, second):
    return first.keys() == second.keys() and all(math.isclose(first[key], second[key], abs_tol=1e-9) for key in first)


@pytest.mark.parametrize("name", CASES)
def test_right_and_wrong_answers(name):
    _, _, right, wrong = CASES[name]
    headline = score.load(name).METRICS[0]
    assert figures(name, [right])[headline] == UPPER.get((name, headline), 100)
    assert figures(name, [wrong])[headline] == 0
    assert set(figures(name, [right])) == set(score.load(name).METRICS)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30, deadline=None)
@given(responses=st.lists(RESPONSES, min_size=1, max_size=8), shuffle=st.randoms(use_true_random=False))
def test_bounds_and_order(name, responses, shuffle):
    found = figures(name, responses)
    for metric, value in found.items():
        upper = len(responses) if metric in COUNTS else UPPER.get((name, metric), 100)
        assert 0 <= value <= upper + 1e-9, metric
    shuffled = list(responses)
    shuffle.shuffle(shuffled)
    assert same(found, figures(name, shuffled))


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=30, deadline=None)
@given(responses=st.lists(RESPONSES, min_size=1, max_size=8))
def test_a_wrong_answer_never_raises_the_headline(name, responses):
    headline = score.load(name).METRICS[0]
    more = figures(name, [*responses, CASES[name][3]])
    assert more[headline] <= figures(name, responses)[headline] + 1e-9


@given(
    st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["Yes", "no"])), max_size=12),
    st.sampled_from(["yes", "no"]),
)
def test_a_wrong_answer_never_raises_pope(pairs, label):
    wrong = {"yes": "no", "no": "Yes"}[label]
    before = np.sum([pope.confusion(response, truth) for truth, response in [*pairs, ("yes", "Yes")]], axis=0)
    scores, more = pope.score(before), pope.score(before + pope.confusion(wrong, label))
    for metric in ("accuracy", "f1", "precision", "recall"):
        assert more[metric] <= scores[metric] + 1e-9


@given(
    st.lists(
        st.lists(st.sampled_from(["dog", "cat", "toilet seat", "hot dogs", "sky", "a"]), max_size=6), min_size=1, max_size=6
    )
)
def test_a_hallucination_never_lowers_chair(captions):
    counts = [chair.count(" ".join(words), {"dog", "toilet"}) for words in captions]
    scores = chair.score(np.sum(counts, axis=0))
    assert all(0 <= scores[metric] <= 100 for metric in ("chair_s", "chair_i", "recall"))
    assert same(scores, chair.score(np.sum(counts[::-1], axis=0)))
    more = chair.score(np.sum([*counts, chair.count("A zebra.", {"dog", "toilet"})], axis=0))
    assert more["chair_s"] >= scores["chair_s"] - 1e-9
    assert more["chair_i"] >= scores["chair_i"] - 1e-9


@given(st.lists(st.tuples(st.sampled_from(["Yes", "no", "maybe"]), st.sampled_from(["Yes", "no", ""])), min_size=1, max_size=6))
def test_accuracy_plus_is_at_most_accuracy(pairs):
    questions = ask("mme", 2)
    scores = mme.score(np.sum([mme.tally(questions, pair) for pair in pairs], axis=0))
    assert scores["accuracy_plus"] <= scores["accuracy"] + 1e-9


@given(st.text(max_size=40), st.lists(st.text(max_size=10), min_size=10, max_size=10), st.randoms(use_true_random=False))
def test_soft_scores_are_bounded_and_blind_to_order(response, answers, shuffle):
    given_score = vqa.soft_score(response, answers)
    shuffled = list(answers)
    shuffle.shuffle(shuffled)
    assert 0 <= given_score <= 1
    assert vqa.soft_score(response, shuffled) == given_score


@given(
    st.lists(st.sampled_from(["cat", "dog", "Cat", "bird", "the cat", ""]), min_size=10, max_size=10),
    st.sampled_from(["cat", "dog", ""]),
)
def test_soft_score_is_the_mean_over_leaving_one_out(answers, response):
    """The slow twin: each answer left out in turn."""
    normal = [vqa.normalise(answer) for answer in answers]
    shares = []
    for left_out in range(10):
        others = normal[:left_out] + normal[left_out + 1 :]
        shares.append(min(1, others.count(vqa.normalise(response)) / 3))
    expected = sum(shares) / 10 if vqa.normalise(response) in normal else 0  # officially, an answer that nobody gave scores 0
    assert vqa.soft_score(response, answers) == pytest.approx(expected)


@given(st.text(max_size=60))
def test_no_answer_breaks_a_parser(response):
    letters = dict(zip("ABCD", OPTIONS, strict=True))
    assert choice.infer(response, letters) in {"", *letters}
    extraction = mathvista.extract(response, CHOICE)
    assert not extraction or mathvista.normalise(extraction, CHOICE) in OPTIONS


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_a_metric(first, second, third):
    distance = mathvista.edit_distance
    assert (distance(first, second) == 0) == (first == second)
    assert distance(first, third) <= distance(first, second) + distance(second, third)
