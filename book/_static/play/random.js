// The random numbers of the figures, the same for the same seed. Load it before use: `await play.load("play/random.js")`.
globalThis.play ||= {};

/** Random numbers from a seed (the generator sfc32). Each stream of a seed has its own sequence. */
play.makeRandom = (seed, stream = 0) => {
  let a = seed | 0;
  let b = stream | 0;
  let c = 0x9e3779b9 | 0;
  let count = 1;
  let spare = NaN;

  function integer() {
    const sum = (((a + b) | 0) + count) | 0;
    count = (count + 1) | 0;
    a = b ^ (b >>> 9);
    b = (c + (c << 3)) | 0;
    c = (((c << 21) | (c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }
  for (let i = 0; i < 20; i++) integer(); // the first numbers of similar seeds are alike

  /** A number from 0 to 1, without the 1. */
  const uniform = () => integer() / 2 ** 32;
  /** A whole number from 0 to n - 1. */
  const below = (n) => Math.floor(uniform() * n);
  /** A standard normal number, by the method of Box and Muller, which makes two at a time. */
  function normal() {
    if (!Number.isNaN(spare)) {
      const second = spare;
      spare = NaN;
      return second;
    }
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }
  return { uniform, below, normal };
};
