import io

import pytest
from PIL import Image

from lookagain.images import ImageError, ImageStore, decode, list_images, read_image, write_shards


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


PICTURE = Image.linear_gradient("L").resize((40, 30)).convert("RGB")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
def test_every_mode_becomes_rgb(mode):
    kind = "JPEG" if mode == "CMYK" else "PNG"
    image = decode(encoded(PICTURE.convert("L").convert(mode) if mode != "RGBA" else PICTURE.convert(mode), kind), "x", 10_000)
    assert (image.mode, image.size) == ("RGB", (40, 30))


def test_transparent_pixels_are_white():
    assert decode(encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 0))), "x", 100).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no image at all", "not a readable image"),
        (b"", "not a readable image"),
        (encoded(PICTURE)[:80], "not a readable image"),
        (encoded(PICTURE, "JPEG")[:400], "not a readable image"),
        (encoded(Image.new("L", (200, 200))), "exceeds data.max_image_pixels = 10000"),
    ],
)
def test_bad_bytes_are_named(data, reason):
    with pytest.raises(ImageError, match=reason) as error:
        decode(data, "cat.jpg", 10_000)
    assert "cat.jpg" in str(error.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match="no such image file"):
        read_image(tmp_path / "none.png", 100)
    with pytest.raises(ImageError, match="no image folder"):
        list_images(tmp_path / "none")
    with pytest.raises(ImageError, match="empty"):
        list_images(tmp_path)


def test_store_keeps_bytes_and_order(tmp_path):
    rows = [(f"i{number}", encoded(Image.new("RGB", (4, 4), (number, 0, 0))), None) for number in range(5)]
    assert write_shards(tmp_path / "images", rows) == 5
    store = ImageStore(tmp_path / "images")
    assert store.ids == ["i0", "i1", "i2", "i3", "i4"]
    assert store.load("i3").getpixel((0, 0)) == (3, 0, 0)
    assert [name for name, _ in store] == store.ids
    with pytest.raises(KeyError, match="no image 'other'"):
        store.row("other")


def test_store_by_path_notices_a_changed_file(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(encoded(PICTURE))
    write_shards(tmp_path / "images", [("a", None, str(file))])
    store = ImageStore(tmp_path / "images")
    assert store.load("a").tobytes() == PICTURE.tobytes()
    file.write_bytes(encoded(PICTURE.rotate(90)))
    with pytest.raises(ImageError, match="changed since"):
        store.load("a")
    file.unlink()
    with pytest.raises(ImageError, match="gone"):
        store.load("a")


def test_no_shards_is_named(tmp_path):
    with pytest.raises(ImageError, match="no image shards"):
        ImageStore(tmp_path)


def test_datasets_sees_images(tmp_path):
    """The shards carry the `datasets` Image feature."""
    import datasets

    write_shards(tmp_path / "images", [("a", encoded(PICTURE), None)])
    shard = next((tmp_path / "images").glob("*.parquet"))
    loaded = datasets.Dataset.from_parquet(str(shard), cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image"].size == (40, 30)
