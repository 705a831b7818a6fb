"use strict";
// The status page.  What comes from servers and senders is put in as text, and nowhere else.

const SVG = "http://www.w3.org/2000/svg";
const KEPT = 450; // samples
const RATES = ["accepted", "delivered", "deferred", "failed"];
const TIMES = ["median", "slow"];
const NAMES = { median: "half within", slow: "95 % within" };
const VERBS = { hold: "Hold", release: "Release", retry: "Try now", bounce: "Give up, tell the sender", remove: "Remove, tell nobody" };
const GRAVE = { bounce: "The senders get a bounce, and the message is gone.", remove: "Nobody is told, and the message is gone." };

const samples = Object.fromEntries([...RATES, ...TIMES, "at", "connections"].map((name) => [name, []]));
let beat = 2;
let token = sessionStorage.getItem("token") || "";
let heard = 0; // when something was heard last

const $ = (id) => document.getElementById(id);

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  return element;
}

function show(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function rows(table, heads, lines) {
  const head = make("tr");
  for (const [text, kind] of heads) head.append(make("th", text, { className: kind || "", scope: "col" }));
  const body = make("tbody");
  for (const line of lines) {
    const row = make("tr");
    line.forEach((cell, number) => {
      const td = make("td", undefined, { className: heads[number][1] || "" });
      td.append(cell instanceof Node ? cell : String(cell ?? ""));
      row.append(td);
    });
    body.append(row);
  }
  const top = make("thead");
  top.append(head);
  table.replaceChildren(top, body);
}

// numbers

const whole = new Intl.NumberFormat("en");
const rate = (value) => (value >= 100 ? whole.format(Math.round(value)) : value >= 10 ? value.toFixed(1) : value.toFixed(value ? 2 : 0));

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${Number(seconds.toPrecision(3))} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} d`;
}

function octets(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${count >= 10 || !unit ? Math.round(count) : count.toFixed(1)} ${units[unit]}`;
}

const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });

// charts

function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

function draw(id, names, words) {
  const holder = $(id);
  const width = Math.max(holder.clientWidth, 200), height = 150, left = 44, bottom = 16, top = 8;
  const values = names.flatMap((name) => samples[name]).filter((value) => value !== null);
  const most = ceiling(Math.max(...values, id === "flow" ? 1 : 0.1));
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-hidden", "true");
  const x = (number, count) => left + ((KEPT - count + number) / (KEPT - 1)) * (width - left);
  const y = (value) => top + (1 - value / most) * (height - top - bottom);
  for (const part of [0, 0.5, 1]) {
    const line = document.createElementNS(SVG, "line");
    line.setAttribute("class", "grid");
    for (const [name, value] of [["x1", left], ["x2", width], ["y1", y(part * most)], ["y2", y(part * most)]]) line.setAttribute(name, value);
    svg.append(line, label(left - 4, y(part * most) + 4, words(part * most), "end"));
  }
  const minutes = (KEPT * beat) / 60;
  for (const ago of [minutes, (minutes * 2) / 3, minutes / 3]) svg.append(label(left + (1 - ago / minutes) * (width - left), height - 3, `−${Math.round(ago)} min`, ago === minutes ? "start" : "middle"));
  svg.append(label(width, height - 3, "now", "end"));
  for (const name of names) {
    const path = document.createElementNS(SVG, "path");
    let d = "", open = false;
    samples[name].forEach((value, number) => {
      if (value === null) { open = false; return; }
      d += `${open ? "L" : "M"}${x(number, samples[name].length).toFixed(1)} ${y(value).toFixed(1)}`;
      if (!open && (samples[name][number + 1] ?? null) === null) d += "h2";
      open = true;
    });
    path.setAttribute("d", d || "M0 0");
    path.setAttribute("class", `s-${name}`);
    svg.append(path);
  }
  holder.replaceChildren(svg);
  const legend = $(`${id}-legend`);
  const told = names.map((name) => {
    const last = samples[name].at(-1) ?? null;
    return [name, `${NAMES[name] || name} `, last === null ? "–" : words(last)];
  });
  if (legend.children.length !== names.length) {
    legend.replaceChildren(...told.map(([name, text]) => { const item = make("li", text, { className: `s-${name}` }); item.append(make("span")); return item; }));
  }
  told.forEach(([, , value], number) => show(legend.children[number].lastChild, value));
  holder.setAttribute("aria-label", `${id === "flow" ? "A second" : "From arrival to delivery"}, at the last: ${told.map(([, text, value]) => text + value).join(", ")}`);
}

function label(x, y, text, anchor) {
  const element = document.createElementNS(SVG, "text");
  element.setAttribute("x", x);
  element.setAttribute("y", y);
  element.setAttribute("text-anchor", anchor);
  element.textContent = text;
  return element;
}

// what is shown

function verdict(now) {
  const box = $("verdict");
  box.dataset.state = now.why.length ? "bad" : "good";
  show($("verdict-title"), now.why.length ? "Mail does not flow as it should" : "Mail flows");
  const why = now.why.join("\n");
  if (box.dataset.why !== why) {
    box.dataset.why = why;
    $("verdict-why").replaceChildren(...now.why.map((reason) => make("li", reason)));
  }
  document.title = now.why.length ? "relayd: trouble" : `relayd: ${rate(now.sample ? now.sample.delivered : 0)}/s`;
}

function tiles(now) {
  const waiting = now.queue ? now.queue.total : {};
  const sum = Object.values(waiting).reduce((one, other) => one + other, 0);
  const figures = [
    ["delivered a second", now.sample ? rate(now.sample.delivered) : "–"],
    ["recipients waiting", now.queue ? whole.format(sum) : "–"],
    ["of them deferred", now.queue ? whole.format(waiting.deferred || 0) : "–"],
    ["held", now.queue ? whole.format(waiting.held || 0) : "–"],
    [`connections, of ${whole.format(now.connections_max)}`, whole.format(now.connections)],
    ["sites out of reach", whole.format(now.sites_backing_off)],
    ["longest due, not tried", span(now.oldest_due)],
    ["room on the disk", octets(now.free_octets)],
  ];
  const box = $("tiles");
  if (!box.children.length) box.replaceChildren(...figures.map(() => { const tile = make("div", undefined, { className: "tile" }); tile.append(make("b"), make("span")); return tile; }));
  figures.forEach(([name, value], number) => { show(box.children[number].firstChild, value); show(box.children[number].lastChild, name); });
}

function ages(now) {
  const queue = now.queue;
  show($("ages-note"), queue ? `recipients, counted ${span(queue.age)} ago` : "not counted yet");
  if (!queue) return;
  const kinds = Object.keys(queue.counts);
  const totals = queue.ages.map((_, number) => kinds.reduce((sum, kind) => sum + queue.counts[kind][number], 0));
  const most = Math.max(...totals, 1);
  rows($("ages"), [["younger than"], ["", "bars"], ["all", "n"], ...kinds.map((kind) => [kind, "n"])], queue.ages.map((age, number) => {
    const bar = make("span", undefined, { className: "bar" });
    bar.style.width = `${(100 * totals[number]) / most}%`;
    if (!totals[number]) bar.style.visibility = "hidden";
    return [age === "older" ? "older" : span(age * 60), bar, whole.format(totals[number]), ...kinds.map((kind) => whole.format(queue.counts[kind][number]))];
  }));
}

function sites(now) {
  const shown = now.sites.filter((site) => site.site !== "other" || site.connections || site.back_off);
  show($("sites-note"), now.sites_known > shown.length ? `those with most to do, of ${whole.format(now.sites_known)}` : "");
  rows($("sites"), [["site", "name"], ["connections", "n"], ["tried again in", "n"], ["what it said", "wide"]], shown.map((site) => [
    site.site === "other" ? "all others" : ask(site.site.split(":")[0].split(";")[0], site.site),
    `${site.connections} of ${site.window}`,
    site.back_off ? `${span(site.back_off)}${site.failures > 1 ? ` (${site.failures}×)` : ""}` : "",
    site.reason,
  ]));
}

function setbacks(now) {
  rows($("setbacks"), [["at"], ["who", "name"], ["what"], ["said", "wide"]], now.setbacks.map((each) => [
    each.at ? clock(each.at) : "", ask(each.id || each.who, each.who), each.status, each.host ? `${each.host}: ${each.reply}` : each.reply,
  ]));
}

function ask(subject, text) {
  const button = make("button", text, { className: "link", type: "button" });
  button.addEventListener("click", () => { $("search").value = subject; explain(subject); });
  return button;
}

function now(state) {
  beat = state.beat;
  show($("version"), state.version);
  if (state.sample && state.sample.at !== samples.at.at(-1)) {
    for (const name of Object.keys(samples)) {
      samples[name].push(state.sample[name]);
      if (samples[name].length > KEPT) samples[name].shift();
    }
  }
  verdict(state);
  tiles(state);
  ages(state);
  keepingFocus(() => { sites(state); setbacks(state); });
  draw("flow", RATES, rate);
  draw("latency", TIMES, span);
}

function keepingFocus(change) {
  // Tables are made anew: who stands on a button of one by keyboard stays on the same.
  const active = document.activeElement;
  const table = active && active.closest && active.closest("table");
  const mark = table && active.textContent;
  change();
  if (table) [...table.querySelectorAll("button")].find((each) => each.textContent === mark)?.focus();
}

// what is asked

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function asked(path) {
  const answer = await fetch(path, { headers: headers(), cache: "no-store" });
  if (answer.status === 401) { askForToken(); throw new Error("The token is needed."); }
  const text = await answer.text();
  let said;
  try { said = JSON.parse(text); } catch { said = { error: text.trim() }; }
  if (!answer.ok) throw new Error(said.error || `The server answers ${answer.status}.`);
  return said;
}

async function explain(subject) {
  const box = $("answer");
  box.hidden = false;
  box.replaceChildren(make("p", "Looking…"));
  const query = encodeURIComponent(subject);
  const isMessage = subject.includes("@") || /^[0-9A-Z]{20}$/.test(subject);
  const [why, past] = await Promise.allSettled([asked(`/api/explain?subject=${query}`), isMessage ? asked(`/api/history?subject=${query}&limit=5`) : Promise.resolve([])]);
  const parts = [];
  if (why.status === "fulfilled") parts.push(...explained(why.value));
  else parts.push(make("p", why.reason.message, { className: "said" }));
  if (past.status === "fulfilled") for (const message of past.value) parts.push(...timeline(message));
  box.replaceChildren(...parts);
  box.focus();
}

function explained(said) {
  const parts = [];
  if (said.message && said.message.finished) parts.push(make("p", `${said.message.id} is finished: it waits for nothing.`, { className: "said" }));
  if (said.kind === "domain" && said.message) parts.push(make("p", `Of what waits there ${said.message.id} goes first.`));
  for (const each of said.explanations) {
    parts.push(make("h3", `${each.destination}, ${each.site ? `at the site ${each.site}` : "at a site that is not known yet"}`));
    const blocking = each.gates.find((gate) => gate.gate === each.blocked_by);
    const left = each.until ? `, until ${clock(each.until)} (${span((new Date(each.until) - new Date(said.at)) / 1000)} from then)` : "";
    parts.push(make("p", blocking ? `Waits for: ${blocking.gate}${left}. ${blocking.why}` : "Nothing keeps it waiting.", { className: "said" }));
    const list = make("ul", undefined, { className: "gates" });
    for (const gate of each.gates) {
      const item = make("li");
      item.dataset.open = gate.open;
      item.dataset.blocks = gate === blocking;
      item.append(make("b", gate.open ? "open" : "closed"), make("span", gate.gate), make("span", gate.why));
      list.append(item);
    }
    parts.push(list);
  }
  if (said.message && !said.message.finished && said.kind !== "domain") parts.push(verbs(said.message));
  return parts;
}

function timeline(message) {
  const parts = [make("h3", `${message.id}, from ${message.sender || "<>"}, arrived ${new Date(message.arrived).toLocaleString([], { hour12: false })}`)];
  for (const one of message.recipients) {
    const table = make("table");
    table.setAttribute("aria-label", `Attempts for ${one.address}`);
    parts.push(make("p", `${one.address}: ${one.status}${one.attempts ? `, ${one.attempts} attempt${one.attempts === 1 ? "" : "s"}` : ""}${one.due ? `, due ${clock(one.due)}` : ""}${one.possible_duplicate ? ", possible duplicate" : ""}`));
    if (one.timeline.length) {
      rows(table, [["at"], ["what"], ["host", "wide"], ["TLS"], ["took", "n"], ["said", "wide"]], one.timeline.map((each) => [clock(each.at), each.status, each.host || "no connection", each.tls, span(each.seconds), each.reply]));
      const box = make("div", undefined, { className: "scroll", tabIndex: 0, role: "region" });
      box.setAttribute("aria-label", `Attempts for ${one.address}`);
      box.append(table);
      parts.push(box);
    }
  }
  for (const transcript of message.transcripts) {
    const details = make("details");
    const marks = { we: ">", server: "<", nobody: "*" };
    const text = transcript.lines.map((line) => line.text.split("\n").map((part) => `${line.after.toFixed(3).padStart(8)} ${marks[line.speaker]} ${part}`).join("\n")).join("\n");
    details.append(make("summary", `What was said up to ${clock(transcript.at)}`), make("pre", text, { tabIndex: 0 }));
    parts.push(details);
  }
  return parts;
}

// what is done

function verbs(message) {
  const row = make("div", undefined, { className: "row" });
  if (!token) return row;
  for (const [verb, words] of Object.entries(VERBS)) {
    if ((verb === "hold") === message.held && (verb === "hold" || verb === "release")) continue;
    const button = make("button", words, { type: "button" });
    button.addEventListener("click", () => act(verb, words, message.id));
    row.append(button);
  }
  return row;
}

async function act(verb, words, id) {
  if (GRAVE[verb] && !(await sure(`${words}?`, `${id}: ${GRAVE[verb]}`))) return;
  try {
    const answer = await fetch(`/api/queue/${verb}`, { method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify({ ids: [id] }) });
    if (!answer.ok) throw new Error((await answer.json()).error);
    explain(id);
  } catch (error) {
    $("answer").prepend(make("p", error.message, { className: "said", role: "alert" }));
  }
}

function sure(title, text) {
  show($("ask-title"), title);
  show($("ask-text"), text);
  const dialog = $("ask-dialog");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => done(dialog.returnValue === "yes"), { once: true }));
}

function askForToken() {
  const dialog = $("token-dialog");
  if (!dialog.open) dialog.showModal();
}

// the stream

function state(link) {
  const words = { live: "live", lost: "connection lost: trying again", wait: "connecting" };
  $("link").dataset.state = link;
  show($("link"), words[link]);
}

async function listen() {
  const answer = await fetch("/api/events", { headers: headers(), cache: "no-store" });
  if (answer.status === 401) {
    askForToken();
    await new Promise((done) => $("token-dialog").addEventListener("close", done, { once: true }));
    return;
  }
  if (!answer.ok) throw new Error(`${answer.status}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard = Date.now();
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      take(text.slice(0, end));
      text = text.slice(end + 2);
    }
  }
}

function take(message) {
  const [, name] = /^event: (.*)$/m.exec(message) || [];
  const [, data] = /^data: (.*)$/m.exec(message) || [];
  if (!name) return;
  state("live");
  const said = JSON.parse(data);
  if (name === "past") {
    beat = said.beat;
    for (const each of Object.keys(samples)) samples[each] = said.samples[each];
  } else now(said);
}

async function follow() {
  let rest = 500;
  for (;;) {
    try {
      await listen();
      rest = 500;
    } catch {
      rest = Math.min(rest * 2, 10_000);
    }
    state(document.hidden ? "wait" : "lost");
    await new Promise((done) => setTimeout(done, rest));
  }
}

// who sits before it

$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const subject = $("search").value.trim();
  if (subject) explain(subject);
});

$("token-form").addEventListener("submit", () => {
  token = $("token").value.trim();
  $("token").value = "";
  sessionStorage.setItem("token", token);
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    $("search").focus();
  } else if (event.key === "Escape" && !event.target.closest("dialog") && !$("answer").hidden) {
    $("answer").hidden = true;
    $("search").focus();
  }
});

setInterval(() => { if (heard && Date.now() - heard > 25_000) state("lost"); }, 5000);
follow();
