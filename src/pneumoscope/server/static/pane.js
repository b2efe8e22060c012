// One film and its decision, side by side.

import { paintScale, Viewer } from "./viewer.js";
import { headline, meaning, oneOf, percent, questions, STATUS, unbroken } from "./words.js";

let count = 0;

export class Pane {
  #shown = null;

  constructor(place, { palette, card, films, announce, choose }) {
    this.card = card;
    this.films = films;
    this.announce = announce;
    this.choose = choose;
    this.film = null;
    this.element = document.querySelector("#pane").content.firstElementChild.cloneNode(true);
    place.append(this.element);
    count += 1;
    const title = this.#find("h2");
    title.id = `pane-${count}`;
    this.element.setAttribute("aria-labelledby", title.id);
    for (const radio of this.element.querySelectorAll("input[type=radio]")) radio.name = `drag-${count}`;
    this.viewer = new Viewer(this.#find("canvas[role=img]"), palette, (viewer) => this.#state(viewer));
    this.viewer.toggleHeat = () => this.#toggleHeat();
    paintScale(this.#find(".scale canvas"), palette);
    this.#listen();
    this.listFilms();
    this.show(null);
  }

  remove() {
    this.element.remove();
  }

  // Show the decision again: the service may have come back with another model.
  setModel(card) {
    this.card = card;
    this.refresh(this.film);
  }

  // Show or hide this pane's own list of films, for a comparison.
  showChoice(on) {
    this.#find(".choose-other").hidden = !on;
  }

  show(film) {
    this.film = film;
    this.#shown = null;
    this.listFilms();
    this.refresh(film);
  }

  // Draw the film and its decision as they are now, if it is the film shown here.
  refresh(film) {
    if (film !== this.film) return;
    this.element.hidden = film === null;
    if (film === null) {
      this.viewer.show(null);
      this.viewer.setHeat(null);
      return;
    }
    this.#find("h2").textContent = film.name;
    if (this.#shown !== film.bitmap || film.bitmap === null) {
      this.#shown = film.bitmap;
      this.viewer.show(film.bitmap);
      this.#listMaps();
    }
    this.#showDecision();
  }

  // Fill this pane's own list with the films of the session.
  listFilms() {
    const select = this.#find(".choose-other select");
    select.replaceChildren(...this.films.map((film, at) => new Option(`${at + 1}. ${film.name}`, at)));
    select.value = String(this.films.indexOf(this.film));
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  #listen() {
    const viewer = this.viewer;
    const actions = {
      in: () => viewer.zoomBy(1.4),
      out: () => viewer.zoomBy(1 / 1.4),
      reset: () => viewer.reset(),
      invert: () => viewer.invert(),
      copy: () => this.#copy(),
      print: () => this.#print(),
    };
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.addEventListener("click", actions[button.dataset.do]);
    }
    for (const radio of this.element.querySelectorAll("input[type=radio]")) {
      radio.addEventListener("change", () => {
        viewer.drag = radio.value;
        this.#find("canvas[role=img]").dataset.drag = radio.value;
      });
    }
    this.#find(".heat-class").addEventListener("change", () => this.#showMap());
    this.#find(".opacity").addEventListener("input", (event) => {
      viewer.opacity = event.target.value / 100;
      viewer.draw();
    });
    this.#find(".choose-other select").addEventListener("change", (event) => this.choose(this, this.films[event.target.value]));
  }

  // A rejected film gets no class, so it shows no map for one.
  #maps() {
    const decision = this.film.decision;
    return decision?.status === "rejected" ? null : decision?.maps;
  }

  #listMaps() {
    const maps = this.#maps();
    const select = this.#find(".heat-class");
    select.replaceChildren(...Object.keys(maps ?? {}).map((label) => new Option(label, label)));
    if (maps) select.value = this.film.decision.attention?.class ?? Object.keys(maps)[0];
    this.#find(".heat").hidden = !maps;
    this.#find(".no-heat").hidden = !(this.film.decision && this.film.decision.status !== "rejected" && this.card.heatmap === false);
    this.#showMap();
  }

  #showMap() {
    this.viewer.setHeat(this.#maps()?.[this.#find(".heat-class").value] ?? null);
  }

  #toggleHeat() {
    const slider = this.#find(".opacity");
    slider.value = slider.value === "0" ? "55" : "0";
    slider.dispatchEvent(new Event("input"));
  }

  #state(viewer) {
    this.#find(".view-state").textContent =
      `zoom ${viewer.zoom.toFixed(1)}, window ${Math.round(viewer.window)}, level ${Math.round(viewer.level)}`;
    this.#find("[data-do=invert]").setAttribute("aria-pressed", String(viewer.inverted));
    const map = viewer.heatShown ? `, with the map for ${this.#find(".heat-class").value}` : "";
    this.#find("canvas[role=img]").setAttribute("aria-label", `${this.film?.name ?? "No film"}${map}`);
  }

  #showDecision() {
    const { film, card } = this;
    const { decision } = film;
    this.#find(".decision").dataset.status = decision?.status ?? film.state;
    this.#find(".badge").textContent = decision ? STATUS[decision.status] : film.state === "failed" ? STATUS.failed : "";
    const state = film.state === "failed" ? "" : film.state === "sending" ? "Being classified…" : "Waiting";
    this.#find(".label").textContent = decision ? headline(film) : state;
    this.#find(".plain").textContent = meaning(film, card);
    this.#find(".reasons").replaceChildren(...(decision?.reasons ?? []).map((text) => element("li", unbroken(text))));
    const hasFigures = Boolean(decision) && decision.status !== "rejected";
    this.#find(".figures").hidden = !hasFigures;
    this.element.querySelectorAll(".decision .actions button").forEach((button) => (button.disabled = !decision));
    if (hasFigures) this.#showFigures(decision, card);
    this.#find(".facts").replaceChildren(...facts(decision));
  }

  #showFigures(decision, card) {
    for (const [name, question] of Object.entries(questions(decision, card))) {
      const part = this.#find(`.${name === "group" ? "groups" : name}`);
      part.hidden = !question;
      if (!question) continue;
      part.querySelector("h3").textContent = question.title;
      part.querySelector(".bars").replaceChildren(...bars(question.shares, decision.prediction_set));
    }
    const at = decision.coverage === null ? "" : ` at ${percent(decision.coverage, 0)} coverage`;
    const fitting = oneOf(decision.prediction_set);
    this.#find(".set").textContent = fitting ? `● fits the film${at}: ${fitting}` : `No class fits the film${at}.`;
  }

  async #copy() {
    const { maps, ...document } = this.film.decision;
    try {
      await navigator.clipboard.writeText(JSON.stringify({ ...document, image: this.film.name }, null, 2));
      this.announce("The decision was copied as JSON.");
    } catch {
      this.announce("The browser does not allow this page to copy; use Download CSV.");
    }
  }

  #print() {
    this.element.classList.add("printed");
    window.print();
  }
}

function facts(decision) {
  if (!decision) return [];
  const lines = [
    ["Model", `${decision.model.name} ${decision.model.version}`],
    ["Fingerprint", decision.model.sha256.slice(0, 16)],
    ["Took", `${decision.milliseconds.toFixed(0)} ms`],
  ];
  const { attention } = decision;
  if (decision.status !== "rejected" && attention?.border != null) {
    lines.push(["Share of the map", `${percent(attention.border)} at the border, ${percent(attention.corners)} in the corners`]);
  }
  return lines.flatMap(([name, text]) => [element("dt", name), element("dd", text)]);
}

function bars(shares, predictionSet) {
  return shares.map(([name, share]) => {
    const row = document.createElement("li");
    const track = element("span", "", "track");
    const fill = element("span", "", "fill");
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    const label = element("span", name, predictionSet.includes(name) ? "in-set" : "");
    row.append(label, track, element("span", percent(share), "share"));
    return row;
  });
}

function element(tag, text, name = "") {
  const node = document.createElement(tag);
  node.textContent = text;
  if (name) node.className = name;
  return node;
}
