"""`python -m lookagain.tracking`: send what the store lacks, behind a stage that runs."""

import os

from lookagain.tracking.syncing import sync

if __name__ == "__main__":
    os.nice(10)
    sync(wait=False)
