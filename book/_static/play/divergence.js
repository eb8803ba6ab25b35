// G has two numbers, its mean and its width. The best D, the Jensen–Shannon divergence and the value follow from them.
play.divergence = (() => {
  "use strict";

  // The data of the chapter: share, mean and standard deviation of each normal.
  const DATA = [
    [0.6, -1.5, 0.6],
    [0.4, 1.5, 0.5],
  ];
  const LOG_2 = Math.LN2;
  const RATE = 0.02; // of G's descent, in its mean and in the logarithm of its width
  const LIMITS = { mean: [-4, 4], width: [0.2, 3] };

  const logNormal = (x, mean, width) => -(((x - mean) / width) ** 2) / 2 - Math.log(width) - Math.log(2 * Math.PI) / 2;

  function logSum(a, b) {
    const larger = Math.max(a, b);
    return larger + Math.log1p(Math.exp(Math.min(a, b) - larger));
  }

  const logData = (x) => logSum(...DATA.map(([share, mean, width]) => Math.log(share) + logNormal(x, mean, width)));

  function lattice(step) {
    const xs = Float64Array.from({ length: Math.round(40 / step) + 1 }, (_, k) => -20 + k * step);
    const log = xs.map(logData);
    return { step, xs, log, density: log.map(Math.exp) };
  }
  const fine = lattice(0.01);
  const coarse = lattice(0.1);

  /** The best discriminator at x. */
  const bestD = (x, mean, width) => 1 / (1 + Math.exp(logNormal(x, mean, width) - logData(x)));

  /** Integrals over x: the divergence, KL(G, data) and the accuracy of the best D. */
  function measures(mean, width, { step, xs, log, density } = fine) {
    let [jsd, kl, larger] = [0, 0, 0];
    for (let k = 0; k < xs.length; k++) {
      const logQ = logNormal(xs[k], mean, width);
      const logM = logSum(log[k], logQ) - LOG_2;
      const q = Math.exp(logQ);
      jsd += density[k] * (log[k] - logM) + q * (logQ - logM);
      kl += q * (logQ - log[k]);
      larger += Math.max(density[k], q);
    }
    jsd *= step / 2;
    return { jsd, kl: kl * step, accuracy: (larger * step) / 2, value: 2 * jsd - 2 * LOG_2, dLoss: LOG_2 - jsd };
  }

  /** What G descends against a D that is the best at each step, up to a constant. */
  const OBJECTIVES = { minimax: ({ jsd }) => 2 * jsd, nonSaturating: ({ jsd, kl }) => kl - 2 * jsd };

  /** The gradient of G's loss in its mean and in the logarithm of its width. */
  function gradient(mean, width, loss) {
    const h = 1e-4;
    const at = (a, b) => OBJECTIVES[loss](measures(a, b, coarse));
    return [
      (at(mean + h, width) - at(mean - h, width)) / (2 * h),
      (at(mean, width * Math.exp(h)) - at(mean, width * Math.exp(-h))) / (2 * h),
    ];
  }

  function descend(mean, width, loss, steps) {
    const path = [[mean, width]];
    for (let k = 0; k < steps; k++) {
      const [byMean, byWidth] = gradient(mean, width, loss);
      const keep = (value, [low, high]) => Math.min(high, Math.max(low, value));
      mean = keep(mean - RATE * byMean, LIMITS.mean);
      width = keep(width * Math.exp(-RATE * byWidth), LIMITS.width);
      path.push([mean, width]);
    }
    return path;
  }

  /** The divergence over all means and widths as cells of a map, neighbours of one tint in one cell. */
  function terrain(bands = 14) {
    const [columns, rows] = [80, 36];
    const [low, high] = LIMITS.width;
    const cells = [];
    for (let row = 0; row < rows; row++) {
      const [y0, y1] = [row, row + 1].map((k) => low + ((high - low) * k) / rows);
      for (let column = 0; column < columns; column++) {
        const [x0, x1] = [column, column + 1].map((k) => -4 + (8 * k) / columns);
        const { jsd } = measures((x0 + x1) / 2, (y0 + y1) / 2, coarse);
        const tint = Math.floor((jsd / LOG_2) * bands) / bands;
        const before = cells[cells.length - 1];
        if (column && before[4] === tint) before[1] = x1;
        else cells.push([x0, x1, y0, y1, tint]);
      }
    }
    return cells.map(([x0, x1, y0, y1, tint]) => [x0, x1, y0, y1, 0.9 * (1 - tint)]);
  }

  return { bestD, measures, gradient, descend, terrain, logData, logNormal, LIMITS };
})();

play.register("divergence", async (box) => {
  await play.load("play/plot.js");
  const { bestD, measures, descend, terrain, logData, logNormal, LIMITS } = play.divergence;
  const { chart, legend, slider, choice, button, says, controls, row, make, fixed } = play.plot;
  box.setAttribute("aria-label", "G's mean and width against the data");

  const xs = Array.from({ length: 321 }, (_, k) => -4 + k / 40);
  const real = xs.map((x) => [x, Math.exp(logData(x))]);
  const land = terrain();
  const top = chart({ height: 150, title: "Densities" });
  const low = chart({ height: 150, title: "The best D" });
  const map = chart({ height: 300, title: "JSD of every G: the bluer, the smaller" });
  const words = says();
  let trail = [];

  const moved = () => {
    trail = [];
    draw();
  };
  const mean = slider({ label: "mean of G", min: -4, max: 4, step: 0.05, value: 0, show: fixed }, moved);
  const width = slider({ label: "width of G", min: 0.2, max: 3, step: 0.05, value: 1.2, show: fixed }, moved);
  const loss = choice("G descends", [["minimax", "the minimax loss"], ["nonSaturating", "the non-saturating loss"]], () => {});
  const step = button("25 steps of G", () => {
    const from = trail.length ? trail[trail.length - 1] : [mean.value, width.value];
    trail = [...trail, ...descend(...from, loss.value, 25)];
    [mean.position, width.position] = trail[trail.length - 1];
    draw();
  });

  function draw() {
    const [a, b] = trail.length ? trail[trail.length - 1] : [mean.value, width.value];
    const fake = xs.map((x) => [x, Math.exp(logNormal(x, a, b))]);
    const found = measures(a, b);
    const x = { min: -4, max: 4 };
    const at = `G has mean ${fixed(a)} and width ${fixed(b)}`;
    top.draw({
      x,
      y: { min: 0, max: 1, ticks: [0, 0.5, 1] },
      label: `${at}. The data have two humps, at −1.5 and 1.5.`,
      marks: [
        { area: real, color: "real" },
        { line: real, color: "real" },
        { area: fake, color: "fake" },
        { line: fake, color: "fake", dash: "6 3" },
      ],
    });
    low.draw({
      x: { ...x, title: "x" },
      y: { min: 0, max: 1, ticks: [0, 0.5, 1] },
      label: `The best D for this G, ${[-4, -1.5, 0, 1.5, 4].map((at) => `${fixed(bestD(at, a, b))} at ${at}`).join(", ")}.`,
      marks: [{ rule: 0.5, across: "y" }, { line: xs.map((x) => [x, bestD(x, a, b)]), color: "text" }],
    });
    map.draw({
      x: { min: -4, max: 4, title: "mean of G" },
      y: { min: LIMITS.width[0], max: LIMITS.width[1], title: "width of G" },
      label: `Map of the divergence: least near mean 0 and width 1.5, nearly log 2 in the corners. ${at}.`,
      marks: [
        { cells: land, color: "real" },
        { line: trail, color: "fake", width: 2 },
        { dots: [[a, b]], color: "fake", r: 7 },
      ],
    });
    const { jsd, value, dLoss, accuracy } = found;
    words.text =
      `JSD ${fixed(jsd, 3)} of at most 0.693. V = 2 JSD − log 4 = ${fixed(value, 3)}. ` +
      `Loss of the best D = log 2 − JSD = ${fixed(dLoss, 3)}. Its accuracy: ${Math.round(100 * accuracy)}%.`;
  }

  map.drag((a, b) => {
    [mean.position, width.position] = [a, b];
    moved();
  });
  const left = make("div", {}, legend([["real", "real samples"], ["fake", "generated samples", "6 3"]]), top.element, low.element);
  box.append(controls(mean, width), row(left, map), controls(loss, step), words.element);
  draw();
});
