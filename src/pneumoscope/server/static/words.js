// A decision in words and as CSV.

export const STATUS = { answered: "Answered", abstained: "Abstained", rejected: "Rejected", failed: "Not classified" };

// The decision in one phrase.
export function headline(film) {
  const decision = film.decision;
  if (!decision) return film.name;
  if (decision.status === "rejected") return "not a usable film";
  return decision.label ?? "no class";
}

// What the decision means, in a sentence.
export function meaning(film, card) {
  const decision = film.decision;
  if (!decision) return film.message ?? "";
  if (decision.status === "rejected") return "The model gives no class, for the reason below.";
  if (decision.status === "abstained") {
    return decision.label
      ? "The group is clear; the class is not."
      : "The model withholds its answer, for the reason below.";
  }
  const groups = Object.entries(card?.groups ?? {}).filter(([, members]) => members.includes(decision.label));
  const share = percent(decision.probabilities[decision.label] ?? decision.groups[decision.label]);
  const group = groups.map(([name]) => ` is a kind of ${name} and`).join("");
  return `The model's answer${group} has a probability of ${share}. This is not a diagnosis.`;
}

// A no-break space before the sign keeps a percentage on one line.
export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}\u00a0%`;
}

// A sentence of the service, with its percentages on one line.
export function unbroken(text) {
  return text.replaceAll(/(\d) %/g, "$1\u00a0%");
}

// The two questions that a model with groups answers, each with its title and its probabilities: which group, if any
// (the groups and the classes outside them), then which class (the classes within groups). Without groups there is
// one question, the class.
export function questions(decision, card) {
  const groups = Object.entries(card?.groups ?? {});
  const classes = Object.entries(decision.probabilities);
  if (!groups.length) return { group: null, classes: { title: "class", shares: classes } };
  const grouped = new Set(groups.flatMap(([, members]) => members));
  const others = classes.filter(([name]) => !grouped.has(name));
  const names = groups.map(([name]) => name);
  return {
    group: {
      title: oneOf(others.length ? [...names, "not"] : names),
      shares: [...Object.entries(decision.groups), ...others],
    },
    classes: { title: oneOf([...grouped]), shares: classes.filter(([name]) => grouped.has(name)) },
  };
}

// "a, b or c"
export function oneOf(names) {
  return [names.slice(0, -1).join(", "), ...names.slice(-1)].filter(Boolean).join(" or ");
}

export function csv(films, card) {
  const classes = card?.classes ?? [];
  const groups = Object.keys(card?.groups ?? {});
  const header = [
    "image", "status", "class", "label", ...classes.map((name) => `p_${name}`), ...groups.map((name) => `p_${name}`),
    "prediction_set", "coverage", "reasons", "reason_codes", "model", "milliseconds",
  ];
  const rows = films.map((film) => {
    const decision = film.decision;
    if (!decision) return [film.name, film.state, "", "", ...classes.map(() => ""), ...groups.map(() => ""), "", "", film.message, "", "", ""];
    return [
      film.name, decision.status, decision.class ?? "", decision.label ?? "",
      ...classes.map((name) => decision.probabilities[name] ?? ""),
      ...groups.map((name) => decision.groups[name] ?? ""),
      decision.prediction_set.join("; "), decision.coverage ?? "", decision.reasons.join("; "), decision.reason_codes.join("; "),
      `${decision.model.name} ${decision.model.version} ${decision.model.sha256.slice(0, 12)}`, decision.milliseconds,
    ];
  });
  return [header, ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

// Quoted by RFC 4180. An apostrophe goes before text that a spreadsheet would run as a formula: file names are not ours.
function cell(value) {
  const text = String(value);
  const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
