"""`lec-guard serve`: the API, and the page for reviewers."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lec_guard.cli.terminal import FAILED, fail, need, plain
from lec_guard.detect.layer import LayerDetector
from lec_guard.errors import LecGuardError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lec_guard.serve.worker import Settings


def serve(
    *,
    api_keys: Annotated[
        Path | None, typer.Option(help="File that says who may ask the API.", show_default=False)
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="File that says who may sign in to review.", show_default=False)
    ] = None,
    policies: Annotated[
        Path | None, typer.Option(help="Folder or file with policies to try; else the packaged one.")
    ] = None,
    detector: Annotated[Path | None, typer.Option(help="Folder of a bundle; else the embedded one.")] = None,
    queue: Annotated[
        str | None, typer.Option(help="URL of the queue's database; else this user's own SQLite file.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8731,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name that browsers know the server by; again for each. Else it answers only to --host."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="File with the certificate, for https.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="File with the certificate's key.")] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="Browsers come by https, through a proxy that says whom for.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, each with a model of its own.")] = 1,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Steps a second of a tenant; else as many as there is room for.")
    ] = None,
    waiting: Annotated[int, typer.Option(min=1, help="Steps in flight, of each process; more get a 429.")] = 2048,
    texts: Annotated[int, typer.Option(min=1, help="Texts of a request.")] = 256,
    body_mb: Annotated[int, typer.Option(min=1, help="Megabytes of a request.")] = 8,
    new_key: Annotated[
        str | None, typer.Option(help="Make a key for a reviewer of this name, and serve nothing.", metavar="NAME")
    ] = None,
    new_api_key: Annotated[
        str | None, typer.Option(help="Make a key of the API for this application, and serve nothing.", metavar="NAME")
    ] = None,
) -> None:
    """Serve the API, the page on which reviewers decide what policies hold back and try texts, or both.

    With --new-key or --new-api-key it prints what goes into the file of keys, and the key itself, once, on the standard
    error.

    Exit code 2: wrong usage, or a file, policy, bundle or queue that can't be used.
    """
    need("serve", "fastapi", "uvicorn", "jinja2", "sqlalchemy", "prometheus_client")
    from lec_guard.serve.reviewers import new_key as made
    from lec_guard.serve.server import is_local
    from lec_guard.serve.worker import Settings, pages

    try:
        if new_key is not None:
            key = made(new_key)
            _print_key(new_key, key.entry, key.key)
            return
        if new_api_key is not None:
            from lec_guard.serve.api.keys import new_api_key as made_for_api

            own = made_for_api(new_api_key)
            _print_key(new_api_key, own.entry, own.key)
            return
        if keys is None and api_keys is None:
            fail(
                "give --api-keys FILE, which says who may ask the API, or --keys FILE, which says who may review; "
                "--new-api-key NAME and --new-key NAME make what goes into them"
            )
        if keys is not None and workers > 1:
            fail("sessions of reviewers live in one process: run the pages apart, or leave out --workers")
        if (tls_cert is None) != (tls_key is None):
            fail("give both --tls-cert and --tls-key, or neither")
        secure = tls_cert is not None or behind_proxy
        if not secure and not is_local(host):
            fail(
                f"{host} can be reached from other machines, and keys must not cross a network in the clear: "
                "give --tls-cert and --tls-key, or --behind-proxy if a proxy speaks https, or leave out --host"
            )
        for file in (tls_cert, tls_key):
            if file is not None and not file.is_file():
                fail(f"{file}: there is no such file")
        names = _names(host, allow_host or [])
        where = {"host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key, "behind_proxy": behind_proxy}
        if api_keys is not None:
            from lec_guard.serve.api.keys import ApiKeys
            from lec_guard.serve.api.limits import Limits

            ApiKeys.read(api_keys)
            settings = Settings(
                api_keys=api_keys,
                policies=policies,
                detector=detector,
                reviewers=keys,
                queue=queue,
                hosts=tuple(names),
                secure=secure,
                limits=Limits(body_bytes=body_mb * 2**20, steps=texts, waiting=waiting, rate_per_s=rate),
                threads=max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None,
            )
            _run_api(settings, where, workers)
            return
        if keys is None:
            raise AssertionError("one of them was given")
        app = pages(
            keys,
            policies=policies,
            queue=queue,
            detector=lambda: LayerDetector.load(detector),
            hosts=names,
            secure=secure,
        )
        _run(app, where)
    except (LecGuardError, OSError) as error:
        fail(str(error))


def _print_key(name: str, entry: str, key: str) -> None:
    typer.echo(entry)
    typer.echo(f"The key of {plain(name)}, which is shown only this once: {key}", err=True)


def _announce(url: str) -> None:
    typer.echo(f"lec-guard: {url}")


def _run(app: FastAPI | str, where: dict[str, Any]) -> None:
    from lec_guard.serve.server import AnnouncingServer, configured

    server = AnnouncingServer(configured(app, **where), _announce)
    try:
        server.run()
    except SystemExit:  # of a worker that could not start, and has said why
        raise typer.Exit(FAILED) from None
    if not server.started:
        raise typer.Exit(FAILED)


def _run_api(settings: Settings, where: dict[str, Any], workers: int) -> None:
    from lec_guard.serve.server import configured, log_as_json, run_workers
    from lec_guard.serve.worker import SETTINGS

    os.environ[SETTINGS] = settings.model_dump_json()
    factory = "lec_guard.serve.worker:make"
    if workers == 1:
        _run(factory, where)
        return
    log_as_json()
    with TemporaryDirectory(prefix="lec-guard-metrics-") as folder:
        # Each worker counts into files here, and whichever is asked adds them up.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        run_workers(configured(factory, workers=workers, **where), _announce)


def _names(host: str, others: list[str]) -> list[str]:
    """What a browser may call the server."""
    from lec_guard.serve.app import LOCAL
    from lec_guard.serve.server import is_local

    own = f"[{host}]" if ":" in host else host
    return [*others, own, *(LOCAL if is_local(host) else ())]
