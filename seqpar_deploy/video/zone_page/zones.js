"use strict";
// Shapes are kept in shares of the frame, so nothing depends on the size at which the picture is shown.
const $ = id => document.getElementById(id);
const stage = $("stage"), drawing = $("drawing"), list = $("shapes"), state = $("state"), save = $("save"), undo = $("undo");
const root = location.pathname.replace(/\/*$/, "/");
const ONE = { zones: "zone", lines: "line", masks: "mask" };
const LEAST = { zones: 3, lines: 2, masks: 3 }, MOST = { zones: 64, lines: 2, masks: 64 };
const HIT = 20, POINT = 7;  // radius in pixels of the screen: a finger, and what is seen
let shapes = [], version = "", saved = "", past = [];

const near = value => Math.min(1, Math.max(0, Math.round(value * 1e4) / 1e4));
const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
const picture = () => JSON.stringify(shapes);

function svg(name, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function element(name, attributes, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

function tell(words, bad = false) {
  state.textContent = words;
  state.classList.toggle("bad", bad);
}

// Why the shapes cannot be saved, or nothing.
function problem() {
  const taken = new Set();
  for (const { kind, name } of shapes) {
    const key = (kind === "masks" ? "mask " : "") + name.trim();
    if (!name.trim()) return `A ${ONE[kind]} needs a name.`;
    if (name.length > 40) return `The name ${name.slice(0, 12)}… must have at most 40 characters.`;
    if (taken.has(key)) return `Two are named ${name}; rename one.`;
    taken.add(key);
  }
  return "";
}

function remember() {
  if (past[past.length - 1] !== picture()) past.push(picture());
  if (past.length > 200) past.shift();
}

function changed(focus) {
  render(focus);
  const wrong = problem(), other = picture() !== saved;
  save.disabled = !other || Boolean(wrong);
  undo.disabled = !past.length;
  tell(wrong || (other ? "Not saved yet." : "Saved."), Boolean(wrong));
}

// The coordinates of a point of the window, in shares of the frame.
function place(event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

// Follow a pointer from where it was pressed. `move` gets the way since then in shares, `tap` is a press without a way.
// The drawing has the pointer, because its parts are replaced at each step.
function drag(event, move, { focus, tap = () => {} } = {}) {
  if (event.button) return;
  event.preventDefault();
  event.stopPropagation();
  const start = place(event), before = picture();
  let moved = false;
  drawing.setPointerCapture(event.pointerId);
  drawing.onpointermove = each => {
    const now = place(each), [dx, dy] = [now[0] - start[0], now[1] - start[1]];
    moved ||= Math.hypot(dx * stage.clientWidth, dy * stage.clientHeight) > 3;
    if (!moved) return;
    move(dx, dy);
    render(focus);
  };
  drawing.onpointerup = drawing.onpointercancel = () => {
    drawing.onpointermove = drawing.onpointerup = drawing.onpointercancel = null;
    if (!moved) tap();
    if (picture() !== before) past.push(before);
    changed(focus);
  };
}

function shift(shape, from, dx, dy) {
  const least = [0, 1].map(i => -Math.min(...from.map(point => point[i])));
  const most = [0, 1].map(i => 1 - Math.max(...from.map(point => point[i])));
  const by = [dx, dy].map((value, i) => Math.min(most[i], Math.max(least[i], value)));
  shape.points = from.map(([x, y]) => [near(x + by[0]), near(y + by[1])]);
}

function keys(event, shape, number) {
  const step = (event.shiftKey ? 10 : 1) / drawing.viewBox.baseVal.width;
  const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (way) {
    event.preventDefault();
    remember();
    const [x, y] = shape.points[number];
    shape.points[number] = [near(x + way[0]), near(y + way[1])];
    changed(event.target.dataset.at);
    tell(where(shape, number));
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    if (shape.points.length <= LEAST[shape.kind]) {
      tell(`A ${ONE[shape.kind]} needs ${LEAST[shape.kind]} points; remove it in the list below.`, true);
      return;
    }
    remember();
    shape.points.splice(number, 1);
    changed(`${shapes.indexOf(shape)}.${Math.max(0, number - 1)}`);
  }
}

const percent = value => `${Math.round(1000 * value) / 10} %`;
const where = ({ name, points }, number) =>
  `Point ${number + 1} of ${name}: ${percent(points[number][0])} from the left, ${percent(points[number][1])} from the top.`;

// A point with its area for fingers. `inserted` is where a new point would be.
function handle(shape, index, number, at, inserted) {
  const { width, height } = drawing.viewBox.baseVal, scale = width / (stage.clientWidth || width);
  const [x, y] = [at[0] * width, at[1] * height];
  const area = svg("circle", { class: "handle", cx: x, cy: y, r: (inserted ? 13 : HIT) * scale, tabindex: 0, role: "button" });
  area.dataset.at = inserted ? `${index}+${number}` : `${index}.${number}`;
  area.setAttribute("aria-label", inserted ? `Add a point to ${shape.name} after point ${number}`
    : `${where(shape, number)} Arrow keys move it, Delete removes it.`);
  const focus = `${index}.${number}`;
  if (inserted) {
    const insert = () => shape.points.splice(number, 0, [near(at[0]), near(at[1])]);
    const press = () => { remember(); insert(); changed(focus); };
    area.onclick = event => { if (!event.detail) press(); };  // of a screen reader
    area.onkeydown = event => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); press(); }
    };
    area.onpointerdown = event => {
      let used = false;
      const once = () => { if (!used) insert(); used = true; };
      drag(event, (dx, dy) => { once(); shape.points[number] = [near(at[0] + dx), near(at[1] + dy)]; }, { focus, tap: once });
    };
  } else {
    area.onkeydown = event => keys(event, shape, number);
    area.onpointerdown = event => {
      const from = shape.points[number];
      drag(event, (dx, dy) => { shape.points[number] = [near(from[0] + dx), near(from[1] + dy)]; }, { focus });
    };
  }
  const seen = svg("circle", { class: "point", cx: x, cy: y, r: (inserted ? 4 : POINT) * scale, "stroke-width": 1.5 * scale });
  return svg("g", { class: inserted ? "at between" : "at" }, seen, area);
}

// The arrow of a line, to the right of somebody who looks from the first to the second point.
function arrow([[x0, y0], [x1, y1]], scale) {
  const length = Math.hypot(x1 - x0, y1 - y0) || 1, size = 26 * scale;
  const right = [(y0 - y1) / length, (x1 - x0) / length], ahead = [(x1 - x0) / length, (y1 - y0) / length];
  const middle = [(x0 + x1) / 2, (y0 + y1) / 2], tip = middle.map((value, i) => value + size * right[i]);
  const wing = way => tip.map((value, i) => value - 0.4 * size * (right[i] + way * ahead[i]));
  const path = `M${middle}L${tip}M${wing(-1)}L${tip}L${wing(1)}`;
  return { path, label: tip.map((value, i) => value + 0.55 * size * right[i]) };
}

function figure(shape, index) {
  const { width, height } = drawing.viewBox.baseVal, scale = width / (stage.clientWidth || width);
  const points = shape.points.map(([x, y]) => [x * width, y * height]), closed = shape.kind !== "lines";
  const outline = `M${points.join("L")}${closed ? "Z" : ""}`;
  const body = svg("path", { class: "body", d: outline, "stroke-width": 18 * scale });
  body.onpointerdown = event => {
    const from = shape.points;
    drag(event, (dx, dy) => shift(shape, from, dx, dy));
  };
  const edges = closed ? { path: outline } : arrow(points, scale);
  const drawn = closed ? outline : `${outline}${edges.path}`;
  const top = points.reduce((best, point) => (point[1] < best[1] ? point : best));
  const name = svg("text", { x: Math.min(Math.max(0, top[0] + 10 * scale), width - 60 * scale), y: Math.max(16 * scale, top[1] - 12 * scale),
    style: `font-size: ${14 * scale}px`, "stroke-width": 3 * scale }, shape.name);
  const group = svg("g", { class: shape.kind }, body,
    svg("path", { class: "shade", d: drawn, "stroke-width": 4 * scale }),
    svg("path", { class: "edge", d: drawn, "stroke-width": 2 * scale }), name);
  if (!closed) {
    group.append(svg("text", { x: edges.label[0], y: edges.label[1], style: `font-size: ${13 * scale}px`, "stroke-width": 3 * scale,
      "text-anchor": "middle", "dominant-baseline": "middle" }, "in"));
  }
  if (closed && points.length < MOST[shape.kind]) {
    shape.points.forEach((point, number) => {
      const next = shape.points[(number + 1) % points.length];
      group.append(handle(shape, index, number + 1, [(point[0] + next[0]) / 2, (point[1] + next[1]) / 2], true));
    });
  }
  shape.points.forEach((point, number) => group.append(handle(shape, index, number, point, false)));
  return group;
}

// The focus stays on its point, also where the page alone has moved.
function draw() {
  const focused = drawing.contains(document.activeElement) && document.activeElement.dataset.at;
  drawing.replaceChildren(...shapes.map(figure));
  if (focused) toPoint(focused);
  list.querySelectorAll("code").forEach((code, index) => { code.textContent = numbers(shapes[index]); });
}

const numbers = ({ points }) => points.map(([x, y]) => `[${x}, ${y}]`).join(", ");

function row(shape, index) {
  const name = element("input", { value: shape.name, maxLength: 40, autocomplete: "off", id: `name-${index}` });
  name.setAttribute("aria-label", `Name of the ${ONE[shape.kind]}`);
  name.oninput = () => {
    if (!name.dataset.told) { remember(); name.dataset.told = "1"; }
    shapes[index].name = name.value;
    name.toggleAttribute("aria-invalid", Boolean(problem()));
    draw();
    const wrong = problem();
    save.disabled = picture() === saved || Boolean(wrong);
    undo.disabled = false;
    tell(wrong || "Not saved yet.", Boolean(wrong));
  };
  const remove = element("button", { type: "button", textContent: "Delete" });
  remove.setAttribute("aria-label", `Delete the ${ONE[shape.kind]} ${shape.name}`);
  remove.onclick = () => { remember(); shapes.splice(index, 1); changed(); };
  const item = element("li", { className: shape.kind }, element("span", { textContent: ONE[shape.kind] }), name, remove,
    element("code", { textContent: numbers(shape) }));
  return item;
}

// While names are the same, their fields stay: they may have the focus.
function render(focus) {
  const names = JSON.stringify(shapes.map(({ kind, name }) => [kind, name]));
  if (list.dataset.names !== names) list.replaceChildren(...shapes.map(row));
  list.dataset.names = names;
  draw();
  if (focus) toPoint(focus);
}

function toPoint(at) {
  drawing.querySelector(`[data-at="${at}"]`)?.focus({ preventScroll: true });
}

function add(kind) {
  const names = new Set(shapes.map(shape => shape.name));
  let number = 1;
  while (names.has(`${ONE[kind]}-${number}`)) number++;
  const by = 0.03 * ((number - 1) % 6);  // so that two new ones do not hide each other
  const square = [[0.35, 0.4], [0.65, 0.4], [0.65, 0.7], [0.35, 0.7]];
  const points = (kind === "lines" ? [[0.3, 0.55], [0.7, 0.55]] : square).map(([x, y]) => [near(x + by), near(y + by)]);
  remember();
  shapes.push({ kind, name: `${ONE[kind]}-${number}`, was: null, points });
  changed(`${shapes.length - 1}.0`);
}

function take(found) {
  version = found.version;
  shapes = found.shapes.map(shape => ({ ...shape, was: shape.name, before: structuredClone(shape.points) }));
  saved = picture();
  past = [];
}

// Nothing can be edited until the answer, which brings the shapes of the file, is there.
function wait(waiting) {
  for (const id of ["adds", "stage", "shapes"]) $(id).inert = waiting;
  save.disabled = waiting;
  undo.disabled = waiting || !past.length;
}

async function send() {
  wait(true);
  tell("Saving.");
  const body = { version, shapes: shapes.map(({ kind, name, was, points, before }) =>
    ({ kind, name: name.trim(), was, points: was !== null && same(points, before) ? null : points })) };
  try {
    const answer = await fetch(`${root}save`, { method: "POST", body: JSON.stringify(body),
      headers: { "Content-Type": "application/json" } });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    take(await answer.json());
    wait(false);
    changed();
  } catch (error) {
    wait(false);
    tell(error instanceof TypeError ? "No answer; the command has ended. Start it again, and draw again." : error.message, true);
  }
}

async function start() {
  try {
    const answer = await fetch(`${root}scene.json`);
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const found = await answer.json();
    drawing.setAttribute("viewBox", `0 0 ${found.size.join(" ")}`);
    [$("picture").width, $("picture").height] = found.size;
    take(found);
    changed();
    tell(shapes.length ? "" : "Nothing is drawn yet.");
  } catch (error) {
    tell(error instanceof TypeError ? "No answer; the command has ended." : error.message, true);
  }
}

for (const kind of Object.keys(ONE)) $(`add-${kind}`).onclick = () => add(kind);
save.onclick = send;
undo.onclick = () => { const last = past.pop(); if (last) { shapes = JSON.parse(last); changed(); } };
addEventListener("keydown", event => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && event.target.tagName !== "INPUT") { event.preventDefault(); undo.click(); }
});
addEventListener("beforeunload", event => { if (picture() !== saved) event.preventDefault(); });
new ResizeObserver(() => { if (drawing.viewBox.baseVal.width) draw(); }).observe(stage);
start();
