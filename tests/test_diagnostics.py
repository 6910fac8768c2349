"""Figures of pairs, by hand."""

import dataclasses

import pytest

from lookagain.diagnostics import NO_LOGPS, NO_MARGIN, NO_RELEVANCE, NO_TRUTH, diagnose
from lookagain.records import Pair, Provenance

HOW = Provenance("?", {"name": "none"}, {}, 0)
PAIRS = [
    Pair("1", "a", "m", "?", "a dog and a cat", ["a dog and a bus", "a bus"], HOW, [HOW, HOW]),  # 5 words; 5 and 2
    Pair("2", "b", "m", "?", "a dog", ["a cat near a dog"], HOW, [HOW]),  # 2 words; 5
]
REFERENCES = {"1": [-3.0, -5.0, -8.0], "2": [-1.0, -2.0]}
TRUTH = {"a": frozenset({"dog", "cat"}), "b": frozenset({"dog"})}
LOG = [{"loss": 1.0, "reward_margin": number / 10} for number in range(20)]


def test_figures():
    found = diagnose(PAIRS, {"planned": 3, "equal_dropped": 1, "pairs": 2}, LOG, TRUTH, 0, REFERENCES)
    assert (found["pairs/all/planned"].value, found["pairs/all/equal_dropped"].value) == (3, 1)
    assert (found["pairs/chosen/length"].value, found["pairs/chosen/length"].n) == (3.5, 2)
    assert found["pairs/rejected/length"].value == 4.0
    assert found["pairs/all/length_gap"].value == pytest.approx((1.5 - 3) / 2)
    assert found["pairs/all/length_gap"].se == pytest.approx(2.25)  # values 1.5 and -3
    assert found["pairs/chosen/chair_i"].value == 0
    assert found["pairs/rejected/chair_i"].value == pytest.approx(100 * 3 / 5)  # two buses and a cat, of five mentions
    assert found["pairs/all/reward_margin"].value == pytest.approx((1.8 + 1.9) / 2)
    assert (found["pairs/chosen/logp"].value, found["pairs/rejected/logp"].value, found["pairs/rejected/logp"].n) == (-2, -5, 3)


def test_relevance_is_of_the_responses_that_have_one():
    sides = [dataclasses.replace(HOW, relevance=value) for value in (30.0, 20.0, 25.0)]
    pairs = [Pair("1", "a", "m", "?", "a dog", ["a cat", "a bus"], sides[0], sides[1:]), PAIRS[1]]
    found = diagnose(pairs, {}, LOG, TRUTH, 0, {})
    assert (found["pairs/chosen/relevance"].value, found["pairs/chosen/relevance"].n) == (30, 1)
    assert (found["pairs/rejected/relevance"].value, found["pairs/rejected/relevance"].n) == (22.5, 2)


def test_what_is_not_known_is_null_with_its_reason():
    found = diagnose(PAIRS, {}, [{"loss": 1.0}], {}, 0, {})
    assert (found["pairs/chosen/chair_i"].value, found["pairs/chosen/chair_i"].reason) == (None, NO_TRUTH)
    assert (found["pairs/all/reward_margin"].value, found["pairs/all/reward_margin"].reason) == (None, NO_MARGIN)
    assert (found["pairs/chosen/relevance"].reason, found["pairs/rejected/logp"].reason) == (NO_RELEVANCE, NO_LOGPS)
    silent = [Pair("1", "a", "m", "?", "yes", ["no"], HOW, [HOW])]
    assert diagnose(silent, {}, LOG, TRUTH, 0, {})["pairs/chosen/chair_i"].reason == "these responses mention no object"
