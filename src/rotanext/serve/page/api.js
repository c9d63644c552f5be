// Talking to the server the page came from.

/** What the server said no with. */
export class Refusal extends Error {
  constructor(status, title, detail, retryAfter = 0) {
    super(detail);
    Object.assign(this, { status, title, retryAfter });
  }
}

/** The detector and the server's limits. */
export async function about() {
  const answer = await fetch("about");
  if (!answer.ok) throw new Refusal(answer.status, "The server does not answer as expected", answer.statusText);
  return answer.json();
}

function refusal(request) {
  let told = {};
  try { told = JSON.parse(request.responseText); } catch { /* a proxy's page, perhaps */ }
  const title = told.title ?? `The server answered ${request.status}`;
  const wait = Number(request.getResponseHeader("Retry-After")) || 0;
  return new Refusal(request.status, title, told.detail ?? request.statusText ?? "", wait);
}

/** Send an image; `progress(share)` hears of the upload, which XMLHttpRequest tells and fetch does not. */
export function predict(file, { preview, token, progress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `predict?format=both&preview=${preview}`);
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.upload.onprogress = (event) => event.lengthComputable && progress(event.loaded / event.total);
    request.upload.onload = () => progress(1);
    request.onload = () => {
      if (request.status !== 200) return reject(refusal(request));
      try { resolve(JSON.parse(request.responseText)); } catch (error) { reject(error); }
    };
    request.onerror = () => reject(new Refusal(0, "The server cannot be reached", "Is it still running? Nothing was lost; try again."));
    request.onabort = () => reject(new DOMException("cancelled", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    const form = new FormData();
    form.append("file", file, "image"); // its name stays here
    request.send(form);
  });
}
