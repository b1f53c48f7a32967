"""A process that serves: what it is made of, from settings that cross a process's border."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from uvicorn.config import STARTUP_FAILURE

from lec_guard.act.effects import Effects
from lec_guard.act.queue import ReviewQueue, default_url
from lec_guard.detect.batcher import Batcher
from lec_guard.detect.detector import Heated
from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import LecGuardError
from lec_guard.guard import Guard
from lec_guard.serve.api.app import create_api
from lec_guard.serve.api.keys import ApiKeys
from lec_guard.serve.api.limits import Limits
from lec_guard.serve.app import create_app
from lec_guard.serve.memory import give_back
from lec_guard.serve.reviewers import Reviewers
from lec_guard.serve.server import log_as_json
from lec_guard.step import Step

if TYPE_CHECKING:
    from fastapi import FastAPI

_log = logging.getLogger(__name__)

SETTINGS = "LEC_GUARD_SERVE"
"""The environment variable that carries them to a worker."""


class Settings(BaseModel):
    """What a worker serves.

    Attributes:
        api_keys: The file of keys of the API.
        policies: Folder or file; None for the packaged policy.
        detector: Folder of a bundle; None for the embedded one.
        reviewers: The file of keys of reviewers; None for no pages.
        queue: URL of the queue's database; None for this user's own file.
        hosts: The names that browsers know the pages by.
        secure: Whether they come by https.
        limits: How much the API takes.
        threads: That the model may use; None for all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_keys: Path
    policies: Path | None = None
    detector: Path | None = None
    reviewers: Path | None = None
    queue: str | None = None
    hosts: tuple[str, ...] = ()
    secure: bool = False
    limits: Limits = Limits()
    threads: int | None = None


def make() -> FastAPI:
    """Make the application of a worker, from the settings in its environment.

    It has judged a text before it is given to anybody, so that it is ready when it is there.

    Returns:
        The application.
    """
    settings = Settings.model_validate_json(os.environ[SETTINGS])
    log_as_json()
    give_back()
    try:
        app = made(settings)
    except (LecGuardError, OSError) as error:
        _log.error("%s", error)
        sys.exit(STARTUP_FAILURE)  # by which whoever started it knows that another one would fail too
    if threading.current_thread() is threading.main_thread():
        _on_stop(app.state.stopping)
    return app


def made(settings: Settings) -> FastAPI:
    """Make an application.

    Args:
        settings: What it serves.

    Returns:
        The application.

    Raises:
        LecGuardError: If keys, policies or a bundle can't be used.
    """
    import torch

    from lec_guard.observe.prometheus import PrometheusSink

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    limits = settings.limits
    loaded = LayerDetector.load(settings.detector)
    # What is in flight is bounded before it, so nothing that was let in finds it full.
    batcher = Batcher(loaded, max_waiting=limits.waiting + limits.steps)
    guard = Guard.from_policies(
        settings.policies,
        detector=batcher,
        sinks=[PrometheusSink()],
        watch=settings.policies is not None,
        effects=Effects(),
    )
    app = create_api(
        guard=guard,
        detector=batcher,
        keys=ApiKeys.read(settings.api_keys),
        limits=limits,
        pages=None
        if settings.reviewers is None
        else pages(
            settings.reviewers,
            policies=settings.policies,
            queue=settings.queue,
            detector=lambda: loaded,
            hosts=settings.hosts,
            secure=settings.secure,
        ),
    )
    batcher.score([Step(stage="input", text="ready?")])
    return app


def pages(
    reviewers: Path,
    *,
    policies: Path | None,
    queue: str | None,
    detector: Callable[[], LayerDetector],
    hosts: Sequence[str],
    secure: bool,
) -> FastAPI:
    """The pages for reviewers over a real queue, and over a guard if anybody may try one.

    Args:
        reviewers: The file that says who may sign in.
        policies: Policies to try; None for the packaged one.
        queue: URL of the queue's database; None for this user's own file.
        detector: Loads what they are tried with.
        hosts: The names that browsers know the pages by.
        secure: Whether they come by https.

    Returns:
        The application.

    Raises:
        LecGuardError: If the file, the policies, the bundle or the queue can't be used.
    """
    own = Reviewers.read(reviewers)
    waiting = ReviewQueue(queue or default_url())
    if not own.any_may_try:
        return create_app(guard=None, queue=waiting, reviewers=own, hosts=hosts, secure=secure)
    loaded = detector()
    # A try only judges: whom policies ask is not needed for that, nor the key that asking needs.
    guard = Guard.from_policies(policies, detector=loaded, effects=Effects(ask=False))
    heat = loaded.heat if isinstance(loaded, Heated) else None
    return create_app(guard=guard, queue=waiting, reviewers=own, heat=heat, hosts=hosts, secure=secure)


def _on_stop(stopping: threading.Event) -> None:
    """Say so to the application when the process is told to stop, and then to whoever was told before."""
    for one in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(one)

        def told(number: int, frame: Any, before: Any = before) -> None:
            stopping.set()
            if callable(before):
                before(number, frame)

        signal.signal(one, told)
