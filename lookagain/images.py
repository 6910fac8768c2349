"""Images: untrusted bytes in, RGB out, in parquet shards with the `datasets` Image feature.

A shard row is (image_id, image, sha256); the image holds its bytes, or only a path where the original stays in place: a file, or
`FILE.tar[START:END]`, a slice of one.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage
from PIL import UnidentifiedImageError

from lookagain.errors import UserError

# The schema that `datasets` writes for an Image feature, so that load_dataset("parquet") shows images.
SCHEMA = pa.schema(
    {"image_id": pa.string(), "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "sha256": pa.string()},
    metadata={
        "huggingface": json.dumps(
            {
                "info": {
                    "features": {
                        "image_id": {"dtype": "string", "_type": "Value"},
                        "image": {"_type": "Image"},
                        "sha256": {"dtype": "string", "_type": "Value"},
                    }
                }
            }
        )
    },
)
SHARD_ROWS = 4096
SHARD_BYTES = 2**28
GROUP_BYTES = 2**23  # of images that are read from a shard together
GROUPS_HELD = 32
SLICE = re.compile(r"(?P<file>.+\.tar)\[(?P<start>\d+):(?P<end>\d+)\]")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class ImageError(UserError):
    """An image that cannot be used; the message names it and says why."""


def decode(data: bytes, name: str, max_pixels: int) -> PILImage.Image:
    """An RGB image from untrusted bytes: transparency on white, EXIF rotation ignored as COCO's tools do.

    Raises ImageError if the bytes are no image, are truncated, or hold more than `max_pixels` pixels (checked before decoding).
    """
    try:
        with PILImage.open(io.BytesIO(data)) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise ImageError(f"{name}: {width}x{height} px exceeds data.max_image_pixels = {max_pixels}")
            image.load()
            if "A" in image.getbands() or "transparency" in image.info:
                layer = image.convert("RGBA")
                return PILImage.alpha_composite(PILImage.new("RGBA", layer.size, "white"), layer).convert("RGB")
            return image.convert("RGB")
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a readable image: of no known format") from error
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        raise ImageError(f"{name}: not a readable image: {error}") from error


def read_image(path: Path | str, max_pixels: int) -> PILImage.Image:
    """An RGB image from a file. Raises ImageError, also when there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise ImageError(f"{path}: no such image file")
    return decode(path.read_bytes(), str(path), max_pixels)


def read_bytes(place: str) -> bytes:
    """The bytes at a row's path: a whole file, or a slice of a tar. Raises ImageError if the file is gone."""
    match = SLICE.fullmatch(place)
    file = Path(match["file"] if match else place)
    if not file.is_file():
        raise ImageError(f"{place}: the indexed file is gone")
    if not match:
        return file.read_bytes()
    with file.open("rb") as tar:
        tar.seek(int(match["start"]))
        return tar.read(int(match["end"]) - int(match["start"]))


def list_images(folder: Path | str) -> list[Path]:
    """Image files of a folder and its subfolders, sorted by path. Raises ImageError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ImageError(f"no image folder {folder}: set the path in params.yaml, or put the images there")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise ImageError(f"{folder}: empty, holds no image ({', '.join(sorted(SUFFIXES))})")
    return found


def write_shards(
    folder: Path | str, rows: Iterable[tuple[str, bytes | None, str | None]], hashes: Mapping[str, str] | None = None
) -> int:
    """Write (image_id, bytes or None, path or None) rows as parquet shards into a folder that appears whole; returns the count.

    With bytes, they are stored; with a path alone, the file's hash is stored and its bytes stay where they are. `hashes` holds
    the sha256 of ids whose bytes need not be read again.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    shard: list[dict] = []
    count, held = 0, 0

    def flush() -> None:
        if shard:
            name = f"images-{len(list(temporary.iterdir())):05d}.parquet"
            group = max(1, len(shard) * GROUP_BYTES // max(held, GROUP_BYTES))
            pq.write_table(pa.Table.from_pylist(shard, schema=SCHEMA), temporary / name, row_group_size=group)
            shard.clear()

    for image_id, data, path in rows:
        sha256 = (hashes or {}).get(image_id)
        if sha256 is None:
            sha256 = hashlib.sha256(data if data is not None else read_bytes(str(path))).hexdigest()
        shard.append({"image_id": image_id, "image": {"bytes": data, "path": path}, "sha256": sha256})
        count, held = count + 1, held + len(data or b"")
        if len(shard) == SHARD_ROWS or held > SHARD_BYTES:
            flush()
            held = 0
    flush()
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return count


class ImageStore:
    """Random access by id to a folder of shards. Rows are read in groups, of which a few are held; an image is decoded when it
    is asked for."""

    def __init__(self, folder: Path | str, max_pixels: int = 50_000_000):
        self.folder = Path(folder)
        self.max_pixels = max_pixels
        shards = sorted(self.folder.glob("*.parquet"))
        if not shards:
            raise ImageError(f"{folder}: no image shards; run the stage that makes them (`dvc repro`)")
        self._files = [pq.ParquetFile(shard) for shard in shards]
        self._index: dict[str, tuple[int, int, int]] = {}  # id -> file, row group, row in the group
        for number, file in enumerate(self._files):
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
                self._index.update((image_id, (number, group, row)) for row, image_id in enumerate(ids))
        self.ids: list[str] = list(self._index)
        self._group = functools.lru_cache(GROUPS_HELD)(self._read_group)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._index

    def row(self, image_id: str) -> dict:
        """The stored row of an image: {"image_id", "image": {"bytes", "path"}, "sha256"}. Raises KeyError for an unknown id."""
        if image_id not in self._index:
            raise KeyError(f"no image {image_id!r} in {self.folder} ({len(self)} images)")
        file, group, row = self._index[image_id]
        return self._group(file, group).slice(row, 1).to_pylist()[0]

    def load(self, image_id: str) -> PILImage.Image:
        """The image, RGB. Raises ImageError if it is unreadable or its file changed since it was indexed."""
        row = self.row(image_id)
        data, path = row["image"]["bytes"], row["image"]["path"]
        if data is None:
            data = read_bytes(path)
            if hashlib.sha256(data).hexdigest() != row["sha256"]:
                raise ImageError(f"{path}: changed since it was indexed (sha256 differs)")
        return decode(data, path or image_id, self.max_pixels)

    def __iter__(self) -> Iterator[tuple[str, PILImage.Image]]:
        for image_id in self.ids:
            yield image_id, self.load(image_id)

    def _read_group(self, file: int, group: int) -> pa.Table:
        return self._files[file].read_row_group(group)
