// A listener's session: the order of items and sides, the answers, and the way to save them.
// Everything is in the page; answers stay in this browser until they are saved.
"use strict";

const test = JSON.parse(document.getElementById("test").textContent);
const pairs = test.kind === "pairs";

// Storage in this browser. Where it is disabled, the page says so.
const store = {
  works: true,
  get(name) {
    try {
      return localStorage.getItem(`listening-${test.id}-${name}`);
    } catch {
      this.works = false;
      return null;
    }
  },
  set(name, value) {
    try {
      localStorage.setItem(`listening-${test.id}-${name}`, value);
    } catch {
      this.works = false;
    }
  },
};

const listener = findListener();
const order = orderFor(listener);
const answers = JSON.parse(store.get(`answers-${listener}`) || "{}"); // item/question -> answer

function findListener() {
  const drawn = () => "p" + crypto.getRandomValues(new Uint32Array(1))[0].toString(16);
  const named = new URLSearchParams(location.search).get("listener");
  const name = named || store.get("listener") || drawn();
  const plain = name.replace(/[^A-Za-z0-9_.-]/g, "-").slice(0, 64);
  store.set("listener", plain);
  return plain;
}

// Items and sides in an order that depends only on the test and the listener.
function orderFor(name) {
  const draw = generator(`${test.id}/${name}`);
  const shuffled = (list) => {
    const found = [...list];
    for (let last = found.length - 1; last > 0; last--) {
      const place = Math.floor(draw() * (last + 1));
      [found[last], found[place]] = [found[place], found[last]];
    }
    return found;
  };
  return shuffled(test.items).map((item) => ({ ...item, sounds: shuffled(item.sounds) }));
}

// Numbers in [0, 1): mulberry32, seeded by the FNV-1a hash of a text.
function generator(text) {
  let state = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) {
    state = Math.imul(state ^ byte, 0x01000193);
  }
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const answerTo = (item, question) => answers[`${item.name}/${question.name}`];
const isDone = (item) => test.questions.every((question) => answerTo(item, question));

function keepAnswer(item, question, answer, seconds) {
  answers[`${item.name}/${question.name}`] = { answer, seconds };
  store.set(`answers-${listener}`, JSON.stringify(answers));
}

function saveResults() {
  const rows = [test.columns];
  order.forEach((item, place) => {
    for (const question of test.questions) {
      const found = answerTo(item, question);
      if (!found) continue;
      rows.push([
        ...[listener, item.name, test.kind, question.name, found.answer],
        ...[found.seconds.toFixed(1), place + 1, item.sounds.join(" ")],
      ]);
    }
  });
  const text = rows.map((row) => row.join(",") + "\n").join("");
  const href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  make("a", { href, download: `results-${listener}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}
