// What a decision says, in words, and as CSV.

export const STATUS = { answered: "Answered", abstained: "Undetermined", rejected: "Rejected", failed: "Not classified" };

// The decision in one phrase.
export function headline(film) {
  const answer = film.answer;
  if (!answer) return film.name;
  if (answer.status === "rejected") return "not a usable film";
  return answer.label ?? "type undetermined";
}

// What that means, in a sentence.
export function meaning(film, card) {
  const answer = film.answer;
  if (!answer) return film.message ?? "";
  if (answer.status === "rejected") return "No class is given, for the reason below.";
  if (answer.status === "abstained") {
    return answer.label
      ? "The group is clear, and the class is not."
      : "The model withholds an answer, for the reason below.";
  }
  const groups = Object.entries(card?.groups ?? {}).filter(([, members]) => members.includes(answer.label));
  const share = percent(answer.probabilities[answer.label] ?? answer.groups[answer.label]);
  const group = groups.map(([name]) => `${name}, `).join("");
  return `The model's answer (${group}probability ${share}). It is no diagnosis.`;
}

export function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// The first level: groups, and the classes in none. Empty if there are no groups.
export function firstLevel(answer, card) {
  const groups = Object.entries(card?.groups ?? {});
  if (!groups.length) return {};
  const inside = new Set(groups.flatMap(([, members]) => members));
  const alone = Object.entries(answer.probabilities).filter(([name]) => !inside.has(name));
  return Object.fromEntries([...Object.entries(answer.groups), ...alone]);
}

export function csv(films, card) {
  const classes = card?.classes ?? [];
  const groups = Object.keys(card?.groups ?? {});
  const header = [
    "image", "status", "class", "label", ...classes.map((name) => `p_${name}`), ...groups.map((name) => `p_${name}`),
    "prediction_set", "coverage", "reasons", "reason_codes", "model", "milliseconds",
  ];
  const rows = films.map((film) => {
    const answer = film.answer;
    if (!answer) return [film.name, film.state, "", "", ...classes.map(() => ""), ...groups.map(() => ""), "", "", film.message, "", "", ""];
    return [
      film.name, answer.status, answer.class ?? "", answer.label ?? "",
      ...classes.map((name) => answer.probabilities[name] ?? ""),
      ...groups.map((name) => answer.groups[name] ?? ""),
      answer.prediction_set.join("; "), answer.coverage ?? "", answer.reasons.join("; "), answer.reason_codes.join("; "),
      `${answer.model.name} ${answer.model.version} ${answer.model.sha256.slice(0, 12)}`, answer.milliseconds,
    ];
  });
  return [header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// RFC 4180; and no cell that a spreadsheet would take for a formula.
function cell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
