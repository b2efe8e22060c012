// The page: a queue of films, and one or two of them shown with the service's decision.

import { classify, readExample, readModel, readPalette, Trouble, useToken } from "./api.js";
import { Pane } from "./pane.js";
import { csv, headline, STATUS } from "./words.js";

const MAX_SENDING = 2; // films sent at the same time

const find = (selector) => document.querySelector(selector);
const films = []; // { name, file, state: waiting | sending | done | failed, decision, message, bitmap, thumbnail, stop, busy }
let panes = [];
let card = null;
let palette = null;
let sending = 0;
let pausedBy = ""; // why no films are sent: the kind of a Trouble, such as "lost" or "token"; "" while they are sent

start();

async function start() {
  listen();
  showTheme(document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  await readService();
}

async function readService() {
  try {
    palette ??= await readPalette();
    const model = await readModel();
    card = { ...model.card, heatmap: model.service.heatmap };
    find("#model").textContent = `${card.name} ${card.version}, ${card.classes.join(" / ")}; ${card.population}`;
    find("#examples-note").textContent = exampleNote(model.contract);
    pausedBy = "";
    find("#token-form").hidden = true;
    offerRetry("");
  } catch (trouble) {
    pause(trouble);
    return;
  }
  if (!panes.length) panes = [newPane()];
  for (const pane of panes) pane.setModel(card);
  // Films that failed only because the server was busy are sent again.
  for (const film of films.filter((each) => each.busy)) film.state = "waiting";
  advance();
}

// A model of real films rejects the drawings if it has a gate; a model trained on drawings answers them.
function exampleNote(contract) {
  const offer = "No film at hand? Try a drawing. ";
  if (contract.population.drawings) {
    return `${offer}This model was trained on drawings: it answers them, and its answers mean nothing for patients.`;
  }
  return contract.gate === null
    ? `${offer}This model cannot tell drawings from films: it answers them, and the answers mean nothing.`
    : `${offer}This model was trained on real films and rejects drawings: you see what a rejection looks like.`;
}

function newPane() {
  return new Pane(find("#panes"), { palette, card, films, announce, choose });
}

// Report what was done.
function announce(message) {
  find("#status").textContent = message;
}

// Show what is wrong, with a button to try again; an empty message removes both.
function offerRetry(message) {
  find("#trouble").replaceChildren(...(message ? [message] : []));
  if (!message) return;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Try again";
  button.addEventListener("click", readService);
  find("#trouble").append(button);
}

// Send no films until the server is back or a token is given.
function pause(trouble) {
  pausedBy = trouble.kind ?? "lost";
  if (pausedBy === "token") {
    find("#token-form").hidden = false;
    find("#token").focus();
    find("#trouble").textContent = trouble.message;
  } else {
    offerRetry(`${trouble.message} Your films are still here.`);
  }
}

function listen() {
  find("#files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    find("#drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) find("#drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    find("#drop").classList.remove("over");
    add([...event.dataTransfer.files]);
  });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => addExample(button.dataset.example));
  }
  find("#token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const token = find("#token").value.trim();
    find("#token").value = "";
    if (/^[\x21-\x7e]+$/.test(token)) {
      useToken(token);
      readService();
    } else {
      find("#trouble").textContent = "A token has only ASCII letters, digits and punctuation, without spaces.";
    }
  });
  find("#theme").addEventListener("click", () => showTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  find("#compare").addEventListener("click", () => compare(panes.length === 1));
  find("#csv").addEventListener("click", () => save("pneumoscope.csv", csv(films, card)));
  find("#clear").addEventListener("click", clear);
  find("#queue").addEventListener("keydown", moveInQueue);
  addEventListener("beforeprint", () => {
    // Printed from the browser's menu, not by a pane's own button: print every pane.
    if (!find(".pane.printed")) panes.forEach((pane) => pane.element.classList.add("printed"));
  });
  addEventListener("afterprint", () => panes.forEach((pane) => pane.element.classList.remove("printed")));
}

function showTheme(name) {
  document.documentElement.dataset.theme = name;
  find("#theme").setAttribute("aria-pressed", String(name === "dark"));
}

async function addExample(name) {
  try {
    add([await readExample(name)]);
  } catch (trouble) {
    pause(trouble);
  }
}

function add(files) {
  const first = films.length;
  for (const file of files) {
    const film = { name: file.name || "pasted film", file, state: "waiting", decision: null, message: "", bitmap: null };
    film.row = makeRow(film);
    films.push(film);
    find("#queue").append(film.row);
  }
  if (films.length === first) return;
  if (panes.length && !panes[0].film) show(films[first]);
  updateList();
  advance();
}

// Send the waiting films, a few at a time.
function advance() {
  while (!pausedBy && palette && sending < MAX_SENDING) {
    const film = films.find((each) => each.state === "waiting");
    if (!film) break;
    sending += 1;
    send(film).finally(() => {
      sending -= 1;
      advance();
    });
  }
}

async function send(film) {
  film.state = "sending";
  film.busy = false;
  film.stop = new AbortController();
  refresh(film);
  try {
    film.decision = await classify(film.file, film.stop.signal, (seconds) => {
      film.message = `The server is busy; the page tries again in ${seconds} s.`;
      refresh(film);
    });
    film.state = "done";
    film.message = "";
    await loadPicture(film).catch(() => {}); // the decision stands, even if its picture cannot be shown
  } catch (trouble) {
    if (film.stop.signal.aborted) return;
    fail(film, trouble);
  }
  if (film.stop.signal.aborted) {
    release(film);
    return;
  }
  refresh(film);
  if (!panes[0]?.film) show(film);
  updateList();
}

// A film that could not be sent is kept for later; one that the service could not classify is marked as failed.
function fail(film, trouble) {
  const known = trouble instanceof Trouble;
  const later = known && (trouble.kind === "lost" || trouble.kind === "token");
  film.state = later ? "waiting" : "failed";
  film.message = later ? (trouble.kind === "token" ? "Waiting for a token." : "Waiting for the server.") : known ? trouble.message : "This page has a fault; reload it.";
  film.busy = known && trouble.kind === "busy";
  if (later) pause(trouble);
  if (film.busy) offerRetry("The server is still busy.");
}

async function loadPicture(film) {
  const text = film.decision.preview;
  delete film.decision.preview; // it would only make the copied JSON long
  if (!text) return;
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  film.thumbnail = URL.createObjectURL(blob);
  film.bitmap = await createImageBitmap(blob);
}

function makeRow(film) {
  const row = document.createElement("li");
  const button = document.createElement("button");
  const blank = document.createElement("span");
  blank.className = "blank";
  const text = document.createElement("span");
  for (const [name, content] of [["name", film.name], ["outcome", "Waiting"]]) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = content;
    text.append(part);
  }
  button.type = "button";
  button.append(blank, text);
  button.addEventListener("click", () => show(film));
  row.append(button);
  return row;
}

function refresh(film) {
  const states = { waiting: film.message || "Waiting", sending: film.message || "Being classified…", failed: STATUS.failed };
  film.row.querySelector(".outcome").textContent =
    film.state === "done" ? `${STATUS[film.decision.status]}: ${headline(film)}` : states[film.state];
  const blank = film.row.querySelector(".blank");
  if (film.thumbnail && blank) {
    const image = document.createElement("img");
    image.src = film.thumbnail;
    image.alt = "";
    blank.replaceWith(image);
  }
  for (const pane of panes) pane.refresh(film);
}

// A film was chosen in a pane's own list. The first pane's film is also the queue's current one.
function choose(pane, film) {
  if (pane === panes[0]) show(film);
  else pane.show(film);
}

function show(film) {
  panes[0]?.show(film);
  for (const each of films) {
    const button = each.row.querySelector("button");
    if (each === film) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

// Bring the counter, the buttons and the panes' own lists in line with the films.
function updateList() {
  find("main").classList.toggle("empty", !films.length);
  const done = films.filter((film) => film.state === "done" || film.state === "failed").length;
  find("#progress").hidden = films.length < 2;
  find("#list-actions").hidden = !films.length;
  find("#compare").disabled = films.length < 2;
  find("#done").max = Math.max(1, films.length);
  find("#done").value = done;
  find("#count").textContent = `${done} of ${films.length}`;
  for (const pane of panes) pane.listFilms();
}

function compare(on) {
  if (on && films.length < 2) return;
  find("#compare").setAttribute("aria-pressed", String(on));
  find("#panes").classList.toggle("two", on);
  panes[0]?.showChoice(on);
  if (!on) {
    panes.splice(1).forEach((pane) => pane.remove());
    return;
  }
  const pane = newPane();
  pane.showChoice(true);
  panes.push(pane);
  pane.show(films.find((film) => film !== panes[0].film) ?? films[0]);
}

function clear() {
  compare(false);
  for (const film of films.splice(0)) {
    film.row.remove();
    film.stop?.abort();
    release(film);
  }
  panes[0]?.show(null);
  announce("");
  if (pausedBy !== "token") {
    pausedBy = ""; // the next films show whether the server is back
    offerRetry("");
  }
  updateList();
  find("#films-title").focus();
}

// Free the film's thumbnail and bitmap: a browser keeps both until the page is closed.
function release(film) {
  if (film.thumbnail) URL.revokeObjectURL(film.thumbnail);
  film.bitmap?.close();
}

// The up and down arrow keys move through the queue.
function moveInQueue(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...find("#queue").querySelectorAll("button")];
  const next = buttons[buttons.indexOf(document.activeElement) + step];
  if (!next) return;
  event.preventDefault();
  next.focus();
  next.click();
}

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
