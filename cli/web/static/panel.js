// The panel of one object: what it has used, why it is as it is, and a worker's output.
import { ask, chip, clock, element, setText, wordsOf } from "./parts.js";
import { plots } from "./pictures.js";

const LINES = 1000;
const SETTLE_MS = 300;
const WHOLE = matchMedia("(max-width: 1000px)"); // there it covers the page (page.css)
const place = (id) => document.getElementById(id);

// The object that the address names; none where it can't be read.
function addressed() {
  try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
}

export class Panel {
  constructor({ rows, usage }) {
    Object.assign(this, { rows, usage, key: null, opener: null, log: null, asked: 0, timer: 0, drawing: 0 });
    place("panel-close").addEventListener("click", () => this.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.key !== null && !document.querySelector("dialog[open]")) this.close();
    });
    window.addEventListener("hashchange", () => this.openHash());
    WHOLE.addEventListener("change", () => this.cover());
  }

  openHash() {
    const key = addressed();
    if (key !== (this.key ?? "") && /^(routercluster|workergroup|worker|node)\//.test(key)) this.open(key, null);
    else if (key === "" && this.key !== null) this.close();
  }

  open(key, opener) {
    const [kind, ...names] = key.split("/");
    this.end();
    Object.assign(this, { key, kind, object: names.join("/"), opener });
    setText(place("panel-title"), `${wordsOf(kind).replace(/^./, (first) => first.toUpperCase())} ${this.object}`);
    place("why").replaceChildren();
    place("lines").replaceChildren();
    place("log").hidden = kind !== "worker";
    place("usage").hidden = true;
    place("panel").hidden = false;
    document.body.dataset.panel = "open";
    this.cover();
    if (location.hash.slice(1) !== key) history.pushState(null, "", `#${key}`);
    this.state(this.rows.get(key));
    this.explain();
    this.draw();
    if (kind === "worker") this.follow();
    place("panel").focus();
  }

  close() {
    this.end();
    const { opener, key } = this;
    this.key = null;
    place("panel").hidden = true;
    delete document.body.dataset.panel;
    this.cover();
    if (location.hash) history.pushState(null, "", location.pathname);
    const back = opener?.isConnected ? opener
      : document.querySelector(`[data-key="${CSS.escape(key ?? "")}"] button.open`);
    (back ?? place("clusters")).focus();
  }

  // The keyboard does not get to what the panel hides.
  cover() {
    const hidden = this.key !== null && WHOLE.matches;
    for (const each of document.querySelectorAll(".skip, header, #realm, #events, footer")) each.inert = hidden;
  }

  end() {
    this.log?.close();
    this.log = null;
    clearTimeout(this.timer);
    clearTimeout(this.drawing);
  }

  pause(hidden) {
    this.log?.close();
    this.log = null;
    if (!hidden && this.kind === "worker" && this.key !== null) this.follow();
  }

  used(key) {
    if (key !== this.key) return;
    clearTimeout(this.drawing);
    this.drawing = setTimeout(() => this.draw(), SETTLE_MS);
  }

  async draw() {
    if (this.kind !== "worker" && this.kind !== "node") return;
    const { key } = this;
    try {
      const { points } = await ask("/history", { object: key });
      if (key !== this.key) return;
      place("usage").hidden = points.length === 0;
      if (points.length) place("usage").querySelector(".plots").replaceChildren(...plots(points));
    } catch { /* it is drawn with the next report */ }
  }

  changed(key, before, row) {
    if (key !== this.key) return;
    this.state(row);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.explain(), SETTLE_MS);
  }

  state(row) {
    chip(place("panel-state"), row?.status ?? "gone");
  }

  async explain() {
    const mine = ++this.asked;
    const list = place("why");
    let items;
    try {
      const found = await ask("/why", { kind: this.kind, object: this.object });
      items = found.statements.map(statement);
      if (!items.length) items = [line("Nothing is known of it.")];
    } catch (error) {
      items = [line(error.message, "cause")];
    }
    if (mine === this.asked) list.replaceChildren(...items);
  }

  follow() {
    const lines = place("lines");
    const source = new EventSource(`/log?${new URLSearchParams({ object: this.object })}`);
    this.log = source;
    const add = (items) => {
      const low = lines.scrollHeight - lines.scrollTop - lines.clientHeight < 40;
      for (const { text, note } of items) {
        const made = element("span", ...(note ? ["note"] : []));
        setText(made, `${text}\n`);
        lines.append(made);
      }
      while (lines.children.length > LINES) lines.firstChild.remove();
      if (low) lines.scrollTop = lines.scrollHeight;
    };
    source.addEventListener("open", () => lines.replaceChildren());
    source.addEventListener("lines", (message) => add(JSON.parse(message.data)));
    source.addEventListener("failed", (message) => {
      source.close();
      add([{ text: JSON.parse(message.data).text, note: true }]);
    });
  }
}

function line(text, ...classes) {
  const made = element("li", ...classes);
  setText(made, text);
  return made;
}

function statement({ cause, text, at_ms: at, event, object }) {
  const made = element("li", ...(cause ? ["cause"] : []));
  if (cause) {
    const mark = element("strong");
    setText(mark, "Cause: ");
    made.append(mark);
  }
  const said = element("span");
  setText(said, object && !text.includes(object) ? `${object}: ${text}` : text);
  made.append(said);
  if (at !== null) {
    const when = element("time", "quiet");
    when.dateTime = new Date(at).toISOString();
    setText(when, ` ${clock(new Date(at))}${event ? ` #${event}` : ""}`);
    made.append(when);
  }
  return made;
}
