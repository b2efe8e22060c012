// One film and its decision, side by side.

import { paintScale, Viewer } from "./viewer.js";
import { firstLevel, headline, meaning, percent, STATUS } from "./words.js";

let count = 0;

export class Pane {
  #shown = null;

  constructor(place, { palette, card, films, say, pick }) {
    this.card = card;
    this.films = films;
    this.say = say;
    this.pick = pick;
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
    this.offer();
    this.show(null);
  }

  remove() {
    this.element.remove();
  }

  // The model may be another one.
  renew(card) {
    this.card = card;
    this.refresh(this.film);
  }

  // Let the film be chosen here, beside another.
  choose(on) {
    this.#find(".choose-other").hidden = !on;
  }

  show(film) {
    this.film = film;
    this.#shown = null;
    this.offer();
    this.refresh(film);
  }

  // Write down what is known of the film now, if it is the one shown here.
  refresh(film) {
    if (film !== this.film) return;
    this.element.hidden = film === null;
    if (film === null) {
      this.viewer.show(null);
      this.viewer.lay(null);
      return;
    }
    this.#find("h2").textContent = film.name;
    if (this.#shown !== film.bitmap || film.bitmap === null) {
      this.#shown = film.bitmap;
      this.viewer.show(film.bitmap);
      this.#offerMaps();
    }
    this.#decision();
  }

  // The films to choose from.
  offer() {
    const select = this.#find(".choose-other select");
    select.replaceChildren(...this.films.map((film, at) => new Option(`${at + 1}. ${film.name}`, at)));
    select.value = String(this.films.indexOf(this.film));
  }

  #find(selector) {
    return this.element.querySelector(selector);
  }

  #listen() {
    const viewer = this.viewer;
    const deeds = {
      in: () => viewer.zoomBy(1.4),
      out: () => viewer.zoomBy(1 / 1.4),
      reset: () => viewer.reset(),
      invert: () => viewer.invert(),
      copy: () => this.#copy(),
      print: () => this.#print(),
    };
    for (const button of this.element.querySelectorAll("[data-do]")) {
      button.addEventListener("click", deeds[button.dataset.do]);
    }
    for (const radio of this.element.querySelectorAll("input[type=radio]")) {
      radio.addEventListener("change", () => {
        viewer.drag = radio.value;
        this.#find("canvas[role=img]").dataset.drag = radio.value;
      });
    }
    this.#find(".heat-class").addEventListener("change", () => this.#lay());
    this.#find(".opacity").addEventListener("input", (event) => {
      viewer.opacity = event.target.value / 100;
      viewer.draw();
    });
    this.#find(".choose-other select").addEventListener("change", (event) => this.pick(this, this.films[event.target.value]));
  }

  #offerMaps() {
    const maps = this.film.answer?.maps;
    const select = this.#find(".heat-class");
    select.replaceChildren(...Object.keys(maps ?? {}).map((label) => new Option(label, label)));
    if (maps) select.value = this.film.answer.attention?.class ?? Object.keys(maps)[0];
    this.#find(".heat").hidden = !maps;
    this.#find(".no-heat").hidden = !(this.film.answer && this.card.heatmap === false);
    this.#lay();
  }

  #lay() {
    this.viewer.lay(this.film.answer?.maps?.[this.#find(".heat-class").value] ?? null);
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
    const map = viewer.laid ? `, with what speaks for ${this.#find(".heat-class").value}` : "";
    this.#find("canvas[role=img]").setAttribute("aria-label", `${this.film?.name ?? "No film"}${map}`);
  }

  #decision() {
    const { film, card } = this;
    const { answer } = film;
    const place = this.#find(".decision");
    place.dataset.status = answer?.status ?? film.state;
    this.#find(".badge").textContent = answer ? STATUS[answer.status] : film.state === "failed" ? STATUS.failed : "";
    this.#find(".label").textContent = answer ? headline(film) : film.state === "failed" ? "" : "Being classified…";
    this.#find(".plain").textContent = meaning(film, card);
    this.#find(".reasons").replaceChildren(...(answer?.reasons ?? []).map((text) => element("li", text)));
    const read = Boolean(answer) && answer.status !== "rejected";
    this.#find(".figures").hidden = !read;
    this.element.querySelectorAll(".decision .actions button").forEach((button) => (button.disabled = !answer));
    if (read) this.#figures(answer, card);
    this.#find(".facts").replaceChildren(...facts(answer));
  }

  #figures(answer, card) {
    const first = firstLevel(answer, card);
    this.#find(".groups").hidden = !Object.keys(first).length;
    this.#find(".groups .bars").replaceChildren(...bars(first, []));
    this.#find(".classes h3").textContent = Object.keys(first).length ? "Second level" : "Classes";
    this.#find(".classes .bars").replaceChildren(...bars(answer.probabilities, answer.prediction_set));
    const at = answer.coverage === null ? "" : ` (at ${Math.round(100 * answer.coverage)} % coverage)`;
    this.#find(".set").textContent = `● may be: ${answer.prediction_set.join(" or ") || "none of the classes"}${at}`;
  }

  async #copy() {
    const { maps, ...document } = this.film.answer;
    try {
      await navigator.clipboard.writeText(JSON.stringify({ ...document, image: this.film.name }, null, 2));
      this.say("The decision was copied as JSON.");
    } catch {
      this.say("The browser does not let this page copy; use Download CSV.");
    }
  }

  #print() {
    this.element.classList.add("printed");
    window.print();
  }
}

function facts(answer) {
  if (!answer) return [];
  const lines = [
    ["Model", `${answer.model.name} ${answer.model.version}`],
    ["Fingerprint", answer.model.sha256.slice(0, 16)],
    ["Took", `${answer.milliseconds.toFixed(0)} ms`],
  ];
  const looked = answer.attention;
  if (looked?.border != null) {
    lines.push(["Map at the rim", `${percent(looked.border)} at the border, ${percent(looked.corners)} in the corners`]);
  }
  return lines.flatMap(([name, text]) => [element("dt", name), element("dd", text)]);
}

function bars(shares, possible) {
  return Object.entries(shares).map(([name, share]) => {
    const row = document.createElement("li");
    const track = element("span", "", "track");
    const fill = element("span", "", "fill");
    fill.style.width = `${100 * share}%`;
    track.append(fill);
    const label = element("span", name, possible.includes(name) ? "in-set" : "");
    row.append(label, track, element("span", percent(share), "share"));
    return row;
  });
}

function element(tag, text, name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}
