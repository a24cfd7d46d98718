"""Help page of the terminal screen: keys and figures."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from stemwire.screen.widgets import ACCENT, BACK, INK, MUTED, RAISED

TEXT = f"""\
[b {ACCENT}]Keys[/]
[b]1 2 3 4[/], [b]↑ ↓[/], [b]Tab[/]  select a fader or switch; mouse and wheel work too
[b]← →[/]  1 dB     [b]Shift ← →[/]  0.1 dB     [b]PgDn PgUp[/]  6 dB
[b]0[/]  to 0 dB     [b]o[/]  off, and back to the previous level
[b]b[/]  A/B: the stems, or the unchanged input with the same latency
[b]m[/]  mute all     [b]s[/]  solo the selected channel, or none
[b]p P[/]  next, previous preset; the sound does not stop
[b]l[/]  MIDI learn: then move a control on your controller; [b]Esc[/] cancels
[b]c[/]  clear the clip lamps     [b]q[/], [b]Ctrl-C[/]  quit

[b {ACCENT}]Figures[/]
[b]meters[/] thick: RMS, thin: peak, mark: peak held for 1.5 s; dB of full scale
[b]CLIP[/] at full scale just now, [b]clip[/] since the lamps were cleared
[b]delay[/] latency from input to output; the devices add their own
[b]p99.9[/] all but one hop in 1000 took no longer
[b]xruns[/] losses of sound reported by a device
[b]misses[/] late blocks: the input played in their place, for as many
  samples as [b]concealed[/] shows
[b]drift[/] of the input's clock against the output's; resampling compensates"""


class Help(ModalScreen[None]):
    """Help on keys and figures; any key closes it."""

    DEFAULT_CSS = f"""
    Help {{ align: center middle; background: {BACK} 60%; }}
    Help VerticalScroll {{
        width: 78; height: auto; max-height: 100%; padding: 0 1;
        background: {RAISED}; color: {INK}; border: round {ACCENT};
        border-title-color: {INK}; border-subtitle-color: {MUTED};
    }}
    """

    def compose(self) -> ComposeResult:
        with VerticalScroll(can_focus=False) as box:
            box.border_title = "stemwire live"
            box.border_subtitle = "↑ ↓ scroll · any other key closes"
            yield Static(TEXT)

    def on_key(self, event: events.Key) -> None:
        event.stop()
        box = self.query_one(VerticalScroll)
        if event.key in ("up", "down"):
            (box.scroll_up if event.key == "up" else box.scroll_down)(animate=False)
        elif event.key == "q":
            self.app.exit("")
        else:
            self.dismiss()

    def on_click(self) -> None:
        self.dismiss()
