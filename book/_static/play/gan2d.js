// A GAN that trains in the page, on points of the plane. The arithmetic stands in gan2d_engine.js.
//
// Presets: "ring", the game of chapter 1, and "measures", a game that drops modes, with precision and recall shown.
play.register("gan2d", async (box, options) => {
  "use strict";
  await Promise.all([play.load("play/random.js"), play.load("play/gan2d_engine.js")]);
  const engine = play.gan2d;

  const REACH = 3.2; // the plane is shown from -REACH to REACH
  const CELLS = 28; // D is evaluated at so many places along each side
  const SHOWN = 500; // G's points in the picture
  const SURVEYED = 1000; // its points that are counted at the modes
  const COMPARED = 400; // points of each kind for precision and recall
  const SLICE = 12; // milliseconds of training in a frame, at most a step more
  const RATES = [0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1];

  const SETUPS = {
    ring: { label: "the ring of chapter 1" },
    hasty: { label: "G moves ten times as often", turns: "1:10" },
    slow: { label: "D learns slowly", dLr: 0.0005 },
    start: { label: "D ahead, G without Adam", gLoss: "minimax", gOptimizer: "plain", gLr: 0.05, turns: "1:0" },
  };
  const PRESETS = {
    ring: {
      setup: "ring",
      measures: false,
      tips: [
        "Press Play. Which comes first: all eight modes covered, or nine points in ten near a mode?",
        "Choose “G moves ten times as often”. All points share a mode. Where do they go next?",
        "Choose “D ahead, G without Adam”. Play about 300 steps, in which D trains alone. Then set the updates to one " +
          "each. Does G move? Does it with the other loss?",
      ],
    },
    measures: {
      setup: "slow",
      measures: true,
      tips: [
        "Press Play. D learns too slowly here, and modes are dropped. Which of the two numbers shows it?",
        "Choose “the ring of chapter 1” and play. In the first 200 steps the points are scattered. What does recall say?",
        "Then choose the grid as data. By 1,500 steps a mode is often missing. Do the two numbers show it?",
      ],
    },
  };

  // --- The page's part: elements --------------------------------------------------------------------------

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function select(choices, chosen) {
    const made = element("select");
    for (const [value, text] of Object.entries(choices)) made.append(element("option", { value }, text));
    made.value = chosen;
    return made;
  }

  const labelled = (text, ...controls) => element("label", {}, element("span", {}, text), ...controls);
  const button = (text) => element("button", { type: "button" }, text);

  if (!document.getElementById("gan2d-style")) {
    const style = element("style", { id: "gan2d-style" });
    style.textContent = `
      .play-gan2d { container-type: inline-size; }
      .play-gan2d .gan2d-main { display: grid; gap: 0.5rem 1rem; }
      @container (min-width: 34rem) {
        .play-gan2d .gan2d-main { grid-template-columns: minmax(0, 11fr) minmax(0, 9fr); }
      }
      .play-gan2d canvas { width: 100%; }
      .play-gan2d .gan2d-stack { position: relative; }
      .play-gan2d .gan2d-plane { aspect-ratio: 1; position: relative; }
      .play-gan2d .gan2d-heat { height: 100%; position: absolute; }
      .play-gan2d .gan2d-plane.gan2d-draws { cursor: crosshair; touch-action: none; }
      .play-gan2d .gan2d-chart { height: 8.5rem; }
      .play-gan2d .gan2d-settings { display: grid; gap: 0.5rem 1rem; margin: 0.75rem 0;
        grid-template-columns: repeat(auto-fill, minmax(min(9rem, 100%), 1fr)); }
      .play-gan2d .gan2d-settings label > span { display: block; font-size: 0.85rem; }
      .play-gan2d .gan2d-settings :is(select, input[type="number"]) { box-sizing: border-box; width: 100%; }
      .play-gan2d .gan2d-settings select { padding-inline: 0.3rem; }
      .play-gan2d .gan2d-settings input[type="range"] { min-height: 2rem; min-width: 0; width: calc(100% - 4rem);
        vertical-align: middle; }
      .play-gan2d .gan2d-check { align-items: center; display: flex; gap: 0.5rem; min-height: 2rem; }
      .play-gan2d .gan2d-check input { height: 1.5rem; width: 1.5rem; accent-color: var(--pst-color-primary); }
      .play-gan2d .gan2d-check span { font-size: 0.85rem; }
      .play-gan2d .play-controls label { align-items: center; display: flex; gap: 0.4rem; margin: 0; max-width: 100%; }
      .play-gan2d .play-controls label > span { flex: none; }
      .play-gan2d .play-controls select { max-width: 100%; min-width: 0; }
      .play-gan2d .gan2d-run { min-width: 5rem; }
      .play-gan2d .gan2d-key { display: flex; flex-wrap: wrap; gap: 0 0.9rem; font-size: 0.85rem; margin: 0.25rem 0 0; }
      .play-gan2d .gan2d-key i { border-radius: 50%; display: inline-block; height: 0.6rem; margin-right: 0.35rem;
        width: 0.6rem; }
      .play-gan2d .gan2d-numbers { display: grid; font-size: 0.9rem; font-variant-numeric: tabular-nums; gap: 0 0.75rem;
        grid-template-columns: auto 1fr; line-height: 1.4; }
      .play-gan2d dl.gan2d-numbers { margin: 0.5rem 0 0; }
      .play-gan2d .gan2d-numbers :is(dt, dd) { font-weight: normal; margin: 0; }
      .play-gan2d .gan2d-numbers dd { font-weight: 600; }
      .play-gan2d .gan2d-numbers small { font-weight: normal; }
      .play-gan2d .gan2d-title { font-size: 0.85rem; margin: 0; }
      .play-gan2d .gan2d-tips { font-size: 0.9rem; margin: 0.5rem 0 0; }
      .play-gan2d .gan2d-tips ol { margin: 0; padding-left: 1.4rem; }
      .play-gan2d [hidden] { display: none !important; }
      .play-gan2d .gan2d-said { clip-path: inset(50%); height: 1px; overflow: hidden; position: absolute; width: 1px; }
    `;
    document.head.append(style);
  }

  const preset = PRESETS[options.preset] || PRESETS.ring;
  const run = button("Play");
  const once = button("Step");
  const restart = button("Reset");
  run.className = "gan2d-run";
  const speed = select({ 6: "slow", 60: "60 steps a second", 1000000: "as fast as it goes" }, "60");
  const own = { own: "your own" };
  const setup = select(
    { ...Object.fromEntries(Object.entries(SETUPS).map(([name, { label }]) => [name, label])), ...own },
    preset.setup
  );
  const data = select({ ring: "ring", grid: "grid", gaussian: "Gaussian", spiral: "spiral", dots: "your own dots" }, "ring");
  const seed = element("input", { type: "number", min: 0, max: 9999, step: 1, value: 0 });
  const gLoss = select({ "non-saturating": "non-saturating", minimax: "minimax" }, "non-saturating");
  const gOptimizer = select({ Adam: "Adam", plain: "plain descent" }, "Adam");
  const turns = select(
    {
      "1:1": "one each",
      "5:1": "5 of D, 1 of G",
      "1:5": "1 of D, 5 of G",
      "1:10": "1 of D, 10 of G",
      "1:0": "D alone",
      "0:1": "G alone",
    },
    "1:1"
  );
  function rate(text) {
    const slider = element("input", { type: "range", min: 0, max: RATES.length - 1, step: 1 });
    const shown = element("output");
    const tell = () => {
      shown.textContent = RATES[slider.value];
      slider.setAttribute("aria-valuetext", RATES[slider.value]);
    };
    slider.addEventListener("input", tell);
    const set = (value) => {
      slider.value = RATES.indexOf(value);
      tell();
    };
    return { slider, set, value: () => RATES[slider.value], label: labelled(text, slider, " ", shown) };
  }
  const dLr = rate("Learning rate of D");
  const gLr = rate("Learning rate of G");
  const measured = element("input", { type: "checkbox" });
  measured.checked = preset.measures;

  const dotX = element("input", { type: "number", min: -3, max: 3, step: 0.1, value: 0 });
  const dotY = element("input", { type: "number", min: -3, max: 3, step: 0.1, value: 0 });
  const add = button("Add a dot");
  const undo = button("Undo");
  const clear = button("Clear");
  const dotsRow = element(
    "div",
    { class: "play-controls" },
    element("span", {}, "Draw dots on the plane, or type where they go:"),
    labelled("x", dotX),
    labelled("y", dotY),
    add,
    undo,
    clear
  );

  // D's probabilities are a picture of few pixels, which the browser stretches below the points: that costs no time.
  const heat = element("canvas", { class: "gan2d-heat", width: CELLS, height: CELLS, "aria-hidden": "true" });
  const plane = element("canvas", { class: "gan2d-plane", role: "img" });
  const losses = element("canvas", { class: "gan2d-chart", role: "img" });
  const shares = element("canvas", { class: "gan2d-chart", role: "img" });
  const numbers = element("dl", { class: "gan2d-numbers" });
  const said = element("p", { class: "gan2d-said", "aria-live": "polite" });
  const key = element("p", { class: "gan2d-key" });
  const lossKey = element("p", { class: "gan2d-key" });
  const shareKey = element("p", { class: "gan2d-key" });

  box.append(
    element(
      "div",
      { class: "play-controls" },
      run,
      once,
      restart,
      labelled("Speed", speed),
      labelled("Set-up", setup)
    ),
    element(
      "div",
      { class: "gan2d-main" },
      element("div", {}, element("div", { class: "gan2d-stack" }, heat, plane), key),
      element("div", {}, lossKey, losses, shareKey, shares, numbers)
    ),
    dotsRow,
    element(
      "div",
      { class: "gan2d-settings" },
      labelled("Data", data),
      labelled("Seed", seed),
      labelled("Loss of G", gLoss),
      labelled("Optimiser of G", gOptimizer),
      dLr.label,
      gLr.label,
      labelled("Updates in a step", turns),
      element("label", { class: "gan2d-check" }, measured, element("span", {}, "Precision and recall"))
    ),
    element(
      "div",
      { class: "gan2d-tips" },
      element("strong", {}, "Try it"),
      element("ol", {}, ...preset.tips.map((tip) => element("li", {}, tip)))
    ),
    said
  );

  // --- The game's part ------------------------------------------------------------------------------------

  const dots = []; // the reader's, as pairs
  const fixedZ = new Float64Array(2 * SURVEYED);
  const shownZ = fixedZ.subarray(0, 2 * SHOWN);
  const samples = new Float64Array(2 * SURVEYED);
  const probabilities = new Float64Array(CELLS * CELLS);
  const real = new Float64Array(2 * COMPARED);
  const moreReal = new Float64Array(2 * COMPARED);
  let realRadii = null; // found when they are first needed
  let asReal = null; // precision and recall of other real points, with which G's are to be compared
  let game = null;
  let found = null; // the last measures
  let lossCurve = null;
  let shareCurve = null;

  /** Means of equally many steps each, at most 600 of them: once they are 600, each two become one. */
  function makeLossCurve() {
    const rows = [];
    let sum = [0, 0];
    let count = 0;
    const curve = { rows, stride: 1 };
    curve.push = (d, g) => {
      sum = [sum[0] + d, sum[1] + g];
      if (++count < curve.stride) return;
      rows.push(sum.map((total) => total / count));
      sum = [0, 0];
      count = 0;
      if (rows.length < 600) return;
      for (let i = 0; i < 300; i++) rows[i] = [0, 1].map((k) => (rows[2 * i][k] + rows[2 * i + 1][k]) / 2);
      rows.length = 300;
      curve.stride *= 2;
    };
    return curve;
  }

  function settings() {
    const [dSteps, gSteps] = turns.value.split(":").map(Number);
    return {
      gLoss: gLoss.value,
      gOptimizer: gOptimizer.value,
      dLr: dLr.value(),
      gLr: gLr.value(),
      dSteps,
      gSteps,
    };
  }

  const playable = () => data.value !== "dots" || dots.length > 0;
  const modes = () => game.data.modes;
  const finite = () => Number.isFinite(game.generator.parameters[0] + game.discriminator.parameters[0]);

  /** Draw the real points that are shown and compared with. */
  function drawReal() {
    realRadii = asReal = null;
    if (!playable()) return;
    const random = play.makeRandom(Number(seed.value), 2);
    for (let i = 0; i < 2 * COMPARED; i += 2) game.data.draw(random, real, i);
    for (let i = 0; i < 2 * COMPARED; i += 2) game.data.draw(random, moreReal, i);
  }

  function reset() {
    pause();
    const chosen = data.value === "dots" ? engine.dotData(dots) : engine.DATA[data.value];
    game = engine.makeGame(chosen, Number(seed.value), settings());
    const random = play.makeRandom(Number(seed.value), 3);
    for (let i = 0; i < fixedZ.length; i++) fixedZ[i] = random.normal();
    lossCurve = makeLossCurve();
    shareCurve = [];
    drawReal();
    measure();
    show();
    tell();
  }

  function train() {
    engine.step(game);
    lossCurve.push(game.dLoss, game.gLoss);
  }

  function measure() {
    engine.sample(game.generator, fixedZ, samples);
    const { covered, near } = engine.survey(samples, modes());
    found = { step: game.steps, covered, near, modes: covered.filter(Boolean).length };
    if (measured.checked && playable()) {
      realRadii ||= engine.squaredRadii(real);
      asReal ||= engine.precisionRecall(real, moreReal, realRadii);
      Object.assign(found, engine.precisionRecall(real, samples.subarray(0, 2 * COMPARED), realRadii));
    }
    if (shareCurve.length && shareCurve[shareCurve.length - 1].step === found.step) shareCurve.pop();
    shareCurve.push(found);
    if (shareCurve.length > 400) shareCurve = shareCurve.filter((_, i) => i % 2 === 0);
  }

  // --- Drawing --------------------------------------------------------------------------------------------

  const LIGHT = {
    real: "#0072b2",
    fake: "#d55e00",
    third: "#3f7d20",
    tints: [
      [246, 207, 174],
      [255, 255, 255],
      [181, 216, 238],
    ],
  };
  const DARK = {
    real: "#62b8ee",
    fake: "#ff9a4d",
    third: "#9ccc65",
    tints: [
      [88, 48, 18],
      [28, 30, 34],
      [16, 62, 92],
    ],
  };
  let colours = LIGHT;
  let text = "#000";
  let muted = "#555";
  let font = "12px sans-serif";

  function readColours() {
    const style = getComputedStyle(box);
    colours = document.documentElement.dataset.theme === "dark" ? DARK : LIGHT;
    text = style.getPropertyValue("--pst-color-text-base").trim() || style.color;
    muted = style.getPropertyValue("--pst-color-text-muted").trim() || style.color;
    font = `12px ${style.fontFamily}`;
    const dot = (colour, words) => {
      const mark = element("i");
      mark.style.background = colour;
      return element("span", {}, mark, words);
    };
    key.replaceChildren(
      dot(colours.real, "real"),
      dot(colours.fake, "generated"),
      element("span", {}, "grey line: D says ½"),
      element("span", {}, "circles: modes, dashed until covered")
    );
    lossKey.replaceChildren(
      element("span", {}, "Loss"),
      dot(colours.real, "of D"),
      dot(colours.fake, "of G"),
      element("span", {}, "dotted: log 2")
    );
    shareKey.replaceChildren(
      element("span", {}, "Share"),
      ...shareLines().map(({ colour, name }) => dot(colour, name))
    );
  }

  /** The curves of the second chart. */
  function shareLines() {
    const lines = [];
    if (game && modes().length) {
      lines.push({ name: "near a mode", colour: text, value: (row) => row.near });
      lines.push({ name: "modes covered", colour: muted, value: (row) => row.modes / modes().length });
    }
    if (measured.checked) {
      lines.push({ name: "precision", colour: colours.fake, value: (row) => row.precision });
      lines.push({ name: "recall", colour: colours.real, value: (row) => row.recall });
    }
    return lines;
  }

  /** A canvas's context, scaled so that a unit is a CSS pixel, and its width and height. */
  function open(canvas) {
    const scale = Math.min(devicePixelRatio || 1, 2);
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const context = canvas.getContext("2d");
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.font = font;
    return { context, width, height };
  }

  const heatContext = heat.getContext("2d");
  const pixels = heatContext.createImageData(CELLS, CELLS);

  function tint() {
    const [low, middle, high] = colours.tints;
    for (let i = 0; i < probabilities.length; i++) {
      const p = 2 * probabilities[i];
      const [from, to, part] = p < 1 ? [low, middle, p] : [middle, high, p - 1];
      for (let k = 0; k < 3; k++) pixels.data[4 * i + k] = from[k] + part * (to[k] - from[k]);
      pixels.data[4 * i + 3] = 255;
    }
    heatContext.putImageData(pixels, 0, 0);
  }

  /** Trace where D says ½: through each cell between four values, from one crossed side to the next. */
  function traceHalf(context, width) {
    const at = (row, column) => probabilities[row * CELLS + column] - 0.5;
    const place = (row, column) => [((column + 0.5) * width) / CELLS, ((row + 0.5) * width) / CELLS];
    context.beginPath();
    for (let row = 0; row + 1 < CELLS; row++) {
      for (let column = 0; column + 1 < CELLS; column++) {
        const corners = [
          [row, column],
          [row, column + 1],
          [row + 1, column + 1],
          [row + 1, column],
        ];
        let crossed = 0;
        for (let k = 0; k < 4; k++) {
          const a = at(...corners[k]);
          const b = at(...corners[(k + 1) % 4]);
          if (a > 0 === b > 0) continue;
          const [x0, y0] = place(...corners[k]);
          const [x1, y1] = place(...corners[(k + 1) % 4]);
          const part = a / (a - b);
          const end = [x0 + part * (x1 - x0), y0 + part * (y1 - y0)];
          if (crossed++ % 2) context.lineTo(...end);
          else context.moveTo(...end);
        }
      }
    }
    context.stroke();
  }

  function drawPlane() {
    const { context, width } = open(plane);
    const x = (value) => ((value + REACH) * width) / (2 * REACH);
    const y = (value) => ((REACH - value) * width) / (2 * REACH);
    engine.surface(game.discriminator, CELLS, REACH, probabilities);
    tint();
    context.clearRect(0, 0, width, width);
    context.strokeStyle = muted;
    context.lineWidth = 1;
    traceHalf(context, width);

    const points = (array, total, size) => {
      for (let i = 0; i < 2 * total; i += 2) {
        context.fillRect(x(array[i]) - size / 2, y(array[i + 1]) - size / 2, size, size);
      }
    };
    const size = Math.max(2, width / 160);
    context.fillStyle = colours.real;
    if (data.value === "dots") {
      for (const [dx, dy] of dots) {
        context.beginPath();
        context.arc(x(dx), y(dy), 1.5 * size, 0, 2 * Math.PI);
        context.fill();
      }
    } else {
      points(real, COMPARED / 2, size);
    }
    context.fillStyle = colours.fake;
    points(samples, SHOWN, size);
    context.strokeStyle = colours.real;
    context.lineWidth = 1.5;
    modes().forEach(([mx, my], mode) => {
      context.setLineDash(found.covered[mode] ? [] : [4, 4]);
      context.beginPath();
      context.arc(x(mx), y(my), (engine.NEAR * width) / (2 * REACH), 0, 2 * Math.PI);
      context.stroke();
    });
    context.setLineDash([]);
    context.font = font;
    context.fillStyle = text;
    context.textAlign = "left";
    context.fillText(`step ${game.steps.toLocaleString("en")}`, 8, 18);
    if (!playable()) context.fillText("Draw some dots here, then press Play.", 8, width - 12);
    if (!finite()) context.fillText("The weights have overflowed. Press Reset.", 8, width - 12);
  }

  /** Axes of a chart over the steps. Returns how to place a step and a value. */
  function axes({ context, width, height }, low, high, ticks) {
    const left = 34;
    const bottom = height - 18;
    const last = Math.max(game.steps, 100);
    const x = (step) => left + (step / last) * (width - left - 8);
    const y = (value) => bottom - ((value - low) / (high - low)) * (bottom - 8);
    context.clearRect(0, 0, width, height);
    context.fillStyle = muted;
    context.strokeStyle = muted;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(left, 6);
    context.lineTo(left, bottom);
    context.lineTo(width - 8, bottom);
    context.stroke();
    context.textAlign = "right";
    for (const tick of ticks) context.fillText(String(tick), left - 5, y(tick) + 4);
    context.fillText(`step ${last.toLocaleString("en")}`, width - 8, height - 4);
    context.textAlign = "left";
    context.fillText("0", left, height - 4);
    return { x, y };
  }

  function line(context, points) {
    context.beginPath();
    let drawing = false;
    for (const [x, y] of points) {
      if (Number.isFinite(y)) context[drawing ? "lineTo" : "moveTo"](x, y);
      drawing = Number.isFinite(y);
    }
    context.stroke();
  }

  function drawLosses() {
    const opened = open(losses);
    const { context } = opened;
    const below = gLoss.value === "minimax" || lossCurve.rows.some((row) => row[1] < 0);
    const [low, high, ticks] = below ? [-2, 1, [-2, -1, 0, 1]] : [0, 2, [0, 1, 2]];
    const { x, y } = axes(opened, low, high, ticks);
    context.setLineDash([2, 3]);
    line(context, [
      [x(0), y(Math.LN2)],
      [x(Math.max(game.steps, 100)), y(Math.LN2)],
    ]);
    context.setLineDash([]);
    const { rows, stride } = lossCurve;
    const reach = Math.round(12 / stride); // the thick line is a mean over 25 steps
    const within = (value) => y(Math.min(Math.max(value, low), high));
    [colours.real, colours.fake].forEach((colour, k) => {
      context.strokeStyle = colour;
      context.lineWidth = 1;
      context.globalAlpha = 0.35;
      line(context, rows.map((row, i) => [x((i + 0.5) * stride), within(row[k])]));
      context.globalAlpha = 1;
      context.lineWidth = 2;
      const sums = [0];
      for (const row of rows) sums.push(sums[sums.length - 1] + row[k]);
      line(context, rows.map((_, i) => {
        const from = Math.max(0, i - reach);
        const to = Math.min(rows.length, i + reach + 1);
        return [x((i + 0.5) * stride), within((sums[to] - sums[from]) / (to - from))];
      }));
    });
  }

  function drawShares() {
    const opened = open(shares);
    const { x, y } = axes(opened, 0, 1, [0, 0.5, 1]);
    opened.context.lineWidth = 2;
    for (const { colour, name, value } of shareLines()) {
      opened.context.strokeStyle = colour;
      opened.context.setLineDash(name === "modes covered" ? [5, 3] : []);
      line(opened.context, shareCurve.map((row) => [x(row.step), y(value(row))]));
    }
    opened.context.setLineDash([]);
  }

  const percent = (share) => `${Math.round(100 * share)}%`;
  const two = (value) => (Number.isFinite(value) ? value.toFixed(2) : "–");

  function facts() {
    const rows = [
      ["loss of D", two(game.dLoss)],
      ["loss of G", two(game.gLoss)],
    ];
    if (modes().length) {
      rows.push(["modes covered", `${found.modes} of ${modes().length}`], ["points near a mode", percent(found.near)]);
    }
    if (measured.checked) {
      for (const name of ["precision", "recall"]) {
        rows.push([name, two(found[name]), asReal && `real: ${two(asReal[name])}`]);
      }
    }
    return rows;
  }

  function showNumbers() {
    numbers.replaceChildren(
      ...facts().flatMap(([name, value, note]) => [
        element("dt", {}, name),
        element("dd", {}, value, ...(note ? [" ", element("small", {}, `(${note})`)] : [])),
      ])
    );
  }

  function show() {
    drawPlane();
    drawLosses();
    drawShares();
    showNumbers();
  }

  /** Say in words what is seen: for the pictures always, aloud when something has come to rest. */
  function describe() {
    const words = facts().map(([name, value]) => `${name} ${value}`);
    plane.setAttribute(
      "aria-label",
      `The plane at step ${game.steps}: real points of the set “${data.selectedOptions[0].text}”, ` +
        `points that G makes, and D's probability of “real” as background. ${words.slice(2).join(", ")}`
    );
    losses.setAttribute("aria-label", `Losses over ${game.steps} steps: ${words.slice(0, 2).join(", ")}`);
    shares.setAttribute("aria-label", `Shares over ${game.steps} steps: ${words.slice(2).join(", ")}`);
    return `Step ${game.steps}: ${words.join(", ")}`;
  }

  function tell() {
    said.textContent = describe();
  }

  // --- Time -----------------------------------------------------------------------------------------------

  let playing = false;
  let visible = true;
  let before = 0; // when the last frame was
  let due = 0; // steps that should have been made by now
  let shownAt = 0;
  let cost = 0; // milliseconds that the last picture took
  let measuredAt = 0;
  let measureCost = 0;

  function frame(now) {
    if (!playing) return;
    requestAnimationFrame(frame);
    if (!visible) {
      before = now;
      return;
    }
    due += (Math.min(Math.max(now - before, 0), 100) * Number(speed.value)) / 1000;
    before = now;
    const start = performance.now();
    while (due >= 1 && performance.now() - start < SLICE) {
      train();
      due -= 1;
    }
    if (due > 12) due = 12; // what a slow machine could not do is not made up for
    if (!finite()) pause();
    if (now - shownAt < 5 * cost) return; // pictures take at most a sixth of the time
    const drawn = performance.now();
    if (now - measuredAt > Math.max(500, 12 * measureCost)) {
      measure();
      show();
      describe();
      measuredAt = now;
      measureCost = performance.now() - drawn;
    } else {
      engine.sample(game.generator, shownZ, samples);
      drawPlane();
      cost = performance.now() - drawn;
    }
    shownAt = now;
  }

  function pause() {
    if (!playing) return;
    playing = false;
    run.textContent = "Play";
    measure();
    show();
    tell();
  }

  function start() {
    if (!playable()) return;
    playing = true;
    run.textContent = "Pause";
    due = 0;
    before = performance.now();
    requestAnimationFrame(frame);
  }

  new IntersectionObserver((entries) => {
    visible = entries[entries.length - 1].isIntersecting;
  }).observe(box);

  // --- Controls -------------------------------------------------------------------------------------------

  run.addEventListener("click", () => (playing ? pause() : start()));
  once.addEventListener("click", () => {
    pause();
    if (!playable()) return;
    train();
    measure();
    show();
    tell();
  });
  restart.addEventListener("click", reset);

  function changed() {
    setup.value = "own";
    game.settings = settings();
  }

  function showDots() {
    const drawing = data.value === "dots";
    dotsRow.hidden = !drawing;
    plane.classList.toggle("gan2d-draws", drawing);
    run.disabled = once.disabled = !playable();
    undo.disabled = clear.disabled = dots.length === 0;
  }

  /** Another set of points: what has no modes is judged by precision and recall. */
  function chooseData() {
    if (!["ring", "grid"].includes(data.value)) measured.checked = true;
    showDots();
    reset();
    readColours();
  }

  function chooseSetup() {
    if (setup.value === "own") return;
    const chosen = { data: "ring", turns: "1:1", ...engine.SETTINGS, ...SETUPS[setup.value] };
    data.value = chosen.data;
    gLoss.value = chosen.gLoss;
    gOptimizer.value = chosen.gOptimizer;
    dLr.set(chosen.dLr);
    gLr.set(chosen.gLr);
    turns.value = chosen.turns;
    chooseData();
  }

  setup.addEventListener("change", chooseSetup);
  [gLoss, turns, dLr.slider, gLr.slider].forEach((control) => control.addEventListener("input", changed));
  gOptimizer.addEventListener("change", () => {
    gLr.set(gOptimizer.value === "Adam" ? engine.SETTINGS.gLr : 0.05); // the chapter's rates
    changed();
  });
  gLoss.addEventListener("change", () => show());
  data.addEventListener("change", () => {
    setup.value = "own";
    chooseData();
  });
  seed.addEventListener("change", () => {
    seed.value = Math.min(9999, Math.max(0, Math.round(Number(seed.value)) || 0));
    reset();
  });
  measured.addEventListener("change", () => {
    measure();
    readColours();
    show();
    tell();
  });

  // The reader's dots. Training goes on while they are added.
  function dotsChanged() {
    if (!playable()) pause();
    showDots();
    drawReal();
    measure();
    show();
  }
  const clamp = (value) => Math.min(3, Math.max(-3, value || 0));

  function addDot(x, y) {
    dots.push([clamp(x), clamp(y)]);
    dotsChanged();
  }

  add.addEventListener("click", () => {
    addDot(Number(dotX.value), Number(dotY.value));
    said.textContent = `Dot ${dots.length} added`;
  });
  undo.addEventListener("click", () => {
    dots.pop();
    dotsChanged();
    said.textContent = `${dots.length} dots left`;
  });
  clear.addEventListener("click", () => {
    dots.length = 0;
    dotsChanged();
    said.textContent = "No dots left";
  });

  let stroke = null; // the last dot of the line that is being drawn
  function drawAt(event) {
    const place = plane.getBoundingClientRect();
    const x = ((event.clientX - place.left) / place.width) * 2 * REACH - REACH;
    const y = REACH - ((event.clientY - place.top) / place.height) * 2 * REACH;
    if (stroke && Math.hypot(x - stroke[0], y - stroke[1]) < 0.2) return;
    stroke = [x, y];
    addDot(x, y);
  }
  plane.addEventListener("pointerdown", (event) => {
    if (data.value !== "dots") return;
    plane.setPointerCapture(event.pointerId);
    stroke = null;
    drawAt(event);
    event.preventDefault();
  });
  plane.addEventListener("pointermove", (event) => {
    if (stroke && plane.hasPointerCapture(event.pointerId)) drawAt(event);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    plane.addEventListener(end, () => {
      stroke = null;
    });
  }

  // --- Opening --------------------------------------------------------------------------------------------

  chooseSetup();
  const redraw = () => {
    readColours();
    show();
  };
  new ResizeObserver(redraw).observe(plane);
  new MutationObserver(redraw).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  box.gan2d = { game: () => game, found: () => found }; // for tests
});
