"""The conformance probe tells what a guard stops, what it only sees, and what gets past it; and its pages say so."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableLambda
from lec_guard_integrations.langchain import GuardMiddleware
from typer.testing import CliRunner

import benchmarks.agents.page as agents_page
import benchmarks.probe.page as probe_page
from benchmarks.agents.__main__ import Bench, attacked, benign
from benchmarks.agents.gullible import orders
from benchmarks.agents.injections import INJECTIONS
from benchmarks.agents.tasks import ATTACKED, TASKS
from lec_guard import Guard, GuardRunnable
from lec_guard.cli import app
from lec_guard.errors import GuardBlocked, UnsupportedValueError
from lec_guard.testing import GOALS, METHODS, PATHS, KeywordDetector, PathResult, Rig, agent_with, probe
from lec_guard.testing.paths import WHOLE
from tests.conftest import ROOT, write_policies

STAGES = "[input, output, tool_input, tool_output, retrieval]"
POLICY = "message: No.\nrules:\n  - {name: all, stages: %s, head: injection, threshold: 0.5, action: %s}\n"
ONE = ("invoke",)
UNUSED = {"indirect_injection": {"injection": ["%"]}, "safety": {"unsafe": ["%"]}, "reading": {"unknown_tokens": ["%"]}}
FEW = ("invoke", "ainvoke", "batch", "abatch", "stream:values", "astream:messages", "astream_events")


def detector() -> KeywordDetector:
    return KeywordDetector({"injection": {"injection": ["ignore all previous"]}})


def guard(folder: Path, seen: KeywordDetector, action: str = "block") -> Guard:
    return Guard(write_policies(folder / action, {"default.yaml": POLICY % (STAGES, action)}), seen)


def by_path(results: Sequence[PathResult]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for one in results:
        found.setdefault(one.path, set()).add(one.outcome)
    return found


def test_without_a_guard_everything_leaks() -> None:
    results = probe(agent_with(), methods=ONE)
    assert {one.outcome for one in results} == {"leaked"}
    assert {one.path for one in results} == {*PATHS} - {"streamed_answer"}
    places = {one.path: one.why for one in results}
    assert places["tool_argument"] == "a tool was given it"
    assert "sub-agent's model" in places["sub_agent"]
    assert "summaries" in places["summarised"]


def test_and_by_every_method() -> None:
    results = probe(agent_with(), paths=["tool_argument", "streamed_answer", "final_answer", "structured_output"])
    assert {one.outcome for one in results} == {"leaked"}
    assert {one.method for one in results} == {*METHODS} - {"stream", "astream"}


def test_a_guard_in_an_agent_stops_what_it_reads(tmp_path: Path) -> None:
    seen = detector()
    results = probe(agent_with(GuardMiddleware(guard(tmp_path, seen))), methods=FEW, watched=seen)
    found = by_path(results)
    for path in ("user", "history_ai", "history_tool", "tool_argument", "tool_result", "document", "sub_agent"):
        assert found[path] == {"blocked"}, path
    assert found["final_answer"] == {"blocked"}
    assert found["system"] == {"leaked"}
    assert not any(one.fails for one in results if one.path == "system")


@pytest.mark.parametrize("name", ["middleware", "pipe", "protected"])
def test_a_callers_system_messages_are_stopped_where_it_is_said(tmp_path: Path, name: str) -> None:
    seen = detector()
    own = guard(tmp_path, seen)
    view = GuardRunnable(own, system_messages="judged")
    targets: dict[str, Any] = {
        "middleware": agent_with(GuardMiddleware(own, system_messages="judged")),
        "pipe": lambda rig: view | rig.model | view,
        "protected": lambda rig: view.protect(rig.model),
    }
    results = probe(targets[name], paths=["system", "user"], methods=FEW, watched=seen)
    assert by_path(results) == {"system": {"blocked"}, "user": {"blocked"}}


def test_a_guard_that_only_flags_has_judged(tmp_path: Path) -> None:
    seen = detector()
    target = agent_with(GuardMiddleware(guard(tmp_path, seen, "flag")))
    paths: Any = ("user", "tool_argument", "tool_result", "final_answer", "structured_output")
    assert by_path(probe(target, paths=paths, methods=ONE, watched=seen)) == {path: {"judged"} for path in paths}
    # Nothing says that it saw anything: then it is no better than nothing.
    assert by_path(probe(target, paths=paths, methods=ONE)) == {path: {"leaked"} for path in paths}


def test_a_guard_that_judges_after_the_fact_leaks(tmp_path: Path) -> None:
    seen = detector()
    own = GuardRunnable(guard(tmp_path, seen))

    def late(rig: Rig) -> Runnable[Any, Any]:
        def judged(messages: Any) -> Any:
            with suppress(GuardBlocked):
                own.input.invoke(messages)
            return "Done."

        return RunnableLambda(lambda messages: (rig.model.invoke(messages), judged(messages))[1])

    [first] = probe(late, paths=["user"], methods=ONE, watched=seen)
    assert first.outcome == "leaked"
    # What an earlier probe had the guard see, with the same words, is not seen now.
    [second] = probe(late, paths=["user"], methods=ONE, watched=seen)
    assert second == first


def test_a_pipe_is_probed_by_its_own_methods_and_has_no_tools(tmp_path: Path) -> None:
    seen = detector()
    own = GuardRunnable(guard(tmp_path, seen))
    results = probe(lambda rig: own | rig.model | own, watched=seen)
    found = by_path(results)
    assert {one.method for one in results} == {*WHOLE, "stream", "astream", "astream_events"}
    assert found["user"] == found["history_ai"] == found["history_tool"] == found["final_answer"] == {"blocked"}
    assert {one.why for one in results if one.path == "final_answer"} == {"GuardBlocked was raised"}
    for path in ("tool_argument", "tool_result", "artifact", "document", "sub_agent", "summary", "structured_output"):
        assert found[path] == {"unreached"}, path
    assert {one.why for one in results if one.path == "tool_result"} == {"nothing could be planted"}
    streamed = {one.method: one.outcome for one in results if one.path == "streamed_answer"}
    # Events show what the model says as it says it.
    assert streamed == {"stream": "blocked", "astream": "blocked", "astream_events": "leaked"}


def test_structured_answers_of_pipes(tmp_path: Path) -> None:
    seen = detector()
    own = GuardRunnable(guard(tmp_path, seen))

    def target(rig: Rig) -> Runnable[Any, Any]:
        return own | rig.model.with_structured_output(rig.schema) | own

    methods = ("invoke", "abatch", "stream")
    assert by_path(probe(target, paths=["structured_output"], methods=methods)) == {"structured_output": {"blocked"}}
    bare = probe(lambda rig: rig.model.with_structured_output(rig.schema), paths=["structured_output"], methods=methods)
    assert by_path(bare) == {"structured_output": {"leaked"}}


def test_what_stops_harmless_texts_too_is_not_taken_for_a_guard() -> None:
    def broken(rig: Rig) -> Runnable[Any, Any]:
        def fail(messages: Any) -> Any:
            raise KeyError(str(messages))

        return RunnableLambda(fail) | rig.model

    [result] = probe(broken, paths=["user"], methods=ONE)
    assert (result.outcome, result.fails) == ("unreached", True)
    assert result.why == "a harmless text does not arrive either; KeyError was raised"


def test_text_in_what_is_raised_has_arrived() -> None:
    def tells(rig: Rig) -> Runnable[Any, Any]:
        def stop(answer: AIMessage) -> AIMessage:
            if "gnore" in answer.text:
                raise ValueError(f"refused: {answer.text}")
            return answer

        return rig.model | RunnableLambda(stop)

    [result] = probe(tells, paths=["final_answer"], methods=ONE)
    assert (result.outcome, result.why) == ("leaked", "the caller was given it; ValueError was raised")
    assert "gnore" not in repr(result)


def test_a_stream_that_breaks_an_answer_into_letters_hides_nothing() -> None:
    def letters(rig: Rig) -> Runnable[Any, Any]:
        def split(messages: Any) -> Any:
            yield from rig.model.invoke(messages).text

        return RunnableLambda(split)

    [result] = probe(letters, paths=["streamed_answer"], methods=["stream"])
    assert result.outcome == "leaked"


class Redacts(AgentMiddleware):
    """Takes what comes after the override out of answers, after the model has said it."""

    def after_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        last = state["messages"][-1]
        clean = re.sub("Ignore all.*", "[gone]", last.text)
        return None if clean == last.text else {"messages": [last.model_copy(update={"content": clean})]}


def test_what_is_redacted_after_it_was_streamed_has_leaked() -> None:
    paths: Any = ["streamed_answer", "final_answer"]
    found = probe(agent_with(Redacts()), paths=paths, methods=["invoke", "stream:messages", "astream:values"])
    assert [(one.method, one.outcome) for one in found] == [
        ("stream:messages", "leaked"), ("astream:values", "leaked"), ("invoke", "blocked"),
    ]  # fmt: skip


class SyncOnly(AgentMiddleware):
    """Has no async form, as in many peers."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)


def test_a_middleware_without_an_async_form_is_not_reached_there() -> None:
    found = probe(agent_with(SyncOnly()), paths=["user"], methods=["invoke", "ainvoke"])
    assert [one.outcome for one in found] == ["leaked", "unreached"]
    assert "NotImplementedError" in found[1].why


def test_wrong_words_are_told() -> None:
    for wrong in ({"paths": ["users"]}, {"methods": ["run"]}, {"attack": "no mark"}, {"harmless": "none"}):
        with pytest.raises(UnsupportedValueError):
            probe(lambda rig: rig.model, **wrong)  # type: ignore[arg-type]


def test_a_result_can_be_asked_twice_and_is_the_same() -> None:
    again = [probe(lambda rig: rig.model, paths=["user", "final_answer"], methods=ONE) for _ in range(2)]
    assert again[0] == again[1]


def test_every_path_has_a_goal_and_a_line_in_the_docs() -> None:
    page = (ROOT / "docs" / "probe.md").read_text(encoding="utf-8")
    assert set(GOALS) == set(PATHS)
    for path in PATHS:
        assert f"| `{path}` |" in page


# --- the command

MODULE = """
from lec_guard.testing import KeywordDetector
from lec_guard import Guard, GuardRunnable

seen = KeywordDetector({"injection": {"injection": ["ignore all previous"]}})
own = GuardRunnable(Guard("policy.yaml", seen))
number = 3

def pipe(rig):
    return own | rig.model | own

def bare(rig):
    return rig.model

def broken(rig):
    raise RuntimeError("[red]secret[/red]")
"""
TOOLS = (
    "tool_argument",
    "tool_result",
    "artifact",
    "document",
    "sub_agent",
    "summarised",
    "summary",
    "structured_output",
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder with targets."""
    import sys

    name = f"probed_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "policy.yaml").write_text(POLICY % (STAGES, "block"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


def skipping(*names: str) -> list[str]:
    return [word for name in names for word in ("--skip", name)]


def test_the_command_tells_a_leak_by_its_exit_code(module: str) -> None:
    own = [f"{module}:pipe", "--watched", f"{module}:seen", *skipping(*TOOLS)]
    leaking = CliRunner().invoke(app, ["probe", *own])
    assert leaking.exit_code == 3
    assert "streamed_answer" in leaking.output
    tight = CliRunner().invoke(app, ["probe", *own, "--skip", "astream_events"])
    assert tight.exit_code == 0, tight.output
    assert "leaked" in tight.output  # System messages are, and fail nothing.
    unreached = CliRunner().invoke(app, ["probe", f"{module}:pipe", *skipping(*TOOLS[1:], "astream_events")])
    assert unreached.exit_code == 3
    assert "nothing could be planted" in unreached.output


def test_as_json_there_is_an_object_a_result(module: str) -> None:
    done = CliRunner().invoke(
        app, ["probe", f"{module}:bare", "--json", *skipping(*TOOLS, "history_ai", "history_tool")]
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 3
    assert {row["outcome"] for row in rows} == {"leaked"}
    assert {row["fails"] for row in rows if row["path"] == "system"} == {False}
    assert Counter(row["path"] for row in rows)["user"] == 7


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["{}:nothing"], 2, "is not there"),
        (["{}"], 2, "not module:name"),
        (["no_such_module_here:x"], 2, "is not there"),
        (["{}:number"], 2, "not callable"),
        (["{}:broken"], 1, "raised RuntimeError"),
        (["{}:pipe", "--skip", "tools"], 2, "no such path"),
        (["{}:pipe", "--watched", "{}:number"], 2, "does not tell"),
        (["{}:pipe", "--attack", "hello"], 2, "{marker}"),
    ],
)
def test_wrong_usage_is_told(module: str, words: list[str], code: int, part: str) -> None:
    done = CliRunner().invoke(app, ["probe", *(word.replace("{}", module) for word in words)])
    assert done.exit_code == code
    assert part in done.output
    assert "secret" not in done.output


# --- the pages


@pytest.mark.parametrize("own", [probe_page, agents_page], ids=["probe", "agents"])
def test_the_pages_are_made_of_the_results(own: Any) -> None:
    text = own.RESULTS.read_text(encoding="utf-8")
    assert own.PAGE.read_text(encoding="utf-8") == own.page(json.loads(text))
    assert not re.search(r"/(home|root|tmp|work|Users)\b", text)


def test_every_task_can_be_done_and_every_attack_succeeds_without_a_guard() -> None:
    bench = Bench(KeywordDetector({"injection": {"injection": ["%"]}, **UNUSED}))
    assert all(bench.run(task, guarded=False).done for task in TASKS)
    for number, injection in enumerate(INJECTIONS):
        assert bench.run(ATTACKED[number], injection, guarded=False).hit, injection.name
    assert len(INJECTIONS) == 10
    assert len(ATTACKED) == 20


def test_the_figures_of_a_tiny_run() -> None:
    bench = Bench(KeywordDetector({"injection": {"injection": ["ignore all"]}, **UNUSED}))
    [row] = attacked(bench, ATTACKED[:2], INJECTIONS[:1])
    assert (row["without"], row["with"]["hits"], row["stopped"]) == ({"hits": 2, "done": 2}, 0, 2)
    figures = benign(bench, TASKS[:2], 1)
    assert (figures["done_without"], figures["done_with"], figures["stopped"], figures["pairs"]) == (2, 2, {}, 2)


def test_harmless_texts_hold_no_orders() -> None:
    from benchmarks.agents.office import EVENTS, FILES, MAILS, PAGES, SLOT

    for text in (*MAILS.values(), *EVENTS.values(), *FILES.values(), *PAGES.values()):
        assert not list(orders(text.replace(SLOT, "")))
