"""The six jobs: what is asked, which rates a grid tries, what the page says of the results."""

import csv

import pytest

from benchmarks import jobs, jobs_results

RATE = jobs_results.default_rate("LoRA")


@pytest.fixture
def bank(tmp_path):
    path = tmp_path / "train.csv"
    rows = [(f"question {n}", f"kind {n % 3}") for n in range(30)]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "category"), *rows])
    return path, dict(rows)


def test_every_second_pair_asks_for_the_same_thing(bank):
    path, kind = bank
    pairs = list(jobs.same_or_not(path, 40, seed=3))
    assert [label for *_, label in pairs] == ["other", "same"] * 20
    for one, two, label in pairs:
        assert (kind[one] == kind[two]) == (label == "same") and one != two
    assert pairs == list(jobs.same_or_not(path, 40, seed=3)) != list(jobs.same_or_not(path, 40, 4))


class Curve(jobs_results.Results):
    """Results whose best rate is known."""

    def __init__(self, path, best):
        super().__init__(path)
        self.best = best

    def get(self, job, method, rate, out, seed=0):
        line = dict(job="j", method=method, rate=f"{rate:g}", trained="8", seconds="1")
        line |= dict(device="cpu", seed=str(seed))
        line |= dict(
            dev=str(-abs(rate - self.best)), scores=f"accuracy={0.9 - (rate != self.best)}"
        )
        return self.lines.setdefault(("j", method, line["rate"], "cpu", line["seed"]), line)


@pytest.mark.parametrize(
    ("best", "steps"),
    [(0, (-1, 0, 1)), (1, (-1, 0, 1, 2)), (2, (-1, 0, 1, 2)), (-2, (-2, -1, 0, 1))],
)
def test_a_grid_goes_on_where_its_best_rate_is_at_the_edge(tmp_path, best, steps):
    curve = Curve(tmp_path / "jobs.csv", RATE * jobs_results.STEP**best)
    curve.grid(None, "LoRA", tmp_path)
    tried = sorted(curve.rates("j", "LoRA")["cpu"])
    assert tried == [float(f"{RATE * jobs_results.STEP**n:g}") for n in steps]


def test_the_page_says_which_default_rates_are_more_than_ten_points_away(tmp_path):
    curve = Curve(tmp_path / "jobs.csv", RATE * jobs_results.STEP)
    curve.grid(None, "LoRA", tmp_path)
    text = jobs_results.page(curve, {"j": ("What?", "minipeft train")})
    assert (
        f"| LoRA | 8 | {RATE:g} | -0.100 | 1 | -0.100 | {RATE * jobs_results.STEP:g} | 0.900 |"
        in text
    )
    assert "0 of 1 rows" in text
    assert "LoRA on j is further away there; over the seeds 0, 1, 2" in text  # run for such a row
    assert f"-0.100 at its default, {RATE:g}, and 0.900 at {RATE * jobs_results.STEP:g}" in text


def test_every_stored_result_at_a_default_rate_stands_on_the_page():
    text = jobs.PAGE.read_text(encoding="utf-8")
    for line in jobs_results.Results().lines.values():
        if (line["device"], line["seed"]) == ("cpu", "0") and float(line["rate"]) == float(
            f"{jobs_results.default_rate(line['method']):g}"
        ):
            scores = " | ".join(f"{x:.3f}" for x in jobs_results.scores_of(line).values())
            row = f"| {line['method']} | {int(line['trained']):,} | {line['rate']} | {scores} |"
            assert row in text


def test_a_grid_is_compared_with_the_default_rate_on_the_same_device(tmp_path):
    results = jobs_results.Results(tmp_path / "jobs.csv")
    rows = [("cpu", RATE, 0.8), ("GPU", RATE, 0.7), ("GPU", RATE * 3, 0.75)]
    for device, rate, score in rows:
        line = dict(job="j", method="LoRA", rate=f"{rate:g}", trained="8", seconds="1")
        line |= dict(dev=f"{score}", scores=f"accuracy={score}", device=device, seed="0")
        results.lines["j", "LoRA", line["rate"], device, "0"] = line
    text = jobs_results.page(results, {"j": ("What?", "minipeft train")})
    assert f"| 0.800 | 1 | 0.700 | {RATE * 3:g} | 0.750 |" in text
    assert "The grid ran on: GPU, cpu." in text and "1 of 1 rows" in text


def test_a_file_made_earlier_with_other_rows_is_written_anew(tmp_path):
    places = jobs.Places(tmp_path, tmp_path, tmp_path)
    for text in ("old", "new"):
        path = places.made("x_test.csv", ("text",), [(text,)])
    assert [row["text"] for row in jobs_results.rows_of(path)] == ["new"]
