import math
import random
from types import SimpleNamespace

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP
from project import write_scorer

from benchmarks.peers import OneByOneScorer
from lookagain.rewards import (
    Candidate,
    ImageTextScorer,
    ScorerError,
    calibrated,
    image_relevance,
    language_score,
    mean_logp,
    rank,
    ranks,
    value,
)


def test_equations_2_to_4():
    assert language_score([math.log(0.5), math.log(0.25)]) == pytest.approx(0.125)
    assert image_relevance(0.31, 100) == pytest.approx(31)
    assert image_relevance(-0.1, 100) == 0
    assert calibrated(30.0, 0.5, 0.9) == pytest.approx(27.05)


def test_ranks_run_from_0_to_1_and_share_ties():
    assert ranks([3.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    assert ranks([1.0, 1.0, 2.0]) == [0.25, 0.25, 1.0]
    assert ranks([7.0]) == [0.5]


def test_value_and_rank_mix_the_parts():
    siblings = [Candidate("a.", [], 0.2, 20.0, 0.9), Candidate("b.", [], 0.3, 30.0, 0.1), Candidate("c.", [], 0.1, 10.0, 0.5)]
    assert value.rewards(siblings, 0.9) == pytest.approx([18.09, 27.01, 9.05])
    assert rank.rewards(siblings, 0.9) == pytest.approx([0.9 * 0.5 + 0.1, 0.9, 0.05])
    assert rank.rewards(siblings, 0.0) == [1.0, 0.0, 0.5]
    assert mean_logp([-1.0, -2.0]) == -1.5
    unlike = [Candidate("a.", [], -0.2, 0.0, 0.9), Candidate("b.", [], -0.1, 0.0, 0.1)]
    assert rank.rewards(unlike, 1.0) == [0.0, 1.0]


def test_missing_scorer_is_named(tmp_path):
    with pytest.raises(ScorerError, match=r"scorer\.json"):
        ImageTextScorer(tmp_path)


def test_scores_do_not_depend_on_what_was_scored_before(images, tmp_path):
    """To the bit: a sentence's embedding depends on how many are encoded with it."""
    words = "the image shows a beach street dog cat car in left right there is".split()
    texts = [" ".join(random.Random(number).choices(words, k=6)) for number in range(40)]
    write_scorer(tmp_path / "scorer")
    one, other = (ImageTextScorer(tmp_path / "scorer") for _ in range(2))
    one.encode_images(images[:2])
    one.encode_texts(texts[2:])
    assert torch.equal(one.encode_images(images[2:]), other.encode_images(images[2:]))
    assert torch.equal(one.encode_texts(texts), other.encode_texts(texts))


def test_sentences_are_encoded_once_until_the_next_images(tmp_path, images, monkeypatch):
    """The slow twin: one image and one sentence at a time."""
    write_scorer(tmp_path / "scorer")
    scorer, slow = ImageTextScorer(tmp_path / "scorer"), OneByOneScorer(tmp_path / "scorer")
    seen = []
    monkeypatch.setattr(scorer, "tokenizer", lambda texts: seen.append(list(texts)) or slow.tokenizer(texts))
    for texts in (["a dog", "a cat", "a dog"], ["a cat", "a car", "a bus"]):
        torch.testing.assert_close(scorer.encode_texts(texts), slow.encode_texts(texts), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scorer.encode_images(images), slow.encode_images(images), rtol=1e-5, atol=1e-6)
    scorer.encode_texts(["a dog", "a sheep"])
    assert seen == [["a cat", "a dog"], ["a bus", "a car"], ["a dog", "a sheep"]]


@pytest.mark.parametrize(("kind", "causal"), [(CLIP, True), (CustomTextCLIP, True), (CustomTextCLIP, False)])
def test_texts_are_embedded_without_what_follows_the_last_eos(kind, causal):
    """The slow twin: the whole context. Where tokens see those behind them, that is what is embedded."""
    text = {"context_length": 16, "vocab_size": 50, "width": 32, "heads": 2, "layers": 2, "no_causal_mask": not causal}
    torch.manual_seed(0)
    model = kind(16, {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1}, text).eval()
    widths = []
    tower = model if kind is CLIP else model.text
    tower.token_embedding.register_forward_hook(lambda _module, inputs, _output: widths.append(inputs[0].shape[1]))
    tokens = torch.zeros(3, 16, dtype=torch.long)
    for row, length in enumerate((3, 7, 5)):
        tokens[row, :length] = torch.arange(1, length + 1)
        tokens[row, length] = 49  # EOS, the largest id
    with torch.inference_mode():
        short = ImageTextScorer._embedded(SimpleNamespace(model=model), tokens)
        torch.testing.assert_close(short, model.encode_text(tokens, normalize=True), rtol=1e-5, atol=1e-6)
    assert widths == [8 if causal else 16, 16]
