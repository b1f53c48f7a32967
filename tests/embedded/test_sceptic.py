import json

from benchmarks.embedded.sceptic import PAGE, RESULTS, TRIALS, page
from lec_guard.detect.bundle import EMBEDDED, read_bundle


def test_the_page_shows_what_was_found() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert PAGE.read_text(encoding="utf-8") == page(results)
    assert list(results)[-1] == read_bundle(EMBEDDED).detector_id
    assert {len(found) for found in results.values()} == {len(TRIALS)}


def test_a_text_is_as_wanted_where_it_is_stopped_or_passes() -> None:
    found = [["block" if trial.wanted == "stop" else "flag", "r"] for trial in TRIALS]
    assert f"{len(TRIALS)} of {len(TRIALS)}" in page({"d": found})
    wrong = [["allow" if trial.wanted == "stop" else "block", None] for trial in TRIALS]
    assert f"0 of {len(TRIALS)}" in page({"d": wrong})
