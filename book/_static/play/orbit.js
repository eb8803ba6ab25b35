// Gradient steps in the game V = θφ: both players at once or in turn, with a step size and a damping of D.
play.orbit = (() => {
  "use strict";

  /** The path of (θ, φ) from a start, `steps` + 1 points. D's damping takes γφ from its gradient. */
  function path({ eta, alternating, gamma = 0, steps = 150, start = [1, 0] }) {
    let [theta, phi] = start;
    const points = [[theta, phi]];
    for (let k = 0; k < steps; k++) {
      const next = phi + eta * (theta - gamma * phi);
      theta -= eta * (alternating ? next : phi);
      phi = next;
      points.push([theta, phi]);
    }
    return points;
  }

  /** The size of the larger eigenvalue of one step: the factor by which the path grows in the long run. */
  function growth({ eta, alternating, gamma = 0 }) {
    const d = 1 - eta * gamma;
    const matrix = alternating ? [1 - eta * eta, -eta * d, eta, d] : [1, -eta, eta, d];
    const half = (matrix[0] + matrix[3]) / 2;
    const determinant = matrix[0] * matrix[3] - matrix[1] * matrix[2];
    const inside = half * half - determinant;
    return inside < 0 ? Math.sqrt(determinant) : Math.abs(half) + Math.sqrt(inside);
  }

  return { path, growth };
})();

play.register("orbit", async (box) => {
  await play.load("play/plot.js");
  const { path, growth } = play.orbit;
  const { chart, slider, button, says, controls, row, fixed } = play.plot;
  box.setAttribute("aria-label", "Two players in the game V = θφ");

  const REACH = 2.5;
  const orders = [
    { name: "simultaneous", alternating: false },
    { name: "alternating", alternating: true },
  ].map((order) => ({ ...order, plot: chart({ square: true, height: 300, title: order.name }) }));
  const words = says();
  let start = [1, 0];
  let timer = 0;

  const eta = slider({ label: "step size η", min: 0.02, max: 2.2, step: 0.02, value: 0.1, show: fixed }, draw);
  const gamma = slider({ label: "damping γ of D", min: 0, max: 1, step: 0.02, value: 0, show: fixed }, draw);
  const steps = slider({ label: "steps", min: 1, max: 400, step: 1, value: 150, show: String }, () => {
    stop();
    draw();
  });
  const player = button("Play", () => (timer ? stop() : run()));
  const reset = button("Start at (1, 0)", () => {
    start = [1, 0];
    draw();
  });

  function stop() {
    clearInterval(timer);
    timer = 0;
    player.textContent = "Play";
    draw();
  }

  function run() {
    player.textContent = "Pause";
    if (steps.value === 400) steps.position = 1;
    timer = setInterval(() => {
      steps.position = steps.value + 1;
      if (steps.value === 400) stop();
      else draw();
    }, 40);
  }

  function draw() {
    const found = orders.map(({ name, alternating, plot }) => {
      const settings = { eta: eta.value, gamma: gamma.value, steps: steps.value, alternating, start };
      const points = path(settings);
      const end = points[points.length - 1];
      const radius = Math.hypot(...end);
      const gone = points.findIndex(([a, b]) => Math.max(Math.abs(a), Math.abs(b)) > REACH);
      const inside = gone < 0 ? points : points.slice(0, gone + 1);
      const share = (k) => inside.slice(Math.floor((k * inside.length) / 5), Math.floor(((k + 1) * inside.length) / 5));
      const axis = { min: -REACH, max: REACH, ticks: [-2, -1, 0, 1, 2] };
      const factor = growth(settings);
      const fate = factor > 1.00005 ? "grows" : factor < 0.99995 ? "shrinks" : "neither grows nor shrinks";
      plot.draw({
        x: { ...axis, title: "θ (G)" },
        y: { ...axis, title: "φ (D)" },
        label: `${name}: a path from (${start.map((value) => fixed(value, 1)).join(", ")}) round the centre that ${fate}.`,
        marks: [
          { rule: 0, across: "x" },
          { rule: 0, across: "y" },
          { line: inside, color: "grey", width: 1 },
          ...[0.2, 0.4, 0.6, 0.8, 1].map((opacity, k) => ({ dots: share(k), color: "real", r: 2.5, opacity })),
          { dots: [start], color: "fake", r: 6, hollow: true },
        ],
      });
      const left = gone < 0 ? "" : `, out of the picture at step ${gone}`;
      return `${name}: radius ${radius < 1e6 ? fixed(radius) : "over a million"}${left}, in the long run × ${fixed(factor, 4)} per step`;
    });
    if (!timer) words.text = `After ${steps.value} steps, ${found.join("; ")}.`;
  }

  for (const { plot } of orders) {
    plot.drag((a, b) => {
      start = [a, b];
      draw();
    });
  }
  box.append(controls(eta, gamma), row(...orders.map(({ plot }) => plot)), controls(steps, player, reset), words.element);
  draw();
});
