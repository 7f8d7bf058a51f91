// Small parts that the other scripts share.

const GOOD = new Set(["RUNNING", "online"]);
const OFF = new Set(["STOPPED", "PAUSED", "offline", "unpaired"]);
const WAIT = new Set(["STARTING", "STOPPING", "PENDING", "DEGRADED", "late"]);

export function element(name, ...classes) {
  const made = document.createElement(name);
  made.classList.add(...classes);
  return made;
}

// Text is replaced only where it differs: a selection in what stays survives.
export function setText(where, value) {
  const wanted = String(value ?? "");
  if (where.textContent !== wanted) where.textContent = wanted;
}

export function text(row, field, value) {
  setText(row.querySelector(`[data-field="${field}"]`), value);
}

export function chip(where, status) {
  setText(where, status);
  where.dataset.state = GOOD.has(status) ? "good" : OFF.has(status) ? "off" : WAIT.has(status) ? "wait" : "bad";
}

// One for all: localeCompare makes one for each comparison, which takes twenty times as long.
const collator = new Intl.Collator(undefined, { numeric: true });

export function order(one, other) {
  return collator.compare(one, other);
}

export function reasonOf(row) {
  if (row.kind !== "node") return row.reason || (row.conditions ?? []).join("; ");
  const parts = [];
  if (row.draining) parts.push(`${row.drained ? "drained" : "draining"}: ${row.draining}`);
  if (row.cordoned) parts.push(`cordoned: ${row.cordoned}`);
  return [...parts, ...(row.conditions ?? [])].join("; ");
}

// Of a kind or an event: `worker_ready` as `worker ready`, `routercluster` as `cluster`.
export function wordsOf(name) {
  return name.replace(/^routercluster/, "cluster").replace(/^workergroup/, "group").replaceAll("_", " ");
}

export function clock(moment) {
  return moment.toLocaleTimeString([], { hour12: false });
}

export function percent(share) {
  const value = share * 100;
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} %`;
}

export function bytes(count) {
  let value = count;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (value < 999.5) return `${value < 9.95 && unit === "GB" ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
    value /= 1000;
  }
  return `${value.toFixed(1)} TB`;
}

export function ask(path, given) {
  return read(fetch(`${path}?${new URLSearchParams(given)}`));
}

// A change: with the token that only our own page has.
export function tell(path, form) {
  const token = document.querySelector('meta[name="busbar-token"]').content;
  return read(fetch(path, {
    method: "POST", headers: { "x-busbar-token": token }, body: new URLSearchParams(form),
  }));
}

// To the form, and from there back to the object whose panel is open.
export function signIn() {
  location.assign(`/signin${location.hash}`);
}

async function read(coming) {
  const answer = await coming;
  if (answer.status === 401) signIn();
  const text = await answer.text();
  let found = { error: text.slice(0, 300) };
  try { found = JSON.parse(text); } catch { /* plain text says it */ }
  if (!answer.ok) {
    throw Object.assign(new Error(found.error || `the server answers ${answer.status}`), { status: answer.status });
  }
  return found;
}
