"""The report on made-up answers: tables, figures and page. The scores come from the real scorer, so that the keys must fit."""

import asyncio
import csv
import io
import itertools
import json
import random
import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from ruamel.yaml import YAML

from lookagain import images
from lookagain.evaluation.questions import BenchmarkImages, read_annotations
from lookagain.evaluation.scoring import Bootstrap, score_model
from lookagain.metrics import chair, pope
from lookagain.pairs import Made, write_pairs
from lookagain.records import Answer, Metric, Pair, Provenance, RecordError, write_metrics, write_records
from lookagain.report import attention, compare, distributions, examples, figures, markup, page, tables

OBJECTS = ["dog", "cat", "car", "bus", "apple", "hot dog", "teddy bear", "person", "chair", "cup"]
# Made-up models: (objects named, chance that a named one is absent, chance that a yes/no answer is wrong)
MODELS = {
    "base": (6, 0.25, 0.06),
    "stic-stage1": (5, 0.18, 0.05),
    "stic": (5, 0.16, 0.05),
    "stic-dar": (5, 0.16, 0.04),
    "csr-1": (5, 0.14, 0.06),
    "csr-2": (4, 0.11, 0.06),
    "csr-3": (4, 0.08, 0.07),
}


def build_workspace(root, models=tuple(MODELS), count=60):
    """Everything that the report reads, in the pipeline's places under `root`."""
    rng = random.Random(0)
    benchmark = root / "data/benchmarks/test"
    truth = {f"{number:012d}": rng.sample(OBJECTS, 4) for number in range(1, count + 1)}
    _write_benchmark(benchmark, truth, rng)
    for folder in (benchmark, root / "data/sample"):
        images.write_shards(folder / "images", [(one, _png(rng), None) for one in truth])
    annotations = read_annotations(benchmark, "", "Describe.", BenchmarkImages(benchmark, 10**6))
    base = None
    for model in models:
        answers = [_answer(question, truth[question.image_id], model, rng) for question in annotations.questions]
        write_records(root / f"data/answers/{model}.jsonl", answers)
        metrics = score_model(annotations, answers, base, None, Bootstrap(50, 0))
        write_metrics(root / f"reports/metrics/{model}.json", metrics)
        base = base or answers
        folder = root / "models" / model
        folder.mkdir(parents=True)
        facts = {"base": "b", "model_name": "world-0", "publisher": "small world", "credits": "Drawings by someone."}
        (folder / "lineage.json").write_text(json.dumps(facts | {"fingerprint": model.ljust(64, "0")}))
        if model not in ("base", "stic-dar"):
            (folder / "training_log.json").write_text(json.dumps(_log(model, rng)))
    (root / "models/stic-stage1/reference_logps.json").write_text('{"stic-0": [-1.0, -3.0], "stic-1": [-2.0, -3.5]}')
    made = [_pair(number, image, rng) for number, image in enumerate(truth)]
    write_pairs(root / "data/pairs/stic", Made(made, {}, images.ImageStore(root / "data/sample/images")))
    measured = {"pairs/all/pairs": Metric(60.0), "pairs/all/length_gap": Metric(-1.25, 0.5, 60)}
    write_metrics(
        root / "reports/metrics/pairs/stic.json", measured | {"pairs/chosen/chair_i": Metric(None, reason="no truth")}
    )


def _write_benchmark(folder, truth, rng):
    folder.mkdir(parents=True)
    categories = [{"id": number, "name": name} for number, name in enumerate(OBJECTS, 1)]
    entries = [
        {"id": int(one), "file_name": f"{one}.png", "scene": "park", "subsets": [] if int(one) % 3 else ["novel_art"]}
        for one in truth
    ]
    boxes = [{"image_id": int(one), "category_id": OBJECTS.index(name) + 1} for one, names in truth.items() for name in names]
    (folder / "instances.json").write_text(json.dumps({"images": entries, "categories": categories, "annotations": boxes}))
    captions = [{"image_id": int(one), "caption": "A scene."} for one in truth]
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    for split in pope.SPLITS:
        lines = [
            {
                "question_id": f"{one}{name}",
                "image": f"{one}.png",
                "text": f"Is there a {name}?",
                "label": "yes" if name in names else "no",
            }
            for one, names in truth.items()
            for name in rng.sample(OBJECTS, 4)
        ]
        (folder / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, lines)))


def _png(rng):
    buffer = io.BytesIO()
    image = Image.new("RGB", (8, 8), tuple(rng.randrange(256) for _ in range(3)))
    image.putpixel((3, 3), (255, 255, 255))
    image.resize((64, 64), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _answer(question, names, model, rng):
    named, absent, wrong = MODELS[model]
    if question.benchmark == "pope":
        right = rng.random() > wrong
        response = question.reference if right else {"yes": "no", "no": "yes"}[question.reference]
        score, reason = float(right), None
    else:
        absent = absent if question.benchmark == "chair_sampled" else absent / 4
        others = [name for name in OBJECTS if name not in names]
        said = [rng.choice(others if rng.random() < absent else names) for _ in range(named)]
        response = "The image shows a <b>park</b>. " + " ".join(f"On the left there is a {name}." for name in said)
        score, reason = None, "scored over all"
    return Answer(
        question.id, question.image_id, question.benchmark, question.split, model, question.prompt, response, score, reason
    )


def _pair(number, image, rng):
    name = "low_resolution" if number % 2 else "none"
    decoding = {"temperature": 0.2, "top_p": 1.0, "max_new_tokens": 96}
    good = Provenance("Describe step by step.", {"name": "none"}, decoding, number, relevance=25.0 + number % 7)
    bad = Provenance("Imagine objects.", {"name": name, **({"size": 14} if number % 2 else {})}, decoding, number)
    said = f"There is a {rng.choice(OBJECTS)} & <script>alert(1)</script>."
    return Pair(f"stic-{number}", image, "stic", "Outline the key elements.", "There is a dog.", [said], good, [bad])


def _log(model, rng):
    length = 40 if model.startswith("csr") else 75
    trend = [1 - 2.718 ** (-step / 15) for step in range(length)]
    log = [{"step": step, "loss": 0.69 - 0.4 * rise + rng.gauss(0, 0.03)} for step, rise in enumerate(trend)]
    if model != "stic":
        for entry, rise in zip(log, trend, strict=True):
            entry |= {"reward_margin": 2 * rise + rng.gauss(0, 0.2), "reward_accuracy": min(1, 0.5 + 0.45 * rise)}
    return log


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    build_workspace(root)
    return root


@pytest.fixture(scope="module")
def metrics(workspace):
    return tables.read_all(workspace / "reports/metrics", tables.models_of(["stic-stage1", "stic", "stic-dar"], 3))


def test_models_are_in_the_order_of_the_params():
    assert tables.models_of(["stic", "b"], 2) == ["base", "stic", "b", "csr-1", "csr-2"]
    assert [tables.label(model) for model in ("stic-dar", "csr-2", "other")] == ["STIC + DaR", "CSR 2", "other"]


def test_every_figure_of_the_table_is_measured(metrics):
    table = tables.build(metrics)
    titles = [title.format(subset="novel_art") for title, _ in tables.SECTIONS[:4]]
    assert [section.title for section in table.sections] == titles  # the suite is not asked
    assert tables.reasons(table.sections) == []
    for section in table.sections:
        assert [row.model for row in section.rows if not row.control] == list(metrics)
        controls = [row.model for row in section.rows if row.control]
        assert controls == (list(metrics)[1:] if "descriptions" in section.title else [])


def test_mean_f1_is_the_mean_and_its_error_an_upper_bound(metrics):
    parts = [metrics["stic"][f"pope/{split}/f1"] for split in pope.SPLITS]
    mean = tables.find(metrics["stic"], tables.MEAN_F1)
    assert mean.value == pytest.approx(sum(part.value for part in parts) / 3)
    assert mean.se == pytest.approx(sum(part.se for part in parts) / 3)


def figures_of(value, p, **extra):
    return {"chair/chair_s": Metric(value, 1.0, 10), "chair/chair_s_p_vs_base": Metric(p), **extra}


def test_two_models_are_compared_with_corrected_p_values():
    metrics = {f"chair/{name}": Metric(20.0, 1.0, 10) for name in ("chair_s", "recall")}
    metrics |= {f"chair/{name}_vs_base": Metric(-10.0, 1.0, 10, low=-12.0, high=-8.0) for name in ("chair_s", "recall")}
    metrics |= {"chair/chair_s_p_vs_base": Metric(0.02), "chair/recall_p_vs_base": Metric(0.5)}
    metrics |= {
        "pope/random/accuracy": Metric(90.0),
        "pope/random/accuracy_vs_base": Metric(1.0),
        "pope/random/p_vs_base": Metric(0.03),
    }
    rows = compare.differences(metrics)
    assert [(row.key, row.p, row.p_holm) for row in rows] == [
        ("chair/chair_s", 0.02, pytest.approx(0.06)),
        ("chair/recall", 0.5, 0.5),
        ("pope/random/accuracy", 0.03, pytest.approx(0.06)),
    ]
    console = Console(width=80, file=io.StringIO(), color_system=None)
    compare.show(rows, "csr-1", "stic", console)
    assert "20.0  30.0  -10.0   -12.0, -8.0  0.02      0.06" in console.file.getvalue()


def test_the_contact_sheet_enlarges_small_images_into_a_grid(workspace):
    sheet = examples.contact_sheet(next(workspace.glob("data/benchmarks/*/images")), 0, 10**6)
    assert sheet.width > 6 * examples.SHEET_CELL
    assert sheet.getpixel((1, 1)) != (255, 255, 255)


def test_p_values_are_corrected_over_their_table():
    measured = {"base": {"chair/chair_s": Metric(30.0, 1.0, 10)}}
    measured |= {name: figures_of(20.0, p) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))}
    (section,) = tables.build(measured).sections
    assert [row.cells[0].p for row in section.rows] == [None, *map(pytest.approx, (0.03, 0.06, 0.06))]


@pytest.mark.parametrize(("p", "sign"), [(0.2, ""), (0.05, ""), (0.049, "*"), (0.009, "**")])
def test_significance_marks(p, sign):
    measured = {
        "base": {"chair/chair_s": Metric(30.0, 1.0, 10)},
        "stic": figures_of(20.0, p, **{"chair/chair_s_vs_base": Metric(-10.0)}),
    }
    section = tables.build(measured).sections[0]
    cell = section.rows[1].cells[0]
    assert tables.mark(cell) == sign
    assert cell.better is True  # fewer hallucinations
    assert tables.figure(cell, section.columns[0], []) == f"20.0 ± 1.0{sign}"


def test_null_and_absent_figures_give_their_reasons():
    measured = {
        "base": figures_of(30.0, 1.0),
        "stic": {"chair/chair_s": Metric(None, reason="no judge")},
        "csr-1": None,
    }
    table = tables.build(measured)
    text = tables.to_markdown(table)
    assert "n/a [" in text
    assert "no judge" in text
    assert "CSR 1 is not evaluated" in text
    assert any("CSR 1" in line for line in page.missing_figures(measured))
    assert any("no judge" in line for line in page.missing_figures(measured))


def test_missing_or_broken_metrics_files_are_named(tmp_path, metrics):
    with pytest.raises(RecordError, match=r"base\.json.*dvc repro"):
        tables.read_all(tmp_path, ["base"])
    (tmp_path / "base.json").write_text('{"pope/random/accuracy": {"valu": 1}}')
    with pytest.raises(RecordError, match=r"base\.json is no metrics file"):
        tables.read_all(tmp_path, ["base"])


def test_the_written_forms_agree(metrics, tmp_path):
    table = tables.build(metrics)
    tables.write(table, tmp_path)
    assert tables.from_json((tmp_path / "results.json").read_text()) == table
    with (tmp_path / "results.csv").open() as file:
        rows = {(row["model"], row["row"], row["metric"]): row for row in csv.DictReader(file)}
    assert float(rows["csr-3", "model", "chair/chair_s"]["value"]) == metrics["csr-3"]["chair/chair_s"].value
    key = "chair/truncated_base/recall"
    assert float(rows["csr-3", "control", key]["value"]) == metrics["csr-3"][key].value
    assert f"{metrics['csr-3']['chair/chair_s'].value:.1f} ± " in (tmp_path / "results.md").read_text()


FIGURE = re.compile(r"\d+\.\d+ ± \d+\.\d+\**")


def test_the_terminal_shows_the_last_table_in_80_columns(metrics, tmp_path):
    tables.write(tables.build(metrics), tmp_path)
    console = Console(width=80, file=io.StringIO(), color_system=None)
    tables.print_results(tmp_path / "results.json", console)
    text = console.file.getvalue()
    assert "STIC stage 1" in text
    assert "…" not in text
    first = next(line for line in text.splitlines() if line.startswith("CSR 3"))
    assert f"{metrics['csr-3']['pope/random/accuracy'].value:.1f} ± " in first
    narrow = Console(width=44, file=io.StringIO(), color_system=None)
    tables.print_results(tmp_path / "results.json", narrow)
    wide, parts = ([line for line in out.splitlines() if line.startswith("CSR 3")] for out in (text, narrow.file.getvalue()))
    assert len(parts) > len(wide)  # columns that do not fit stand below, with no figure broken in two
    assert sorted(FIGURE.findall(" ".join(parts))) == sorted(FIGURE.findall(" ".join(wide)))
    with pytest.raises(RecordError, match="dvc repro"):
        tables.print_results(tmp_path / "none.json")


def test_figures_are_the_same_bytes_each_time(metrics, workspace, tmp_path):
    logs = figures.read_logs(workspace / "models", list(metrics))
    assert set(logs) == {"stic-stage1", "stic", "csr-1", "csr-2", "csr-3"}
    for folder in ("a", "b"):
        figures.write(metrics, logs, scores_of(workspace), ATTENTION, OVERLAP, tmp_path / folder)
    made = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert made == sorted(f"{name}.{kind}" for name in figures.FIGURES for kind in ("png", "svg"))
    for name in made:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


OVERLAP = {
    "overlap": {"scenes": {"value": 90.0, "se": 3.0}, "chartqa": {"value": None, "se": None}},
    "points": {"unlabeled": [[0.0, 1.0], [1.0, 1.0]], "scenes": [[1.0, 0.0]], "chartqa": []},
}


GAP = {"value": 1.0, "low": 0.5, "high": 1.5}
CURVES = {"layers": {"own": [[30.0, 1.0], [20.0, 1.0]]}, "positions": {"own": [[25.0, 1.0]]}}
ATTENTION = {
    "bin": 8,
    "images": 2,
    "models": {
        "base": {"figures": {}, **CURVES},
        "csr-3": {"figures": {"own/image_vs_base": GAP, "same/image_vs_base": GAP}, **CURVES},
    },
}


def test_attention_is_read_where_it_was_measured(tmp_path):
    assert attention.read(tmp_path / "none.json") == {}
    path = tmp_path / "attention.json"
    path.write_text(json.dumps(ATTENTION))
    assert attention.read(path)["models"].keys() == {"base", "csr-3"}
    path.write_text('{"models": {}}')
    with pytest.raises(RecordError, match="dvc repro measure_attention"):
        attention.read(path)


def scores_of(workspace):
    return distributions.read_scores(workspace / "data/pairs", workspace / "models", {"stic": "stic-stage1", "seva": "seva"})


def test_scores_of_pairs_are_read_where_they_are(workspace):
    scores = scores_of(workspace)
    assert set(scores) == {"stic"}  # there are no pairs of seva
    assert scores["stic"]["relevance"]["chosen"] == [25.0 + number % 7 for number in range(60)]
    assert scores["stic"]["logp"] == {"chosen": [-1.0, -2.0], "rejected": [-3.0, -3.5]}


def test_figures_are_drawn_without_csr_controls_or_logs(tmp_path):
    measured = {"base": {"chair/chair_s": Metric(30.0), "chair/recall": Metric(70.0)}, "stic": None}
    figures.write(measured, {}, {}, {}, {}, tmp_path)
    assert all((tmp_path / f"{name}.svg").is_file() for name in figures.FIGURES)


def test_running_mean():
    assert figures.running_mean([0, 3, 6, 9], 1) == [1.5, 3, 6, 7.5]
    assert figures.running_mean([1, 5], 0) == [1, 5]


WORDS = st.sampled_from(
    [*OBJECTS, "dogs", "baby elephant", "toilet seat", "toilet", "seat", "motor bike", "a", "there is.", "<b>", "Hot", "dog."]
)


@given(st.lists(WORDS, max_size=12).map(" ".join))
def test_marks_are_the_mentions_that_chair_counts(text):
    found = examples.spans(text)
    assert [category for _, _, category in found] == chair.mentions(text)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(found))


def test_notes_are_escaped_and_their_code_is_code():
    assert markup.items(["run `a & b` <c>"], "note") == '<ul class="note"><li>run <code>a &amp; b</code> &lt;c&gt;</li></ul>'


def test_absent_objects_are_marked_and_text_is_escaped():
    marked = markup.mark_objects("A <b>hot dog</b> & two cars.", {"car"})
    assert '<mark class="absent" title="hot dog: not in the image">hot dog</mark>' in marked
    assert '<mark class="present" title="car: in the image">cars</mark>' in marked
    assert "&lt;b&gt;" in marked
    assert re.sub(r"<[^>]*>", "", marked) == "A &lt;b&gt;hot dog&lt;/b&gt; &amp; two cars."


MODEL_OF = {tables.label(model): model for model in MODELS}


class Outline(HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.references, self.ids = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.references.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def content_of(workspace, metrics, folder):
    logs = figures.read_logs(workspace / "models", list(metrics))
    figures.write(metrics, logs, scores_of(workspace), ATTENTION, OVERLAP, folder)
    shown = ["base", "stic", "csr-3"]
    return page.Content(
        metrics=metrics,
        table=tables.build(metrics),
        figures=folder,
        params={"lambda": 0.9, "seed": 0, "note": "<i>"},
        lineages=page.read_lineages(workspace / "models", list(metrics)),
        gallery=examples.read_gallery(workspace / "data/benchmarks/test", workspace / "data/answers", shown, 0, 10**6),
        pairs=examples.read_pairs(workspace / "data/pairs", ["stic", "csr-1"], 0, 10**6),
        diagnostics=tables.read_all(workspace / "reports/metrics/pairs", ["stic", "seva"]),
        missing=page.missing_figures(metrics),
    )


def test_the_page_is_whole_and_needs_no_network(workspace, metrics, tmp_path):
    content = content_of(workspace, metrics, tmp_path)
    text = page.render(content)
    outline = Outline(text)
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert all(reference.startswith(("#", "data:")) for reference in outline.references)
    assert {reference[1:] for reference in outline.references if reference.startswith("#")} <= set(outline.ids)
    assert outline.tags.count("script") == 1  # the page's own
    assert "&lt;script&gt;alert(1)" in text
    assert outline.tags.count("svg") == len(figures.FIGURES)
    assert text.count('<mark class="absent" title') > 0
    assert '<td>60</td><td title="not counted here">–</td>' in text
    assert '<td>-1.2 ± 0.5</td><td title="no truth">–</td>' in text


def test_the_gallery_and_pairs_are_drawn_by_seed(workspace, metrics, tmp_path):
    content = content_of(workspace, metrics, tmp_path)
    assert len(content.gallery) == examples.GALLERY_IMAGES
    assert all(len(example.descriptions) == 6 for example in content.gallery)  # three models, greedy and sampled
    kinds = [example.pair.rejected_provenance[0].image_transform["name"] for example in content.pairs["stic"]]
    assert sorted(kinds) == ["low_resolution"] * 2 + ["none"] * 2
    assert "csr-1" not in content.pairs  # no such file
    assert examples.draw(["a", "b", "c", "d"], 1, 2) == examples.draw(["d", "c", "b", "a"], 1, 2)


@pytest.mark.parametrize(
    ("value", "p", "verdict", "kind"),
    [(10.0, 0.01, "below", "better"), (29.0, 0.6, "like", ""), (50.0, 0.01, "above", "worse")],
)
def test_the_summary_compares_with_the_control(value, p, verdict, kind):
    measured = {"chair_sampled/chair_s": Metric(value, 1.0), "chair_sampled/truncated_base/chair_s": Metric(30.0, 1.0)}
    measured["chair_sampled/chair_s_p_vs_truncated_base"] = Metric(p)
    chair_s, recall, accuracy = page.summary(measured)
    shown = f'<td class="{kind}">' if kind else "<td>"
    assert chair_s == f"{shown}{value:.1f}<small>{verdict} 30.0</small></td>"
    assert recall == accuracy == "<td>–</td>"


# In the second results table: the groups' labels in the order that is seen, and the head of CHAIR_S.
TABLE = "document.querySelectorAll('#results table')[1]"
LABELS = f"[...{TABLE}.tBodies].map((group) => [...group.rows].map((row) => row.cells[0].innerText))"
HEAD = f"{TABLE}.tHead.rows[0].cells[1]"


@pytest.mark.skipif(browser.installed() is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page_and_sorts_its_tables(workspace, metrics, tmp_path):
    path = tmp_path / "index.html"
    path.write_text(page.render(content_of(workspace, metrics, tmp_path)))

    async def look():
        async with browser.tab(tmp_path / "profile") as tab:
            await tab.open(path.as_uri())
            images_shown = "[...document.images].map((image) => image.complete && image.naturalWidth > 0)"
            assert await tab.ask(images_shown) == [True] * (examples.GALLERY_IMAGES + examples.PAIRS_PER_METHOD)
            written = await tab.ask(LABELS)
            orders = []
            for _ in range(3):
                await tab.ask(f"{HEAD}.querySelector('button').click()")
                orders.append((await tab.ask(f"{HEAD}.ariaSort"), await tab.ask(LABELS)))
            for width, dark in ((375, False), (375, True), (1280, True)):
                await tab.open(path.as_uri(), width, dark)
                await tab.ask("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                assert await tab.ask("document.documentElement.scrollWidth") <= width
                shade = await tab.ask("getComputedStyle(document.body).backgroundColor")
                assert shade == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
            return written, orders, tab.problems

    written, orders, problems = asyncio.run(look())
    assert problems == []
    lowest_first = sorted(written, key=lambda group: metrics[MODEL_OF[group[0]]]["chair/chair_s"].value)
    highest_first = sorted(written, key=lambda group: -metrics[MODEL_OF[group[0]]]["chair/chair_s"].value)
    assert orders == [("ascending", lowest_first), ("descending", highest_first), (None, written)]
    assert [len(group) for group in written] == [1, *[2] * 6]  # each model with its control


def test_the_report_imports_no_torch():
    code = "import sys; from lookagain.report import figures, page, tables; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_stage_writes_all_and_says_what_is_absent(workspace, monkeypatch, capsys):
    repository = Path(__file__).parents[1]
    yaml = YAML()
    settings = yaml.load(repository / "params.yaml")
    settings["csr"]["iterations"], settings["evaluate"]["split"] = 3, "test"
    yaml.dump(settings, workspace / "params.yaml")
    (workspace / "data/sample/skipped.json").write_text('[{"image_id": "x7", "reason": "truncated"}]')
    monkeypatch.chdir(workspace)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    stage = runpy.run_path(str(repository / "stages/report.py"))
    sent = {}
    monkeypatch.setattr(stage["tracking"], "parent", lambda metrics, files, tables: sent.update(metrics, tables=tables))
    stage["main"]()
    text = Path("reports/index.html").read_text()
    assert "image x7 of the pool was skipped: truncated" in text
    assert "nothing is shown of data/pairs/csr-1/pairs.jsonl" in text
    assert "policy.checkpoint" in text
    assert "base <b>world-0</b>" in text
    assert "Drawings by someone." in text
    assert Image.open("reports/figures/images.png").size == (788, 524)
    assert (
        sent["csr-3/pope/random/accuracy"]
        == tables.read_all("reports/metrics", ["base", "csr-3"])["csr-3"]["pope/random/accuracy"].value
    )
    assert {row["model"] for row in sent["tables"]["descriptions"]} == {"base", "stic", "csr-3"}  # seva has no answers
    assert {row["method"] for row in sent["tables"]["pairs"]} == {"stic"}
    assert "CSR 3" in capsys.readouterr().out
