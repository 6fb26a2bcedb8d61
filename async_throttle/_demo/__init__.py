"""What ``python -m async_throttle`` shows. The arrows point down::

../__main__.py   a word while the rest is imported
program.py       the options, and the order of events
report.py        PURE. What came of the calls: a table, a picture, JSON
processes.py     a run in several processes, which may share one quota
run.py           three ways to call an API; uses the throttle as any program would
api.py           the API: a referee that is PURE, and a server in front of it
twins.py         how servers count, and the throttle that each of them never refuses
"""
