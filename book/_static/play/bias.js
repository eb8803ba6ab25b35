// The Fréchet distance of two finite sets from the same, or a shifted, normal distribution.
play.bias = (() => {
  "use strict";

  const square = (size) => Array.from({ length: size }, () => new Float64Array(size));

  /** Mean and covariance of a set, given as rows. */
  function moments(rows) {
    const size = rows[0].length;
    const mean = new Float64Array(size);
    for (const row of rows) for (let i = 0; i < size; i++) mean[i] += row[i] / rows.length;
    const covariance = square(size);
    for (const row of rows) {
      for (let i = 0; i < size; i++) {
        for (let j = 0; j <= i; j++) covariance[i][j] += ((row[i] - mean[i]) * (row[j] - mean[j])) / (rows.length - 1);
      }
    }
    for (let i = 0; i < size; i++) for (let j = 0; j < i; j++) covariance[j][i] = covariance[i][j];
    return { mean, covariance };
  }

  /** The lower triangular L with L Lᵀ = S. */
  function cholesky(S) {
    const L = square(S.length);
    for (let i = 0; i < S.length; i++) {
      for (let j = 0; j <= i; j++) {
        let sum = S[i][j];
        for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
        L[i][j] = i === j ? Math.sqrt(Math.max(sum, 0)) : L[j][j] > 0 ? sum / L[j][j] : 0;
      }
    }
    return L;
  }

  function product(A, B) {
    const C = square(A.length);
    for (let i = 0; i < A.length; i++) {
      for (let k = 0; k < A.length; k++) for (let j = 0; j < A.length; j++) C[i][j] += A[i][k] * B[k][j];
    }
    return C;
  }

  const transposed = (A) => A.map((_, i) => Float64Array.from(A, (row) => row[i]));

  /** The eigenvalues of a symmetric matrix, by Jacobi's rotations. */
  function eigenvalues(S) {
    const A = S.map((row) => row.slice());
    const size = A.length;
    for (let sweep = 0; sweep < 30; sweep++) {
      let rest = 0;
      for (let p = 0; p < size; p++) for (let q = p + 1; q < size; q++) rest += A[p][q] ** 2;
      if (rest < 1e-22) break;
      for (let p = 0; p < size; p++) {
        for (let q = p + 1; q < size; q++) {
          if (Math.abs(A[p][q]) < 1e-300) continue;
          const theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
          const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1));
          const c = 1 / Math.hypot(t, 1);
          const s = t * c;
          for (let k = 0; k < size; k++) [A[k][p], A[k][q]] = [c * A[k][p] - s * A[k][q], s * A[k][p] + c * A[k][q]];
          for (let k = 0; k < size; k++) [A[p][k], A[q][k]] = [c * A[p][k] - s * A[q][k], s * A[p][k] + c * A[q][k]];
        }
      }
    }
    return A.map((row, i) => row[i]);
  }

  /** The squared Fréchet distance of two sets of rows. */
  function frechet(real, fake) {
    const [one, other] = [moments(real), moments(fake)];
    const L = cholesky(one.covariance);
    const inner = eigenvalues(product(product(transposed(L), other.covariance), L));
    let distance = 0;
    one.mean.forEach((value, i) => {
      distance += (value - other.mean[i]) ** 2 + one.covariance[i][i] + other.covariance[i][i];
    });
    return distance - 2 * inner.reduce((sum, value) => sum + Math.sqrt(Math.max(value, 0)), 0);
  }

  /** The distance that `count` samples of `size` features from one distribution show on average, to first order. */
  const expected = (size, count) => (2 * size) / count + (size * (size + 1)) / (2 * (count - 1));

  /** One draw: the distance of two sets of a standard normal, the second shifted by `shift` in its first feature. */
  function drawn(size, count, shift, next) {
    const set = (by) => Array.from({ length: count }, () => Float64Array.from({ length: size }, (_, i) => next() + (i ? 0 : by)));
    return frechet(set(0), set(shift));
  }

  /** The line of least squares through points: its value at 0, and its slope. */
  function fit(points) {
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    const [x, y] = [mean(points.map(([a]) => a)), mean(points.map(([, b]) => b))];
    const slope = mean(points.map(([a, b]) => (a - x) * (b - y))) / mean(points.map(([a]) => (a - x) ** 2));
    return { at0: y - slope * x, slope };
  }

  return { frechet, expected, drawn, fit, eigenvalues };
})();

play.register("bias", async (box, measured) => {
  await Promise.all([play.load("play/plot.js"), play.load("play/random.js")]);
  const { expected, drawn, fit } = play.bias;
  const { chart, legend, slider, choice, button, says, controls, number, fixed, make } = play.plot;
  box.setAttribute("aria-label", "The Fréchet distance by the number of samples");

  const COUNTS = [100, 200, 400, 800, 1600];
  const next = play.makeRandom(1).normal;
  const part = (value) => (value ? `1/${Math.round(1 / value)}` : "0");
  let dots = [];
  const again = () => {
    dots = [];
    draw();
  };
  const source = choice("Two sets of", [["digits", "real digits"], ["normal", "numbers from a normal distribution"]], again);
  const size = slider({ label: "features", min: 0, max: 5, step: 1, value: 3, of: (power) => 2 ** power, show: String }, again);
  const shift = slider({ label: "true distance", min: 0, max: 1, step: 0.05, value: 0, show: fixed }, again);
  const more = button("Draw both sets", () => {
    for (const count of COUNTS) dots.push([1 / count, drawn(size.value, count, Math.sqrt(shift.value), next)]);
    draw();
  });
  const plot = chart({ height: 260 });
  const words = says();
  const names = make("div");
  const own = controls(size, shift, more);

  function draw() {
    const digits = source.value === "digits";
    own.hidden = digits;
    own.style.display = digits ? "none" : "";
    const shown = digits ? COUNTS.flatMap((count) => measured[count].map((value) => [1 / count, value])) : dots;
    const truth = digits ? 0 : shift.value;
    const theory = COUNTS.map((count) => [1 / count, truth + expected(size.value, count)]);
    const highest = Math.max(...shown.map(([, value]) => value), digits ? 0 : theory[0][1]) * 1.08;
    const marks = [];
    if (!digits) marks.push({ rule: truth, across: "y" }, { line: [[0, truth], ...[...theory].reverse()], color: "fake", dash: "6 3" });
    const { at0: end, slope } = shown.length ? fit(shown) : { at0: null };
    const line = end === null ? null : [[0, end], [1 / COUNTS[0], end + slope / COUNTS[0]]];
    if (line) marks.push({ line, color: "real", width: 1.5 });
    marks.push({ dots: shown, color: "real", r: 3.5, opacity: 0.75 });
    if (line) marks.push({ dots: [line[0]], color: "real", r: 6, hollow: true });
    plot.draw({
      x: { min: -0.0003, max: 0.0104, title: "1 / number of samples", ticks: [0, 1 / 400, 1 / 200, 1 / 100], format: part },
      y: { min: Math.min(0, end || 0) - 0.06 * highest, max: highest, title: "Fréchet distance" },
      label: `${shown.length} distances against one over the number of samples${end === null ? "" : `, on a line that ends at ${number(end, 2)}`}.`,
      marks,
    });
    const entries = line ? [["real", "line through the measured dots"]] : [];
    if (!digits) entries.push(["fake", "on average", "6 3"], ["grey", "true distance", "3 3"]);
    names.replaceChildren(legend(entries));
    const first = digits ? "" : `With ${size.value} features, 100 samples add ${number(expected(size.value, 100), 2)} on average. `;
    words.text = `${first}${end === null ? "Draw some sets." : `The line through the dots ends at ${number(end, 2)} (ring).`}`;
  }

  box.append(controls(source), own, names, plot.element, words.element);
  draw();
});
