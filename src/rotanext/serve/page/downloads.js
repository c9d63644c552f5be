// Results as files. Nothing is asked of the server: what is shown is what is written.
import { drawBoxes } from "./viewer.js";

const LONGEST = 16384, MOST = 200e6; // pixels that browsers' canvases hold

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function stem(name) {
  return name.replace(/\.[^.]*$/, "") || "image";
}

/** The answer of the server, with the detections that are shown. */
export function saveJson(result, shown, name) {
  const { geojson: _, preview: __, ...answer } = result.answer;
  const detections = shown.map((one) => result.answer.detections[one.index]);
  const content = { ...answer, image: { ...answer.image, name }, detections };
  save(new Blob([JSON.stringify(content, null, 1), "\n"], { type: "application/json" }), `${stem(name)}.json`);
}

/** DOTA's label format: eight coordinates, class, and 0 for "not difficult". */
export function saveDota(shown, name) {
  const lines = shown.map((one) => `${one.corners.flat().map((value) => value.toFixed(1)).join(" ")} ${one.name} 0\n`);
  save(new Blob(lines, { type: "text/plain" }), `${stem(name)}.txt`);
}

/** The server's features are in the order of its detections. */
export function saveGeojson(result, shown, name) {
  const { geojson } = result.answer;
  const content = { ...geojson, features: shown.map((one) => geojson.features[one.index]) };
  save(new Blob([JSON.stringify(content)], { type: "application/geo+json" }), `${stem(name)}.geojson`);
}

/** The image with its boxes, in its own size where a canvas can hold it. */
export async function savePng(image, shown, colours, name) {
  const { image: pixels, width, height } = image.levels[0];
  const shrink = Math.min(1, LONGEST / Math.max(width, height), Math.sqrt(MOST / (width * height)));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * shrink);
  canvas.height = Math.round(height * shrink);
  const context = canvas.getContext("2d");
  context.drawImage(pixels, 0, 0, canvas.width, canvas.height);
  const scale = canvas.width / image.width;
  const line = Math.max(1, Math.sqrt(canvas.width * canvas.height) / 700);
  drawBoxes(context, shown.slice().reverse(), colours, line, ([x, y]) => [x * scale, y * scale]);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("The browser cannot write an image of this size.");
  save(blob, `${stem(name)}_detections.png`);
}
