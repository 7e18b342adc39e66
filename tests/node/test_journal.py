"""The node's log: clean, masked, bounded, and complete when the service comes back."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from app.node.agent import journal
from app.node.agent.journal import LONGEST_LINE, Journal, Mask, Splitter, clean


def fresh() -> Journal:
    return Journal(lambda: 0.0)


def texts(log: Journal) -> list[str]:
    return [line.text for line in log.batch()]


def test_terminal_escapes_and_control_characters_are_taken_out() -> None:
    """A job's colours, titles, bells, line separators and direction changes do not reach the page."""
    assert clean("\x1b[1;31mred\x1b[0m \x1b]0;title\x07plain\x07\x00 tab\there") == "red plain tab\there"
    assert clean("a\u2028b\u202ec\x9bd\x7f") == "abcd"


@given(st.text())
def test_no_control_character_ever_stays(text: str) -> None:
    """One line in is one line out."""
    kept = clean(text)
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", kept)
    assert len(kept.splitlines()) <= 1


def test_a_line_is_cut_at_4_kib() -> None:
    log = fresh()
    log.add("runner", "x" * 10_000)
    assert texts(log) == ["x" * LONGEST_LINE + " …"]


def test_secrets_are_masked_wherever_they_show_up() -> None:
    """Whole, inside a line, as one line of a file, and as a token inside such a line."""
    log = fresh()
    log.mask.learn(["glrt-abcdefgh12345678", 'url = "x"\n  token = "glrt-zyxwvuts87654321-000"\n', "short"])
    log.add("runner", "using glrt-abcdefgh12345678!")
    log.add("runner", 'token = "glrt-zyxwvuts87654321-000"')
    log.add("runner", "it is glrt-zyxwvuts87654321-000 and short")
    assert texts(log) == ["using ***!", "***", "it is *** and short"]


def test_an_escape_in_the_middle_does_not_hide_a_secret() -> None:
    log = fresh()
    log.mask.learn(["glrt-abcdefgh12345678"])
    log.add("runner", "glrt-abcd\x1b[0mefgh12345678")
    assert texts(log) == ["***"]


def test_a_secret_is_never_cut_in_two_by_the_limit() -> None:
    """One that begins before the cut is covered whole, one behind it is not shown at all."""
    secret = "s3cret-" + "q" * 100
    mask = Mask()
    mask.learn([secret])
    for before in range(LONGEST_LINE - 120, LONGEST_LINE + 5):
        shown = mask.cover("x" * before + secret + "y" * 50)
        assert "qqqq" not in shown and "s3c" not in shown


def test_a_secret_longer_than_a_line_is_masked_in_a_stream_without_newlines() -> None:
    """A just-in-time configuration has several thousand characters."""
    log, secret = fresh(), "ey" + "A1b2" * 2000
    log.mask.learn([secret])
    splitter = Splitter(lambda line: log.add("runner", line), log.mask)
    stream = ("-" * 1000 + secret + "-" * 90_000).encode()
    for place in range(0, len(stream), 997):
        splitter.feed(stream[place : place + 997])
    splitter.feed(b"\nnext\n")
    told = texts(log)
    assert "A1b2" not in "".join(told)
    assert told[0].startswith("-" * 1000 + "***") and told[-1] == "next"


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_lines_do_not_depend_on_how_the_bytes_arrive(pieces: list[bytes]) -> None:
    """Any cut of a stream gives the same lines, whatever ends them."""
    whole: list[str] = []
    split: list[str] = []
    for lines, feeds in ((whole, [b"".join(pieces)]), (split, pieces)):
        splitter = Splitter(lines.append, Mask())
        for piece in feeds:
            splitter.feed(piece)
        splitter.end()
    assert whole == split


def test_a_progress_bar_is_many_lines_and_a_windows_line_is_one() -> None:
    lines: list[str] = []
    splitter = Splitter(lines.append, Mask())
    splitter.feed(b"10%\r20%\r")
    splitter.feed(b"\nwindows\r\nend")
    splitter.end()
    assert lines == ["10%", "20%", "windows", "end"]


def test_nothing_is_forgotten_until_the_service_has_it() -> None:
    """A batch is offered again and again; numbers stay, so that a repetition adds nothing there."""
    log = fresh()
    log.add("agent", "one")
    log.add("runner", "two")
    first = log.batch()
    assert log.batch() == first and [line.seq for line in first] == [1, 2]
    log.sent(first)
    assert log.empty and log.batch() == []


def test_memory_is_bounded_while_the_service_is_away_and_a_line_says_what_was_lost() -> None:
    """The oldest lines go first; the note stands where they were."""
    log = fresh()
    for number in range(journal.MOST_LINES + 5):
        log.add("runner", f"line {number}")
    batch = log.batch()
    assert batch[0].text == "5 lines were lost here, because the service was away"
    assert batch[0].seq == 5 and batch[1].text == "line 5" and batch[1].seq == 6
    log.sent(batch)
    assert log.batch()[0].text == f"line {5 + len(batch) - 1}"


def test_a_runner_that_never_stops_writing_leaves_room_for_the_agents_last_words() -> None:
    """The service keeps 20,000 lines of a lease."""
    log, told = fresh(), list[str]()
    for number in range(30_000):
        log.add("runner", str(number))
        if number % 500 == 0:
            batch = log.batch()
            told += [line.text for line in batch]
            log.sent(batch)
    log.add("agent", "ending")
    while batch := log.batch():
        told += [f"{line.seq} {line.text}" for line in batch]
        log.sent(batch)
    assert told[-2:] == ["19001 the runner has written too much: what follows is not kept", "19002 ending"]


def test_long_lines_are_bounded_by_their_size() -> None:
    log = fresh()
    for _ in range(3000):
        log.add("runner", "x" * 4000)
    kept = 0
    while batch := log.batch():
        kept += sum(len(line.text) for line in batch)
        log.sent(batch)
    assert kept <= journal.MOST_CHARACTERS + 1000


def test_a_batch_fits_the_services_limit_even_in_the_worst_letters() -> None:
    """JSON makes twelve bytes of one such letter."""
    log = fresh()
    for _ in range(300):
        log.add("runner", "\U0001f600" * 4000)
    body = json.dumps(journal.upload(log.batch(), lambda moment: "2026-11-21T12:00:00.000Z"))
    assert len(body) < 256 * 1024


def test_the_agents_own_lines_are_on_the_console_too_and_masked_there() -> None:
    shown: list[str] = []
    log = Journal(lambda: 0.0, shown.append)
    log.mask.learn(["a-very-secret-word"])
    log.say("here is a-very-secret-word")
    assert shown == ["here is ***"]
