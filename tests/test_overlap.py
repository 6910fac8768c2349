"""The overlap of images by hand, and the map of few images."""

import numpy as np
import pytest

from lookagain.overlap import overlap, tsne


def on_circle(degrees):
    radians = np.deg2rad(np.array(degrees, dtype=float))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_sets_apart_do_not_overlap_and_equal_ones_do():
    near, far = on_circle(range(20)), on_circle(range(90, 110))
    assert overlap(near, far).value == 0
    rng = np.random.default_rng(0)
    mixed = on_circle(rng.uniform(0, 360, 400))
    same = overlap(mixed[:200], mixed[200:])
    assert abs(same.value - 100) < 4 * same.se


def test_overlap_by_hand():
    # Two images of each set, so two neighbours each: of 0 degrees 1 and 10, both unlabeled; of 50, 10 and 1.
    found = overlap(on_circle([1, 10]), on_circle([0, 50]))
    assert (found.value, found.n) == (pytest.approx(150), 2)  # always, where a random mixture has two of three
    assert overlap(on_circle([1]), on_circle([0, 50])).value is None


def test_a_map_has_a_point_for_each_image_and_is_the_same_each_time():
    features = {"unlabeled": on_circle(range(8)), "scenes": on_circle(range(90, 97))}
    first = tsne(features, 3)
    assert {name: len(points) for name, points in first.items()} == {"unlabeled": 8, "scenes": 7}
    assert tsne(features, 3) == first
    assert tsne({"unlabeled": on_circle([1, 2])}, 0) == {"unlabeled": []}
