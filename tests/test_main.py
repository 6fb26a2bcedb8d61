"""`python -m async_throttle`: the pure parts without a network, then the whole of it.

The tests of the last section take real time on loopback, about ten seconds in all: that a
server with a clock of its own does not refuse the throttle is what they are about.
"""

from __future__ import annotations

import asyncio
import doctest
import io
import json
import math
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from servers_redis import KINDS, started
from stores import MemoryStore
from support import QUICK

import async_throttle
from async_throttle import Throttle, __main__, testing
from async_throttle._demo import api, program, report, run
from async_throttle._demo.api import BAN, Limits, Referee, parse_request, serving
from async_throttle._demo.processes import Failed, Shared, in_processes
from async_throttle._demo.report import ASCII, BLOCKS, Result, Row
from async_throttle._demo.run import Answer, PlainBucket, Request, Run, get, parse_response
from async_throttle._demo.twins import TWINS, Said, twin_of

NAMES = async_throttle.__all__
LIMITS = Limits(capacity=10, concurrency=0, period=1.0, burst=3.0, server="bucket")
NGINX, LOG, WINDOW, CLOCK, HAPROXY, WHOLE = (
    replace(LIMITS, server=name)
    for name in ("nginx", "log", "express", "clock", "haproxy", "vsthrottle")
)
SERVED = Answer(200)
REFUSED = Answer(429, retry_after=1.0)
FAILED = Answer(0, problem="ConnectionRefusedError: nobody there")

# The options.


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        ("--capacity -3", "--capacity", "'-3'"),
        ("--capacity nan", "--capacity", "'nan'"),
        ("--capacity inf", "--capacity", "'inf'"),
        ("--capacity many", "--capacity", "'many'"),
        ("--concurrency -1", "--concurrency", "'-1'"),
        ("--concurrency 2.5", "--concurrency", "'2.5'"),
        ("--period 0", "--period", "'0'"),
        ("--period 1e-12", "period", "1e-12"),  # a number, but less than a nanosecond
        ("--burst -1", "--burst", "'-1'"),
        ("--burst 0", "burst", "0"),  # a number, but no throttle lets nothing through
        ("--burst 3 --server express", "--burst", "3"),
        ("--burst 30 --server haproxy", "capacity", "-9"),
        ("--server sieve", "--server", "'sieve'"),
        ("--requests 0", "--requests", "'0'"),
        ("--requests 10001", "--requests", "'10001'"),
        ("--weights 1,,2", "--weights", "''"),
        ("--weights 1,6", "--weights", "6"),  # more than the burst of 5
        ("--weights 4 --capacity 3 --server log", "--weights", "4"),
        ("--seed x", "--seed", "'x'"),
        ("--url ftp://localhost/", "--url", "'ftp://localhost/'"),
        ("--url http://localhost:99999/", "--url", "'http://localhost:99999/'"),
        ("--url http://me:secret@localhost/", "--url", "'http://me:secret@localhost/'"),
        ("--url http://", "--url", "'http://'"),
        ("--all", "--all", "only with --url"),
        ("--processes 0", "--processes", "'0'"),
        ("--processes 33", "--processes", "'33'"),
        ("--processes 1 --store sqlite", "--store", "one process shares with nobody"),
        ("--store quota.db", "--store", "'quota.db'"),
        ("--store redis://me:secret@localhost:x/", "--store", "port of a Redis server"),
    ],
)
def test_a_bad_value_is_named_before_anything_is_sent(
    arguments: str,
    option: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delattr(program, "demonstrate")
    with pytest.raises(SystemExit) as exit:
        program.main(arguments.split())
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert "secret@" not in captured.err or "--url" in arguments
    complaint = captured.err.splitlines()[-1]
    assert option in complaint
    assert value in complaint
    assert captured.out == ""


@pytest.mark.parametrize("name", ["rate-limiter-flexible", "Rate_Limiter_Flexible"])
def test_a_server_may_be_named_in_any_spelling(name: str) -> None:
    assert program.parse(["--server", name]).limits.server == "rate-limiter-flexible"


@pytest.mark.parametrize("name", program.SERVERS)
def test_every_server_has_a_twin_with_the_numbers_given(name: str) -> None:
    options = program.parse(f"--server {name} --capacity 7 --concurrency 3 --period 2".split())
    throttle = options.throttle()
    assert throttle.concurrency == 3
    said = options.limits.said
    assert throttle.guarantee(2) <= said.capacity + said.burst + 1
    assert said.burst == 5
    # What is printed is a program.
    told = eval(options.code(), {name: getattr(async_throttle, name) for name in NAMES})
    assert told.algorithm is throttle.algorithm
    for what in ("capacity", "concurrency", "period", "burst"):
        assert getattr(told, what) == pytest.approx(getattr(throttle, what), rel=1e-5)


@pytest.mark.parametrize("server", program.SERVERS)
def test_no_name_of_a_server_is_taken_twice(server: str) -> None:
    assert program.SERVERS.count(server) == 1
    assert server in twin_of(server).names


def test_nginx_without_a_burst_counts_whole_milliseconds() -> None:
    settings = twin_of("nginx").settings(Said(capacity=30, period=1, burst=0))
    assert (settings["capacity"], settings["period"], settings["burst"]) == (1, 0.034, 1)


def test_weights_are_taken_in_turn() -> None:
    options = program.parse(["--weights", "1,1,5", "--requests", "4"])
    assert options.weights == (1, 1, 5, 1)
    assert options.unit == "tokens"
    assert program.parse([]).unit == "requests"


def test_a_server_that_is_not_ours_is_called_throttled_only_unless_asked_otherwise() -> None:
    assert program.parse([]).runs == ("unthrottled", "plain", "throttled")
    assert program.parse(["--url", "http://localhost/"]).runs == ("throttled",)
    assert program.parse(["--url", "http://localhost/", "--all"]).runs == program.parse([]).runs


def test_what_is_about_to_happen_and_what_to_do_next_is_said_in_80_columns() -> None:
    options = program.parse(["--server", "nginx"])
    told = str(options).splitlines()
    assert told[:3] == [
        "An API on loopback allows 20 requests per 1 s, burst 5, and 4 at once. It",
        "counts as nginx does: a bucket of B + 1, in whole milliseconds. Calls travel",
        "for 0 to 80 ms each way. Whoever breaks a limit is banned for 1 s.",
    ]
    assert told[-1].startswith("  throttled    through Throttle(20, 4, burst=5.98, ")
    assert "    async with throttle: ..." in options.next().splitlines()
    assert options.code() in options.next()
    for name in program.SERVERS:
        options = program.parse(["--server", name])
        assert max(map(len, f"{options}\n{options.next()}".splitlines())) <= 80
    arguments = ["--url", "http://localhost/", "--server", "express", "--concurrency", "0"]
    assert len(str(program.parse(arguments)).splitlines()) == 1


def test_processes_share_a_quota_if_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert program.parse([]).processes == 1
    options = program.parse(["--processes", "3"])
    assert (options.processes, options.store, options.runs) == (3, "sqlite", ("apart", "shared"))
    url = "redis://me:secret@localhost/3"
    monkeypatch.setenv(program.URL_VARIABLE, url)
    for arguments in (["--store", url], ["--store", "redis"]):
        options = program.parse(arguments)
        assert (options.processes, options.store) == (4, url)
        assert "secret" not in f"{options}\n{options.next()}"
        assert "    store = RedisStore('redis://localhost:6379/3', " in options.next()
    monkeypatch.delenv(program.URL_VARIABLE)
    with pytest.raises(SystemExit):
        program.parse(["--store", "redis"])
    assert program.parse(["--processes", "3", "--url", "http://localhost/"]).runs == ("shared",)


@pytest.mark.parametrize("name", program.SERVERS)
def test_what_processes_are_about_to_do_is_said_in_80_columns(name: str) -> None:
    options = program.parse(["--processes", "3", "--server", name])
    lines = str(options).splitlines()
    assert lines[-5:-4] + lines[-3:] == [
        "3 processes make 60 calls, each through",
        "  apart        each with a quota of its own",
        "  shared       all with one quota, in",
        '               SQLiteStore("quota.db")',
    ]
    assert max(map(len, f"{options}\n{options.next()}".splitlines())) <= 80
    # What is printed is a program.
    code = textwrap.dedent("\n".join(options.next().splitlines()[1:-2]))
    names = {name: getattr(async_throttle, name) for name in NAMES}
    exec(code, names | {"SQLiteStore": lambda path: MemoryStore()})


# The referee.


def verdicts(limits: Limits, arrivals: list[tuple[float, float]]) -> list[bool]:
    """Whether each (instant, weight) is served; whatever is served is over at once."""
    referee = Referee(limits)
    served = []
    for now, weight in arrivals:
        served.append(referee.arrive(now, weight) == 0.0)
        if served[-1]:
            referee.leave()
    return served


@pytest.mark.parametrize(
    ("limits", "arrivals", "expected"),
    [
        (LIMITS, [(0, 3), (0.1, 1), (0.199_999_999, 1)], [True, True, False]),
        (LIMITS, [(0, 3), (0.1, 1), (0.2, 1)], [True, True, True]),
        (LIMITS, [(0, 4)], [False]),
        (LIMITS, [(0, 3), (9, 3), (9, 1)], [True, True, False]),  # idle time is not saved up
        (LIMITS, [(0, 2.7), *((0, 0.1),) * 4], [True] * 4 + [False]),  # no sums of floats
        (NGINX, [(5, 4), (5, 1)], [True, False]),  # one more than the burst after a rest
        (NGINX, [(5.000_9, 4), (5.100_1, 1)], [True, True]),  # 0.0992 s are 100 ms by its clock
        (NGINX, [(5.000_1, 4), (5.099_9, 1)], [True, False]),
        (LOG, [(0, 6), (0.5, 4), (0.999_999_999, 1)], [True, True, False]),
        (LOG, [(0, 6), (0.5, 4), (1, 6)], [True, True, True]),
        (LOG, [(0, 6), (0.5, 4), (1, 7)], [True, True, False]),
        (LOG, [(0, 0.1), (0, 0.2), (0, 9.7)], [True, True, True]),  # sums of floats
        (WINDOW, [(3.7, 9), (4.6, 1), (4.699, 1)], [True, True, False]),
        (WINDOW, [(3.7, 10), (4.7, 10), (5.6, 1)], [True, True, False]),
        (WINDOW, [(0, 11)], [False]),
        (HAPROXY, [(3, 10), (4.5, 4), (4.5, 1)], [True, True, True]),  # of the last one a half
        (HAPROXY, [(3, 10), (4.5, 6)], [True, False]),
        (HAPROXY, [(3, 10), (3.1, 1), (4.45, 5)], [True, False, False]),  # refusals count
        (HAPROXY, [(3, 10), (6, 10)], [True, True]),
        (WHOLE, [(0, 10), (0.15, 1), (0.24, 1)], [True, True, False]),  # a fraction was dropped
    ],
)
def test_the_referee_serves_what_the_limit_allows(
    limits: Limits, arrivals: list[tuple[float, float]], expected: list[bool]
) -> None:
    assert verdicts(limits, arrivals) == expected


def test_the_windows_of_the_clock_end_at_full_periods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 500_300_000_000)
    monkeypatch.setattr(time, "monotonic_ns", lambda: 0)
    arrivals: list[tuple[float, float]] = [(0, 10), (0.699_999, 1)]
    assert verdicts(CLOCK, arrivals) == [True, False]
    assert verdicts(CLOCK, [(0, 10), (0.7, 10), (1.699, 1)]) == [True, True, False]


def test_the_plain_bucket_is_one() -> None:
    async def main() -> list[float]:
        bucket, loop = PlainBucket(LIMITS), asyncio.get_running_loop()
        instants = []
        for _ in range(6):
            await bucket.take(1)
            instants.append(round(loop.time(), 6))
        return instants

    assert testing.run(main()) == [0, 0, 0, 0.1, 0.2, 0.3]
    assert PlainBucket(LOG)._level == 10


def test_a_ban_refuses_everything_and_ends_on_time() -> None:
    referee = Referee(LIMITS)
    assert referee.arrive(0.0, 4) == BAN
    assert (
        referee.arrive(0.25 * BAN, 1) == 0.75 * BAN
    )  # would be served, if it were not for the ban
    assert referee.arrive(0.75 * BAN, 9) == 0.25 * BAN  # and no refusal makes it longer
    assert referee.arrive(BAN, 1) == 0.0
    for n in range(20):  # never a rounding longer than said
        assert math.ceil(Referee(LIMITS).arrive(random.Random(n).uniform(0, 1e6), 4)) == BAN


def test_one_request_too_many_at_once_is_a_ban() -> None:
    referee = Referee(replace(LIMITS, concurrency=2))
    assert [referee.arrive(0.0, 1) for _ in range(2)] == [0.0, 0.0]
    referee.leave()
    assert [referee.arrive(0.1, 1) for _ in range(2)] == [0.0, BAN]


# HTTP.


@pytest.mark.parametrize(
    ("parse", "head", "error"),
    [
        (parse_request, b"", "not a GET"),
        (parse_request, b"get / HTTP/1.1\r\n", "not a GET"),
        (parse_request, b"POST / HTTP/1.1\r\n", "not a GET"),
        (parse_request, b"GET /\r\n", "not a GET"),
        (parse_request, b"GET / SPDY/3\r\n", "not a GET"),
        (parse_request, b"GET / HTTP/1.1\r\nX-Weight: heavy\r\n", "could not convert"),
        (parse_request, b"GET / HTTP/1.1\r\nX-Weight: -1\r\n", "not a weight"),
        (parse_request, b"GET / HTTP/1.1\r\nX-Weight: nan\r\n", "not a weight"),
        (parse_request, b"\xff\xfe", "not a GET"),
        (partial(parse_response, now=0.0), b"", "not HTTP/1"),
        (partial(parse_response, now=0.0), b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP/1"),
        (partial(parse_response, now=0.0), b"HTTP/1.1 x\r\n", "not HTTP/1"),
    ],
)
def test_what_is_no_http_is_a_value_error(parse: Any, head: bytes, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        parse(head + b"\r\n")


def test_a_request_says_its_weight() -> None:
    assert parse_request(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == 1
    assert parse_request(b"GET /a?b HTTP/1.0\r\nx-weight:  2.5 \r\n\r\n") == 2.5


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("HTTP/1.1 200 OK\r\n", (True, False, 0.0)),
        ("HTTP/1.1 204\r\n", (True, False, 0.0)),
        ("HTTP/1.1 301 Moved Permanently\r\nRetry-After: 5\r\n", (False, False, 0.0)),
        ("HTTP/1.1 429 Too Many Requests\r\nretry-after: 7\r\n", (False, True, 7.0)),
        ("HTTP/1.1 503 \r\nRetry-After: Thu, 01 Jan 1970 00:02:00 GMT\r\n", (False, True, 20.0)),
        ("HTTP/1.1 503 \r\nRetry-After: Thu, 01 Jan 1970 00:00:00 GMT\r\n", (False, True, 0.0)),
        ("HTTP/1.1 418 Teapot\r\nRetry-After: soon\r\n", (False, True, 1.0)),
        ("HTTP/1.1 429 \r\n", (False, True, 1.0)),
    ],
)
def test_a_response_is_served_or_refused_or_neither(
    head: str, expected: tuple[bool, bool, float]
) -> None:
    answer = parse_response(f"{head}\r\n".encode(), now=100.0)
    assert (answer.served, answer.refused, answer.retry_after) == expected


# The two ways to call, in virtual time and against an API that answers from a list.


def answering(monkeypatch: pytest.MonkeyPatch, answers: list[Answer]) -> list[float]:
    """Makes `get` answer so, each time after 0.25 s; returns the instants at which it is called."""
    called: list[float] = []
    left = iter(answers)

    async def fake(url: str, weight: float) -> Answer:
        called.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.25)
        return next(left)

    monkeypatch.setattr(run, "get", fake)
    return called


def test_the_unthrottled_client_obeys_retry_after_and_gives_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = answering(monkeypatch, [SERVED, REFUSED, SERVED] + [REFUSED] * run.TRIES)
    attempt = Run("unthrottled", "", [1.0, 1.0])
    testing.run(attempt.unthrottled())
    assert called == [0.0, 0.0, 1.25]
    assert [r.answer for r in attempt.requests] == [SERVED, REFUSED, SERVED]

    called = answering(monkeypatch, [REFUSED] * 9)
    testing.run(Run("unthrottled", "", [1.0]).unthrottled())
    assert called == [0.0, 1.25, 2.5]


def test_the_throttled_client_pauses_for_all_when_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called = answering(monkeypatch, [REFUSED, SERVED, SERVED])
    attempt = Run("throttled", "", [1.0, 1.0])
    testing.run(attempt.throttled(Throttle(10, 1)))
    assert called == [0.0, 1.25, 1.5]


@pytest.mark.parametrize("throttled", [True, False])
def test_no_client_waits_for_an_hour(monkeypatch: pytest.MonkeyPatch, throttled: bool) -> None:
    called = answering(monkeypatch, [Answer(429, retry_after=3600.0)] * 3)
    attempt = Run("", "", [1.0] * 3)
    testing.run(attempt.throttled(Throttle(10, 1)) if throttled else attempt.unthrottled())
    assert called == ([0.0] if throttled else [0.0] * 3)  # the others in the queue are let go


# The report.


def requests(*stretches: tuple[float, int, Answer]) -> list[Request]:
    """(instant, how many, answer): each of weight 1, and over after 0.125 s."""
    return [Request(1.0, at, at + 0.125, a) for at, count, a in stretches for _ in range(count)]


UNTHROTTLED = Result(
    "unthrottled",
    30,
    2.0,
    requests((0.0, 3, SERVED), (0.0, 27, REFUSED), (1.125, 2, SERVED), (1.125, 25, REFUSED)),
)
THROTTLED = Result(
    "throttled", 30, 4.0, requests((0.0, 13, SERVED), (1.0, 10, SERVED), (2.0, 7, SERVED))
)


def test_a_result_counts() -> None:
    assert (UNTHROTTLED.served, UNTHROTTLED.refused, UNTHROTTLED.failed) == (5, 52, 0)
    assert UNTHROTTLED.banned == 2.0
    assert UNTHROTTLED.sent_per_second == 57 / 2
    assert UNTHROTTLED.served_per_second == 5 / 2
    assert UNTHROTTLED.most_weight_in(1.0) == 30
    assert UNTHROTTLED.most_weight_in(2.0) == 57
    assert UNTHROTTLED.most_at_once == 30
    assert not UNTHROTTLED.clean
    assert THROTTLED.clean


def test_bans_that_overlap_are_counted_once_and_requests_in_a_row_are_not_at_once() -> None:
    sent = requests((0.0, 2, REFUSED), (0.5, 1, REFUSED), (3.0, 1, REFUSED), (3.5, 1, SERVED))
    assert Result("", 5, 5.0, sent).banned == 2.5
    assert Result("", 2, 1.0, requests((0.0, 1, SERVED), (0.125, 1, SERVED))).most_at_once == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        requests((0.0, 1, SERVED)),  # one of two calls never went out
        requests((0.0, 1, SERVED), (0.0, 1, FAILED)),
        requests((0.0, 1, REFUSED), (1.0, 2, SERVED)),  # served in the end, but refused before
    ],
)
def test_a_run_is_clean_only_if_all_is_served_at_the_first_attempt(spoilt: list[Request]) -> None:
    assert Result("", 2, 1.0, requests((0.0, 2, SERVED))).clean
    assert not Result("", 2, 1.0, spoilt).clean


def test_nothing_sent_and_no_time_gone_by_is_a_report_too() -> None:
    empty = Result("throttled", 2, 0.0, [])
    text = report.report([empty], LIMITS, 13, "requests", ASCII, 80)
    assert "0 of 2 calls served" in text
    assert report.as_dict([empty], LIMITS)["ok"] is False


def test_the_table_stands_side_by_side_with_the_limits() -> None:
    table = report.table([UNTHROTTLED, THROTTLED], LIMITS, promised=13, unit="requests")
    assert table.splitlines() == [
        "                         unthrottled    throttled   the limit",
        "requests sent                     57           30",
        "  served                     5 of 30     30 of 30",
        "  refused                         52            0",
        "seconds                          2.0          4.0",
        "seconds banned                   2.0          0.0",
        "requests per second             28.5          7.5   10, burst 3",
        "  served                         2.5          7.5",
        "most requests in 1 s              30           13   13",
        "most requests at once             30           13   any number",
    ]
    wide = report.table([UNTHROTTLED, UNTHROTTLED, THROTTLED], LIMITS, 13, "requests")
    assert max(map(len, wide.splitlines())) <= 80


def test_the_most_in_a_period_is_no_less_than_the_picture_shows() -> None:
    rng = random.Random(1)
    sent = [Request(1.0, rng.uniform(0, 9), 9.5, SERVED) for _ in range(200)]
    most = Result("", 200, 9.5, sent).most_weight_in(1.0)
    assert most >= max(row.sent for row in report.timeline(sent, 1.0))
    edge = [Request(1.0, at, 3.0, SERVED) for at in (0.0, 0.999_999, 1.0)]
    assert Result("", 3, 3.0, edge).most_weight_in(1.0) == 2  # half-open


def test_the_table_has_a_line_for_failures_if_there_are_any() -> None:
    result = Result("throttled", 2, 1.0, requests((0.0, 1, FAILED), (0.0, 1, SERVED)))
    assert "\n  failed                           1\n" in report.table([result], LIMITS, 13, "")
    assert report.verdict(result).endswith(
        "1 failed, the first with ConnectionRefusedError: nobody there"
    )


def test_the_picture_shows_both_runs_against_the_limit() -> None:
    fast = replace(UNTHROTTLED, requests=UNTHROTTLED.requests)
    picture = report.picture([fast, THROTTLED], LIMITS, "requests", ASCII, 80)
    assert picture.splitlines() == [
        "requests in each 0.5 s:  # served  x not served  | limit 5, burst 3",
        "        unthrottled                         throttled",
        "   0 s  #######xxxx|xxxxxxxxxxxxxxx> 3+27   ###########|################ 13",
        " 0.5 s             |                 0                 |                 0",
        "   1 s  #####xxxxxx|xxxxxxxxxxxxxxx> 2+25   ###########|##########       10",
        " 1.5 s             |                                   |                 0",
        "   2 s             |                        ###########|####             7",
    ]


@pytest.mark.parametrize("glyphs", [ASCII, BLOCKS])
@pytest.mark.parametrize("limits", [LIMITS, LOG, replace(LIMITS, capacity=0.01, period=0.001)])
@pytest.mark.parametrize("scale", [0.001, 1.0, 1000.0])
@pytest.mark.parametrize("columns", [60, 80, 133])
def test_the_picture_is_as_wide_as_the_terminal(
    glyphs: report.Glyphs, limits: Limits, scale: float, columns: int
) -> None:
    def stretched(result: Result) -> Result:
        moved = [replace(r, sent=r.sent * scale, done=r.done * scale) for r in result.requests]
        return replace(result, requests=moved)

    fast, slow = stretched(UNTHROTTLED), stretched(THROTTLED)
    for results in ([fast, slow], [fast, fast, slow], [slow]):
        lines = report.picture(results, limits, "requests", glyphs, columns).splitlines()
        assert columns - 20 < max(map(len, lines[2:])) <= columns
        assert len(lines) <= 2 + report.MOST_ROWS


@pytest.mark.parametrize(
    ("last", "step"), [(0.0, 0.1), (0.99, 0.1), (1.0, 0.2), (3.0, 0.5), (6.0, 1.0), (75.0, 10.0)]
)
def test_rows_are_of_a_round_length(last: float, step: float) -> None:
    assert report.row_seconds([Result("", 1, 1.0, requests((last, 1, SERVED)))]) == step


def test_a_timeline_sums_up_weights() -> None:
    sent = [
        Request(0.1, 0.0, 0.1, SERVED),
        Request(0.2, 0.4, 0.5, SERVED),
        Request(5, 1.2, 1.3, FAILED),
    ]
    assert report.timeline(sent, 0.5) == [Row(0.3, 0), Row(0, 0), Row(0, 5)]


def test_a_bar_shows_the_least_bit() -> None:
    assert report.bar(Row(0.001, 0.001), 100, 50, 10, ASCII) == "#    |    "
    assert report.bar(Row(0, 0.001), 100, 50, 10, ASCII) == "x    |    "


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", BLOCKS), ("ascii", ASCII), ("latin-1", ASCII)]
)
def test_block_characters_go_only_where_they_can_be_shown(
    encoding: str, glyphs: report.Glyphs
) -> None:
    assert program.glyphs_for(io.TextIOWrapper(io.BytesIO(), encoding=encoding)) == glyphs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [Terminal(), io.StringIO()])
def test_the_progress_moves_only_on_a_terminal(
    terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, [SERVED, SERVED, REFUSED, SERVED, FAILED])
    attempt = Run("throttled", "", [1.0] * 4)

    async def scene() -> None:
        async with program.live(attempt, terminal):
            await attempt.throttled(Throttle(10, 1))

    testing.run(scene())
    *before, last, end = terminal.getvalue().replace("\r", "\n").split("\n")
    assert "3/4 served, 1 refused, 1 failed" in last
    assert end == ""
    assert ("\r" in terminal.getvalue()) == terminal.isatty() == (len(before) > 1)
    assert max(map(len, [*before, last])) < 80


@pytest.mark.parametrize("module", [api, report])
def test_the_examples_in_the_docstrings_are_true(module: object) -> None:
    results = doctest.testmod(module)  # type: ignore[arg-type]
    assert results.attempted
    assert not results.failed


# The whole of it, in real time.


def start(monkeypatch: pytest.MonkeyPatch, arguments: str) -> int:
    monkeypatch.setattr(run, "TRIES", 1)  # saves bans of a second each
    return __main__.main(arguments.split())


@pytest.mark.real_time
def test_without_a_throttle_there_is_a_ban_and_with_one_there_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = start(monkeypatch, "--json --requests 12 --capacity 6 --period 0.25 --server express")
    captured = capsys.readouterr()
    assert captured.err.startswith("async_throttle: starting ...\n")
    outcome = json.loads(captured.out)
    unthrottled, plain, throttled = outcome["runs"]
    assert unthrottled["refused"] > 0
    assert unthrottled["seconds_banned"] >= BAN
    assert unthrottled["served"] < 12
    assert plain["name"] == "plain"
    assert (throttled["served"], throttled["refused"], throttled["failed"]) == (12, 0, 0)
    assert throttled["seconds_banned"] == 0
    assert throttled["most_at_once"] <= 4
    assert sum(row["served"] for row in throttled["timeline"]) == 12
    assert outcome["ok"] is True
    assert status == 0


@pytest.mark.real_time
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.names[0])
def test_a_twin_is_never_refused_by_a_server_that_counts_exactly(
    twin: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = 9 if QUICK else 30
    arguments = f"--requests {calls} --capacity 6 --period 0.25 --server {twin.names[0]}"
    with serving(program.parse(arguments.split()).limits, seed=0) as url:
        status = start(monkeypatch, f"{arguments} --url {url}")
    out = capsys.readouterr().out
    assert f"{calls} of {calls} calls served, 0 requests refused, 0 failed" in out
    assert status == 0


@pytest.mark.real_time
def test_the_status_is_1_if_the_server_is_stricter_than_the_throttle(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(replace(LIMITS, burst=4), seed=0) as url:
        status = start(monkeypatch, f"--url {url} --burst 8 --requests 8 --concurrency 0")
    out, err = capsys.readouterr()
    assert "4 of 8 calls served, 4 requests refused" in out
    assert "unthrottled" not in out + err
    assert status == 1


@pytest.mark.real_time
def test_the_status_is_1_if_nobody_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as bound_but_not_listening:
        bound_but_not_listening.bind(("127.0.0.1", 0))
        port = bound_but_not_listening.getsockname()[1]
        status = start(monkeypatch, f"--url http://127.0.0.1:{port}/ --requests 2 --json")
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["runs"][0]["failed"] == 2
    assert status == 1


@pytest.mark.real_time
def test_both_runs_against_a_server_that_is_not_ours_come_with_a_warning_and_a_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = Limits(capacity=20, concurrency=2, period=0.1, burst=2, server="bucket")
    with serving(limits, seed=0) as url:
        status = start(
            monkeypatch,
            f"--url {url} --all --requests 4 --capacity 20 --period 0.1 --burst 2 --concurrency 2",
        )
    out, err = capsys.readouterr()
    assert f"warning: about to break the limits of {url}" in err
    assert "waiting 0.1 s" in err
    assert "4 of 4 calls served, 0 requests refused" in out
    assert status == 0


@pytest.mark.real_time
def test_processes_that_share_a_quota_are_not_refused_and_others_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = "--processes 3 --requests 15 --capacity 6 --period 0.25 --server express --json"
    status = __main__.main(arguments.split())
    outcome = json.loads(capsys.readouterr().out)
    apart, shared = outcome["runs"]
    assert outcome["processes"] == 3
    assert (apart["name"], apart["refused"] > 0) == ("apart", True)
    assert (shared["name"], shared["served"], shared["sent"]) == ("shared", 15, 15)
    assert shared["most_at_once"] <= 4
    assert status == 0


@pytest.mark.real_time
@pytest.mark.parametrize("kind", KINDS)
def test_processes_share_a_quota_on_a_server(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--processes 2 --requests 8 --capacity 6 --period 0.25"
    limits = program.parse(arguments.split()).limits
    with started(kind) as server, serving(limits, seed=0) as url:
        status = __main__.main([*arguments.split(), "--store", server.url, "--url", url])
    out, err = capsys.readouterr()
    assert "shared: 8 of 8 calls served, 0 requests refused, 0 failed" in out
    assert "apart" not in out + err
    assert status == 0


@pytest.mark.real_time
def test_a_process_that_fails_ends_all_of_them() -> None:
    options = program.parse(["--processes", "2", "--requests", "4"])
    attempt = Run("shared", "http://127.0.0.1:9/", [1.0] * 4)

    async def scene() -> None:
        shared = Shared("/nowhere/to/be/found.db", "name")
        await in_processes(attempt, replace(options.limits, server="nobody's"), 2, shared)

    with pytest.raises(Failed, match="a process of the run did not start"):
        asyncio.run(scene())


@pytest.mark.real_time
def test_a_store_that_is_away_is_said_to_be_before_anything_is_sent(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert program.main(["--store", "redis://me:secret@127.0.0.1:1/"]) == 1
    out, err = capsys.readouterr()
    assert "127.0.0.1:1" in err
    assert "secret" not in out + err
    assert "apart  " not in err


@pytest.mark.real_time
def test_the_server_outlives_clients_that_make_no_sense() -> None:
    with serving(LIMITS, seed=0) as url:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None

        def say(message: bytes) -> bytes:
            with socket.create_connection((parts.hostname, parts.port), timeout=5) as connection:
                connection.sendall(message)
                connection.shutdown(socket.SHUT_WR)
                return connection.recv(1000)

        assert say(b"") == b""
        assert say(b"GET / HT") == b""
        assert say(b"x" * 100_000) == b""
        assert say(b"DELETE / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        assert asyncio.run(get(url, 1)) == Answer(200, problem="HTTP status 200")
        answer = asyncio.run(get(url, 99))
        assert answer.refused
        assert answer.retry_after == BAN


@pytest.mark.real_time
def test_the_server_ends_in_silence_while_clients_are_connected(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with socket.socket() as idle, serving(LIMITS, seed=0) as url:
        parts = urlsplit(url)
        idle.connect((parts.hostname, parts.port))
        assert asyncio.run(get(url, 1)).served  # who came later was heard: so was the idle one
    assert caplog.records == []


@pytest.mark.real_time
async def test_a_server_that_never_answers_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "NO_ANSWER_AFTER", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        answer = await get(f"http://127.0.0.1:{silent.getsockname()[1]}/", 1)
    assert answer == Answer(0, problem="no answer within 0.05 s")


@pytest.mark.real_time
async def test_a_server_that_speaks_something_else_is_a_failure() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    answer = await get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", 1)
    server.close()
    assert answer.status == 0
    assert "not HTTP/1" in answer.problem


@pytest.mark.real_time
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send to another process")
def test_ctrl_c_ends_it_without_a_traceback() -> None:
    # Where the tests run in the background of a shell, SIGINT is ignored, and so it is in children.
    program_in_front = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "runpy.run_module('async_throttle', run_name='__main__')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program_in_front],
        cwd=Path(program.__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    process.stderr.readline()  # it starts
    process.stderr.readline()  # the first run has begun
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert "interrupted" in err.splitlines()
    # CPython 3.13.0 may say, too, what went wrong in the finalizers of its own transports.
    assert err.count("Traceback") == err.count("Exception ignored in")
    assert process.returncode == 130
