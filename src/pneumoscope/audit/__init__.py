"""The audit of a data set: duplicates, leaks between splits, odd files, shortcuts and shifts."""

from pneumoscope.audit.auditor import AUDIT_FILE, PAGE_FILE, audit
from pneumoscope.audit.document import SEVERITIES, Audit, Finding, Severity

__all__ = ["AUDIT_FILE", "PAGE_FILE", "SEVERITIES", "Audit", "Finding", "Severity", "audit"]
