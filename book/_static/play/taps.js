// One layer, a convolution or a transposed one, in one dimension or two: which pixels each weight of the kernel joins,
// and the same layer as a matrix. The weights are 1, 2, 3, … as in the text.
play.register("taps", async (box, options) => {
  "use strict";
  await Promise.all([play.load("play/sizes.js"), play.load("play/elements.js")]);
  const { choice, drawn, element, field, labelled } = play.elements;

  const COLOURS = ["#0072b2", "#56b4e9", "#e69f00", "#d55e00", "#009e73"];
  const LIMITS = { 1: 20, 2: 10 }; // pixels of the larger map, with its padding
  const STYLE = `
.play-taps { container-type: inline-size; text-align: left; }
.play-taps label > span { display: block; font-size: 0.8rem; line-height: 1.3; }
.play-taps input[type="number"] { padding-inline: 0.4rem 0; width: 3.4rem; }
.play-taps .play-controls { align-items: end; gap: 0.4rem 0.5rem; }
.play-taps svg { height: auto; margin: 0.5rem auto; touch-action: manipulation; width: 100%; }
.play-taps svg text { dominant-baseline: central; font-size: 0.42px; pointer-events: none; text-anchor: middle; }
.play-taps svg .outside { fill: var(--pst-color-text-base); }
.taps-both { align-items: center; display: flex; flex-wrap: wrap; gap: 0.5rem 1.5rem; justify-content: center; }
.taps-both > div { flex: 1 1 14rem; min-width: 0; text-align: center; }
.play-taps .taps-both svg { max-height: 22rem; }
.play-taps output { display: block; min-height: 3.2rem; }
.play-taps p[hidden] { display: none; }
.taps-error { border-left: 4px solid #d55e00; padding-left: 0.6rem; }
.play-taps input[type="range"] { min-height: 2rem; }`;

  const state = {
    ...{ kind: "convolution", dimensions: 1, size: 8, kernel: 4, stride: 2, padding: 1, output_padding: 0, dilation: 1 },
    ...options,
    follow: "output",
    place: [1, 1],
  };
  const colour = (tap) => COLOURS[tap % COLOURS.length];
  const ink = (fill) => (fill === COLOURS[0] ? "white" : "black");
  const inside = (place, size) => place >= 0 && place < size;

  const settings = element("div", { className: "play-controls" });
  const pointer = element("div", { className: "play-controls" });
  const pixels = element("div");
  const asMatrix = element("div");
  const sentence = element("output", { "aria-live": "polite" });
  const problem = element("p", { className: "taps-error", "aria-live": "polite", hidden: true });
  const both = element("div");
  both.append(pixels, asMatrix);
  box.setAttribute("aria-label", "The weights of one layer");
  box.append(element("style", { textContent: STYLE }), settings, problem, pointer, sentence, both);

  // --- What is joined ---------------------------------------------------------------------------------

  /** Sizes and products of a row: {size, out, taps}. Throws where the layer is illegal or too large to draw. */
  function layer() {
    const transposed = state.kind === "transposed";
    const one = { ...state, output_padding: transposed ? state.output_padding : 0 };
    const out = play.sizes.outSize(state.size, one, transposed);
    const widest = Math.max(state.size + (transposed ? 0 : 2 * state.padding), out + (transposed ? 2 * state.padding : 0));
    if (widest > LIMITS[state.dimensions]) {
      throw new RangeError(
        `this figure draws up to ${LIMITS[state.dimensions]} pixels a side with the padding, and here are ${widest}`
      );
    }
    return { size: state.size, out, transposed, taps: play.sizes.taps(state.size, one, transposed) };
  }

  /** The products of the pixel that is followed along one dimension. */
  function followed(found, dimension) {
    const which = state.follow === "input" ? 0 : 1;
    return found.taps.filter((tap) => tap[which] === state.place[dimension]);
  }

  /** In two dimensions, the products of a pixel: [input, output, weight], pixels as [row, column]. */
  function followed2d(found) {
    return followed(found, 0).flatMap(([i0, o0, t0]) =>
      followed(found, 1).map(([i1, o1, t1]) => ({ input: [i0, i1], output: [o0, o1], tap: t0 * state.kernel + t1, column: t1 }))
    );
  }

  function inWords(found) {
    const from = state.follow === "input" ? "output" : "input";
    if (state.dimensions === 1) {
      const products = followed(found, 0);
      const [at] = state.place;
      if (state.follow === "output") {
        const parts = products.map(([i, , tap]) => [i, `${tap + 1} · ${inside(i, found.size) ? `input ${i}` : "0"}`]);
        const kept = found.transposed ? parts.filter(([i]) => inside(i, found.size)) : parts;
        return `Output ${at} = ${kept.map(([, text]) => text).join(" + ") || "0: no weight lands here"}.`;
      }
      const kept = products.filter(([, o]) => inside(o, found.out));
      const parts = kept.map(([, o, tap]) => `${tap + 1} times to output ${o}`);
      const cut = products.length - kept.length;
      if (!products.length) return `No window reads input ${at}.`;
      return `Input ${at} is added ${parts.join(", ") || "nowhere"}${cut ? `; ${cut} more cut off` : ""}.`;
    }
    const products = followed2d(found);
    const size = from === "input" ? found.size : found.out;
    const there = products.filter((one) => one[from].every((place) => inside(place, size)));
    const [row, column] = state.place;
    const name = state.follow === "input" ? "Input" : "Output";
    const lost = products.length - there.length;
    const rest = !lost ? "" : found.transposed ? `; ${lost} more are cut off` : `; ${lost} more read zeros of the padding`;
    const verb = state.follow === "input" ? "takes part in" : "is the sum of";
    return `${name} (${row}, ${column}) ${verb} ${there.length} ${there.length === 1 ? "product" : "products"}${rest}.`;
  }

  // --- Drawings -------------------------------------------------------------------------------------------

  /** A square with a text; `place` makes it one that the pointer follows. */
  function cell(x, y, fill, text, { side = 0.9, follow, place, outside = false, opacity = 1 } = {}) {
    const square = drawn("rect", { x: x - side / 2, y: y - side / 2, width: side, height: side, fill, "fill-opacity": opacity });
    square.setAttribute("stroke", "var(--pst-color-text-muted)");
    square.setAttribute("stroke-width", 0.03);
    if (outside) square.setAttribute("stroke-dasharray", "0.1 0.1");
    if (follow === state.follow && place && place.every((at, index) => at === state.place[index])) {
      square.setAttribute("stroke", "#d55e00");
      square.setAttribute("stroke-width", 0.12);
    }
    const group = drawn("g", {}, square);
    if (text !== "") {
      const label = drawn("text", { x, y, fill: outside ? "var(--pst-color-text-base)" : ink(fill) });
      label.textContent = text;
      group.append(label);
    }
    if (place) {
      const point = () => choose(follow, place);
      group.style.cursor = "pointer";
      group.addEventListener("pointermove", point); // a new drawing under a pointer at rest is no move
      group.addEventListener("click", point);
    }
    return group;
  }

  /** Two rows of pixels with a line for each product. */
  function wires(found) {
    const { size, out, transposed, taps } = found;
    const reach = (state.dilation * (state.kernel - 1)) / 2;
    const centre = (stop) => stop * state.stride - state.padding + reach;
    const [inputX, outputX] = transposed ? [centre, (place) => place] : [(place) => place, centre];
    const mine = new Set(followed(found, 0));
    const xs = taps.flatMap(([i, o]) => [inputX(i), outputX(o)]);
    xs.push(0, (transposed ? out : size) - 1);
    const [left, right] = [Math.min(...xs) - 0.6, Math.max(...xs) + 0.6];
    const width = Math.max(right - left, 8);
    const svg = drawn("svg", { viewBox: `${(left + right - width) / 2} -0.6 ${width} 4.2`, role: "img" });
    [...taps].sort((one, other) => mine.has(one) - mine.has(other)).forEach((one) => {
      const [i, o, tap] = one;
      const real = inside(i, size) && inside(o, out);
      const line = { x1: inputX(i), x2: outputX(o), y1: 3, y2: 0, stroke: colour(tap), "stroke-width": mine.has(one) ? 0.12 : 0.06 };
      svg.append(drawn("line", { ...line, opacity: mine.has(one) ? 1 : 0.3, "stroke-dasharray": real ? "none" : "0.12 0.12" }));
    });
    const edge = [...new Set(taps.map((tap) => tap[transposed ? 1 : 0]))].filter((place) => !inside(place, transposed ? out : size));
    edge.forEach((place) => svg.append(cell(place, transposed ? 0 : 3, "var(--pst-color-background)", transposed ? "" : "0", { outside: true })));
    for (let i = 0; i < size; i++) svg.append(cell(inputX(i), 3, "#ffffff", i, { follow: "input", place: [i, state.place[1]] }));
    for (let o = 0; o < out; o++) svg.append(cell(outputX(o), 0, "#d9d9d9", o, { follow: "output", place: [o, state.place[1]] }));
    mine.forEach(([i, o, tap]) => {
      const [x, y] = state.follow === "output" ? [inputX(i), 2.35] : [outputX(o), 0.65];
      const badge = cell(x, y, colour(tap), tap + 1, { side: 0.55 });
      badge.style.pointerEvents = "none";
      svg.append(badge);
    });
    svg.style.maxWidth = `${width * 3}rem`;
    return [element("div", {}, "Output above, input below"), svg];
  }

  /** Two maps with the pixels that are joined in colour. */
  function maps(found) {
    const products = followed2d(found);
    const map = (kind, side) => {
      const outer = (kind === "input") === !found.transposed ? state.padding : 0;
      const far = Math.max(side, ...products.flatMap((one) => one[kind].map((place) => place + 1)));
      const end = Math.max(far, side + outer); // as far as pixels outside of the map are drawn
      const units = end + outer + 0.2;
      const svg = drawn("svg", { viewBox: `${-outer - 0.6} ${-outer - 0.6} ${units} ${units}`, role: "img" });
      const marked = new Map(kind === state.follow ? [] : products.map((one) => [one[kind].join(), one]));
      for (let row = 0; row < side; row++) {
        for (let column = 0; column < side; column++) {
          const one = marked.get([row, column].join());
          const fill = one ? colour(one.column) : kind === "input" ? "#ffffff" : "#d9d9d9";
          svg.append(cell(column, row, fill, one ? one.tap + 1 : "", { follow: kind, place: [row, column] }));
        }
      }
      [...marked.values()]
        .filter((one) => !one[kind].every((place) => inside(place, side)))
        .forEach((one) => {
          const [row, column] = one[kind];
          svg.append(cell(column, row, "var(--pst-color-background)", kind === "input" ? "0" : "", { outside: true }));
        });
      svg.style.maxWidth = `${Math.min(20, 2.2 * units)}rem`;
      return element("div", {}, `${kind === "input" ? "Input" : "Output"}, ${side} × ${side}`, svg);
    };
    return [element("div", { className: "taps-both" }, map("input", found.size), map("output", found.out))];
  }

  /** The layer as a matrix, the row or column of the followed pixel marked. */
  function matrix(found) {
    const flat = ([row, column], side) => (state.dimensions === 1 ? row : row * side + column);
    const power = (side) => side ** state.dimensions;
    const [height, width] = [power(found.out), power(found.size)];
    const svg = drawn("svg", { viewBox: `-0.2 -0.2 ${width + 0.4} ${height + 0.4}`, role: "img", class: "taps-matrix" });
    const ground = { width, height, fill: "#ffffff", stroke: "var(--pst-color-text-muted)", "stroke-width": Math.max(width, height) / 300 };
    svg.append(drawn("rect", ground));
    const real = found.taps.filter(([i, o]) => inside(i, found.size) && inside(o, found.out));
    const at = flat(state.place, state.follow === "input" ? found.size : found.out);
    const put = (row, column, tap, hue) => {
      const mine = (state.follow === "input" ? column : row) === at;
      const fill = colour(hue);
      const square = drawn("rect", { x: column, y: row, width: 1, height: 1, fill, opacity: mine ? 1 : 0.45 });
      svg.append(square);
      if (width > 20 || height > 20) return;
      const label = drawn("text", { x: column + 0.5, y: row + 0.5, fill: mine ? ink(fill) : "black" });
      label.textContent = tap + 1;
      svg.append(label);
    };
    if (state.dimensions === 1) real.forEach(([i, o, tap]) => put(o, i, tap, tap));
    else {
      real.forEach(([i0, o0, t0]) =>
        real.forEach(([i1, o1, t1]) => put(flat([o0, o1], found.out), flat([i0, i1], found.size), t0 * state.kernel + t1, t1))
      );
    }
    const mark = state.follow === "input" ? { x: at, y: 0, width: 1, height } : { x: 0, y: at, width, height: 1 };
    const thick = Math.max(0.08, Math.max(width, height) / 120);
    svg.append(drawn("rect", { ...mark, fill: "none", stroke: "#d55e00", "stroke-width": thick }));
    svg.addEventListener("pointermove", (event) => {
      const spot = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const index = Math.floor(state.follow === "input" ? spot.x : spot.y);
      const side = state.follow === "input" ? found.size : found.out;
      if (!inside(index, power(side))) return;
      choose(state.follow, state.dimensions === 1 ? [index, state.place[1]] : [Math.floor(index / side), index % side]);
    });
    svg.style.maxWidth = `${Math.max(8, Math.min(34, 2 * width))}rem`;
    svg.style.maxHeight = "26rem";
    const line = `${state.follow === "input" ? "column" : "row"} ${at}`;
    svg.setAttribute("aria-label", `A matrix of ${height} rows and ${width} columns; ${line} is marked`);
    return [element("div", {}, `The layer as a matrix: ${height} outputs by ${width} inputs, ${line} marked`), svg];
  }

  // --- Controls --------------------------------------------------------------------------------------------

  function choose(follow, place) {
    if (follow === state.follow && place.every((at, index) => at === state.place[index])) return;
    Object.assign(state, { follow, place });
    update();
  }

  function buildSettings() {
    const set = (name) => (value) => {
      state[name] = name === "dimensions" ? Number(value) : value;
      if (name === "dimensions") Object.assign(state, { size: Math.min(state.size, 6) });
      if (name === "kind") state.size = value === "transposed" ? 4 : state.dimensions === 1 ? 8 : 6;
      if (name === "kind" || name === "dimensions") buildSettings();
      update();
    };
    const number = (name, text, minimum) => field(text, state[name], minimum, set(name));
    const had = settings.contains(document.activeElement) && document.activeElement.closest("label").textContent;
    settings.replaceChildren(
      choice("Layer", { convolution: "Convolution", transposed: "Transposed convolution" }, state.kind, set("kind")),
      choice("Dimensions", { 1: "1-D", 2: "2-D" }, String(state.dimensions), set("dimensions")),
      number("size", "Input", 1),
      number("kernel", "Kernel", 1),
      number("stride", "Stride", 1),
      number("padding", "Padding", 0),
      ...(state.kind === "transposed" ? [number("output_padding", "Out pad.", 0)] : []),
      number("dilation", "Dilation", 1)
    );
    if (had) [...settings.children].find((label) => label.textContent === had)?.querySelector("select, input").focus();
  }

  const follow = choice("Follow", { output: "an output pixel", input: "an input pixel" }, state.follow, (value) =>
    choose(value, state.place.map(() => 0))
  );
  const sliders = ["Pixel", "Column"].map((text, dimension) => {
    const range = element("input", { type: "range", min: 0, step: 1 });
    range.addEventListener("input", () => {
      choose(state.follow, state.place.map((at, index) => (index === dimension ? Number(range.value) : at)));
    });
    return labelled(text, range);
  });
  pointer.append(follow, ...sliders);

  function update() {
    let found;
    try {
      found = layer();
      problem.hidden = true;
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      problem.textContent = error.message;
      problem.hidden = false;
    }
    both.hidden = pointer.hidden = sentence.hidden = !found;
    if (!found) return;
    const side = state.follow === "input" ? found.size : found.out;
    state.place = state.place.map((at) => Math.min(at, side - 1));
    follow.querySelector("select").value = state.follow;
    sliders.forEach((label, dimension) => {
      const range = label.querySelector("input");
      range.max = side - 1;
      range.value = state.place[dimension];
      label.hidden = dimension >= state.dimensions;
    });
    sliders[0].querySelector("span").textContent = state.dimensions === 1 ? "Pixel" : "Row";
    sentence.textContent = inWords(found);
    pixels.replaceChildren(...(state.dimensions === 1 ? wires(found) : maps(found)));
    asMatrix.replaceChildren(...matrix(found));
    pixels.querySelectorAll("svg").forEach((svg) => svg.setAttribute("aria-label", sentence.textContent));
  }

  buildSettings();
  update();
});
