"""Figures of the terminal screen: a `Status` as lines of text."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from textwrap import wrap

from rich.text import Text

from stemwire.realtime.live.status import State, Status
from stemwire.screen.widgets import ACCENT, FAINT, GREEN, INK, MUTED, NEAR, RED, SLIM, YELLOW, bar

STATES: dict[State, tuple[str, str]] = {
    "starting": ("◌ starting", ACCENT),
    "playing": ("▶ playing", GREEN),
    "reconnecting": ("↻ RECONNECTING", RED),
    "stopped": ("■ stopped", MUTED),
}
RARE_COUNTERS = {  # counters that are shown only when they are not 0
    "skipped": "hops skipped",
    "clipped": "samples clipped",
    "bad_input": "not finite",
    "bad_effects": "without effects",
    "unrecorded": "not recorded",
    "reconnects": "reconnects",
    "underruns": "input gaps",
    "overruns": "input skips",
}


def clock(seconds: float) -> str:
    """Time as hours, minutes and seconds."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def count(number: int) -> str:
    """Whole number with thousands separators."""
    return f"{number:,}"


def title(text: str, width: int, right: str = "") -> Text:
    """Heading of a panel, with a rule up to its end."""
    room = max(width - len(text) - len(right) - 2, 0)
    line = Text.assemble((f"{text} ", f"bold {ACCENT}"), ("─" * room, FAINT), (f" {right}", MUTED))
    line.truncate(width)
    return line


def header(status: Status, pending: str, width: int) -> Text:
    """Two lines: state, time, preset and recording; devices and format."""
    words, colour = STATES[status.state]
    preset = f"{status.preset} → {pending} …" if pending else status.preset
    left = Text.assemble(
        ("stemwire ", f"bold {INK}"),
        (f" {words} ", f"bold reverse {colour}"),
        (f"  {clock(status.seconds)}", f"bold {INK}"),
        (f"  {preset}", ACCENT),
    )
    right = Text("not recording", MUTED)
    if status.recording:
        right = Text.assemble((" ● REC ", f"bold reverse {RED}"), (f" {status.recording}", INK))
    form = Text(f"{count(status.sample_rate)} Hz, blocks of {status.block_size}", MUTED)
    devices = Text(f"{status.input or 'no input'} → {status.output or 'no output'}", INK)
    return Text("\n").join((_justify(left, right, width), _justify(devices, form, width)))


def delays(status: Status, width: int) -> list[Text]:
    """Latency of each stage, their sum, and the latencies that are not in the sum."""
    ms = 1e3 / max(status.sample_rate, 1)
    lines = [title("DELAY", width, "ms samples")]

    def line(name: str, samples: int, style: str) -> None:
        figures = f"{samples * ms:6.1f} {count(samples):>7}"
        room = max(width - len(figures), 0)
        lines.append(Text(f"{name[:room]:<{room}}{figures}", style))

    for name, samples in status.delays.items():
        line(name, samples, INK)
    line("sum", status.delay, f"bold {INK}")
    if status.device_delay:
        line("+ devices", round(status.device_delay * status.sample_rate), MUTED)
    else:
        lines.append(Text("+ devices (unknown)", MUTED))
    line("microphone", status.microphone_delay, MUTED)
    return lines


def hop_times(status: Status, width: int) -> list[Text]:
    """Processing times of a hop, as bars that are full at the budget."""
    budget = status.budget_ms
    lines = [title("HOP TIME", width, f"of {budget:.2f} ms")]
    worst = 0.0
    for name in ("p50", "p99", "p99.9", "max"):
        took = status.hop_ms.get(name, 0.0)
        share = took / budget if budget > 0 else 0.0
        worst = max(worst, share if name != "max" else 0.0)
        figures = f"{name:<5}{took:7.2f} "
        percent = f"{min(share, 99.99):5.0%}" + ("!" if share >= 1 else " ")
        colour = RED if share >= 1 else YELLOW if share >= NEAR else GREEN
        filled = bar(share, max(width - len(figures) - len(percent), 1)).rstrip(SLIM.track)
        track = SLIM.track * (width - len(figures) - len(percent) - len(filled))
        lines.append(
            Text.assemble(
                (figures, INK),
                (filled, colour),
                (track, FAINT),
                (percent, f"bold {colour}" if share >= NEAR else INK),
            )
        )
    late = status.hop_ms.get("max", 0.0) > budget > 0
    words, colour = ("well within the budget", GREEN)
    if not status.hop_ms.get("max"):
        words, colour = "no hop yet", MUTED
    elif worst >= 1:
        words, colour = "TOO SLOW for this preset", RED
    elif late:
        words, colour = "the slowest was late", YELLOW
    elif worst >= NEAR:
        words, colour = "near the budget", YELLOW
    lines.append(Text(words, colour))
    return lines


def health(status: Status, width: int) -> list[Text]:
    """Errors so far, and the resources that the session uses."""
    lines = [title("HEALTH", width)]

    def line(name: str, figure: str, bad: bool = False) -> None:
        style = f"bold {YELLOW}" if bad else INK
        lines.append(Text(f"{name:<{max(width - len(figure), 0)}}{figure}", style))

    counters = status.counters
    for name, label in (("xruns", "xruns"), ("misses", "misses"), ("concealed", "concealed")):
        number = counters.get(name, 0)
        line(f"{'! ' if number else ''}{label}", count(number), bad=number > 0)
    line("drift", f"{status.drift_ppm:+.1f} ppm")
    line("CPU", f"{status.cpu_share:.0%} of a core", bad=status.cpu_share >= 0.9)
    line("memory", f"{status.memory_bytes / 1e6:.0f} MB")
    return lines


def rare_counters(status: Status) -> Text:
    """Counters that are usually 0, if one is not."""
    counted = [(status.counters.get(name, 0), words) for name, words in RARE_COUNTERS.items()]
    text = " · ".join(f"{count(number)} {words}" for number, words in counted if number)
    return Text(f"! also: {text}" if text else "", YELLOW)


def messages(lines: Iterable[tuple[str, str]], width: int, height: int) -> Text:
    """The newest of (time, message) that fit, the newest last and not truncated."""
    shown: deque[Text] = deque()
    for moment, message in reversed(list(lines)):
        pieces = wrap(message, max(width - len(moment) - 2, 8)) or [""]
        if not shown and len(pieces) > height > 0:  # show the beginning of the newest
            pieces = [*pieces[: height - 1], f"{pieces[height - 1]} …"]
        for i, piece in reversed(list(enumerate(pieces))):
            head = (moment if i == 0 else " " * len(moment)) + "  "
            shown.appendleft(Text.assemble((head, MUTED), (piece, INK)))
        if len(shown) >= height:
            break
    return Text("\n").join(list(shown)[-height:] if height else [])


def _justify(left: Text, right: Text, width: int) -> Text:
    """One line with text at either end; the right one is truncated first."""
    left.truncate(width, overflow="ellipsis")
    right.truncate(max(width - left.cell_len - 2, 0), overflow="ellipsis")
    return Text.assemble(left, " " * max(width - left.cell_len - right.cell_len, 0), right)
