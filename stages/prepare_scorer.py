"""Pin the scorer of images and sentences: a folder in open_clip's format, which is loaded once, or one of open_clip's models.

Run:    python -m lookagain.launch prepare_scorer
Reads:  the folder that scorer.model names
Writes: models/scorer/scorer.json: {"model", "pretrained", "fingerprint" of a folder}; weights stay where they are
"""

import json
import shutil
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.checkpoints import pin_scorer
from lookagain.params import flatten, load_params
from lookagain.records import atomic_write
from lookagain.rewards import ImageTextScorer


def main() -> None:
    """Prepare the scorer."""
    params = load_params()
    with (
        runtime.stage("prepare_scorer", {"scorer": params.scorer}) as run,
        tracking.child("prepare_scorer", flatten(params.scorer, "scorer."), enabled=run.is_main),
    ):
        if run.is_main:
            pinned = pin_scorer(params.scorer.model, params.scorer.pretrained)
            shutil.rmtree("models/scorer", ignore_errors=True)
            with atomic_write(Path("models/scorer/scorer.json")) as file:
                json.dump(pinned, file, indent=1)
            if pinned["pretrained"] is None:
                ImageTextScorer("models/scorer")
            print(f"scorer: {pinned['model']}")
