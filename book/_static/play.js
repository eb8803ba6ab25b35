// Figures that the reader can play with. A code cell tagged `play-NAME` computes a still figure; here the script
// play/NAME.js takes its place once the reader comes near. Without JavaScript, and on paper, the figure stays.
// Scripts are classic ones, which a page opened from a file may load too:
//
//     play.register("NAME", (box, options, still) => { ... });   // fill the empty element `box`; may return a promise
//
// Outside a notebook `<div class="play" data-play="NAME" data-options='{"size": 64}'>picture</div>` does the same.
window.play = (() => {
  "use strict";

  const root = new URL(".", document.currentScript.src);
  const makers = new Map();
  const scripts = new Map();

  /** Load a script of _static once. Returns a promise that is kept when it has run. */
  function load(path) {
    if (!scripts.has(path)) {
      scripts.set(
        path,
        new Promise((done, fail) => {
          const script = document.createElement("script");
          script.src = new URL(path, root);
          script.onload = done;
          script.onerror = () => fail(new Error(`${path} cannot be loaded`));
          document.head.append(script);
        })
      );
    }
    return scripts.get(path);
  }

  function register(name, make) {
    makers.set(name, make);
  }

  function find() {
    const figures = [...document.querySelectorAll("[data-play]")].map((still) => ({ still, name: still.dataset.play }));
    document.querySelectorAll(".cell[class*='tag_play-']").forEach((cell) => {
      const tag = [...cell.classList].find((name) => name.startsWith("tag_play-"));
      const still = cell.querySelector(".cell_output");
      if (still) figures.push({ still, name: tag.slice("tag_play-".length) });
    });
    return figures;
  }

  async function mount({ still, name }) {
    const box = document.createElement("div");
    box.className = `play-box play-${name}`;
    box.setAttribute("role", "group");
    try {
      await load(`play/${name}.js`);
      await makers.get(name)(box, JSON.parse(still.dataset.options || "{}"), still);
    } catch (error) {
      console.error(`the figure ${name} stays a picture:`, error);
      return;
    }
    still.classList.add("play-still");
    still.before(box);
  }

  function start() {
    const figures = find();
    const near = new IntersectionObserver(
      (entries) =>
        entries
          .filter((entry) => entry.isIntersecting)
          .forEach((entry) => {
            near.unobserve(entry.target);
            mount(figures.find((figure) => figure.still === entry.target));
          }),
      { rootMargin: "400px" }
    );
    figures.forEach((figure) => near.observe(figure.still));
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();

  return { load, register };
})();
