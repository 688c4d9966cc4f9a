// The reader of a report's transcripts, after talk.js: unpacking, the list, and where one is.

const PAGE = 50; // lines of the list at once
const $ = (id) => document.getElementById(id);
const FIELDS = ["run", "id", "kind", "topic", "end", "flags", "turns", "tokens", "mean", "apart", "snippet", "above", "block", "place"];
const state = { all: [], found: [], shown: PAGE, words: "", search: 0, open: null, beside: null, held: null };
let about = {};

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

// -- reading ---------------------------------------------------------------------------------------------------------------

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
    document.body.classList.remove("reading"); // the list, a section, or the page as it was opened
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
    document.body.classList.remove("reading"); // nobody has chosen it
  }
  document.body.classList.add("ready");
}

function again(seconds) {
  // A run that goes on is written again: look again, but not while somebody reads or looks for something.
  setTimeout(() => {
    const idle = !document.body.classList.contains("reading") && !document.querySelector("details[open]:not(.begun), :focus");
    if (idle && !document.hidden) location.reload();
    else again(seconds);
  }, 1000 * seconds);
}

begin();
