// Keyboard and timeline of the studio.
(() => {
  const typing = (element) =>
    element.closest("input, textarea, select, button, a, [contenteditable], [role=slider], table");

  // Space plays or pauses the sound that was played last, or the first one.
  let last = null;
  const playButton = (card) => card && card.querySelector('button[aria-label="Play"], button[aria-label="Pause"]');
  document.addEventListener("click", (event) => {
    const card = event.target.closest && event.target.closest(".card");
    if (card) last = card;
  });
  document.addEventListener("keydown", (event) => {
    if (event.code !== "Space" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing(event.target)) return;
    const card = last && last.isConnected && last.offsetParent ? last :
      [...document.querySelectorAll(".card")].find((each) => each.offsetParent);
    const button = playButton(card);
    if (button) { event.preventDefault(); button.click(); }
  });

  // Events of the timeline are dragged, or moved with the arrow keys.
  let moves = 0;
  const send = (row, start) => {
    const field = document.querySelector("#moved textarea, #moved input");
    field.value = JSON.stringify({ row, start, move: ++moves });
    field.dispatchEvent(new Event("input", { bubbles: true }));
    // the timeline is drawn anew, so the event that had the focus is gone
    const refocus = new MutationObserver(() => {
      const group = document.querySelector(`svg.timeline .event[data-row="${row}"]`);
      if (group && !document.activeElement.closest("svg.timeline")) group.focus();
    });
    refocus.observe(document.querySelector("#timeline"), { childList: true, subtree: true });
    setTimeout(() => refocus.disconnect(), 3000);
  };
  const moveTo = (group, start) => {
    const svg = group.closest("svg");
    const seconds = Number(svg.dataset.seconds), scale = Number(svg.dataset.scale);
    const at = Math.min(Math.max(start, 0), seconds - 0.05);
    group.setAttribute("transform", `translate(${(at - Number(group.dataset.start)) * scale} 0)`);
    return Math.round(at * 20) / 20;
  };
  document.addEventListener("pointerdown", (event) => {
    const group = event.target.closest && event.target.closest("svg.timeline .event");
    if (!group) return;
    event.preventDefault();
    group.focus();
    const svg = group.closest("svg"), box = svg.getBoundingClientRect();
    const perPixel = svg.viewBox.baseVal.width / box.width / Number(svg.dataset.scale);
    const from = event.clientX;
    let start = Number(group.dataset.start);
    const move = (e) => { start = moveTo(group, Number(group.dataset.start) + (e.clientX - from) * perPixel); };
    const stop = () => {
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", stop);
      removeEventListener("pointercancel", stop);
      if (start !== Number(group.dataset.start)) send(Number(group.dataset.row), start);
    };
    addEventListener("pointermove", move);
    addEventListener("pointerup", stop);
    addEventListener("pointercancel", stop);
  });
  document.addEventListener("keydown", (event) => {
    const group = event.target.closest && event.target.closest("svg.timeline .event");
    const step = { ArrowLeft: -0.1, ArrowRight: 0.1, PageDown: -1, PageUp: 1 }[event.key];
    if (!group || !step) return;
    event.preventDefault();
    send(Number(group.dataset.row), moveTo(group, Number(group.dataset.start) + step));
  });
})();
