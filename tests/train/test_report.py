"""Pages hold all figures, show names as they are, and ask nothing of any other place."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from lec_guard.errors import UnsupportedValueError
from lec_guard.train import report
from lec_guard.train.evaluate import Evaluation
from lec_guard.train.trainer import Trained
from tests.train.results import WITH_CONTEXT, evaluated, trained

EVIL = "<script>alert('x')</script>\"&{{ 7 * 7 }}"
FIXED = {"kind", "method", "measure", "stage", "pooling", "gate"}
"""What is no word of a user's."""


class Page(HTMLParser):
    """Tags, attributes, shown words and links of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def values(self, tag: str, name: str) -> list[str]:
        return [value for own, key, value in self.attributes if (own, key) == (tag, name)]

    @property
    def text(self) -> str:
        return " ".join(self.words)


def evil(value, key=""):
    """The same with every word that a user gave made an attack on the page."""
    if isinstance(value, dict):
        # Where all values are numbers, keys are names too.
        named = key in ("sets", "seconds", "thresholds") and all(isinstance(own, float | int) for own in value.values())
        return {(name + EVIL if named else name): evil(own, name) for name, own in value.items()}
    if isinstance(value, list):
        return [evil(own, "" if isinstance(own, dict) else key) for own in value]
    return value + EVIL if isinstance(value, str) and key not in FIXED else value


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    return evaluated()


@pytest.fixture(scope="module")
def pages(evaluation) -> dict[str, str]:
    return {
        "train": report.train_report(trained(context=WITH_CONTEXT)),
        "evaluation": report.evaluation_report(evaluation),
    }


@pytest.mark.parametrize("name", ["train", "evaluation"])
def test_a_page_asks_nothing_of_any_other_place(pages, name):
    page = Page(pages[name])
    assert page.open == []
    assert not set(page.tags) & {"script", "link", "iframe", "object", "form", "base"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in page.values("meta", "content")
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.values("img", "src"))
    assert not any(scheme in pages[name] for scheme in ("http://", "https://", "url(", "@import"))


@pytest.mark.parametrize(("name", "count"), [("train", 4), ("evaluation", 5)])
def test_plots_are_in_the_page_whole_and_are_described(pages, name, count):
    page = Page(pages[name])
    sources, described = page.values("img", "src"), page.values("img", "alt")
    assert len(sources) == len(described) == count
    assert all(described)
    for source in sources:
        assert ElementTree.fromstring(base64.b64decode(source.partition(",")[2])).tag.endswith("svg")


@pytest.mark.parametrize("name", ["train", "evaluation"])
def test_every_part_is_in_the_table_of_contents(pages, name):
    page = Page(pages[name])
    linked = [link.removeprefix("#") for link in page.values("a", "href")]
    assert linked == page.values("section", "id")
    assert len(linked) > 5


@pytest.mark.parametrize(
    ("page_of", "model", "own"),
    [
        (report.train_report, Trained, lambda: trained(context=WITH_CONTEXT)),
        (report.evaluation_report, Evaluation, evaluated),
    ],
)
def test_what_users_named_is_shown_and_never_runs(page_of, model, own):
    plain = own()
    changed = model.model_validate(evil(json.loads(plain.model_dump_json())))
    before, after = Page(page_of(plain)), Page(page_of(changed))
    # Names change words and nothing else.
    assert after.open == []
    assert after.tags == before.tags
    assert [own[:2] for own in after.attributes] == [own[:2] for own in before.attributes]
    assert after.text.count(EVIL) > 15
    assert "49" not in set(after.text.split()) - set(before.text.split())


def test_every_free_word_of_a_result_is_told_somewhere():
    changed = Trained.model_validate(evil(json.loads(trained(context=WITH_CONTEXT).model_dump_json())))
    text = Page(report.train_report(changed)).text
    for words in (changed.head, changed.detector_id, *changed.labels, *changed.notes, *changed.seconds):
        assert words in text


def test_invisible_characters_are_shown():
    html = report.train_report(trained(head="mi\u202ene\x00", notes=("a\x1bb",)))
    assert "Training report: mi\\u202ene\\u0000" in html
    assert not {"\u202e", "\x00", "\x1b"} & set(html)


def test_numbers_are_on_the_right_and_words_on_the_left(pages):
    row = pages["train"].partition("lowest rate that can be known</th>")[2]
    assert '<th scope="row" class="wide">input</th>' in row
    assert '<td class="number">0.62</td>' in row


def test_a_run_without_curves_says_why_and_is_a_page_all_the_same():
    page = Page(
        report.train_report(trained(curves=None, screen=None, agreement=(), notes=("no learning curves: few",)))
    )
    assert "no learning curves: few" in page.text
    assert "Learning curves" not in page.text
    assert len(page.values("img", "src")) == 1


def test_figures_stand_beside_all_baselines_and_missing_ones_say_why(pages, evaluation):
    text = Page(pages["evaluation"]).text
    auc = evaluation.methods[0].overall.auc
    assert f"{auc.value:.2f} [{auc.low:.2f}, {auc.high:.2f}]" in text
    assert evaluation.methods[-1].reason in text
    assert "a rate of 0.001 needs 3,000 benign texts of other sets" in text


def test_unseen_sets_have_a_part_where_it_is_known_which_they_are(pages):
    assert "Unseen sets" not in pages["evaluation"]
    own = evaluated()
    methods = tuple(one.model_copy(update={"unseen": one.overall}) for one in own.methods)
    assert "the figures to quote" in report.evaluation_report(own.model_copy(update={"methods": methods}))


def test_an_evaluation_without_rates_or_thresholds_is_a_page():
    page = Page(report.evaluation_report(evaluated(rates=(), thresholds=None, budgets=None, baselines=[])))
    assert "no figures at thresholds" in page.text
    assert "At rates of false positives" not in page.text


def test_the_same_result_is_the_same_page(pages):
    assert report.train_report(trained(context=WITH_CONTEXT)) == pages["train"]


def test_the_card_says_what_was_fitted_what_is_promised_and_what_is_not():
    card = report.model_card(trained())
    assert card.startswith("# mine\n")
    for words in (
        "| injection | 80 |",
        "layer 1 mean of a transformer of 6 layers",
        "AUC 0.80, log loss 0.400 nats a text",
        "| input | 0.62 | 120 | 3 | 2.5% |",
        "below 3/120 = 2.5% cannot be known",
        "promises nothing",
        "17 families",
        "## Not to be used",
    ):
        assert words in card


def test_names_in_the_card_are_words_and_no_markup():
    head = "a|b\n# c [x](http://y.z) <b> `d` www.e.f $g$"
    card = report.model_card(trained(head=head, labels=("be|nign", "<img src=x>"), notes=("_n_ ![i](data:)",)))
    assert card.splitlines()[0] == r"# a\|b \# c \[x\](http:\/\/y.z) \<b\> \`d\` www\.e.f \$g\$"
    assert r"| \<img src=x\> | 80 |" in card
    assert r"- \_n\_ \!\[i\](data:)" in card


@pytest.mark.parametrize("page_of", [report.train_report, report.evaluation_report])
def test_without_jinja_the_error_names_the_command(monkeypatch, page_of, evaluation):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UnsupportedValueError, match=r"reports need jinja2; run: pip install 'lec-guard\[train\]'"):
        page_of(trained() if page_of is report.train_report else evaluation)
