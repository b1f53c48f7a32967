"""A queue of steps that a reviewer decides, later, perhaps in another process or on another machine."""

from lec_guard.act.queue.escalator import QueueEscalator as QueueEscalator
from lec_guard.act.queue.items import Item as Item
from lec_guard.act.queue.items import QueueError as QueueError
from lec_guard.act.queue.store import ReviewQueue as ReviewQueue
from lec_guard.act.queue.store import default_url as default_url
