/**
 * Sources of music. Each function opens a source in an AudioContext and returns
 * {node, label, close(), onended}: `onended(reason)` is called when the source ends by itself.
 * Echo cancellation, noise suppression and automatic gain are for speech, so they are off.
 */

const FADE = 0.01; // seconds
const MUSIC = {
  echoCancellation: false,
  noiseSuppression: false,
  autoGainControl: false,
  channelCount: { ideal: 2 },
};

/** An error whose text is ready to be shown. */
export class SourceError extends Error {}

/** A microphone or line-in; "" is the browser's choice. */
export async function openDevice(context, deviceId) {
  const audio = { ...MUSIC, ...(deviceId && { deviceId: { exact: deviceId } }) };
  const stream = await navigator.mediaDevices.getUserMedia({ audio });
  const farewell = "The device has been removed. Plug it in again, or choose another.";
  return fromStream(context, stream, farewell);
}

/** The audio of a tab or the screen, which the browser lets the user choose. */
export async function openDisplay(context) {
  const stream = await navigator.mediaDevices.getDisplayMedia({
    audio: { ...MUSIC, suppressLocalAudioPlayback: true },
    video: true, // browsers refuse audio alone
    selfBrowserSurface: "exclude",
    systemAudio: "include",
  });
  if (!stream.getAudioTracks().length) {
    for (const track of stream.getTracks()) track.stop();
    throw new SourceError(
      "No audio was shared. Start again, choose a tab, and tick “Also share tab audio”.",
    );
  }
  for (const track of stream.getVideoTracks()) track.enabled = false; // not needed
  return fromStream(context, stream, "Sharing has ended.");
}

function fromStream(context, stream, farewell) {
  const node = new MediaStreamAudioSourceNode(context, { mediaStream: stream });
  const [track] = stream.getAudioTracks();
  const source = {
    node,
    label: track.label,
    latency: track.getSettings().latency, // seconds, where the browser reports it
    onended: null,
    close() {
      track.onended = null;
      node.disconnect();
      for (const each of stream.getTracks()) each.stop();
    },
  };
  track.onended = () => source.onended?.(farewell);
  return source;
}

/** A decoded file; `play()` starts it, and `seek()` moves within it. */
export async function openFile(context, file) {
  let audio;
  try {
    audio = await context.decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new SourceError(
      `“${file.name}” cannot be decoded by this browser. Try WAV, FLAC, MP3, Ogg or M4A.`,
    );
  }
  return new FileSource(context, audio, file.name);
}

class FileSource {
  constructor(context, audio, label) {
    Object.assign(this, { context, audio, label });
    this.node = new GainNode(context);
    this.onended = null;
    this.player = null;
    this.offset = 0; // seconds into the file, when the player started or stopped
    this.began = 0; // the context's time then
  }

  get duration() {
    return this.audio.duration;
  }

  get playing() {
    return this.player !== null;
  }

  /** Seconds into the file. */
  get place() {
    const played = this.player ? this.context.currentTime - this.began : 0;
    return Math.min(this.duration, this.offset + played);
  }

  play() {
    this.pause();
    const player = new AudioBufferSourceNode(this.context, { buffer: this.audio });
    player.onended = () => {
      this.pause();
      this.offset = 0;
      this.onended?.("");
    };
    this.fader = new GainNode(this.context);
    if (this.offset > 0) this.#fade(0, 1);
    player.connect(this.fader).connect(this.node);
    player.start(0, this.offset);
    this.began = this.context.currentTime;
    this.player = player;
  }

  pause() {
    if (!this.player) return;
    this.offset = this.place;
    const { fader } = this;
    this.player.onended = () => fader.disconnect();
    this.player.stop(this.#fade(1, 0));
    this.player = null;
  }

  /** Fade, so that playback starts and stops without a click; returns the end of the fade. */
  #fade(from, to) {
    const { gain } = this.fader;
    const now = this.context.currentTime;
    gain.setValueAtTime(from, now);
    gain.linearRampToValueAtTime(to, now + FADE);
    return now + FADE;
  }

  /** Go to a position in seconds. */
  seek(place) {
    const { playing } = this;
    this.pause();
    this.offset = Math.max(0, Math.min(this.duration - 0.01, place));
    if (playing) this.play();
  }

  close() {
    this.pause();
    this.node.disconnect();
  }
}

/** Input devices; their names are known once a microphone was allowed. */
export async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices
    .filter(({ kind, deviceId }) => kind === "audioinput" && deviceId)
    .map(({ deviceId, label }, i) => ({ id: deviceId, label: label || `Input ${i + 1}` }));
}
