"use strict";
const STATES = ["", "yes", "no", "unknown"], WORDS = { y: "yes", n: "no", u: "unknown" };
const by = id => document.getElementById(id);
const chips = [...document.querySelectorAll(".filter")], grid = by("people");
const wanted = new Map();  // attribute number -> state

const people = [...document.querySelectorAll(".person")].map(card => {
  const states = new Map(), likely = new Map();
  for (const [, number, state, percent] of card.dataset.states.matchAll(/(\d+)([ynu])(\d+)/g)) {
    states.set(+number, WORDS[state]);
    likely.set(+number, percent / 100);
  }
  const words = [".words h3", ".yes"].map(part => card.querySelector(part).textContent).join(" ").toLowerCase();
  return { card, states, likely, words, first: +card.dataset.first, last: +card.dataset.last };
});

// Mean certainty of the attributes set as filters, or of all attributes.
function certainty(person) {
  const numbers = wanted.size ? [...wanted.keys()] : [...person.states.keys()];
  const known = numbers.filter(number => person.likely.has(number));
  const sum = known.reduce((total, number) => total + Math.abs(person.likely.get(number) - 0.5), 0);
  return known.length ? 0.5 + sum / known.length : 0;
}

const ORDERS = {
  first: (a, b) => a.first - b.first,
  last: (a, b) => b.last - a.last,
  sure: (a, b) => certainty(b) - certainty(a),
  unsure: (a, b) => certainty(a) - certainty(b),
};

function update() {
  const terms = by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const person of people) {
    const fits = [...wanted].every(([number, state]) => person.states.get(number) === state)
      && terms.every(term => person.words.includes(term));
    person.card.hidden = !fits;
    shown += fits;
  }
  by("found").textContent = !people.length ? "" : shown === people.length ? `${shown} ${shown === 1 ? "person" : "people"} shown`
    : `${shown} of ${people.length} ${people.length === 1 ? "person" : "people"} shown`;
  if (chips.length) by("set").textContent = wanted.size ? `Attributes, ${wanted.size} ${wanted.size === 1 ? "filter" : "filters"}` : "Attributes";
  by("nobody").hidden = shown > 0 || !people.length;
}

function sort() {
  const order = ORDERS[by("sort").value];
  grid.append(...people.slice().sort(order).map(person => person.card));
}

function paint(chip) {
  const number = +chip.dataset.attribute, state = wanted.get(number) ?? "";
  const count = people.filter(person => person.states.get(number) === (state || "yes")).length;
  chip.className = `filter ${state} ${count ? "" : "empty"}`;
  chip.querySelector("small").textContent = state && state !== "yes" ? `${state} ${count}` : count;
  chip.setAttribute("aria-pressed", state ? "true" : "false");
  chip.setAttribute("aria-label", `${chip.querySelector(".name").textContent}: ${state || "any"}, ${count}`);
}

for (const chip of chips) {
  chip.append(document.createElement("small"));
  chip.addEventListener("click", () => {
    const number = +chip.dataset.attribute;
    const next = STATES[(STATES.indexOf(wanted.get(number) ?? "") + 1) % STATES.length];
    if (next) wanted.set(number, next); else wanted.delete(number);
    paint(chip);
    update();
    if (by("sort").value.endsWith("sure")) sort();
  });
  paint(chip);
}

if (people.length) {
  const clear = () => {
    wanted.clear();
    chips.forEach(paint);
    by("search").value = "";
    by("sort").value = "first";
    sort();
    update();
  };
  by("search").addEventListener("input", update);
  by("sort").addEventListener("change", sort);
  by("controls").addEventListener("submit", event => event.preventDefault());
  by("controls").addEventListener("reset", event => { event.preventDefault(); clear(); });
  by("again").addEventListener("click", clear);
  by("filters").open = innerWidth > 600;
  sort();
}
update();

const player = by("player"), video = by("video");
grid.addEventListener("click", event => {
  const link = event.target.closest(".side")?.querySelector(".jump");
  if (!link) return;
  event.preventDefault();
  by("what").textContent = link.title;
  by("trouble").textContent = "";
  video.src = link.getAttribute("href");
  player.showModal();
  video.play().catch(() => {});
});
for (const link of grid.querySelectorAll(".jump")) link.parentElement.querySelector(".crop").classList.add("opens");
video.addEventListener("error", () => {
  if (video.hasAttribute("src"))
    by("trouble").textContent = `${decodeURIComponent(video.getAttribute("src").split("#")[0])} cannot be played: the file is missing, or this browser does not support its format.`;
});
by("close").addEventListener("click", () => player.close());
player.addEventListener("close", () => { video.pause(); video.removeAttribute("src"); video.load(); });
player.addEventListener("click", event => { if (event.target === player) player.close(); });
