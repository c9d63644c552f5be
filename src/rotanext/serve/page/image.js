// From a file to pixels a canvas can draw at any zoom: the image, and copies of half the size each.
const SMALLEST = 1024; // no copies smaller than this

/** A JPEG or PNG without its EXIF: detections are in stored pixels, but browsers turn images by their orientation. */
async function asStored(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  const kept = [];
  let from = 0;
  if (bytes[0] === 0xff && bytes[1] === 0xd8) {
    for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda;) {
      const end = at + 2 + view.getUint16(at + 2);
      if (bytes[at + 1] === 0xe1) {
        kept.push(bytes.subarray(from, at));
        from = end;
      }
      at = end;
    }
  } else if (bytes[0] === 0x89 && bytes[1] === 0x50) {
    for (let at = 8; at + 12 <= bytes.length;) {
      const end = at + 12 + view.getUint32(at);
      if (String.fromCharCode(...bytes.subarray(at + 4, at + 8)) === "eXIf") {
        kept.push(bytes.subarray(from, at));
        from = end;
      }
      at = end;
    }
  }
  return kept.length ? new Blob([...kept, bytes.subarray(Math.min(from, bytes.length))], { type: file.type }) : file;
}

function halved(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width / 2));
  canvas.height = Math.max(1, Math.round(height / 2));
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** `{ width, height, levels }`: levels are drawable, the first the largest; width and height are the stored image's. */
function pyramid(bitmap, width, height) {
  const levels = [{ image: bitmap, width: bitmap.width, height: bitmap.height }];
  for (let last = levels[0]; Math.max(last.width, last.height) > 2 * SMALLEST; last = levels.at(-1)) {
    const image = halved(last.image, last.width, last.height);
    levels.push({ image, width: image.width, height: image.height });
  }
  return { width, height, levels };
}

/** The browser's own decoding of a file; null for kinds it does not know. */
export async function decode(file) {
  try {
    const bitmap = await createImageBitmap(await asStored(file));
    return pyramid(bitmap, bitmap.width, bitmap.height);
  } catch {
    return null;
  }
}

/** The server's preview in place of what the browser cannot decode. */
export async function decodePreview(preview, width, height) {
  const bytes = Uint8Array.from(atob(preview.jpeg), (letter) => letter.charCodeAt(0));
  return pyramid(await createImageBitmap(new Blob([bytes], { type: "image/jpeg" })), width, height);
}
