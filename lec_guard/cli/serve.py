"""`lec-guard serve`: the page for reviewers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lec_guard.act.effects import Effects
from lec_guard.cli.terminal import FAILED, fail, need, plain
from lec_guard.detect.detector import Heated, LayerDetector
from lec_guard.errors import LecGuardError
from lec_guard.guard import Guard

if TYPE_CHECKING:
    from fastapi import FastAPI

    from lec_guard.serve.reviewers import Reviewers


def serve(
    *,
    keys: Annotated[Path | None, typer.Option(help="File that says who may sign in.", show_default=False)] = None,
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
    new_key: Annotated[
        str | None, typer.Option(help="Make a key for a reviewer of this name, and serve nothing.", metavar="NAME")
    ] = None,
) -> None:
    """Serve the page on which reviewers decide what policies hold back, and try texts.

    With --new-key it prints what goes into the file of keys, and the key itself, once, on the standard error.

    Exit code 2: wrong usage, or a file, policy, bundle or queue that can't be used.
    """
    need("serve", "fastapi", "uvicorn", "jinja2", "sqlalchemy")
    from lec_guard.serve.reviewers import Reviewers
    from lec_guard.serve.reviewers import new_key as made
    from lec_guard.serve.server import AnnouncingServer, configured, is_local

    try:
        if new_key is not None:
            key = made(new_key)
            typer.echo(key.entry)
            typer.echo(f"The key of {plain(new_key)}, which is shown only this once: {key.key}", err=True)
            return
        if keys is None:
            fail("give --keys FILE, which says who may sign in; --new-key NAME makes what goes into it")
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
        app = _app(Reviewers.read(keys), policies, detector, queue, _names(host, allow_host or []), secure=secure)
        config = configured(app, host=host, port=port, tls_cert=tls_cert, tls_key=tls_key, behind_proxy=behind_proxy)
        server = AnnouncingServer(config, lambda url: typer.echo(f"lec-guard: {url}"))
    except (LecGuardError, OSError) as error:
        fail(str(error))
    server.run()
    if not server.started:
        raise typer.Exit(FAILED)


def _app(
    reviewers: Reviewers,
    policies: Path | None,
    detector: Path | None,
    queue: str | None,
    hosts: list[str],
    *,
    secure: bool,
) -> FastAPI:
    """The application over a real queue, and over a guard if anybody may try one."""
    from lec_guard.act.queue import ReviewQueue, default_url
    from lec_guard.serve.app import create_app

    waiting = ReviewQueue(queue or default_url())
    if not reviewers.any_may_try:
        return create_app(guard=None, queue=waiting, reviewers=reviewers, hosts=hosts, secure=secure)
    loaded = LayerDetector.load(detector)
    # A try only judges: whom policies ask is not needed for that, nor the key that asking needs.
    guard = Guard.from_policies(policies, detector=loaded, effects=Effects(ask=False))
    heat = loaded.heat if isinstance(loaded, Heated) else None
    return create_app(guard=guard, queue=waiting, reviewers=reviewers, heat=heat, hosts=hosts, secure=secure)


def _names(host: str, others: list[str]) -> list[str]:
    """What a browser may call the server."""
    from lec_guard.serve.app import LOCAL
    from lec_guard.serve.server import is_local

    own = f"[{host}]" if ":" in host else host
    return [*others, own, *(LOCAL if is_local(host) else ())]
