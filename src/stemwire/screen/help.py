"""The page of the terminal screen that says what keys do and figures mean."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from stemwire.screen.widgets import ACCENT, BACK, INK, MUTED, RAISED

TEXT = f"""\
[b {ACCENT}]Keys[/]
[b]1 2 3 4[/], [b]↑ ↓[/], [b]Tab[/]  choose a fader or switch; mouse and wheel work too
[b]← →[/]  1 dB     [b]Shift ← →[/]  0.1 dB     [b]PgDn PgUp[/]  6 dB
[b]0[/]  to 0 dB     [b]o[/]  off, and back to where it was
[b]b[/]  A/B: the stems, or the input as it came, equally late
[b]m[/]  mute all     [b]s[/]  solo the chosen channel, or none
[b]p P[/]  next, previous preset; the sound does not stop
[b]l[/]  MIDI learn: then move a control on your controller; [b]Esc[/] gives up
[b]c[/]  clear the clip lamps     [b]q[/], [b]Ctrl-C[/]  leave

[b {ACCENT}]Figures[/]
[b]meters[/] thick: RMS, thin: peak, mark: peak held for 1.5 s; dB of full scale
[b]CLIP[/] at full scale just now, [b]clip[/] since the lamps were cleared
[b]delay[/] from a sample in to the same sample out; the devices add theirs
[b]p99.9[/] all but one in 1000 hops took no longer
[b]xruns[/] times that a device lost sound
[b]misses[/] blocks that were not there in time: the input stood in for them,
  for so many samples [b]concealed[/]
[b]drift[/] by how much the input's clock is fast; resampling makes up for it"""


class Help(ModalScreen[None]):
    """What the keys do and the figures mean; any key leads back."""

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
