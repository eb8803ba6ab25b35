// A GAN on points of the plane: the arithmetic of gan2d.js, without a page.
//
// The networks, losses and optimisers are those of chapter 1: two hidden layers of 64 units with ReLU, PyTorch's
// first weights, Adam with betas (0.5, 0.999). All numbers are float64. Every array is made once and filled again in
// each step, so training leaves nothing for the browser to clean up.
(globalThis.play ||= {}).gan2d = (() => {
  "use strict";

  const WIDTH = 64; // units in a hidden layer
  const BATCH = 128; // samples of each kind in a step
  const NEAR = 0.6; // a sample is near a mode within three standard deviations
  const COVERED = 0.02; // the share of samples that a covered mode has near it

  // --- The networks ----------------------------------------------------------------------------------------

  /** A network 2 - 64 - 64 - outputs. Its parameters lie in one array, in the order of PyTorch's `parameters()`. */
  function makeNetwork(outputs) {
    const lengths = [2 * WIDTH, WIDTH, WIDTH * WIDTH, WIDTH, outputs * WIDTH, outputs];
    const count = lengths.reduce((sum, length) => sum + length);
    const network = { outputs, count, updates: 0 };
    for (const name of ["parameters", "gradient", "mean", "square"]) network[name] = new Float64Array(count);
    const views = (array) => {
      let start = 0;
      return lengths.map((length) => array.subarray(start, (start += length)));
    };
    [network.w1, network.b1, network.w2, network.b2, network.w3, network.b3] = views(network.parameters);
    [network.gw1, network.gb1, network.gw2, network.gb2, network.gw3, network.gb3] = views(network.gradient);
    return network;
  }

  /** Draw the weights as `nn.Linear` does: uniformly within one over the square root of the number of inputs. */
  function initialize(network, random) {
    const layers = [
      [2, network.w1, network.b1],
      [WIDTH, network.w2, network.b2],
      [WIDTH, network.w3, network.b3],
    ];
    for (const [inputs, ...arrays] of layers) {
      for (const array of arrays) {
        for (let i = 0; i < array.length; i++) array[i] = (2 * random.uniform() - 1) / Math.sqrt(inputs);
      }
    }
    network.mean.fill(0);
    network.square.fill(0);
    network.updates = 0;
  }

  /**
   * What one forward pass leaves for the backward pass: which hidden units are above 0, their values, the outputs.
   * Loops over these units take four at a time, so the arrays have room for three more; what is there is not used.
   */
  function makeTrace() {
    const units = () => new Float64Array(WIDTH + 3);
    const indices = () => new Uint8Array(WIDTH + 3);
    return {
      x: 0,
      y: 0,
      count1: 0,
      on1: indices(),
      h1: units(),
      delta1: units(),
      count2: 0,
      on2: indices(),
      h2: units(),
      delta2: units(),
      out0: 0,
      out1: 0,
      dx: 0, // the gradient at the input, after a backward pass
      dy: 0,
    };
  }

  /** Send one point through a network. Units that ReLU sets to 0 are left out of all sums: about half of them. */
  function forward(network, x, y, trace) {
    const { w1, b1, w2, b2, w3, b3 } = network;
    const { on1, h1, on2, h2 } = trace;
    trace.x = x;
    trace.y = y;
    let n1 = 0;
    for (let j = 0; j < WIDTH; j++) {
      const sum = w1[2 * j] * x + w1[2 * j + 1] * y + b1[j];
      if (sum > 0) {
        on1[n1] = j;
        h1[n1++] = sum;
      }
    }
    let n2 = 0;
    for (let j = 0; j < WIDTH; j += 4) {
      // four units at a time, so that each index is read once for four products
      const row0 = j * WIDTH;
      const row1 = row0 + WIDTH;
      const row2 = row1 + WIDTH;
      const row3 = row2 + WIDTH;
      let s0 = b2[j];
      let s1 = b2[j + 1];
      let s2 = b2[j + 2];
      let s3 = b2[j + 3];
      for (let k = 0; k < n1; k++) {
        const i = on1[k];
        const h = h1[k];
        s0 += w2[row0 + i] * h;
        s1 += w2[row1 + i] * h;
        s2 += w2[row2 + i] * h;
        s3 += w2[row3 + i] * h;
      }
      if (s0 > 0) {
        on2[n2] = j;
        h2[n2++] = s0;
      }
      if (s1 > 0) {
        on2[n2] = j + 1;
        h2[n2++] = s1;
      }
      if (s2 > 0) {
        on2[n2] = j + 2;
        h2[n2++] = s2;
      }
      if (s3 > 0) {
        on2[n2] = j + 3;
        h2[n2++] = s3;
      }
    }
    let out0 = b3[0];
    for (let k = 0; k < n2; k++) out0 += w3[on2[k]] * h2[k];
    trace.out0 = out0;
    if (network.outputs === 2) {
      let out1 = b3[1];
      for (let k = 0; k < n2; k++) out1 += w3[WIDTH + on2[k]] * h2[k];
      trace.out1 = out1;
    }
    trace.count1 = n1;
    trace.count2 = n2;
    return out0;
  }

  /** The gradients at the hidden units and at the input of one sample, given those at the outputs. */
  function backward(network, trace, d0, d1 = 0) {
    const { w1, w2, w3 } = network;
    const { on1, count1, delta1, on2, count2, delta2 } = trace;
    const two = network.outputs === 2;
    for (let k = 0; k < count2; k++) {
      const j = on2[k];
      delta2[k] = two ? w3[j] * d0 + w3[WIDTH + j] * d1 : w3[j] * d0;
    }
    for (let i = 0; i < count1; i += 4) {
      const i0 = on1[i];
      const i1 = on1[i + 1];
      const i2 = on1[i + 2];
      const i3 = on1[i + 3];
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let k = 0; k < count2; k++) {
        const row = on2[k] * WIDTH;
        const delta = delta2[k];
        s0 += w2[row + i0] * delta;
        s1 += w2[row + i1] * delta;
        s2 += w2[row + i2] * delta;
        s3 += w2[row + i3] * delta;
      }
      delta1[i] = s0;
      delta1[i + 1] = s1;
      delta1[i + 2] = s2;
      delta1[i + 3] = s3;
    }
    let dx = 0;
    let dy = 0;
    for (let i = 0; i < count1; i++) {
      dx += delta1[i] * w1[2 * on1[i]];
      dy += delta1[i] * w1[2 * on1[i] + 1];
    }
    trace.dx = dx;
    trace.dy = dy;
  }

  /** Add one sample's gradient to the network's, after `backward` with the same gradients at the outputs. */
  function accumulate(network, trace, d0, d1 = 0) {
    const { gw1, gb1, gw2, gb2, gw3, gb3 } = network;
    const { x, y, on1, h1, count1, delta1, on2, h2, count2, delta2 } = trace;
    gb3[0] += d0;
    for (let k = 0; k < count2; k++) {
      gw3[on2[k]] += h2[k] * d0;
      gb2[on2[k]] += delta2[k];
    }
    if (network.outputs === 2) {
      gb3[1] += d1;
      for (let k = 0; k < count2; k++) gw3[WIDTH + on2[k]] += h2[k] * d1;
    }
    for (let k = count2; k < count2 + 3; k++) delta2[k] = 0;
    for (let k = 0; k < count2; k += 4) {
      const row0 = on2[k] * WIDTH;
      const row1 = on2[k + 1] * WIDTH;
      const row2 = on2[k + 2] * WIDTH;
      const row3 = on2[k + 3] * WIDTH;
      const e0 = delta2[k];
      const e1 = delta2[k + 1];
      const e2 = delta2[k + 2];
      const e3 = delta2[k + 3];
      for (let i = 0; i < count1; i++) {
        const at = on1[i];
        const h = h1[i];
        gw2[row0 + at] += e0 * h;
        gw2[row1 + at] += e1 * h;
        gw2[row2 + at] += e2 * h;
        gw2[row3 + at] += e3 * h;
      }
    }
    for (let i = 0; i < count1; i++) {
      const j = on1[i];
      gb1[j] += delta1[i];
      gw1[2 * j] += delta1[i] * x;
      gw1[2 * j + 1] += delta1[i] * y;
    }
  }

  function learn(network, trace, d0, d1) {
    backward(network, trace, d0, d1);
    accumulate(network, trace, d0, d1);
  }

  // --- Optimisers ------------------------------------------------------------------------------------------

  /** One update by Adam, as PyTorch computes it. */
  function adam(network, lr) {
    const { parameters, gradient, mean, square, count } = network;
    network.updates += 1;
    const size = lr / (1 - 0.5 ** network.updates);
    const correction = Math.sqrt(1 - 0.999 ** network.updates);
    for (let i = 0; i < count; i++) {
      const g = gradient[i];
      const m = (mean[i] = 0.5 * mean[i] + 0.5 * g);
      const v = (square[i] = 0.999 * square[i] + 0.001 * g * g);
      parameters[i] -= (size * m) / (Math.sqrt(v) / correction + 1e-8);
    }
  }

  /** One update by plain gradient descent. */
  function descend(network, lr) {
    const { parameters, gradient, count } = network;
    for (let i = 0; i < count; i++) parameters[i] -= lr * gradient[i];
  }

  // --- Losses ----------------------------------------------------------------------------------------------

  const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
  const softplus = (logit) => Math.max(logit, 0) + Math.log1p(Math.exp(-Math.abs(logit)));

  /** G's losses at the logit of one generated sample, and their derivatives. */
  const G_LOSSES = {
    "non-saturating": { value: (logit) => softplus(-logit), slope: (logit) => -sigmoid(-logit) },
    minimax: { value: (logit) => -softplus(logit), slope: (logit) => -sigmoid(logit) },
  };

  // --- Data ------------------------------------------------------------------------------------------------

  const RING = Array.from({ length: 8 }, (_, k) => [2 * Math.cos((k * Math.PI) / 4), 2 * Math.sin((k * Math.PI) / 4)]);
  const GRID = Array.from({ length: 9 }, (_, k) => [2 * (k % 3) - 2, 2 * Math.floor(k / 3) - 2]);

  /** Draw around one of some centres. */
  function around(centres, spread, random, out, at) {
    const [x, y] = centres[random.below(centres.length)];
    out[at] = x + spread * random.normal();
    out[at + 1] = y + spread * random.normal();
  }

  /** The sets of points. `draw(random, out, at)` writes one point; `modes` are the centres, where there are some. */
  const DATA = {
    ring: { modes: RING, draw: (random, out, at) => around(RING, 0.2, random, out, at) },
    grid: { modes: GRID, draw: (random, out, at) => around(GRID, 0.2, random, out, at) },
    gaussian: {
      modes: [],
      draw(random, out, at) {
        const z0 = random.normal();
        const z1 = random.normal();
        out[at] = z0 + 0.2 * z1 + 1;
        out[at + 1] = 0.8 * z0 - 0.5 * z1 - 0.5;
      },
    },
    spiral: {
      modes: [],
      draw(random, out, at) {
        const turn = Math.sqrt(0.02 + 0.98 * random.uniform()); // as many points on each piece of the arm
        const angle = 3.5 * Math.PI * turn;
        out[at] = 2.4 * turn * Math.cos(angle) + 0.06 * random.normal();
        out[at + 1] = 2.4 * turn * Math.sin(angle) + 0.06 * random.normal();
      },
    },
  };

  /** The reader's own dots, each blurred a little, so that there is a distribution to learn. */
  function dotData(dots) {
    return { modes: [], draw: (random, out, at) => around(dots, 0.08, random, out, at) };
  }

  // --- The game --------------------------------------------------------------------------------------------

  const SETTINGS = { gLoss: "non-saturating", gOptimizer: "Adam", dLr: 2e-3, gLr: 1e-3, dSteps: 1, gSteps: 1 };

  /** A pair of networks and all that their training needs. `settings` may be changed between two steps. */
  function makeGame(data, seed, settings = {}) {
    const game = {
      data,
      settings: { ...SETTINGS, ...settings },
      steps: 0,
      dLoss: NaN, // of the last update of each player, before it
      gLoss: NaN,
      generator: makeNetwork(2),
      discriminator: makeNetwork(1),
      random: play.makeRandom(seed, 1),
      real: new Float64Array(2 * BATCH),
      z: new Float64Array(2 * BATCH),
      fakes: Array.from({ length: BATCH }, makeTrace), // G's passes: out0 and out1 are the generated points
      judged: makeTrace(), // D's pass over one point
    };
    const random = play.makeRandom(seed, 0);
    initialize(game.generator, random);
    initialize(game.discriminator, random);
    return game;
  }

  function drawReal({ data, random, real }) {
    for (let i = 0; i < 2 * BATCH; i += 2) data.draw(random, real, i);
  }

  function drawLatents({ random, z }) {
    for (let i = 0; i < 2 * BATCH; i++) z[i] = random.normal();
  }

  function generate({ generator, z, fakes }) {
    for (let i = 0; i < BATCH; i++) forward(generator, z[2 * i], z[2 * i + 1], fakes[i]);
  }

  /** Update D on the real and the generated batch. The loss is the mean of the two halves. */
  function discriminatorStep(game) {
    const { discriminator, real, fakes, judged, settings } = game;
    let loss = 0;
    discriminator.gradient.fill(0);
    for (let i = 0; i < BATCH; i++) {
      const onReal = forward(discriminator, real[2 * i], real[2 * i + 1], judged);
      loss += softplus(-onReal);
      learn(discriminator, judged, -sigmoid(-onReal) / (2 * BATCH));
      const onFake = forward(discriminator, fakes[i].out0, fakes[i].out1, judged);
      loss += softplus(onFake);
      learn(discriminator, judged, sigmoid(onFake) / (2 * BATCH));
    }
    game.dLoss = loss / (2 * BATCH);
    adam(discriminator, settings.dLr);
  }

  /** Update G: the gradient of its loss goes back through D, which stays as it is, to the generated batch. */
  function generatorStep(game) {
    const { generator, discriminator, fakes, judged, settings } = game;
    const { value, slope } = G_LOSSES[settings.gLoss];
    let loss = 0;
    generator.gradient.fill(0);
    for (let i = 0; i < BATCH; i++) {
      const logit = forward(discriminator, fakes[i].out0, fakes[i].out1, judged);
      loss += value(logit);
      backward(discriminator, judged, slope(logit) / BATCH);
      learn(generator, fakes[i], judged.dx, judged.dy);
    }
    game.gLoss = loss / BATCH;
    if (settings.gOptimizer === "Adam") adam(generator, settings.gLr);
    else descend(generator, settings.gLr);
  }

  /** One step of the game: so many updates of D, then so many of G. G's first uses the points that D saw last. */
  function step(game) {
    const { dSteps, gSteps } = game.settings;
    for (let k = 0; k < dSteps; k++) {
      drawReal(game);
      drawLatents(game);
      generate(game);
      discriminatorStep(game);
    }
    for (let k = 0; k < gSteps; k++) {
      if (k > 0 || dSteps === 0) {
        drawLatents(game);
        generate(game);
      }
      generatorStep(game);
    }
    game.steps += 1;
  }

  // --- What is seen and measured ---------------------------------------------------------------------------

  const seen = makeTrace();

  /** G's points for an array of latents, both flat: x, y, x, y, ... */
  function sample(generator, z, out) {
    for (let i = 0; i < z.length; i += 2) {
      forward(generator, z[i], z[i + 1], seen);
      out[i] = seen.out0;
      out[i + 1] = seen.out1;
    }
  }

  /** D's probability of "real" at the middles of size × size cells of the square from -reach to reach, top row first. */
  function surface(discriminator, size, reach, out) {
    for (let row = 0; row < size; row++) {
      const y = reach - ((2 * row + 1) * reach) / size;
      for (let column = 0; column < size; column++) {
        const x = ((2 * column + 1) * reach) / size - reach;
        out[row * size + column] = sigmoid(forward(discriminator, x, y, seen));
      }
    }
  }

  /** Which modes are covered, and the share of points near a mode. */
  function survey(points, modes) {
    const total = points.length / 2;
    const counts = modes.map(() => 0);
    let near = 0;
    for (let i = 0; i < points.length; i += 2) {
      let nearest = -1;
      let least = NEAR * NEAR;
      modes.forEach(([x, y], mode) => {
        const squared = (points[i] - x) ** 2 + (points[i + 1] - y) ** 2;
        if (squared < least) {
          nearest = mode;
          least = squared;
        }
      });
      if (nearest >= 0) {
        counts[nearest] += 1;
        near += 1;
      }
    }
    return { covered: counts.map((count) => count >= COVERED * total), near: near / total };
  }

  /** The squared distance of each point to its k-th nearest other point. */
  function squaredRadii(points, k = 3) {
    const n = points.length / 2;
    const radii = new Float64Array(n);
    const nearest = new Float64Array(k); // in rising order
    for (let i = 0; i < n; i++) {
      const x = points[2 * i];
      const y = points[2 * i + 1];
      nearest.fill(Infinity);
      for (let j = 0; j < n; j++) {
        if (j === i) continue;
        const squared = (points[2 * j] - x) ** 2 + (points[2 * j + 1] - y) ** 2;
        if (squared >= nearest[k - 1]) continue;
        let at = k - 1;
        for (; at > 0 && nearest[at - 1] > squared; at--) nearest[at] = nearest[at - 1];
        nearest[at] = squared;
      }
      radii[i] = nearest[k - 1];
    }
    return radii;
  }

  /** The share of points within a ball around any of the centres. */
  function shareInside(points, centres, radii) {
    let inside = 0;
    for (let i = 0; i < points.length; i += 2) {
      for (let j = 0; j < radii.length; j++) {
        if ((points[i] - centres[2 * j]) ** 2 + (points[i + 1] - centres[2 * j + 1]) ** 2 <= radii[j]) {
          inside += 1;
          break;
        }
      }
    }
    return inside / (points.length / 2);
  }

  /** Precision and recall as chapter 7 defines them, on the points themselves. */
  function precisionRecall(real, fake, realRadii = squaredRadii(real)) {
    return {
      precision: shareInside(fake, real, realRadii),
      recall: shareInside(real, fake, squaredRadii(fake)),
    };
  }

  return {
    BATCH,
    DATA,
    G_LOSSES,
    NEAR,
    SETTINGS,
    backward,
    discriminatorStep,
    dotData,
    forward,
    generate,
    generatorStep,
    makeGame,
    makeNetwork,
    makeTrace,
    precisionRecall,
    sample,
    sigmoid,
    squaredRadii,
    step,
    surface,
    survey,
  };
})();
