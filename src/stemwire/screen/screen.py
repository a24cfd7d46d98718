"""The terminal screen of a live session.

It runs in the caller's thread, which must be the main one. It reads `Steerable.status` eight times
a second and draws what has changed; the session never waits for it. A failure ends the screen and
is returned to the caller as a sentence; the sound goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections import deque
from typing import ClassVar, Protocol

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.theme import Theme
from textual.widgets import Footer

from stemwire.errors import StemwireError
from stemwire.realtime.levels import OFF
from stemwire.realtime.live.panel import LEVELS
from stemwire.realtime.live.status import Status, Steerable
from stemwire.screen import figures
from stemwire.screen.help import Help
from stemwire.screen.steering import FADERS, SOLOS, Steering
from stemwire.screen.terminal import Terminal, screen_unavailable_reason
from stemwire.screen.widgets import (
    ACCENT,
    BACK,
    INK,
    RAISED,
    YELLOW,
    ChannelRow,
    Scale,
    Switch,
    TextLine,
)

RATE = 8.0  # redraws per second
FIGURES = 4  # redraws between two updates of the figures, which would be unreadable if faster
KEYS = {name: number for number, name in enumerate(FADERS, 1)}
TEXTS = ("header", "delay", "hops", "health", "notice", "messages")
SWITCHES = (
    ("bypass", "b", "A/B"),
    ("mute", "m", "mute"),
    ("solo", "s", "solo"),
    ("preset", "p", "preset"),
)


class MidiLearner(Protocol):
    """Binds the next MIDI control that moves to a target."""

    @property
    def learning(self) -> str | None:
        """Target that waits for a control to move, or None."""

    def learn(self, target: str) -> None:
        """Bind the next control that moves to the target; raises `ConfigError`.

        Targets are the faders by name, "bypass", "mute", "solo vocals" and so on, "preset next".
        """

    def cancel(self) -> None:
        """Stop waiting."""


class LiveScreen(App[str]):
    """The screen as a Textual app; its result is "" or what went wrong.

    Args:
        session: session to show and steer.
        midi: learner of MIDI controls; None without MIDI.
        terminal: terminal that is drawn on; None in tests.
    """

    TITLE = "stemwire live"
    ENABLE_COMMAND_PALETTE = False
    ALLOW_SELECT = False
    CSS = f"""
    Screen {{ background: {BACK}; color: {INK}; padding: 0 1; overflow: hidden; layout: vertical; }}
    #header {{ height: 2; }}
    #switches {{ height: 1; margin: 1 0; }}
    #solo, #preset {{ width: 4fr; }}
    #preset {{ margin: 0; }}
    #panels {{ height: 7; }}
    #panels TextLine {{ width: 1fr; height: 100%; margin: 0 2 0 0; }}
    #panels #delay {{ min-width: 24; }}
    #panels #hops {{ min-width: 28; width: 2fr; max-width: 64; }}
    #panels #health {{ min-width: 22; }}
    #panels #health {{ margin: 0; }}
    #notice {{ height: auto; max-height: 2; text-wrap: wrap; }}
    #messages {{ height: 1fr; }}
    Footer {{ background: {BACK}; }}
    .roomy ChannelRow {{ height: 2; }}
    .roomy #header, .large #header {{ margin: 0 0 1 0; }}
    .roomy #notice, .large #notice {{ margin: 1 0 0 0; }}
    .large ChannelRow {{ height: 3; }}
    """
    VERTICAL_BREAKPOINTS = [(0, "tight"), (30, "roomy"), (40, "large")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "app.focus_previous", "choose", key_display="↑↓"),
        Binding("down", "app.focus_next", show=False),
        Binding("left", "step(-1)", "dB", key_display="←→"),
        Binding("right", "step(1)", show=False),
        Binding("shift+left", "step(-0.1)", show=False),
        Binding("shift+right", "step(0.1)", show=False),
        Binding("pagedown", "step(-6)", show=False),
        Binding("pageup", "step(6)", show=False),
        Binding("0", "zero", show=False),
        Binding("o,delete", "off", "off", key_display="o"),
        Binding("b", "turn('bypass')", "A/B"),
        Binding("m", "turn('mute')", "mute"),
        Binding("s", "solo", "solo"),
        Binding("p", "turn('preset')", "preset"),
        Binding("P", "turn('preset', -1)", show=False),
        Binding("l", "learn", "learn"),
        Binding("escape", "forget", show=False),
        Binding("c", "clear", show=False),
        Binding("question_mark,f1", "help", "help", key_display="?"),
        Binding("q", "leave", "quit"),
        Binding("ctrl+c,ctrl+q", "leave", show=False, priority=True),
        *(Binding(str(i), f"choose('{name}')", show=False) for name, i in KEYS.items()),
    ]

    def __init__(
        self,
        session: Steerable,
        midi: MidiLearner | None = None,
        terminal: Terminal | None = None,
    ) -> None:
        super().__init__()
        self.session = session
        self.steering = Steering(session, self.tell)
        self.midi = midi
        self.terminal = terminal
        self.failure: Exception | None = None
        self._texts = {name: TextLine(id=name) for name in TEXTS}
        self._panels = Horizontal(*(self._texts[name] for name in TEXTS[1:4]), id="panels")
        self._rows = [ChannelRow(name, KEYS.get(name, 0)) for name in LEVELS]
        self._switches = [Switch(*each) for each in SWITCHES]
        self._lines: deque[tuple[str, str]] = deque(maxlen=500)  # (time, message)
        self._clipped = math.inf  # clipping before the screen lights no lamp
        self._drawings = 0

    def compose(self) -> ComposeResult:
        yield self._texts["header"]
        yield Scale()
        yield from self._rows
        with Horizontal(id="switches"):
            yield from self._switches
        yield self._panels
        yield self._texts["notice"]
        yield self._texts["messages"]
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.register_theme(
            Theme(
                "stemwire",
                primary=ACCENT,
                background=BACK,
                foreground=INK,
                surface=BACK,
                panel=RAISED,
                dark=True,
            )
        )
        self.theme = "stemwire"
        self.begin_capture_print(self)
        if self.terminal is not None:  # in tests, signals are left alone
            loop = asyncio.get_running_loop()
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if hasattr(signal, name):
                    with contextlib.suppress(NotImplementedError, ValueError):  # Windows
                        loop.add_signal_handler(getattr(signal, name), self.exit, "")
        self.query_one("#vocals").focus()
        self.set_interval(1 / RATE, self._draw)
        self.call_after_refresh(self._draw)

    def on_resize(self) -> None:
        self._drawings = 0

    def on_print(self, event: events.Print) -> None:
        if self.terminal is not None:
            self.terminal.add_printed(event.text)

    # Drawing

    def _draw(self) -> None:
        if not self.is_running:  # it is closing
            return
        if self.terminal is not None:
            self.terminal.read_printed()
            if self.terminal.gone:
                self.exit("the terminal has disappeared; the sound goes on without a screen")
            elif self.terminal.recover():
                self.refresh(layout=True)
        status = self.session.status()
        now = time.monotonic()
        self._take_messages()
        due = self._drawings % FIGURES == 0
        self._drawings += 1
        self._draw_rows(status, now, due)
        if due:
            self._draw_figures(status)
        if status.state == "stopped":
            self.exit("")

    def _draw_rows(self, status: Status, now: float, due: bool) -> None:
        solo = SOLOS[int(status.controls.get("solo", 0.0))]
        clipped = status.counters.get("clipped", 0)
        armed = self.midi.learning if self.midi else None
        for row in self._rows:
            row.levels.feed(*status.levels.get(row.channel, (OFF, OFF)), now)
            if row.channel == "output" and clipped > self._clipped:
                row.levels.clipped_at = now
            tag = "♪?" if armed == row.channel else "S" if solo == row.channel else ""
            row.show(status.controls.get(row.channel, OFF), tag, now, due)
        self._clipped = clipped

    def _draw_figures(self, status: Status) -> None:
        pending_preset = self.steering.pending_preset(status.preset)
        header = self._texts["header"]
        header.show(figures.header(status, pending_preset, header.size.width))
        parts = {"delay": figures.delays, "hops": figures.hop_times, "health": figures.health}
        for name, lines in parts.items():
            panel = self._texts[name]
            panel.show(Text("\n").join(lines(status, panel.size.width)))
        self._panels.styles.height = max(7, len(status.delays) + 4)
        controls = status.controls
        solo = SOLOS[int(controls.get("solo", 0.0))]
        words = {
            "bypass": ("B input" if controls.get("bypass") else "A stems", controls.get("bypass")),
            "mute": ("MUTED" if controls.get("mute") else "off", controls.get("mute")),
            "solo": (solo, solo != "none"),
            "preset": (pending_preset or status.preset, bool(pending_preset)),
        }
        for switch in self._switches:
            value, stands_out = words[switch.control]
            switch.show(value, bool(stands_out))
        self._draw_notice(status)
        view = self._texts["messages"]
        view.show(figures.messages(self._lines, view.size.width, view.size.height))

    def _draw_notice(self, status: Status) -> None:
        notice = figures.rare_counters(status)
        if self.midi is not None and (target := self.midi.learning):
            notice = Text(
                f"♪ MIDI learn: move a control for {target}; Esc cancels", f"bold reverse {YELLOW}"
            )
        self._texts["notice"].show(notice)

    def tell(self, message: str) -> None:
        """Add a line to the messages."""
        self._lines.append((time.strftime("%H:%M:%S"), message))

    def _take_messages(self) -> None:
        for message in self.session.messages():
            self.tell(message)

    # Steering

    def _chosen(self) -> ChannelRow | Switch | None:
        chosen = self.focused
        return chosen if isinstance(chosen, ChannelRow | Switch) else None

    def _draw_now(self) -> None:
        self._drawings = 0
        self._draw()

    def action_choose(self, name: str) -> None:
        self.query_one(f"#{name}").focus()

    def action_step(self, by: float) -> None:
        chosen = self._chosen()
        if isinstance(chosen, ChannelRow):
            self.steering.step(chosen.channel, by)
        elif chosen is not None:
            self.steering.turn(chosen.control, 1 if by > 0 else -1)
        self._draw_now()

    def action_zero(self) -> None:
        if isinstance(chosen := self._chosen(), ChannelRow):
            self.steering.set(chosen.channel, 0.0)
            self._draw_now()

    def action_off(self) -> None:
        if isinstance(chosen := self._chosen(), ChannelRow):
            self.steering.off(chosen.channel)
            self._draw_now()

    def action_turn(self, switch: str, by: int = 1) -> None:
        self.steering.turn(switch, by)
        self._draw_now()

    def action_solo(self) -> None:
        chosen = self._chosen()
        self.steering.solo(chosen.channel if isinstance(chosen, ChannelRow) else "")
        self._draw_now()

    def action_learn(self) -> None:
        chosen = self._chosen()
        if self.midi is None:
            self.tell("MIDI is off, so there is nothing to learn from; start with --midi PORT")
        elif self.midi.learning:
            self.midi.cancel()
        elif chosen is not None:
            target = chosen.id or ""
            if target == "solo":  # the channel that the switch shows
                target = f"solo {SOLOS[int(self.session.control('solo')) or 1]}"
            try:
                self.midi.learn("preset next" if target == "preset" else target)
            except StemwireError as error:
                self.tell(str(error))
        self._draw_now()

    def action_forget(self) -> None:
        if self.midi is not None:
            self.midi.cancel()
            self._draw_now()

    def action_clear(self) -> None:
        for row in self._rows:
            row.levels.clipped_at = None
        self._drawings = 0

    def action_help(self) -> None:
        self.push_screen(Help())

    def action_leave(self) -> None:
        self.exit("")

    @on(ChannelRow.Moved)
    def _moved(self, message: ChannelRow.Moved) -> None:
        self.steering.set(message.row.channel, message.gain)
        self._draw_now()

    @on(ChannelRow.Stepped)
    def _stepped(self, message: ChannelRow.Stepped) -> None:
        self.steering.step(message.row.channel, message.by)
        self._draw_now()

    @on(Switch.Pressed)
    def _pressed(self, message: Switch.Pressed) -> None:
        self.action_turn(message.switch.control)

    # Failures: the caller reports them in one sentence

    def _handle_exception(self, error: Exception) -> None:
        self.failure = self.failure or error
        super()._handle_exception(error)

    def _print_error_renderables(self) -> None:
        self._exit_renderables.clear()


def run_screen(session: Steerable, midi: MidiLearner | None = None) -> str:
    """Show the session until the user quits or it has stopped; call it from the main thread.

    Ctrl-C, SIGTERM and SIGHUP quit as `q` does. What libraries print meanwhile is shown on standard
    error afterwards. Nothing is raised, because the sound must go on.

    Args:
        session: session to show and steer.
        midi: learner of MIDI controls; None without MIDI.

    Returns:
        "" if the user quit or the session has stopped; else a sentence that says why there is no
        screen.
    """
    if problem := screen_unavailable_reason():
        return problem
    printed: list[str] = []
    try:
        if os.name == "posix":
            with Terminal() as terminal:
                problem = _run(session, midi, terminal)
            printed = terminal.report()
        else:
            problem = _run(session, midi, None)
    except Exception as error:
        problem = _sentence(error)
    for line in printed:
        print(line, file=sys.stderr)
    return problem


def _run(session: Steerable, midi: MidiLearner | None, terminal: Terminal | None) -> str:
    app = LiveScreen(session, midi, terminal)
    answer = app.run()
    if app.failure is not None:
        return _sentence(app.failure)
    return "the screen ended unexpectedly; the sound goes on" if answer is None else answer


def _sentence(error: Exception) -> str:
    trace, where = error.__traceback__, ""
    while trace is not None:
        code = trace.tb_frame.f_code
        where, trace = f" in {code.co_name}, line {trace.tb_lineno}", trace.tb_next
    return f"the screen failed ({type(error).__name__}: {error}{where}); the sound goes on"
