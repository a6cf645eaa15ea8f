"""How long a batch waits for more steps to join it. Pure.

The tokens of one batch come back as steps one by one, and without a moment's patience the first of
them would run alone. With a single session nothing is waited for.
"""

LINGER_SHARE = 0.1
"""Most of a decode step's time that a batch waits as a rule."""
QUIET_SECONDS = 0.001
"""Silence after which, as a rule, no more are expected."""


def patience(
    num_waiting: int, num_sessions: int, *, decode_seconds: float, lost_seconds: float
) -> tuple[float, float]:
    """(most seconds to wait in all, silence after which to wait no more).

    `lost_seconds` is what a forward of late has waited for a processor: several workers share this
    machine's. Batches of less than half of the sessions then wait as long. Groups of sessions that
    travel apart meet and go on together, and two groups keep as many processors busy as more do,
    with less work: 3 workers on 2 cores, 0.3B float32, 8 sessions: 47 ms of processor time a token
    in groups of 2.4, 28 in groups of 4.
    """
    if num_waiting >= num_sessions:
        return 0.0, 0.0
    natural = LINGER_SHARE * decode_seconds
    if 2 * num_waiting >= num_sessions:
        return natural, QUIET_SECONDS
    return max(natural, lost_seconds), max(QUIET_SECONDS, lost_seconds)
