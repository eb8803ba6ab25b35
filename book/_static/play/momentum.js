// Adam's average of a gradient that flips, turns or is noisy, and the path of a weight that follows it.
play.momentum = (() => {
  "use strict";

  /** The gradient at each step, and the direction that it has on average. */
  function gradients(kind, every, count) {
    const steps = Array.from({ length: count }, (_, t) => t);
    const flips = steps.map((t) => (Math.floor(t / every) % 2 ? -1 : 1));
    if (kind === "flips") return { values: flips, truth: flips };
    if (kind === "turns") {
      const turns = steps.map((t) => Math.cos((Math.PI * (t + 0.5)) / every));
      return { values: turns, truth: turns };
    }
    const { normal } = play.makeRandom(1);
    return { values: steps.map(() => 0.3 + normal()), truth: steps.map(() => 0.3) };
  }

  /** Adam's running average, as the chapter writes it: without the correction of the start. */
  function averages(values, beta1) {
    let m = 0;
    return values.map((g) => (m = beta1 * m + (1 - beta1) * g));
  }

  /** The path of a weight under Adam, in learning rates, from 0. */
  function adam(values, beta1, beta2 = 0.999, eps = 1e-8) {
    let [m, v, weight] = [0, 0, 0];
    return values.map((g, t) => {
      m = beta1 * m + (1 - beta1) * g;
      v = beta2 * v + (1 - beta2) * g * g;
      const root = Math.sqrt(v / (1 - beta2 ** (t + 1))) + eps;
      weight -= m / (1 - beta1 ** (t + 1)) / root;
      return weight;
    });
  }

  /** How large the average gets, and on which share of the steps it points the wrong way, once the start has faded. */
  function judge({ values, truth }, beta1, from) {
    const m = averages(values, beta1).slice(from);
    const wrong = m.filter((value, k) => value * truth[from + k] < 0).length / m.length;
    return { largest: Math.max(...m), wrong };
  }

  return { gradients, averages, adam, judge };
})();

play.register("momentum", async (box) => {
  await Promise.all([play.load("play/plot.js"), play.load("play/random.js")]);
  const { gradients, averages, adam, judge } = play.momentum;
  const { chart, legend, slider, choice, says, controls, fixed, make } = play.plot;
  box.setAttribute("aria-label", "Adam's average of a gradient");
  const [SHOWN, COUNT, FADED] = [64, 1088, 64]; // 1,024 steps are judged: whole periods, where there are some

  const kinds = [["flips", "flips"], ["turns", "turns smoothly"], ["noise", "is noisy"]];
  const kind = choice("The gradient", kinds, draw);
  const every = slider({ label: "steps to a turn", min: 2, max: 32, step: 1, value: 8, show: String }, draw);
  const beta = slider({ label: "β₁", min: 0, max: 0.99, step: 0.01, value: 0.5, show: fixed }, draw);
  const top = chart({ height: 220 });
  const low = chart({ height: 170, title: "A weight that follows, in learning rates" });
  const words = says();
  const names = make("div");

  function draw() {
    const given = gradients(kind.value, every.value, COUNT);
    every.element.hidden = kind.value === "noise";
    const betas = [[beta.value, "fake"], [0.9, "real", "6 3"]];
    const line = (values) => values.slice(0, SHOWN).map((value, t) => [t, value]);
    const found = betas.map(([one]) => judge(given, one, FADED));
    const reach = kind.value === "noise" ? 3 : 1.2;
    const stairs = line(given.values).flatMap(([t, value]) => [[t - 0.5, value], [t + 0.5, value]]);
    const said = betas.map(([one], k) => `β₁ ${fixed(one)}: wrong direction on ${Math.round(100 * found[k].wrong)}%, at most ${fixed(found[k].largest)}`);
    top.draw({
      x: { min: 0, max: SHOWN, title: "step" },
      y: { min: -reach, max: reach, title: "average" },
      label: `A gradient and its averages. ${said.join(". ")}.`,
      marks: [
        { rule: 0, across: "y" },
        { line: stairs, color: "grey", width: 1, opacity: 0.8 },
        ...betas.map(([one, color, dash]) => ({ line: line(averages(given.values, one)), color, dash })),
      ],
    });
    const paths = betas.map(([one]) => line(adam(given.values, one)));
    const all = paths.flat().map(([, value]) => value);
    low.draw({
      x: { min: 0, max: SHOWN, title: "step" },
      y: { min: Math.min(-1, ...all), max: Math.max(1, ...all), title: "weight" },
      label: `The paths of a weight: from 0 to ${paths.map((path) => fixed(path[SHOWN - 1][1], 1)).join(" and to ")}.`,
      marks: betas.map(([, color, dash], k) => ({ line: paths[k], color, dash })),
    });
    names.replaceChildren(legend([["grey", "gradient"], ["fake", `β₁ = ${fixed(beta.value)}`], ["real", "β₁ = 0.90", "6 3"]]));
    words.text = `${said.join("; ")}.`;
  }

  box.append(controls(kind, every, beta), names, top.element, low.element, words.element);
  draw();
});
