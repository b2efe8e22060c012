// Requests to the service. Every outcome is a response or a Trouble, whose message explains it to the user.

const MAX_ATTEMPTS = 6; // of one film, while the service is busy
const MAX_WAIT = 30; // seconds, whatever Retry-After asks for
const LENIENT = "handling=lenient"; // an unreadable file gets a decision (rejected) instead of status 422

let token = "";

export function useToken(text) {
  token = text;
}

export class Trouble extends Error {
  // kind: "lost" (no response), "stopped" (by this page), "busy", "token", "film" (this film was refused),
  // "service" (the service has failed)
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    if (options.signal?.aborted) throw new Trouble("stopped", "");
    throw new Trouble("lost", "The server cannot be reached. It may have stopped, or the network may be down.");
  }
  if (response.ok) return response;
  const detail = await problemDetail(response);
  if (response.status === 401) throw new Trouble("token", detail);
  if (response.status === 503 || response.status === 429) {
    const trouble = new Trouble("busy", detail);
    trouble.retryAfter = Math.min(MAX_WAIT, Number(response.headers.get("Retry-After")) || 1);
    throw trouble;
  }
  throw new Trouble(response.status < 500 ? "film" : "service", detail);
}

async function problemDetail(response) {
  try {
    return (await response.json()).detail || response.statusText;
  } catch {
    return `The server returned status ${response.status} without a reason.`;
  }
}

async function readJson(response) {
  try {
    return await response.json();
  } catch {
    throw new Trouble("lost", "The connection was lost in the middle of the response.");
  }
}

export async function readModel() {
  return readJson(await request("v1/model"));
}

export async function readPalette() {
  return readJson(await request("palette.json"));
}

export async function readExample(name) {
  const blob = await (await request(`examples/${name}.jpeg`)).blob();
  return new File([blob], `drawing, ${name}.jpeg`, { type: "image/jpeg" });
}

// The decision on a film, with its maps and its picture. If the service is busy, call `onWait` with the seconds until
// the next attempt.
export async function classify(file, signal, onWait) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const options = { method: "POST", body: file, signal, headers: { "Content-Type": contentType(file), Prefer: LENIENT } };
      return await readJson(await request("v1/predictions?heatmap=maps&preview=true", options));
    } catch (trouble) {
      if (trouble.kind !== "busy" || attempt >= MAX_ATTEMPTS) throw trouble;
      if (signal.aborted) throw new Trouble("stopped", "");
      onWait(trouble.retryAfter);
      await new Promise((done) => setTimeout(done, trouble.retryAfter * 1000));
    }
  }
}

// Browsers have no type for DICOM files. Any other file that is not an image goes as bytes; the service looks inside.
function contentType(file) {
  if (/\.(dcm|dicom)$/i.test(file.name)) return "application/dicom";
  return /^image\/[\w.+-]+$/.test(file.type) ? file.type : "application/octet-stream";
}
