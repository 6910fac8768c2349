"""Pools of images as people have them: a folder, WebDataset tars, or a dataset with an image column; indexed, verified, counted.

A source is a folder, or `hub:OWNER/NAME@COMMIT` for a dataset of the Hugging Face hub. Images in files stay where they are, also
inside tars: their rows name the place. Those in a dataset's parquet files are stored. Every image is decoded once (JPEGs at an
eighth of their size, which still reads all of them), so that a truncated file is found here and not in the middle of a run.

Memory does not grow with the images' bytes, and what was checked before a kill is not checked again.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PILImage

from lookagain.images import SUFFIXES, ImageError, list_images, read_bytes, write_shards

MapBatches = Callable[[Sequence[Sequence[Any]], Callable[[Sequence[Any]], list[Any]], str], list[Any]]
HUB = re.compile(r"hub:(?P<id>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")
BATCH = 256  # images that are checked before their results are kept


@dataclass(frozen=True)
class Item:
    """An image to index: `id` as the index will have it, `place` a path, or a slice of a tar (see `images.read_bytes`)."""

    id: str
    place: str


def locate(source: str) -> Path:
    """A source's folder, downloaded if it is on the hub. Raises ImageError if it is missing or its revision is no commit."""
    if not source.startswith("hub:"):
        if not Path(source).is_dir():
            raise ImageError(f"no image folder {source}: set the path in params.yaml, or put the images there")
        return Path(source)
    match = HUB.fullmatch(source)
    if not match:
        raise ImageError(f"{source} must be hub:OWNER/NAME@REVISION, REVISION a commit of 40 digits")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(match["id"], repo_type="dataset", revision=match["revision"]))
    except Exception as error:  # of the hub's, or of whichever HTTP library it uses
        raise ImageError(f"{source} not found, or no network: {error}") from error


def index_pool(source: str, target: Path, max_pixels: int, max_bad: int, map_batches: MapBatches, work: Path) -> int:
    """Write shards of a source's images; returns how many. `work` is a folder that outlives a kill.

    Raises ImageError if there is none, or more than `max_bad` are unusable.
    """
    folder = locate(source)
    if parquet := sorted(folder.rglob("*.parquet")):
        return _store(parquet, folder, target, max_pixels, max_bad, map_batches, work)
    if tars := sorted(folder.rglob("*.tar")):
        items = [item for path in tars for item in tar_items(path, folder)]
    else:
        items = [Item(str(path.relative_to(folder).with_suffix("")), str(path)) for path in list_images(folder)]
    return index(items, target, max_pixels, max_bad, map_batches, "pool")


def index(items: Sequence[Item], target: Path, max_pixels: int, max_bad: int, map_batches: MapBatches, label: str) -> int:
    """Check images in place and write shards of the usable ones; returns how many. Raises ImageError as `index_pool`."""
    batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
    results = map_batches(batches, lambda batch: [_checked(item, max_pixels) for item in batch], label)
    hashes = {item.id: result["sha256"] for item, result in zip(items, results, strict=True) if "sha256" in result}
    _refuse([result["fault"] for result in results if "fault" in result], len(hashes), max_bad, str(target))
    return write_shards(target, ((item.id, None, item.place) for item in items if item.id in hashes), hashes)


def tar_items(path: Path, root: Path) -> Iterator[Item]:
    """The images of a WebDataset tar, as slices of the file: it is not unpacked. Raises ImageError for what is no plain tar."""
    shard = path.relative_to(root).with_suffix("")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in SUFFIXES:
                    end = member.offset_data + member.size
                    yield Item(f"{shard}/{Path(member.name).with_suffix('')}", f"{path}[{member.offset_data}:{end}]")
    except tarfile.TarError as error:
        raise ImageError(f"{path}: not an uncompressed tar: {error}") from error


def image_column(schema: pa.Schema, name: str) -> str:
    """The column of a parquet schema that holds images: bytes, or a struct with bytes. Raises ImageError if there is none."""
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return field.name
        if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return field.name
    raise ImageError(f"{name}: no column of images among {', '.join(schema.names)}")


def _store(
    files: Sequence[Path], root: Path, target: Path, max_pixels: int, max_bad: int, map_batches: MapBatches, work: Path
) -> int:
    """Copy a dataset's images, file by file: a finished file is not read again."""
    parts = {str(path.relative_to(root).with_suffix("")): path for path in files}

    def store(batch: Sequence[Item]) -> list[dict[str, Any]]:
        faults: list[str] = []
        rows = _rows(parts[batch[0].id], batch[0].id, max_pixels, faults)
        return [{"count": write_shards(work / batch[0].id, rows), "faults": faults}]

    results = map_batches([[Item(name, str(path))] for name, path in parts.items()], store, "pool")
    count = sum(result["count"] for result in results)
    _refuse([fault for result in results for fault in result["faults"]], count, max_bad, str(target))
    target.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shard for name in parts for shard in sorted((work / name).glob("*.parquet"))):
        shard.replace(target / f"images-{number:05d}.parquet")
    return count


def _rows(path: Path, name: str, max_pixels: int, faults: list[str]) -> Iterator[tuple[str, bytes | None, str | None]]:
    """The usable images of a parquet file; reasons against the others go to `faults`."""
    file = pq.ParquetFile(path)
    column = image_column(file.schema_arrow, str(path))
    number = 0
    for batch in file.iter_batches(batch_size=64, columns=[column]):
        for entry in batch.column(0).to_pylist():
            data = (entry or {}).get("bytes") if isinstance(entry, dict | None) else entry
            if wrong := fault(data or b"", f"{path}, row {number}", max_pixels):
                faults.append(wrong)
            else:
                yield f"{name}/{number}", data, None
            number += 1


def _checked(item: Item, max_pixels: int) -> dict[str, str]:
    """The hash of an image's bytes, or why it cannot be used."""
    try:
        data = read_bytes(item.place)
    except (ImageError, OSError) as error:
        return {"fault": str(error)}
    wrong = fault(data, item.place, max_pixels)
    return {"fault": wrong} if wrong else {"sha256": hashlib.sha256(data).hexdigest()}


def fault(data: bytes, name: str, max_pixels: int) -> str:
    """Why bytes are no usable image; empty if they are one."""
    try:
        with PILImage.open(io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                return f"{name}: {image.width}x{image.height} px exceeds data.max_image_pixels = {max_pixels}"
            image.draft("RGB", (image.width // 8, image.height // 8))
            image.load()
    except (OSError, SyntaxError, ValueError, PILImage.DecompressionBombError) as error:
        return f"{name}: not a readable image: {error}"
    return ""


def _refuse(faults: Sequence[str], usable: int, max_bad: int, name: str) -> None:
    if len(faults) > max_bad:
        raise ImageError(f"{len(faults)} unusable images, data.max_bad_images = {max_bad}: {'; '.join(faults[:3])}")
    if not usable:
        raise ImageError(f"{name}: no usable image")
