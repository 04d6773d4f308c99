"""The pause that an HTTP answer asks for (RFC 9110, 10.2.3)."""

from __future__ import annotations

import email.utils
import time
from typing import Any

LONGEST_PAUSE_SECONDS = 3600.0  # then it is asked again, whatever it wished for


def retry_after(headers: Any) -> float:
    """The pause that headers ask for, in seconds: Retry-After as seconds or as a date; 0 where there is none."""
    for name, scale in (("retry-after-ms", 1000), ("retry-after", 1)):
        value = headers.get(name, "")
        try:
            return min(LONGEST_PAUSE_SECONDS, max(0.0, float(value) / scale))
        except ValueError:
            if date := email.utils.parsedate_tz(value):
                return min(LONGEST_PAUSE_SECONDS, max(0.0, email.utils.mktime_tz(date) - time.time()))
    return 0.0
