// The reader of a report's transcripts. Whatever comes from a model or a person is set as text (textContent), never as markup.
"use strict";

const PAGE = 50; // lines of the list at once
const LONG = 20000; // characters of a text before the rest is folded away
const $ = (id) => document.getElementById(id);
const FIELDS = ["run", "id", "kind", "topic", "end", "flags", "turns", "tokens", "mean", "apart", "snippet", "above", "block", "place"];
const state = { all: [], found: [], shown: PAGE, order: "", words: "", search: 0, open: null, beside: null, texts: new Map() };
let about = {};

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

// -- unpacking ------------------------------------------------------------------------------------------------------------

async function unpacked(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const blocks = new Map(); // those unpacked last

async function block(number) {
  if (!blocks.has(number)) {
    if (blocks.size > 8) blocks.delete(blocks.keys().next().value);
    blocks.set(number, unpacked(`block-${number}`));
  }
  return blocks.get(number);
}

const body = async (talk) => (await block(talk.block))[talk.place];

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
  return el("details", { class: "candidates", open: Boolean(turn.open) }, el("summary", {}, title), el("ol", {}, ...inside));
}

function ratingTable(ratings) {
  // Categories down, "who by whom" across.
  const ways = [...new Set(ratings.map(way))];
  const rows = [...new Set(ratings.map((one) => one.category))];
  const cell = (row, across) => {
    const one = ratings.find((rating) => rating.category === row && way(rating) === across);
    if (!one) return el("td", {}, "");
    const value = one.choice ?? (one.number === null ? "–" : number(one.number));
    return el("td", { class: "n", title: one.problem || (one.mass !== undefined ? `probability on the answers ${number(one.mass)}` : null) }, value);
  };
  const head = el("tr", {}, el("th", { scope: "col" }, "category"), ...ways.map((one) => el("th", { scope: "col", class: "n" }, one)));
  const lines = rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row), ...ways.map((one) => cell(row, one))));
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

async function read(talk, beside) {
  state.open = talk;
  state.beside = beside || null;
  const both = beside ? [talk, beside] : [talk];
  const nodes = await Promise.all(both.map(async (one) => article(one, await body(one))));
  if (state.open !== talk || state.beside !== (beside || null)) return; // another one was opened meanwhile
  const place = state.found.indexOf(talk);
  const step = (by, name) => {
    const other = state.found[place + by];
    return el("a", { class: "button", href: other ? link(other) : null, "aria-disabled": other ? null : "true", rel: by < 0 ? "prev" : "next" }, name);
  };
  // The same in other runs; a held-out history only where it begins with the same words (another seed has others).
  const name = (one) => `${one.run}/${one.id}`;
  const kin = (one) => one.above === name(talk) || talk.above === name(one);
  const alike = (one) => one.id === talk.id && one.kind === talk.kind && one.topic === talk.topic && (one.kind !== "history" || one.snippet === talk.snippet);
  const twins = state.all.filter((one) => one !== talk && (kin(one) || alike(one))).sort((one, two) => kin(two) - kin(one));
  const tools = el("div", { class: "tools" }, el("a", { class: "button back", href: "#transcripts" }, "list"), step(-1, "← previous"), step(1, "next →"),
    beside ? el("a", { class: "button", href: link(talk) }, "one alone") : el("button", { type: "button", "aria-pressed": String(state.held === talk), on: { click: () => hold(talk) } },
      state.held === talk ? "held: open another to compare" : "compare with …"),
    ...beside ? [] : twins.slice(0, 6).map((one) => el("a", { class: "button", href: link(talk, one) }, `beside ${about.runs[one.run]}`)));
  $("reader").replaceChildren(tools, el("div", { class: beside ? "pair" : "" }, ...nodes));
  document.body.classList.add("reading");
  for (const row of document.querySelectorAll("#list tr[aria-current]")) row.removeAttribute("aria-current");
  document.querySelector(`#list tr[data-n="${talk.n}"]`)?.setAttribute("aria-current", "true");
  return nodes[0];
}

function hold(talk) {
  state.held = state.held === talk ? null : talk;
  read(talk).then(() => $("reader").querySelector("[aria-pressed]")?.focus());
  draw();
}

// -- the list -----------------------------------------------------------------------------------------------------------------

const ORDERS = {
  "": null,
  apart: (one, two) => (two.apart ?? -1) - (one.apart ?? -1),
  worst: (one, two) => (one.mean ?? 99) - (two.mean ?? 99),
  best: (one, two) => (two.mean ?? -1) - (one.mean ?? -1),
  long: (one, two) => two.tokens - one.tokens,
  random: null,
};

function matches(talk) {
  const f = $("find").elements;
  const least = f.least.valueAsNumber, most = f.most.valueAsNumber;
  return (!f.run.value || talk.run === Number(f.run.value)) && (!f.kind.value || talk.kind === f.kind.value) && (!f.topic.value || talk.topic === f.topic.value)
    && (!f.end.value || talk.end === f.end.value) && (!f.flag.value || talk.flags.includes(f.flag.value))
    && (Number.isNaN(least) || (talk.mean ?? -1) >= least) && (Number.isNaN(most) || (talk.mean ?? 99) <= most);
}

async function find() {
  // Filter and order; then look for the words, in lists at once and in the texts block by block.
  const mine = ++state.search;
  const f = $("find").elements;
  state.words = f.words.value.trim().toLowerCase();
  state.shown = PAGE;
  let found = state.all.filter(matches);
  if (f.order.value === "random") found = found.map((talk) => [Math.random(), talk]).sort((one, two) => one[0] - two[0]).map((pair) => pair[1]);
  else if (ORDERS[f.order.value]) found = [...found].sort(ORDERS[f.order.value]);
  if (!state.words) {
    state.found = found;
    draw();
    return;
  }
  state.found = [];
  const inside = (talk, said) => [talk.topic, talk.id, ...said.flat(4)].filter(Boolean).join("\n").toLowerCase().includes(state.words);
  for (let i = 0, pause = performance.now(); i < found.length; i++) {
    const data = await body(found[i]);
    if (mine !== state.search) return; // other words were given meanwhile
    if (inside(found[i], texts(data))) state.found.push(found[i]);
    if (performance.now() - pause > 100) {
      draw(`searching: ${i + 1} of ${found.length}, `);
      await new Promise((done) => setTimeout(done));
      pause = performance.now();
    }
  }
  draw();
}

const texts = (data) => [...data.turns, ...(data.replies || [])].map((turn) => [turn.text, turn.thinking, (turn.candidates || []).map((one) => one.text)])
  .concat((data.wim || []).map((one) => [one.text, one.analysis]), (data.ratings || []).map((one) => [one.raw, one.problem]));

function row(talk) {
  const marks = [...talk.flags, ...(talk.end && talk.end !== "turns" && !talk.flags.includes(talk.end) ? [talk.end.replace("_", " ")] : [])];
  const flags = marks.flatMap((flag) => [" ", el("span", { class: `flag ${flag}` }, flag)]);
  return el("tr", { "data-n": talk.n, "aria-current": talk === state.open },
    el("th", { scope: "row" }, el("a", { href: state.held && state.held !== talk ? link(state.held, talk) : link(talk), dir: "auto" }, talk.topic || talk.id), ...flags,
      el("span", { class: "snippet", dir: "auto" }, talk.snippet), el("span", { class: "facts" }, `${about.runs.length > 1 ? about.runs[talk.run] + " · " : ""}${talk.id}`)),
    el("td", { class: "n" }, number(talk.mean, 1)), el("td", { class: "n" }, number(talk.apart, 1)), el("td", { class: "n" }, String(talk.turns)));
}

function draw(before = "") {
  const many = state.found.length;
  $("list").replaceChildren(...state.found.slice(0, state.shown).map(row));
  $("more").hidden = many <= state.shown;
  $("more").textContent = `show ${Math.min(PAGE, many - state.shown)} more of ${(many - state.shown).toLocaleString("en")}`;
  tell(before);
}

function tell(before = "") {
  const many = state.found.length.toLocaleString("en"), all = state.all.length.toLocaleString("en");
  $("count").textContent = `${before}${many === all ? all : `${many} of ${all}`} to read${state.held ? `; ${state.held.topic} is held: open another to compare` : ""}.`;
}

function choices(select, values) {
  for (const value of values) select.append(el("option", { value }, String(about.names?.[value] ?? value)));
  select.closest("label").hidden = select.options.length < 3;
}

// -- where one is -----------------------------------------------------------------------------------------------------------

function named(run, id) {
  let name;
  try {
    name = decodeURIComponent(id);
  } catch {
    return undefined; // a link that was torn
  }
  return state.all.find((talk) => talk.run === Number(run) && talk.id === name);
}

async function go() {
  const found = /^#read\/(\d+)\/([^/]+)(?:\/with\/(\d+)\/([^/]+))?$/.exec(location.hash);
  if (!found) {
    if (location.hash === "#transcripts") document.body.classList.remove("reading");
    return;
  }
  const talk = named(found[1], found[2]);
  if (!talk) {
    const elsewhere = about.files.length > 1 ? " It may be in another of the report's files." : "";
    $("reader").replaceChildren(el("p", { role: "alert" }, `Nothing here is called ${location.hash.slice(6)}.${elsewhere}`));
    return;
  }
  const beside = found[3] ? named(found[3], found[4]) : undefined;
  if (beside) state.held = null;
  const node = await read(talk, beside);
  if (beside) draw();
  if (node) {
    node.querySelector("h3").focus({ preventScroll: true });
    $("reader").scrollIntoView({ block: "nearest" });
    if ($("reader").getBoundingClientRect().top < 0) $("reader").scrollIntoView();
  }
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === $("find").elements.words) event.target.blur();
  if (event.target.closest("input, select, textarea")) return;
  const to = { j: 1, k: -1 }[event.key];
  if (to && state.found.length) {
    const next = state.found[state.found.indexOf(state.open) + to] ?? (state.open ? null : state.found[0]);
    if (next) location.hash = link(next);
  } else if (event.key === "/") {
    event.preventDefault();
    $("find").elements.words.focus();
  }
}

async function begin() {
  about = JSON.parse($("about").textContent);
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", () => navigator.clipboard.writeText($(button.dataset.copy).innerText).then(() => (button.textContent = "copied")));
  }
  if (about.again) again(about.again);
  addEventListener("beforeprint", () => document.querySelectorAll("details.more").forEach((one) => (one.open = true)));
  if (!$("reader")) return;
  if (typeof DecompressionStream === "undefined") {
    $("count").textContent = "This browser is too old to unpack the transcripts; any of the last three years can.";
    return;
  }
  const lines = await unpacked("index");
  state.all = state.found = lines.map((line, n) => ({ n, ...Object.fromEntries(FIELDS.map((name, i) => [name, line[i]])) }));
  const f = $("find").elements;
  const some = (key) => [...new Set(state.all.map((talk) => talk[key]))].filter((one) => one !== "").sort();
  about.names = about.runs;
  choices(f.run, about.runs.length > 1 ? about.runs.keys() : []);
  about.names = null;
  for (const key of ["kind", "topic", "end"]) choices(f[key], some(key));
  document.body.classList.toggle("unrated", !state.all.some((talk) => talk.mean !== null));
  choices(f.flag, [...new Set(state.all.flatMap((talk) => talk.flags))].sort());
  $("find").hidden = false;
  let waiting = 0;
  $("find").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(find, event.target === f.words ? 200 : 0);
  });
  $("find").addEventListener("submit", (event) => event.preventDefault());
  $("find").addEventListener("reset", () => setTimeout(find));
  $("more").addEventListener("click", () => {
    state.shown += PAGE;
    draw();
  });
  addEventListener("hashchange", go);
  addEventListener("keydown", keys);
  draw();
  await go();
  if (!state.open && state.all.length && matchMedia("(min-width: 70rem)").matches) {
    const first = [...state.all].sort(ORDERS.apart)[0]; // one to begin with: where the judges are furthest apart
    await read(first);
  }
  document.body.classList.add("ready");
}

function again(seconds) {
  // A run that goes on is written again: look again, but not while somebody reads or looks for something.
  setTimeout(() => {
    const idle = !document.body.classList.contains("reading") && !document.querySelector("details[open], :focus");
    if (idle && !document.hidden) location.reload();
    else again(seconds);
  }, 1000 * seconds);
}

begin();
