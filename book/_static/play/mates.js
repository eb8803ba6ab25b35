// What batch norm makes of one image when the images beside it change: it needs only their mean and mean square.
play.mates = (() => {
  "use strict";

  /** Mean and mean square of values. */
  function sums(values) {
    let [mean, square] = [0, 0];
    for (const value of values) {
      mean += value / values.length;
      square += (value * value) / values.length;
    }
    return [mean, square];
  }

  /** The same after each value x has become contrast · x + brightness. */
  const changed = ([mean, square], contrast, brightness) => [
    contrast * mean + brightness,
    contrast ** 2 * square + 2 * contrast * brightness * mean + brightness ** 2,
  ];

  /** Mean and standard deviation of a batch: one image and `count` mates of equal size. */
  function statistics(image, mates, count, eps = 1e-5) {
    const own = sums(image);
    const [mean, square] = own.map((value, k) => (value + count * mates[k]) / (1 + count));
    return { mean, deviation: Math.sqrt(square - mean * mean + eps) };
  }

  const normalise = (image, { mean, deviation }) => image.map((value) => (value - mean) / deviation);

  return { sums, changed, statistics, normalise };
})();

play.register("mates", async (box, { image, mates }) => {
  await play.load("play/plot.js");
  const { changed, statistics, normalise } = play.mates;
  const { slider, choice, says, controls, row, make, fixed } = play.plot;
  box.setAttribute("aria-label", "One image and its batch mates");
  const SIDE = Math.sqrt(image.length);
  const SHADES = [-1, 4]; // black and white of both pictures

  const names = Object.keys(mates);
  const kind = choice("Beside it", names.map((name) => [name, name]), draw);
  const count = slider({ label: "how many", min: 0, max: 127, step: 1, value: 31, show: String }, draw);
  const contrast = slider({ label: "their contrast", min: 0, max: 3, step: 0.05, value: 1, show: fixed }, draw);
  const brightness = slider({ label: "their brightness", min: -1, max: 1, step: 0.05, value: 0, show: fixed }, draw);
  const words = says();
  const pictures = ["the image", "after batch norm"].map((title) => {
    const canvas = make("canvas", { width: SIDE, height: SIDE, role: "img" });
    canvas.style.cssText = "width: 196px; height: 196px; image-rendering: pixelated";
    return { title, canvas, element: make("div", {}, make("p", { class: "plot-title" }, title), canvas) };
  });

  function paint({ title, canvas }, values) {
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(SIDE, SIDE);
    values.forEach((value, k) => {
      const shade = (255 * (value - SHADES[0])) / (SHADES[1] - SHADES[0]);
      pixels.data.set([shade, shade, shade, 255], 4 * k);
    });
    context.putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-label", `${title}: values from ${fixed(Math.min(...values))} to ${fixed(Math.max(...values))}`);
  }

  function draw() {
    const beside = changed(mates[kind.value], contrast.value, brightness.value);
    const found = statistics(image, beside, count.value);
    const after = normalise(image, found);
    paint(pictures[0], image);
    paint(pictures[1], after);
    words.text =
      `The batch has mean ${fixed(found.mean)} and standard deviation ${fixed(found.deviation)}. ` +
      `Black, −1, becomes ${fixed(Math.min(...after))}; white, 1, becomes ${fixed(Math.max(...after))}.`;
  }

  box.append(controls(kind, count), controls(contrast, brightness), row(...pictures), words.element);
  draw();
});
