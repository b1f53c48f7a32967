"""A log that nobody can change unseen without its key."""

from lec_guard.observe.audit.findings import Finding as Finding
from lec_guard.observe.audit.findings import Report as Report
from lec_guard.observe.audit.log import AuditLog as AuditLog
from lec_guard.observe.audit.verify import verify as verify
