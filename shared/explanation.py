"""Why a newcomer should host what it should, in words, beside what other rules would do. Pure."""

from itertools import groupby

from shared.flow import Host
from shared.placement import Choice, Survey
from shared.rivals import parallax_start, petals_blocks, petals_start
from shared.swarm import Span


def explain(survey: Survey, choice: Choice, speed: float) -> str:
    """All that led to a choice for a newcomer of that speed, a paragraph each."""
    parts = [_swarm(survey), _levels(survey), _choice(survey, choice, speed)]
    return "\n\n".join([*parts, _rivals(survey, choice, speed), _moves(survey)])


def reason(survey: Survey, span: Span) -> str:
    """Why it is these blocks, as the end of a sentence that names them."""
    if not survey.hostings:
        return "nobody hosts anything yet"
    bare = [blocks for level, blocks in _runs(survey.levels) if level <= 0]
    helped = [str(blocks) for blocks in bare if blocks.overlaps(span)]
    if helped:
        return f"nobody hosts {', '.join(helped)}"
    poorest = min(survey.levels[span.start : span.end])
    return f"blocks there get least, {poorest:.1f} tokens/s"


def _swarm(survey: Survey) -> str:
    lines = [
        f"  {hosting.worker}  {hosting.host.span!s:>9}  {hosting.host.speed:10.1f}  "
        + ("serving" if hosting.is_serving else "on its way")
        for hosting in sorted(survey.hostings, key=lambda one: one.host.span)
    ]
    who = f"{len(lines)} worker{'s' * (len(lines) != 1)}"
    title = f"{who} (blocks, block-tokens a second with many sessions, state)"
    return "\n".join([title, *lines])


def _levels(survey: Survey) -> str:
    lines = [f"  {span!s:>9}  {level:10.1f}" for level, span in _runs(survey.levels)]
    most = f"{survey.throughput:.1f} tokens/s in all; no placement of these workers exceeds "
    most += f"{survey.bound:.1f}"
    return "\n".join(["tokens a second that blocks can get", *lines, most])


def _choice(survey: Survey, choice: Choice, speed: float) -> str:
    return (
        f"a newcomer with room for {len(choice.span)} blocks, at {speed:.1f} block-tokens a "
        f"second, takes {choice.span}:\n  {reason(survey, choice.span)};\n"
        f"  the swarm goes from {choice.before:.1f} to {choice.after:.1f} tokens/s"
    )


def _rivals(survey: Survey, choice: Choice, speed: float) -> str:
    size, num_blocks = len(choice.span), survey.num_blocks
    starts = {
        "Petals": petals_start(petals_blocks(survey.hosts, num_blocks), size),
        "Parallax": parallax_start(survey.hosts, num_blocks, size),
    }
    lines = [
        f"  {rule} would take {span}, which makes {survey.throughput_with(Host(span, speed)):.1f}"
        for rule, start in starts.items()
        for span in [Span(start, start + size)]
    ]
    return "\n".join(["by other rules", *lines])


def _moves(survey: Survey) -> str:
    if not survey.moves:
        return "nobody has a reason to move"
    lines = [
        f"  {hosting.worker} from {hosting.host.span} to {survey.moves[hosting.worker]}"
        for hosting in survey.hostings
        if hosting.worker in survey.moves
    ]
    return "\n".join([f"moves that would make it {survey.throughput_after:.1f} tokens/s", *lines])


def _runs(levels: list[float]) -> list[tuple[float, Span]]:
    """Blocks in a row that get the same."""
    runs: list[tuple[float, Span]] = []
    for level, blocks in groupby(range(len(levels)), key=lambda block: round(levels[block], 6)):
        first, *rest = blocks
        runs.append((level, Span(first, first + 1 + len(rest))))
    return runs
