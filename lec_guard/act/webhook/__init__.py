"""Asking another service over HTTP, and how such a service signs what it says."""

from lec_guard.act.webhook.errors import WebhookError as WebhookError
from lec_guard.act.webhook.signing import sign_reply as sign_reply
from lec_guard.act.webhook.signing import sign_request as sign_request
from lec_guard.act.webhook.webhook import Webhook as Webhook
from lec_guard.breaker import Breaker as Breaker
from lec_guard.breaker import CircuitOpen as CircuitOpen
