import math

import numpy as np
import pytest

from lookagain import stats
from lookagain.metrics import pope


def mean(sums):
    return sums[..., 0] / sums[..., 1]


def test_bootstrap_error_of_a_share_is_the_binomial_one():
    n, p = 400, 0.3
    counts = np.ones((n, 2))
    counts[:, 0] = np.arange(n) < n * p
    error = stats.bootstrap_se(counts, mean, resamples=4000, seed=1)
    assert error == pytest.approx(math.sqrt(p * (1 - p) / n), rel=0.05)


def test_the_unit_is_resampled_whole():
    # Ten equal questions an image are worth one: the error is that of the 100 images, not of 1,000 questions.
    counts = np.full((100, 2), 10.0)
    counts[:, 0] = 10 * (np.arange(100) < 50)
    assert stats.bootstrap_se(counts, mean, resamples=4000, seed=1) == pytest.approx(0.05, rel=0.05)


def test_ratio_of_sums_is_recomputed():
    # F1 of one resample must be that of the summed counts, so with equal images it never varies, unlike a mean of image F1s.
    counts = np.tile([2, 1, 3, 1], (50, 1))
    assert stats.bootstrap_se(counts, lambda sums: pope.score(sums)["f1"], resamples=200, seed=0) == pytest.approx(0, abs=1e-9)


def test_bootstrap_is_a_function_of_the_seed():
    counts = np.random.default_rng(0).integers(0, 5, (30, 3))
    first, again, other = (stats.resample(counts, 50, seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.allclose(first.mean(0), counts.sum(0), rtol=0.1)


def test_paired_bootstrap_sees_what_an_unpaired_one_cannot():
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 2, 300).astype(float)
    better = scores.copy()
    better[np.flatnonzero(scores == 0)[:12]] = 1  # the same images, twelve more right: unpaired errors are .04 each
    first, second = (np.stack([values, np.ones(300)], axis=1) for values in (better, scores))
    found = stats.paired_bootstrap(first, second, mean, resamples=2000, seed=0)
    assert found.value == pytest.approx(0.04)
    assert found.se == pytest.approx(math.sqrt(0.04 * 0.96 / 300), rel=0.1)
    assert 0 < found.low < found.value < found.high
    assert found.p == pytest.approx(2 / 2001)  # never 0


def test_equal_models_do_not_differ():
    counts = np.random.default_rng(0).integers(0, 5, (30, 2)) + 1
    found = stats.paired_bootstrap(counts, counts, mean, resamples=100, seed=0)
    assert (found.value, found.se, found.p) == (0, 0, 1)
    with pytest.raises(ValueError, match="same units"):
        stats.paired_bootstrap(counts, counts[1:], mean, resamples=100, seed=0)
    with pytest.raises(ValueError, match="needs units"):
        stats.resample(np.zeros((0, 2)), 10, 0)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (1, 5, 2 * (1 + 6) / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_against_the_binomial_by_hand(wins, losses, p):
    first = [1] * wins + [0] * losses + [1, 1, 0]
    second = [0] * wins + [1] * losses + [1, 1, 0]
    assert stats.mcnemar(first, second) == pytest.approx(p)
    assert stats.mcnemar(second, first) == pytest.approx(p)


def test_mcnemar_is_exact_for_thousands():
    first, second = [1] * 1600 + [0] * 1400, [0] * 1600 + [1] * 1400
    tail = sum(math.comb(3000, k) for k in range(1401))
    assert stats.mcnemar(first, second) == pytest.approx(2 * tail / 2**3000)
    with pytest.raises(ValueError, match="0 or 1"):
        stats.mcnemar([0.5], [1])
    with pytest.raises(ValueError, match="same questions"):
        stats.mcnemar([1], [1, 0])


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.9, 0.6]) == [1.0, 1.0]
    assert stats.holm([]) == []
