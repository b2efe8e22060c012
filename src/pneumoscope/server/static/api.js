// Talking to the service: every outcome becomes an answer or a Trouble that says what to do.

const AGAIN = 6; // times a busy service is asked again
const LONGEST_WAIT = 30; // seconds
const LENIENT = "handling=lenient"; // a file that no image can be read from is answered as rejected, not as a fault

let token = "";

export function useToken(text) {
  token = text;
}

export class Trouble extends Error {
  // kind: "lost" (no answer), "stopped" (by us), "busy", "token", "film" (this film), "service" (a fault over there)
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    if (options.signal?.aborted) throw new Trouble("stopped", "");
    throw new Trouble("lost", "The server cannot be reached. It may have been stopped, or the network is down.");
  }
  if (response.ok) return response;
  const detail = await explain(response);
  if (response.status === 401) throw new Trouble("token", detail);
  if (response.status === 503 || response.status === 429) {
    const trouble = new Trouble("busy", detail);
    trouble.after = Math.min(LONGEST_WAIT, Number(response.headers.get("Retry-After")) || 1);
    throw trouble;
  }
  throw new Trouble(response.status < 500 ? "film" : "service", detail);
}

async function explain(response) {
  try {
    return (await response.json()).detail || response.statusText;
  } catch {
    return `The server answered ${response.status} without a reason.`;
  }
}

async function body(response) {
  try {
    return await response.json();
  } catch {
    throw new Trouble("lost", "The connection broke off in the middle of the answer.");
  }
}

export async function readModel() {
  return body(await ask("v1/model"));
}

export async function readPalette() {
  return body(await ask("palette.json"));
}

export async function readExample(name) {
  const blob = await (await ask(`examples/${name}.jpeg`)).blob();
  return new File([blob], `drawn film, ${name}.jpeg`, { type: "image/jpeg" });
}

// The decision on a film, with maps and a picture of it. A busy service is asked again; `onWait` is told.
export async function classify(file, signal, onWait) {
  for (let time = 1; ; time += 1) {
    try {
      const options = { method: "POST", body: file, signal, headers: { "Content-Type": contentType(file), Prefer: LENIENT } };
      return await body(await ask("v1/predictions?heatmap=maps&preview=true", options));
    } catch (trouble) {
      if (trouble.kind !== "busy" || time >= AGAIN) throw trouble;
      if (signal.aborted) throw new Trouble("stopped", "");
      onWait(trouble.after);
      await new Promise((done) => setTimeout(done, trouble.after * 1000));
    }
  }
}

function contentType(file) {
  if (/\.(dcm|dicom)$/i.test(file.name)) return "application/dicom";
  return /^image\/[\w.+-]+$/.test(file.type) ? file.type : "application/octet-stream";
}
