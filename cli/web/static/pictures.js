// Pictures in SVG: the last hour of a worker or a node, and who is linked with whom in a mesh.
import { bytes, element, order, percent, setText } from "./parts.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 320;
const HEIGHT = 64;
const SPANS_S = [300, 600, 1200, 1800, 3600]; // What is known fills the width, up to an hour.
const MOST = 24; // Workers of a mesh whose links can still be told apart.

function draw(name, attributes, ...inside) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function words(name, attributes, text) {
  const made = draw(name, attributes);
  setText(made, text);
  return made;
}

// --- the last hour

// `points` are [seconds ago, value], the oldest first, drawn from 0 to at least `least`; a gap of more than three minutes is left open.
export function plot(title, points, format, least) {
  const values = points.map(([, value]) => value);
  const most = Math.max(...values);
  const top = Math.max(most * 1.15, least);
  const span = SPANS_S.find((each) => each >= points[0][0]) ?? SPANS_S.at(-1);
  const x = (ago) => Math.max(0, WIDTH - (ago / span) * WIDTH);
  const y = (value) => HEIGHT - (value / top) * HEIGHT;
  const parts = [];
  let part = [];
  points.forEach(([ago, value], index) => {
    if (index && points[index - 1][0] - ago > 180) { parts.push(part); part = []; }
    part.push([x(ago), y(value)]);
  });
  parts.push(part);
  const now = format(values.at(-1));
  const said = `${title}: now ${now}, at most ${format(most)} in the last hour`;
  const picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": said, class: "plot",
    preserveAspectRatio: "none" });
  for (const each of [0.25, 0.5, 0.75]) {
    picture.append(draw("line", { x1: WIDTH * each, x2: WIDTH * each, y1: 0, y2: HEIGHT, class: "grid" }));
  }
  for (const each of parts) {
    const line = each.map(([px, py]) => `${px.toFixed(1)},${py.toFixed(1)}`).join(" ");
    const from = each[0][0].toFixed(1);
    const to = each.at(-1)[0].toFixed(1);
    // A point alone is drawn too: a line of no length with round ends.
    picture.append(draw("polygon", { points: `${from},${HEIGHT} ${line} ${to},${HEIGHT}`, class: "area" }));
    picture.append(draw("polyline", { points: each.length > 1 ? line : `${line} ${line}`, class: "line" }));
  }
  const made = element("figure");
  const caption = element("figcaption");
  const name = element("strong");
  setText(name, title);
  const figures = element("span", "quiet");
  setText(figures, ` now ${now}, at most ${format(most)}`);
  caption.append(name, figures);
  const axis = element("p", "axis", "quiet");
  for (const each of [`${span / 60} min ago`, `${span / 120}`, "now"]) {
    const mark = element("span");
    setText(mark, each);
    axis.append(mark);
  }
  made.append(caption, picture, axis);
  return made;
}

export function plots(points) {
  return [
    plot("CPU", points.map(([ago, cpu]) => [ago, cpu]), percent, 0.01),
    plot("Memory", points.map(([ago, , rss]) => [ago, rss]), bytes, 1e6),
  ];
}

// --- the mesh

// Whether two workers are linked: what both say of it; undefined where neither tells.
function link(one, other) {
  const known = [[one, other], [other, one]].filter(([each]) => each.mesh && each.mesh.connected !== null);
  if (!known.length) return undefined;
  return known.every(([each, peer]) => !each.mesh.missing.includes(peer.name)
    && each.mesh.connected + each.mesh.missing.length >= each.mesh.of);
}

export function paintMesh(where, workers) {
  const sorted = [...workers].sort((one, other) => order(one.name, other.name));
  const told = sorted.some((each) => each.mesh && each.mesh.connected !== null);
  const shape = JSON.stringify([told, sorted.map((each) => [each.name, each.node, each.status, each.mesh])]);
  if (where.dataset.shape === shape) return;
  where.dataset.shape = shape;
  if (!told || sorted.length < 2 || sorted.length > MOST) { where.replaceChildren(); return; }
  const at = sorted.map((_, index) => {
    const turn = (index / sorted.length) * 2 * Math.PI - Math.PI / 2;
    return [160 + 105 * Math.cos(turn), 66 + 44 * Math.sin(turn)];
  });
  const lines = [];
  const apart = [];
  let linked = 0;
  sorted.forEach((one, i) => sorted.slice(i + 1).forEach((other, offset) => {
    const j = i + 1 + offset;
    const found = link(one, other);
    if (found) linked += 1;
    if (found === false) apart.push(`${one.name} and ${other.name}`);
    const kind = found === undefined ? "unknown" : found ? "linked" : "apart";
    lines.push(draw("line", { x1: at[i][0], y1: at[i][1], x2: at[j][0], y2: at[j][1], class: kind }));
  }));
  const all = (sorted.length * (sorted.length - 1)) / 2;
  const said = `${linked} of ${all} pairs of workers are linked${apart.length ? `; not ${apart.join(", ")}` : ""}`;
  const picture = draw("svg", { viewBox: `0 0 320 ${Math.max(...at.map(([, y]) => y)) + 26}`, role: "img", "aria-label": said, class: "mesh" }, ...lines);
  sorted.forEach((each, index) => {
    const [x, y] = at[index];
    picture.append(draw("circle", { cx: x, cy: y, r: 6, class: each.status === "RUNNING" ? "up" : "down" }));
    const below = y >= 66 ? 19 : -11;
    picture.append(words("text", { x, y: y + below, "text-anchor": "middle" },
      sorted.length > 12 ? each.name : `${each.name}${each.node ? ` on ${each.node}` : ""}`));
  });
  const caption = element("figcaption", "quiet");
  setText(caption, said);
  const made = element("figure");
  made.append(picture, caption);
  where.replaceChildren(made);
}
