// Score slider, class filters and the table: what is shown, and how much of it there is.
const ROWS = 200; // of the table, before somebody asks for all
const BARS = 50;

const degrees = (angle) => `${(angle * 180 / Math.PI).toFixed(0)}°`;

/** One line about a detection, for people. */
export function describe({ name, score, box }) {
  return `${name}, score ${score.toFixed(2)}, ${box[2].toFixed(0)} × ${box[3].toFixed(0)} pixels, ${degrees(box[4])}, at ${box[0].toFixed(0)}, ${box[1].toFixed(0)}`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function swatch(colour) {
  const made = element("span", { className: "swatch" });
  made.style.setProperty("--colour", colour);
  return made;
}

export class Panel {
  constructor(find, { changed, chosen, hovered }) {
    Object.assign(this, { find, changed, chosen, hovered });
    this.detections = this.shown = [];
    this.hidden = new Set();
    this.all = false;
    this.slider = find("score");
    this.slider.addEventListener("input", () => this.update());
    find("all").addEventListener("click", () => this.hide([]));
    find("none").addEventListener("click", () => this.hide(this.classes.map((_, i) => i)));
    find("more").addEventListener("click", () => { this.all = true; this.fillTable(); });
    new ResizeObserver(() => this.paintHistogram()).observe(find("histogram"));
  }

  /** Take the detections of an image; filters stay as they are. */
  take(detections, classes) {
    Object.assign(this, { detections, classes, all: false });
    this.buildClasses();
    this.update();
  }

  hide(labels) {
    this.hidden = new Set(labels);
    for (const [label, { box }] of this.lines.entries()) box.checked = !this.hidden.has(label);
    this.update();
  }

  buildClasses() {
    const total = new Map();
    for (const { label } of this.detections) total.set(label, (total.get(label) ?? 0) + 1);
    this.lines = this.classes.map(({ name, colour }, label) => {
      const box = element("input", { type: "checkbox", checked: !this.hidden.has(label) });
      const count = element("span", { className: "count" });
      const line = element("label", { title: name }, box, swatch(colour), element("span", { className: "name", textContent: name }), count);
      box.addEventListener("change", () => {
        this.hidden[box.checked ? "delete" : "add"](label);
        this.update();
      });
      return { box, count, line };
    });
    const order = this.lines.map((line, label) => [line, total.get(label) ?? 0]).sort((a, b) => b[1] - a[1]);
    this.find("classes").replaceChildren(...order.map(([{ line }]) => element("li", {}, line)));
  }

  /** Filter anew, and tell everybody. */
  update() {
    const least = Number(this.slider.value);
    this.slider.style.setProperty("--at", `${least * 100}%`);
    this.slider.setAttribute("aria-valuetext", `at least ${least.toFixed(2)}`);
    this.find("score-value").value = `at least ${least.toFixed(2)}`;
    const good = this.detections.filter(({ score }) => score >= least);
    this.shown = good.filter(({ label }) => !this.hidden.has(label));
    const counts = new Map();
    for (const { label } of good) counts.set(label, (counts.get(label) ?? 0) + 1);
    this.lines?.forEach(({ count, line }, label) => {
      count.textContent = counts.get(label) ?? 0;
      line.classList.toggle("off", this.hidden.has(label));
      line.classList.toggle("zero", !counts.get(label));
    });
    this.paintHistogram();
    this.changed(this.shown);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.fillTable(), 60); // the slider must stay light
  }

  fillTable() {
    const listed = this.all ? this.shown : this.shown.slice(0, ROWS);
    this.rows = new Map();
    const rows = listed.map((one) => {
      const button = element("button", { type: "button" }, swatch(this.classes[one.label].colour), element("span", { textContent: one.name }));
      button.setAttribute("aria-label", `Show ${describe(one)}`);
      button.addEventListener("click", () => this.chosen(one));
      const cells = [one.score.toFixed(2), `${one.box[2].toFixed(0)} × ${one.box[3].toFixed(0)}`, degrees(one.box[4])];
      const row = element("tr", {}, element("td", {}, button), ...cells.map((textContent) => element("td", { textContent })));
      row.addEventListener("pointerenter", () => this.hovered(one));
      row.addEventListener("pointerleave", () => this.hovered(null));
      this.rows.set(one, row);
      return row;
    });
    this.find("rows").replaceChildren(...rows);
    this.find("more").hidden = listed.length === this.shown.length;
    this.find("more").textContent = `Show all ${this.shown.length}`;
    this.find("table-note").textContent = listed.length < this.shown.length ? `best ${listed.length} of ${this.shown.length}` : `${this.shown.length}`;
    this.mark(this.marked);
  }

  /** Mark a detection's row, and bring it into view. */
  mark(detection) {
    this.marked = detection;
    for (const [one, row] of this.rows ?? []) row.classList.toggle("chosen", one === detection);
    const row = detection && this.rows?.get(detection);
    const box = row?.closest(".scroll");
    if (row && (row.offsetTop < box.scrollTop + 32 || row.offsetTop > box.scrollTop + box.clientHeight - 40)) {
      box.scrollTop = row.offsetTop - box.clientHeight / 2;
    }
  }

  paintHistogram() {
    const canvas = this.find("histogram"), style = getComputedStyle(document.documentElement);
    const { clientWidth: width, clientHeight: height } = canvas;
    if (!width) return;
    canvas.width = width * devicePixelRatio;
    canvas.height = height * devicePixelRatio;
    const context = canvas.getContext("2d"), counts = new Array(BARS).fill(0);
    context.scale(devicePixelRatio, devicePixelRatio);
    for (const { score, label } of this.detections) if (!this.hidden.has(label)) counts[Math.min(BARS - 1, Math.floor(score * BARS))] += 1;
    const most = Math.max(1, ...counts), step = width / BARS, least = Number(this.slider.value);
    counts.forEach((count, i) => {
      const tall = count ? Math.max(2, Math.sqrt(count / most) * (height - 6)) : 0;
      context.fillStyle = style.getPropertyValue((i + 0.5) / BARS >= least ? "--accent" : "--line");
      context.beginPath();
      context.roundRect(i * step + 0.75, height - tall, step - 1.5, tall, [1.5, 1.5, 0, 0]);
      context.fill();
    });
  }
}
