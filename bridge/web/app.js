/** The page: passes user actions to the engine and shows what the engine reports. */

import { Engine, OFF } from "./engine.js";
import { listenForKeys } from "./keys.js";
import { Meter } from "./meters.js";
import { Panel, showRecording } from "./panel.js";
import { listDevices, openDevice, openDisplay, openFile } from "./sources.js";
import { Spectra } from "./spectrogram.js";
import { clock, CONNECTION, explain, explainCode, gain } from "./texts.js";

const $ = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const TOKEN = "stemwire-token";
const SETTINGS = ["preset", "format"];
const LATE_TITLE = "The stems arrive too late.";

const engine = new Engine();
const panel = new Panel();
const spectra = new Spectra(all("canvas[data-spectrum]"));
const meters = all("[data-strip]").map((strip) => new Meter(strip, strip.dataset.strip));
const recordings = []; // {files: {name: Blob}, seconds, missing}
let file = null;
let recording = false;
let sounding = false; // playback has started
let load; // of the server
let wake = null; // keeps the screen on
let onTimeAt = 0; // seconds; when stems were last on time
let slow = false; // the server cannot keep up
let grown = 0; // number of times that the jitter buffer has grown
let announcedAt = 0; // seconds; when growth was last announced

// --- messages

function announce(text) {
  $("announce").textContent = text;
}

function showAlert([title, text]) {
  $("alert-title").textContent = title;
  $("alert-text").textContent = text;
  $("alert").hidden = false;
}

function hideAlert() {
  $("alert").hidden = true;
}

function showConnection({ state, text, tries }) {
  const pill = $("connection");
  pill.dataset.state = state;
  const again = state === "reconnecting" && tries > 1 ? ` Attempt ${tries}.` : "";
  pill.firstElementChild.textContent = CONNECTION[state] + again;
  pill.title = text;
}

function showSlow(now) {
  slow = now;
  const text = "You hear the original until server and network keep up again.";
  showConnection(now ? { state: "slow", text, tries: 0 } : engine.connection);
  if (now) showAlert([LATE_TITLE, text]);
  else if ($("alert-title").textContent === LATE_TITLE) hideAlert();
  announce(now ? `${LATE_TITLE} ${text}` : CONNECTION[engine.connection.state]);
}

// --- starting and stopping

const chosenSource = () => document.querySelector("[name=source]:checked").value;

function sourceOpener() {
  const kind = chosenSource();
  if (kind === "file") return (context) => openFile(context, file);
  if (kind === "display") return openDisplay;
  return (context) => openDevice(context, $("device").value);
}

async function start() {
  if (engine.running) return;
  hideAlert();
  if (chosenSource() === "file" && !file) return $("file").click();
  showRunning("starting");
  try {
    await engine.start(sourceOpener(), {
      preset: $("preset").value,
      format: $("format").value,
      token: sessionStorage.getItem(TOKEN) ?? "",
      record: recording,
    });
  } catch (error) {
    showAlert(explain(error));
    return;
  }
  showRunning("running");
  spectra.start(engine.analysers);
  wake = await navigator.wakeLock?.request("screen").catch(() => null); // phones would sleep
  await showDevices();
}

async function stop() {
  if (!engine.running) return;
  showRunning("stopping");
  await engine.stop();
}

function showRunning(state) {
  const texts = { off: "Start", starting: "Starting…", running: "Stop", stopping: "Stopping…" };
  $("start").textContent = texts[state];
  $("start").disabled = state === "starting" || state === "stopping";
  for (const input of [...all("[name=source]"), $("device"), $("format")]) {
    input.disabled = state !== "off";
  }
  if (state !== "off") return;
  sounding = false;
  if (slow) showSlow(false);
  wake?.release();
  wake = null;
  spectra.stop();
  for (const meter of meters) meter.clear();
  panel.clear();
  showConnection({ state: "off", text: "", tries: 0 });
  $("player").hidden = true;
  setRecording(false);
}

engine.addEventListener("stopped", () => showRunning("off"));
engine.addEventListener("ended", ({ detail: { reason } }) => {
  if (reason) showAlert(["The source has ended.", reason]);
  stop();
});

// --- reports of the engine

engine.addEventListener("report", ({ detail: report }) => {
  const now = performance.now() / 1000;
  meters.forEach((meter, i) => meter.feed(report.levels[i], report.levels[i + 4], now));
  if (report.delay && !sounding) {
    sounding = true;
    announce("Playing.");
    engine.source?.play?.();
    $("player").hidden = chosenSource() !== "file";
  }
  const late = sounding && report.fill < 0 && engine.connection.state === "live";
  if (!late) onTimeAt = now;
  if (now - onTimeAt > 3 !== slow) showSlow(!slow);
  if (report.grown > grown && now - announcedAt > 10) {
    announcedAt = now;
    announce("Stems arrived late: the jitter buffer has grown.");
  }
  ({ grown } = report);
});

engine.addEventListener("connection", ({ detail }) => {
  showConnection(detail);
  if (detail.state === "live") hideAlert();
  if (detail.state !== "connecting") announce(CONNECTION[detail.state]);
});

engine.addEventListener("error", ({ detail: { code, text } }) => {
  showAlert(explainCode(code, text));
  if (code === "token") {
    sessionStorage.removeItem(TOKEN);
    $("token-form").hidden = false;
    $("token").focus();
  }
  if (code === "config") $("preset").value = engine.preset ?? "standard";
});

engine.addEventListener("stats", ({ detail }) => ({ load } = detail));
engine.addEventListener("counters", showFigures);

engine.addEventListener("context", ({ detail: { state } }) => {
  if (state === "interrupted" || state === "suspended") {
    showAlert(["The browser has paused the audio.", "Click anywhere on the page to continue."]);
  } else hideAlert();
});
document.addEventListener("pointerdown", () => {
  if (engine.context && engine.context.state !== "running") engine.context.resume();
});

function showFigures() {
  const { report, counters, welcome } = engine;
  const delays = engine.delays();
  panel.delays(delays);
  panel.health(counters, report, welcome, load, engine.context?.sampleRate);
  if (delays) panel.jitter(delays, report);
  if (recording) $("record-text").textContent = clock(counters.recorded ?? 0);
  const { source } = engine;
  if (source?.duration && document.activeElement !== $("place")) showPosition(source);
}

// --- mix

function showGain(name) {
  const value = Number($(name).value);
  $(`${name}-text`).textContent = gain(value);
  $(name).setAttribute("aria-valuetext", gain(value));
  engine.set({ [name]: value });
}

function nudge(name, by) {
  $(name).value = Number($(name).value) + by;
  showGain(name);
  announce(`${name} ${gain(Number($(name).value))}`);
}

let vocalsBefore = 0; // dB, to restore

function toggleVocals() {
  const value = Number($("vocals").value);
  if (value > OFF) vocalsBefore = value;
  $("vocals").value = value > OFF ? OFF : vocalsBefore;
  showGain("vocals");
  announce(`Vocals ${gain(Number($("vocals").value))}`);
}

function setBypass(bypass) {
  document.querySelector(`[name=ab][value=${bypass ? "original" : "stems"}]`).checked = true;
  engine.set({ bypass });
}

function setMute(mute) {
  $("mute").setAttribute("aria-pressed", mute);
  engine.set({ mute });
}

for (const name of ["vocals", "instrumental"]) {
  $(name).addEventListener("input", () => showGain(name));
  showGain(name);
}
for (const input of all("[name=ab]")) {
  input.addEventListener("change", () => setBypass(input.value === "original"));
}
$("mute").addEventListener("click", () => setMute(!engine.mix.mute));

// --- source

async function showDevices() {
  const select = $("device");
  const before = select.value;
  const devices = await listDevices().catch(() => []);
  const options = devices.map(({ id, label }) => new Option(label, id));
  select.replaceChildren(select.options[0], ...options);
  if ([...select.options].some((option) => option.value === before)) select.value = before;
}

function showSource() {
  for (const part of all("[data-for]")) part.hidden = part.dataset.for !== chosenSource();
}

function chooseFile(chosen) {
  if (!chosen || engine.running) return;
  file = chosen;
  $("file-name").textContent = file.name;
  document.querySelector("[name=source][value=file]").checked = true;
  showSource();
  hideAlert();
}

function showPosition({ place, duration, playing }) {
  $("place").max = Math.floor(duration);
  $("place").value = place;
  $("place").setAttribute("aria-valuetext", `${clock(place)} of ${clock(duration)}`);
  $("place-text").textContent = `${clock(place)} / ${clock(duration)}`;
  $("play").textContent = playing ? "Pause" : "Play";
}

function togglePlay() {
  const { source } = engine;
  if (!source?.duration || !sounding) return;
  if (source.playing) source.pause();
  else source.play();
  showPosition(source);
}

for (const input of all("[name=source]")) input.addEventListener("change", showSource);
$("file").addEventListener("change", () => chooseFile($("file").files[0]));
$("play").addEventListener("click", togglePlay);
$("place").addEventListener("change", () => {
  engine.source?.seek?.(Number($("place").value));
  if (engine.source) showPosition(engine.source);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").classList.add("over");
});
for (const type of ["dragleave", "drop"]) {
  document.addEventListener(type, () => $("drop").classList.remove("over"));
}
document.addEventListener("drop", (event) => {
  event.preventDefault();
  chooseFile(event.dataTransfer.files[0]);
});

for (const name of SETTINGS) {
  $(name).value = localStorage.getItem(`stemwire-${name}`) ?? $(name).value;
  $(name).addEventListener("change", () => localStorage.setItem(`stemwire-${name}`, $(name).value));
}
$("preset").addEventListener("change", () => engine.setPreset($("preset").value));
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, $("token").value);
  $("token").value = "";
  $("token-form").hidden = true;
  start();
});

// --- recordings

function setRecording(on) {
  recording = on;
  $("record").setAttribute("aria-pressed", on);
  $("record-text").textContent = on ? "0:00" : "Record";
  $("record-text").classList.toggle("busy", on);
}

function toggleRecording() {
  setRecording(!recording);
  if (engine.running) engine.record(recording);
  announce(recording ? "Recording." : "Recording ended.");
}

engine.addEventListener("recording-full", () => {
  setRecording(false);
  showAlert(["The recording has ended.", "A recording can last half an hour at most."]);
});

engine.addEventListener("recording", ({ detail: { files, seconds, missing } }) => {
  if (!seconds) return;
  const number = recordings.push({ files, seconds, missing });
  showRecording($("files"), number, recordings.at(-1));
  $("recordings-hint").hidden = true;
  announce(`Recording ${number} is ready to save.`);
});

// --- the rest

$("start").addEventListener("click", () => (engine.running ? stop() : start()));
$("record").addEventListener("click", toggleRecording);
$("alert-close").addEventListener("click", hideAlert);
$("help-open").addEventListener("click", () => $("help").showModal());
listenForKeys(
  {
    s: () => $("start").click(),
    b: () => setBypass(!engine.mix.bypass),
    m: () => $("mute").click(),
    r: () => $("record").click(),
    v: toggleVocals,
    "[": () => nudge("vocals", -1),
    "]": () => nudge("vocals", 1),
    "{": () => nudge("instrumental", -1),
    "}": () => nudge("instrumental", 1),
    p: togglePlay,
    "?": () => $("help").showModal(),
  },
  $("shortcuts"),
);
navigator.mediaDevices?.addEventListener?.("devicechange", showDevices);
showSource();
showDevices();
if (!navigator.mediaDevices?.getDisplayMedia) {
  document.querySelector("[name=source][value=display]").closest("label").hidden = true; // phones
}
if (!window.isSecureContext) showAlert(explain(new Error()));

/** For tests and debugging: the state of the page, and its recordings. */
window.stemwire = {
  engine,
  start,
  stop,
  recordings,
  status: () => ({
    running: engine.running,
    sounding,
    connection: engine.connection,
    welcome: engine.welcome,
    rate: engine.context?.sampleRate ?? 0,
    block: engine.block ?? 0,
    report: { ...engine.report, levels: [...(engine.report.levels ?? [])] },
    counters: engine.counters,
    delays: engine.delays(),
    mix: { ...engine.mix },
    load,
  }),
};
