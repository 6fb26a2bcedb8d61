"""Shells wait. The engine decides; a shell turns "granted" and "wake me at" into wake-ups.

===============  ==============================================================================
clock.py         the reader of the clock; the flattened entries read it as well
alarm.py         a timer of an event loop, which never spins
waiting.py       callers that ask and callers that wait
refusals.py      how a throttle refuses
door.py          `Door`: the only way to a queue and its clock
admission.py     callers that are granted, queued up, refused, started or withdrawn
scheduler.py     `Scheduler`: the door and admission, with draining, merging and forks
loop.py          the scheduler whose callers wait in an event loop: futures and two alarms
thread.py        the scheduler whose callers wait in threads and in event loops: wake-ups
readings.py      what can be read of a throttle, for people
tally.py         what is counted of calls that waited or were refused
wall.py          wall time, for the rules whose windows lie on the wall clock
core.py          `Core`: a throttle without its public face
following.py     limits that follow how calls end: a law sets a rate, or a number of slots
flights.py       calls in flight, of throttles that count them to their ends
quick.py         plain blocks that count to the end, and what their shortcuts leave undone
lease.py         the state machine of leases, for throttles, sets and pools
count.py         what a server says of its own count, and what is in flight
states.py        the states of a lease, drawn
single.py        limiters are not copied: a copy would be a second quota
fast.py          every shortcut, and the flag that switches them off
===============  ==============================================================================
"""
