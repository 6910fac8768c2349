"""Draw the N unlabeled images that self-training uses.

Run:    python -m lookagain.launch sample_images
Reads:  data/pool/images/
Writes: data/sample/images/, data/sample/skipped.json: [{"image_id", "reason"}] of unreadable images, drawn and replaced

An image's rank is a hash of (seed, id): the draw does not depend on the pool's order, and a larger sample holds a smaller one.
"""

import json
import shutil
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.images import ImageError, ImageStore, write_shards
from lookagain.params import load_params
from lookagain.records import atomic_write
from lookagain.seeds import derive


def main() -> None:
    """Draw, check and write the sample."""
    params = load_params()
    used = {"images": params.sample.images, "max_bad_images": params.data.max_bad_images, "seed": params.seed}
    with (
        runtime.stage("sample_images", used, ["data/pool"]) as run,
        tracking.child("sample_images", used, enabled=run.is_main) as track,
    ):
        if not run.is_main:
            return
        pool = ImageStore("data/pool/images", params.data.max_image_pixels)
        drawn, skipped = draw(pool, params.sample.images, params.seed, params.data.max_bad_images)
        rows = (pool.row(image_id) for image_id in drawn)
        shutil.rmtree("data/sample", ignore_errors=True)
        count = write_shards("data/sample/images", ((r["image_id"], r["image"]["bytes"], r["image"]["path"]) for r in rows))
        with atomic_write(Path("data/sample/skipped.json")) as file:
            json.dump(skipped, file, indent=1)
        print(f"{count} of {len(pool)} images drawn, {len(skipped)} unreadable ones replaced")
        track.metrics({"images": count, "skipped": len(skipped)})


def draw(pool: ImageStore, count: int, seed: int, max_bad: int) -> tuple[list[str], list[dict[str, str]]]:
    """The first `count` readable images by rank, and those skipped on the way.

    Raises ImageError if more than `max_bad` are unreadable or too few are left.
    """
    drawn: list[str] = []
    skipped: list[dict[str, str]] = []
    for image_id in sorted(pool.ids, key=lambda one: (derive(seed, "sample", one), one)):
        if len(drawn) == count:
            break
        try:
            pool.load(image_id)
        except ImageError as error:
            skipped.append({"image_id": image_id, "reason": str(error)})
            if len(skipped) > max_bad:
                names = ", ".join(entry["image_id"] for entry in skipped[:5])
                raise ImageError(
                    f"{len(skipped)} unreadable images in {pool.folder} ({names}), data.max_bad_images = {max_bad}; {error}"
                ) from error
        else:
            drawn.append(image_id)
    if len(drawn) < count:
        raise ImageError(
            f"{pool.folder} holds {len(drawn)} readable images, sample.images = {count}: add images or lower sample.images"
        )
    return drawn, skipped
