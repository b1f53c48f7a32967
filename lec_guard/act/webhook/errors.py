"""What can go wrong with a webhook."""

from __future__ import annotations

from lec_guard.errors import LecGuardError


class WebhookError(LecGuardError):
    """A webhook could not be asked, or its reply counts for nothing; the message holds no text of either."""
