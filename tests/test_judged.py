"""The judged benchmarks: files read, judges' words parsed, figures counted; every expected value is derived by hand."""

import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookagain.evaluation.judging import judge_responses, wins
from lookagain.evaluation.questions import Annotations
from lookagain.evaluation.scoring import Bootstrap, score_model, win_rate
from lookagain.judge import Verdict
from lookagain.metrics import contextual, llava_bench, mmvet, shr
from lookagain.metrics.benchmark import LLAVA15, BenchmarkError, JudgedBenchmark
from lookagain.records import Answer, Metric, Question

MODULES = [contextual, llava_bench, mmvet, shr]
NAN = float("nan")


def question(reference, name="1", image="1", text="What is it?"):
    return Question(name, image, "b", "all", text, reference if isinstance(reference, str) else json.dumps(reference))


def figures(module, counts):
    return {name: pytest.approx(float(value), nan_ok=True) for name, value in module.score(np.array(counts)).items()}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("module", MODULES)
def test_modules_offer_what_the_engine_asks_for(module):
    for name in JudgedBenchmark.__annotations__:
        assert hasattr(module, name)
    for name, method in inspect.getmembers(JudgedBenchmark, inspect.isfunction):
        if not name.startswith("_"):
            wanted = list(inspect.signature(method).parameters)[1:]
            assert list(inspect.signature(getattr(module, name)).parameters) == wanted
    assert module.METRICS[-1] == "failed"
    assert module.score_answer(question(""), "Yes") is None


# LLaVA-Bench


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("8 7\nAssistant 1 is better.", (8, 7)),
        ("8 7", (8, 7)),
        ("8.5 10", (8.5, 10)),
        ("8,7", (8, 7)),
        ("8, 7\nwith both separators", (8, 7)),
        (" 8 7 ", (8, 7)),
        ("10 0", (10, 0)),
        ("8 7 6", None),
        ("8", None),
        ("", None),
        ("\n8 7", None),  # the first line counts
        ("Scores: 8 7", None),
        ("Assistant1: 8", None),
        ("8/10 7/10", None),
        ("8 11", None),
        ("-1 5", None),
        ("nan 5", None),
        ("1_0 5", None),
    ],
)
def test_llava_bench_reads_two_scores_from_the_first_line(text, verdict):
    assert llava_bench.parse_verdict(text) == verdict


def test_llava_bench_figures_by_hand():
    questions = [question({"category": category}) for category in ("conv", "conv", "detail", "complex")]
    counts = llava_bench.tally_verdicts(questions, [(8, 6), (9, 5), (10, 5), None])
    # conv 11/17, detail 5/10, complex nothing; all (6 + 5 + 5)/(8 + 9 + 10); one of four failed
    assert counts == (17, 11, 10, 5, 0, 0, 4, 1)
    assert figures(llava_bench, counts) == {
        "score": 100 * 16 / 27,
        "conv": 100 * 11 / 17,
        "detail": 50,
        "complex": NAN,  # no verdict
        "failed": 25,
    }


def test_llava_bench_scores_many_resamples_at_once():
    counts = np.arange(24, dtype=float).reshape(3, 8)
    whole = llava_bench.score(counts)
    assert [whole[name].shape for name in llava_bench.METRICS] == [(3,)] * 5
    assert whole["score"][1] == llava_bench.score(counts[1])["score"]


@pytest.fixture
def llava_folder(tmp_path):
    asked = [
        {"question_id": 0, "image": "001.jpg", "category": "conv", "text": "What is the name of the place?"},
        {"question_id": 1, "image": "001.jpg", "category": "detail", "text": "Describe it."},
    ]
    lines(tmp_path / "questions.jsonl", asked)
    lines(tmp_path / "context.jsonl", [{"id": "001", "image": "001.jpg", "caption": ["A crater.", "It is in Hawaii."]}])
    given = [{"question_id": number, "text": f"reference {number}", "answer_id": "x"} for number in (1, 0)]
    lines(tmp_path / "answers_gpt4.jsonl", given)
    return tmp_path


def test_llava_bench_reads_the_official_files_and_shows_the_judge_their_layout(llava_folder):
    first, second = llava_bench.read(llava_folder, LLAVA15)
    assert (first.id, first.image_id, first.split, first.prompt) == ("0", "001", "all", "What is the name of the place?")
    assert llava_bench.unit(first) == llava_bench.unit(second)
    system, user = llava_bench.judge_messages(first, "Diamond Head {x}")
    assert system["role"] == "system"
    assert user["content"] == (
        "[Context]\nA crater.\nIt is in Hawaii.\n\n[Question]\nWhat is the name of the place?\n\n"
        "[Assistant 1]\nreference 0\n\n[End of Assistant 1]\n\n[Assistant 2]\nDiamond Head {x}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{llava_bench.RULE}\n\n"
    )


def test_llava_bench_takes_the_authors_rules_where_they_are(llava_folder):
    rules = {f"llava_bench_{name}": {"role": "Helper", "prompt": f"Rate the {name}."} for name in llava_bench.CATEGORIES}
    (llava_folder / "rule.json").write_text(json.dumps({"coding": {}, **rules}))
    questions = llava_bench.read(llava_folder, LLAVA15)
    content = llava_bench.judge_messages(questions[1], "x")[1]["content"]
    assert "[Helper 2]\nx\n\n[End of Helper 2]" in content
    assert content.endswith("[System]\nRate the detail.\n\n")
    (llava_folder / "rule.json").write_text("{}")
    with pytest.raises(BenchmarkError, match="needs role and prompt"):
        llava_bench.read(llava_folder, LLAVA15)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("questions.jsonl", "", "holds no question"),
        ("questions.jsonl", "{", "line 1: not JSON"),
        ("questions.jsonl", '{"question_id": 1}', "line 1: needs an object with question_id, image"),
        ("context.jsonl", "", "no captions of its image"),
        ("answers_gpt4.jsonl", '{"question_id": 5, "text": "x"}', "no answer to it"),
        (
            "questions.jsonl",
            '{"question_id": 0, "image": "001.jpg", "category": "qa", "text": "x"}',
            "category 'qa' must be one of conv",
        ),
    ],
)
def test_llava_bench_refuses_files_that_do_not_fit(llava_folder, name, text, message):
    (llava_folder / name).write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        llava_bench.read(llava_folder, LLAVA15)


@pytest.mark.parametrize("module", MODULES)
def test_missing_files_are_named_with_their_publisher(module, tmp_path):
    with pytest.raises(BenchmarkError, match=r"no file .*: get it from https://"):
        module.read(tmp_path, LLAVA15)


def test_llava_bench_answers(tmp_path):
    lines(tmp_path / "a.jsonl", [{"question_id": 3, "prompt": "p", "text": "an answer", "model_id": "m"}])
    assert llava_bench.read_answers(tmp_path / "a.jsonl") == {"3": "an answer"}


# MM-Vet


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("0.5", (0.5,)),
        ("1", (1.0,)),
        (" 0.9\nas most is there", (0.9,)),
        ("0.0 ", (0.0,)),
        (".5", (0.5,)),
        ("1.1", None),
        ("-0.1", None),
        ("Correctness: 0.5", None),
        ("0.5.", None),
        ("| 0.5", None),
        ("half", None),
        ("inf", None),
        ("", None),
    ],
)
def test_mmvet_reads_a_number_from_0_to_1(text, verdict):
    assert mmvet.parse_verdict(text) == verdict


def test_mmvet_figures_by_hand():
    abilities = [["ocr", "math"], ["ocr"], ["know", "rec"]]
    questions = [question({"answer": "", "capabilities": needed}) for needed in abilities]
    scores = figures(mmvet, mmvet.tally_verdicts(questions, [(1.0,), (0.5,), (0.0,)]))
    assert scores == {
        "score": 50,
        "rec": 0,
        "ocr": 75,
        "know": 0,
        "gen": NAN,  # no question needs it
        "spat": NAN,
        "math": 100,
        "failed": 0,
    }
    # a second run: the mean of both is the mean over all verdicts; a failure counts for nothing else
    twice = mmvet.tally_verdicts(questions * 2, [(1.0,), (0.5,), (0.0,), (0.0,), None, (0.0,)])
    assert figures(mmvet, twice)["score"] == 100 * 1.5 / 5
    assert figures(mmvet, twice)["ocr"] == 100 * 1.5 / 3
    assert figures(mmvet, twice)["failed"] == 100 / 6


def test_mmvet_reads_the_official_file_and_asks_for_the_last_cell(tmp_path):
    entry = {
        "imagename": "v1_0.png",
        "question": "What is x in the equation?",
        "answer": "-1<AND>-5",
        "capability": ["ocr", "math"],
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps({"v1_0": {**entry, "imagesource": "https://..."}}))
    (only,) = mmvet.read(tmp_path, LLAVA15)
    assert (only.id, only.image_id, only.prompt) == ("v1_0", "v1_0", "What is x in the equation?")
    assert json.loads(only.reference) == {"answer": "-1<AND>-5", "capabilities": ["math", "ocr"]}
    (message,) = mmvet.judge_messages(only, "x = -1")
    rows = message["content"].split("\n")
    assert rows[-1] == "What is x in the equation? | -1 <AND> -5 | x = -1 | "
    header = rows.index("Question | Ground truth | Prediction | Correctness")
    assert all(row.count(" | ") == 3 for row in rows[header:])
    assert all(mmvet.parse_verdict(row.rsplit(" | ", 1)[1]) for row in rows[header + 2 : -1])
    for change, wrong in [({"capability": ["sing"]}, "must be some of rec"), ({"capability": []}, "must be some of")]:
        (tmp_path / "mm-vet.json").write_text(json.dumps({"v1_0": entry | change}))
        with pytest.raises(BenchmarkError, match=wrong):
            mmvet.read(tmp_path, LLAVA15)
    (tmp_path / "mm-vet.json").write_text('{"v1_0": {"question": "x"}}')
    with pytest.raises(BenchmarkError, match="v1_0: needs imagename"):
        mmvet.read(tmp_path, LLAVA15)


def test_mmvet_answers(tmp_path):
    (tmp_path / "a.json").write_text('{"v1_0": "x = -1"}')
    assert mmvet.read_answers(tmp_path / "a.json") == {"v1_0": "x = -1"}
    (tmp_path / "a.json").write_text('{"v1_0": 1}')
    with pytest.raises(BenchmarkError, match="one JSON object that maps"):
        mmvet.read_answers(tmp_path / "a.json")


# ConTextual


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("The response agrees.\nJudgement: Yes", (1,)),
        ("Judgement: No", (0,)),
        ("Judgement: No, although Yes was close", (0,)),
        ("Judgement: Yes or No?\nIt differs.\nJudgement: No.", (0,)),  # the last one
        ('I end with "Judgement: " as "Yes"', None),  # the words between are no marks
        ("**Judgement:** Yes", (1,)),
        ("judgment: yes", (1,)),
        ("Yes", (1,)),
        ("No\n", (0,)),
        ("Yes, it is correct.", None),
        ("Judgement: Nothing to say", None),
        ("Judgement: unsure", None),
        ("Judgement: Yes/No", None),
        ("Judgement: No or yes", None),
        ("Judgement: No.\nJudgement: Yes / No", None),
        ("", None),
    ],
)
def test_contextual_reads_the_last_judgement(text, verdict):
    assert contextual.parse_verdict(text) == verdict


def test_contextual_figures_by_hand():
    counts = contextual.tally_verdicts([question("r")] * 5, [(1.0,), (0.0,), None, (1.0,), (1.0,)])
    assert counts == (3, 4, 5, 1)
    assert figures(contextual, counts) == {"accuracy": 75, "failed": 20}


def test_contextual_reads_the_official_file(tmp_path):
    place = "https://bucket.example/time-images"
    text = f'image_url,instruction,response,category\n{place}/a.b.png,"What, then?","Ten\npast ""one"".",time\n'
    (tmp_path / "contextual_val.csv").write_text(text)
    (only,) = contextual.read(tmp_path, LLAVA15)
    assert (only.id, only.image_id) == (f"{place}/a.b.png", "time-images/a.b")
    assert (only.prompt, only.reference) == ("What, then?", 'Ten\npast "one".')
    (message,) = contextual.judge_messages(only, "It is {ten}.")
    assert message["content"].endswith('Instruction: What, then?\nReference answer: Ten\npast "one".\nResponse: It is {ten}.')
    (tmp_path / "contextual_val.csv").write_text(text + f"{place}/c.png,Why?,,time\n")
    with pytest.raises(BenchmarkError, match="the test split has no references"):
        contextual.read(tmp_path, LLAVA15)
    (tmp_path / "contextual_val.csv").write_text(text + text.split("\n", 1)[1])
    with pytest.raises(BenchmarkError, match="ids repeat"):
        contextual.read(tmp_path, LLAVA15)


# SHR


@pytest.mark.parametrize(
    ("description", "kept"),
    [
        ("A dog runs. It is brown.", ["A dog runs", "It is brown"]),
        ("A dog runs. A dog runs. A dog.", ["A dog runs"]),
        ("A dog. A dog runs.", ["A dog", "A dog runs"]),  # more than an earlier one is new
        ("It costs 3.50 dollars", ["It costs 3", "50 dollars"]),
        ("Is it a dog? Yes...", ["Is it a dog? Yes"]),
        (" . .. ", []),
        ("", []),
    ],
)
def test_shr_splits_at_dots_and_leaves_repeats_out(description, kept):
    assert shr.sentences(description) == kept


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Judgement:\n1. hallucination: no dog\n2. correct: it is\n3. cannot judge: a mood", (1, 1, 1)),
        ("Let me see.\nJudgement:\n\n1. Correct: a\n\n2. correct : b\n3. Hallucination: c\n", (1, 2, 0)),
        ("Judgement:\n1. **correct**: a\n2. **Correct:** b\n  3. correct", (0, 3, 0)),
        ("Judgement:\n1. correct: a\n2. correct: b\n3. partly: c", (0, 2, 0)),  # no class: it counts for nothing
        ("Judgement:\n1. correct: a\n2. correct: b", None),
        ("Judgement:\n1. correct: a\n2. correct: b\n3. correct: c\nAll in all, good.", None),
        ("1. correct: a\n2. correct: b\n3. correct: c", None),
        ("Judgement:\n1. fine: a\n2. fine: b\n3. fine: c", None),
        ("", None),
    ],
)
def test_shr_counts_one_class_a_sentence(text, verdict):
    assert shr.parse_verdict(text, "There is a dog. It runs. It looks happy.") == verdict


def test_shr_figures_by_hand():
    counts = shr.tally_verdicts([question("{}")] * 4, [(1, 3, 1), (2, 0, 1), None, (0, 0, 0)])
    # 3 of 8 sentences hallucinated, 2 beyond judgement; 8 sentences in 3 descriptions; one of four failed
    assert counts == (3, 3, 2, 3, 4, 1)
    assert figures(shr, counts) == {"shr": 37.5, "cannot_judge": 25, "sentences": 8 / 3, "failed": 25}


@pytest.fixture
def shr_folder(tmp_path):
    (tmp_path / "val_images_final.json").write_text('[{"image_id": 521}, {"image_id": "811"}]')
    sizes = [{"image_id": number, "width": 200, "height": 100, "url": "u"} for number in (1, 521, 811)]
    (tmp_path / "image_data.json").write_text(json.dumps(sizes))
    box = {"x": 10, "y": 25, "width": 90, "height": 50}
    phrases = {1: ["a cat"], 521: ["a {dog}", ""], 811: ["a boat", "the sea"]}
    regions = [{"id": n, "regions": [{**box, "image_id": n, "phrase": p} for p in ps]} for n, ps in phrases.items()]
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 2, "regions": []}, *regions], indent=1))
    lines(tmp_path / "shr_factual_part1.jsonl", [{"521": ["The dog is old.", "It sits."]}])
    lines(tmp_path / "shr_factual_part2.jsonl", [])
    return tmp_path


def test_shr_reads_the_official_files_and_numbers_sentences(shr_folder):
    first, second = shr.read(shr_folder, LLAVA15)
    assert (first.id, first.image_id, first.prompt) == ("521", "521", "Describe this image in detail.")
    # 10/200, 25/100, 100/200, 75/100; a region without a phrase is left out
    assert json.loads(first.reference) == {
        "regions": "[0.05, 0.25, 0.5, 0.75]: a {dog}",
        "facts": "The dog is old.\nIt sits.",
    }
    assert json.loads(second.reference)["regions"].split("\n")[1] == "[0.05, 0.25, 0.5, 0.75]: the sea"
    (message,) = shr.judge_messages(first, "A {dog} runs. A {dog} runs. It is brown.")
    assert message["content"].endswith("Facts:\nThe dog is old.\nIt sits.\n\nComments:\n1. A {dog} runs\n2. It is brown\n")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("image_data.json", "[]", "do not have SHR's or Visual Genome's form"),
        ("region_descriptions.json", "[]", "lack regions of 2 images"),
        ("region_descriptions.json", '[{"regions": [}', "is not a JSON array"),
        ("shr_factual_part1.jsonl", "{}", "do not have SHR's"),
        ("val_images_final.json", "[]", "holds no question"),
        ("val_images_final.json", "[{}]", "do not have SHR's"),
    ],
)
def test_shr_refuses_files_that_do_not_fit(shr_folder, name, text, message):
    (shr_folder / name).write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        shr.read(shr_folder, LLAVA15)


# All of them


class Oracle:
    """A judge that has an answer for every question."""

    def __init__(self, text):
        self.text, self.asks = text, []

    def verdicts(self, asks):
        self.asks += asks
        return [Verdict(ask.parse(self.text), self.text) for ask in asks]


def test_wins_are_a_share_of_the_questions_won_or_lost():
    def verdicts(*scores):
        return [Verdict(None if score is None else (8.0, score)) for score in scores]

    mine = [verdicts(9, 5, 7, 6, None), verdicts(7, 5, 7, None, None)]  # two runs of five questions
    base = [verdicts(7, 6, 7, 5, 1), verdicts(8, 6, 7, 5, 1)]
    won = wins(mine, base)
    assert won.tolist() == [[1, 0], [0, 1], [0, 0], [1, 0], [0, 0]]  # 8 to 7.5, 5 to 6, a tie, 6 to 5, no verdict
    rate = win_rate(won, Bootstrap(200, 0))
    assert (rate.value, rate.n) == (pytest.approx(100 * 2 / 3), 3)
    assert win_rate(won[2:3], Bootstrap(200, 0)).value is None


def test_judge_responses_asks_each_run_and_leaves_empty_descriptions_out():
    judge, questions = Oracle("Judgement:\n1. correct: yes"), [question({"regions": "", "facts": ""}, name) for name in "abc"]
    runs = judge_responses(judge, shr, questions, ["A dog.", "", "A cat. A mouse."], runs=2)
    assert [[verdict.value for verdict in row] for row in runs] == [[(0, 1, 0), (0, 0, 0), None]] * 2
    assert [ask.run for ask in judge.asks] == [0, 0, 1, 1]
    assert judge.asks[0].temperature == 0.7
    assert judge_responses(Oracle(""), shr, questions[:1], [""]) == [[Verdict((0, 0, 0))]]


VERDICTS = {
    contextual: st.tuples(st.sampled_from([0.0, 1.0])),
    llava_bench: st.tuples(st.floats(1, 10), st.floats(0, 10)),
    mmvet: st.tuples(st.floats(0, 1)),
    shr: st.tuples(*[st.integers(0, 9)] * 3),
}
REFERENCES = {
    contextual: ["r"],
    llava_bench: [{"category": category} for category in llava_bench.CATEGORIES],
    mmvet: [{"capabilities": [one, "rec"]} for one in mmvet.CAPABILITIES[1:]],
    shr: ["{}"],
}


@pytest.mark.parametrize("module", MODULES)
@given(data=st.data())
def test_order_is_irrelevant_units_add_up_and_failures_change_no_figure(module, data):
    cases = st.tuples(st.sampled_from(REFERENCES[module]), VERDICTS[module])
    drawn = data.draw(st.lists(cases, min_size=1, max_size=8))
    questions = [question(reference) for reference, _ in drawn]
    verdicts = [verdict for _, verdict in drawn]
    whole = np.array(module.tally_verdicts(questions, verdicts))
    assert np.allclose(whole, module.tally_verdicts(questions[::-1], verdicts[::-1]))
    assert np.allclose(whole, sum(np.array(module.tally_verdicts([q], [v])) for q, v in zip(questions, verdicts, strict=True)))
    before, after = (
        module.score(whole),
        module.score(np.array(module.tally_verdicts([*questions, questions[0]], [*verdicts, None]))),
    )
    assert set(before) == set(module.METRICS)
    for name in module.METRICS[:-1]:
        assert np.isclose(before[name], after[name], equal_nan=True)
        assert np.isnan(before[name]) or before[name] >= 0
        assert module in (llava_bench, shr) or not before[name] > 100 + 1e-9
    assert before["failed"] == 0
    assert np.isclose(after["failed"], 100 / (len(drawn) + 1))


class Reader(Oracle):
    """A judge that answers by the response it reads; no verdict where it knows none of the words."""

    def __init__(self, said):
        self.said = said

    def verdicts(self, asks):
        texts = [next((t for word, t in self.said.items() if word in ask.messages[-1]["content"]), "?") for ask in asks]
        return [Verdict(ask.parse(text), text) for ask, text in zip(asks, texts, strict=True)]


@pytest.fixture
def judged(monkeypatch):
    """Metrics of one benchmark's questions, a response each, against the base's."""
    monkeypatch.setattr("lookagain.evaluation.scoring.pope.SPLITS", ())
    monkeypatch.setattr("lookagain.evaluation.scoring.CHAIR_BENCHMARKS", ())

    def measured(module, asked, mine, base, judge):
        asked = [replace(one, benchmark=module.NAME, id=str(number)) for number, one in enumerate(asked)]
        answers = [
            [Answer(q.id, q.image_id, q.benchmark, q.split, "m", q.prompt, text) for q, text in zip(asked, texts, strict=True)]
            for texts in (mine, base)
        ]
        return score_model(Annotations(asked, {}, {}), *answers, None, Bootstrap(400, 0), judge)

    return measured


ASKED = {
    contextual: question("r"),
    llava_bench: question({"category": "conv", "captions": "c", "answer": "a", "role": "R", "rule": "r"}),
    mmvet: question({"answer": "a", "capabilities": ["rec"]}),
    shr: question({"regions": "", "facts": ""}),
}
FIRST = {contextual: "Judgement: Yes", llava_bench: "8 4", mmvet: "0.5", shr: "Judgement:\n1. hallucination: no"}


@pytest.mark.parametrize("module", MODULES)
def test_a_judge_that_fails_on_everything_measures_nothing(judged, module):
    metrics = judged(module, [ASKED[module]] * 2, ["good", "good"], ["good", "good"], Reader({}))
    figures = {key.split("/")[2]: metric for key, metric in metrics.items()}
    assert figures.pop("failed").value == 100
    assert figures.pop("wins", Metric(None, reason="")).value is None
    headline = module.METRICS[0]
    tested = "p_vs_base" if module is contextual else f"{headline}_p_vs_base"
    assert {*module.METRICS[:-1], f"{headline}_vs_base", tested} == figures.keys()
    assert {(one.value, one.se, one.reason) for one in figures.values()} == {
        (None, None, "no verdict: the judge failed on all 2 answers")
    }


@pytest.mark.parametrize("module", MODULES)
def test_a_comparison_needs_verdicts_on_both(judged, module):
    metrics = judged(module, [ASKED[module]] * 2, ["good", "good"], ["bad", "bad"], Reader({"good": FIRST[module]}))
    headline = f"{module.NAME}/all/{module.METRICS[0]}"
    assert metrics[headline].value in (100, 50)  # all right, all hallucinated; 4 of 8, 0.5 of 1
    tested = "contextual/all/p_vs_base" if module is contextual else f"{headline}_p_vs_base"
    for key in (f"{headline}_vs_base", tested):
        assert metrics[key].value is None
        assert metrics[key].reason == "no verdict: the judge failed on all 2 answers of base"


def test_verdicts_of_right_or_wrong_are_compared_exactly(judged):
    mine, base = ["good"] * 5 + ["bad", "lost"], ["bad"] * 4 + ["good", "good", "good"]
    said = Reader({"good": "Judgement: Yes", "bad": "Judgement: No"})
    test = judged(contextual, [ASKED[contextual]] * 7, mine, base, said)["contextual/all/p_vs_base"]
    assert (test.value, test.n) == (2 * (1 + 5) / 2**5, 6)  # four wins, one loss, a tie; one without a verdict


def test_a_category_without_a_verdict_is_null_and_the_others_stand(judged):
    detail = replace(ASKED[llava_bench], reference=ASKED[llava_bench].reference.replace("conv", "detail"), image_id="2")
    mine = ["good", "bad"]
    metrics = judged(llava_bench, [ASKED[llava_bench], detail], mine, mine, Reader({"good": "8 4"}))
    assert (metrics["llava_bench/all/conv"].value, metrics["llava_bench/all/failed"].value) == (50, 50)
    assert metrics["llava_bench/all/score"].se == 0  # resamples without a verdict are left out, not counted as 0
    assert metrics["llava_bench/all/detail"].value is None
    assert metrics["llava_bench/all/detail"].reason.startswith("no verdict bears on it")


def test_win_rates_resample_images_and_not_their_questions(judged):
    asked = [replace(ASKED[llava_bench], image_id=image) for image in "aaabbb"]
    said = Reader({"good": "5 9", "bad": "5 1", "base": "5 5"})
    rate = judged(llava_bench, asked, ["good"] * 3 + ["bad"] * 3, ["base"] * 6, said)["llava_bench/all/wins"]
    assert (rate.value, rate.n) == (50, 6)
    assert rate.se == pytest.approx(100 * 0.5 / 2**0.5, abs=3)  # two images; over six questions it would be 20.4
