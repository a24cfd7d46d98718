/** Figures: the delay by stage, and the state of the connection. */

import { bytes, clock, duration, milliseconds, STAGES } from "./texts.js";

const FILES = { vocals: "Vocals", instrumental: "Instrumental", mixture: "Mixture", mix: "Mix" };
const $ = (id) => document.getElementById(id);

/** A list of names and figures; rows are created once and then updated. */
class Figures {
  constructor(list) {
    this.list = list;
    this.rows = new Map();
  }

  set(name, text, mark = "") {
    let value = this.rows.get(name);
    if (!value) {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      value = document.createElement("dd");
      if (mark) {
        const dot = document.createElement("i");
        dot.className = mark;
        term.append(dot);
      }
      term.append(name);
      row.append(term, value);
      this.list.append(row);
      this.rows.set(name, value);
    }
    if (value.textContent !== text) value.textContent = text;
  }
}

export class Panel {
  constructor() {
    this.stages = new Figures($("stages"));
    this.counters = new Figures($("counters"));
    this.bars = Object.keys(STAGES).map((_, i) => {
      const bar = document.createElement("i");
      bar.className = `s${i}`;
      $("stack").append(bar);
      return bar;
    });
    this.clear();
  }

  clear() {
    this.delays(null);
    this.health({}, {}, null);
    $("jitter-text").textContent = "The jitter buffer adapts while you play.";
  }

  /** Show delays in ms by stage; null for none. */
  delays(delays) {
    Object.entries(STAGES).forEach(([stage, name], i) => {
      const ms = delays?.[stage];
      this.stages.set(name, !ms ? "–" : `${milliseconds(ms)} ms`, `s${i}`);
      this.bars[i].style.flexGrow = ms ?? 0;
    });
    const total = delays ? milliseconds(delays.total) : "–";
    $("total").textContent = delays ? total : "Known once playback starts";
    $("total").classList.toggle("none", !delays);
    $("total").dataset.unit = delays ? " ms" : "";
    $("late").textContent = delays ? `${total} ms` : "–";
  }

  /** Show counters of link and audio thread. */
  health(counters, report, welcome, load, rate) {
    const count = (number) => String(number ?? 0);
    const ms = (samples) => duration(rate ? (1000 * (samples ?? 0)) / rate : 0);
    const { counters: rows } = this;
    rows.set("Server", welcome?.server || "–");
    rows.set("Server load", load === undefined ? "–" : `${Math.round(100 * load)} %`);
    rows.set("Round trip", counters.rtt ? `${milliseconds(counters.rtt)} ms` : "–");
    rows.set("Late stems", count(report.underruns));
    rows.set("Concealed with the original", ms(report.concealed));
    const lost = (counters.lost ?? 0) + (counters.dropped ?? 0) + (report.dropped ?? 0);
    rows.set("Lost in transit", ms(lost));
    rows.set("Reconnections", count(counters.reconnects));
    rows.set("Sent, received", `${bytes(counters.up ?? 0)}, ${bytes(counters.down ?? 0)}`);
  }

  /** Describe the state of the jitter buffer. */
  jitter(delays, { grown, shrunk }) {
    const times = (number) => (number === 1 ? "once" : `${number} times`);
    const parts = [`The jitter buffer holds ${milliseconds(delays.jitter)} ms`];
    if (grown) parts.push(`grew ${times(grown)} because stems arrived late`);
    if (shrunk) parts.push(`shrank ${times(shrunk)} because less was enough`);
    if (!grown && !shrunk) parts.push("has not had to change");
    $("jitter-text").textContent = `${parts.join(", ").replace(/, ([^,]*)$/, " and $1")}.`;
  }
}

const make = (name, className, ...content) => {
  const element = document.createElement(name);
  element.className = className;
  element.append(...content);
  return element;
};

/** Add links to the files of a recording at the top of a list. */
export function showRecording(list, number, { files, seconds, missing }) {
  const links = Object.entries(FILES).map(([name, text]) => {
    const size = bytes(files[name].size);
    const link = make("a", "", text, make("span", "hint figure", size));
    link.href = URL.createObjectURL(files[name]);
    link.download = `stemwire-${number}-${name}.wav`;
    link.setAttribute("aria-label", `Save ${text} of recording ${number}, ${size}`);
    return link;
  });
  const remove = make("button", "quiet", "Remove");
  remove.type = "button";
  remove.setAttribute("aria-label", `Remove recording ${number}`);
  const title = make("strong", "figure", `Recording ${number}, ${clock(seconds)}`);
  const item = make("li", "", make("div", "title", title, remove), make("div", "links", ...links));
  if (missing) item.append(make("p", "hint", `${missing} samples of the stems never arrived.`));
  remove.addEventListener("click", () => {
    for (const link of links) URL.revokeObjectURL(link.href);
    for (const name of Object.keys(files)) delete files[name]; // frees memory and disk
    item.remove();
  });
  list.prepend(item);
}
