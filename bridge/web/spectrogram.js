/** Live spectrograms: time to the right, frequency upwards (logarithmic), loud is bright. */

const LOWEST = 50; // Hz
const HIGHEST = 16000;
const COLUMNS = 40; // per second
const DARK = [[16, 22, 30], [18, 60, 84], [52, 150, 190], [190, 232, 246], [255, 255, 255]];
const LIGHT = [[243, 246, 248], [176, 211, 225], [56, 140, 176], [12, 66, 96], [6, 24, 40]];

/** 256 colours, interpolated between a few. */
function palette(stops) {
  const colours = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const k = Math.min(stops.length - 2, Math.floor(place));
    const mixed = stops[k].map((low, c) => low + (stops[k + 1][c] - low) * (place - k));
    const [r, g, b] = mixed.map(Math.round);
    colours[i] = 0xff000000 | (b << 16) | (g << 8) | r;
  }
  return colours;
}

class Spectrogram {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { alpha: false });
    this.x = 0;
    new ResizeObserver(() => this.#resize()).observe(canvas);
  }

  /** Attach an analyser; null leaves the image unchanged. */
  attach(analyser) {
    this.analyser = analyser;
    if (!analyser) return;
    this.bins = new Uint8Array(analyser.frequencyBinCount);
    this.#scale();
  }

  clear(colours) {
    this.colours = colours;
    this.pen.fillStyle = `#${hex(colours[0])}`;
    this.pen.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.x = 0;
  }

  /** Draw the current spectrum, `columns` wide; still images are overwritten, others scroll. */
  draw(columns, still) {
    const { canvas, pen, bins } = this;
    this.analyser.getByteFrequencyData(bins);
    const pixels = new Uint32Array(this.image.data.buffer);
    for (let y = 0; y < this.from.length; y++) {
      let loudest = 0;
      for (let b = this.from[y]; b <= this.to[y]; b++) if (bins[b] > loudest) loudest = bins[b];
      pixels[2 * y] = pixels[2 * y + 1] = this.colours[loudest];
    }
    if (!still) pen.drawImage(canvas, -2 * columns, 0);
    for (let i = 1; i <= columns; i++) {
      pen.putImageData(this.image, still ? this.x : canvas.width - 2 * i, 0);
      if (still) this.x = (this.x + 2) % canvas.width;
    }
    if (still) {
      pen.fillStyle = `#${hex(this.colours[128])}`;
      pen.fillRect(this.x, 0, 1, canvas.height);
    }
  }

  /** Fit the canvas to its element; the image is kept, the newest at the right. */
  #resize() {
    const { canvas, colours } = this;
    const ratio = Math.min(2, devicePixelRatio);
    const width = Math.max(2, Math.round(canvas.clientWidth * ratio) & ~1);
    const height = Math.max(2, Math.round(canvas.clientHeight * ratio));
    if (width === canvas.width && height === canvas.height) return;
    const old = new OffscreenCanvas(canvas.width, canvas.height);
    old.getContext("2d").drawImage(canvas, 0, 0);
    Object.assign(canvas, { width, height });
    if (colours) this.clear(colours);
    this.pen.drawImage(old, width - old.width, 0, old.width, height);
    if (this.analyser) this.#scale();
  }

  /** Determine the bins that each row shows. */
  #scale() {
    const { height } = this.canvas;
    const width = this.analyser.context.sampleRate / this.analyser.fftSize; // Hz
    const octaves = Math.log2(HIGHEST / LOWEST);
    const bin = (y) => (LOWEST * 2 ** (octaves * (1 - y / height))) / width;
    this.image = this.pen.createImageData(2, height);
    this.from = new Uint16Array(height);
    this.to = new Uint16Array(height);
    const last = this.analyser.frequencyBinCount - 1;
    for (let y = 0; y < height; y++) {
      this.from[y] = Math.min(last, Math.round(bin(y + 1)));
      this.to[y] = Math.min(last, Math.max(this.from[y], Math.round(bin(y)) - 1));
    }
  }
}

function hex(colour) {
  const [r, g, b] = [colour & 255, (colour >> 8) & 255, (colour >> 16) & 255];
  return [r, g, b].map((part) => part.toString(16).padStart(2, "0")).join("");
}

/** All spectrograms of the page; they scroll together. */
export class Spectra {
  constructor(canvases) {
    this.all = canvases.map((canvas) => new Spectrogram(canvas));
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.#clear());
    this.#clear();
  }

  start(analysers) {
    this.all.forEach((each, i) => each.attach(analysers[i]));
    this.#clear();
    this.drawn = performance.now();
    if (!this.running) requestAnimationFrame((now) => this.#frame(now));
    this.running = true;
  }

  stop() {
    this.running = false;
  }

  #clear() {
    const colours = palette(this.dark.matches ? DARK : LIGHT);
    for (const each of this.all) each.clear(colours);
  }

  #frame(now) {
    if (!this.running) return;
    const due = Math.floor(((now - this.drawn) * COLUMNS) / 1000);
    if (due > 0) {
      this.drawn += (due * 1000) / COLUMNS;
      for (const each of this.all) each.draw(Math.min(due, COLUMNS), this.still.matches);
    }
    requestAnimationFrame((next) => this.#frame(next));
  }
}
