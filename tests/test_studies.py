"""Studies: what is run and in which order, differences over runs worked out by hand, and the page of a made-up study."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import yaml

from lookagain.evaluation.suite import BENCHMARKS, module
from lookagain.metrics import chair, pope
from lookagain.papers import cells, experiments, gaps, grid, studies
from lookagain.papers.study_page import page
from lookagain.papers.tables import TableError, metric_keys
from lookagain.params import read_raw

ROOT = Path(__file__).parents[1]
TINY = read_raw(ROOT / "presets/tiny.yaml")

BASES = ["a", "b", "c"]

# Differences over runs.


def test_intervals_over_runs_and_over_images():
    gap = gaps.difference([1.0, 2.0, 3.0], [0.3, 0.4, 0.0], BASES)
    # Standard deviation 1, so 4.30265 / sqrt(3); the mean's error over images is 0.5 / 3.
    assert (gap.value, gap.in_runs) == (2.0, [1.0, 2.0, 3.0])
    assert gap.over_runs == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-4)
    assert gap.over_images == pytest.approx((2 - 0.32666, 2 + 0.32666), abs=1e-4)
    one = gaps.difference([1.0], [None], ["a"])
    assert (one.over_runs, one.over_images) == (None, None)


def test_with_several_seeds_of_each_base_the_base_is_a_fixed_factor():
    gap = gaps.difference([0.0, 2.0, 9.0, 11.0], [0.5] * 4, ["a", "a", "b", "b"])
    # Means 1 and 10, residuals of 1, 4 - 2 degrees of freedom: t = 4.30265, spread sqrt(2), error sqrt(2) / 2.
    assert gap.value == 5.5
    assert gap.over_runs == pytest.approx((5.5 - 3.04243, 5.5 + 3.04243), abs=1e-4)
    assert gap.over_images == pytest.approx((5.5 - 0.48999, 5.5 + 0.48999), abs=1e-4)
    uneven = gaps.difference([0.0, 2.0, 10.0], [0.5] * 3, ["a", "a", "b"])  # bases weigh the same: 1/4, 1/4, 1/2
    assert uneven.value == 5.5
    assert uneven.over_runs == pytest.approx((5.5 - 12.7062 * 3**0.5 / 2, 5.5 + 12.7062 * 3**0.5 / 2), abs=1e-3)


@pytest.mark.parametrize(
    ("values", "error", "better", "said"),
    [
        ([2.0, 2.1, 1.9], 9.0, "up", gaps.SHOWS),  # the runs decide, whatever the images say
        ([2.0, 2.1, 1.9], 9.0, "down", gaps.AGAINST),
        ([1.0, 2.0, 3.0], 0.1, "up", gaps.HERE),
        ([1.0, 2.0, 3.0], 0.1, "down", gaps.AGAINST_HERE),
        ([-1.0, 2.0, 5.0], 0.1, "up", gaps.NOT),  # one run says otherwise
        ([1.0, 2.0, 3.0], 9.0, "up", gaps.NOT),
    ],
)
def test_verdicts(values, error, better, said):
    assert gaps.verdict(gaps.difference(values, [error] * 3, BASES), better) == said


def test_an_effect_of_several_comparisons():
    assert gaps.together([gaps.SHOWS, gaps.SHOWS]) == "shows"
    assert gaps.together([gaps.SHOWS, gaps.HERE]) == "shows in these runs"
    assert gaps.together([gaps.SHOWS, gaps.NOT]) == "shows in part, in 1 of 2 comparisons"
    assert gaps.together([gaps.NOT, gaps.NOT]) == "does not show"
    assert gaps.together([gaps.SHOWS, gaps.AGAINST_HERE]) == "does not show: the opposite is there in 1 of 2 comparisons"


# The studies that there are.


@pytest.mark.parametrize("name", studies.names(ROOT / "studies"))
def test_studies_can_be_run(name):
    study = studies.read(name, ROOT / "studies")
    known = {"pope": {f"{split}/{metric}" for split in pope.SPLITS for metric in pope.METRICS}}
    known |= {benchmark: set(chair.METRICS) for benchmark in ("chair", "chair_sampled")}
    for key in (key for column in study.columns for key in metric_keys(column)):
        benchmark, _, rest = key.removesuffix(studies.VS_CONTROL).partition("/")
        names = known.get(benchmark) or set(module(benchmark).METRICS)
        assert rest in names or (benchmark in BENCHMARKS and rest.rpartition("/")[2] in names), key
    filled = cells.fill(studies.unfold(study, TINY), TINY, [], "small world")
    assert all(row.missing for row in filled.rows)
    runs = grid.missing_runs(filled, TINY)
    assert len(runs) == len(study.runs) * len(study.measured)
    assert sum(len(run.rows) for run in runs) == len(study.rows) * len(study.measured)


# A made-up study.

STUDY = """
title: Two lambdas
checkpoints: {validation: [world-1], test: [world-0, world-1, world-2]}
seeds: [0]
runs: {high: {}, low: {lambda: 0.0}}
rows:
  - {label: base, model: base, run: high}
  - {label: λ high, model: csr-1, run: high}
  - {label: λ low, model: csr-1, run: low}
blocks:
  - title: descriptions
    columns:
      - {title: CHAIR_S, metric: chair/chair_s, better: down}
      - {title: both, mean: [{metric: chair/chair_i, from_100: true}, chair/recall], better: up}
      - {title: words, metric: chair/length}
      - {title: beyond, metric: chair/chair_s_vs_truncated_base, better: down}
effects:
  - says: the reward helps
    source: CSR, Table 2
    steps: [{better: λ high, than: base}, {better: λ high, than: λ low}]
    figures: [CHAIR_S, both]
    otherwise: Too few steps, perhaps.
  - {says: at equal length too, source: CSR, steps: [{better: λ high, than: "base, cut"}], figures: [CHAIR_S]}
  - {says: low beats high, source: nobody, steps: [{better: λ low, than: λ high}], figures: [CHAIR_S], otherwise: It never did.}
notes: [Nothing of this was run.]
"""


def metrics_of(model, chair_s, world):
    """A metrics file; `chair_s` is this model's less the base's 30."""
    metrics = {
        "chair/chair_s": {"value": 30.0 + world + chair_s, "se": 1.0, "n": 9},
        "chair/chair_i": {"value": 10.0 + chair_s, "se": 1.0, "n": 9},
        "chair/recall": {"value": 60.0, "se": 1.0, "n": 9},
        "chair/length": {"value": 20.0, "se": 1.0, "n": 9},
    }
    if model != "base":
        metrics["chair/chair_s_vs_base"] = {"value": chair_s, "se": 0.3, "n": 9}
        metrics["chair/chair_i_vs_base"] = {"value": chair_s, "se": 0.4, "n": 9}
        metrics["chair/recall_vs_base"] = {"value": 0.0, "se": 0.2, "n": 9}
        metrics["chair/chair_s_vs_truncated_base"] = {"value": chair_s + 1, "se": 0.3, "n": 9}
    else:
        metrics["chair/chair_s_vs_base"] = {"value": None, "reason": "this is the base"}
    return metrics


def experiment(root, name, metrics, **params):
    """An experiment as DVC records it, whose evaluations ran with these params."""
    stages = {}
    for model, found in metrics.items():
        content = json.dumps(found).encode()
        digest = hashlib.md5(content).hexdigest()
        (root / digest[:2]).mkdir(parents=True, exist_ok=True)
        (root / digest[:2] / digest[2:]).write_bytes(content)
        used = params if model != "base" else {key: value for key, value in params.items() if key != "lambda"}
        stages[f"evaluate@{model}"] = {
            "params": {"params.yaml": used},
            "deps": [{"path": "data/benchmarks/test", "md5": "d" * 32}],
            "outs": [{"path": f"reports/metrics/{model}.json", "md5": digest}],
        }
    return experiments.Experiment(name, name * 8, root, [yaml.safe_dump({"stages": stages}).encode()], cache=root)


@pytest.fixture
def study(tmp_path):
    (tmp_path / "two.yaml").write_text(STUDY)
    return studies.read("two", tmp_path)


def figures_of(study, root, worlds, low=(-1.0, -0.5, -1.5)):
    """The study filled in from experiments on the test split: λ high is 2 to 2.2 below the base in CHAIR_S."""
    found = []
    for world in worlds:
        at = {"publish.world": TINY["publish"]["world"] | {"checkpoint": f"world-{world}"}, "evaluate.split": "test"}
        high = {"base": metrics_of("base", 0.0, world), "csr-1": metrics_of("csr-1", (-2.0, -2.1, -2.2)[world], world)}
        found.append(experiment(root, f"high{world}", high, **at, **{"lambda": TINY["lambda"]}))
        found.append(
            experiment(root, f"low{world}", {"csr-1": metrics_of("csr-1", low[world], world)}, **at, **{"lambda": 0.0})
        )
    return studies.Figures(study, cells.fill(studies.unfold(study, TINY), TINY, found, "small world"))


def test_differences_are_paired_where_the_files_are(study, tmp_path):
    figures = figures_of(study, tmp_path, range(3))
    gap = figures.gap("λ high", "base", "test", "CHAIR_S")
    assert gap.in_runs == pytest.approx([-2.0, -2.1, -2.2])
    assert gap.over_images == pytest.approx((-2.1 - 1.95996 * 0.3 / 3**0.5, -2.1 + 1.95996 * 0.3 / 3**0.5), abs=1e-4)
    cut = figures.gap("λ high", studies.CONTROL, "test", "CHAIR_S")
    assert cut.value == pytest.approx(-1.1)
    other = figures.gap("λ high", "λ low", "test", "CHAIR_S")  # of each against the base: 0.3 and 0.3
    reach = 1.95996 * (0.3**2 + 0.3**2) ** 0.5 / 3**0.5
    assert other.over_images == pytest.approx((-1.1 - reach, -1.1 + reach), abs=1e-4)
    both = figures.gap("λ high", "base", "test", "both")  # half of 2.1, with the mean of errors 0.4 and 0.2
    assert both.value == pytest.approx(1.05)
    assert both.over_images[1] - both.value == pytest.approx(1.95996 * 0.3 / 3**0.5, abs=1e-4)
    words = figures.gap("λ high", "base", "test", "words")  # tested against nothing in the files: two errors of 1
    assert words.over_images[1] == pytest.approx(1.95996 * 2**0.5 / 3**0.5, abs=1e-4)
    assert figures.gap("λ high", "base", "validation", "CHAIR_S") is None
    beyond = figures.gap("λ high", "base", "test", "beyond")  # a difference already, of which the base has none
    assert beyond.in_runs == pytest.approx([-1.0, -1.1, -1.2])
    assert figures.gap("λ high", "λ low", "test", "beyond").in_runs == pytest.approx([-1.0, -1.6, -0.7])


def test_the_page_says_what_shows(study, tmp_path):
    text = page(figures_of(study, tmp_path, range(3)), "Preset `tiny`")
    # λ high − base is sure, λ high − λ low is not: −1, −1.6, −0.7.
    assert "| **the reward helps** | CSR, Table 2 | CHAIR\\_S | shows in these runs |" in text
    assert "| **at equal length too** | CSR | CHAIR\\_S | shows |" in text
    assert "it does not show: the opposite is there in 1 of 1 comparisons." in text
    assert "It never did." in text
    assert "| λ high − base | CHAIR\\_S ↓ | −2.1 | [−2.3, −1.9] | [−2.4, −1.8] | −2.0, −2.1, −2.2 | shows | – |" in text
    assert "| **base** | 31.0 (30.0, 31.0, 32.0) | 75.0 (75.0, 75.0, 75.0) | 20.0 (20.0, 20.0, 20.0) | – |" in text
    assert re.search(
        r"\*\*λ high\*\* \| −2.1 \[−2.3, −1.9\]\\\* \| \S+ \[\+0.9, \+1.2\]\\\* \| \+0.0 \[\+0.0, \+0.0\] \|", text
    )
    assert "missing, at least in part: world-1, seed 0 on validation)" in text
    assert "Preset `tiny`; seed 0; world-1 on validation; world-0, world-1, world-2 on test." in text
    assert "high0 (code of high0high0hi, benchmark data dddddddddddd): world-0, seed 0, test, run high" in text
    assert "run low: lambda=0.0" in text
    assert "- Nothing of this was run." in text


def test_the_page_of_a_study_that_has_just_begun(study, tmp_path):
    text = page(figures_of(study, tmp_path, [0]), "Preset `tiny`")
    assert "| λ high − base | CHAIR\\_S ↓ | −2.0 | – | [−2.6, −1.4] | −2.0 | shows in these runs | – |" in text
    text = page(figures_of(study, tmp_path, []), "Preset `tiny`")
    assert len(re.findall("not measured \\|", text)) == 3
    assert "nothing is measured yet" in text
    assert "Too few steps" not in text
    assert "\n\n\n" not in text


def test_a_malformed_study_is_refused(tmp_path):
    for old, new, message in (
        ("run: low}", "run: lost}", "row 'λ low' is of run 'lost', which is not among high, low"),
        ("than: λ low}]", "than: λ lower}]", "effect 'the reward helps' compares λ lower; rows: base, λ high, λ low"),
        ("figures: [CHAIR_S, both]", "figures: [words]", "must name figures that have a better side: CHAIR_S, beyond, both"),
        ("seeds: [0]", "seeds: [0, 0]", "seeds must be one or more, each once"),
        ("world-0, world-1", "world-1, world-1", "checkpoints of test must be one or more, each once"),
    ):
        assert old in STUDY
        (tmp_path / "two.yaml").write_text(STUDY.replace(old, new))
        with pytest.raises(TableError, match=re.escape(message)):
            studies.read("two", tmp_path)
    with pytest.raises(TableError, match="no study 'three'; studies: two"):
        studies.read("three", tmp_path)


def test_a_study_varies_the_checkpoint_of_a_publication(study):
    with pytest.raises(TableError, match=r"policy\.checkpoint = llava-hf/llava-1\.5-7b-hf is none of publish"):
        studies.unfold(study, read_raw(ROOT / "presets/llava-1.5-7b.yaml"))
    assert studies.preset_of({**TINY, "runtime": {}}, ROOT / "presets") == "tiny"
    assert studies.preset_of({**TINY, "lambda": 0.3}, ROOT / "presets") is None
