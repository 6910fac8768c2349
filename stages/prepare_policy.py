"""Pin the checkpoint that the base policy is, a folder or a hub id, and check all of it that needs no GPU.

Run:    python -m lookagain.launch prepare_policy
Reads:  the folder that policy.checkpoint names, or the hub
Writes: models/base/lineage.json, with facts of its card (publisher, model_name, credits); weights stay where they are
"""

import json
import shutil
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.checkpoints import pin_policy
from lookagain.params import load_params
from lookagain.policy import check_checkpoint
from lookagain.records import atomic_write


def main() -> None:
    """Prepare the base policy."""
    params = load_params()
    used = {"checkpoint": params.policy.checkpoint, "revision": params.policy.revision}
    with (
        runtime.stage("prepare_policy", used) as run,
        tracking.child("prepare_policy", used, enabled=run.is_main),
    ):
        if run.is_main:
            pinned = pin_policy(params.policy.checkpoint, params.policy.revision)
            if pinned["revision"] is None:
                check_checkpoint(pinned["base"])
            shutil.rmtree("models/base", ignore_errors=True)
            with atomic_write(Path("models/base/lineage.json")) as file:
                json.dump(pinned, file, indent=1)
            print(f"base: {pinned['model_name'] or pinned['base']}, {pinned['fingerprint'][:12]}")
