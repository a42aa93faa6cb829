
const slides = [...document.querySelectorAll("section")];
let now = 0;

/* The largest letters with which all of a slide fits into the window; lines that are printed are
   broken only where they would be too small to read from afar. */
function fit() {
  const slide = slides[now], inside = slide.firstElementChild;
  for (const [wrap, smallest] of [["pre", 26], ["pre-wrap", 10]]) {
    slide.style.setProperty("--wrap", wrap);
    for (let size = Math.min(44, innerWidth / 24); size >= smallest; size -= 1) {
      slide.style.setProperty("--size", size + "px");
      const high = inside.scrollHeight + 64 <= slide.clientHeight;
      if (high && inside.scrollWidth <= inside.clientWidth) return;
    }
  }
}

function show(number) {
  now = Math.max(0, Math.min(slides.length - 1, number));
  slides.forEach((slide, place) => slide.classList.toggle("now", place === now));
  document.getElementById("page").textContent = (now + 1) + " / " + slides.length;
  history.replaceState(null, "", "#" + (now + 1));
  document.querySelector(".keys").hidden = now > 0;
  fit();
}

const steps = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1, Home: -1e9, End: 1e9 };
addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "f") document.documentElement.requestFullscreen();
  else if (event.key in steps) { event.preventDefault(); show(now + steps[event.key]); }
});
addEventListener("click", event => {
  if (!event.target.closest("a, summary") && !String(getSelection())) show(now + (event.clientX < innerWidth / 3 ? -1 : 1));
});
addEventListener("resize", fit);
addEventListener("hashchange", () => show(Number(location.hash.slice(1)) - 1));
document.body.classList.add("shown");
show((Number(location.hash.slice(1)) || 1) - 1);
addEventListener("load", fit);
