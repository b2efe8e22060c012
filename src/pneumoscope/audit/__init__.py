"""What the data themselves give away: duplicates, leaks, odd files, shortcuts and shifts."""

from pneumoscope.audit.document import SEVERITIES, Audit, Finding, Severity
from pneumoscope.audit.run import AUDIT_FILE, PAGE_FILE, audit

__all__ = ["AUDIT_FILE", "PAGE_FILE", "SEVERITIES", "Audit", "Finding", "Severity", "audit"]
