// One thing to read, as elements of the page. Whatever comes from a model or a person is set as text (textContent), never as markup.
"use strict";

const LONG = 20000; // characters of a text before the rest is folded away

// -- making elements ------------------------------------------------------------------------------------------------------

function el(name, given = {}, ...inside) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(given)) {
    if (value === undefined || value === null || value === false) continue;
    if (key === "class") node.className = value;
    else if (key === "on") for (const [event, done] of Object.entries(value)) node.addEventListener(event, done);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...inside.filter((one) => one !== null && one !== undefined && one !== ""));
  return node;
}

const counted = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;
const number = (value, digits = 2) => (typeof value === "number" ? String(Number(value.toFixed(digits))) : "–");

function said(text, cls = "said") {
  // A text as it was said: its own direction, its own lines; the rest of a very long one on demand.
  const whole = String(text ?? "");
  const node = el("div", { class: cls, dir: "auto" }, marked(whole.slice(0, LONG)));
  if (whole.length > LONG) {
    const more = el("button", { type: "button" }, `show all ${whole.length.toLocaleString("en")} characters`);
    more.addEventListener("click", () => node.replaceChildren(marked(whole)));
    node.append(" … ", more);
  }
  return node;
}

function marked(text) {
  // The text with the searched words marked.
  const words = state.words;
  if (!words || text.length > LONG) return document.createTextNode(text);
  const part = document.createDocumentFragment();
  const low = text.toLowerCase();
  let from = 0;
  for (let at = low.indexOf(words); at >= 0 && low.length === text.length; at = low.indexOf(words, from)) {
    part.append(text.slice(from, at), el("mark", {}, text.slice(at, at + words.length)));
    from = at + words.length;
  }
  part.append(text.slice(from));
  return part;
}

function folded(title, ...inside) {
  return el("details", {}, el("summary", {}, title), ...inside);
}

// -- one thing to read ------------------------------------------------------------------------------------------------------

const seats = ["a", "b"]; // and others in the order in which they are met: each has its side and its colour
function side(who) {
  if (!seats.includes(who)) seats.push(who);
  return seats.indexOf(who) % 6;
}

function link(talk, beside) {
  const one = (t) => `${t.run}/${encodeURIComponent(t.id)}`;
  return `#read/${one(talk)}${beside ? `/with/${one(beside)}` : ""}`;
}

function bubble(turn, place, talk, data) {
  const facts = [turn.tokens ? counted(turn.tokens, "token") : "", turn.cut ? "cut by the token limit" : "", turn.note || "",
    turn.altered ? `altered: ${turn.altered}` : "", turn.truth !== undefined ? `truth ${number(turn.truth)}` : "", turn.score !== undefined ? `score ${number(turn.score, 3)}` : ""].filter(Boolean).join(" · ");
  const head = el("div", { class: "who" }, turn.by || !turn.of ? el("b", {}, turn.by || "?") : "", turn.of ? ` ${turn.of}` : "", facts ? el("span", { class: "facts" }, facts) : "");
  const node = el("li", { class: `turn s${side(turn.by)}${turn.right ? " right" : ""}` }, head);
  if (turn.thinking) node.append(folded("what it thought first", said(turn.thinking, "said thought")));
  if (turn.shades) node.append(shaded(turn.shades));
  else if (!turn.open) node.append(turn.text.trim() ? said(turn.text) : el("div", { class: "said none" }, "(nothing)"));
  if (turn.beyond) node.append(folded("what it said in the partner's name, cut off", said(turn.beyond, "said thought")));
  if (turn.outcome !== undefined) {
    const won = turn.outcome > 0.5 ? "better than the base" : turn.outcome < 0.5 ? "worse than the base" : "a tie with the base";
    node.append(el("div", { class: "facts" }, `${won}${turn.rating !== undefined ? `; rated ${number(turn.rating)}, the base ${number(turn.rating_base)}` : ""}`));
  }
  if (turn.verdicts) node.append(folded("what the judges answered", el("ul", {}, ...turn.verdicts.map((v) =>
    el("li", {}, `${v.judge}, ${v.first} shown first: ${v.verdict ?? "no answer"} `, v.problem ? el("em", {}, v.problem) : "", said(v.raw || "", "raw"))))));
  if (turn.problem) node.append(el("div", { class: "problem" }, turn.problem));
  const own = (data.ratings || []).filter((one) => one.turn === place && !one.candidate);
  if (own.length) node.append(folded(`${counted(own.length, "rating")} of this turn`, ratingTable(own), replies(own)));
  if (turn.candidates) node.append(candidates(turn, data));
  return node;
}

function shaded(tokens) {
  // Each token with how likely it was to the model; the likelihood is also told, to those who cannot see the shade.
  const node = el("div", { class: "said shaded", dir: "auto" });
  for (const [text, probability, rank] of tokens) {
    const level = probability === null ? 0 : Math.min(5, Math.floor(-Math.log10(Math.max(probability, 1e-5)) * 1.25));
    node.append(el("span", { class: `p${level}`, title: probability === null ? "no probability" : `${(100 * probability).toPrecision(3)} %, rank ${rank}` }, text));
  }
  return el("div", {}, node, el("div", { class: "facts" }, "The stronger the shade, the less likely the word was to the model; each says how likely."));
}

function candidates(turn, data) {
  const list = [...turn.candidates].sort((one, two) => (two.score ?? -Infinity) - (one.score ?? -Infinity));
  const scores = list.map((one) => one.score).filter((one) => one !== undefined);
  const title = `${list.length} candidates for this turn` + (scores.length > 1 ? `, scores ${number(scores.at(-1), 3)} to ${number(scores[0], 3)}` : "");
  const inside = list.map((one) => {
    const of = (records) => (records || []).filter((record) => record.candidate === one.id);
    const reward = of(data.rewards);
    const parts = [one.score === undefined ? "no score" : `score ${number(one.score, 3)}`, one.paired ? `${one.paired} of the pair` : "", one.taken ? "the dialogue went on with this one" : "",
      one.tokens ? counted(one.tokens, "token") : "", one.cut ? "cut" : "", one.altered ? `altered: ${one.altered}` : "", one.problem || ""].filter(Boolean).join(" · ");
    const how = reward.map((r) => el("div", { class: "facts" }, `${r.judge}: reward ${number(r.value, 3)}`
      + (r.rating !== undefined ? `, of rating ${number(r.rating)}` : "") + (r.wim !== undefined ? ` and WIM ${number(r.wim)}` : "") + (r.problem ? ` (${r.problem})` : "")));
    const more = [...of(data.ratings).length ? [ratingTable(of(data.ratings)), replies(of(data.ratings))] : [], missing(of(data.wim))];
    return el("li", { class: one.taken ? "taken" : "" }, el("div", { class: "facts" }, parts), one.shades ? shaded(one.shades) : said(one.text),
      how.length || of(data.ratings).length || of(data.wim).length ? folded("how this came about", ...how, ...more) : "");
  });
  return el("details", { class: turn.open ? "candidates begun" : "candidates", open: Boolean(turn.open) }, el("summary", {}, title), el("ol", {}, ...inside));
}

function ratingTable(ratings) {
  // Categories down, "who by whom" across; the other way round where those are many.
  const ways = [...new Set(ratings.map(way))];
  const rows = [...new Set(ratings.map((one) => one.category))];
  const cell = (row, across) => {
    const one = ratings.find((rating) => rating.category === row && way(rating) === across);
    if (!one) return el("td", {}, "");
    const value = one.choice ?? (one.number === null ? "–" : number(one.number));
    return el("td", { class: "n", title: one.problem || (one.mass !== undefined ? `probability on the answers ${number(one.mass)}` : null) }, value);
  };
  const turned = ways.length > 4 && ways.length > rows.length;
  const [down, across, corner] = turned ? [ways, rows, "judge"] : [rows, ways, "category"];
  const head = el("tr", {}, el("th", { scope: "col" }, corner), ...across.map((one) => el("th", { scope: "col", class: "n" }, one)));
  const lines = down.map((one) => el("tr", {}, el("th", { scope: "row", class: one.length > 14 ? "some" : null }, one), ...across.map((other) => turned ? cell(other, one) : cell(one, other))));
  return el("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "ratings" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...lines)));
}

function way(one) {
  const which = one.way ? one.way : one.order ? `${one.judge}, ${one.order === "second" ? "2 shown before 1" : "1 shown before 2"}` : one.subject ? `${one.subject} by ${one.judge}` : `${one.judge}, text ${(one.place ?? 0) + 1}`;
  return one.repeat ? `${which}, again ${one.repeat}` : which;
}

function replies(ratings) {
  const told = ratings.filter((one) => one.raw || one.problem);
  if (!told.length) return "";
  const lacking = told.filter((one) => one.problem).length;
  return folded(`what the judges answered, as it came${lacking ? `; ${lacking} without a number` : ""}`, el("ul", { class: "raws" },
    ...told.map((one) => el("li", {}, el("b", {}, `${one.category}, ${way(one)}: `), one.problem ? el("em", { class: "problem" }, one.problem) : "", said(one.raw || "", "raw")))));
}

function missing(list) {
  if (!list.length) return "";
  return el("ul", { class: "missing" }, ...list.map((one) => el("li", {},
    el("div", { class: "facts" }, `what ${one.judge} misses in ${one.subject}: cosine ${number(one.cosine)}${one.empty ? ", nothing is missing" : ""}`),
    one.problem ? el("div", { class: "problem" }, one.problem) : "", one.text ? said(one.text) : "",
    one.analysis ? folded("its analysis", said(one.analysis, "raw")) : "")));
}

function ending(talk) {
  if (talk.kind === "history") return talk.end ? `the last policy's reply ${talk.end === "tied" ? "tied with" : `${talk.end} against`} the base's` : "";
  return talk.end ? `ended: ${talk.end.replace("_", " ")}` : "";
}

function above(branch) {
  // The dialogue that another one goes on from, as a link where this report has it.
  const name = `${branch.name}, ${branch.id}`;
  const talk = branch.run === null ? undefined : state.all.find((one) => one.run === branch.run && one.id === branch.id);
  return talk ? el("a", { href: link(talk) }, name) : name;
}

function article(talk, data) {
  const whole = (records) => (records || []).filter((one) => one.turn === undefined && !one.candidate);
  const facts = [about.runs.length > 1 ? about.runs[talk.run] : "", talk.kind === "history" ? "held-out history" : talk.kind, talk.id, data.seed !== undefined && data.seed !== null ? `seed ${data.seed}` : "",
    ending(talk), counted(talk.turns, "turn"), counted(talk.tokens, "token")].filter(Boolean).join(" · ");
  const models = Object.entries(data.experts || {}).map(([who, model]) => `${who}: ${model}`).join(" · ");
  const node = el("article", { class: "talk" }, el("h3", { tabindex: "-1", dir: "auto" }, talk.topic || talk.id), el("p", { class: "facts" }, facts),
    models ? el("p", { class: "facts" }, models) : "");
  for (const who of [...Object.keys(data.experts || {}), ...data.turns.map((turn) => turn.by)]) side(who);
  if (data.branch) node.append(el("p", { class: "facts" }, "goes on from ", above(data.branch), `, after its turn ${data.branch.turns - 1}${data.branch.edited ? ", which is edited" : ""}`));
  node.append(el("ol", { class: "turns" }, ...data.turns.flatMap((turn, place) => [
    data.branch && place === data.branch.turns ? el("li", { class: "from-here" }, `from here on otherwise than ${data.branch.name}`) : "", bubble(turn, place, talk, data)]).filter(Boolean)));
  if (data.replies) node.append(el("h4", {}, data.heading ?? "Replies to this history"),
    el("ol", { class: "turns beside" }, ...data.replies.map((turn) => bubble(turn, -1, talk, data))));
  if (data.source) node.append(el("p", { class: "facts" }, `from ${data.source}`));
  if (data.label !== undefined) node.append(el("p", { class: "facts" }, `label: ${data.label}`));
  if (data.chosen) node.append(el("p", { class: "facts" }, data.chosen.problem ?? `chosen of the first N: ${data.chosen.sizes.map((n, i) =>
    `${n}: ${data.chosen.chosen[i] === null ? "none" : `candidate ${data.chosen.chosen[i]}`}`).join(", ")}`));
  const ratings = whole(data.ratings), wim = whole(data.wim), rewards = whole(data.rewards);
  if (ratings.length) node.append(el("h4", {}, data.rated ?? "Ratings"), ratingTable(ratings), replies(ratings));
  if (rewards.length) node.append(el("p", { class: "facts" }, "rewards: " + rewards.map((one) => `${one.subject} by ${one.judge} ${number(one.value, 3)}`).join(" · ")));
  if (wim.length) node.append(el("h4", {}, "What is missing"), missing(wim));
  return node;
}
