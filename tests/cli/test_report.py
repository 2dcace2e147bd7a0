"""The report: everything in it, nothing from outside it."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tightrein.errors import TightreinError
from tightrein.lab import figure, write_report
from tightrein.lab.figures import MOST_POINTS, _apart, compact, mean_series, thinned

VOID = {"meta", "br", "use", "path", "link"}


class Page(HTMLParser):
    """Tags must close in order; ids must be unique."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def render(tmp_path):
    def write(*folders):
        out = tmp_path / "deep" / "report.html"
        write_report(folders, out)
        html = out.read_text("utf-8")
        page = Page()
        page.feed(html)
        assert page.open == []
        assert len(page.ids) == len(set(page.ids))
        assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
        assert not re.search(r"(?:src|href)=\"?(?:https?:|//)|url\((?!#)|@import", html)
        return html, re.sub(r"\s+", " ", " ".join(page.text))

    return write


def test_the_report_shows_both_engines(make_run, render):
    folders = [make_run("a", method="ppo_clip"), make_run("b", settings={"objective.surrogate.epsilon": 0.3})]
    folders += [make_run("c", engine="language", method="grpo", seeds=1)]
    html, text = render(*folders)
    assert "ppo_clip and spo on CartPole-v1" in text
    assert "grpo on chain_sum" in text
    assert "return of an episode against environment steps on CartPole-v1." in text
    assert "spo: mean over 2 seeds, from 0.5 to 390.5 (seeds from 390 to 391) at 3,900" in text
    assert "grpo: one seed, from 50 to 80 at 30" in text
    assert re.search(r"390\.5 390\.0 to 391\.0", text)
    assert "80.0 %" in text
    assert "objective.surrogate.epsilon" in text
    assert "tightrein train control --method spo" in text
    assert np.__version__ in text
    assert html.count("<svg") == 2
    assert html.count('role="img" aria-labelledby=') == 2
    assert "prefers-color-scheme: dark" in html
    assert "var(--c0)" in html
    assert "var(--ink)" in html
    assert len(html) < 200_000


def test_a_folder_of_runs_is_enough(make_run, render):
    _, text = render(make_run("a").parent)
    assert "1 run, started" in text


def test_runs_that_differ_in_the_seed_alone_are_one_line(make_run, render):
    _, text = render(make_run("a", seeds=1), make_run("b", seeds=1, seed=1))
    assert "What differs" not in text
    assert "mean over 2 seeds" in text


def test_runs_of_one_method_are_told_apart(make_run, render):
    _, text = render(make_run("a", lr=0.1), make_run("b", lr=0.2))
    assert "spo (lr=0.1) and spo (lr=0.2) on CartPole-v1" in text


def test_an_unfinished_run_and_one_without_measurements(make_run, render):
    _, text = render(make_run("a", finished=False), make_run("b", method="ppo_clip", updates=0, finished=False))
    assert "unfinished at step 3,900" in text
    assert "ppo_clip: nothing was measured" in text
    assert "nothing logged yet" in text
    assert "not measured" in text


def test_nothing_measured_at_all(make_run, render):
    _, text = render(make_run("a", updates=0))
    assert "nothing was measured" in text


def test_a_line_cut_short_and_missing_values(make_run, render):
    folder = make_run("a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4000, "return_mean": null, "seed": 0}\n{"step": 41')
    _, text = render(folder)
    assert "spo: mean over 2 seeds" in text


def test_names_are_escaped(make_run, render):
    html, _ = render(make_run("a", method="<script>alert(1)</script>"))
    assert "<script>" not in html


def test_many_methods_share_the_panel(make_run, render):
    html, _ = render(*(make_run(f"r{i}", method=f"method_{i}") for i in range(10)))
    assert "var(--c7)" in html


def test_what_is_no_run(tmp_path, make_run):
    (tmp_path / "empty").mkdir()
    for folders in ([tmp_path / "empty"], [tmp_path / "gone"], [], [make_run("a"), tmp_path / "empty"]):
        with pytest.raises(TightreinError, match=r"is not a run|does not exist|no run was named"):
            write_report(folders, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_an_out_that_cannot_be_written(make_run):
    folder = make_run("a")
    with pytest.raises(TightreinError, match="could not be written"):
        write_report([folder], folder)


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_the_figure_alone(make_run, tmp_path, suffix, start):
    folders = [make_run("a"), make_run("b", engine="language")]
    for name in ("one", "two"):
        figure(folders, tmp_path / f"{name}.{suffix}")
    data = (tmp_path / f"one.{suffix}").read_bytes()
    assert data.startswith(start)
    assert data == (tmp_path / f"two.{suffix}").read_bytes()


def test_a_figure_of_an_unknown_kind(make_run, tmp_path):
    with pytest.raises(TightreinError, match="does not end in a kind of picture"):
        figure([make_run("a")], tmp_path / "figure.docx")


def test_the_mean_counts_a_seed_where_it_has_been():
    long = np.array([0.0, 1, 2, 3]), np.array([0.0, 1, 2, 3])
    short = np.array([1.0, 2]), np.array([3.0, 4])
    x, y = mean_series([long, short])
    np.testing.assert_array_equal(x, [0, 1, 2, 3])
    np.testing.assert_array_equal(y, [0, 2, 3, 3])


def test_thinning_keeps_the_ends_and_the_level():
    x = np.arange(5000.0)
    thin_x, thin_y = thinned((x, 2 * x))
    assert len(thin_x) == MOST_POINTS
    assert (thin_x[0], thin_x[-1]) == (0, 4999)
    np.testing.assert_allclose(thin_y, 2 * thin_x)


def test_labels_keep_apart_and_inside():
    placed = np.array(_apart([0.97, 0.98, 0.99, 1.0]))
    assert (np.diff(placed) > 0.07).all()
    assert placed.max() <= 1.0


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (250_000, "250k"), (1.5e6, "1.5M"), (-2000, "-2k")]
)
def test_axis_numbers(value, text):
    assert compact(value) == text


def test_a_method_has_one_colour_in_the_whole_report(make_run, render):
    folders = [make_run("a", method="ppo_clip"), make_run("b"), make_run("c", engine="language", method="grpo")]
    html, _ = render(*folders, make_run("d", engine="language"))
    rows = re.findall(r'style="color: var\(--c(\d)\)">(\w+)</th>', html)
    assert rows == [("0", "ppo_clip"), ("1", "spo"), ("2", "grpo"), ("1", "spo")]
