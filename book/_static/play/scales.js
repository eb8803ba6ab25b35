// How large the signal is after each layer of an untrained generator of 64 pixels, by the widths and the first weights.
play.scales = (() => {
  "use strict";

  /** The layers of the standard generator: channels, and how many taps meet an output on average along one side. */
  function layers(base) {
    const widths = [100, 8 * base, 4 * base, 2 * base, base, 3];
    return widths.slice(1).map((outputs, k) => {
      const side = 2 ** (k + 1); // of the map that comes in, after the first layer
      // Two taps of the four meet an output, but for the two pixels at the ends, which miss one each.
      const taps = k ? (4 * side - 2) / (2 * side) : 1;
      return { inputs: widths[k], outputs, taps };
    });
  }

  /** The standard deviation of PyTorch's default weights of a transposed convolution with a 4 × 4 kernel. */
  const defaultDeviation = ({ outputs }) => 1 / Math.sqrt(3 * outputs * 16);

  /** The mean square of tanh of a normal with mean 0 and variance v: Simpson's rule over ±8 deviations. */
  function squashed(v) {
    const count = 400;
    const h = 16 / count;
    let sum = 0;
    for (let k = 0; k <= count; k++) {
      const x = -8 + k * h;
      const factor = k === 0 || k === count ? 1 : k % 2 ? 4 : 2;
      sum += (factor * Math.tanh(x * Math.sqrt(v)) ** 2 * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
    }
    return (sum * h) / 3;
  }

  /** Root mean square after each layer. `deviation` is that of the weights, or null for PyTorch's default. */
  function predict({ base, deviation, norm, gain = 1 }) {
    let square = 1; // of the latent
    return layers(base).map((layer, k) => {
      const sigma = deviation === null ? defaultDeviation(layer) : deviation;
      const sum = layer.inputs * layer.taps ** 2 * sigma ** 2 * square;
      if (k === 4) return Math.sqrt(squashed(sum));
      square = (norm ? gain ** 2 : sum) / 2; // ReLU keeps half
      return Math.sqrt(square);
    });
  }

  return { layers, squashed, predict };
})();

play.register("scales", async (box, measured) => {
  await play.load("play/plot.js");
  const { predict } = play.scales;
  const { chart, legend, slider, says, controls, row, number, fixed } = play.plot;
  box.setAttribute("aria-label", "The scale of the signal by the first weights");

  const logarithmic = { of: (position) => 10 ** position, show: (value) => number(value, 2) };
  const sigma = slider({ label: "σ of the weights", min: -3, max: -0.5, step: 0.01, value: Math.log10(0.02), ...logarithmic }, draw);
  const base = slider({ label: "base channels", min: 3, max: 8, step: 1, value: 6, of: (power) => 2 ** power, show: String }, draw);
  const gain = slider({ label: "gain of batch norm", min: 0.02, max: 2, step: 0.02, value: 1, show: fixed }, draw);
  const plots = [false, true].map((norm) => ({ norm, plot: chart({ height: 260, title: `${norm ? "with" : "without"} batch norm` }) }));
  const words = says();

  function draw() {
    const ends = plots.map(({ norm, plot }) => {
      const lines = [sigma.value, null].map((deviation) => predict({ base: base.value, deviation, norm, gain: gain.value }));
      const marks = [
        { line: lines[1].map((value, k) => [k + 1, value]), color: "real", dash: "6 3" },
        { line: lines[0].map((value, k) => [k + 1, value]), color: "fake" },
        { dots: lines[0].map((value, k) => [k + 1, value]), color: "fake", r: 3 },
      ];
      if (base.value === 64 && gain.value === 1) {
        const dots = measured[norm ? "with" : "without"] || {};
        marks.push({ dots: dots.default.map((value, k) => [k + 1, value]), color: "real", r: 5, hollow: true });
        if (Math.abs(sigma.value - 0.02) < 2e-4) {
          marks.push({ dots: dots.paper.map((value, k) => [k + 1, value]), color: "fake", r: 6, hollow: true });
        }
      }
      plot.draw({
        x: { min: 0.7, max: 5.3, title: "layer", ticks: [1, 2, 3, 4, 5] },
        y: { min: 1e-5, max: 30, log: true, title: norm ? undefined : "root mean square" },
        label: `${norm ? "With" : "Without"} batch norm the scale after layers 1 to 5 is ${lines[0].map((value) => number(value, 2)).join(", ")}.`,
        marks,
      });
      return lines[0][4];
    });
    words.text =
      `The first image has pixels of size ${number(ends[0], 2)} without batch norm and ${number(ends[1], 2)} with it. ` +
      "Lines are computed from the widths; rings are measured.";
  }

  const names = legend([["fake", "N(0, σ²)"], ["real", "PyTorch's default", "6 3"]]);
  box.append(controls(sigma, base, gain), names, row(...plots.map(({ plot }) => plot)), words.element);
  draw();
});
