// The stored generators draw in the page: digits, faces, walks, sums and directions. The weights, up to 1 MB a page,
// are loaded when the reader presses the button. tools/play_data.py makes them, and puts them beside this script
// together with generator.js and viewer.js of dcganlib.viz.web.
(() => {
  "use strict";

  const NORM = 10; // of most latents, 100 normal numbers
  const EXAMPLES = [1, 3, 10];

  /** Load the weights of "digits" or "faces" once: a promise of the generator. */
  const generators = new Map();
  function generatorOf(name) {
    if (!generators.has(name)) {
      const read = async () => {
        await play.load("play/generator.js");
        await play.load("play/viewer.js");
        await play.load(`play/generator-${name}.js`);
        return dcgan.load(dcgan.packed[name]);
      };
      generators.set(name, read());
    }
    return generators.get(name);
  }

  // --- Latents ----------------------------------------------------------------------------------------------

  const onShell = (z) => dcgan.scaled(z, NORM / dcgan.norm(z));
  const mean = (latents) => dcgan.combine(...latents.map((z) => [1 / latents.length, z]));

  /** The first n of a list, another choice for each round. */
  function chosen(list, n, round) {
    const order = dcgan.sampleZ(round, 1, Math.max(16, list.length))[0];
    const shuffled = [...list.keys()].sort((i, j) => order[i] - order[j]);
    return shuffled.slice(0, n).map((index) => list[index]);
  }

  /** The means of the examples a, b and c, and a - b + c at the norm of a sample. */
  function sum(a, b, c) {
    const means = [a, b, c].map(mean);
    return { means, result: onShell(dcgan.combine([1, means[0]], [-1, means[1]], [1, means[2]])) };
  }

  /** A latent moved along directions and put at a norm. */
  function along(z, ways, strengths, norm) {
    const there = dcgan.combine([1, z], ...ways.map((way, index) => [strengths[index], way]));
    return dcgan.scaled(there, norm / dcgan.norm(there));
  }

  // --- Views ------------------------------------------------------------------------------------------------

  const make = (...given) => dcgan.element(...given);
  const row = (...children) => make("div", { className: "dcgan-row play-controls" }, ...children);

  /** A canvas for images side by side, with what it shows for a reader who does not see it: {canvas, show}. */
  function strip(generator, columns) {
    const canvas = make("canvas", { role: "img" });
    let round = 0;
    const show = (latents, says) => {
      const mine = ++round;
      canvas.setAttribute("aria-label", says);
      return dcgan.drawGrid(canvas, generator, latents, latents.map(() => 0), columns, () => mine === round);
    };
    return { canvas, show };
  }

  function seedControls(redraw, name) {
    const input = make("input", { type: "number", min: 0, max: 2 ** 32 - 1, value: 0 });
    const set = (value) => ((input.value = dcgan.asSeed(value)), redraw(Number(input.value)));
    input.addEventListener("change", () => set(input.value));
    return [dcgan.labelled("Seed", input), dcgan.button(name, () => set(Math.floor(Math.random() * 2 ** 32)))];
  }

  /** Straight and along the arc between two faces. */
  function walk(box, generator) {
    const STEPS = 9;
    let ends;
    let t = 0.5;
    const kinds = ["straight", "along the arc"].map((name, index) => {
      const path = (at) => (index ? dcgan.slerp : dcgan.lerp)(...ends, at);
      const said = make("output", { "aria-live": "off" });
      return { name, path, all: strip(generator, STEPS), one: strip(generator, 1), said };
    });
    const showOne = dcgan.once(() =>
      kinds.forEach(({ name, path, one, said }) => {
        const z = path(t);
        const where = `Norm ${dcgan.norm(z).toFixed(1)}, ${name}`;
        said.textContent = where;
        one.show([z], `A face at ${t.toFixed(2)} of the way, ${where.toLowerCase()}`);
      })
    );
    const showAll = (seed) => {
      ends = dcgan.sampleZ(seed, 2, generator.latentDim, generator.prior);
      showOne();
      kinds.forEach(({ name, path, all }) =>
        all.show(Array.from({ length: STEPS }, (_, i) => path(i / (STEPS - 1))), `Nine faces on the way, ${name}`)
      );
    };
    const position = dcgan.slider("Position", { min: 0, max: 1, step: 0.01, value: t }, (at) => ((t = at), showOne()));
    const large = kinds.map(({ one, said }) => make("div", {}, one.canvas, said));
    const rows = kinds.map(({ name, all }) => make("div", {}, `${name[0].toUpperCase()}${name.slice(1)}`, all.canvas));
    box.append(
      row(...seedControls(showAll, "New ends")),
      ...rows,
      position.box,
      make("div", { className: "draw-pair" }, ...large)
    );
    showAll(0);
  }

  /** a - b + c, with 1, 3 or 10 examples for each. */
  function arithmetic(box, generator, { tasks, bank }) {
    const latents = dcgan.sampleZ(bank.seed, bank.count, generator.latentDim, generator.prior);
    const state = { task: 0, n: EXAMPLES[1], round: 0 };
    const parts = ["a", "b", "c"].map((name) => ({ name, says: make("span"), part: null, shown: make("div") }));
    const result = strip(generator, 1);
    const said = make("output", { "aria-live": "polite" });
    function show() {
      const task = tasks[state.task];
      const examples = task.examples.map((pool, index) =>
        chosen(pool, state.n, 3 * state.round + index).map((number) => latents[number])
      );
      const { means, result: z } = sum(...examples);
      parts.forEach((part, index) => {
        part.part = strip(generator, state.n + 1);
        part.says.textContent = `${part.name}: ${task.terms[index]}; last, the mean`;
        part.shown.replaceChildren(part.part.canvas);
        const words = `${state.n} examples of ${task.terms[index]}, and the image of their mean`;
        part.part.show([...examples[index], onShell(means[index])], words);
      });
      said.textContent = `a − b + c should be: ${task.terms[3]}`;
      result.show([z], `The image of a − b + c, which should be ${task.terms[3]}`);
    }
    const options = tasks.map(({ name }, value) => make("option", { value }, name));
    const pick = make("select", { onchange: () => ((state.task = Number(pick.value)), show()) }, ...options);
    const numbers = EXAMPLES.map((value) => make("option", { value, selected: value === state.n }, value));
    const count = make("select", { onchange: () => ((state.n = Number(count.value)), show()) }, ...numbers);
    box.append(
      row(
        dcgan.labelled("To be gained", pick),
        dcgan.labelled("Examples", count),
        dcgan.button("Other examples", () => (state.round++, show()))
      ),
      make(
        "div",
        { className: "draw-sum" },
        make("div", {}, ...parts.map(({ says, shown }) => make("div", {}, says, shown))),
        make("div", {}, result.canvas, said)
      )
    );
    show();
  }

  /** Attribute directions and the norm of a few faces at once. */
  function directions(box, generator, { ways }) {
    const FACES = 4;
    const strengths = ways.map(() => 0);
    let latents;
    let norm = NORM;
    const faces = strip(generator, FACES);
    const show = dcgan.once(() => {
      const vectors = ways.map(({ vector }) => vector);
      const says = ways.map(({ name }, index) => `${name} ${strengths[index].toFixed(1)}`).join(", ");
      const moved = latents.map((z) => along(z, vectors, strengths, norm));
      faces.show(moved, `${FACES} faces. ${says}, norm ${norm.toFixed(1)}`);
    });
    const sliders = ways.map(({ name }, index) =>
      dcgan.slider(name, { min: -6, max: 6, step: 0.5 }, (value) => ((strengths[index] = value), show()))
    );
    const range = { min: 0.5, max: 20, step: 0.5, value: NORM };
    const length = dcgan.slider("Norm", range, (value) => ((norm = value), show()));
    const begin = (seed) => {
      latents = dcgan.sampleZ(seed, FACES, generator.latentDim, generator.prior);
      show();
    };
    const reset = dcgan.button("Reset sliders", () => {
      strengths.fill(0);
      norm = NORM;
      sliders.forEach((one) => one.set(0));
      length.set(NORM);
      show();
    });
    box.append(
      row(...seedControls(begin, "New faces"), reset),
      faces.canvas,
      make("div", { className: "dcgan-sliders draw-wide" }, ...[...sliders, length].map((one) => one.box))
    );
    begin(0);
  }

  /** A grid, one image large, and sliders: the generator's own directions or, of faces, those with a name. */
  function samples(box, generator, { ways = generator.directions.slice(0, 4) }) {
    dcgan.view(box, generator, { directions: ways, walk: false, saves: false });
  }

  const PRESETS = {
    digits: { weights: "digits", says: "Draw digits here", make: samples },
    faces: { weights: "faces", says: "Draw faces here", make: samples },
    walk: { weights: "faces", says: "Walk between faces here", make: walk },
    arithmetic: { weights: "faces", says: "Add and subtract faces here", make: arithmetic },
    directions: { weights: "faces", says: "Move faces here", make: directions },
  };

  const STYLE = `
    .play-draw canvas { image-rendering: pixelated; width: 100%; }
    .draw-pair { display: grid; gap: 1rem; grid-template-columns: repeat(2, minmax(0, 16rem)); }
    .draw-sum { align-items: center; display: grid; gap: 1rem; grid-template-columns: minmax(0, 3fr) minmax(0, 1fr); }
    @media (max-width: 599px) {
      .draw-sum { grid-template-columns: minmax(0, 1fr); }
      .draw-sum > :last-child { max-width: 12rem; }
    }
    .draw-wide { grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)) !important; }`;

  play.register("draw", (box, { preset }) => {
    const { weights, says, make: fill } = PRESETS[preset];
    box.setAttribute("aria-label", says);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `${says} (loads up to 1 MB)`;
    box.append(button);
    button.addEventListener("click", async () => {
      button.disabled = true;
      button.textContent = "Reading the weights …";
      try {
        const generator = await generatorOf(weights);
        dcgan.addStyle();
        if (!document.getElementById("draw-style")) {
          document.head.append(make("style", { id: "draw-style", textContent: STYLE }));
        }
        box.replaceChildren();
        fill(box, generator, dcgan.packed[weights].extras);
        box.querySelector("input, select, button").focus();
      } catch (error) {
        button.textContent = "The weights cannot be read.";
        throw error;
      }
    });
  });

  play.draw = { PRESETS, along, chosen, generatorOf, sum };
})();
