// Changes: each is shown as the manager plans it, and done when that is confirmed.
import { ask, clock, element, setText, tell } from "./parts.js";

const WORDS = {
  start: "Start", stop: "Stop", restart: "Restart", scale: "Scale", rollback: "Roll back", drain: "Drain",
  undrain: "Undrain",
};
const DANGER = new Set(["stop", "drain", "rollback"]);
const KINDS = { routercluster: "cluster", workergroup: "group" };
const STOPPED = new Set(["STOPPED", "PAUSED"]);
const SETTLE_MS = 350;
const place = (id) => document.getElementById(id);

function actionsOf(row) {
  switch (row.kind) {
    case "routercluster": return [STOPPED.has(row.status) ? "start" : "stop", "rollback"];
    case "workergroup":
      return ["scale", ...(STOPPED.has(row.status) ? ["start"] : ["restart", "stop"])];
    case "worker": return STOPPED.has(row.status) ? [] : ["restart"];
    default: return [row.draining ? "undrain" : "drain"];
  }
}

// The buttons of a row, for those who may change anything. They stay as they are while their set does.
export function paintActions(where, key, row, may, change) {
  const wanted = may ? actionsOf(row) : [];
  if (where.dataset.set === wanted.join(" ")) return;
  const focused = where.contains(document.activeElement);
  where.dataset.set = wanted.join(" ");
  where.replaceChildren(...wanted.map((action) => {
    const made = element("button", "act");
    made.type = "button";
    made.dataset.action = action;
    setText(made, WORDS[action]);
    made.setAttribute("aria-label", `${WORDS[action]} ${nameOf(key)}`);
    made.addEventListener("click", () => change.open(action, key));
    return made;
  }));
  if (focused) where.querySelector("button")?.focus();
}

function nameOf(key) {
  const [kind, ...names] = key.split("/");
  return `${KINDS[kind] ?? kind} ${names.join("/")}`;
}

export class Change {
  constructor(rows) {
    Object.assign(this, { rows, action: null, key: null, version: null, asked: 0, timer: 0 });
    place("dialog-do").addEventListener("click", () => this.confirm());
    place("dialog").addEventListener("close", () => { this.key = null; clearTimeout(this.timer); });
    for (const id of ["dialog-number", "dialog-revision"]) {
      place(id).addEventListener("input", () => this.planSoon());
      place(id).addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        if (!place("dialog-do").disabled) place("dialog-do").focus();
      });
    }
  }

  async open(action, key) {
    Object.assign(this, { action, key });
    setText(place("dialog-title"), `${WORDS[action]} ${nameOf(key)}`);
    setText(place("dialog-do"), WORDS[action]);
    place("dialog-do").classList.toggle("danger", DANGER.has(action));
    place("dialog-value").hidden = action !== "scale";
    place("dialog-choice").hidden = action !== "rollback";
    place("dialog-number").value = this.rows.get(key)?.scale ?? 1;
    this.wait();
    place("dialog").showModal();
    if (action === "rollback" && !await this.choices(key)) return;
    if (action === "scale") place("dialog-number").select();
    this.plan();
  }

  async choices(key) {
    const select = place("dialog-revision");
    select.replaceChildren();
    try {
      for (const each of await ask("/revisions", { object: key.split("/").slice(1).join("/") })) {
        const option = element("option");
        option.value = each.revision;
        const moment = new Date(each.time);
        setText(option, `${each.revision} · ${moment.toLocaleDateString()} ${clock(moment)} · ${each.caller}`
          + (each.changed.length ? ` · ${each.changed.join(", ")}` : ""));
        select.append(option);
      }
    } catch (error) {
      this.fail(error.message);
      return false;
    }
    if (select.children.length) { select.focus(); return true; }
    this.lines(["It has no earlier revision."]);
    return false;
  }

  form() {
    const value = { scale: place("dialog-number").value, rollback: place("dialog-revision").value }[this.action];
    return { action: this.action, object: this.key, value: value ?? "" };
  }

  wait() {
    place("dialog-do").disabled = true;
    place("dialog-error").hidden = true;
    this.lines(["…"]);
  }

  lines(found) {
    place("dialog-plan").replaceChildren(...found.map((each) => {
      const made = element("li");
      setText(made, each);
      return made;
    }));
  }

  fail(text) {
    setText(place("dialog-error"), text);
    place("dialog-error").hidden = false;
  }

  planSoon() {
    this.asked += 1;
    place("dialog-do").disabled = true;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.plan(), SETTLE_MS);
  }

  async plan() {
    const mine = ++this.asked;
    this.wait();
    try {
      const found = await tell("/plan", this.form());
      if (mine !== this.asked || this.key === null) return;
      this.lines(found.lines);
      this.version = found.version;
      if (found.refused.length) this.fail(found.refused.join("\n"));
      else place("dialog-do").disabled = false;
    } catch (error) {
      if (mine !== this.asked) return;
      this.lines([]);
      this.fail(error.message);
    }
  }

  async confirm() {
    const button = place("dialog-do");
    button.disabled = true;
    place("dialog-error").hidden = true;
    try {
      await tell("/do", { ...this.form(), version: this.version ?? "" });
      place("dialog").close();
    } catch (error) {
      await this.plan();  // it may be out of date: what would happen now can be confirmed
      if (place("dialog-error").hidden) this.fail(error.message);
    }
  }
}
