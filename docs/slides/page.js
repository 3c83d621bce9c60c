"use strict";
(() => {
  const root = document.documentElement;
  const slides = [...document.querySelectorAll(".slide")];
  let at = 0;
  const numbered = () => Math.min(Math.max(parseInt(location.hash.slice(2), 10) || 1, 1), slides.length) - 1;
  const upright = () => getComputedStyle(document.querySelector("nav")).display === "none";
  function show(to) {
    at = Math.min(Math.max(to, 0), slides.length - 1);
    slides.forEach((slide, i) => slide.classList.toggle("shown", i === at));
    if (!upright()) history.replaceState(null, "", "#s" + (at + 1));
  }
  function notes() {
    const off = root.classList.toggle("noted");
    document.querySelectorAll(".notes").forEach((note) => { note.hidden = !off; });
  }
  function whole() {
    if (document.fullscreenElement) document.exitFullscreen();
    else if (root.requestFullscreen) root.requestFullscreen();
  }
  const keys = {
    ArrowRight: () => show(at + 1), ArrowDown: () => show(at + 1), PageDown: () => show(at + 1),
    ArrowLeft: () => show(at - 1), ArrowUp: () => show(at - 1), PageUp: () => show(at - 1), Backspace: () => show(at - 1),
    Home: () => show(0), End: () => show(slides.length - 1), n: notes, f: whole,
    " ": (event) => show(at + (event.shiftKey ? -1 : 1)), Enter: () => show(at + 1),
  };
  root.classList.add("js");
  addEventListener("keydown", (event) => {
    const go = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!go || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target instanceof HTMLButtonElement && (event.key === " " || event.key === "Enter")) return;
    if (upright() && event.key !== "n") return;
    event.preventDefault();
    go(event);
  });
  document.getElementById("back").addEventListener("click", () => show(at - 1));
  document.getElementById("on").addEventListener("click", () => show(at + 1));
  let swiped = false;
  document.querySelector("main").addEventListener("click", (event) => {
    if (upright() || swiped || event.target.closest(".notes") || String(getSelection())) return;
    show(at + (event.clientX < innerWidth / 3 ? -1 : 1));
  });
  let from = null;
  addEventListener("touchstart", (event) => { swiped = false; from = event.touches.length === 1 ? event.touches[0].clientX : null; }, { passive: true });
  addEventListener("touchend", (event) => {
    if (upright() || from === null) return;
    const far = event.changedTouches[0].clientX - from;
    if (Math.abs(far) > 40) { swiped = true; show(at + (far < 0 ? 1 : -1)); }
  }, { passive: true });
  addEventListener("hashchange", () => show(numbered()));
  show(numbered());
})();
