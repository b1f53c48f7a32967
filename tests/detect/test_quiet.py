"""Who works for us is not heard, everybody else is, and nothing has to be put back."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lec_guard.detect.quiet import quiet


class Listener(logging.Handler):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@pytest.fixture
def library() -> Iterator[Listener]:
    """What is heard of the library `noisy`, which has a handler of its own."""
    listener = Listener()
    logger = logging.getLogger("noisy")
    logger.addHandler(listener)
    logger.propagate = False
    yield listener
    logger.removeHandler(listener)


@pytest.fixture
def root() -> Iterator[Listener]:
    listener = Listener()
    logging.root.addHandler(listener)
    yield listener
    logging.root.removeHandler(listener)


def elsewhere(work: Callable[[], object]) -> None:
    """Do it on another thread, and wait."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


def test_what_the_library_says_is_not_heard_errors_apart(library: Listener) -> None:
    with quiet("noisy"):
        logging.getLogger("noisy").warning("no")
        logging.getLogger("noisy.a.b").warning("no")
        # A module that is imported while it works.
        logging.getLogger(f"noisy.new{id(library)}").warning("no")
        logging.getLogger("noisy.a.b").error("an error")
    logging.getLogger("noisy.a.b").warning("after")
    assert library.heard == ["an error", "after"]


def test_the_root_logger_itself_is_quiet_too(root: Listener) -> None:
    with quiet("root"):
        logging.warning("no")
        logging.getLogger("other").warning("no")
    logging.warning("after")
    assert root.heard == ["after"]


def test_what_others_say_meanwhile_is_heard(library: Listener, root: Listener) -> None:
    def speak() -> None:
        for name in ("noisy", "noisy.a.b", "app", "root"):
            logging.getLogger(name).warning(name)

    with quiet("noisy", "root"):
        elsewhere(speak)
        with quiet("noisy"):
            pass
        logging.getLogger("noisy").warning("no")
    assert library.heard == ["noisy", "noisy.a.b"]
    assert root.heard == ["app", "root"]


def test_warnings_of_this_thread_are_not_shown_and_those_of_others_are() -> None:
    def warn() -> None:
        warnings.warn("elsewhere", UserWarning, stacklevel=1)

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with quiet():
            warnings.warn("here", UserWarning, stacklevel=1)
            elsewhere(warn)
        warnings.warn("after", UserWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["elsewhere", "after"]


def test_warnings_that_are_errors_do_not_stop_a_library() -> None:
    with warnings.catch_warnings():
        for _ in range(3):
            warnings.simplefilter("error")
            with quiet():
                warnings.warn("here", UserWarning, stacklevel=1)
            with pytest.raises(UserWarning, match="after"):
                warnings.warn("after", UserWarning, stacklevel=1)


def test_levels_and_filters_do_not_grow_or_change(library: Listener) -> None:
    logger = logging.getLogger("noisy")
    seen = set()
    for _ in range(3):
        with quiet("noisy"):
            seen.add((logger.level, logging.root.level, logging.root.manager.disable))
        seen.add((logger.level, logging.root.level, logging.root.manager.disable))
        filters = (len(logger.filters), len(library.filters), len(warnings.filters))
    assert len(seen) == 1
    with quiet("noisy"):
        assert (len(logger.filters), len(library.filters), len(warnings.filters)) == filters


def test_two_threads_may_be_quiet_at_once_and_end_in_any_order(library: Listener) -> None:
    both, first_out = threading.Barrier(2), threading.Event()

    def work(name: str, *, leaves_first: bool) -> None:
        with quiet("noisy"):
            both.wait(10)
            logging.getLogger("noisy").warning("no")
            assert leaves_first or first_out.wait(10)
            logging.getLogger("noisy").warning("no")
        logging.getLogger("noisy").warning(name)
        first_out.set()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(work, "a", leaves_first=True), pool.submit(work, "b", leaves_first=False)]:
            done.result()
    assert library.heard == ["a", "b"]
