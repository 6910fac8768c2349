"""Check params.yaml before any other stage, and drop what it no longer lists.

Run:    python -m lookagain.launch check_params
Reads:  params.yaml
Writes: reports/params.ok, always the same; deletes folders of data/published/ that `publish` does not list
"""

import shutil
from pathlib import Path

from lookagain.params import PUBLISHED, load_params
from lookagain.records import atomic_write


def main() -> None:
    """Check the params; a left-over publication would be hashed as data of this run."""
    params = load_params()
    for folder in Path(PUBLISHED).glob("*/"):
        if folder.name not in params.publish:
            shutil.rmtree(folder)
    with atomic_write("reports/params.ok") as file:
        file.write("params.yaml is well-formed\n")
