// The screens of a listening test: start, one item at a time, end. session.js comes before this.

const app = document.getElementById("app");
let keys = {}; // the action of each key on this screen

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function button(id, text, onclick, className = "") {
  return make("button", { type: "button", id, onclick, className }, text);
}

// The name of a key, hidden from screen readers; the start screen lists all keys.
function keyHint(name) {
  const hint = make("kbd", {}, name);
  hint.ariaHidden = "true";
  return hint;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

// A button that stops if `active`, and plays otherwise; its label says which.
function drawPlay(node, active, label, hint) {
  const sign = make("span", { className: "sign" }, active ? "■" : "▶");
  sign.ariaHidden = "true";
  node.replaceChildren(sign, label, ...(hint ? [" ", keyHint(hint)] : []));
}

// One sound with its button. One player plays at a time, from the beginning of its sound.
class Player {
  static current = null;

  constructor(sound, name, hint, heard = false) {
    Object.assign(this, { name, hint, heard, onChange: () => {} });
    this.audio = new Audio(test.sounds[sound]);
    this.button = button("", "", () => this.toggle(), "play");
    this.bar = make("progress", { max: 1, value: 0 });
    this.bar.ariaHidden = "true";
    this.note = make("span", { className: "quiet heard" });
    this.card = make("div", { className: "panel player" }, this.button, this.bar, this.note);
    this.audio.onended = () => this.end();
    this.audio.onerror = () => this.fail();
    this.draw();
  }

  toggle() {
    if (Player.current === this) this.stop();
    else this.play();
  }

  // `then` is called at the end of the sound, but not if it is stopped.
  play(then = () => {}) {
    Player.current?.stop();
    Player.current = this;
    this.then = then;
    this.audio.currentTime = 0;
    this.audio.play().catch((error) => {
      if (error.name !== "AbortError") this.fail(); // aborted: stopped before it began
    });
    this.changed();
    this.follow();
  }

  stop() {
    this.audio.pause();
    if (Player.current === this) Player.current = null;
    this.bar.value = 0;
    this.changed();
  }

  end() {
    this.heard = true;
    this.stop();
    this.then();
  }

  fail() {
    this.stop();
    this.note.hidden = false;
    this.note.textContent = "This browser cannot play the sound. Please use another browser.";
  }

  follow() {
    if (Player.current !== this) return;
    this.bar.value = this.audio.currentTime / (this.audio.duration || Infinity);
    requestAnimationFrame(() => this.follow());
  }

  changed() {
    this.draw();
    this.onChange();
  }

  draw() {
    const active = Player.current === this;
    drawPlay(this.button, active, `${active ? "Stop" : "Play"} ${this.name}`, this.hint);
    this.card.classList.toggle("active", active);
    this.card.classList.toggle("done", this.heard);
    this.note.textContent = this.heard ? "Played to the end" : "Not yet played to the end";
  }
}

// Replaces the screen: a header with the progress, then the nodes.
function show(title, newKeys, ...nodes) {
  Player.current?.stop();
  keys = newKeys;
  const done = order.filter(isDone).length;
  const heading = make("h1", { tabIndex: -1 }, title);
  const whole = make("progress", { className: "whole", max: order.length, value: done });
  whole.ariaLabel = "answered";
  const head = make("header", {},
    make("div", { className: "row spread" }, heading, button("save", "Save results", saveResults)),
    whole,
    make("p", { className: "quiet row spread" },
      make("span", {}, `${done} of ${order.length} answered`),
      make("span", {}, `Listener ${listener}`)));
  app.replaceChildren(head, ...nodes);
  heading.focus(); // a screen reader reads on from here
  window.scrollTo(0, 0);
}

function keptNote() {
  const kept = "Answers are stored in this browser: you can close the page and continue later.";
  const lost = "This browser stores nothing: save the results before you close the page.";
  return make("p", { className: store.works ? "quiet" : "warning" }, store.works ? kept : lost);
}

function showStart() {
  const what = pairs
    ? "You will hear pairs of sounds, A and B, and say which of the two is better."
    : "You will hear one sound at a time and grade it from 1 to 5.";
  const hasText = order.some((item) => item.prompt);
  const text = hasText ? " The text that a sound was made for is shown above it." : "";
  const steps = [
    "Use headphones, in a quiet place.",
    "Set a comfortable volume with the sound below, then leave it as it is.",
    "Play each sound to its end before you answer. You can play it as often as you like.",
    pairs
      ? "If you have no preference, say so: that is an answer too."
      : "Use the whole scale, from 1 for the worst sounds to 5 for the best.",
  ];
  const noun = pairs ? "pair" : "sound";
  const volume = new Player(order.at(-1).sounds[0], "a sound to set the volume", "");
  volume.note.hidden = true;
  const begin = () => goOn(0);
  const label = Object.keys(answers).length ? "Continue" : "Start";
  show("Listening test", { Enter: begin },
    make("section", { className: "panel" },
      make("p", { className: "lead" }, what + text),
      make("p", {}, `${count(order.length, noun)}, about ${count(test.minutes, "minute")}.`),
      make("ol", {}, ...steps.map((step) => make("li", {}, step))),
      volume.card),
    make("h2", { className: "keys-title" }, "Keys"),
    keyTable(),
    make("div", { className: "row" }, button("next", label, begin, "main")),
    keptNote());
}

function keyTable() {
  const rows = [
    ...(pairs ? [["A, B", "play that sound, or stop it"]] : []),
    ["Space", pairs ? "play A, then B, or stop" : "play the sound, or stop it"],
    [`1 to ${test.questions[0].answers.length}`, "answer the marked question, from left to right"],
    ["Enter", "continue"],
  ];
  const cells = ([name, what]) => [make("dt", {}, make("kbd", {}, name)), make("dd", {}, what)];
  return make("dl", { className: "keys" }, ...rows.flatMap(cells));
}

// Shows the next item from `place` on that is not answered, wrapping around, or the end.
function goOn(place) {
  const open = [...order.keys()].filter((other) => !isDone(order[other]));
  if (open.length) new ItemScreen(open.find((other) => other >= place) ?? open[0]).show();
  else showEnd();
}

class ItemScreen {
  constructor(place) {
    this.place = place;
    this.item = order[place];
    this.since = performance.now();
    const known = test.questions.some((question) => answerTo(this.item, question));
    this.players = (pairs ? ["A", "B"] : ["the sound"]).map((name, side) =>
      new Player(this.item.sounds[side], name, pairs ? name : "Space", known));
    for (const player of this.players) player.onChange = () => this.update();
    this.both = button("both", "", () => this.playOrStop(), "play");
    this.forms = test.questions.map((question, number) => this.form(question, number));
    this.status = make("p", { className: "quiet" });
    this.status.ariaLive = "polite";
    this.next = button("next", "Next ", () => this.leave(), "main");
    this.next.append(keyHint("Enter"));
    this.back = button("back", "Back", () => new ItemScreen(place - 1).show());
    this.back.disabled = place === 0;
  }

  show() {
    const { prompt } = this.item;
    this.mark(Math.max(this.unanswered(), 0));
    show(`${pairs ? "Pair" : "Sound"} ${this.place + 1} of ${order.length}`, this.keys(),
      ...(prompt ? [make("blockquote", {}, prompt)] : []),
      make("div", { className: "players" }, ...this.players.map((player) => player.card)),
      ...(pairs ? [make("div", { className: "row middle" }, this.both)] : []),
      ...this.forms,
      make("div", { className: "row spread" }, this.back, this.status, this.next));
    this.update();
  }

  form(question, number) {
    const options = question.answers.map(([value, label], rank) =>
      make("label", {},
        make("input", {
          type: "radio", name: question.name, value,
          checked: answerTo(this.item, question)?.answer === value,
          onchange: () => this.answer(number, value),
        }),
        pairs ? label : `${value} ${label}`,
        ...(pairs ? [keyHint(rank + 1)] : [])));
    const form = make("fieldset", {}, make("legend", {}, question.text),
      make("div", { className: pairs ? "options words" : "options" }, ...options));
    form.addEventListener("focusin", () => this.mark(number));
    return form;
  }

  keys() {
    const found = { Enter: () => this.leave(), " ": () => this.playOrStop() };
    if (pairs) [found.a, found.b] = this.players.map((player) => () => player.toggle());
    test.questions[0].answers.forEach((_, rank) => {
      found[rank + 1] = () => this.forms[this.marked].querySelectorAll("input")[rank].click();
    });
    return found;
  }

  // Stops the player, or plays all sounds one after the other.
  playOrStop() {
    const [first, second] = this.players;
    if (Player.current) Player.current.stop();
    else first.play(() => second?.play());
  }

  // Marks the question that number keys answer.
  mark(number) {
    this.marked = number;
    this.forms.forEach((form, other) => form.classList.toggle("marked", other === number));
  }

  unanswered() {
    return test.questions.findIndex((question) => !answerTo(this.item, question));
  }

  answer(number, value) {
    const seconds = (performance.now() - this.since) / 1000;
    keepAnswer(this.item, test.questions[number], value, seconds);
    this.mark(this.unanswered() < 0 ? number : this.unanswered());
    this.update();
  }

  update() {
    const heard = this.players.every((player) => player.heard);
    const active = this.players.includes(Player.current);
    for (const form of this.forms) form.disabled = !heard;
    this.next.disabled = !heard || !isDone(this.item);
    drawPlay(this.both, active, active ? "Stop" : "Play A, then B", "Space");
    const open = test.questions.filter((question) => !answerTo(this.item, question)).length;
    const text = !heard
      ? `Play ${pairs ? "both sounds" : "the sound"} to the end, then answer.`
      : open ? `${count(open, "question")} to answer.` : "";
    if (this.status.textContent !== text) this.status.textContent = text;
  }

  leave() {
    if (!this.next.disabled) goOn(this.place + 1);
  }
}

function showEnd() {
  const text = `You have answered everything. Save the results, and send the file results-${listener}.csv
    to the person who invited you.`;
  show("Thank you", { Enter: saveResults },
    make("section", { className: "panel" }, make("p", { className: "lead" }, text)),
    make("div", { className: "row spread" },
      button("back", "Back", () => new ItemScreen(order.length - 1).show()),
      button("next", "Save results", saveResults, "main")),
    keptNote());
}

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const pressed = key === " " || key === "Enter";
  if (pressed && target.tagName === "BUTTON") return; // the browser handles it
  if (key === " " && target.checked === false) return; // the browser handles it
  const act = keys[key.length === 1 ? key.toLowerCase() : key];
  if (!act) return;
  event.preventDefault();
  act();
});

showStart();
