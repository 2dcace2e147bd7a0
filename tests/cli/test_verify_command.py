"""`tightrein verify`: what it prints, what it writes, its exit codes."""

from pathlib import Path

import pytest
from test_command import call

import tightrein as tr
from tightrein.cli.main import main
from tightrein.verify import results, table
from tightrein.verify.columns import FAST, Cell
from tightrein.verify.pin import DEMONSTRATIONS


def test_one_method_without_what_the_base_install_lacks():
    text = call("verify", "spo", "--workers", 1, without=("jax", "torch", "trl", "verl"))
    assert "not installed" in text
    assert "✗" not in text
    assert "1 methods in" in text


def test_an_unknown_method_is_a_slip():
    assert "unknown method 'spoo'; nearest: spo" in call("verify", "spoo", code=2)


@pytest.fixture
def found(monkeypatch):
    """The rows that a run finds, without running anything."""
    cells = {name: Cell("passed", "1e-16") for name in FAST}
    rows = {"spo": {**cells, "learning": Cell("passed", "return 500", 12.3)}}
    monkeypatch.setattr("tightrein.cli.verify.run", lambda *_: rows)
    return rows


def test_a_failed_claim_is_said_and_ends_with_1(found, capsys):
    assert main(["verify", "spo"]) == 0
    found["spo"]["gradients"] = Cell("failed", "gradient by logp: off by 1e-2")
    assert main(["verify", "spo"]) == 1
    text = capsys.readouterr().out
    assert "spo gradients: gradient by logp: off by 1e-2" in text
    assert table.failures(found) == ["spo gradients: gradient by logp: off by 1e-2"]


def test_what_was_found_is_recorded_and_written_down(found, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(results, "PAGE", tmp_path / "methods.md")
    assert results.recorded("spo").state == "not run"
    main(["verify", "spo", "--learning", "--write"])
    page = (tmp_path / "methods.md").read_text()
    assert "| `spo` | ✓ 1e-16 |" in page
    assert "✓ return 500 (12 s) | `tightrein verify spo --learning` |" in page
    assert results.recorded("spo") == Cell("passed", "return 500", 12.3)
    monkeypatch.setattr(results, "fingerprint", lambda method: "other")
    assert "have changed" in results.recorded("spo").says
    found["spo"]["learning"] = Cell("not run", "")
    main(["verify", "spo", "--write"])  # without --learning: what is recorded of it stays
    assert "return 500" in (tmp_path / "methods.md").read_text()


def test_writing_needs_a_checkout(found, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(results, "PAGE", tmp_path / "nowhere" / "methods.md")
    assert main(["verify", "spo", "--write"]) == 2
    assert "checkout" in capsys.readouterr().err


def test_the_page_is_what_the_record_says():
    assert results.PAGE.read_text() == results.page(), "make it again with `tightrein verify --write`"
    assert Path(__file__).parents[2] / "docs" / "methods.md" == results.PAGE


@pytest.mark.parametrize("key", tr.methods())
def test_every_method_has_shown_what_it_promises(key):
    from tightrein.verify.columns import discover

    discover()
    assert key in DEMONSTRATIONS
    assert results.recorded(key).state == "passed", results.recorded(key).says
    fast = {name: cell["state"] for name, cell in results.load()[key].items() if name != "learning"}
    assert set(fast) == set(FAST)
    assert set(fast.values()) <= {"passed", "not applicable"}
