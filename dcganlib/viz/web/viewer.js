// A grid of samples, one of them large, and the controls around them: dcgan.view(box, generator, options).
// Options: count and columns of the grid, seed, directions of the sliders, walk and saves (whether these are offered).
(() => {
  "use strict";

  const GAP = 2; // pixels between two images, as `dcganlib sample` leaves
  const LARGE = 512; // pixels that a saved image has at least
  const STYLE = `
    .dcgan-view { display: grid; gap: 0.75rem 1.5rem; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
    .dcgan-view > .wide { grid-column: 1 / -1; }
    .dcgan-view canvas { display: block; image-rendering: pixelated; width: 100%; }
    .dcgan-view > div > output { display: block; }
    .dcgan-pick { align-self: start; cursor: pointer; position: relative; }
    .dcgan-mark { outline: 3px solid var(--pst-color-primary); pointer-events: none; position: absolute; }
    .dcgan-row { align-items: end; display: flex; flex-wrap: wrap; gap: 0.5rem 1rem; }
    .dcgan-row label, .dcgan-slider { display: block; }
    .dcgan-row label > :is(input, select) { margin-left: 0.25rem; }
    .dcgan-row input[type="number"] { width: 8.5em; }
    .dcgan-sliders { display: grid; gap: 0 1.5rem; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)); }
    .dcgan-slider input { display: block; height: 2rem; margin: 0; width: 100%; }
    .dcgan-slider span { display: flex; justify-content: space-between; }
    @media (max-width: 599px) { .dcgan-view { grid-template-columns: minmax(0, 1fr); } }`;

  function addStyle() {
    if (!document.getElementById("dcgan-style")) {
      document.head.append(element("style", { id: "dcgan-style", textContent: STYLE }));
    }
  }

  /** An element with properties, attributes (names with a dash, and role) and children. */
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.includes("-") || name === "role" || name === "for") made.setAttribute(name, value);
      else made[name] = value;
    }
    made.append(...children);
    return made;
  }

  const button = (text, onclick) => element("button", { type: "button", onclick }, text);
  const labelled = (text, input) => element("label", {}, `${text} `, input);

  /** A slider with its name above and its value beside it: {box, input}. */
  function slider(name, { min, max, step, value = 0 }, onchange) {
    const shown = element("output", { "aria-live": "off" });
    const input = element("input", { type: "range", min, max, step, value, "aria-label": name });
    const say = () => (shown.textContent = Number(input.value).toFixed(step < 0.1 ? 2 : 1));
    input.addEventListener("input", () => (say(), onchange(Number(input.value))));
    say();
    const set = (next) => ((input.value = next), say());
    return { box: element("label", { className: "dcgan-slider" }, element("span", {}, name, shown), input), set };
  }

  /** Call a function at the next frame, once however often it is asked for. */
  function once(work) {
    let waits = false;
    return () => {
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => ((waits = false), work()));
    };
  }

  const breath = () => new Promise((done) => setTimeout(done));

  /** Draw latents into a canvas as a grid, a few at a time, until `goesOn` says no. Returns whether all are drawn. */
  async function drawGrid(canvas, generator, latents, labels, columns, goesOn = () => true) {
    const side = generator.imageSize + GAP;
    const width = columns * side - GAP;
    const height = Math.ceil(latents.length / columns) * side - GAP;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.fillStyle = "#808080";
    let begun = performance.now();
    for (let i = 0; i < latents.length; i++) {
      const pixels = dcgan.toPixels(generator.draw(latents[i], labels[i]), generator);
      if (i === 0) context.fillRect(0, 0, width, height);
      context.putImageData(pixels, (i % columns) * side, Math.floor(i / columns) * side);
      if (performance.now() - begun < 30) continue;
      await breath();
      if (!goesOn()) return false;
      begun = performance.now();
    }
    return true;
  }

  function save(canvas, name) {
    canvas.toBlob((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${name}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }

  /** A canvas magnified by a whole number, without smoothing. */
  function enlarged(canvas) {
    const factor = Math.ceil(LARGE / canvas.width);
    const large = element("canvas", { width: factor * canvas.width, height: factor * canvas.height });
    const context = large.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, 0, 0, large.width, large.height);
    return large;
  }

  /** The latent moved along directions, back at its own norm. */
  function moved(z, directions, strengths) {
    const there = dcgan.combine([1, z], ...directions.map(({ vector }, index) => [strengths[index], vector]));
    return dcgan.scaled(there, dcgan.norm(z) / dcgan.norm(there));
  }

  /** A whole number from 0 to below 2^32, whatever was typed. */
  const asSeed = (text) => Math.min(Math.max(Math.floor(Number(text)) || 0, 0), 2 ** 32 - 1);

  function view(box, generator, options = {}) {
    const { count = 64, columns = 8, walk = true, saves = true } = options;
    const directions = options.directions ?? generator.directions;
    const strengths = directions.map(() => 0);
    const state = { seed: options.seed ?? 0, picked: 0, label: -1, end: 1, along: 0, latents: [] };
    const named = generator.classes.length > 0;
    const labelOf = (index) => (!named ? 0 : state.label < 0 ? index % generator.classes.length : state.label);
    addStyle();
    const grid = element("canvas", { role: "img" });
    const mark = element("div", { className: "dcgan-mark" });
    const pick = element("div", { className: "dcgan-pick" }, grid, mark);
    const large = element("canvas", { role: "img" });
    const said = element("output", { "aria-live": "polite" });

    function latent() {
      const here = moved(state.latents[state.picked], directions, strengths);
      return walk && state.along ? dcgan.slerp(here, state.latents[state.end], state.along) : here;
    }

    const showLarge = once(() => {
      const label = labelOf(state.picked);
      dcgan.paint(large, generator.draw(latent(), label), generator);
      const what = named ? `, class ${generator.classes[label]}` : "";
      const how = strengths.some(Boolean) || state.along ? ", changed by the sliders" : "";
      const says = `Image ${state.picked + 1} of seed ${state.seed}${what}${how}`;
      if (said.textContent !== says) said.textContent = says; // else it would be read out at each step of a slider
      large.setAttribute("aria-label", says);
    });

    let round = 0;
    async function showGrid() {
      const mine = ++round;
      // As many as `dcganlib sample` draws, since the last numbers of a draw depend on its length.
      state.latents = dcgan.sampleZ(state.seed, Math.max(count, 64), generator.latentDim, generator.prior);
      showLarge();
      grid.setAttribute("aria-label", `${count} generated images of seed ${state.seed}`);
      box.setAttribute("aria-busy", "true");
      const labels = Array.from({ length: count }, (_, index) => labelOf(index));
      const shown = state.latents.slice(0, count);
      const done = await drawGrid(grid, generator, shown, labels, columns, () => mine === round);
      if (done) box.removeAttribute("aria-busy");
    }

    const sliders = directions.map(({ name }, index) => {
      const far = 0.6 * Math.sqrt(generator.latentDim / (generator.prior === "uniform" ? 3 : 1));
      const range = { min: -far.toFixed(1), max: far.toFixed(1), step: 0.1 };
      return slider(name, range, (value) => ((strengths[index] = value), showLarge()));
    });
    const walked = slider("Walk", { min: 0, max: 1, step: 0.01 }, (value) => ((state.along = value), showLarge()));

    function reset() {
      strengths.fill(0);
      state.along = 0;
      [...sliders, walked].forEach((one) => one.set(0));
      showLarge();
    }

    const rows = Math.ceil(count / columns);
    function choose(index) {
      state.picked = Math.min(Math.max(index || 0, 0), count - 1);
      number.value = state.picked + 1;
      const across = (state.picked % columns) / columns;
      const down = Math.floor(state.picked / columns) / rows;
      Object.assign(mark.style, { left: `${100 * across}%`, top: `${100 * down}%` });
      showLarge();
    }
    Object.assign(mark.style, { width: `${100 / columns}%`, height: `${100 / rows}%` });
    grid.addEventListener("click", (event) => {
      const across = Math.floor((event.offsetX / grid.clientWidth) * columns);
      choose(Math.floor((event.offsetY / grid.clientHeight) * rows) * columns + across);
    });

    const whole = (max, value, use) =>
      element("input", { type: "number", min: 1, max, value, onchange: (event) => use(Number(event.target.value)) });
    const seed = element("input", { type: "number", min: 0, max: 2 ** 32 - 1, value: state.seed });
    const number = whole(count, 1, (value) => choose(value - 1));
    const reseed = (next) => {
      seed.value = state.seed = asSeed(next);
      showGrid();
    };
    seed.addEventListener("change", () => reseed(seed.value));
    const controls = [
      labelled("Seed", seed),
      button("New seed", () => reseed(Math.floor(Math.random() * 2 ** 32))),
    ];
    if (named) {
      const classes = generator.classes.map((name, value) => element("option", { value }, name));
      const choice = element("select", {}, element("option", { value: -1 }, "each in turn"), ...classes);
      choice.addEventListener("change", () => ((state.label = Number(choice.value)), showGrid()));
      controls.push(labelled("Class", choice));
    }
    controls.push(labelled("Image", number));
    if (saves) {
      const name = () => `${generator.name}-seed${state.seed}`;
      controls.push(button("Save image", () => save(enlarged(large), `${name()}-${state.picked + 1}`)));
      controls.push(button("Save grid", () => save(grid, name())));
    }

    const beside = [large, said, element("div", { className: "dcgan-sliders" }, ...sliders.map((one) => one.box))];
    const below = [];
    if (walk) {
      const end = whole(count, state.end + 1, (value) => {
        state.end = Math.min(Math.max(Math.floor(value) - 1 || 0, 0), count - 1);
        end.value = state.end + 1;
        showLarge();
      });
      beside.push(walked.box);
      below.push(labelled("to image", end));
    }
    if (walk || directions.length) below.push(button("Reset sliders", reset));
    if (below.length) beside.push(element("div", { className: "dcgan-row play-controls" }, ...below));
    const parts = [
      element("div", { className: "dcgan-row play-controls wide" }, ...controls),
      pick,
      element("div", {}, ...beside),
    ];
    box.replaceChildren(element("div", { className: "dcgan-view" }, ...parts));
    choose(0);
    return showGrid();
  }

  Object.assign(dcgan, { addStyle, asSeed, button, drawGrid, element, labelled, moved, once, slider, view });
})();
