// The image on a canvas with zoom and pan, and the boxes on top of it.
const FURTHEST = 40; // screen pixels a stored pixel may take
const DARK = "rgb(8 12 14 / 0.78)";

/** Whether a point of the image lies in a box. */
function inside([cx, cy, w, h, angle], x, y, reach) {
  const dx = x - cx, dy = y - cy, cos = Math.cos(angle), sin = Math.sin(angle);
  return Math.abs(dx * cos + dy * sin) <= w / 2 + reach && Math.abs(dy * cos - dx * sin) <= h / 2 + reach;
}

/** Outlines of detections on a context whose unit is the target's pixel; `place` turns the image's points into those. */
export function drawBoxes(context, detections, colours, width, place, edge = DARK) {
  const byClass = new Map();
  for (const one of detections) {
    if (!byClass.has(one.label)) byClass.set(one.label, new Path2D());
    const path = byClass.get(one.label);
    one.corners.forEach((corner, i) => path[i ? "lineTo" : "moveTo"](...place(corner)));
    path.closePath();
  }
  context.lineJoin = "round";
  for (const [line, colour] of [[width + Math.max(1.4, width * 0.9), () => edge], [width, (label) => colours[label]]]) {
    context.lineWidth = line;
    for (const [label, path] of byClass) {
      context.strokeStyle = colour(label);
      context.stroke(path);
    }
  }
}

/** Where an image of `length` begins so that its point `at` is in the middle of `size`, without an empty margin where it has none. */
function centred(at, length, size) {
  return length > size ? Math.min(0, Math.max(size - length, size / 2 - at)) : size / 2 - at;
}

export class Viewer {
  constructor(canvas, { hovered, chosen, moved }) {
    Object.assign(this, { canvas, hovered, chosen, moved });
    this.context = canvas.getContext("2d", { alpha: true });
    this.image = null;
    this.detections = [];
    this.colours = [];
    this.over = this.selected = null;
    this.scale = 1;
    this.x = this.y = 0; // of the image's corner on the screen
    this.fingers = new Map();
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.listen();
  }

  /** Show an image, fitted into the window. */
  show(image, colours) {
    Object.assign(this, { image, colours, detections: [], over: null, selected: null });
    this.resize();
    this.fit(false);
  }

  /** Show these detections, in the order of their scores. */
  setDetections(detections) {
    this.detections = detections;
    if (!detections.includes(this.selected)) this.selected = null;
    if (!detections.includes(this.over)) this.over = null;
    this.draw();
  }

  select(detection, zoom = true) {
    this.selected = detection;
    if (detection && zoom) {
      const [cx, cy, w, h] = detection.box;
      const target = Math.min(this.width, this.height) / (5 * Math.max(w, h, 8));
      const scale = Math.min(8, Math.max(this.scale, Math.min(target, 3)));
      this.glide(scale, centred(cx * scale, this.image.width * scale, this.width), centred(cy * scale, this.image.height * scale, this.height));
    } else this.draw();
  }

  get fitted() {
    return Math.min((this.width - 32) / this.image.width, (this.height - 32) / this.image.height);
  }

  fit(animated = true) {
    if (!this.image || !this.width) return;
    const scale = Math.min(this.fitted, 8);
    const x = (this.width - this.image.width * scale) / 2, y = (this.height - this.image.height * scale) / 2;
    this.home = true;
    if (animated) this.glide(scale, x, y, true);
    else this.place(scale, x, y);
  }

  /** Zoom about a point of the screen, the middle by default. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const scale = Math.min(FURTHEST, Math.max(Math.min(this.fitted, 1) / 2, this.scale * factor));
    const share = scale / this.scale;
    this.place(scale, x - (x - this.x) * share, y - (y - this.y) * share);
  }

  /** One stored pixel a screen pixel. */
  ownSize() {
    this.zoom(1 / (this.scale * devicePixelRatio));
  }

  pan(dx, dy) {
    this.place(this.scale, this.x + dx, this.y + dy);
  }

  place(scale, x, y, home = false) {
    const margin = 60; // of the image stays in the window
    const clamp = (value, length, size) => Math.min(size - margin, Math.max(margin - length, value));
    this.scale = scale;
    this.x = clamp(x, this.image.width * scale, this.width);
    this.y = clamp(y, this.image.height * scale, this.height);
    this.home = home || (this.home && Math.abs(scale - this.fitted) < 1e-9);
    this.draw();
    this.moved(this.scale * devicePixelRatio);
  }

  glide(scale, x, y, home = false) {
    cancelAnimationFrame(this.gliding);
    if (this.calm.matches) return this.place(scale, x, y, home);
    const from = [this.scale, this.x, this.y], start = performance.now();
    const step = (now) => {
      const t = Math.min(1, (now - start) / 260), ease = 1 - (1 - t) ** 3;
      const at = Math.exp(Math.log(from[0]) + (Math.log(scale) - Math.log(from[0])) * ease);
      const share = Math.abs(scale - from[0]) < 1e-9 ? ease : (at - from[0]) / (scale - from[0]);
      this.place(at, from[1] + (x - from[1]) * share, from[2] + (y - from[2]) * share, home && t === 1);
      if (t < 1) this.gliding = requestAnimationFrame(step);
    };
    this.gliding = requestAnimationFrame(step);
  }

  resize() {
    const { clientWidth, clientHeight } = this.canvas.parentElement;
    const home = this.home;
    this.width = clientWidth;
    this.height = clientHeight;
    this.canvas.width = Math.round(clientWidth * devicePixelRatio);
    this.canvas.height = Math.round(clientHeight * devicePixelRatio);
    if (this.image && home) this.fit(false);
    else if (this.image) this.draw();
  }

  draw() {
    if (!this.drawing) this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.paint(); });
  }

  paint() {
    if (!this.image) return;
    const { context, scale, x, y } = this;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    this.paintImage();
    const place = ([px, py]) => [x + px * scale, y + py * scale];
    const seen = this.detections.filter(({ box: [cx, cy, w, h] }) => {
      const reach = Math.hypot(w, h) / 2 * scale + 4, sx = x + cx * scale, sy = y + cy * scale;
      return sx > -reach && sy > -reach && sx < this.width + reach && sy < this.height + reach;
    });
    const line = Math.max(0.9, Math.min(2.4, 1.1 + Math.log2(scale / Math.min(this.fitted, 1) + 1e-9) * 0.35));
    drawBoxes(context, seen.slice().reverse(), this.colours, line, place);
    for (const one of new Set([this.over, this.selected])) if (one) this.paintFocus(one, place, line);
  }

  paintImage() {
    const { context, scale, x, y, image } = this;
    const wanted = scale * devicePixelRatio;
    let level = image.levels[0];
    for (const other of image.levels) if (other.width / image.width >= wanted) level = other;
    const share = level.width / image.width;
    const left = Math.max(0, Math.floor(-x / scale)), top = Math.max(0, Math.floor(-y / scale));
    const right = Math.min(image.width, Math.ceil((this.width - x) / scale)), bottom = Math.min(image.height, Math.ceil((this.height - y) / scale));
    if (right <= left || bottom <= top) return;
    context.imageSmoothingEnabled = wanted < 3;
    context.imageSmoothingQuality = "high";
    context.drawImage(
      level.image, left * share, top * share, (right - left) * share, (bottom - top) * share,
      x + left * scale, y + top * scale, (right - left) * scale, (bottom - top) * scale,
    );
  }

  paintFocus(one, place, line) {
    const { context } = this;
    context.beginPath();
    one.corners.forEach((corner, i) => context[i ? "lineTo" : "moveTo"](...place(corner)));
    context.closePath();
    context.fillStyle = this.colours[one.label];
    context.globalAlpha = 0.24;
    context.fill();
    context.globalAlpha = 1;
    if (one === this.selected) drawBoxes(context, [one], { [one.label]: "#ffffff" }, line + 4, place);
    drawBoxes(context, [one], this.colours, line + 0.6, place, this.colours[one.label]);
  }

  at(sx, sy) {
    const px = (sx - this.x) / this.scale, py = (sy - this.y) / this.scale, reach = 3 / this.scale;
    let best = null;
    for (const one of this.detections) {
      if (inside(one.box, px, py, reach) && (!best || one.box[2] * one.box[3] < best.box[2] * best.box[3])) best = one;
    }
    return best;
  }

  listen() {
    const { canvas } = this;
    const where = (event) => {
      const { left, top } = canvas.getBoundingClientRect();
      return [event.clientX - left, event.clientY - top];
    };
    canvas.addEventListener("wheel", (event) => {
      if (!this.image) return;
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode === 1 ? 20 : 1);
      this.zoom(Math.exp(-Math.max(-200, Math.min(200, pixels)) * (event.ctrlKey ? 0.01 : 0.0016)), ...where(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, where(event));
      this.travelled = 0;
      cancelAnimationFrame(this.gliding);
    });
    canvas.addEventListener("pointermove", (event) => this.pointerMoved(event.pointerId, where(event)));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, (event) => {
        if (end === "pointerup" && this.fingers.size === 1 && this.travelled < 5) this.chosen(this.at(...where(event)));
        this.fingers.delete(event.pointerId);
        canvas.classList.remove("dragging");
      });
    }
    canvas.addEventListener("pointerleave", () => this.hover(null, 0, 0));
    canvas.addEventListener("dblclick", (event) => this.zoom(2, ...where(event)));
  }

  pointerMoved(id, [x, y]) {
    if (!this.image) return;
    const before = this.fingers.get(id);
    if (!before) return this.hover(this.at(x, y), x, y);
    this.fingers.set(id, [x, y]);
    this.travelled += Math.hypot(x - before[0], y - before[1]);
    if (this.fingers.size === 2) {
      const [other] = [...this.fingers].filter(([key]) => key !== id).map(([, at]) => at);
      const was = Math.hypot(before[0] - other[0], before[1] - other[1]), is = Math.hypot(x - other[0], y - other[1]);
      if (was > 0) this.zoom(is / was, (x + other[0]) / 2, (y + other[1]) / 2);
    } else if (this.travelled >= 3) {
      this.canvas.classList.add("dragging");
      this.hover(null, 0, 0);
      this.pan(x - before[0], y - before[1]);
    }
  }

  hover(detection, x, y) {
    this.canvas.classList.toggle("over", Boolean(detection));
    if (detection !== this.over) {
      this.over = detection;
      this.draw();
    }
    this.hovered(detection, x, y);
  }
}
