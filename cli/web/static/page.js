// The realm as it changes. What comes from elsewhere is put in place as text alone, never as markup.
import { Change, paintActions } from "./actions.js";
import { paintMesh } from "./pictures.js";
import { Panel } from "./panel.js";
import { ask, bytes, chip, clock, element, order, percent, reasonOf, setText, signIn, tell as post, text, wordsOf } from "./parts.js";

const rows = new Map(); // key -> what the server last said of it
const usage = new Map();
const shown = new Map(); // key -> its element
let state = {};
let begun = false;
let since = new Date();

const place = {
  clusters: document.getElementById("clusters"),
  nodes: document.querySelector("#nodes tbody"),
  events: document.querySelector("#events ol"),
};
const panel = new Panel({ rows, usage });
const change = new Change(rows);
const EVENTS = 200;

// --- elements of objects

function clone(name) {
  return document.getElementById(`${name}-template`).content.firstElementChild.cloneNode(true);
}

// Among those with a key, which come last, in their order.
function insert(parent, made, key) {
  made.dataset.key = key;
  const all = parent.children;
  let low = 0;
  let high = all.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const its = all[middle].dataset.key;
    if (its !== undefined && order(its, key) > 0) high = middle; else low = middle + 1;
  }
  parent.insertBefore(made, all[low] ?? null);
  return made;
}

function find(key, template, parent) {
  let made = shown.get(key);
  if (!made) {
    made = insert(parent, clone(template), key);
    const open = made.querySelector("button.open");
    open.addEventListener("click", () => panel.open(key, open));
    setText(open, key.split("/").at(-1));
    shown.set(key, made);
  }
  return made;
}

function clusterOf(name) {
  return find(`routercluster/${name}`, "cluster", place.clusters);
}

function groupOf(cluster, name) {
  const inside = clusterOf(cluster).querySelector(".groups");
  const made = find(`workergroup/${cluster}/${name}`, "group", inside);
  text(made, "caption", `Workers of ${cluster}/${name}`);
  return made;
}

function elementOf(key, row) {
  switch (row.kind) {
    case "routercluster": return clusterOf(row.name);
    case "workergroup": return groupOf(row.cluster, row.name);
    case "worker": return find(key, "worker", groupOf(row.cluster, row.workergroup ?? "").querySelector("tbody"));
    default: return find(key, "node", place.nodes);
  }
}

function remove(key) {
  const made = shown.get(key);
  if (!made) return;
  const focused = made.contains(document.activeElement);
  const near = made.nextElementSibling ?? made.previousElementSibling;
  made.remove();
  shown.delete(key);
  for (const [other, inner] of shown) if (made.contains(inner)) shown.delete(other);
  if (focused) (near?.querySelector("button.open") ?? place.clusters).focus();
}

// --- what they show

function counts(row) {
  const parts = [`${row.ready ?? 0} of ${row.scale ?? 0} ready`];
  if (row.updated !== undefined) parts.push(`${row.updated} at revision ${row.revision}`);
  if (row.mesh) parts.push("meshed");
  return parts.join(" · ");
}

function paintMeshes() {
  const groups = new Map();
  for (const row of rows.values()) {
    if (row.kind !== "worker" || !row.mesh) continue;
    const key = `workergroup/${row.cluster}/${row.workergroup}`;
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  for (const [key, made] of shown) {
    const where = made.querySelector(":scope > .picture");
    if (where) paintMesh(where, groups.get(key) ?? []);
  }
}

function conditions(list, found) {
  const wanted = found ?? [];
  while (list.children.length > wanted.length) list.lastChild.remove();
  wanted.forEach((condition, index) => setText(list.children[index] ?? list.appendChild(element("li")), condition));
}

function paint(key) {
  const row = rows.get(key);
  const made = elementOf(key, row);
  text(made, "name", row.name);
  chip(made.querySelector('[data-field="status"]'), row.status);
  if (row.kind === "routercluster" || row.kind === "workergroup") {
    text(made, "counts", counts(row));
    conditions(made.querySelector(".conditions"), row.conditions);
  } else {
    text(made, "reason", reasonOf(row));
  }
  if (row.kind === "worker") {
    text(made, "node", row.node ?? "–");
    text(made, "restarts", row.restarts || "");
  }
  paintButtons(key);
  paintUsage(key);
}

function paintButtons(key) {
  const made = shown.get(key);
  const where = made?.querySelector(":scope > .actions, :scope > .head > .actions");
  if (where) paintActions(where, key, rows.get(key), ["owner", "operator"].includes(state.role), change);
}

function paintUsage(key) {
  const made = shown.get(key);
  const used = rows.get(key)?.kind === "worker" && !rows.get(key).pid ? undefined : usage.get(key);
  if (!made?.matches("tr")) return;
  text(made, "cpu", used ? percent(used.cpu) : "");
  text(made, "rss", used ? bytes(used.rss) : "");
}

function paintCounts() {
  const of = { routercluster: [], worker: [], node: [] };
  for (const row of rows.values()) of[row.kind]?.push(row);
  const ready = of.worker.filter((row) => row.status === "RUNNING").length;
  const online = of.node.filter((row) => row.status === "online").length;
  const many = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
  setText(
    document.getElementById("counts"),
    `${many(of.routercluster.length, "cluster")} · ${ready} of ${many(of.worker.length, "worker")} running`
      + ` · ${online} of ${many(of.node.length, "node")} online`,
  );
  const on = new Map();
  for (const row of of.worker) if (row.node) on.set(row.node, (on.get(row.node) ?? 0) + 1);
  for (const row of of.node) {
    const made = shown.get(`node/${row.name}`);
    if (made) text(made, "workers", on.get(row.name) ?? 0);
  }
  for (const section of [place.clusters, document.getElementById("nodes"), document.getElementById("events")]) {
    section.querySelector("[data-empty]").hidden = section.querySelector("[data-key]") !== null;
  }
}

// --- events

function clusterNameOf({ cluster, cluster_oid: oid }) {
  if (cluster || !oid) return cluster;
  for (const row of rows.values()) if (row.oid === oid) return row.name;
  return undefined;
}

function keyOfSubject(event) {
  const [kind, ...names] = event.subject.split("/");
  if (kind === "worker" || kind === "workergroup") {
    return names.length > 1 ? event.subject : [kind, clusterNameOf(event.data), names[0]].filter(Boolean).join("/");
  }
  return event.subject;
}

function addEvent(event) {
  const made = clone("event");
  made.dataset.key = event.sequence;
  const moment = new Date(event.time);
  const time = made.querySelector("time");
  setText(time, Number.isNaN(moment.getTime()) ? event.time : clock(moment));
  time.title = event.time;
  setText(made.querySelector(".what"), wordsOf(event.type));
  const key = keyOfSubject(event);
  const subject = made.querySelector(".subject");
  setText(subject, key.split("/").slice(1).join("/") || event.subject);
  subject.addEventListener("click", () => panel.open(key, subject));
  setText(made.querySelector(".reason"), typeof event.data.reason === "string" ? event.data.reason : "");
  place.events.prepend(made);
  while (place.events.children.length > EVENTS) place.events.lastChild.remove();
}

// --- what is said to those who can't see it

let waiting = [];

function announce(sentence) {
  waiting.push(sentence);
  if (waiting.length > 1) return;
  setTimeout(() => {
    const more = waiting.length > 3 ? `, and ${waiting.length - 3} more changes` : "";
    setText(document.getElementById("news"), waiting.slice(0, 3).join(". ") + more);
    waiting = [];
  }, 400);
}

function tell(key, before, row) {
  if (!begun || before?.status === row?.status) return;
  const [kind, ...names] = key.split("/");
  const word = wordsOf(kind);
  const why = row ? reasonOf(row) : "";
  announce(`${word} ${names.join("/")} is ${row ? row.status : "gone"}${why ? `: ${why}` : ""}`);
}

// --- the connection

function paintState() {
  const online = Object.values(state.managers ?? {}).includes("online");
  const problems = [];
  if (state.server === "full") problems.push("You have too many pages open: this one goes on when another is closed");
  else if (state.server === false) problems.push("This page has lost its server, and tries again");
  else if (!state.connected) problems.push("The broker does not answer; Busbar tries again by itself");
  else if (!online && begun) problems.push("No manager is online: nothing is moved or started");
  else if (state.problem) problems.push(state.problem);
  if (problems.length && (state.server !== true || !state.connected)) {
    problems[0] += `. What is shown is as it was at ${clock(since)}.`;
  }
  if (state.manager?.brake) problems.push(`The brake is on: ${state.manager.brake}`);
  problems.push(...(state.manager?.conditions ?? []));
  if (state.truncated) problems.push("There are more objects than this page shows.");
  const banner = document.getElementById("problem");
  setText(banner, problems.join("\n"));
  banner.hidden = problems.length === 0;
  const link = document.getElementById("link");
  const word = state.server === "full" ? "too many pages" : state.server === false ? "page offline" : !state.connected ? "broker offline"
    : !online ? "no manager" : "live";
  setText(link, word);
  link.dataset.state = word === "live" ? "good" : "bad";
  document.body.dataset.link = word === "live" || word === "no manager" ? "live" : "lost";
  setText(document.getElementById("role"), state.role ? `(${state.role})` : "");
  setText(document.getElementById("manager"), state.manager
    ? `· manager ${state.manager.manager} ${state.manager.version}` : "");
}

function take(news) {
  if (news.reset) {
    for (const key of [...rows.keys()]) {
      if (!(key in news.objects)) { rows.delete(key); remove(key); }
    }
    usage.clear();
    place.events.replaceChildren();
  }
  if (news.state) {
    if (state.connected && !news.state.connected) since = new Date();
    state = { ...news.state, server: true };
    for (const key of rows.keys()) paintButtons(key);
  }
  for (const [key, row] of Object.entries(news.objects ?? {})) {
    const before = rows.get(key);
    tell(key, before, row);
    if (row) { rows.set(key, row); paint(key); } else { rows.delete(key); usage.delete(key); remove(key); }
    panel.changed(key, before, row);
  }
  for (const [key, used] of Object.entries(news.usage ?? {})) {
    usage.set(key, used);
    paintUsage(key);
    panel.used(key);
  }
  for (const event of news.events ?? []) addEvent(event);
  if (news.objects) paintMeshes();
  paintCounts();
  paintState();
  if (news.reset) { begun = true; panel.openHash(); }
}

let source = null;

function connect() {
  source = new EventSource("/live");
  source.addEventListener("realm", (message) => take(JSON.parse(message.data)));
  source.addEventListener("over", signIn);
  source.addEventListener("open", () => { state.server = true; });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) { refused(); return; }
    if (state.server === true) since = new Date();
    state.server = false;
    paintState();
  });
}

// A refused request closes a stream for good: nobody is signed in any more, or too many pages are open.
async function refused() {
  if (state.server === true) since = new Date();
  state.server = false;
  try { await ask("/history", { object: "-" }); } catch (error) {
    // Who is signed out is led to the form by it; where there is no such object, the stream alone was refused.
    if (error.status === 404) state.server = "full";
  }
  paintState();
  setTimeout(() => { if (source.readyState === EventSource.CLOSED && !document.hidden) connect(); }, 5000);
}

// A page that nobody looks at holds no connection: browsers allow six of them to one server.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source.close(); else connect();
  panel.pause(document.hidden);
});

document.getElementById("signout").addEventListener("submit", async (event) => {
  event.preventDefault();
  try { await post("/signout", {}); } catch { /* then it has ended already, or ends by itself */ }
  location.assign("/signin");
});

connect();
