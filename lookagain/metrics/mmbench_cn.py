"""MMBench-CN (Liu et al., 2023), dev: MMBench in Chinese, with the Chinese suffix, and the same rules (see `mmbench`)."""

from __future__ import annotations

from pathlib import Path

from lookagain.metrics import mmbench, official
from lookagain.metrics.benchmark import PromptPreset
from lookagain.records import Question

NAME = "mmbench_cn"
METRICS: tuple[str, ...] = mmbench.METRICS
MAX_NEW_TOKENS = mmbench.MAX_NEW_TOKENS
SOURCE = "https://github.com/open-compass/MMBench: mmbench_dev_cn_20231003.tsv (1,164 questions)"
FILES = ("mmbench_dev_cn_20231003.tsv",)

unit = mmbench.unit
score_answer = mmbench.score_answer
tally = mmbench.tally
score = mmbench.score
summary = mmbench.summary
read_answers = mmbench.read_answers


def read(folder: Path, preset: PromptPreset) -> list[Question]:
    """The rows of the Chinese table."""
    return mmbench.read_table(official.find(folder, FILES, SOURCE), NAME, preset.letter_cn, SOURCE)
