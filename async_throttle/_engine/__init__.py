"""Which waiter goes next. Pure: told the time, the queue decides waiters, and says "wake me at".

===============  ==============================================================================
lane.py          waiters that ask for the same rules, in order of arrival; pauses; bottlenecks
queue.py         arrivals, grants, departures, time; the invariants
patience.py      which lane has a turn out of rank, so that no class waits for ever
overtaking.py    how often heads were overtaken on a rule, counted for many at once
backfill.py      conservative backfilling: reservations for heads, and which waiter may go first
index.py         the lanes by what blocks them: an event looks only at lanes that it can change
decide.py        who goes next, and who may go at once, by the index
foresight.py     the future of a queue, played in a copy that is kept for the next question
timetable.py     when each waiter goes, where lanes have nothing but one bucket in common
profile.py       what that bucket is to give to whom, and when
forecast.py      how long a newcomer would wait
bounds.py        an instant by which a newcomer is gone for sure
check.py         every derived field recomputed: to be compared after every step of a test, and
                 to be put right after an interruption
===============  ==============================================================================
"""
