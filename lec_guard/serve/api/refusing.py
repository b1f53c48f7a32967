"""How the API says no: always as JSON, and with nothing of the request in it."""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lec_guard.errors import LecGuardError, OverloadError
from lec_guard.serve.api.bodies import Kind
from lec_guard.serve.api.limits import TooMuch

_KINDS: dict[int, Kind] = {401: "authentication", 403: "permission", 413: "too_much", 429: "too_much"}


class Refused(Exception):
    """A request is not served.

    Args:
        status: HTTP's.
        kind: Ours.
        words: Why, for whoever asked; quotes nothing of the request.
        retry_after_s: When it may be tried again, in seconds.
    """

    def __init__(self, status: int, kind: Kind, words: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(words)
        self.status = status
        self.kind = kind
        self.words = words
        self.retry_after_s = retry_after_s


def refusal(request_id: str, status: int, kind: Kind, words: str, *, retry_after_s: int | None = None) -> JSONResponse:
    """The answer.

    Args:
        request_id: What the log knows the request by.
        status: HTTP's.
        kind: Ours.
        words: Why.
        retry_after_s: When it may be tried again, in seconds.

    Returns:
        A response.
    """
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = {"error": {"type": kind, "message": words, "request_id": request_id}}
    return JSONResponse(body, status_code=status, headers=headers)


async def refused(request: Request, error: Refused) -> JSONResponse:
    """Answer a request that was refused."""
    return refusal(_id_of(request), error.status, error.kind, error.words, retry_after_s=error.retry_after_s)


async def too_much(request: Request, error: TooMuch) -> JSONResponse:
    """Answer a request for which there is no room now."""
    return refusal(_id_of(request), 429, "too_much", error.words, retry_after_s=error.retry_after_s)


async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    """Answer a request whose body or parameters are wrong: where and how, without what stands there."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return refusal(_id_of(request), 422, "invalid_request", f"{place}: {first['msg']}")


async def failed(request: Request, error: HTTPException) -> JSONResponse:
    """Answer what Starlette and FastAPI refuse."""
    kind = _KINDS.get(error.status_code, "server" if error.status_code >= 500 else "invalid_request")
    answer = refusal(_id_of(request), error.status_code, kind, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def not_judged(request: Request, error: LecGuardError) -> JSONResponse:
    """Answer where the guard or the detector failed, and no policy says what follows; messages may quote texts."""
    if isinstance(error, OverloadError):
        return refusal(_id_of(request), 429, "too_much", "the detector is busy; ask again in a second", retry_after_s=1)
    return refusal(_id_of(request), 500, "server", f"the texts could not be judged ({type(error).__name__})")


def _id_of(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))
