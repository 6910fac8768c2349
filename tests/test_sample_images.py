"""The sample: the seed's draw whatever the pool's order, unreadable images replaced up to a limit."""

import io
import runpy
from pathlib import Path

import pytest
from PIL import Image

from lookagain.images import ImageError, ImageStore, write_shards

DRAW = runpy.run_path(str(Path(__file__).parents[1] / "stages/sample_images.py"), run_name="sample_images")["draw"]


def pool(folder, ids, broken=()):
    def picture(image_id):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), "red").save(buffer, "PNG")
        return b"no image" if image_id in broken else buffer.getvalue()

    write_shards(folder, ((image_id, picture(image_id), None) for image_id in ids))
    return ImageStore(folder)


IDS = [f"image{number}" for number in range(20)]


def test_the_draw_is_the_seeds_alone(tmp_path):
    drawn, skipped = DRAW(pool(tmp_path / "a", IDS), 8, 0, 0)
    assert DRAW(pool(tmp_path / "b", IDS[::-1]), 8, 0, 0)[0] == drawn
    assert DRAW(pool(tmp_path / "c", IDS), 8, 1, 0)[0] != drawn
    assert DRAW(pool(tmp_path / "d", IDS), 12, 0, 0)[0][:8] == drawn
    assert (len(set(drawn)), skipped) == (8, [])


def test_unreadable_images_are_replaced_by_the_next(tmp_path):
    drawn, _ = DRAW(pool(tmp_path / "a", IDS), 9, 0, 0)
    broken = pool(tmp_path / "b", IDS, broken=drawn[2:3])
    again, skipped = DRAW(broken, 8, 0, 1)
    assert again == [*drawn[:2], *drawn[3:9]]
    assert [entry["image_id"] for entry in skipped] == drawn[2:3]
    with pytest.raises(ImageError, match=r"1 unreadable images .* data.max_bad_images = 0"):
        DRAW(broken, 8, 0, 0)


def test_too_small_and_empty_pools(tmp_path):
    with pytest.raises(ImageError, match=r"holds 20 readable images, sample.images = 21"):
        DRAW(pool(tmp_path / "a", IDS), 21, 0, 0)
    with pytest.raises(ImageError, match="no image shards"):
        pool(tmp_path / "b", [])
