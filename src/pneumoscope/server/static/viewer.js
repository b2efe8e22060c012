// A film on a canvas: zoom, pan, window and level, inversion, and over it a class's map of where the model looked.

const HEAT_SIDE = 224; // pixels a map is enlarged to
const KEY_STEP = 40; // pixels of the canvas that an arrow key moves the film by
const LARGEST_ZOOM = 12;

export class Viewer {
  #canvas;
  #palette;
  #film = null; // { luma, width, height }
  #picture = document.createElement("canvas");
  #heat = null;
  #stale = true; // the picture is to be painted again from the luma
  #pointers = new Map();

  constructor(canvas, palette, onChange) {
    this.#canvas = canvas;
    this.#palette = palette;
    this.onChange = onChange;
    this.drag = "pan";
    this.opacity = 0.55;
    this.reset();
    canvas.addEventListener("pointerdown", (event) => this.#press(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => this.#pointers.delete(event.pointerId));
    }
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Show a film given as an ImageBitmap of greys, or nothing.
  show(bitmap) {
    this.#film = null;
    if (bitmap) {
      const { width, height } = bitmap;
      this.#picture.width = width;
      this.#picture.height = height;
      const context = this.#picture.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const colours = context.getImageData(0, 0, width, height).data;
      const luma = new Uint8Array(width * height);
      for (let at = 0; at < luma.length; at += 1) luma[at] = colours[4 * at];
      this.#film = { luma, width, height };
    }
    this.reset();
  }

  // Lay a map (rows of numbers) over the film, or remove it with null. Negative values count against the class and
  // are not drawn.
  setHeat(rows) {
    this.#heat = rows ? enlarge(rows, HEAT_SIDE, this.#palette) : null;
    this.draw();
  }

  get heatShown() {
    return this.#heat !== null && this.opacity > 0;
  }

  reset() {
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.level = 128;
    this.window = 256;
    this.inverted = false;
    this.#repaint();
  }

  invert() {
    this.inverted = !this.inverted;
    this.#repaint();
  }

  zoomBy(factor, at = null) {
    const before = this.zoom;
    this.zoom = Math.min(LARGEST_ZOOM, Math.max(1, this.zoom * factor));
    const [x, y] = at ?? [this.#canvas.width / 2, this.#canvas.height / 2];
    const ratio = this.zoom / before; // what is under the pointer stays there
    this.x = (this.x - (x - this.#canvas.width / 2)) * ratio + (x - this.#canvas.width / 2);
    this.y = (this.y - (y - this.#canvas.height / 2)) * ratio + (y - this.#canvas.height / 2);
    if (this.zoom === 1) this.x = this.y = 0;
    this.draw();
  }

  panBy(x, y) {
    this.x += x;
    this.y += y;
    this.draw();
  }

  windowBy(width, level) {
    this.window = Math.min(512, Math.max(2, this.window + width));
    this.level = Math.min(255, Math.max(0, this.level + level));
    this.#repaint();
  }

  draw() {
    const canvas = this.#canvas;
    const density = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * density));
    const height = Math.max(1, Math.round(canvas.clientHeight * density));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, width, height);
    if (this.#film) {
      if (this.#stale) this.#paint();
      const { width: wide, height: high } = this.#film;
      const scale = Math.min(width / wide, height / high) * this.zoom;
      // A strip of the film, 40 pixels of the canvas wide, always stays in sight.
      const limit = (full, shown) => Math.max(0, (full * scale + shown) / 2 - 40);
      this.x = Math.max(-limit(wide, width), Math.min(limit(wide, width), this.x));
      this.y = Math.max(-limit(high, height), Math.min(limit(high, height), this.y));
      const left = (width - wide * scale) / 2 + this.x;
      const top = (height - high * scale) / 2 + this.y;
      context.drawImage(this.#picture, left, top, wide * scale, high * scale);
      if (this.heatShown) {
        context.globalAlpha = this.opacity;
        context.drawImage(this.#heat, left, top, wide * scale, high * scale);
        context.globalAlpha = 1;
      }
    }
    this.onChange?.(this);
  }

  #repaint() {
    this.#stale = true;
    this.draw();
  }

  // Map the greys by window and level with DICOM's LINEAR_EXACT function (PS3.3 C.11.2.1.3);
  // inverted if the user chose that.
  #paint() {
    const { luma, width, height } = this.#film;
    const table = new Uint8ClampedArray(256);
    for (let value = 0; value < 256; value += 1) {
      const share = (value - this.level) / this.window + 0.5;
      const grey = 255 * Math.min(1, Math.max(0, share));
      table[value] = this.inverted ? 255 - grey : grey;
    }
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer); // 0xAABBGGRR on a little-endian machine
    for (let at = 0; at < luma.length; at += 1) pixels[at] = 0xff000000 | (table[luma[at]] * 0x010101);
    this.#picture.getContext("2d").putImageData(image, 0, 0);
    this.#stale = false;
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const density = this.#canvas.width / box.width;
    return [(event.clientX - box.left) * density, (event.clientY - box.top) * density];
  }

  #press(event) {
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, this.#at(event));
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const now = this.#at(event);
    if (this.#pointers.size === 2) this.#pinch(event.pointerId, before, now);
    else if (this.drag === "window") this.windowBy((now[0] - before[0]) / 2, (before[1] - now[1]) / 2);
    else this.panBy(now[0] - before[0], now[1] - before[1]);
    this.#pointers.set(event.pointerId, now);
  }

  #pinch(moved, before, now) {
    const [other] = [...this.#pointers].filter(([id]) => id !== moved).map(([, place]) => place);
    const distance = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]) || 1;
    this.zoomBy(distance(now) / distance(before), other);
  }

  #wheel(event) {
    event.preventDefault();
    this.zoomBy(event.deltaY < 0 ? 1.15 : 1 / 1.15, this.#at(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = {
      ArrowLeft: () => this.panBy(-KEY_STEP, 0),
      ArrowRight: () => this.panBy(KEY_STEP, 0),
      ArrowUp: () => this.panBy(0, -KEY_STEP),
      ArrowDown: () => this.panBy(0, KEY_STEP),
      "+": () => this.zoomBy(1.25),
      "=": () => this.zoomBy(1.25),
      "-": () => this.zoomBy(1 / 1.25),
      "[": () => this.windowBy(0, -8),
      "]": () => this.windowBy(0, 8),
      "<": () => this.windowBy(-16, 0),
      ">": () => this.windowBy(16, 0),
      i: () => this.invert(),
      h: () => this.toggleHeat?.(),
      0: () => this.reset(),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

// Enlarge a map's positive part, as shares of its largest value (bilinear between pixel centres), and draw it in the
// palette's colours. Its opacity follows its value, so that the film stays visible where the map is low.
function enlarge(rows, side, palette) {
  const high = rows.length;
  const wide = rows[0].length;
  const largest = Math.max(...rows.flat());
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  const image = new ImageData(side, side);
  const value = (row, column) => {
    const at = rows[Math.min(high - 1, Math.max(0, row))][Math.min(wide - 1, Math.max(0, column))];
    return largest > 0 ? Math.max(0, at) / largest : 0;
  };
  for (let y = 0; y < side; y += 1) {
    const row = ((y + 0.5) * high) / side - 0.5;
    const up = Math.floor(row);
    for (let x = 0; x < side; x += 1) {
      const column = ((x + 0.5) * wide) / side - 0.5;
      const left = Math.floor(column);
      const [down, right] = [row - up, column - left];
      const share =
        (value(up, left) * (1 - right) + value(up, left + 1) * right) * (1 - down) +
        (value(up + 1, left) * (1 - right) + value(up + 1, left + 1) * right) * down;
      const [red, green, blue] = palette[Math.round(share * 255)];
      image.data.set([red, green, blue, Math.round(share * 255)], 4 * (y * side + x));
    }
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Draw the palette as a bar.
export function paintScale(canvas, palette) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    const [red, green, blue] = palette[Math.round((x * 255) / (canvas.width - 1))];
    context.fillStyle = `rgb(${red} ${green} ${blue})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
