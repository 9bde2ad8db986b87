"use strict";
// Players: one plays at a time; a line moves over its picture.

let playing = null;

function follow() {
  if (!playing) return;
  const sound = playing.closest(".sound");
  const share = Math.min(1, playing.currentTime / Number(sound.dataset.seconds));
  sound.querySelector("i").style.left = `${100 * share}%`;
  requestAnimationFrame(follow);
}

document.addEventListener("play", (event) => {
  if (playing && playing !== event.target) playing.pause();
  playing = event.target;
  playing.closest(".sound").classList.add("playing");
  follow();
}, true);
for (const name of ["pause", "ended"]) {
  document.addEventListener(name, (event) => {
    event.target.closest(".sound").classList.remove("playing");
    if (playing === event.target) playing = null;
  }, true);
}
document.addEventListener("click", (event) => {
  const picture = event.target.closest(".mel");
  if (!picture) return;
  const sound = picture.closest(".sound");
  const audio = sound.querySelector("audio");
  if (event.target.closest("button") && !audio.paused) {
    audio.pause();
    return;
  }
  if (!event.target.closest("button")) {
    const box = picture.getBoundingClientRect();
    audio.currentTime = (event.clientX - box.left) / box.width * Number(sound.dataset.seconds);
  }
  audio.play().catch((error) => {
    if (error.name !== "AbortError") throw error; // aborted: paused before it began
  });
});
