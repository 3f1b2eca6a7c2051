"use strict";
// Single pictures, one after the other, and not Motion JPEG: a browser opens six connections to a server, and a grid
// of more streams than that would starve. It also picks up by itself when the pipeline is started again.
const streams = document.getElementById("streams"), state = document.getElementById("state");
const cells = [];
// This page is at the root of the server, which a proxy may show under a path, with or without a slash at its end.
const root = location.pathname.replace(/\/*$/, "/");

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

function cell(number) {
  const image = element("img"), name = element("span"), clock = element("span", "clock"), list = element("ul", "people");
  image.alt = "";
  const box = element("section", "stream", element("h2", "", name, clock), image, list);
  const next = delay => setTimeout(() => { image.src = `${root}streams/${number}.jpg?${Date.now()}`; }, delay);
  image.onload = () => next(document.hidden ? 1000 : 80);
  image.onerror = () => next(1000);
  next(0);
  streams.append(box);
  return { box, image, name, clock, list, timestamp: -1, changed: Date.now() };
}

function counted(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

// The same format as in the report: 1:02:03.4
function time(seconds) {
  const tenths = Math.round(10 * seconds), minutes = Math.floor(tenths / 600), hours = Math.floor(minutes / 60);
  const tail = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

function line(person) {
  const yes = person.yes.map(([name, p]) => element("span", "chip", `${name} ${Math.round(100 * p)} %`));
  const words = element("div", "", ...(yes.length ? yes : [element("span", "faint", "no attributes")]));
  if (person.unknown.length) words.append(element("span", "faint", ` unknown: ${person.unknown.join(", ")}`));
  return element("li", "", element("b", "", `#${person.track_id}`), words,
    element("span", "since", `since ${time(person.since)}`));
}

function show(stream, number) {
  const at = cells[number] ??= cell(number);
  if (stream.timestamp !== at.timestamp) { at.timestamp = stream.timestamp; at.changed = Date.now(); }
  const still = stream.ended || Date.now() - at.changed > 5000;
  at.box.classList.toggle("still", still);
  at.name.textContent = stream.stream;
  const dropping = stream.dropped_recently && !still ? `, ${counted(stream.dropped_recently, "frame")} dropped in the last 5 s` : "";
  at.clock.textContent = time(stream.timestamp) + (stream.ended ? ", ended" : still ? ", no new frames" : dropping);
  at.clock.classList.toggle("dropping", dropping !== "");
  at.clock.title = stream.dropped ? `${counted(stream.dropped, "frame")} dropped in total` : "";
  [at.image.width, at.image.height] = stream.size;
  at.image.alt = `${stream.stream}, ${counted(stream.people.length, "person", "people")} with attributes`;
  const waiting = stream.waiting.map(id => element("li", "",
    element("b", "", `#${id}`), element("span", "faint", "attributes not known yet")));
  at.list.replaceChildren(...stream.people.map(line), ...waiting);
}

async function poll() {
  try {
    const found = (await (await fetch(`${root}people.json`)).json()).filter(stream => stream.stream !== undefined);
    found.forEach(show);
    while (cells.length > found.length) cells.pop().box.remove();
    const people = found.reduce((sum, stream) => sum + stream.people.length + stream.waiting.length, 0);
    state.textContent = found.length
      ? `${counted(found.length, "stream")}, ${counted(people, "person", "people")} in view`
      : "Waiting for the first frame.";
  } catch {
    state.textContent = "No answer from the pipeline; retrying.";
    for (const { box } of cells) box.classList.add("still");
  }
  setTimeout(poll, 500);
}
poll();
