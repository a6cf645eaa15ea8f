"""Tries grammars in a process of their own, which one that is too costly takes down alone.

llguidance bounds most of what a grammar may cost, but not all: `{"multipleOf": 999983}` keeps it
busy for minutes, some schemas double with each reference, and long rows of references end the
process, as they use up the stack. Whatever lives through the trial is safe to compile here.
"""

import atexit
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import msgspec
from llguidance import LLTokenizer

from shared.errors import GrammarError
from shared.grammars import as_lark, compile_grammar
from shared.wire.messages import Grammar

PROCESSOR_SECONDS: Final = 1.0
"""What a grammar may take in its trial; a schema of 500 properties takes a twentieth."""
WALL_SECONDS: Final = 10.0
"""How long a trial may last where others have the processor."""
MEMORY_BYTES: Final = 384 << 20
"""Address space of the trial's process, of which Python and its libraries have 180 MB."""
STACK_BYTES: Final = 1 << 20
"""An eighth of what a thread has by default, as that is where a grammar is used in earnest."""

TOO_COSTLY: Final = "it is too costly to compile"


class Verdict(msgspec.Struct, omit_defaults=True):
    """What became of a grammar: the reason against it, or how workers are told of it."""

    grammar: Grammar | None = None
    reason: str = ""


class Trial:
    """The process in which grammars are tried, one after the other; begun when first needed."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def check(self, grammar: Grammar) -> Grammar:
        """The grammar to compile, GBNF turned to Lark. Any thread may call.

        Raises GrammarError unless it compiles, at a bounded cost.
        """
        with self._turn:
            verdict = self._verdict_on(grammar)
        if verdict.grammar is None:
            raise GrammarError(verdict.reason)
        return verdict.grammar

    def close(self) -> None:
        """End the process, whatever it is at."""
        if process := self._process:
            process.kill()
        with self._turn:
            self._end()

    def _verdict_on(self, grammar: Grammar) -> Verdict:
        try:
            process = self._process = self._process or _begin()
            answer = _answer(process, msgspec.json.encode(grammar) + b"\n")
        except OSError as error:  # one that was killed shows when it is written to
            self._end()
            return Verdict(reason=f"it cannot be tried now: {error}")
        if not answer:
            self._end()
            return Verdict(reason=TOO_COSTLY)
        return msgspec.json.decode(answer, type=Verdict)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.communicate()


TRIAL: Final = Trial()
"""One for all of a process."""
atexit.register(TRIAL.close)


def _begin() -> subprocess.Popen[bytes]:
    """Start a process that tries grammars. Raises OSError when it does not come up."""
    paths = (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", ""))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "shared.trial"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # what Rust says of a stack that is used up
        start_new_session=True,  # Ctrl-C is for its parent, with whom it ends
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if not _answer(process, b""):
        process.kill()
        process.communicate()
        raise OSError(f"{sys.executable} -m shared.trial does not start")
    return process


def _answer(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """What comes back for a line; nothing when the process dies over it or takes too long."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(line)
    process.stdin.flush()
    answer = b""
    while not answer.endswith(b"\n"):
        ready, _, _ = select.select([process.stdout], [], [], WALL_SECONDS)
        part = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not part:
            return b""
        answer += part
    return answer


def _tried(grammar: Grammar, vocabulary: LLTokenizer) -> Verdict:
    try:
        taken = as_lark(grammar)
        compile_grammar(taken, vocabulary)
    except GrammarError as error:
        return Verdict(reason=str(error) or type(error).__name__)
    return Verdict(taken)


def _serve() -> None:
    """Try what comes in, each line of it within the limit on its processor time."""
    vocabulary = LLTokenizer("byte")  # the limits hold whatever the tokens are
    _say(Verdict())
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, PROCESSOR_SECONDS)  # SIGPROF ends the process
        verdict = _tried(msgspec.json.decode(line, type=Grammar), vocabulary)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(verdict)


def _say(verdict: Verdict) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(verdict) + b"\n")
    sys.stdout.flush()


def main() -> None:
    """Serve, on a thread whose stack is small, until nobody asks any more."""
    os.nice(5)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve)
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
