"use strict";
// Single pictures, one after the other, and not Motion JPEG: a browser opens six connections to a server, and a grid
// of more streams than that would starve. It also picks up by itself when the pipeline is started again.
const $ = id => document.getElementById(id);
const cells = new Map();  // by number of the stream
// This page is at the root of the server, which a proxy may show under a path, with or without a slash at its end.
const root = location.pathname.replace(/\/*$/, "/");
if (location.href.endsWith("?")) history.replaceState(null, "", location.pathname);  // what is left of ?token=

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

// Makes only the children whose values changed, so that a list keeps its place while somebody scrolls or reads it.
function fill(list, items, key, make) {
  const before = new Map([...list.children].map(child => [child.dataset.key, child]));
  const after = items.map(item => {
    const name = String(key(item)), values = JSON.stringify(item), old = before.get(name);
    if (old?.dataset.values === values) return old;
    const made = make(item);
    made.dataset.key = name;
    made.dataset.values = values;
    return made;
  });
  if (after.length === list.children.length && after.every((child, place) => child === list.children[place])) return;
  const place = list.scrollTop;
  list.replaceChildren(...after);
  list.scrollTop = place;
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

function lasting(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? `${Math.max(1, Math.round(1000 * seconds))} ms` : `${seconds.toFixed(1)} s`;
}

const seen = new IntersectionObserver(entries => {
  for (const { target, isIntersecting } of entries) target.dataset.seen = isIntersecting ? "yes" : "";
});

// Twelve pictures per second of all streams in sight together: each costs the pipeline's machine some 8 ms at 1080p.
function pause() {
  return Math.min(1000, 80 * document.querySelectorAll(".stream[data-seen=yes]").length);
}

function cell(number) {
  const image = element("img"), name = element("span"), clock = element("span", "clock");
  const figures = element("dl", "figures"), zones = element("tbody"), list = element("ul", "people");
  const table = element("div", "scroll", element("table", "", element("caption", "", "Zones and lines"),
    element("thead", "", element("tr", "",
      ...["Name", "Inside", "In", "Out", "Latest count"].map(head => element("th", "", head)))), zones));
  image.alt = "";
  list.tabIndex = 0;
  const box = element("section", "stream", element("h2", "", name, clock), image, figures, table, list);
  const next = delay => setTimeout(() => {
    if (box.isConnected) image.src = `${root}streams/${number}.jpg?${Date.now()}`;
  }, delay);
  image.onload = () => next(document.hidden || !box.dataset.seen ? 1000 : pause());
  image.onerror = () => next(1000);
  $("streams").append(box);
  seen.observe(box);
  next(0);
  return { box, image, name, clock, figures, table, zones, list, timestamp: -1, changed: Date.now() };
}

function chips(person) {
  const yes = person.yes.map(([name, p]) => element("span", "chip", `${name} ${Math.round(100 * p)} %`));
  const words = element("div", "", ...(yes.length ? yes : [element("span", "faint", "no attributes")]));
  if (person.unknown.length) words.append(element("span", "faint", ` unknown: ${person.unknown.join(", ")}`));
  return words;
}

function line(person) {
  if (!person.yes) return element("li", "", element("b", "", `#${person.track_id}`),
    element("span", "faint", "attributes not known yet"));
  return element("li", "", element("b", "", `#${person.track_id}`), chips(person),
    element("span", "since", `since ${time(person.since)}`));
}

function figures(stream, still) {
  const slower = stream.source_rate > 1.05 * stream.rate;  // the other frames were dropped, or omitted by --max-fps
  const rate = still || stream.rate === null ? "–" : stream.rate.toFixed(1);
  return [
    ["Frames/s", slower && rate !== "–" ? `${rate} of ${stream.source_rate.toFixed(1)}` : rate, "Frames analysed"],
    ["Dropped", String(stream.dropped), "Frames dropped for newer ones", stream.dropped_recently > 0 && !still],
    ["Latency", still ? "–" : lasting(stream.latency), "Median from decoding a frame to this page"],
    // In the stream's own time, whose unit is a frame.
    ["Attributes", stream.attributes_after === null ? "–"
      : stream.attributes_after < 0.1 ? "< 0.1 s" : `${stream.attributes_after.toFixed(1)} s`,
      "Median from the first frame of a person to the first attributes"],
    ["In view", String(stream.people.length + stream.waiting.length), "People, with and without attributes"],
  ];
}

function figure([name, value, title, bad]) {
  const made = element("div", bad ? "bad" : "", element("dt", "", name), element("dd", "", value));
  made.title = title;
  return made;
}

function count(latest) {
  if (!latest) return "–";
  const people = Object.entries(latest.people).map(([what, number]) => `${number} ${what}`).join(", ");
  const most = Object.entries(latest.people_with).map(([what, by]) => {
    const names = Object.entries(by).sort((a, b) => b[1] - a[1]).slice(0, 3);
    return names.length ? `; ${what} with ${names.map(([name, number]) => `${name} ${number}`).join(", ")}` : "";
  });
  return `${people || "nobody"} in ${Math.round(latest.interval)} s${most.join("")}`;
}

function zone(one) {
  const { entered, left } = one.counts, across = one.line ?? ("in" in one.counts || "out" in one.counts);
  const cells = [across ? "–" : one.inside, one.counts.in ?? entered ?? 0, one.counts.out ?? left ?? 0];
  const head = element("th", "", one.zone);
  head.scope = "row";
  return element("tr", "", head, ...cells.map(value => element("td", "", String(value))),
    element("td", "long", count(one.latest)));
}

function show(stream) {
  if (!cells.has(stream.number)) cells.set(stream.number, cell(stream.number));
  const at = cells.get(stream.number);
  if (stream.timestamp !== at.timestamp) { at.timestamp = stream.timestamp; at.changed = Date.now(); }
  const still = stream.ended || Date.now() - at.changed > 5000;
  at.box.classList.toggle("still", still);
  at.name.textContent = stream.stream;
  at.clock.textContent = time(stream.timestamp) + (stream.ended ? ", ended" : still ? ", no new frames" : "");
  [at.image.width, at.image.height] = stream.size;
  at.image.alt = `${stream.stream}, ${counted(stream.people.length, "person", "people")} with attributes`;
  at.list.ariaLabel = `People in ${stream.stream}`;
  fill(at.figures, figures(stream, still), one => one[0], figure);
  at.table.hidden = !stream.zones.length;
  fill(at.zones, stream.zones, one => one.zone, zone);
  fill(at.list, [...stream.people, ...stream.waiting.map(track_id => ({ track_id }))], one => one.track_id, line);
}

function latest(person) {
  const image = element("img"), several = cells.size > 1 ? ` in ${person.stream}` : "";
  image.src = `${root}crops/${person.number}.jpg?${person.version}`;
  image.alt = `Person ${person.track_id}`;
  const when = person.ended ? `${time(person.first)} to ${time(person.last)}` : `since ${time(person.first)}`;
  return element("li", "", image, element("div", "", element("b", "", `#${person.track_id}`), several,
    element("span", "when", when), chips(person)));
}

async function poll() {
  try {
    const answer = await fetch(`${root}live.json`);
    if (!answer.ok) throw new Error(await answer.text());
    const found = await answer.json(), streams = found.streams.filter(stream => stream.stream !== undefined);
    streams.forEach(show);
    for (const [number, { box }] of cells) {
      if (streams.some(stream => stream.number === number)) continue;
      box.remove();
      cells.delete(number);
    }
    const people = streams.reduce((sum, stream) => sum + stream.people.length + stream.waiting.length, 0);
    $("state").textContent = streams.length
      ? `${counted(streams.length, "stream")}, ${counted(people, "person", "people")} in view`
      : "Waiting for the first frame.";
    // Times of a person in view change with each frame, but are not shown.
    fill($("latest"), found.latest.map(one => one.ended ? one : { ...one, last: 0 }), one => one.number, latest);
    $("aside").hidden = !found.latest.length;
    fill($("problems"), found.problems, one => one, one => element("li", "", one));
    $("problems").hidden = !found.problems.length;
  } catch (error) {
    $("state").textContent = /token/.test(error.message) ? error.message : "No answer from the pipeline; retrying.";
    for (const { box } of cells.values()) box.classList.add("still");
  }
  setTimeout(poll, 500);
}
poll();
