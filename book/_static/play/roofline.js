// The roofline of a processor, and how far five layers and Adam can get under it.
play.roofline = (() => {
  "use strict";

  // The chapter's layers. `width` scales their channels, but not the single one of an image.
  const LAYERS = [
    { name: "5 × 5 layer of G", inputs: 256, outputs: 128, kernel: 5, stride: 1, padding: 2, size: 7 },
    { name: "k4 s2 layer of G", inputs: 128, outputs: 64, kernel: 4, stride: 2, padding: 1, size: 7 },
    { name: "last layer of G", inputs: 64, outputs: 1, kernel: 4, stride: 2, padding: 1, size: 14 },
    { name: "batch norm", channels: 64, size: 14, perNumber: 7, parameters: 2 },
    { name: "leaky ReLU", channels: 64, size: 14, perNumber: 1, parameters: 0 },
  ];
  const BYTES = { float32: 4, bfloat16: 2 };

  /** How many pairs of an input and a tap of a transposed convolution land inside the output, along one side. */
  function pairs({ kernel, stride, padding, size }, sizeOut) {
    let count = 0;
    for (let at = 0; at < size; at++) {
      for (let tap = 0; tap < kernel; tap++) {
        const lands = at * stride - padding + tap;
        if (lands >= 0 && lands < sizeOut) count++;
      }
    }
    return count;
  }

  /** A layer's operations and bytes in one forward pass. */
  function cost(layer, { batch, width, precision }) {
    const bytes = BYTES[precision];
    if (layer.channels) {
      const numbers = batch * layer.channels * width * layer.size ** 2;
      return { flops: layer.perNumber * numbers, bytes: 2 * numbers * bytes + 4 * layer.parameters * layer.channels * width };
    }
    const inputs = layer.inputs * width;
    const outputs = layer.outputs === 1 ? 1 : layer.outputs * width;
    const sizeOut = (layer.size - 1) * layer.stride - 2 * layer.padding + layer.kernel;
    const maps = batch * (inputs * layer.size ** 2 + outputs * sizeOut ** 2);
    const weights = inputs * outputs * layer.kernel ** 2;
    return { flops: 2 * batch * inputs * outputs * pairs(layer, sizeOut) ** 2, bytes: bytes * (maps + weights), weights };
  }

  /** The costs of all layers, and of Adam's update of their weights, which stays float32 at any batch size. */
  function costs(settings) {
    const found = LAYERS.map((layer) => ({ name: layer.name, ...cost(layer, settings) }));
    const weights = found.reduce((sum, one) => sum + (one.weights || 0), 0);
    return [...found, { name: "Adam", flops: 12 * weights, bytes: 28 * weights }];
  }

  /** The least time in seconds, what sets it, and the speed reached then. */
  function bound({ flops, bytes }, { peak, bandwidth }) {
    const [arithmetic, memory] = [flops / peak, bytes / bandwidth];
    const seconds = Math.max(arithmetic, memory);
    return { seconds, limit: arithmetic > memory ? "arithmetic" : "memory", speed: flops / seconds, intensity: flops / bytes };
  }

  return { LAYERS, pairs, costs, bound };
})();

play.register("roofline", async (box, measured) => {
  await play.load("play/plot.js");
  const { costs, bound } = play.roofline;
  const { chart, slider, choice, says, controls, make, number } = play.plot;
  box.setAttribute("aria-label", "The roofline of a processor, and six operations");
  const COLORS = ["real", "fake", "third", "fourth", "fifth", "grey"];

  const power = (position) => 2 ** position;
  const times = (value) => `× ${value < 1 ? ["½", "¼", "⅛"][-Math.log2(value) - 1] : value}`;
  const powers = (label, min, max, value, show) => slider({ label, min, max, step: 1, value, of: power, show }, draw);
  const batch = powers("batch size", 0, 9, 5, String);
  const width = powers("channels", -2, 3, 0, times);
  const memory = powers("memory speed", -2, 4, 0, times);
  const arithmetic = powers("arithmetic speed", -2, 4, 0, times);
  const precision = choice(
    "numbers",
    ["float32", "bfloat16"].filter((kind) => measured.peaks[kind]).map((kind) => [kind, kind]),
    draw
  );
  const plot = chart({ height: 300 });
  const words = says();
  const body = make("tbody");
  const heads = ["", "FLOP per byte", "at least, µs", "limit"].map((text) => (text ? make("th", { scope: "col" }, text) : make("td")));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body);

  function draw() {
    const kind = precision.value;
    const settings = { batch: batch.value, width: width.value, precision: kind };
    const machine = { peak: measured.peaks[kind] * arithmetic.value, bandwidth: measured.bandwidth * memory.value };
    const found = costs(settings).map((one) => {
      // Adam's numbers stay float32
      const roof = one.name === "Adam" ? { ...machine, peak: measured.peaks.float32 * arithmetic.value } : machine;
      return { ...one, ...bound(one, roof) };
    });
    const asMeasured =
      settings.batch === measured.batch && settings.width === 1 && kind === "float32" && memory.value * arithmetic.value === 1;
    const edge = machine.peak / machine.bandwidth;
    const limits = { x: [0.05, 3000], y: [measured.bandwidth / 4e10, 32 * Math.max(...Object.values(measured.peaks)) / 1e9] };
    const roof = [limits.x[0], edge, limits.x[1]].map((at) => [at, Math.min(machine.peak, at * machine.bandwidth) / 1e9]);
    const marks = [
      { rule: edge, across: "x" },
      { line: roof, color: "text", width: 2 },
      ...found.flatMap(({ name, intensity, speed }, k) => [
        { dots: [[intensity, speed / 1e9]], color: COLORS[k], r: 6, names: [name] },
        { text: String(k + 1), at: [intensity, speed / 1e9], dx: -3, dy: -10 },
      ]),
    ];
    if (asMeasured) {
      found.forEach(({ name, flops, intensity }, k) => {
        const seconds = measured.times[name];
        if (seconds) marks.push({ dots: [[intensity, flops / seconds / 1e9]], color: COLORS[k], r: 5, hollow: true });
      });
    }
    plot.draw({
      x: { min: limits.x[0], max: limits.x[1], log: true, title: "arithmetic intensity, FLOP per byte" },
      y: { min: limits.y[0], max: limits.y[1], log: true, title: "GFLOP/s" },
      label: `Roofline with its edge at ${number(edge, 2)} FLOP per byte, and ${found.map((one) => `${one.name} at ${number(one.intensity, 2)}`).join(", ")}.`,
      marks,
    });
    body.replaceChildren(
      ...found.map(({ name, intensity, seconds, limit }, k) => {
        const cells = [number(intensity), number(seconds * 1e6), limit].map((text) => make("td", {}, text));
        return make("tr", {}, make("th", { scope: "row" }, `${k + 1}. ${name}`), ...cells);
      })
    );
    const held = found.filter(({ limit }) => limit === "memory").length;
    const sum = found.reduce((all, { seconds }) => all + seconds, 0);
    words.text =
      `Edge at ${number(edge, 2)} FLOP per byte. Memory limits ${held} of 6. All six take at least ${number(sum * 1e6, 2)} µs, ` +
      `${number((sum * 1e6) / settings.batch, 2)} per image.${asMeasured ? " Rings are what was measured." : ""}`;
  }

  box.append(controls(batch, width, precision), controls(memory, arithmetic), plot.element, words.element, table);
  draw();
});
