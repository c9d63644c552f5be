// The page: one image at a time goes to the server; everything after that happens here.
import { about, predict, Refusal } from "./api.js";
import { saveDota, saveGeojson, saveJson, savePng } from "./downloads.js";
import { describe, Panel, swatch } from "./panel.js";
import { decode, decodePreview } from "./image.js";
import { startTheme } from "./theme.js";
import { Viewer } from "./viewer.js";

const PREVIEW = 4096, RETRIES = 3;
const find = (id) => document.getElementById(id);
const state = { facts: null, token: "", file: null, image: null, result: null, running: null };

const viewer = new Viewer(find("canvas"), {
  hovered: showTip,
  chosen: (one) => choose(one, false),
  moved: (scale) => { find("zoom-level").value = `${(scale * 100).toFixed(scale < 0.1 ? 1 : 0)} %`; },
});
const panel = new Panel(find, {
  changed: (shown) => { viewer.setDetections(shown); saySoon(shown.length); },
  chosen: (one) => choose(one, true),
  hovered: (one) => viewer.hover(one, -1, -1),
});

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

function say(...parts) {
  find("status").replaceChildren(...parts);
}

let saying = 0;
/** Screen readers hear of the slider's effect once it rests; eyes see it at once. */
function saySoon(count) {
  const number = document.createElement("b");
  number.textContent = count.toLocaleString("en");
  const all = panel.detections.length, hint = !count && all ? ": lower the score, or choose more classes" : "";
  const text = all ? `of ${all.toLocaleString("en")} ${all === 1 ? "detection" : "detections"} shown${hint}` : "detections: nothing it knows was found";
  find("status").setAttribute("aria-busy", "true");
  say(number, text);
  clearTimeout(saying);
  saying = setTimeout(() => find("status").setAttribute("aria-busy", "false"), 300);
}

function complain(title, text, again = false) {
  const box = find("error");
  box.querySelector("strong").textContent = title;
  box.querySelector("p").textContent = text;
  find("again").hidden = !again;
  box.hidden = false;
}

function showTip(one, x, y) {
  const tip = find("tip");
  tip.hidden = !one || x < 0;
  if (tip.hidden) return;
  const name = document.createElement("b"), text = document.createElement("span");
  name.textContent = `${one.name}  ${one.score.toFixed(2)}`;
  text.textContent = `${one.box[2].toFixed(1)} × ${one.box[3].toFixed(1)} px, ${(one.box[4] * 180 / Math.PI).toFixed(1)}°`;
  tip.replaceChildren(name, text);
  const left = Math.min(x + 16, viewer.width - tip.offsetWidth - 8), top = y + 18 + tip.offsetHeight > viewer.height ? y - tip.offsetHeight - 12 : y + 18;
  tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
}

function choose(one, zoom) {
  viewer.select(one, zoom);
  panel.mark(one);
  if (one) find("canvas").setAttribute("aria-label", `Image with detections. Chosen: ${describe(one)}`);
}

function step(by) {
  const { shown } = panel;
  if (!shown.length) return;
  const at = shown.indexOf(viewer.selected);
  const one = shown[(at < 0 ? (by > 0 ? 0 : shown.length - 1) : at + by + shown.length) % shown.length];
  choose(one, true);
  say(describe(one));
}

/** Show the image at once, where the browser can decode it; the rest comes with the answer. */
async function open(file) {
  state.running?.abort();
  find("error").hidden = true;
  if (state.facts && file.size > state.facts.max_upload) {
    return complain("Too large", `${file.name} has ${megabytes(file.size)}; this server takes up to ${megabytes(state.facts.max_upload)}.`);
  }
  clear();
  const running = new AbortController();
  Object.assign(state, { file, running });
  busy(true, "Opening");
  try {
    const image = await decode(file);
    if (running.signal.aborted) return;
    if (image) present(image);
    const answer = await ask(file, image ? 0 : PREVIEW, running.signal);
    await take(answer, image);
  } catch (error) {
    if (error.name !== "AbortError") refuse(error);
    else if (state.running === running) say("Cancelled.");
  } finally {
    if (state.running === running) { busy(false); state.running = null; }
  }
}

async function ask(file, preview, signal) {
  for (let attempt = 0; ; attempt += 1) {
    const clock = startClock(signal);
    try {
      return await predict(file, { preview, token: state.token, progress: clock.progress, signal });
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 429 || attempt === RETRIES) throw error;
      clock.stop();
      for (let left = error.retryAfter || 1; left > 0; left -= 1) {
        busy(true, `The server is busy; trying again in ${left} s`);
        await new Promise((resolve) => setTimeout(resolve, 1000));
        signal.throwIfAborted();
      }
    } finally {
      clock.stop();
    }
  }
}

/** Says how far the upload is, then how long the detector has been at work. */
function startClock(signal) {
  let timer = 0;
  const progress = (share) => {
    if (signal.aborted || timer) return;
    busy(true, `Uploading ${Math.round(share * 100)} %`, share);
    if (share < 1) return;
    const start = performance.now();
    const tick = () => busy(true, `Detecting, ${((performance.now() - start) / 1000).toFixed(0)} s`);
    tick();
    timer = setInterval(tick, 500);
  };
  return { progress, stop: () => clearInterval(timer) };
}

function busy(on, text = "", share = null) {
  find("busy").hidden = !on;
  if (!on) return;
  find("busy-text").textContent = text;
  const bar = find("progress");
  if (share === null || share === 1) bar.removeAttribute("value");
  else bar.value = share;
}

/** Nothing of the image before may be saved under the next one's name. */
function clear() {
  Object.assign(state, { image: null, result: null });
  for (const id of ["canvas", "zoom-tools", "open-label", "results"]) find(id).hidden = true;
  find("empty").classList.remove("unseen");
  panel.take([], state.facts?.classes ?? []);
}

function present(image) {
  state.image = image;
  for (const id of ["canvas", "zoom-tools", "open-label"]) find(id).hidden = false;
  find("empty").classList.add("unseen"); // its file input stays within reach of the keyboard
  find("results").hidden = true;
  viewer.show(image, state.facts.classes.map(({ colour }) => colour));
}

async function take(answer, image) {
  const labels = new Map(answer.class_names.map((name, i) => [name, i]));
  const detections = answer.detections.map((one, index) => ({ ...one, index, name: one.class, label: labels.get(one.class) }));
  state.result = { answer };
  if (!image) present(await decodePreview(answer.preview, answer.image.width, answer.image.height));
  find("welcome").hidden = true;
  find("results").hidden = false;
  find("token-form").hidden = true;
  find("get-geojson").disabled = !answer.geojson;
  find("get-geojson").title = answer.geojson ? "" : "This image is not georeferenced";
  const { width, height, kind, notes } = answer.image;
  const name = document.createElement("span");
  name.textContent = name.title = state.file.name;
  find("notes").replaceChildren(name, [`${width} × ${height} pixels, ${kind}`, ...notes].join("; "));
  document.title = `${state.file.name} · rotanext`;
  panel.take(detections, state.facts.classes);
}

function refuse(error) {
  if (error.status === 401) {
    find("token-form").hidden = false;
    find("token").focus();
  }
  const titles = { 401: "A token is needed", 413: "Too large", 415: "Not an image this server reads", 422: "This image cannot be used", 429: "The server is busy", 504: "This took too long" };
  const text = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  complain(titles[error.status] ?? error.title ?? "Something went wrong", text, [0, 408, 429, 503, 504].includes(error.status));
  say(state.result ? "" : "Ready for another image.");
}

function listenToKeys() {
  find("canvas").addEventListener("keydown", (event) => {
    const far = event.shiftKey ? 240 : 60;
    const actions = {
      ArrowLeft: () => viewer.pan(far, 0), ArrowRight: () => viewer.pan(-far, 0), ArrowUp: () => viewer.pan(0, far), ArrowDown: () => viewer.pan(0, -far),
      "+": () => viewer.zoom(1.3), "=": () => viewer.zoom(1.3), "-": () => viewer.zoom(1 / 1.3), 0: () => viewer.fit(), 1: () => viewer.ownSize(),
      n: () => step(1), p: () => step(-1), Escape: () => choose(null, false),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || !state.image) return;
    event.preventDefault();
    action();
  });
}

function listenToFiles() {
  const input = find("file");
  input.addEventListener("change", () => { if (input.files[0]) open(input.files[0]); input.value = ""; });
  let depth = 0;
  const over = (on) => { find("dropping").hidden = !on; };
  addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) { depth += 1; over(true); } });
  addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) over(false); });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(false);
    const [file] = event.dataTransfer?.files ?? [];
    if (file) open(file);
  });
  addEventListener("paste", (event) => { const [file] = event.clipboardData?.files ?? []; if (file) open(file); });
}

function listenToButtons() {
  const click = (id, action) => find(id).addEventListener("click", action);
  click("zoom-in", () => viewer.zoom(1.4));
  click("zoom-out", () => viewer.zoom(1 / 1.4));
  click("zoom-fit", () => viewer.fit());
  click("zoom-one", () => viewer.ownSize());
  click("cancel", () => state.running?.abort());
  click("again", () => open(state.file));
  click("get-json", () => saveJson(state.result, panel.shown, state.file.name));
  click("get-dota", () => saveDota(panel.shown, state.file.name));
  click("get-geojson", () => saveGeojson(state.result, panel.shown, state.file.name));
  click("get-png", () => savePng(state.image, panel.shown, viewer.colours, state.file.name).catch((error) => complain("Not saved", error.message)));
  find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.token = find("token").value;
    find("token-form").hidden = true;
    if (state.file) open(state.file);
  });
}

function introduce(facts) {
  const classes = facts.classes.length === 1 ? "1 class" : `${facts.classes.length} classes`;
  const size = facts.image_size ? `images fitted to ${facts.image_size} px` : `tiles of ${facts.tile} px`;
  find("model").textContent = `${facts.name} · ${classes} · ${size} · ${facts.device}`;
  find("takes").textContent = `PNG, JPEG, GeoTIFF or JPEG 2000, up to ${megabytes(facts.max_upload)} and ${(facts.max_pixels / 1e6).toFixed(facts.max_pixels < 1e7 ? 1 : 0)} megapixels`;
  find("known").replaceChildren(...facts.classes.map(({ name, colour }) => {
    const chip = document.createElement("li");
    chip.append(swatch(colour), name);
    return chip;
  }));
  const token = facts.token ? ' -H "Authorization: Bearer $TOKEN"' : "";
  find("curl").textContent = `curl -F file=@scene.tif${token} "${new URL("predict?score=0.3", location)}"`;
  if (facts.token) find("token-form").hidden = false;
  say("Ready for an image.");
}

async function start() {
  startTheme(find("theme"), () => panel.paintHistogram());
  listenToKeys();
  listenToButtons();
  try {
    state.facts = await about();
    introduce(state.facts);
    listenToFiles();
  } catch (error) {
    complain("The server cannot be reached", `${error.message}. Reload the page once it runs.`);
    say("");
  }
}

start();
