"""Ray Serve: the API on many machines, with the model once on each.

Two deployments. `Model` holds the detector: one replica a node at most, which takes all that the node's API replicas
are asked and batches it. The API is the application that `lec-guard serve` runs, with policies, keys and limits; it
has no model, so there can be many. One actor on the head node reads the policies and pushes what changes to every
replica. Ray's processes trust each other: whoever reaches their ports runs code on them, so they belong in a network of
their own, with `RAY_AUTH_MODE=token`.

    serve deploy deploy/ray/serve.yaml        # or: serve run lec_guard_integrations.ray_serve:build api_keys=keys.yaml
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import logging
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import BaseModel, ConfigDict, Field

from lec_guard.act.effects import Effects
from lec_guard.detect.batcher import MAX_WAITING, Batcher
from lec_guard.detect.elsewhere import Elsewhere
from lec_guard.detect.layer import LayerDetector
from lec_guard.detect.wire import DetectorOut
from lec_guard.errors import DetectorError, LecGuardError, OverloadError, PolicyError, UnsupportedValueError
from lec_guard.guard import Guard
from lec_guard.observe.counting import CountingSink
from lec_guard.policy.folder import ENDINGS
from lec_guard.policy.watch import Watcher
from lec_guard.serve.api.app import create_api
from lec_guard.serve.api.keys import ApiKeys
from lec_guard.serve.api.limits import Limits
from lec_guard.serve.api.services import described
from lec_guard.serve.memory import give_back
from lec_guard.step import Scores, Step

try:
    import ray
    from ray import serve
    from ray.serve.exceptions import RayServeException, ReplicaUnavailableError
    from ray.serve.metrics import Counter, Histogram
except ModuleNotFoundError as missing:
    raise UnsupportedValueError(f"ray_serve needs {missing.name}; run: pip install 'lec-guard[ray]'") from None

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve.handle import DeploymentHandle

_log = logging.getLogger(__name__)

_THREADS = 64
"""Calls of the model that an API replica waits for at once."""

_ANSWER_S, _START_S = 60.0, 300.0
"""How long it waits for an answer, and for a model that is being loaded."""

_TRIES = 2
"""Replicas that are asked for the same scores: one may be on a node that dies."""

_MORE_AFTER_S = 10.0
"""How long there must be too many calls before there is another replica: a model takes some seconds to load."""

_POLL_S = 20.0
"""How long a call for newer policies stays open."""


class Arguments(BaseModel):
    """What `args` of Ray Serve's configuration may hold.

    Attributes:
        api_keys: The file of keys, on every node.
        policies: The policies, on the head node alone; None for the packaged one.
        detector: Folder of a bundle, on every node; None for the embedded one.
        limits: What an API replica takes.
        model_replicas: Replicas of the model at least, and at most; there is one on a node at most.
        api_replicas: Replicas of the API, likewise.
        waiting: Steps that may wait for a model's replica.
        ongoing: Calls in flight for each replica, on the average, above which there is another one.
        model_cpus: Cores of a model's replica.
        api_cpus: Cores of an API's replica.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    api_keys: Path
    policies: Path | None = None
    detector: Path | None = None
    limits: Limits = Limits()
    model_replicas: tuple[int, int] = (1, 1)
    api_replicas: tuple[int, int] = (1, 1)
    waiting: int = Field(default=MAX_WAITING, gt=0)
    ongoing: int = Field(default=32, gt=0)
    model_cpus: float = Field(default=1.0, gt=0)
    api_cpus: float = Field(default=0.5, gt=0)


class Model:
    """The detector of a node, whose batcher shares its passes among all callers, tenants in turn.

    Args:
        folder: Of the bundle; None for the embedded one.
        cpus: Threads that it may use.
        waiting: Steps that may wait for it.
    """

    def __init__(self, folder: str | None, cpus: float, waiting: int) -> None:
        import torch

        give_back()
        torch.set_num_threads(max(1, int(cpus)))
        self._batcher = Batcher(LayerDetector.load(folder), max_waiting=waiting)
        self._batcher.score([Step(stage="input", text="ready?")])

    def describe(self) -> DetectorOut:
        """What policies have to know of it."""
        return described(self._batcher, most_steps=1)

    async def score(self, steps: list[Step], key: Hashable) -> list[Scores] | LecGuardError:
        """Score steps.

        Args:
            steps: The steps of a call.
            key: Whose it is.

        Returns:
            The scores, or why there are none: what is raised in an actor comes as an error of Ray's.
        """
        try:
            return await asyncio.wrap_future(self._batcher.submit(steps, key=key))
        except LecGuardError as error:
            return error


class RayDetector(Elsewhere):
    """The deployed model, as an API replica's detector.

    Args:
        handle: Of the deployment.

    Raises:
        DetectorError: If no replica of it says what it is.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._handle = handle
        self._workers = ThreadPoolExecutor(_THREADS, thread_name_prefix="lec-guard-ray")
        super().__init__(_asked(lambda: handle.describe.remote(), _START_S))

    def submit(self, steps: Sequence[Step], *, key: Hashable = None) -> Future[list[Scores]]:
        """Have steps scored, without waiting for it; see `lec_guard.detect.submitting.Submitting`."""
        return self._workers.submit(self._scored, list(steps), key)

    def _scored(self, steps: list[Step], key: Hashable) -> list[Scores]:
        if not steps:
            return []
        found = _asked(lambda: self._handle.score.remote(steps, key), _ANSWER_S)
        if isinstance(found, LecGuardError):
            raise found
        return self._checked(found, len(steps), "the deployment of the model")


def _asked(call: Callable[[], Any], most_s: float) -> Any:
    """What a deployment answers; a replica that died while it was asked costs a second try."""
    last: DetectorError | None = None
    for _ in range(_TRIES):
        try:
            return call().result(timeout_s=most_s)
        except TimeoutError:
            raise OverloadError(f"the model's replicas did not answer within {most_s:g} s") from None
        except (ray.exceptions.RayActorError, ReplicaUnavailableError) as error:
            last = DetectorError(f"the model's replica failed ({type(error).__name__})")
        except (ray.exceptions.RayError, RayServeException) as error:
            raise DetectorError(f"the model's replica failed ({type(error).__name__})") from None
    assert last is not None  # noqa: S101 - there is one try at least
    raise last


class RaySink(CountingSink):
    """Counts what happens as metrics of Ray, which every node exports for all its replicas.

    They have the names of `PrometheusSink` with `ray_` in front. Arguments are those of `CountingSink`.
    """

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> _Series:
        return _Series(Counter(name, text, cast("Any", labels)), labels)

    def _histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> _Series:
        return _Series(Histogram(name, text, list(buckets), cast("Any", labels)), labels)


class _Series:
    """A metric of Ray's under the names that prometheus-client's have."""

    def __init__(self, metric: Any, names: tuple[str, ...], tags: Mapping[str, str] | None = None) -> None:
        self._metric, self._names, self._tags = metric, names, dict(tags or {})

    def labels(self, *values: str) -> _Series:
        return _Series(self._metric, self._names, dict(zip(self._names, values, strict=True)))

    def inc(self) -> None:
        self._metric.inc(1, tags=self._tags)

    def observe(self, value: float) -> None:
        self._metric.observe(value, tags=self._tags)


class PolicyLoader:
    """Reads the policies, once for all replicas, and tells them when they change.

    Args:
        path: The folder or file.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._files = _read(self._path)
        self._version = 1
        self._changed: asyncio.Condition | None = None

    async def newer(self, version: int) -> tuple[int, dict[str, bytes]]:
        """The files, as soon as there are other ones than a replica has, or a while later.

        Args:
            version: What it has; 0 for nothing.

        Returns:
            The version, and path below the folder -> content.

        Raises:
            PolicyError: If there is nothing to watch.
        """
        if self._changed is None:
            self._changed, loop = asyncio.Condition(), asyncio.get_running_loop()

            def tell() -> None:
                asyncio.run_coroutine_threadsafe(self._renewed(_read(self._path)), loop).result()

            Watcher(self._path, tell, _log.error)
        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: self._version != version), _POLL_S)
            return self._version, self._files

    async def _renewed(self, files: dict[str, bytes]) -> None:
        if files != self._files and self._changed is not None:
            async with self._changed:
                self._files, self._version = files, self._version + 1
                self._changed.notify_all()


def _read(path: Path) -> dict[str, bytes]:
    """Path below the folder -> content; names with a dot in front are editors' and Kubernetes' own."""
    if path.is_file():
        return {path.name: path.read_bytes()}
    names = [one.relative_to(path) for one in sorted(path.rglob("*")) if one.is_file()]
    seen = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return {str(name): (path / name).read_bytes() for name in seen}


class Policies:
    """A replica's own copy of the policies, which follows the loader's.

    Args:
        path: The folder or file, on the head node.

    Raises:
        PolicyError: If they can't be read there.
    """

    def __init__(self, path: Path) -> None:
        # Its name is that of what it reads: replicas of a new configuration must not be told of the old one's folder.
        name = f"lec-guard-policies-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
        loader: Any = ray.remote(PolicyLoader)
        self._loader = loader.options(
            name=name,
            namespace="lec-guard",
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_concurrency=10_000,
            max_restarts=-1,
            max_task_retries=-1,
            resources={"node:__internal_head__": 0.001},
        ).remote(str(path))
        try:
            self._version, files = ray.get(self._loader.newer.remote(0), timeout=_ANSWER_S)
        except ray.exceptions.RayError as error:
            raise PolicyError(f"{path}: the head node can't read it ({type(error).__name__})") from None
        folder = Path(tempfile.mkdtemp(prefix="lec-guard-policies-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        is_file = path.suffix in ENDINGS
        self.path = folder / path.name if is_file else folder
        self._write(folder, files)
        threading.Thread(target=self._follow, args=(folder,), name="lec-guard-policies-follow", daemon=True).start()

    def _follow(self, folder: Path) -> None:
        while True:
            try:
                version, files = ray.get(self._loader.newer.remote(self._version))
            except ray.exceptions.RayError:
                # The loader is being started anew; what is in force stays.
                time.sleep(1.0)
                continue
            if version != self._version:
                self._version = version
                self._write(folder, files)

    def _write(self, folder: Path, files: Mapping[str, bytes]) -> None:
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                partial = path.with_name(f".{path.name}.partial")
                partial.write_bytes(content)
                partial.replace(path)
        for path in folder.rglob("*"):
            if path.is_file() and str(path.relative_to(folder)) not in files:
                path.unlink()


def api(arguments: Arguments, handle: DeploymentHandle[Any]) -> FastAPI:
    """The application of an API replica.

    Args:
        arguments: What it serves.
        handle: Of the model.

    Returns:
        The application.

    Raises:
        LecGuardError: If keys or policies can't be used, or no model answers.
    """
    detector = RayDetector(handle)
    path = None if arguments.policies is None else Policies(arguments.policies).path
    guard = Guard.from_policies(path, detector=detector, sinks=[RaySink()], watch=path is not None, effects=Effects())
    return create_api(guard=guard, detector=detector, keys=ApiKeys.read(arguments.api_keys), limits=arguments.limits)


@serve.ingress()  # it is made on the replica, which alone has connections, threads and a copy of the policies
class Api:
    """A replica of the API.

    Args:
        arguments: What it serves.
        handle: Of the model.
    """

    # Ray awaits it, where Python would not.
    async def __init__(self, arguments: Arguments, handle: DeploymentHandle[Any]) -> None:  # type: ignore[misc]
        self._app = await asyncio.to_thread(api, arguments, handle)

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app


def build(args: dict[str, Any]) -> serve.Application:
    """The application, as `serve run` and `serve deploy` want it.

    Args:
        args: See `Arguments`.

    Returns:
        What Ray Serve deploys.

    Raises:
        pydantic.ValidationError: If an argument is unknown, or of a wrong kind.
    """
    arguments = Arguments.model_validate(args)
    folder = None if arguments.detector is None else str(arguments.detector)
    deployment: Any = serve.deployment
    model = (
        deployment(Model)
        .options(
            name="model",
            max_ongoing_requests=arguments.ongoing * 4,
            max_replicas_per_node=1,
            autoscaling_config=_between(arguments.model_replicas, arguments.ongoing),
            ray_actor_options={"num_cpus": arguments.model_cpus},
            health_check_period_s=2,
        )
        .bind(folder, arguments.model_cpus, arguments.waiting)
    )
    return cast(
        "serve.Application",
        deployment(Api)
        .options(
            name="api",
            max_ongoing_requests=1_000,
            autoscaling_config=_between(arguments.api_replicas, arguments.ongoing),
            ray_actor_options={"num_cpus": arguments.api_cpus},
            graceful_shutdown_timeout_s=30,
        )
        .bind(arguments, model),
    )


def _between(replicas: tuple[int, int], ongoing: int) -> dict[str, float]:
    return {
        "min_replicas": replicas[0],
        "max_replicas": replicas[1],
        "target_ongoing_requests": ongoing,
        "upscale_delay_s": _MORE_AFTER_S,
    }
