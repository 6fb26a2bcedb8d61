"""HTTP: what the answers of servers say of their limits, and what follows from that.

===============  ===========================================================================
headers.py       `read`, the numbers in an answer; `Report`, `Reading`: what comes of it
_families.py     the names of headers, by family, and what their values mean
_answer.py       what is known of an answer while its headers are read
_scan.py         numbers, durations, dates and structured fields, as servers write them
===============  ===========================================================================

No client library is imported here.
"""

from async_throttle.http.headers import Reading, Report, read

__all__ = ["Reading", "Report", "read"]
