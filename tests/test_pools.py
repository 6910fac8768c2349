"""Pools in the layouts that people have, made here: folders, WebDataset tars, datasets in parquet; kills and bad images."""

import io
import json
import runpy
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookagain import images as shards
from lookagain.images import ImageError, ImageStore, write_shards
from lookagain.pools import BATCH, Item, index, index_pool
from lookagain.runtime import Run

STAGE = runpy.run_path(str(Path(__file__).parents[1] / "stages/prepare_data.py"))


def picture(number, kind="JPEG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def run(tmp_path):
    return Run("prepare_data", 0, 1, tmp_path / "resume")


def indexed(source, tmp_path, run, max_bad=0, max_pixels=10**6):
    target = tmp_path / "index"
    count = index_pool(str(source), target, max_pixels, max_bad, run.map_batches, tmp_path / "stored")
    store = ImageStore(target)
    assert len(store) == count
    return store


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_a_folder_with_subfolders(tmp_path, run):
    for name in ("b/2.png", "a/1.jpg"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True)
        (tmp_path / "raw" / name).write_bytes(picture(1, "PNG" if name.endswith("png") else "JPEG"))
    store = indexed(tmp_path / "raw", tmp_path, run)
    assert store.ids == ["a/1", "b/2"]
    assert store.row("a/1")["image"]["bytes"] is None


def test_webdataset_tars_are_read_in_place(tmp_path, run):
    for shard in range(2):
        files = {f"{number:04d}.{ending}": data for number in range(3) for ending, data in
                 (("jpg", picture(10 * shard + number)), ("json", b"{}"), ("txt", b"a dog"))}  # fmt: skip
        write_tar(tmp_path / f"raw/{shard:05d}.tar", files)
    store = indexed(tmp_path / "raw", tmp_path, run)
    assert store.ids == [f"{shard:05d}/{number:04d}" for shard in range(2) for number in range(3)]
    assert store.load("00001/0002").tobytes() == Image.open(io.BytesIO(picture(12))).tobytes()
    write_tar(tmp_path / "raw/00001.tar", {"0000.jpg": picture(5)})
    with pytest.raises(ImageError, match="changed since"):
        store.load("00001/0002")


def test_a_compressed_tar_is_refused(tmp_path, run):
    (tmp_path / "raw").mkdir()
    with tarfile.open(tmp_path / "raw/x.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    with pytest.raises(ImageError, match="uncompressed"):
        indexed(tmp_path / "raw", tmp_path, run)


def test_a_dataset_with_an_image_column(tmp_path, run):
    import datasets

    features = datasets.Features({"label": datasets.Value("int64"), "picture": datasets.Image()})
    for part in range(2):
        rows = [{"label": n, "picture": {"bytes": picture(10 * part + n, "PNG"), "path": None}} for n in range(3)]
        made = datasets.Dataset.from_list(rows, features=features)
        (tmp_path / "raw/data").mkdir(parents=True, exist_ok=True)
        made.to_parquet(tmp_path / f"raw/data/train-{part}.parquet")
    store = indexed(tmp_path / "raw", tmp_path, run)
    assert store.ids == [f"data/train-{part}/{number}" for part in range(2) for number in range(3)]
    assert store.load("data/train-1/2").tobytes() == Image.open(io.BytesIO(picture(12, "PNG"))).tobytes()
    datasets.Dataset.from_list([{"text": "a"}]).to_parquet(tmp_path / "raw/data/a.parquet")
    with pytest.raises(ImageError, match="no column of images among text"):
        indexed(tmp_path / "raw", tmp_path, Run("prepare_data", 0, 1, tmp_path / "again"))


def test_unreadable_images_are_counted(tmp_path, run):
    for number in range(4):
        (tmp_path / f"{number}.jpg").write_bytes(picture(number))
    (tmp_path / "1.jpg").write_bytes(picture(1)[:-400])  # cut short: its header is whole
    (tmp_path / "2.jpg").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"2 unusable images, data.max_bad_images = 1: .*1\.jpg"):
        indexed(tmp_path, tmp_path, run, max_bad=1)
    assert indexed(tmp_path, tmp_path, Run("x", 0, 1, tmp_path / "again"), max_bad=2).ids == ["0", "3"]


def test_wrong_sources_are_named(tmp_path, run):
    for source, message in (("none", "no image folder none"), ("hub:me/mine@main", "a commit of 40 digits")):
        with pytest.raises(ImageError, match=message):
            indexed(source, tmp_path, run)


def test_a_killed_index_goes_on(tmp_path, monkeypatch):
    places = []
    for number in range(BATCH + 5):
        places.append(Item(f"{number:04d}", str(tmp_path / f"{number:04d}.jpg")))
        Path(places[-1].place).write_bytes(picture(number % 7))
    run = Run("x", 0, 1, tmp_path / "resume")
    last = Path(places[-1].place)
    last.rename(tmp_path / "away")
    monkeypatch.setattr("lookagain.pools.read_bytes", lambda place: Path(place).read_bytes() if "0260" not in place else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index(places, tmp_path / "index", 10**6, 0, run.map_batches, "pool")
    (tmp_path / "away").rename(last)
    read = []
    monkeypatch.setattr("lookagain.pools.read_bytes", lambda place: read.append(place) or Path(place).read_bytes())
    assert index(places, tmp_path / "index", 10**6, 0, Run("x", 0, 1, tmp_path / "resume").map_batches, "pool") == BATCH + 5
    assert len(read) == 5


def test_stored_images_do_not_fill_memory(tmp_path, monkeypatch):
    """8 MB of images, read one by one from groups of 100 kB, of which 4 are held."""
    for name, value in (("SHARD_BYTES", 10**6), ("GROUP_BYTES", 10**5), ("GROUPS_HELD", 4)):
        monkeypatch.setattr(shards, name, value)
    write_shards(tmp_path / "images", ((str(number), bytes(20_000) + str(number).encode(), None) for number in range(400)))
    assert len(list((tmp_path / "images").iterdir())) > 5
    tracemalloc.start()
    store = ImageStore(tmp_path / "images")
    assert all(store.row(image_id)["image"]["bytes"].endswith(image_id.encode()) for image_id in store.ids)
    assert tracemalloc.get_traced_memory()[1] < 4 * 10**6
    tracemalloc.stop()


@pytest.mark.parametrize("chunk", [16, 64, 10**6])
def test_json_lists_are_read_item_by_item(tmp_path, chunk):
    items = [{"id": str(number), "text": "a, ] [" * number} for number in range(5)]
    path = tmp_path / "items.json"
    path.write_text(json.dumps(items, indent=2))
    assert list(STAGE["json_items"](path, chunk)) == items
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="not a list"):
        list(STAGE["json_items"](path, chunk))
